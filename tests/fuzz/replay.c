/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Runs stored inputs through a target, without libFuzzer: "replay TARGET FILE-OR-FOLDER...". Every seed image is run
 * unchanged first. Ends with status 1, or by a signal, at the first finding, whose name it has told before.
 */
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "tests/fuzz/fuzz.h"

#define SECONDS 20	/* for one input */

static const struct fz_target *const targets[] = {
	&fz_target_vhd, &fz_target_vhdx_open, &fz_target_vhdx_log, &fz_target_vhdx_metadata,
	&fz_target_chain, &fz_target_disk_write, &fz_target_check_repair,
	&fz_target_track,
};

static char current[4096];

/* Nothing but calls that are safe in a handler. */
static void tell(int sig)
{
	static const char what[] = "\nfuzz: died or took too long at ";

	if (write(STDERR_FILENO, what, sizeof(what) - 1) < 0 || write(STDERR_FILENO, current, strlen(current)) < 0 ||
	    write(STDERR_FILENO, "\n", 1) < 0)
		_exit(2);
	signal(sig, SIG_DFL);
	raise(sig);
}

static void run(const struct fz_target *t, const char *name, const uint8_t *data, size_t size)
{
	snprintf(current, sizeof(current), "%s", name);
	alarm(SECONDS);
	fz_run(t, data, size);
	alarm(0);
}

static unsigned run_file(const struct fz_target *t, const char *path)
{
	static uint8_t whole[1 << 20];
	FILE *f = fopen(path, "rb");
	uint8_t *data;
	size_t n;

	if (!f) {
		perror(path);
		exit(1);
	}
	n = fread(whole, 1, sizeof(whole), f);
	fclose(f);
	data = malloc(n + 1);	/* so that a read past the input is seen */
	fz_check(data, "out of memory");
	memcpy(data, whole, n);
	run(t, path, data, n);
	free(data);
	return 1;
}

static unsigned run_path(const struct fz_target *t, const char *path)
{
	struct dirent **entry;
	unsigned count = 0;
	struct stat st;
	int n;

	if (stat(path, &st) == 0 && !S_ISDIR(st.st_mode))
		return run_file(t, path);
	n = scandir(path, &entry, NULL, alphasort);
	for (int i = 0; i < n; i++) {
		char name[4096];

		snprintf(name, sizeof(name), "%s/%s", path, entry[i]->d_name);
		if (entry[i]->d_name[0] != '.')
			count += run_file(t, name);
		free(entry[i]);
	}
	if (n >= 0)
		free(entry);
	return count;
}

static unsigned run_seeds(const struct fz_target *t)
{
	for (unsigned i = 0; i < t->seeds; i++) {
		const uint8_t data[] = { (uint8_t)i, FZ_SEAL };
		char name[64];

		fz_seed(t->seed[i]);
		snprintf(name, sizeof(name), "seed %u", i);
		run(t, name, data, sizeof(data));
	}
	return t->seeds;
}

int main(int argc, char **argv)
{
	for (size_t i = 0; argc > 1 && i < SP_ARRAY_SIZE(targets); i++) {
		unsigned count;

		if (strcmp(targets[i]->name, argv[1]) != 0)
			continue;
		signal(SIGALRM, tell);
		signal(SIGABRT, tell);
		count = run_seeds(targets[i]);
		for (int k = 2; k < argc; k++)
			count += run_path(targets[i], argv[k]);
		printf("%s: %u inputs\n", argv[1], count);
		return 0;
	}
	fprintf(stderr, "usage: replay TARGET [FILE|FOLDER]...\n");
	return 1;
}
