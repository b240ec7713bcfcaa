/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Bytes between a console and its other end. Processors only put output into a ring and ring a bell; the loop's thread
 * does everything with descriptors:
 *
 *	vCPU ── output() ──> ring ── bell ──> loop: write, and when that would wait, again on EPOLLOUT
 *	loop: read on EPOLLIN as much as there is room for; with no room, stop watching until the bell
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/seed.h"
#include "vmm/serial_backend_int.h"

#define RING 65536u			/* power of two */
#define CHUNK 4096u			/* a pipe that is writable takes this much */
#define CTRL_A 0x01

struct vmm_serial_backend {
	struct vmm_loop *loop;
	const struct vmm_serial_backend_ops *ops;
	void *ctx;
	struct serial_ends ends;
	int bell;			/* eventfd */
	struct vmm_watch *bell_watch, *in_watch, *out_watch, *listen_watch;
	bool in_plain;			/* a file: always readable, nothing to watch */
	bool escaping;			/* Ctrl-A was the last key */

	pthread_mutex_t lock;		/* over the rest */
	uint64_t head, tail;		/* bytes ever taken out of the ring, put into it */
	uint64_t dropped;
	uint8_t ring[RING];
};

/* ---- output ---------------------------------------------------------------------------------------- */

void vmm_serial_backend_kick(struct vmm_serial_backend *b)
{
	uint64_t one = 1;

	/* Fails only when the counter is full, and then the bell rings already. */
	if (write(b->bell, &one, sizeof(one)) < 0)
		return;
}

void vmm_serial_backend_output(struct vmm_serial_backend *b, const uint8_t *bytes, size_t len)
{
	bool was_empty;

	pthread_mutex_lock(&b->lock);
	was_empty = b->head == b->tail;
	for (size_t i = 0; i < len; i++)
		b->ring[b->tail++ % RING] = bytes[i];
	if (b->tail - b->head > RING) {
		b->dropped += b->tail - b->head - RING;
		b->head = b->tail - RING;
	}
	pthread_mutex_unlock(&b->lock);
	if (was_empty && len)
		vmm_serial_backend_kick(b);
}

/* A copy of the oldest bytes; they stay until taken(), unless newer ones push them out. */
static size_t peek(struct vmm_serial_backend *b, uint8_t buf[static CHUNK], uint64_t *ret_at)
{
	size_t n, at;

	pthread_mutex_lock(&b->lock);
	*ret_at = b->head;
	at = b->head % RING;
	n = (size_t)sp_min(sp_min(b->tail - b->head, RING - at), CHUNK);
	memcpy(buf, b->ring + at, n);
	pthread_mutex_unlock(&b->lock);
	return n;
}

static void taken(struct vmm_serial_backend *b, uint64_t at, size_t n)
{
	pthread_mutex_lock(&b->lock);
	/* Pushed out while they were on their way: they have come through after all. */
	if (b->head > at)
		b->dropped -= sp_min(b->head, at + n) - at;
	b->head = sp_max(b->head, at + n);
	pthread_mutex_unlock(&b->lock);
}

static ssize_t put(int fd, const uint8_t *bytes, size_t len)
{
	ssize_t n = send(fd, bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL);

	return n < 0 && errno == ENOTSOCK ? write(fd, bytes, len) : n;
}

static void out_ready(void *ctx, uint32_t events);

static void drop_out(struct vmm_serial_backend *b)
{
	vmm_loop_remove(b->out_watch);
	b->out_watch = NULL;
	if (b->ends.out >= 0)
		close(b->ends.out);
	b->ends.out = -1;
}

static void drop_in(struct vmm_serial_backend *b)
{
	vmm_loop_remove(b->in_watch);
	b->in_watch = NULL;
	if (b->ends.in >= 0)
		close(b->ends.in);
	b->ends.in = -1;
}

/* With a listener both directions are one client, which is gone now. */
static void hang_up(struct vmm_serial_backend *b, void (*direction)(struct vmm_serial_backend *b))
{
	direction(b);
	if (b->ends.listener >= 0) {
		drop_in(b);
		drop_out(b);
	}
}

/* One write. False: nothing left, or nothing possible for now. */
static bool pump_out_once(struct vmm_serial_backend *b)
{
	uint8_t buf[CHUNK];
	uint64_t at;
	size_t n = peek(b, buf, &at);
	ssize_t done;

	if (n == 0) {
		vmm_loop_remove(b->out_watch);
		b->out_watch = NULL;
		return false;
	}
	done = put(b->ends.out, buf, n);
	if (done > 0) {
		taken(b, at, (size_t)done);
		return true;
	}
	if (done < 0 && errno == EINTR)
		return true;
	if (done < 0 && errno == EAGAIN) {
		if (!b->out_watch)
			vmm_loop_add(b->loop, b->ends.out, EPOLLOUT, out_ready, b, &b->out_watch);
		return false;
	}
	hang_up(b, drop_out);
	return false;
}

/* A ring's worth, then the loop sees to others first: a guest may write as fast as we do. */
static void pump_out(struct vmm_serial_backend *b)
{
	for (unsigned i = 0; i < RING / CHUNK; i++)
		if (b->ends.out < 0 || !pump_out_once(b))
			return;
	vmm_serial_backend_kick(b);
}

static void out_ready(void *ctx, uint32_t events)
{
	pump_out(ctx);
}

