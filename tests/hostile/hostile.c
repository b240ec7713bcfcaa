/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * hostile make TOP	makes the folders, the traps, and an image for every case; prints a line for each
 * hostile open LIST	opens them; "-" for the standard input
 *
 * A line of the list: name, image, root ("-": the image's folder), expected answers; separated by tabs. hostile.py runs
 * the second under strace and judges.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <fcntl.h>

#include "base/bytes.h"
#include "base/env.h"
#include "tests/hostile/hostile.h"

#define SECONDS 2

/* ---- the table --------------------------------------------------------------------------------------- */

/* Any of these is a clear refusal; which one depends on how far the text got. */
#define REFUSED "ENOENT,EXDEV,EBADMSG,EOPNOTSUPP"
/* A thing that is no file is told as such. */
#define NO_FILE "EINVAL,EISDIR,EXDEV"

/* In texts: @TOP@ is the folder above, @X@ the ending of the format, @SELF@ the child's own name. */
static const struct {
	const char *name, *text, *expect;
} texts[] = {
	/* Controls: what shall work does work, so that a refusal means something. */
	{ "control, beside the child", "inside.@X@", "0" },
	{ "control, with a dot", ".\\inside.@X@", "0" },
	{ "control, absolute inside", "@TOP@/root/inside.@X@", "0" },
	{ "control, down and up", "sub\\..\\inside.@X@", "0" },
	{ "control, hard link", "hard.@X@", "0" },
	{ "control, by its last name", "D:\\vm\\inside.@X@", "0" },

	/* Out by "..". */
	{ "one up", "..\\outside\\base.@X@", REFUSED },
	{ "one up, slashes", "../outside/base.@X@", REFUSED },
	{ "one up, mixed", "./..\\outside/base.@X@", REFUSED },
	{ "down and two up", "sub\\..\\..\\outside\\base.@X@", REFUSED },
	{ "many up", "..\\..\\..\\..\\..\\..\\..\\..\\..\\..\\..\\..@TOP@/outside/base.@X@", REFUSED },
	{ "up from an absolute path inside", "@TOP@/root/../outside/base.@X@", REFUSED },
	{ "up and back to another name", "..\\rootevil\\base.@X@", REFUSED },
	{ "doubled separators", "..\\\\\\\\outside\\\\\\\\base.@X@", REFUSED },
	{ "up through a file", "inside.@X@\\..\\..\\outside\\base.@X@", REFUSED },
	{ "up through nothing", "nothing\\..\\..\\outside\\base.@X@", REFUSED },
	{ "dots and spaces", ".. \\outside\\base.@X@", REFUSED },
	{ "three dots", "...\\outside\\base.@X@", REFUSED },

	/* Absolute. */
	{ "absolute outside", "@TOP@/outside/base.@X@", REFUSED },
	{ "a prefix that is no folder", "@TOP@/rootevil/base.@X@", REFUSED },
	{ "backslash absolute", "\\outside\\base.@X@", REFUSED },
	{ "two slashes", "//@TOP@/outside/base.@X@", REFUSED },
	{ "etc", "/etc/passwd", REFUSED },
	{ "drive", "C:\\outside\\base.@X@", REFUSED },
	{ "drive and host path", "C:@TOP@/outside/base.@X@", REFUSED },
	{ "drive, relative", "C:base.@X@", REFUSED },
	{ "drive, relative and up", "C:..\\outside\\base.@X@", REFUSED },
	{ "UNC", "\\\\server\\share\\base.@X@", REFUSED },
	{ "long path", "\\\\?\\C:\\outside\\base.@X@", REFUSED },
	{ "long UNC", "\\\\?\\UNC\\server\\share\\base.@X@", REFUSED },
	{ "volume", "\\\\?\\Volume{26a21bda-a627-11d7-9931-806e6f6e6963}\\base.@X@", REFUSED },
	{ "global root", "\\\\?\\GLOBALROOT\\Device\\Harddisk0\\base.@X@", REFUSED },
	{ "device namespace", "\\\\.\\PhysicalDrive0", REFUSED },
	{ "pipe", "\\\\.\\pipe\\base", REFUSED },

	/* The host's own magic. */
	{ "proc self fd", "/proc/self/fd/3", REFUSED },
	{ "proc self fd, up", "..\\..\\..\\..\\..\\..\\..\\proc\\self\\fd\\3", REFUSED },
	{ "proc self root", "/proc/self/root@TOP@/outside/base.@X@", REFUSED },
	{ "proc self cwd", "/proc/self/cwd/base.@X@", REFUSED },
	{ "dev null", "/dev/null", REFUSED },
	{ "dev zero", "/dev/zero", REFUSED },
	{ "dev sda", "/dev/sda", REFUSED },
	{ "dev fd", "/dev/fd/0", REFUSED },
	{ "dev stdin", "/dev/stdin", REFUSED },
	{ "home", "~/base.@X@", REFUSED },
	{ "variable", "$HOME/base.@X@", REFUSED },
	{ "Windows variable", "%SystemRoot%\\base.@X@", REFUSED },

	/* Traps that lie in the allowed folder. */
	{ "symbolic link", "link.@X@", REFUSED },
	{ "symbolic link inside to inside", "near.@X@", REFUSED },
	{ "through a linked folder", "linkdir\\base.@X@", REFUSED },
	{ "through a linked folder, up", "linkdir\\..\\outside\\base.@X@", REFUSED },
	{ "link to proc", "magic\\outside\\base.@X@", REFUSED },
	{ "dangling link", "dangling.@X@", REFUSED },
	{ "link to itself", "loop.@X@", REFUSED },
	{ "FIFO", "fifo.@X@", NO_FILE },
	{ "socket", "socket.@X@", NO_FILE },
	{ "folder", "folder.@X@", NO_FILE },
	{ "device node", "device.@X@", NO_FILE },
	{ "itself", "@SELF@", "ELOOP" },
	{ "itself, the long way", "sub\\..\\.\\@SELF@", "ELOOP" },
	{ "raw parent", "raw.@X@", REFUSED },
	{ "empty file", "empty.@X@", REFUSED },
	{ "other format", "other.@X@", REFUSED },
	{ "wrong identity", "wrong.@X@", "ESTALE" },

	/* Names that Windows would fold. */
	{ "case", "INSIDE.@X@", REFUSED },
	{ "trailing dot", "inside.@X@.", REFUSED },
	{ "trailing space", "inside.@X@ ", REFUSED },
	{ "leading space", " inside.@X@", REFUSED },
	{ "stream", "inside.@X@:x", REFUSED },
	{ "data stream", "inside.@X@::$DATA", REFUSED },
	{ "star", "*.@X@", REFUSED },
	{ "question mark", "insid?.@X@", REFUSED },
	{ "short name", "INSIDE~1.@X@", REFUSED },
	{ "reserved name", "CON", REFUSED },
	{ "newline", "..\n\\outside\\base.@X@", REFUSED },
	{ "control characters", "\001\033[2J\177base.@X@", REFUSED },
	{ "dot", ".", REFUSED },
	{ "dot dot", "..", REFUSED },
	{ "separators only", "\\\\\\\\", REFUSED },
	{ "empty", "", REFUSED },
	{ "quotes", "\"; cat /etc/passwd; \"", REFUSED },
	{ "format string", "%s%n%s%n%p", REFUSED },
	{ "json", "json:{\"file.filename\":\"/etc/passwd\"}", REFUSED },
	{ "protocol", "nbd://127.0.0.1/base", REFUSED },

	/* URLs, which only MacX decodes. */
	{ "URL", "file://@TOP@/outside/base.@X@", REFUSED },
	{ "URL of this host", "file://localhost@TOP@/outside/base.@X@", REFUSED },
	{ "URL of another host", "file://server/outside/base.@X@", REFUSED },
	{ "URL, escaped dots", "file://./%2e%2e/outside/base.@X@", REFUSED },
	{ "URL, escaped separators", "file://./..%2foutside%2fbase.@X@", REFUSED },
	{ "URL, escaped backslashes", "file://./..%5coutside%5cbase.@X@", REFUSED },
	{ "URL, escaped NUL", "file://@TOP@/root/inside.@X@%00/../../outside/base.@X@", REFUSED },
	{ "URL, twice escaped", "file://./%252e%252e/outside/base.@X@", REFUSED },
	{ "URL, broken escape", "file://./%2/%zz/base.@X@%", REFUSED },
};

/* What UTF-8 cannot say. */
static const uint16_t swapped[] = { 0x2e00, 0x2e00, 0x5c00, 0x6f00, 0x7500, 0x7400, 0x7300, 0x6900, 0x6400, 0x6500 };
static const uint16_t half_swapped[] = { '.', '.', 0x5c00, 0x6f00, 'o', 'u', 't', 0x5c00 };
static const uint16_t lone_high[] = { '.', '.', '\\', 0xd800, '\\', 'b' };
static const uint16_t lone_low[] = { 0xdc00, 'b', 'a', 's', 'e' };
static const uint16_t reversed_pair[] = { 0xdc00, 0xd800, '\\', '.', '.', '\\', 'b' };
static const uint16_t bom[] = { 0xfeff, '.', '.', '\\', 'o', 'u', 't' };
static const uint16_t nul_first[] = { 0, '.', '.', '\\', 'b' };
static const uint16_t nul_inside[] = { 'i', 'n', 's', 'i', 'd', 'e', 0, '\\', '.', '.', '\\', 'b' };
static const uint16_t noncharacter[] = { 0xffff, 0xfffe, 'b' };
static const uint16_t fullwidth[] = { 0xff0e, 0xff0e, 0xff3c, 'o', 'u', 't' };	/* folds to ..\out */
static const uint16_t slash_alikes[] = { '.', '.', 0x2215, 'o', 0x2044, 'b', 0x29f5 };
static const uint16_t right_to_left[] = { 0x202e, 'd', 'h', 'v', '.', 'b' };

#define UNITS(u) (u), SP_ARRAY_SIZE(u)
static const struct {
	const char *name;
	const uint16_t *units;
	size_t count;
} odd[] = {
	{ "swapped bytes", UNITS(swapped) }, { "bytes half swapped", UNITS(half_swapped) },
	{ "lone high surrogate", UNITS(lone_high) }, { "lone low surrogate", UNITS(lone_low) },
	{ "pair reversed", UNITS(reversed_pair) }, { "byte order mark", UNITS(bom) },
	{ "NUL first", UNITS(nul_first) }, { "NUL inside", UNITS(nul_inside) },
	{ "noncharacters", UNITS(noncharacter) }, { "full width dots", UNITS(fullwidth) },
	{ "things like slashes", UNITS(slash_alikes) }, { "right to left", UNITS(right_to_left) },
};

/* Long: units of text, made of these pieces. */
static const struct {
	const char *name, *piece, *end;
	size_t units;
} lengths[] = {
	{ "256 units", "a", "", 256 },
	{ "NAME_MAX and one", "a", "", 300 },
	{ "PATH_MAX and one", "sub/../", "inside", 4200 },
	{ "32 Ki units of up", "..\\", "", 32000 },
	{ "32 Ki units of one name", "b", "", 32700 },
	{ "32 Ki separators", "\\", "x", 32700 },
};

/* ---- making ------------------------------------------------------------------------------------------ */

static char *expand(const char *text, const char *top, const char *ending, const char *self)
{
	const struct { const char *from, *to; } with[] = { { "@TOP@", top }, { "@X@", ending }, { "@SELF@", self } };
	char *out = malloc(16384);
	size_t at = 0;

	if (!out)
		hostile_die("out of memory");
	while (*text && at < 16000) {
		size_t i = 0;

		while (i < SP_ARRAY_SIZE(with) && strncmp(text, with[i].from, strlen(with[i].from)) != 0)
			i++;
		if (i < SP_ARRAY_SIZE(with)) {
			at += (size_t)snprintf(out + at, 16384 - at, "%s", with[i].to);
			text += strlen(with[i].from);
		} else {
			out[at++] = *text++;
		}
	}
	out[at] = '\0';
	return out;
}

static void path_of(char path[static 4096], const char *top, const char *name, const char *ending)
{
	snprintf(path, 4096, "%s/%s%s%s", top, name, ending ? "." : "", ending ? ending : "");
}

static void make_dir(const char *top, const char *name, const char *ending)
{
	char path[4096];

	path_of(path, top, name, ending);
	if (mkdir(path, 0755) < 0)
		hostile_die("%s: %s", path, strerror(errno));
}

static void make_link(const char *top, const char *name, const char *ending, const char *to, const char *to_ending)
{
	char path[4096], target[4096];

	path_of(path, top, name, ending);
	snprintf(target, sizeof(target), "%s%s%s", to, to_ending ? "." : "", to_ending ? to_ending : "");
	if (symlink(target, path) < 0)
		hostile_die("%s: %s", path, strerror(errno));
}

static void make_file(const char *top, const char *name, const char *ending, struct store *s)
{
	char path[4096];

	path_of(path, top, name, ending);
	hostile_write_out(s, path);
}

static void make_socket(const char *top, const char *ending)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	int n = snprintf(a.sun_path, sizeof(a.sun_path), "%s/root/socket.%s", top, ending);

	if (fd < 0 || n >= (int)sizeof(a.sun_path) || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		hostile_die("cannot make a socket in %s", top);
	close(fd);
}

/* Right and wrong parents, and everything else a name can stand for. */
static void make_traps(const char *top, enum vhd_format_id format)
{
	bool vhd = format == VHD_FORMAT_VHD;
	const char *x = vhd ? "vhd" : "vhdx";
	struct store *base = hostile_parent(format), *other = hostile_parent(vhd ? VHD_FORMAT_VHDX : VHD_FORMAT_VHD);
	const struct hostile_text none = { .utf8 = "x" };
	struct store *child = hostile_child(vhd ? SLOT_VHD_W2RU : SLOT_VHDX_RELATIVE, &none), *nothing;
	char from[4096], to[4096];

	if (store_mem_new("empty", 0, 0, &nothing) < 0)
		hostile_die("out of memory");
	make_file(top, "root/inside", x, base);
	make_file(top, "outside/base", x, base);
	make_file(top, "rootevil/base", x, base);
	make_file(top, "root/other", x, other);
	make_file(top, "root/wrong", x, child);		/* an image, with an identity of its own */
	make_file(top, "root/empty", x, nothing);
	if (store_resize(nothing, SP_MIB(1)) < 0)
		hostile_die("out of memory");
	make_file(top, "root/raw", x, nothing);
	make_link(top, "root/link", x, "../outside/base", x);
	make_link(top, "root/near", x, "inside", x);
	make_link(top, "root/dangling", x, "../outside/nothing", NULL);
	make_link(top, "root/loop", x, "loop", x);
	make_dir(top, "root/folder", x);
	make_socket(top, x);
	path_of(from, top, "root/fifo", x);
	if (mkfifo(from, 0644) < 0)
		hostile_die("%s: %s", from, strerror(errno));
	path_of(from, top, "root/device", x);
	if (mknod(from, S_IFCHR | 0644, (dev_t)((1 << 8) | 5)) < 0)	/* /dev/zero; needs privilege */
		make_link(top, "root/device", x, "/dev/zero", NULL);
	path_of(from, top, "outside/base", x);
	path_of(to, top, "root/hard", x);
	if (link(from, to) < 0)
		hostile_die("%s: %s", to, strerror(errno));
	store_close(child);
	store_close(nothing);
}

static void make_case(const char *top, const char *name, enum hostile_slot slot, const struct hostile_text *t,
		      const char *self, const char *expect)
{
	struct store *s = hostile_child(slot, t);
	char path[4096];

	path_of(path, top, "root", NULL);
	snprintf(path, sizeof(path), "%s/root/%s", top, self);
	hostile_write_out(s, path);
	store_close(s);
	printf("%s, %s\t%s\t-\t%s\n", hostile_slot_name[slot], name, path, expect);
}

static const char *self_name(char name[static 64], unsigned index, enum hostile_slot slot)
{
	snprintf(name, 64, "c%u-%u.%s", index, slot, slot < SLOT_VHDX_RELATIVE ? "vhd" : "vhdx");
	return name;
}

static bool same_start(const char *text, const char *start)
{
	return strncmp(text, start, strlen(start)) == 0;
}

/* An absolute text is no relative path, but its last name is looked for beside the child all the same; the name in the
 * header has room for 255 units; "file:" means something only in a URL. */
static void make_texts(const char *top, enum hostile_slot slot, unsigned *index)
{
	const char *x = slot < SLOT_VHDX_RELATIVE ? "vhd" : "vhdx";
	char self[64];

	for (size_t i = 0; i < SP_ARRAY_SIZE(texts); i++, (*index)++) {
		char *text;

		if (same_start(texts[i].name, "URL") && slot != SLOT_VHD_MACX)
			continue;
		text = expand(texts[i].text, top, x, self_name(self, *index, slot));
		make_case(top, texts[i].name, slot, &(struct hostile_text){ .utf8 = text }, self, texts[i].expect);
		free(text);
	}
	for (size_t i = 0; i < SP_ARRAY_SIZE(odd); i++, (*index)++) {
		const struct hostile_text t = { .units = odd[i].units, .unit_count = odd[i].count };

		make_case(top, odd[i].name, slot, &t, self_name(self, *index, slot), REFUSED);
	}
	for (size_t i = 0; i < SP_ARRAY_SIZE(lengths); i++, (*index)++) {
		size_t units = slot == SLOT_VHD_NAME ? 256 : lengths[i].units, at = 0, piece = strlen(lengths[i].piece);
		char *text = malloc(units + 64);

		if (!text)
			hostile_die("out of memory");
		for (; at + piece <= units - strlen(lengths[i].end); at += piece)
			memcpy(text + at, lengths[i].piece, piece);
		strcpy(text + at, lengths[i].end);
		make_case(top, lengths[i].name, slot, &(struct hostile_text){ .utf8 = text },
			  self_name(self, *index, slot), REFUSED ",ENAMETOOLONG");
		free(text);
	}
}

/* The same locators with a root that holds the decoy: they must work, or the refusals prove nothing. */
static void make_proofs(const char *top, unsigned *index)
{
	static const struct { const char *text; enum hostile_slot slot; } proofs[] = {
		{ "..\\outside\\base.vhd", SLOT_VHD_W2RU }, { "@TOP@/outside/base.vhd", SLOT_VHD_W2KU },
		{ "file://@TOP@/outside/base.vhd", SLOT_VHD_MACX }, { "..\\outside\\base.vhdx", SLOT_VHDX_RELATIVE },
		{ "@TOP@/outside/base.vhdx", SLOT_VHDX_ABSOLUTE }, { "..\\rootevil\\base.vhdx", SLOT_VHDX_RELATIVE },
	};

	for (size_t i = 0; i < SP_ARRAY_SIZE(proofs); i++, (*index)++) {
		char self[64], path[4096];
		char *text = expand(proofs[i].text, top, "", self_name(self, *index, proofs[i].slot));
		struct store *s = hostile_child(proofs[i].slot, &(struct hostile_text){ .utf8 = text });

		snprintf(path, sizeof(path), "%s/root/%s", top, self);
		hostile_write_out(s, path);
		printf("%s, proof %zu: with a wider root\t%s\t%s\t0\n", hostile_slot_name[proofs[i].slot], i, path,
		       top);
		store_close(s);
		free(text);
	}
}

static int make(const char *top)
{
	unsigned index = 0;

	make_dir(top, "root", NULL);
	make_dir(top, "root/sub", NULL);
	make_dir(top, "outside", NULL);
	make_dir(top, "rootevil", NULL);
	make_link(top, "root/linkdir", NULL, "../outside", NULL);
	make_link(top, "root/magic", NULL, "/proc/self/cwd", NULL);
	make_traps(top, VHD_FORMAT_VHD);
	make_traps(top, VHD_FORMAT_VHDX);
	for (int slot = 0; slot < SLOTS; slot++)
		make_texts(top, (enum hostile_slot)slot, &index);
	make_proofs(top, &index);
	return 0;
}

/* ---- opening ----------------------------------------------------------------------------------------- */

/* Seen in the trace: what follows belongs to case @n. */
static void mark(unsigned n)
{
	char path[64];

	snprintf(path, sizeof(path), "/hostile/case/%u", n);
	close(open(path, O_RDONLY | O_CLOEXEC));
}

static void open_one(unsigned n, const char *image, const char *root)
{
	struct vhd_open_opts o = { .image_root = strcmp(root, "-") == 0 ? NULL : root };
	struct sp_err err = { 0 };
	struct vhd_disk *d;
	uint64_t start = sp_env_monotonic_ns();
	uint8_t sector[512];
	int r;

	mark(n);
	alarm(SECONDS);
	r = vhd_disk_open(image, &o, &d, &err);
	if (r == 0) {
		r = vhd_disk_read(d, sector, sizeof(sector), 0);
		vhd_disk_close(d, NULL);
	}
	alarm(0);
	printf("%u\t%s\t%s\t%" PRIu64 "\t%s\n", n, r == 0 ? "0" : strerrorname_np(-r),
	       r == 0 || err.code == r ? "told" : "silent", (sp_env_monotonic_ns() - start) / 1000000, err.text);
	fflush(stdout);
}

static int open_all(const char *list)
{
	FILE *f = strcmp(list, "-") == 0 ? stdin : fopen(list, "r");
	char line[8192];
	unsigned n = 0;

	if (!f)
		hostile_die("%s: %s", list, strerror(errno));
	while (fgets(line, sizeof(line), f)) {
		char *rest = line;

		strsep(&rest, "\t");
		if (rest) {
			char *image = strsep(&rest, "\t"), *root = rest ? strsep(&rest, "\t") : NULL;

			if (root)
				open_one(n, image, root);
		}
		n++;
	}
	mark(UINT32_MAX);
	fclose(f);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "make") == 0)
		return make(argv[2]);
	if (argc == 3 && strcmp(argv[1], "open") == 0)
		return open_all(argv[2]);
	fprintf(stderr, "usage: hostile make TOP | hostile open LIST\n");
	return 2;
}
