/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What comes out of the pipe is an image like any other: it opens, checks clean and reads as the source.
 */
#include "tests/unit/ops_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#define SIZE (SP_MIB(13) + 512 * 3)

struct stream_case {
	const char *name;
	enum vhd_format_id from, to;
	enum vhd_kind kind;
	uint32_t block;
	uint64_t size;
	bool detect;
};

static const struct stream_case streams[] = {
	{ "raw", VHD_FORMAT_VHDX, VHD_FORMAT_RAW, VHD_KIND_DYNAMIC, 0, 0, false },
	{ "raw, larger", VHD_FORMAT_VHD, VHD_FORMAT_RAW, VHD_KIND_FIXED, 0, SIZE + SP_MIB(1), false },
	{ "fixed vhd", VHD_FORMAT_VHDX, VHD_FORMAT_VHD, VHD_KIND_FIXED, 0, 0, false },
	{ "dynamic vhd", VHD_FORMAT_VHDX, VHD_FORMAT_VHD, VHD_KIND_DYNAMIC, 0, 0, false },
	{ "dynamic vhd, zeros found", VHD_FORMAT_RAW, VHD_FORMAT_VHD, VHD_KIND_DYNAMIC, 512 << 10, 0, true },
	{ "dynamic vhd, tiny blocks", VHD_FORMAT_VHDX, VHD_FORMAT_VHD, VHD_KIND_DYNAMIC, 4096, 0, true },
	{ "dynamic vhd, large blocks", VHD_FORMAT_VHDX, VHD_FORMAT_VHD, VHD_KIND_DYNAMIC, 16 << 20, SP_MIB(40), true },
	{ "dynamic vhdx", VHD_FORMAT_VHD, VHD_FORMAT_VHDX, VHD_KIND_DYNAMIC, 0, 0, false },
	{ "dynamic vhdx, zeros found", VHD_FORMAT_RAW, VHD_FORMAT_VHDX, VHD_KIND_DYNAMIC, 1 << 20, 0, true },
	{ "dynamic vhdx, larger", VHD_FORMAT_VHDX, VHD_FORMAT_VHDX, VHD_KIND_DYNAMIC, 1 << 20, SP_MIB(100), true },
	{ "fixed vhdx", VHD_FORMAT_VHD, VHD_FORMAT_VHDX, VHD_KIND_FIXED, 1 << 20, 0, false },
};

/* The other end of the pipe: everything into a file of the folder. */
struct sink {
	int fd;
	struct store *store;
	uint64_t got;
};

static void *sink_run(void *arg)
{
	static char no_write[] = "write", no_read[] = "read";
	struct sink *s = arg;
	uint8_t buf[65536];
	ssize_t n;

	while ((n = read(s->fd, buf, sizeof(buf))) > 0) {
		if (store_write(s->store, buf, (size_t)n, s->got) < 0)
			return no_write;
		s->got += (uint64_t)n;
	}
	return n < 0 ? no_read : NULL;
}

static void stream_into(struct store_folder *f, const char *name, struct vhd_disk *d, const struct vhd_convert_opts *o)
{
	struct sp_err err = { 0 };
	struct sink sink = { 0 };
	pthread_t thread;
	void *failed;
	int fd[2], r;

	assert_int_equal(store_folder_open(f, name, STORE_CREATE | STORE_RDWR, &sink.store, &err), 0);
	assert_int_equal(pipe2(fd, O_CLOEXEC), 0);
	sink.fd = fd[0];
	assert_int_equal(pthread_create(&thread, NULL, sink_run, &sink), 0);
	r = op_stream_disk(d, fd[1], o, NULL, &err);
	close(fd[1]);
	pthread_join(thread, &failed);
	close(fd[0]);
	store_close(sink.store);
	assert_done(r, &err);
	assert_null(failed);
}

static void check_clean(struct store_folder *f, const char *name, enum vhd_format_id id)
{
	const struct vhd_format *format = vhd_format_by_id(id);
	struct vhd_report rep = { 0 };
	struct store *s;

	if (id == VHD_FORMAT_RAW)
		return;
	assert_int_equal(store_folder_open(f, name, 0, &s, NULL), 0);
	assert_int_equal(format->check(s, &rep), 0);
	if (rep.findings)
		fail_msg("%s: %s", rep.finding[0].structure, rep.finding[0].text);
	vhd_report_fini(&rep);
	store_close(s);
}

static void stream_row(void **state)
{
	const struct stream_case *c = *state;
	struct vhd_convert_opts o = {
		.threads = 2, .detect_zeroes = c->detect,
		.target = { .format = c->to, .kind = c->kind, .block_size = c->block, .size = c->size },
	};
	struct store_folder *f = folder_new();
	struct vhd_disk *d;
	struct model m;

	model_init(&m, SIZE);
	make_image(f, "s", c->from, VHD_KIND_DYNAMIC, SIZE, c->from == VHD_FORMAT_VHDX ? 1 << 20 : 0, NULL);
	put(f, "s", c->from, &m, 512, 4096, 1);
	put(f, "s", c->from, &m, SP_MIB(3) + 512, SP_MIB(3), 2);
	put(f, "s", c->from, &m, SP_MIB(4), SP_MIB(1), 0);
	put(f, "s", c->from, &m, SIZE - 512, 512, 3);
	d = open_disk(f, "s", c->from, 0);
	stream_into(f, "t", d, &o);
	vhd_disk_close(d, NULL);
	expect(f, "t", c->to, &m);
	check_clean(f, "t", c->to);
	store_folder_close(f);
	model_fini(&m);
}

/* Nobody reads any more. */
static void broken_pipe(void **state)
{
	struct vhd_convert_opts o = { .target.format = VHD_FORMAT_RAW };
	struct store_folder *f = folder_new();
	struct sp_err err = { 0 };
	struct vhd_disk *d;
	int fd[2];

	signal(SIGPIPE, SIG_IGN);
	make_image(f, "s", VHD_FORMAT_VHDX, VHD_KIND_DYNAMIC, SIZE, 0, NULL);
	d = open_disk(f, "s", VHD_FORMAT_VHDX, 0);
	assert_int_equal(pipe2(fd, O_CLOEXEC), 0);
	close(fd[0]);
	assert_int_equal(op_stream_disk(d, fd[1], &o, NULL, &err), -EPIPE);
	close(fd[1]);
	vhd_disk_close(d, NULL);
	store_folder_close(f);
}

int main(void)
{
	const struct CMUnitTest others[] = { cmocka_unit_test(broken_pipe) };

	return ROWS_RUN(streams, stream_row) + cmocka_run_group_tests(others, NULL, NULL);
}
