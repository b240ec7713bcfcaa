/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the operator writes: --disk and --dvd, the JSON file, and the check of all of it together.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "tests/unit/rows.h"
#include "vmm/config_int.h"

/* ---- a disk ------------------------------------------------------------------------------------------ */

/* All of a disk in one line, so that a row can say it. */
static const char *line_of(const struct vmm_disk_config *d)
{
	static char line[512];

	snprintf(line, sizeof(line), "%s %s %d:%d%s%s%s %" PRIu64 "/%" PRIu64 "/%" PRIu64 "/%" PRIu64 "/%" PRIu64
		 " %s %s", d->path ? d->path : "-", vhd_format_name(d->format), d->controller, d->lun,
		 d->read_only ? " ro" : "", d->snapshot ? " snapshot" : "", d->write_through ? " wt" : "", d->iops,
		 d->bps, d->burst_iops, d->burst_bps, d->min_iops, d->serial ? d->serial : "-",
		 d->image_root ? d->image_root : "-");
	return line;
}

static const struct disk_row {
	const char *name, *spec;
	bool dvd;
	int result;
	const char *want;		/* the line; on failure: a part of the story */
} disk_rows[] = {
	{ "a file", "a.vhdx", false, 0, "a.vhdx auto -1:-1 0/0/0/0/0 - -" },
	{ "key file", "file=a.vhdx", false, 0, "a.vhdx auto -1:-1 0/0/0/0/0 - -" },
	{ "file twice: the last", "b,file=a.vhdx", false, 0, "a.vhdx auto -1:-1 0/0/0/0/0 - -" },
	{ "doubled comma", "a,,b,,,lun=1", false, 0, "a,b, auto -1:1 0/0/0/0/0 - -" },
	{ "a file named like a key", "ro", false, 0, "ro auto -1:-1 0/0/0/0/0 - -" },
	{ "a file with an equals sign", "a=b", false, 0, "a=b auto -1:-1 0/0/0/0/0 - -" },
	{ "lun and controller", "a,lun=63,controller=3", false, 0, "a auto 3:63 0/0/0/0/0 - -" },
	{ "lun 64", "a,lun=64", false, -ERANGE, "63 is the highest" },
	{ "controller 4", "a,controller=4", false, -ERANGE, "3 is the highest" },
	{ "lun without value", "a,lun", false, -EINVAL, "lun needs a value" },
	{ "lun empty", "a,lun=", false, -EINVAL, "lun= is not understood" },
	{ "lun negative", "a,lun=-1", false, -EINVAL, "not understood" },
	{ "formats", "a,format=raw", false, 0, "a raw -1:-1 0/0/0/0/0 - -" },
	{ "unknown format", "a,format=qcow2", false, -EINVAL, "format=qcow2" },
	{ "ro", "a,ro", false, 0, "a auto -1:-1 ro 0/0/0/0/0 - -" },
	{ "ro=on", "a,ro=on", false, 0, "a auto -1:-1 ro 0/0/0/0/0 - -" },
	{ "ro=off", "a,ro,ro=off", false, 0, "a auto -1:-1 0/0/0/0/0 - -" },
	{ "ro=maybe", "a,ro=maybe", false, -EINVAL, "ro=maybe" },
	{ "snapshot", "a,snapshot", false, 0, "a auto -1:-1 snapshot 0/0/0/0/0 - -" },
	{ "snapshot and ro", "a,snapshot,ro", false, -EINVAL, "exclude" },
	{ "writethrough", "a,writethrough", false, 0, "a auto -1:-1 wt 0/0/0/0/0 - -" },
	{ "limits", "a,iops=1,bps=2k,burst-iops=3,burst-bps=4m,min-iops=5", false, 0,
	  "a auto -1:-1 1/2048/3/4194304/5 - -" },
	{ "a limit of all of 64 bits", "a,bps=18446744073709551615", false, 0,
	  "a auto -1:-1 0/18446744073709551615/0/0/0 - -" },
	{ "a limit too many", "a,bps=18446744073709551616", false, -ERANGE, "18446744073709551615 is the highest" },
	{ "a limit that wraps", "a,bps=16777217t", false, -ERANGE, "highest" },
	{ "a limit with two suffixes", "a,bps=1kk", false, -EINVAL, "bps=1kk" },
	{ "a limit in hexadecimal", "a,iops=0x10", false, -EINVAL, "iops=0x10" },
	{ "serial", "a,serial=S N", false, 0, "a auto -1:-1 0/0/0/0/0 S N -" },
	{ "serial twice: the last", "a,serial=1,serial=2", false, 0, "a auto -1:-1 0/0/0/0/0 2 -" },
	{ "image-root", "a,image-root=/images", false, 0, "a auto -1:-1 0/0/0/0/0 - /images" },
	{ "unknown key", "a,cache=none", false, -EINVAL, "\"cache\" is no key" },
	{ "nothing after a comma", "a,", false, -EINVAL, "\"\" is no key" },
	{ "nothing", "", false, -EINVAL, "empty" },
	{ "no file", "file=", false, -EINVAL, "empty" },
	{ "only a key", "lun=1", false, -EINVAL, "needs a file" },
	{ "a DVD is raw", "a.iso", true, 0, "a.iso raw -1:-1 0/0/0/0/0 - -" },
	{ "a drive without medium", "none", true, 0, "- raw -1:-1 0/0/0/0/0 - -" },
	{ "a drive without medium, placed", "none,lun=7", true, 0, "- raw -1:7 0/0/0/0/0 - -" },
	{ "a DVD named none", "file=none", true, 0, "none raw -1:-1 0/0/0/0/0 - -" },
	{ "a DVD with snapshot", "a.iso,snapshot", true, -EINVAL, "exclude" },
	{ "a disk named none", "none", false, 0, "none auto -1:-1 0/0/0/0/0 - -" },
};

