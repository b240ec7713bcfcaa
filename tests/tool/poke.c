/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Writes into an image through the engine, as a guest would:
 *
 *	poke [-k] FILE OFFSET:LEN:BYTE...	fill a stretch with one byte; LEN:z discards it, LEN:0 writes zeros
 *
 * -k flushes and then goes away as a killed process would: the log stays behind.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "vhd/disk_int.h"

static int fill(struct vhd_disk *d, uint64_t offset, size_t len, int byte)
{
	void *buf = sp_alloc(len);
	int r;

	if (!buf)
		return -ENOMEM;
	memset(buf, byte, len);
	r = vhd_disk_write(d, buf, len, offset);
	sp_free(buf);
	return r;
}

static int poke(struct vhd_disk *d, const char *what)
{
	unsigned long long offset, len;
	char byte[8];

	if (sscanf(what, "%llu:%llu:%7s", &offset, &len, byte) != 3)
		return -EINVAL;
	if (byte[0] == 'z')
		return vhd_disk_discard(d, offset, len);
	return fill(d, offset, len, atoi(byte));
}

int main(int argc, char **argv)
{
	const struct vhd_open_opts rw = { .flags = VHD_OPEN_WRITE };
	bool kill = argc > 1 && strcmp(argv[1], "-k") == 0;
	struct sp_err err = { 0 };
	struct vhd_disk *d;
	int r;

	argv += 1 + kill;
	if (!*argv || vhd_disk_open(*argv, &rw, &d, &err) < 0) {
		fprintf(stderr, "poke: %s\n", sp_err_text(&err));
		return 1;
	}
	for (r = 0, argv++; r == 0 && *argv; argv++)
		r = poke(d, *argv);
	if (r == 0)
		r = vhd_disk_flush(d);
	if (kill)
		vhd_disk_abandon(d);
	else if (vhd_disk_close(d, &err) < 0)
		r = -EIO;
	if (r < 0)
		fprintf(stderr, "poke: %s %s\n", strerror(-r), sp_err_text(&err));
	return r < 0;
}
