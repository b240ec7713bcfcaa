/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A 16550A without baud rate: a byte written has left at once, so the transmitter is always empty and its interrupt
 * pends again after every byte. Modem lines never change.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/seed.h"
#include "vmm/serial.h"

enum { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR };

#define IER_RX	   0x01u
#define IER_THRE   0x02u
#define IER_LINE   0x04u
#define IER_ALL	   0x0fu

#define IIR_NONE   0x01u
#define IIR_THRE   0x02u
#define IIR_RX	   0x04u
#define IIR_LINE   0x06u
#define IIR_TIMEOUT 0x0cu		/* fewer bytes than the trigger level, and no more to come soon */
#define IIR_FIFOS  0xc0u

#define FCR_ENABLE 0x01u
#define FCR_CLEAR_RX 0x02u

#define LCR_DLAB   0x80u

#define MCR_DTR	   0x01u
#define MCR_RTS	   0x02u
#define MCR_OUT1   0x04u
#define MCR_OUT2   0x08u
#define MCR_LOOP   0x10u
#define MCR_ALL	   0x1fu

#define LSR_DATA   0x01u
#define LSR_OVERRUN 0x02u
#define LSR_EMPTY  0x60u		/* holding and shift register */

#define MSR_CTS	   0x10u
#define MSR_DSR	   0x20u
#define MSR_RI	   0x40u
#define MSR_DCD	   0x80u

#define FIFO 16u

struct vmm_serial {
	const struct vmm_serial_ops *ops;
	void *ctx;
	pthread_mutex_t lock;		/* over all that follows */
	uint8_t ier, fcr, lcr, mcr, scr, divisor[2];
	bool thre_pending, overrun;
	bool line;			/* the interrupt, as last told */
	bool starved;			/* somebody saw no room and waits for ->drained */
	uint8_t fifo[FIFO];
	unsigned first, count;
};

/* ---- interrupts ------------------------------------------------------------------------------------ */

static unsigned trigger_level(const struct vmm_serial *s)
{
	static const uint8_t level[4] = { 1, 4, 8, 14 };

	return s->fcr & FCR_ENABLE ? level[s->fcr >> 6] : 1;
}

/* The most urgent cause; no waiting for a timeout, as nobody gains from a late byte. */
static uint8_t cause(const struct vmm_serial *s)
{
	if ((s->ier & IER_LINE) && s->overrun)
		return IIR_LINE;
	if ((s->ier & IER_RX) && s->count)
		return s->count >= trigger_level(s) ? IIR_RX : IIR_TIMEOUT;
	if ((s->ier & IER_THRE) && s->thre_pending)
		return IIR_THRE;
	return IIR_NONE;
}

static void update_irq(struct vmm_serial *s)
{
	bool level = cause(s) != IIR_NONE;

	if (level != s->line) {
		s->line = level;
		s->ops->irq(s->ctx, level);
	}
}

/* ---- input ----------------------------------------------------------------------------------------- */

static unsigned room(const struct vmm_serial *s)
{
	unsigned depth = s->fcr & FCR_ENABLE ? FIFO : 1;

	return s->count < depth ? depth - s->count : 0;
}

/* While looped back the guest talks to itself. */
static unsigned outside_room(const struct vmm_serial *s)
{
	return s->mcr & MCR_LOOP ? 0 : room(s);
}

static void push(struct vmm_serial *s, uint8_t byte)
{
	if (room(s) == 0) {
		s->overrun = true;
		return;
	}
	s->fifo[(s->first + s->count) % FIFO] = byte;
	s->count++;
}

static uint8_t pop(struct vmm_serial *s)
{
	uint8_t byte = s->fifo[s->first];

	if (s->count == 0)
		return 0;
	s->first = (s->first + 1) % FIFO;
	s->count--;
	return byte;
}

static void tell_drained(struct vmm_serial *s)
{
	if (s->starved && outside_room(s) > 0) {
		s->starved = false;
		if (s->ops->drained)
			s->ops->drained(s->ctx);
	}
}

size_t vmm_serial_room(struct vmm_serial *s)
{
	size_t n;

	pthread_mutex_lock(&s->lock);
	n = outside_room(s);
	s->starved = n == 0;
	pthread_mutex_unlock(&s->lock);
	return n;
}

size_t vmm_serial_input(struct vmm_serial *s, const uint8_t *bytes, size_t len)
{
	size_t n;

	pthread_mutex_lock(&s->lock);
	n = (size_t)sp_min(len, outside_room(s));
	for (size_t i = 0; i < n; i++)
		push(s, bytes[i]);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
	return n;
}

/* ---- registers ------------------------------------------------------------------------------------- */

static uint8_t read_iir(struct vmm_serial *s)
{
	uint8_t c = cause(s);

	if (c == IIR_THRE)		/* told, so done */
		s->thre_pending = false;
	return c | (s->fcr & FCR_ENABLE ? IIR_FIFOS : 0);
}