static void disk(void **state)
{
	const struct disk_row *row = *state;
	struct vmm_disk_config d, copy;
	struct sp_err err = { 0 };

	assert_int_equal(vmm_disk_config_parse(&d, row->spec, row->dvd, &err), row->result);
	if (row->result < 0) {
		if (!strstr(err.text, row->want) || !strstr(err.text, row->spec))
			fail_msg("said: %s", err.text);
		return;
	}
	assert_string_equal(line_of(&d), row->want);
	assert_int_equal(vmm_disk_config_copy(&d, &copy), 0);
	vmm_disk_config_fini(&d);
	assert_string_equal(line_of(&copy), row->want);
	vmm_disk_config_fini(&copy);
}

/* ---- JSON -------------------------------------------------------------------------------------------- */

static const char *machine_line(const struct vmm_config *c)
{
	static char line[1024];
	char id[SP_GUID_TEXT];

	sp_guid_format_le(&c->id, id);
	snprintf(line, sizeof(line), "%s %" PRIu64 "M %u %s %s %s %s %s%s%s%s %u %.8s %u", c->name[0] ? c->name : "-",
		 c->memory >> 20, c->cpus, c->kernel ? c->kernel : "-", c->initrd ? c->initrd : "-",
		 c->append ? c->append : "-", c->serial ? c->serial : "-", c->qmp ? c->qmp : "-",
		 c->paused ? " paused" : "", c->no_reboot ? " no-reboot" : "", c->no_jail ? " no-jail" : "", c->poll_us,
		 id, c->disks);
	return line;
}

