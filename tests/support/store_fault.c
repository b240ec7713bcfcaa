/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/support/store_fault.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct store_fault {
	struct store base;
	struct store *inner;
	struct fault_plan *plan;
};

struct folder_fault {
	struct store_folder base;
	struct store_folder *inner;
	struct fault_plan *plan;
};

void fault_plan_set(struct fault_plan *plan, unsigned classes, uint64_t k, int error, bool sticky, bool halves)
{
	plan->classes = classes;
	plan->k = k;
	plan->error = error;
	plan->sticky = sticky;
	plan->halves = halves;
	atomic_store(&plan->counter, 0);
	atomic_store(&plan->hits, 0);
	atomic_store(&plan->hit_classes, 0);
	atomic_store(&plan->enabled, true);
}

static _Thread_local unsigned inside;

#define INNER(call)                       \
	({                                \
		inside++;                 \
		__auto_type inner_r = (call); \
		inside--;                 \
		inner_r;                  \
	})

bool fault_inside_store(void)
{
	return inside > 0;
}

/* 0: go on. */
static int ask(struct fault_plan *plan, unsigned class)
{
	uint64_t n;

	if (!atomic_load(&plan->enabled) || !(plan->classes & class))
		return 0;
	n = atomic_fetch_add(&plan->counter, 1) + 1;
	if (plan->k == 0 || (n != plan->k && !(plan->sticky && n > plan->k)))
		return 0;
	atomic_fetch_add(&plan->hits, 1);
	atomic_fetch_or(&plan->hit_classes, class);
	return plan->error;
}

static struct store *inner_of(struct store *s)
{
	return ((struct store_fault *)s)->inner;
}

static struct fault_plan *plan_of(struct store *s)
{
	return ((struct store_fault *)s)->plan;
}

/* The first half of all bytes, in pieces. */
static void do_half(struct store *s, bool writes, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	uint64_t half = 0;

	for (int i = 0; i < iovcnt; i++)
		half += iov[i].iov_len;
	half /= 2;
	for (int i = 0; i < iovcnt && half > 0; i++) {
		size_t n = iov[i].iov_len < half ? iov[i].iov_len : half;

		if (writes)
			INNER(store_write(inner_of(s), iov[i].iov_base, n, offset));
		else
			INNER(store_read(inner_of(s), iov[i].iov_base, n, offset));
		offset += n;
		half -= n;
	}
}

static int fault_readv(struct store *s, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	int r = ask(plan_of(s), FAULT_READ);

	if (r < 0 && plan_of(s)->halves)
		do_half(s, false, iov, iovcnt, offset);
	return r < 0 ? r : INNER(store_readv(inner_of(s), iov, iovcnt, offset));
}

static int fault_writev(struct store *s, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	int r = ask(plan_of(s), FAULT_WRITE);

	if (r < 0 && plan_of(s)->halves)
		do_half(s, true, iov, iovcnt, offset);
	return r < 0 ? r : INNER(store_writev(inner_of(s), iov, iovcnt, offset));
}

static int fault_sync(struct store *s)
{
	int r = ask(plan_of(s), FAULT_SYNC);

	return r < 0 ? r : INNER(store_sync(inner_of(s)));
}

static int fault_punch(struct store *s, uint64_t offset, uint64_t len)
{
	int r = ask(plan_of(s), FAULT_PUNCH);

	return r < 0 ? r : INNER(store_punch(inner_of(s), offset, len));
}

static int fault_zero(struct store *s, uint64_t offset, uint64_t len)
{
	int r = ask(plan_of(s), FAULT_ZERO);

	return r < 0 ? r : INNER(store_zero(inner_of(s), offset, len));
}

static int fault_resize(struct store *s, uint64_t size)
{
	uint64_t present = 0;
	int r;

	/* No disk is too full to give something back. */
	if (plan_of(s)->error == -ENOSPC && INNER(store_size(inner_of(s), &present)) == 0 && size <= present)
		return INNER(store_resize(inner_of(s), size));
	r = ask(plan_of(s), FAULT_RESIZE);
	return r < 0 ? r : INNER(store_resize(inner_of(s), size));
}

