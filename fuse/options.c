/* SPDX-License-Identifier: BSD-2-Clause */
#include "fuse/mount.h"

#include <errno.h>
#include <getopt.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

static const char help_text[] =
	"Usage: vhd-mount [options] IMAGE MOUNTPOINT\n"
	"Show a VHD, VHDX or raw disk as files: disk, p1..pN, layers/<n>/disk, info.json.\n"
	"\n"
	"  -o OPTS             comma-separated: ro, allow_other, any long option below without\n"
	"                      its dashes, and what mount.fuse3(8) knows\n"
	"  -f, --foreground    stay in the foreground\n"
	"  -U, --force-share   look at an image that is in use, read-only and without locks\n"
	"      --format=FMT    raw, vhd or vhdx instead of detecting it\n"
	"      --image-root=DIR  parents must lie below DIR (default: the folder of IMAGE)\n"
	"      --orphan=refuse|eio|zero  what to do about a missing parent\n"
	"      --no-layers     do not show layers/\n"
	"      --files[=pN]    mount the file system of a partition instead, in user space\n"
	"      --kernel        with --files: by the kernel's driver (root; see SECURITY in vhd-mount(1))\n"
	"      --log=FILE      append messages of the background process to FILE\n"
	"  -h, --help          this text\n"
	"  -V, --version       print the version\n"
	"\n"
	"Unmount with: fusermount3 -u MOUNTPOINT\n";

enum { OPT_FORMAT = 256, OPT_IMAGE_ROOT, OPT_ORPHAN, OPT_LAYERS, OPT_NO_LAYERS, OPT_FILES, OPT_KERNEL, OPT_LOG };

static const struct option long_options[] = {
	{ "foreground", no_argument, NULL, 'f' },
	{ "force-share", no_argument, NULL, 'U' },
	{ "format", required_argument, NULL, OPT_FORMAT },
	{ "image-root", required_argument, NULL, OPT_IMAGE_ROOT },
	{ "orphan", required_argument, NULL, OPT_ORPHAN },
	{ "layers", no_argument, NULL, OPT_LAYERS },
	{ "no-layers", no_argument, NULL, OPT_NO_LAYERS },
	{ "files", optional_argument, NULL, OPT_FILES },
	{ "kernel", no_argument, NULL, OPT_KERNEL },
	{ "log", required_argument, NULL, OPT_LOG },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'V' },
	{ NULL, 0, NULL, 0 },
};

static bool usage(const char *what, const char *word)
{
	fprintf(stderr, "vhd-mount: %s%s%s\nTry 'vhd-mount --help'.\n", what, word ? ": " : "", word ? word : "");
	return false;
}

static bool out_of_memory(void)
{
	fprintf(stderr, "vhd-mount: out of memory\n");
	return false;
}

/* ---- single options ------------------------------------------------------------------------------ */

/* An absolute name that survives chdir("/"). The last component stays as it is: the name by which the operator calls
 * an image, not what a symbolic link makes of it, decides in which folder its parents are looked for. */
static char *absolute(const char *path)
{
	char real[PATH_MAX];
	SP_AUTO_FREE char *dir = sp_strdup(path), *base = sp_strdup(path);

	if (!dir || !base)
		return NULL;
	if (!realpath(dirname(dir), real))
		return sp_strdup(path);		/* opening it will say what is wrong */
	return sp_asprintf("%s/%s", strcmp(real, "/") == 0 ? "" : real, basename(base));
}

/* As the kernel will show it in mountinfo. */
static char *resolved(const char *path)
{
	char real[PATH_MAX];

	return realpath(path, real) ? sp_strdup(real) : absolute(path);
}

static bool replace(char **field, char *value)
{
	sp_free(*field);
	*field = value;
	return value || out_of_memory();
}

static bool set_orphan(struct mnt_options *o, const char *value)
{
	static const char *const names[] = {
		[VHD_ORPHAN_REFUSE] = "refuse", [VHD_ORPHAN_EIO] = "eio", [VHD_ORPHAN_ZERO] = "zero"
	};

	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcmp(value, names[i]) == 0) {
			o->open.orphan = (enum vhd_orphan)i;
			return true;
		}
	}
	return usage("--orphan takes refuse, eio or zero, not", value);
}

static bool set_files(struct mnt_options *o, const char *value)
{
	char *end;
	unsigned long n;

	o->files = true;
	if (!value)
		return true;
	n = strtoul(value[0] == 'p' ? value + 1 : value, &end, 10);
	if (n == 0 || n > 100000 || *end)
		return usage("--files takes the name of a partition like p1, not", value);
	o->partition = (unsigned)n;
	return true;
}

