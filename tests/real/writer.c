/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the scripts here do to disks on real file systems:
 *
 *   writer cuts N SEED FORMAT DEVICE MOUNTPOINT	N power cuts: write, shut the file system down, mount it again,
 * look writer names N SEED DEVICE MOUNTPOINT TOOL		the same while names change: snapshots made by vhd-tool
 *   writer poison IMAGE SWITCH				until writing fails; then nothing may succeed
 *   writer full IMAGE BALLAST				until space ends; then BALLAST goes away and it goes on
 *   writer fill IMAGE					8 MiB of data in pieces
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/types.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "tests/support/fail.h"
#include "tests/support/load.h"
#include "tests/support/rng.h"
#include "vhd/ops.h"

#define SHUTDOWN _IOR('X', 125, __u32)
#define SHUTDOWN_NO_LOG_FLUSH 2u	/* as a power cut: not even the journal gets out */

static void sleep_us(uint64_t us)
{
	usleep((useconds_t)us);
}

static void make(const char *path, enum vhd_format_id format)
{
	struct vhd_create_opts o = { .format = format, .size = LOAD_SIZE, .replace = true };
	struct sp_err err = { 0 };

	if (format == VHD_FORMAT_VHDX)
		o.block_size = 1u << 20;
	if (vhd_create(path, &o, &err) < 0)
		fail("%s: %s", path, sp_err_text(&err));
}

/* ---- power cuts ----------------------------------------------------------------------------------- */

struct machine {
	const char *device, *mountpoint;
	char type[16];
	struct rng rng;
};

static void power_off(const struct machine *m)
{
	__u32 how = SHUTDOWN_NO_LOG_FLUSH;
	int fd = open(m->mountpoint, O_RDONLY | O_DIRECTORY);

	if (fd < 0 || ioctl(fd, SHUTDOWN, &how) < 0)
		fail("shutdown of %s: %s", m->mountpoint, strerror(errno));
	close(fd);
}

static void power_on(const struct machine *m)
{
	/* The dead writer's io_uring may hold the mount for a moment. */
	for (unsigned i = 0; umount(m->mountpoint) < 0; i++) {
		if (errno != EBUSY || i == 500)
			fail("umount %s: %s", m->mountpoint, strerror(errno));
		sleep_us(10000);
	}
	if (mount(m->device, m->mountpoint, m->type, 0, NULL) < 0)
		fail("mount %s: %s", m->mountpoint, strerror(errno));
}

static void machine_init(struct machine *m, const char *device, const char *mountpoint, uint64_t seed)
{
	char command[600];
	FILE *f;

	m->device = device;
	m->mountpoint = mountpoint;
	rng_init(&m->rng, seed);
	snprintf(command, sizeof(command), "findmnt -n -o FSTYPE '%s'", mountpoint);
	f = popen(command, "r");
	if (!f || fscanf(f, "%15s", m->type) != 1)
		fail("%s is not mounted", mountpoint);
	pclose(f);
}

static void verify(struct load *l, const char *path, bool write, unsigned cut)
{
	char text[512];

	if (load_verify(l, path, write, NULL, text, sizeof(text)) < 0)
		fail("cut %u, %s: %s", cut, path, text);
}

static void end_writer(pid_t child)
{
	kill(child, SIGKILL);
	while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
}

/*
 * The last moment before the power fails. What the writer is told after that does not count: an fsync of ext4 that is
 * under way when the file system is shut down may find the aborted transaction gone and answer 0, which no machine
 * without power can.
 */
static void power_off_now(const struct machine *m, const struct load *l, uint32_t acked[static LOAD_CELLS])
{
	for (unsigned i = 0; i < LOAD_CELLS; i++)
		acked[i] = atomic_load(&l->acked[i]);
	power_off(m);
}

static void one_cut(struct machine *m, struct load *l, const char *path, unsigned cut)
{
	uint64_t seed = rng_u64(&m->rng);
	uint32_t acked[LOAD_CELLS];
	pid_t child;

	atomic_store(&l->running, false);
	atomic_store(&l->error, 0);
	child = fork();
	if (child == 0) {
		/* Errors after the power is gone are not news. */
		if (!freopen("/dev/null", "w", stderr))
			_exit(1);
		_exit(load_write(l, path, cut % 4 == 3 ? VHD_OPEN_NO_URING : 0, seed) < 0);
	}
	for (unsigned i = 0; !atomic_load(&l->running) && i < 2000; i++)
		sleep_us(500);
	sleep_us(rng_below(&m->rng, 60000));
	power_off_now(m, l, acked);
	sleep_us(rng_below(&m->rng, 3000));	/* it may go on for a moment, as a guest does whose disk is gone */
	end_writer(child);
	for (unsigned i = 0; i < LOAD_CELLS; i++)
		atomic_store(&l->acked[i], acked[i]);
	if (atomic_load(&l->error) == -ESTALE)
		fail("cut %u: a flush or a clean close succeeded after the file system was gone", cut);
	power_on(m);
	if (cut % 3 == 0)
		verify(l, path, false, cut);
	verify(l, path, true, cut);
}

