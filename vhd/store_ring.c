/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One thread's way to many requests at once. A request is on exactly one list at any time:
 *
 *   store_submit()
 *     |- refused, or nothing to do ------------------------------> done
 *     |- no descriptor, no io_uring,
 *     |  or better done here ------------> todo --- reap, runs --> done
 *     |- depth reached --> waiting --- room appears --.             |
 *     '- SQE --------------------------> the kernel <-'             |
 *                                        |  ^ rest of a short one   |
 *                                        v--'                       v
 *                                     store_ring_reap() ---> complete()
 *
 * Nothing here allocates or locks per request: the lists run through the requests themselves. The kernel is asked
 * to run its completion work only when we call (DEFER_TASKRUN), which spares an interrupt of this thread per
 * completion. The ring is created disabled and comes to life in the thread that first hands it something, because
 * SINGLE_ISSUER ties it to one.
 *
 * Better done here is what the kernel would only hand to a worker thread and back, at more than the price of the
 * request itself: everything in a file in memory (4 KiB on tmpfs: 2.6 us of processor time by a worker, 1.5 us here),
 * and small buffered writes where the file system takes none without waiting (ext4: 20 us, 6 us here). Such a write
 * normally goes to the page cache and returns; when one does wait, because too much is dirty, workers do the waiting
 * for a while, so that it does not hold up the reads of this thread.
 */
#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/env.h"
#include "base/log.h"
#include "base/seed.h"
#include "vhd/store.h"
#include "vhd/store_int.h"

#define DEPTH_MAX	 4096u
#define FIXED_FILES	 1024u
#define PIECE_MAX	 (1u << 30)	/* bytes of one SQE; the kernel cuts just below 2 GiB anyway */
/* Requests that callbacks queued are handed over in lots of this many: a device that has just answered everything shall
 * not idle until the last callback has run (+10 % random reads on a virtio disk, unmeasurable from the page cache). */
#define HAND_OVER_AT	 8u
/* Requests done here are done in lots of this many, one for each reap: the completions of the first lot are answered
 * and new requests come in on another processor while the next one runs. */
#define LOT		 16u
#define HERE_MAX	 (128u << 10)	/* bytes of a write: its copying shall not hold up others for long */
#define WAITED_NS	 2000000u	/* a write that took this long did not go to the page cache alone */
#define WORKERS_NS	 50000000u	/* how long workers then write */
#define ALWAYS_FLAGS	 (IORING_SETUP_CLAMP)
#define NEWER_FLAGS	 (ALWAYS_FLAGS | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_R_DISABLED | IORING_SETUP_TASKRUN_FLAG)

struct req_list {
	struct store_req *head, **tail;
	unsigned count;
};

/* By descriptor: what is registered for it. */
struct fixed {
	const struct store *store;
	int index;
};

struct store_ring {
	struct io_uring uring;
	bool is_uring, disabled, owes_kick;
	unsigned depth;
	unsigned inflight;		/* SQEs filled or in the kernel, <= depth */
	unsigned outstanding;		/* requests that have not completed, wherever they are */
	unsigned buffers;		/* registered */
	uint64_t workers_until;		/* monotonic ns: workers write till then */
	struct req_list waiting, todo, done;
	struct fixed *fixed;		/* by descriptor */
	unsigned fixed_room;
	uint64_t fixed_used[FIXED_FILES / 64];
	bool has_fixed_table;
	int event_fd;			/* -1: not armed */
	bool silent;			/* nobody polls it now */
};

/* ---- lists ---------------------------------------------------------------------------------------- */

static void list_init(struct req_list *l)
{
	l->head = NULL;
	l->tail = &l->head;
	l->count = 0;
}

static void list_push(struct req_list *l, struct store_req *req)
{
	req->next = NULL;
	*l->tail = req;
	l->tail = &req->next;
	l->count++;
}