static bool set_option(struct mnt_options *o, int code, const char *value)
{
	switch (code) {
	case 'f':
		o->foreground = true;
		return true;
	case 'U':
		o->open.flags = (o->open.flags | VHD_OPEN_NO_LOCK) & ~VHD_OPEN_WRITE;
		return true;
	case OPT_FORMAT:
		if (vhd_format_from_name(value, &o->open.format) < 0)
			return usage("unknown format", value);
		return true;
	case OPT_IMAGE_ROOT:
		return replace(&o->image_root, resolved(value));
	case OPT_ORPHAN:
		return set_orphan(o, value);
	case OPT_LAYERS:
	case OPT_NO_LAYERS:
		o->layers = code == OPT_LAYERS;
		return true;
	case OPT_FILES:
		return set_files(o, value);
	case OPT_KERNEL:
		o->kernel = true;
		return true;
	case OPT_LOG:
		return replace(&o->log, absolute(value));
	default:
		return usage("unknown option", NULL);
	}
}

/* ---- -o: ours, or libfuse's ---------------------------------------------------------------------- */

static const struct option *find_long(const char *name, size_t len)
{
	for (const struct option *l = long_options; l->name; l++)
		if (strncmp(l->name, name, len) == 0 && l->name[len] == '\0')
			return l;
	return NULL;
}

static bool pass_to_fuse(struct mnt_options *o, const char *word)
{
	return replace(&o->fuse, o->fuse ? sp_asprintf("%s,%s", o->fuse, word) : sp_strdup(word));
}

static bool set_word(struct mnt_options *o, const char *word)
{
	const char *value = strchr(word, '=');
	const struct option *l = find_long(word, value ? (size_t)(value - word) : strlen(word));

	if (strcmp(word, "ro") == 0) {
		o->open.flags &= ~VHD_OPEN_WRITE;
		return true;
	}
	if (strcmp(word, "rw") == 0)
		return true;
	if (strcmp(word, "allow_other") == 0)
		o->allow_other = true;
	if (!l || l->val == 'h' || l->val == 'V')
		return pass_to_fuse(o, word);
	if (value ? l->has_arg == no_argument : l->has_arg == required_argument)
		return usage(value ? "-o option takes no value" : "-o option needs a value", word);
	return set_option(o, l->val, value ? value + 1 : NULL);
}

static bool set_words(struct mnt_options *o, const char *list)
{
	SP_AUTO_FREE char *copy = sp_strdup(list);
	char *rest = copy, *word;

	if (!copy)
		return out_of_memory();
	while ((word = strsep(&rest, ",")))
		if (*word && !set_word(o, word))
			return false;
	return true;
}

/* ---- all of them --------------------------------------------------------------------------------- */

static bool finish(struct mnt_options *o, int argc, char **argv)
{
	if (argc != 2)
		return usage(argc < 2 ? "IMAGE and MOUNTPOINT are needed" : "too many arguments", NULL);
	if (o->kernel && !o->files)
		return usage("--kernel only makes sense with --files", NULL);
	if (!replace(&o->image, absolute(argv[0])) || !replace(&o->mountpoint, resolved(argv[1])))
		return false;
	o->open.image_root = o->image_root;
	return true;
}

enum mnt_parsed mnt_options_parse(int argc, char **argv, struct mnt_options *ret_opts)
{
	struct mnt_options *o = ret_opts;
	int c;

	memset(o, 0, sizeof(*o));
	o->layers = true;
	o->open.flags = VHD_OPEN_WRITE;
	while ((c = getopt_long(argc, argv, "fho:UV", long_options, NULL)) != -1) {
		switch (c) {
		case 'h':
			fputs(help_text, stdout);
			return MNT_DONE;
		case 'V':
			printf("vhd-mount %s\n", SPINDLE_VERSION);
			return MNT_DONE;
		case '?':
			usage("see above", NULL);
			return MNT_USAGE;
		case 'o':
			if (!set_words(o, optarg))
				return MNT_USAGE;
			break;
		default:
			if (!set_option(o, c, optarg))
				return MNT_USAGE;
		}
	}
	return finish(o, argc - optind, argv + optind) ? MNT_RUN : MNT_USAGE;
}

void mnt_options_fini(struct mnt_options *o)
{
	sp_free(o->image);
	sp_free(o->mountpoint);
	sp_free(o->image_root);
	sp_free(o->log);
	sp_free(o->fuse);
}