static int cuts(unsigned count, uint64_t seed, const char *format, const char *device, const char *mountpoint)
{
	struct load *l = load_new();
	struct machine m;
	char path[512];
	enum vhd_format_id id;

	if (vhd_format_from_name(format, &id) < 0)
		return 2;
	machine_init(&m, device, mountpoint, seed);
	snprintf(path, sizeof(path), "%s/disk.%s", mountpoint, format);
	for (unsigned i = 0; i < count; i++) {
		if (i % 10 == 0) {	/* a fresh image: its own name is at stake as well */
			memset(l->issued, 0, sizeof(l->issued));
			memset(l->acked, 0, sizeof(l->acked));
			make(path, id);
		}
		one_cut(&m, l, path, i);
	}
	printf("%s on %s: %u power cuts, %" PRIu64 " writes acknowledged by %" PRIu64 " flushes, 0 lost\n", format,
	       m.type, count, atomic_load(&l->writes), atomic_load(&l->flushes));
	load_free(l);
	return 0;
}

/* ---- names ---------------------------------------------------------------------------------------- */

/* An operation has been acknowledged, then the power fails: its effect must be there, under all its names. */
static void names_cut(struct machine *m, struct load *l, const char *tool, unsigned cut)
{
	char image[300], other[300], command[1200];
	struct sp_err err = { 0 };

	snprintf(image, sizeof(image), "%s/n%u.vhdx", m->mountpoint, cut);
	snprintf(other, sizeof(other), "%s/n%u.%s.vhdx", m->mountpoint, cut, cut % 3 == 0 ? "snap" : "copy");
	memset(l->issued, 0, sizeof(l->issued));
	memset(l->acked, 0, sizeof(l->acked));
	make(image, VHD_FORMAT_VHDX);
	if (load_fill(l, image, 7, cut % 7) < 0)
		fail("cannot fill %s", image);
	switch (cut % 3) {
	case 0:
		snprintf(command, sizeof(command), "'%s' snapshot create -q '%s' snap", tool, image);
		break;
	case 1:
		snprintf(command, sizeof(command), "'%s' convert -q '%s' '%s'", tool, image, other);
		break;
	default:	/* the names of both layers are at stake: a merge ends with a rename */
		if (vhd_snapshot_create(image, "copy", NULL, &err) < 0 || load_fill(l, image, 5, 3) < 0)
			fail("%s: %s", image, sp_err_text(&err));
		snprintf(command, sizeof(command), "'%s' merge -q '%s'", tool, image);
	}
	if (system(command) != 0)
		fail("%s", command);
	power_off(m);
	power_on(m);
	verify(l, image, true, cut);
	if (cut % 3 != 2)
		verify(l, other, false, cut);
	else if (access(other, F_OK) == 0)
		fail("cut %u: %s is back although it was merged", cut, other);
	unlink(image);
	unlink(other);
}

static int names(unsigned count, uint64_t seed, const char *device, const char *mountpoint, const char *tool)
{
	struct load *l = load_new();
	struct machine m;

	machine_init(&m, device, mountpoint, seed);
	for (unsigned i = 0; i < count; i++)
		names_cut(&m, l, tool, i);
	printf("names on %s: %u power cuts right after an operation, all of them kept\n", m.type, count);
	load_free(l);
	return 0;
}

/* ---- a disk that loses writes --------------------------------------------------------------------- */

static int poison(const char *path, const char *trouble)
{
	struct load *l = load_new();
	pid_t child;
	int status = 0;

	make(path, strstr(path, ".vhdx") ? VHD_FORMAT_VHDX : VHD_FORMAT_VHD);
	child = fork();
	if (child == 0)
		_exit(load_write(l, path, 0, 1) < 0);
	for (unsigned i = 0; !atomic_load(&l->running) && i < 2000; i++)
		sleep_us(1000);
	sleep_us(100000);
	close(open(trouble, O_CREAT | O_WRONLY, 0600));
	for (unsigned i = 0; i < 1000 && waitpid(child, &status, WNOHANG) == 0; i++)
		sleep_us(10000);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 1)
		fail("the writer did not end with an error: %#x", status);
	if (atomic_load(&l->error) == -ESTALE)
		fail("a flush or a clean close succeeded after one that had failed");
	/* ext4 and xfs may have turned read-only meanwhile: EROFS tells as well. */
	printf("%s: the writer was told \"%s\" after %" PRIu64 " flushes, and nothing succeeded after that\n", path,
	       strerror(-atomic_load(&l->error)), atomic_load(&l->flushes));
	load_free(l);
	return 0;
}

