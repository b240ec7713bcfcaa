/* SPDX-License-Identifier: BSD-2-Clause */
#include "vmm/rtc.h"

#include <errno.h>
#include <stdatomic.h>
#include <time.h>

#include "base/alloc.h"
#include "base/env.h"
#include "base/seed.h"

enum { REG_SECONDS = 0, REG_MINUTES = 2, REG_HOURS = 4, REG_WEEKDAY = 6, REG_DAY = 7, REG_MONTH = 8, REG_YEAR = 9,
       REG_A = 0x0a, REG_B = 0x0b, REG_D = 0x0d, REG_CENTURY = 0x32 };

#define A_DIVIDER 0x26u		/* 32 kHz crystal; bit 7, update in progress, never set: the time is always whole */
#define B_24H	  0x02u		/* and BCD, as bit 2 is clear */
#define D_VALID	  0x80u

struct vmm_rtc {
	atomic_uchar index;	/* a guest whose processors race for it gets what it would get from a real one */
};

int vmm_rtc_new(struct vmm_rtc **ret_rtc)
{
	/* The first gmtime_r() of a process opens the time zone's file, which the jail forbids. */
	tzset();
	*ret_rtc = sp_zalloc(sizeof(**ret_rtc));
	return *ret_rtc ? 0 : -ENOMEM;
}

void vmm_rtc_free(struct vmm_rtc *rtc)
{
	sp_free(rtc);
}

static uint32_t bcd(int value)
{
	return SP_SEED_BUG(RTC_BINARY) ? (uint32_t)value : (uint32_t)(value / 10 % 10 << 4 | value % 10);
}

static uint32_t read_time(unsigned reg)
{
	time_t now = (time_t)sp_env_time();
	struct tm tm;

	if (!gmtime_r(&now, &tm))
		return 0;
	switch (reg) {
	case REG_SECONDS: return bcd(tm.tm_sec);
	case REG_MINUTES: return bcd(tm.tm_min);
	case REG_HOURS:	  return bcd(tm.tm_hour);
	case REG_WEEKDAY: return bcd(tm.tm_wday + 1);
	case REG_DAY:	  return bcd(tm.tm_mday);
	case REG_MONTH:	  return bcd(tm.tm_mon + 1);
	case REG_YEAR:	  return bcd(tm.tm_year % 100);
	case REG_CENTURY: return bcd((tm.tm_year + 1900) / 100);
	default:	  return 0;	/* alarm and RAM: never set */
	}
}

static uint32_t rtc_read(void *device, uint16_t port, unsigned size)
{
	struct vmm_rtc *rtc = device;
	unsigned reg = atomic_load(&rtc->index);

	if (port == 0 || size != 1)
		return UINT32_MAX;
	switch (reg) {
	case REG_A: return A_DIVIDER;
	case REG_B: return B_24H;
	case REG_D: return D_VALID;
	default:    return read_time(reg);
	}
}

/* Setting the clock is ignored: it is the host's. */
static void rtc_write(void *device, uint16_t port, unsigned size, uint32_t value)
{
	struct vmm_rtc *rtc = device;

	if (port == 0 && size == 1)
		atomic_store(&rtc->index, (unsigned char)(value & 0x7f));	/* bit 7 masks the NMI */
}

const struct vmm_pio_ops vmm_rtc_ports = { rtc_read, rtc_write };