static const struct json_row {
	const char *name, *text;
	int result;
	const char *want;
} json_rows[] = {
	{ "nothing in it", "{}", 0, "- 512M 1 - - - - - 0 00000000 0" },
	{ "all of it", "{\"name\":\"web\",\"id\":\"12345678-1234-1234-1234-123456789abc\",\"mem\":\"2G\",\"cpus\":4,"
	  "\"kernel\":\"k\",\"initrd\":\"i\",\"append\":\"a b\",\"serial\":\"none\",\"qmp\":\"q\",\"paused\":true,"
	  "\"no-reboot\":\"on\",\"no-jail\":true,\"poll-us\":9,\"disks\":[{\"file\":\"a\"}],\"dvds\":[{}]}",
	  0, "web 2048M 4 k i a b none q paused no-reboot no-jail 9 12345678 2" },
	{ "memory is in MiB", "{\"mem\":64}", 0, "- 64M 1 - - - - - 0 00000000 0" },
	{ "memory with a suffix", "{\"mem\":\"65536k\"}", 0, "- 64M 1 - - - - - 0 00000000 0" },
	{ "memory of a fraction", "{\"mem\":1.5}", -EINVAL, "mem=1.5" },
	{ "memory that wraps", "{\"mem\":17592186044416}", -EINVAL, "mem=17592186044416" },
	{ "spaces around", " \n{\"cpus\":2}\n\n", 0, "- 512M 2 - - - - - 0 00000000 0" },
	{ "a key twice: the last", "{\"cpus\":2,\"cpus\":3}", 0, "- 512M 3 - - - - - 0 00000000 0" },
	{ "empty file", "", -EINVAL, "no JSON object" },
	{ "a list", "[]", -EINVAL, "no JSON object" },
	{ "a number", "5", -EINVAL, "no JSON object" },
	{ "not closed", "{\"cpus\":2", -EINVAL, "no JSON object" },
	{ "text behind", "{\"cpus\":2} x", -EINVAL, "no JSON object" },
	{ "a second object", "{}{}", -EINVAL, "no JSON object" },
	{ "single quotes", "{\"name\":'a'}", -EINVAL, "no JSON object" },
	{ "a comment", "{/* two */\"cpus\":2}", -EINVAL, "no JSON object" },
	{ "too deep", "{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":1}}}}}}}}}", -EINVAL, "no JSON" },
	{ "not UTF-8", "{\"name\":\"\xff\"}", -EINVAL, "no JSON object" },
	{ "unknown key", "{\"ram\":1}", -EINVAL, "unknown key \"ram\"" },
	{ "cpus as text", "{\"cpus\":\"2\"}", 0, "- 512M 2 - - - - - 0 00000000 0" },
	{ "cpus: no number", "{\"cpus\":\"two\"}", -EINVAL, "cpus=two" },
	{ "cpus: negative", "{\"cpus\":-1}", -EINVAL, "cpus=-1" },
	{ "cpus: 65", "{\"cpus\":65}", -ERANGE, "64 is the highest" },
	{ "cpus: a list", "{\"cpus\":[1]}", -EINVAL, "\"cpus\" is no plain value" },
	{ "kernel: null", "{\"kernel\":null}", -EINVAL, "\"kernel\" is no plain value" },
	{ "kernel: a zero in it", "{\"kernel\":\"a\\u0000b\"}", -EINVAL, "zero character" },
	{ "paused: a number", "{\"paused\":1}", -EINVAL, "paused=1" },
	{ "name: empty", "{\"name\":\"\"}", -EINVAL, "1 to 64" },
	{ "name: 65 characters",
	  "{\"name\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}", -EINVAL, "1 to 64" },
	{ "name: an object", "{\"name\":{}}", -EINVAL, "no plain value" },
	{ "name: null", "{\"name\":null}", -EINVAL, "no plain value" },
	{ "id: no GUID", "{\"id\":\"5\"}", -EINVAL, "no GUID" },
	{ "id: a number", "{\"id\":5}", -EINVAL, "no GUID" },
	{ "disks: no list", "{\"disks\":{}}", -EINVAL, "\"disks\" is no list" },
	{ "disks: null", "{\"disks\":null}", -EINVAL, "\"disks\" is no list" },
	{ "disks: a text", "{\"disks\":[\"a\"]}", -EINVAL, "\"disks\", entry 0: is no object" },
	{ "disks: the second without file", "{\"disks\":[{\"file\":\"a\"},{}]}", -EINVAL, "\"disks\", entry 1: " },
	{ "disks: unknown key", "{\"disks\":[{\"file\":\"a\",\"x\":1}]}", -EINVAL, "unknown key \"x\"" },
	{ "disks: ro as text", "{\"disks\":[{\"file\":\"a\",\"ro\":\"true\"}]}", 0, "- 512M 1 - - - - - 0 00000000 1" },
	{ "dvds: snapshot", "{\"dvds\":[{\"snapshot\":true}]}", -EINVAL, "exclude" },
};