/* ---- a full disk ---------------------------------------------------------------------------------- */

static void cell(uint8_t *buf, unsigned i)
{
	memset(buf, (int)(1 + i % 255), LOAD_CELL);
}

static int full(const char *path, const char *ballast)
{
	struct vhd_open_opts o = { .flags = VHD_OPEN_WRITE };
	uint8_t buf[LOAD_CELL], want[LOAD_CELL];
	unsigned written = 0, refused = 0, more;
	struct sp_err err = { 0 };
	struct vhd_disk *d;
	int r;

	make(path, strstr(path, ".vhdx") ? VHD_FORMAT_VHDX : VHD_FORMAT_VHD);
	if (vhd_disk_open(path, &o, &d, &err) < 0)
		fail("%s: %s", path, sp_err_text(&err));
	for (unsigned i = 0; i < 4096 && refused < 20; i++) {	/* each cell in a place of its own */
		cell(buf, i);
		r = vhd_disk_write(d, buf, sizeof(buf), (uint64_t)i * 3 * LOAD_CELL);
		if (r == 0 && refused == 0)
			written++;
		refused += r < 0;
		if (r < 0 && r != -ENOSPC)
			fail("%s: write %u: %s", path, i, strerror(-r));
	}
	if (refused == 0)
		fail("%s: the space never ended", path);
	r = vhd_disk_flush(d);
	if (r < 0)
		fail("%s: what was written cannot be flushed: %s", path, strerror(-r));
	unlink(ballast);
	for (more = written; more < written + 20; more++) {
		cell(buf, more);
		r = vhd_disk_write(d, buf, sizeof(buf), (uint64_t)more * 3 * LOAD_CELL);
		if (r < 0)
			fail("%s: there is space again, but: %s", path, strerror(-r));
	}
	r = vhd_disk_flush(d);
	if (r < 0)
		fail("%s: flush with space again: %s", path, strerror(-r));
	if (vhd_disk_close(d, &err) < 0)
		fail("%s: %s", path, sp_err_text(&err));
	if (vhd_disk_open(path, NULL, &d, &err) < 0)
		fail("%s: %s", path, sp_err_text(&err));
	for (unsigned i = 0; i < more; i++) {
		cell(want, i);
		if (vhd_disk_read(d, buf, sizeof(buf), (uint64_t)i * 3 * LOAD_CELL) < 0 ||
		    memcmp(buf, want, sizeof(buf)) != 0)
			fail("%s: cell %u is not what was written", path, i);
	}
	vhd_disk_close(d, NULL);
	printf("%s: %u writes, %u refused for lack of space, %u more after some was made\n", path, written, refused,
	       more - written);
	return 0;
}

static int fill(const char *path)
{
	struct vhd_open_opts o = { .flags = VHD_OPEN_WRITE };
	struct sp_err err = { 0 };
	struct vhd_disk *d;
	uint8_t buf[LOAD_CELL];
	int r = vhd_disk_open(path, &o, &d, &err);

	if (r < 0)
		fail("%s: %s", path, sp_err_text(&err));
	for (unsigned i = 0; r == 0 && i < 2048 && (uint64_t)(2 * i + 1) * LOAD_CELL <= vhd_disk_size(d); i++) {
		cell(buf, i);
		r = vhd_disk_write(d, buf, sizeof(buf), (uint64_t)i * 2 * LOAD_CELL);
	}
	if (r < 0 || vhd_disk_close(d, &err) < 0)
		fail("%s: %s", path, r < 0 ? strerror(-r) : sp_err_text(&err));
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 7 && strcmp(argv[1], "cuts") == 0)
		return cuts((unsigned)atoi(argv[2]), strtoull(argv[3], NULL, 0), argv[4], argv[5], argv[6]);
	if (argc == 7 && strcmp(argv[1], "names") == 0)
		return names((unsigned)atoi(argv[2]), strtoull(argv[3], NULL, 0), argv[4], argv[5], argv[6]);
	if (argc == 3 && strcmp(argv[1], "fill") == 0)
		return fill(argv[2]);
	if (argc == 4 && strcmp(argv[1], "poison") == 0)
		return poison(argv[2], argv[3]);
	if (argc == 4 && strcmp(argv[1], "full") == 0)
		return full(argv[2], argv[3]);
	return 2;
}
