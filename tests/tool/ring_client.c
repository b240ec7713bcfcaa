/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ring_client SOCKET LUN ACTION [OFFSET [TEXT]] - a client of storvsp-serve. Actions: write (and flush), read
 * (prints one block as text), size, hold (until standard input ends).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "storvsc/storvsc.h"

#define BLOCK 512

static int act(struct storvsc_channel *ch, uint8_t lun, const char *action, const char *offset, const char *text)
{
	char buf[BLOCK + 1] = "";
	struct storvsc_capacity c;
	int r = -EINVAL;

	if (strcmp(action, "size") == 0) {
		r = storvsc_capacity(ch, lun, &c);
		if (r == 0)
			printf("%llu\n", (unsigned long long)c.blocks * c.logical_block);
	} else if (strcmp(action, "read") == 0 && offset) {
		r = storvsc_read(ch, lun, buf, BLOCK, strtoull(offset, NULL, 0));
		if (r == 0)
			puts(buf);
	} else if (strcmp(action, "write") == 0 && text) {
		snprintf(buf, sizeof(buf), "%s", text);
		r = storvsc_write(ch, lun, buf, BLOCK, strtoull(offset, NULL, 0), false);
		if (r == 0)
			r = storvsc_flush(ch, lun);
	} else if (strcmp(action, "hold") == 0) {
		puts("holding");
		fflush(stdout);
		r = read(0, buf, 1) < 0 ? -errno : 0;
	}
	return r;
}

int main(int argc, char **argv)
{
	struct sp_err err = { 0 };
	struct storvsc *c;
	int r;

	if (argc < 4)
		return 2;
	r = storvsc_connect(argv[1], NULL, NULL, &c, &err);
	if (r < 0) {
		fprintf(stderr, "%s\n", sp_err_text(&err));
		return 1;
	}
	r = act(storvsc_channel(c, 0), (uint8_t)atoi(argv[2]), argv[3], argc > 4 ? argv[4] : NULL,
		argc > 5 ? argv[5] : NULL);
	if (r < 0)
		fprintf(stderr, "%s: %s\n", argv[3], strerror(-r));
	storvsc_close(c);
	return r < 0;
}