static char *write_file(const char *text, size_t len)
{
	static char path[] = "/tmp/test-vmm-config.XXXXXX";
	int fd;

	strcpy(path + sizeof(path) - 7, "XXXXXX");
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, len), len);
	close(fd);
	return path;
}

static void json(void **state)
{
	const struct json_row *row = *state;
	char *path = write_file(row->text, strlen(row->text));
	struct sp_err err = { 0 };
	struct vmm_config c;

	vmm_config_init(&c);
	assert_int_equal(vmm_config_json(&c, path, &err), row->result);
	unlink(path);
	if (row->result == 0)
		assert_string_equal(machine_line(&c), row->want);
	else if (!strstr(err.text, row->want) || !strstr(err.text, path))
		fail_msg("said: %s", err.text);
	vmm_config_fini(&c);
}

static void json_cannot_be_read(void **state)
{
	struct sp_err err = { 0 };
	struct vmm_config c;
	char *big = malloc(2u << 20), *path;

	vmm_config_init(&c);
	assert_int_equal(vmm_config_json(&c, "/nowhere/at/all", &err), -ENOENT);
	assert_non_null(strstr(err.text, "/nowhere/at/all"));
	assert_int_equal(vmm_config_json(&c, "/", &err), -EISDIR);
	memset(big, ' ', 2u << 20);
	path = write_file(big, 2u << 20);
	assert_int_equal(vmm_config_json(&c, path, &err), -EFBIG);
	unlink(path);
	free(big);
	vmm_config_fini(&c);
}

/* A pipe gives what it has in pieces. */
static void json_from_a_pipe(void **state)
{
	struct sp_err err = { 0 };
	struct vmm_config c;
	char name[32];
	int end[2];

	assert_int_equal(pipe(end), 0);
	if (fork() == 0) {
		for (const char *p = "{\"name\":\"piped\",\"cpus\":7}"; *p; p++) {
			if (write(end[1], p, 1) != 1)
				_exit(1);
			usleep(100);
		}
		_exit(0);
	}
	close(end[1]);
	snprintf(name, sizeof(name), "/dev/fd/%d", end[0]);
	vmm_config_init(&c);
	assert_int_equal(vmm_config_json(&c, name, &err), 0);
	assert_string_equal(c.name, "piped");
	assert_int_equal(c.cpus, 7);
	close(end[0]);
	vmm_config_fini(&c);
}

static void json_zero_behind(void **state)
{
	static const char text[] = "{\"cpus\":2}\0{\"cpus\":3}";
	char *path = write_file(text, sizeof(text) - 1);
	struct sp_err err = { 0 };
	struct vmm_config c;

	vmm_config_init(&c);
	assert_int_equal(vmm_config_json(&c, path, &err), -EINVAL);
	unlink(path);
	vmm_config_fini(&c);
}

/* ---- all of it together ------------------------------------------------------------------------------ */

static const struct check_row {
	const char *name, *json;	/* "kernel" is there unless it says "no kernel" */
	int result;
	const char *want;
} check_rows[] = {
	{ "defaults", "{}", 0, "machine 512M 1 k - console=ttyS0 panic=-1 stdio - 0" },
	{ "name from the disk", "{\"disks\":[{\"file\":\"x/My Disk.first.vhdx\"}]}", 0,
	  "My-Disk 512M 1 k - console=ttyS0 panic=-1 stdio - 0" },
	{ "name from a hidden disk", "{\"disks\":[{\"file\":\"x/.hidden\"}]}", 0,
	  "machine 512M 1 k - console=ttyS0 panic=-1 stdio - 0" },
	{ "name with a slash", "{\"name\":\"a/b\"}", -EINVAL, "name \"a/b\"" },
	{ "name with a dot in front", "{\"name\":\".a\"}", -EINVAL, "name \".a\"" },
	{ "no processors", "{\"cpus\":0}", -EINVAL, "0 processors" },
	{ "too little memory", "{\"mem\":15}", -EINVAL, "memory" },
	{ "too much memory", "{\"mem\":\"5t\"}", -EINVAL, "memory" },
	{ "odd memory is cut", "{\"mem\":\"17m\"}", 0, "machine 16M 1 k - console=ttyS0 panic=-1 stdio - 0" },
	{ "serial", "{\"serial\":\"tcp:70000\"}", -EINVAL, "tcp:70000" },
	{ "two in one place", "{\"disks\":[{\"file\":\"a\",\"lun\":1},{\"file\":\"b\",\"lun\":1}]}", -EINVAL,
	  "a and b: both are to be unit 1 of controller 0" },
	{ "a disk in the place of a drive", "{\"disks\":[{\"file\":\"a\",\"lun\":1}],\"dvds\":[{\"lun\":1}]}", -EINVAL,
	  "a DVD drive" },
};