static int fault_seek(struct store *s, uint64_t offset, bool hole, uint64_t *ret_offset)
{
	return INNER(hole ? store_seek_hole(inner_of(s), offset, ret_offset) :
			    store_seek_data(inner_of(s), offset, ret_offset));
}

static int fault_size(struct store *s, uint64_t *ret_size)
{
	return INNER(store_size(inner_of(s), ret_size));
}

static int fault_mtime(struct store *s, int64_t *ret_unix_seconds)
{
	return INNER(store_mtime(inner_of(s), ret_unix_seconds));
}

static int fault_stamp(struct store *s, struct store_stamp *ret)
{
	return INNER(store_stamp(inner_of(s), ret));
}

static int fault_fd(struct store *s)
{
	return -1;
}

static void fault_close(struct store *s)
{
	store_close(inner_of(s));
	free(s->name);
	free(s);
}

static const struct store_ops fault_ops = {
	.name = "fault", .readv = fault_readv, .writev = fault_writev, .sync = fault_sync, .punch = fault_punch,
	.zero = fault_zero, .resize = fault_resize, .seek = fault_seek, .size = fault_size, .mtime = fault_mtime,
	.stamp = fault_stamp, .fd = fault_fd, .close = fault_close,
};

int store_fault_new(struct store *inner, struct fault_plan *plan, struct store **ret_store)
{
	struct store_fault *f = calloc(1, sizeof(*f));

	if (!f)
		abort();
	f->base = *inner;
	f->base.ops = &fault_ops;
	f->base.name = strdup(inner->name);
	f->inner = inner;
	f->plan = plan;
	*ret_store = &f->base;
	return 0;
}

/* ---- folders -------------------------------------------------------------------------------------- */

static struct folder_fault *folder_of(struct store_folder *f)
{
	return (struct folder_fault *)f;
}

static int folder_open(struct store_folder *f, const char *name, unsigned flags, struct store **ret, struct sp_err *err)
{
	struct folder_fault *ff = folder_of(f);
	struct store *inner;
	int r = ask(ff->plan, FAULT_OPEN);

	if (r < 0)
		return sp_err_set(err, r, "%s: injected: %s", name, strerror(-r));
	r = INNER(store_folder_open(ff->inner, name, flags, &inner, err));
	return r < 0 ? r : store_fault_new(inner, ff->plan, ret);
}

static int folder_rename(struct store_folder *f, const char *from, const char *to, bool replace)
{
	int r = ask(folder_of(f)->plan, FAULT_NAMES);

	return r < 0 ? r : INNER(store_folder_rename(folder_of(f)->inner, from, to, replace));
}

static int folder_link(struct store_folder *f, const char *from, const char *to)
{
	int r = ask(folder_of(f)->plan, FAULT_NAMES);

	return r < 0 ? r : INNER(store_folder_link(folder_of(f)->inner, from, to));
}

static int folder_unlink(struct store_folder *f, const char *name)
{
	int r = ask(folder_of(f)->plan, FAULT_NAMES);

	return r < 0 ? r : INNER(store_folder_unlink(folder_of(f)->inner, name));
}

static int folder_sync(struct store_folder *f, const char *name)
{
	int r = ask(folder_of(f)->plan, FAULT_NAMES);

	return r < 0 ? r : INNER(store_folder_sync(folder_of(f)->inner, name));
}

static void folder_close(struct store_folder *f)
{
	store_folder_close(folder_of(f)->inner);
	free(f->path);
	free(f);
}

static const struct store_folder_ops folder_ops = {
	.open = folder_open, .rename = folder_rename, .link = folder_link, .unlink = folder_unlink, .sync = folder_sync,
	.close = folder_close,
};

int store_folder_fault_new(struct store_folder *inner, struct fault_plan *plan, struct store_folder **ret_folder)
{
	struct folder_fault *f = calloc(1, sizeof(*f));

	if (!f)
		abort();
	f->base.ops = &folder_ops;
	f->base.path = strdup(inner->path);
	f->inner = inner;
	f->plan = plan;
	*ret_folder = &f->base;
	return 0;
}