static struct store_req *list_pop(struct req_list *l)
{
	struct store_req *req = l->head;

	if (!req)
		return NULL;
	l->head = req->next;
	if (!l->head)
		l->tail = &l->head;
	l->count--;
	return req;
}

static struct req_list list_take(struct req_list *l)
{
	struct req_list all = *l;

	if (!all.head)
		all.tail = &all.head;	/* never followed: iterated by pop only */
	list_init(l);
	return all;
}

/* ---- from request to SQE -------------------------------------------------------------------------- */

static bool moves_data(const struct store_req *req)
{
	return req->op == STORE_READ || req->op == STORE_WRITE;
}

static uint64_t bytes_left(const struct store_req *req)
{
	return req->iovcnt == 1 ? req->iov->iov_len : store_iov_len(req->iov, req->iovcnt);
}

static void prep_data(const struct store_ring *r, struct io_uring_sqe *sqe, const struct store_req *req, int fd)
{
	uint64_t offset = req->offset + (req->len - bytes_left(req));
	bool fixed = req->iovcnt == 1 && req->buf_index >= 0 && (unsigned)req->buf_index < r->buffers;
	bool reads = req->op == STORE_READ;

	if (req->iovcnt > 1) {
		io_uring_prep_rw(reads ? IORING_OP_READV : IORING_OP_WRITEV, sqe, fd, req->iov,
				 (unsigned)sp_min((uint64_t)req->iovcnt, IOV_MAX), offset);
		return;
	}
	io_uring_prep_rw(fixed ? (reads ? IORING_OP_READ_FIXED : IORING_OP_WRITE_FIXED) :
				 (reads ? IORING_OP_READ : IORING_OP_WRITE),
			 sqe, fd, req->iov->iov_base, (unsigned)sp_min(req->iov->iov_len, PIECE_MAX), offset);
	if (fixed)
		sqe->buf_index = (uint16_t)req->buf_index;
}

static void prep_op(const struct store_ring *r, struct io_uring_sqe *sqe, const struct store_req *req, int fd)
{
	switch (req->op) {
	case STORE_READ:
	case STORE_WRITE:
		prep_data(r, sqe, req, fd);
		break;
	case STORE_SYNC:
		io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
		break;
	default:
		io_uring_prep_fallocate(sqe, fd, FALLOC_FL_KEEP_SIZE | (req->op == STORE_PUNCH ?
					FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE),
					(off_t)req->offset, (off_t)req->len);
	}
}

/* To the kernel, or behind those that wait for room there. */
static void start(struct store_ring *r, struct store_req *req)
{
	struct io_uring_sqe *sqe = r->inflight < r->depth ? io_uring_get_sqe(&r->uring) : NULL;
	int fd = req->store->ops->fd(req->store);

	if (!sqe) {
		list_push(&r->waiting, req);
		return;
	}
	prep_op(r, sqe, req, fd);
	if ((unsigned)fd < r->fixed_room && r->fixed[fd].store == req->store) {
		sqe->fd = r->fixed[fd].index;
		sqe->flags |= IOSQE_FIXED_FILE;
	}
	io_uring_sqe_set_data(sqe, req);
	r->inflight++;
}

static int run_now(struct store_req *req)
{
	switch (req->op) {
	case STORE_READ:
		return store_readv(req->store, req->iov, req->iovcnt, req->offset);
	case STORE_WRITE:
		return store_writev(req->store, req->iov, req->iovcnt, req->offset);
	case STORE_SYNC:
		return store_sync(req->store);
	case STORE_PUNCH:
		return store_punch(req->store, req->offset, req->len);
	case STORE_ZERO:
		return store_zero(req->store, req->offset, req->len);
	default:
		return -EINVAL;
	}
}