static uint8_t read_lsr(struct vmm_serial *s)
{
	uint8_t v = LSR_EMPTY | (s->count ? LSR_DATA : 0) | (s->overrun ? LSR_OVERRUN : 0);

	s->overrun = false;
	return v;
}

static uint8_t read_msr(const struct vmm_serial *s)
{
	if (!(s->mcr & MCR_LOOP))
		return MSR_CTS | MSR_DSR | MSR_DCD;
	return (s->mcr & MCR_RTS ? MSR_CTS : 0) | (s->mcr & MCR_DTR ? MSR_DSR : 0) | (s->mcr & MCR_OUT1 ? MSR_RI : 0) |
	       (s->mcr & MCR_OUT2 ? MSR_DCD : 0);
}

static uint8_t read_locked(struct vmm_serial *s, unsigned reg)
{
	if (reg <= REG_IER && (s->lcr & LCR_DLAB))
		return s->divisor[reg];
	switch (reg) {
	case REG_DATA:	  return pop(s);
	case REG_IER:	  return s->ier;
	case REG_IIR_FCR: return read_iir(s);
	case REG_LCR:	  return s->lcr;
	case REG_MCR:	  return s->mcr;
	case REG_LSR:	  return read_lsr(s);
	case REG_MSR:	  return read_msr(s);
	default:	  return s->scr;
	}
}

static uint32_t serial_read(void *device, uint16_t port, unsigned size)
{
	struct vmm_serial *s = device;
	uint8_t value;

	if (size != 1)
		return UINT32_MAX;
	pthread_mutex_lock(&s->lock);
	value = read_locked(s, port & 7);
	tell_drained(s);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
	return value;
}

static void write_data(struct vmm_serial *s, uint8_t byte)
{
	if (s->mcr & MCR_LOOP)
		push(s, byte);
	else
		s->ops->output(s->ctx, byte);
	s->thre_pending = true;
}

static void write_ier(struct vmm_serial *s, uint8_t value)
{
	/* Asked for while empty already: pends at once. Linux tests for exactly this, and takes to a timer without. */
	if ((value & IER_THRE) && !(s->ier & IER_THRE) && !SP_SEED_BUG(SERIAL_THRE_ONCE))
		s->thre_pending = true;
	s->ier = value & IER_ALL;
}

static void write_fcr(struct vmm_serial *s, uint8_t value)
{
	if ((value & FCR_CLEAR_RX) || ((value ^ s->fcr) & FCR_ENABLE))
		s->count = 0;
	s->fcr = value & FCR_ENABLE ? value : 0;
}

static void write_locked(struct vmm_serial *s, unsigned reg, uint8_t value)
{
	if (reg <= REG_IER && (s->lcr & LCR_DLAB)) {
		s->divisor[reg] = value;
		return;
	}
	switch (reg) {
	case REG_DATA:	  write_data(s, value); break;
	case REG_IER:	  write_ier(s, value); break;
	case REG_IIR_FCR: write_fcr(s, value); break;
	case REG_LCR:	  s->lcr = value; break;
	case REG_MCR:	  s->mcr = value & MCR_ALL; break;
	case REG_SCR:	  s->scr = value; break;
	default:	  break;	/* LSR and MSR are read only */
	}
}

static void serial_write(void *device, uint16_t port, unsigned size, uint32_t value)
{
	struct vmm_serial *s = device;

	if (size != 1)
		return;
	pthread_mutex_lock(&s->lock);
	write_locked(s, port & 7, (uint8_t)value);
	tell_drained(s);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
}

const struct vmm_pio_ops vmm_serial_ports = { serial_read, serial_write };

/* ---- life ------------------------------------------------------------------------------------------ */

static void power_on(struct vmm_serial *s)
{
	s->ier = s->fcr = s->lcr = s->mcr = s->scr = 0;
	s->divisor[0] = 12;		/* 9600 baud, as a PC's firmware leaves it */
	s->divisor[1] = 0;
	s->thre_pending = s->overrun = false;
	s->first = s->count = 0;
}

int vmm_serial_new(const struct vmm_serial_ops *ops, void *ctx, struct vmm_serial **ret_serial)
{
	struct vmm_serial *s = sp_zalloc(sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->ops = ops;
	s->ctx = ctx;
	pthread_mutex_init(&s->lock, NULL);
	power_on(s);
	*ret_serial = s;
	return 0;
}

void vmm_serial_free(struct vmm_serial *s)
{
	if (!s)
		return;
	pthread_mutex_destroy(&s->lock);
	sp_free(s);
}

void vmm_serial_reset(struct vmm_serial *s)
{
	pthread_mutex_lock(&s->lock);
	power_on(s);
	tell_drained(s);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
}