static void check(void **state)
{
	const struct check_row *row = *state;
	char *path = write_file(row->json, strlen(row->json));
	struct sp_err err = { 0 };
	struct vmm_config c;

	vmm_config_init(&c);
	assert_int_equal(vmm_config_json(&c, path, &err), 0);
	unlink(path);
	assert_int_equal(vmm_config_check(&c, &err), -EINVAL);
	assert_non_null(strstr(err.text, row->result && strstr(row->name, "name with") ? "name" : "no kernel"));
	vmm_config_set_string(&c.kernel, "k");
	assert_int_equal(vmm_config_check(&c, &err), row->result);
	if (row->result == 0)
		assert_memory_equal(machine_line(&c), row->want, strlen(row->want));
	else if (!strstr(err.text, row->want))
		fail_msg("said: %s", err.text);
	vmm_config_fini(&c);
}

/* The same name is the same machine. */
static void identity(void **state)
{
	struct vmm_config c[3];

	for (unsigned i = 0; i < 3; i++) {
		vmm_config_init(&c[i]);
		strcpy(c[i].name, i == 2 ? "other" : "one");
		vmm_config_set_string(&c[i].kernel, "k");
		assert_int_equal(vmm_config_check(&c[i], NULL), 0);
	}
	assert_true(sp_guid_equal(&c[0].id, &c[1].id));
	assert_false(sp_guid_equal(&c[0].id, &c[2].id));
	for (unsigned i = 0; i < 3; i++)
		vmm_config_fini(&c[i]);
}

static void places(void **state)
{
	struct sp_err err = { 0 };
	struct vmm_config c;

	vmm_config_init(&c);
	vmm_config_set_string(&c.kernel, "k");
	assert_int_equal(vmm_config_add_disk(&c, "a", false, NULL), 0);
	assert_int_equal(vmm_config_add_disk(&c, "b,lun=0", false, NULL), 0);
	assert_int_equal(vmm_config_add_disk(&c, "c,controller=1", false, NULL), 0);
	assert_int_equal(vmm_config_add_disk(&c, "none", true, NULL), 0);
	assert_int_equal(vmm_config_check(&c, &err), 0);
	assert_string_equal(line_of(&c.disk[0]), "a auto 0:1 0/0/0/0/0 - -");	/* what is named goes first */
	assert_string_equal(line_of(&c.disk[1]), "b auto 0:0 0/0/0/0/0 - -");
	assert_string_equal(line_of(&c.disk[2]), "c auto 1:0 0/0/0/0/0 - -");
	assert_string_equal(line_of(&c.disk[3]), "- raw 0:2 0/0/0/0/0 - -");
	for (unsigned i = 0; i < VMM_LUNS - 3; i++)
		assert_int_equal(vmm_config_add_disk(&c, "d", false, NULL), 0);
	assert_int_equal(vmm_config_check(&c, &err), 0);
	assert_int_equal(vmm_config_add_disk(&c, "e", false, NULL), 0);
	assert_int_equal(vmm_config_check(&c, &err), -EINVAL);
	assert_non_null(strstr(err.text, "e: all 64 units of controller 0 are taken"));
	vmm_config_fini(&c);
}

static const struct single_row others[] = {
	{ "a configuration that cannot be read", json_cannot_be_read },
	{ "a configuration from a pipe", json_from_a_pipe },
	{ "a zero and more behind a configuration", json_zero_behind },
	{ "the same name is the same machine", identity },
	{ "places of disks", places },
};

int main(void)
{
	return ROWS_RUN(disk_rows, disk) + ROWS_RUN(json_rows, json) + ROWS_RUN(check_rows, check) +
	       ROWS_RUN(others, rows_single);
}