/* As the synchronous calls check: 0 nothing to do, 1 go on, negative refuse. */
static int check(const struct store_req *req)
{
	if (req->op == STORE_SYNC)
		return req->store->writable;
	if (req->op > STORE_ZERO || !sp_range_ok(req->offset, req->len, STORE_OFFSET_MAX))
		return -EINVAL;
	if (req->op != STORE_READ && !req->store->writable)
		return -EROFS;
	if (moves_data(req) && bytes_left(req) != req->len)
		return -EINVAL;
	return req->len > 0;
}

/* Writes that may turn out to wait. */
static bool write_is_timed(const struct store_ring *r, const struct store_req *req)
{
	return r->is_uring && req->op == STORE_WRITE && req->store->slow_nowait;
}

static bool better_here(struct store_ring *r, const struct store_req *req)
{
	if (req->store->in_memory)
		return true;
	if (!write_is_timed(r, req) || req->len > HERE_MAX)
		return false;
	if (r->workers_until != 0 && sp_env_monotonic_ns() < r->workers_until)
		return false;
	r->workers_until = 0;
	return true;
}

static int run_timed(struct store_ring *r, struct store_req *req)
{
	uint64_t start = sp_env_monotonic_ns(), end;
	int res = run_now(req);

	end = sp_env_monotonic_ns();
	if (end - start > WAITED_NS)
		r->workers_until = end + WORKERS_NS;
	return res;
}

void store_submit(struct store_ring *r, struct store_req *req)
{
	int go = check(req);

	r->outstanding++;
	req->res = go > 0 ? 0 : go;
	if (go <= 0) {
		list_push(&r->done, req);
	} else if (!r->is_uring || req->store->ops->fd(req->store) < 0 || better_here(r, req)) {
		if (SP_SEED_BUG(RING_SYNC_EARLY) && req->op == STORE_SYNC)
			run_now(req);
		list_push(&r->todo, req);
	} else {
		start(r, req);
	}
}

/* ---- kicking -------------------------------------------------------------------------------------- */

/* liburing 2.3 declares io_uring_enable_rings() but does not export it. */
static int enable(struct store_ring *r)
{
	int res = io_uring_register((unsigned)r->uring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);

	if (res < 0)
		return res;
	r->disabled = false;
	io_uring_register_ring_fd(&r->uring);	/* spares a look-up per call; works without, too */
	return 0;
}

/* One system call: hands over what is queued, waits for @wait completions, and lets deferred ones arrive. */
static int enter(struct store_ring *r, unsigned wait)
{
	int res = r->disabled ? enable(r) : 0;

	r->owes_kick = false;
	while (res == 0) {
		res = wait > 0 ? io_uring_submit_and_wait(&r->uring, wait) : io_uring_submit(&r->uring);
		if (res >= 0 || res == -EBUSY)	/* busy: completions have to be taken first */
			return 0;
		if (res == -EINTR)
			res = 0;
	}
	return res;
}

/* A lot of the requests that no kernel ring can take. */
static void run_todo(struct store_ring *r)
{
	struct store_req *req;

	for (unsigned n = 0; n < LOT && (req = list_pop(&r->todo)); n++) {
		if (write_is_timed(r, req))
			req->res = run_timed(r, req);
		else
			req->res = SP_SEED_BUG(RING_SYNC_EARLY) && req->op == STORE_SYNC ? 0 : run_now(req);
		list_push(&r->done, req);
	}
}

static void ring_the_bell(struct store_ring *r)
{
	/* The kernel rings it for its own completions. It can only fail when it is readable already. */
	if (r->event_fd >= 0 && !r->silent && r->done.count + r->todo.count > 0)
		(void)!eventfd_write(r->event_fd, 1);
}

static int hand_over(struct store_ring *r)
{
	return r->is_uring && io_uring_sq_ready(&r->uring) > 0 ? enter(r, 0) : 0;
}

int store_ring_kick(struct store_ring *r)
{
	int res = hand_over(r);

	ring_the_bell(r);
	return res;
}

/* ---- reaping -------------------------------------------------------------------------------------- */