uint64_t vmm_serial_backend_dropped(struct vmm_serial_backend *b)
{
	uint64_t n;

	pthread_mutex_lock(&b->lock);
	n = b->dropped;
	pthread_mutex_unlock(&b->lock);
	return n;
}

/* ---- input ----------------------------------------------------------------------------------------- */

/* Ctrl-A takes the next key away from the guest; twice, it stands for itself. Returns how many bytes remain. */
static size_t take_escapes(struct vmm_serial_backend *b, uint8_t *bytes, size_t len)
{
	size_t kept = 0;

	if (!b->ends.escape || !b->ops->escape)
		return len;
	for (size_t i = 0; i < len; i++) {
		if (!b->escaping && bytes[i] == CTRL_A) {
			b->escaping = true;
			continue;
		}
		if (b->escaping && bytes[i] != CTRL_A)
			b->ops->escape(b->ctx, (char)bytes[i]);
		else
			bytes[kept++] = bytes[i];
		b->escaping = false;
	}
	return kept;
}

/* One read. False: no more for now. */
static bool pump_in_once(struct vmm_serial_backend *b)
{
	uint8_t buf[64];
	size_t room = b->ops->room(b->ctx);
	ssize_t n;

	if (room == 0) {
		vmm_loop_remove(b->in_watch);	/* not just masked: a hang-up would be reported on and on */
		b->in_watch = NULL;
		return false;
	}
	n = read(b->ends.in, buf, sp_min(room, sizeof(buf)));
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0) {
		hang_up(b, drop_in);
		return false;
	}
	n = (ssize_t)take_escapes(b, buf, (size_t)n);
	if (n > 0)
		b->ops->input(b->ctx, buf, (size_t)n);
	return true;
}

static void in_ready(void *ctx, uint32_t events)
{
	pump_in_once(ctx);
}

/* Watches for input again, or, where nothing can be watched, takes what there is. */
static void resume_in(struct vmm_serial_backend *b)
{
	if (b->ends.in < 0 || b->in_watch)
		return;
	if (!b->in_plain && b->ops->room(b->ctx) > 0)
		b->in_plain = vmm_loop_add(b->loop, b->ends.in, EPOLLIN, in_ready, b, &b->in_watch) == -EPERM;
	while (b->in_plain && b->ends.in >= 0 && pump_in_once(b))
		;
}

/* ---- clients and the bell -------------------------------------------------------------------------- */

static void welcome(struct vmm_serial_backend *b, int fd)
{
	int second = fcntl(fd, F_DUPFD_CLOEXEC, 3);

	if (b->ends.in >= 0 || second < 0) {	/* one at a time: two keyboards on one console help nobody */
		if (second >= 0)
			close(second);
		close(fd);
		return;
	}
	b->ends.in = fd;
	b->ends.out = second;
	pump_out(b);
	resume_in(b);
}

static void listener_ready(void *ctx, uint32_t events)
{
	struct vmm_serial_backend *b = ctx;
	int fd = accept4(b->ends.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd >= 0)
		welcome(b, fd);
}

static void bell_ready(void *ctx, uint32_t events)
{
	struct vmm_serial_backend *b = ctx;
	uint64_t count;

	if (read(b->bell, &count, sizeof(count)) < 0)	/* before looking: what comes after it rings again */
		return;
	pump_out(b);
	resume_in(b);
}

/* ---- life ------------------------------------------------------------------------------------------ */

static int start(struct vmm_serial_backend *b)
{
	int r;

	b->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (b->bell < 0)
		return -errno;
	r = vmm_loop_add(b->loop, b->bell, EPOLLIN, bell_ready, b, &b->bell_watch);
	if (r == 0 && b->ends.listener >= 0)
		r = vmm_loop_add(b->loop, b->ends.listener, EPOLLIN, listener_ready, b, &b->listen_watch);
	if (r == 0)
		vmm_serial_backend_kick(b);	/* begins to read once the loop runs */
	return r;
}

int vmm_serial_backend_new(struct vmm_loop *loop, const char *spec, const struct vmm_serial_backend_ops *ops, void *ctx,
			   struct vmm_serial_backend **ret_backend, struct sp_err *err)
{
	struct vmm_serial_backend *b = sp_zalloc(sizeof(*b));
	int r;

	if (!b)
		return sp_err_set(err, -ENOMEM, "console %s: out of memory", spec);
	b->loop = loop;
	b->ops = ops;
	b->ctx = ctx;
	b->bell = -1;
	r = serial_ends_open(spec, &b->ends, err);
	if (r < 0) {
		sp_free(b);
		return r;
	}
	pthread_mutex_init(&b->lock, NULL);
	r = start(b);
	if (r < 0) {
		vmm_serial_backend_free(b);
		return sp_err_set(err, r, "console %s: %s", spec, strerror(-r));
	}
	*ret_backend = b;
	return 0;
}

void vmm_serial_backend_free(struct vmm_serial_backend *b)
{
	if (!b)
		return;
	pump_out(b);			/* the guest's last words */
	vmm_loop_remove(b->bell_watch);
	vmm_loop_remove(b->listen_watch);
	drop_in(b);
	drop_out(b);
	if (b->bell >= 0)
		close(b->bell);
	serial_ends_close(&b->ends);
	pthread_mutex_destroy(&b->lock);
	sp_free(b);
}

const char *vmm_serial_backend_name(const struct vmm_serial_backend *b)
{
	return b->ends.name;
}
