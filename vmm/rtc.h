/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_RTC_H
#define SPINDLE_VMM_RTC_H
/*
 * The clock a PC has at ports 0x70 and 0x71 (MC146818): UTC of the host, read only, no interrupts.
 */
#include "vmm/pio.h"

struct vmm_rtc;

int vmm_rtc_new(struct vmm_rtc **ret_rtc);
void vmm_rtc_free(struct vmm_rtc *rtc);
/* The device for vmm_pio_claim(pio, VMM_PORT_RTC, 2, &vmm_rtc_ports, rtc). Any thread. */
extern const struct vmm_pio_ops vmm_rtc_ports;

#endif