static void take_completions(struct store_ring *r, struct req_list *ret_list)
{
	struct io_uring_cqe *cqe;
	unsigned head, n = 0;

	io_uring_for_each_cqe(&r->uring, head, cqe) {
		struct store_req *req = io_uring_cqe_get_data(cqe);

		req->res = cqe->res;	/* the slot is the kernel's again after advance */
		list_push(ret_list, req);
		n++;
	}
	io_uring_cq_advance(&r->uring, n);
	r->inflight -= n;
}

static bool kernel_has_more(struct store_ring *r)
{
	return IO_URING_READ_ONCE(*r->uring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

/* Hands over what is queued and takes all completions there are, at least @wait of them: one system call, or none. */
static int gather(struct store_ring *r, unsigned wait, struct req_list *ret_list)
{
	unsigned rounds = r->inflight;
	int res = 0;

	take_completions(r, ret_list);
	while (res == 0 && (io_uring_sq_ready(&r->uring) > 0 || ret_list->count < wait || kernel_has_more(r)) &&
	       rounds-- > 0) {
		res = enter(r, wait > ret_list->count ? wait - ret_list->count : 0);
		take_completions(r, ret_list);
	}
	return res;
}

/* What a completion means: true when the request is over and req->res is its result. */
static bool settle(struct store_ring *r, struct store_req *req)
{
	int res = req->res;

	if (res == -EINTR || res == -EAGAIN) {
		start(r, req);
		return false;
	}
	/* The file system (or this range of a device) does not know how; the slow way does. */
	if ((res == -EOPNOTSUPP || (res == -EINVAL && req->store->is_device)) &&
	    (req->op == STORE_PUNCH || req->op == STORE_ZERO)) {
		req->res = run_now(req);
		return true;
	}
	if (res < 0 || !moves_data(req))
		return true;
	if (SP_SEED_BUG(RING_SHORT_IS_WHOLE) || (uint64_t)res >= bytes_left(req)) {
		req->res = 0;
		return true;
	}
	if (res == 0) {		/* end of file, or a device that takes no more */
		req->res = req->op == STORE_READ ? -ENODATA : -EIO;
		return true;
	}
	store_iov_advance(&req->iov, &req->iovcnt, (size_t)res);
	start(r, req);
	return false;
}

/* Takes over what came back. Resubmissions go first, so that they are on their way before callbacks run. */
static void settle_all(struct store_ring *r, struct req_list *list)
{
	struct store_req *req;

	while ((req = list_pop(list))) {
		if (settle(r, req))
			list_push(&r->done, req);
		else
			r->owes_kick = true;
	}
	while (r->waiting.count > 0 && r->inflight < r->depth) {
		start(r, list_pop(&r->waiting));
		r->owes_kick = true;
	}
}

static unsigned run_callbacks(struct store_ring *r)
{
	struct req_list done = list_take(&r->done);
	struct store_req *req;
	unsigned n = 0;

	/* Counted down first: a callback may submit again, free its request, or ask for the ring's state. */
	while ((req = list_pop(&done))) {
		r->outstanding--;
		req->complete(req, req->res);
		n++;
		if (r->is_uring && io_uring_sq_ready(&r->uring) >= HAND_OVER_AT)
			enter(r, 0);	/* what fails here stays queued and fails again where it is reported */
	}
	return n;
}

static void drain_bell(const struct store_ring *r)
{
	eventfd_t count;

	if (r->event_fd >= 0 && !r->silent)
		(void)!eventfd_read(r->event_fd, &count);
}

int store_ring_reap(struct store_ring *r, unsigned wait)
{
	unsigned ran = 0;
	int res;

	drain_bell(r);	/* before looking, so that what comes later rings again */
	do {
		struct req_list arrived;
		unsigned missing;

		list_init(&arrived);
		/* Without work of our own, gather() hands over and waits in one system call. */
		res = r->todo.count > 0 ? hand_over(r) : 0;
		run_todo(r);
		missing = wait > ran + r->done.count && r->todo.count == 0 ? wait - ran - r->done.count : 0;
		if (r->is_uring && r->inflight > 0) {
			int err = gather(r, (unsigned)sp_min(missing, r->inflight), &arrived);

			res = res < 0 ? res : err;
			settle_all(r, &arrived);
		}
		ran += run_callbacks(r);
	} while (res == 0 && ran < wait && r->outstanding > 0);

	if (r->owes_kick && res == 0)
		res = hand_over(r);
	ring_the_bell(r);
	return res < 0 && ran == 0 ? res : (int)ran;
}

/* ---- setting up ----------------------------------------------------------------------------------- */

static int open_uring(struct store_ring *r, unsigned depth)
{
	static const unsigned ladder[] = {
		NEWER_FLAGS | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,	/* Linux 6.1 */
		NEWER_FLAGS | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN,	/* 6.0 */
		NEWER_FLAGS | IORING_SETUP_COOP_TASKRUN,				/* 5.19 */
		ALWAYS_FLAGS,
	};
	int res = -ENOSYS;

	for (size_t i = 0; i < SP_ARRAY_SIZE(ladder); i++) {
		struct io_uring_params p = { .flags = ladder[i] };

		res = io_uring_queue_init_params(depth, &r->uring, &p);
		if (res == -EINVAL)
			continue;	/* a flag of later kernels */
		if (res < 0)
			return res;
		if (!(p.features & IORING_FEAT_NODROP) || !(p.features & IORING_FEAT_RW_CUR_POS)) {
			io_uring_queue_exit(&r->uring);
			return -ENOSYS;	/* before 5.6: no plain READ, no FALLOCATE */
		}
		r->disabled = p.flags & IORING_SETUP_R_DISABLED;
		r->depth = (unsigned)sp_min(depth, p.sq_entries);
		return 0;
	}
	return res;
}

int store_ring_new(unsigned depth, unsigned flags, struct store_ring **ret_ring, struct sp_err *err)
{
	const char *no_uring = getenv("SPINDLE_NO_URING");
	struct store_ring *r;
	int res = -ENOSYS;

	if (depth == 0 || depth > DEPTH_MAX)
		return sp_err_set(err, -EINVAL, "ring depth %u is not in 1..%u", depth, DEPTH_MAX);
	r = sp_zalloc(sizeof(*r));
	if (!r)
		return sp_err_set(err, -ENOMEM, "no memory for an I/O ring");
	list_init(&r->waiting);
	list_init(&r->todo);
	list_init(&r->done);
	r->event_fd = -1;
	r->depth = depth;
	if (!(flags & STORE_RING_NO_URING) && !(no_uring && strcmp(no_uring, "1") == 0))
		res = open_uring(r, depth);
	r->is_uring = res == 0;
	if (!r->is_uring)
		sp_debug("store", "ring", "no io_uring (%s), I/O is synchronous", strerror(-res));
	r->has_fixed_table = r->is_uring && io_uring_register_files_sparse(&r->uring, FIXED_FILES) == 0;
	*ret_ring = r;
	return 0;
}

void store_ring_free(struct store_ring *r)
{
	if (!r)
		return;
	assert(r->outstanding == 0);
	if (r->is_uring)
		io_uring_queue_exit(&r->uring);
	if (r->event_fd >= 0)
		close(r->event_fd);
	sp_free(r->fixed);
	sp_free(r);
}

static int fixed_index(const struct store_ring *r)
{
	for (unsigned i = 0; i < FIXED_FILES; i++) {
		if (!(r->fixed_used[i / 64] >> (i % 64) & 1))
			return (int)i;
	}
	return -1;
}

static int fixed_make_room(struct store_ring *r, unsigned fd)
{
	unsigned room = r->fixed_room ? r->fixed_room : 64;
	struct fixed *f;

	if (fd < r->fixed_room)
		return 0;
	while (room <= fd)
		room *= 2;
	f = sp_realloc(r->fixed, room * sizeof(*f));
	if (!f)
		return -ENOMEM;
	memset(f + r->fixed_room, 0, (room - r->fixed_room) * sizeof(*f));
	r->fixed = f;
	r->fixed_room = room;
	return 0;
}

/* What cannot be registered works by descriptor, so only real trouble is an error. */
int store_ring_register(struct store_ring *r, struct store *s)
{
	int fd = s->ops->fd(s), index, res;

	if (!r->has_fixed_table || fd < 0)
		return 0;
	if ((unsigned)fd < r->fixed_room && r->fixed[fd].store == s)
		return 0;
	index = fixed_index(r);
	if (index < 0)
		return 0;
	res = fixed_make_room(r, (unsigned)fd);
	if (res == 0)
		res = io_uring_register_files_update(&r->uring, (unsigned)index, &fd, 1);
	if (res < 0)
		return res;
	r->fixed_used[index / 64] |= (uint64_t)1 << (index % 64);
	r->fixed[fd] = (struct fixed){ .store = s, .index = index };
	return 0;
}

/* Needed before the store is closed: the table keeps the file open, and its locks with it. */
void store_ring_unregister(struct store_ring *r, struct store *s)
{
	int fd = s->ops->fd(s), none = -1, index;

	if (fd < 0 || (unsigned)fd >= r->fixed_room || r->fixed[fd].store != s)
		return;
	index = r->fixed[fd].index;
	r->fixed[fd].store = NULL;
	if (io_uring_register_files_update(&r->uring, (unsigned)index, &none, 1) >= 0)
		r->fixed_used[index / 64] &= ~((uint64_t)1 << (index % 64));
}

void store_ring_unregister_all(struct store_ring *r)
{
	int none = -1;

	for (unsigned fd = 0; fd < r->fixed_room; fd++) {
		if (!r->fixed[fd].store)
			continue;
		r->fixed[fd].store = NULL;
		if (io_uring_register_files_update(&r->uring, (unsigned)r->fixed[fd].index, &none, 1) >= 0)
			r->fixed_used[r->fixed[fd].index / 64] &= ~((uint64_t)1 << (r->fixed[fd].index % 64));
	}
}

int store_ring_register_buffers(struct store_ring *r, const struct iovec *iov, unsigned count)
{
	int res = 0;

	if (!r->is_uring)
		return 0;	/* buf_index means nothing then */
	if (r->buffers > 0)
		res = io_uring_unregister_buffers(&r->uring);
	if (res < 0)
		return res;
	r->buffers = 0;
	if (count > 0)
		res = io_uring_register_buffers(&r->uring, iov, count);
	if (res < 0)
		return res;
	r->buffers = count;
	return 0;
}

int store_ring_fd(struct store_ring *r)
{
	int fd, res;

	if (r->event_fd >= 0)
		return r->event_fd;
	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		return -errno;
	res = r->is_uring ? io_uring_register_eventfd(&r->uring, fd) : 0;
	if (res < 0) {
		close(fd);
		return res;
	}
	r->event_fd = fd;
	ring_the_bell(r);
	return fd;
}

void store_ring_silence(struct store_ring *r, bool silent)
{
	if (r->event_fd < 0 || r->silent == silent)
		return;
	r->silent = silent;
	if (r->is_uring)
		io_uring_cq_eventfd_toggle(&r->uring, !silent);
	/* What the kernel completed while it was silent rang nothing. To look whether there is any would be a race with
	 * the kernel, which fills its ring first and reads the flag then: whoever hears this looks a moment later. */
	if (!silent)
		(void)!eventfd_write(r->event_fd, 1);
}

bool store_ring_is_uring(const struct store_ring *r)
{
	return r->is_uring;
}
