/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VHD_STORE_INT_H
#define SPINDLE_VHD_STORE_INT_H
/*
 * What the files of the store room share with each other and with nobody else.
 */
#include <sys/stat.h>
#include <sys/types.h>

#include "vhd/store.h"

/* The largest offset a file may have (off_t). */
#define STORE_OFFSET_MAX ((uint64_t)INT64_MAX)

/* Sum of @iov, or UINT64_MAX when it would pass STORE_OFFSET_MAX. */
uint64_t store_iov_len(const struct iovec *iov, int iovcnt);
/* Drops @done bytes from the front of an array the caller may change. */
void store_iov_advance(struct iovec **iov, int *iovcnt, size_t done);

/* store_lock.c: locks go with the open file description. 0, or -EBUSY with a text naming the holder. */
int store_lock_take(int fd, bool writer, const char *name, struct sp_err *err);
void store_lock_drop(int fd);

/* store_device.c: block devices. */
int store_device_size(int fd, uint64_t *ret_size);
int store_device_zero(int fd, uint64_t offset, uint64_t len);
/* 0 when neither mounted nor held by another device; else -EBUSY with the holder's name in @err. */
int store_device_is_free(dev_t rdev, const char *name, struct sp_err *err);

/* store_file.c: is this something we open at all? Refused before an open() that might block or have effects. */
int store_file_kind_ok(mode_t mode, unsigned flags, const char *name, struct sp_err *err);
/* open() flags for STORE_* flags. */
int store_file_open_flags(unsigned flags);

#endif
