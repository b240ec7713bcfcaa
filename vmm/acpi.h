/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_ACPI_H
#define SPINDLE_VMM_ACPI_H
/*
 * The tables that describe the machine: hardware-reduced ACPI 6.3 without firmware.
 */
#include <stddef.h>
#include <stdint.h>

#define VMM_ACPI_CPUS_MAX 64u

#define VMM_ACPI_S5 5u			/* what the guest writes as SLP_TYP to power off */
#define VMM_ACPI_RESET_VALUE 1u

/**
 * vmm_acpi_build - RSDP, XSDT, FADT, MADT, DSDT
 * @gpa: where @buf lies in the guest, multiple of 64, below 4 GiB
 * @buf, @room: filled from the start; zero before
 * @cpus: 1 .. VMM_ACPI_CPUS_MAX; processor i has APIC id i
 * @ret_rsdp: guest address of the root
 *
 * Returns how many bytes were used, -EINVAL, or -ENOSPC.
 */
int vmm_acpi_build(uint64_t gpa, uint8_t *buf, size_t room, unsigned cpus, uint64_t *ret_rsdp);

#endif
