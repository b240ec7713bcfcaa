/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * libext2fs reads through an io_manager; this one reads a stretch of a virtual disk. It is also where the work is
 * bounded that a hostile file system can cause: trees of extents may lead in circles, but every step of it is a read.
 */
#include <errno.h>
#include <ext2fs/ext2fs.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/seed.h"
#include "vmm/kernel_file_int.h"

#define READS_LOOKUP 65536u		/* to open it and to find the name */
#define READS_BLOCK 8u			/* per block of the file: itself, and the way to it */
#define GROUPS_MAX (1u << 20)		/* 128 TiB as mke2fs makes them; each costs 64 bytes of memory */
#define SUPERBLOCK 1024u

struct window {
	struct vhd_disk *disk;
	uint64_t offset, size;
	uint64_t reads;			/* that may still be made */
};

/* ---- io_manager ------------------------------------------------------------------------------------ */

/* open() is given nothing but a name; the thread that opens leaves the window here. */
static _Thread_local struct window *opening;

static errcode_t window_open(const char *name, int flags, io_channel *ret_channel);

static errcode_t window_close(io_channel channel)
{
	if (--channel->refcount > 0)
		return 0;
	sp_free(channel->name);
	sp_free(channel);
	return 0;
}

static errcode_t window_set_blksize(io_channel channel, int size)
{
	channel->block_size = size;
	return 0;
}

/* @count: blocks, or negative: bytes. */
static errcode_t window_read64(io_channel channel, unsigned long long block, int count, void *data)
{
	struct window *w = channel->private_data;
	uint64_t unit = (uint64_t)channel->block_size;
	uint64_t len = count < 0 ? (uint64_t)-(int64_t)count : (uint64_t)count * unit;
	int r;

	if (!SP_SEED_BUG(KERNEL_FILE_ENDLESS) && w->reads-- == 0) {
		w->reads = 0;		/* whoever asks again hears the same */
		return EXT2_ET_CANCEL_REQUESTED;
	}
	if (block > w->size / unit || !sp_range_ok(block * unit, len, w->size))
		return EXT2_ET_SHORT_READ;
	r = vhd_disk_read(w->disk, data, (size_t)len, w->offset + block * unit);
	return r < 0 ? -r : 0;
}

static errcode_t window_read(io_channel channel, unsigned long block, int count, void *data)
{
	return window_read64(channel, block, count, data);
}

static errcode_t window_write64(io_channel channel, unsigned long long block, int count, const void *data)
{
	return EROFS;
}

static errcode_t window_write(io_channel channel, unsigned long block, int count, const void *data)
{
	return EROFS;
}

static errcode_t window_flush(io_channel channel)
{
	return 0;
}

static struct struct_io_manager window_manager = {
	.magic = EXT2_ET_MAGIC_IO_MANAGER, .name = "spindle virtual disk",
	.open = window_open, .close = window_close, .set_blksize = window_set_blksize,
	.read_blk = window_read, .write_blk = window_write, .flush = window_flush,
	.read_blk64 = window_read64, .write_blk64 = window_write64,
};

static errcode_t window_open(const char *name, int flags, io_channel *ret_channel)
{
	io_channel c = sp_zalloc(sizeof(*c));

	if (!c)
		return EXT2_ET_NO_MEMORY;
	c->magic = EXT2_ET_MAGIC_IO_CHANNEL;
	c->manager = &window_manager;
	c->name = sp_strdup(name);
	c->block_size = (int)SUPERBLOCK;
	c->refcount = 1;
	c->private_data = opening;
	if (!c->name) {
		sp_free(c);
		return EXT2_ET_NO_MEMORY;
	}
	*ret_channel = c;
	return 0;
}

/* ---- file system ----------------------------------------------------------------------------------- */

static int failed(struct sp_err *err, errcode_t code, const char *what)
{
	int r = -EBADMSG;

	if (code == EXT2_ET_FILE_NOT_FOUND || code == EXT2_ET_NO_DIRECTORY)
		return sp_err_set(err, -ENOENT, "%s: not found", what);
	if (code == EXT2_ET_SYMLINK_LOOP)
		return sp_err_set(err, -ELOOP, "%s: %s", what, strerror(ELOOP));
	if (code == EXT2_ET_CANCEL_REQUESTED)
		return sp_err_set(err, -EBADMSG, "%s: leads in circles, given up", what);
	if (code == EXT2_ET_NO_MEMORY || code == ENOMEM)
		r = -ENOMEM;
	else if (code == EXT2_ET_UNSUPP_FEATURE || code == EXT2_ET_RO_UNSUPP_FEATURE)
		r = -ENOTSUP;
	else if (code > 0 && code < 256)
		r = -(int)code;
	return sp_err_set(err, r, "%s: %s", what, r == -(int)code ? strerror(-r) : error_message(code));
}

/* What ext2fs_open2() allocates by, before it does. */
static int check_superblock(struct window *w, struct sp_err *err)
{
	struct ext2_super_block sb;
	uint64_t blocks;
	unsigned per_group, shift;
	int r;

	if (!sp_range_ok(SUPERBLOCK, sizeof(sb), w->size))
		return sp_err_set(err, -EBADMSG, "file system of %" PRIu64 " bytes has no room for a superblock",
				  w->size);
	r = vhd_disk_read(w->disk, &sb, sizeof(sb), w->offset + SUPERBLOCK);
	if (r < 0)
		return sp_err_set(err, r, "superblock: %s", strerror(-r));
	blocks = sb.s_blocks_count;
	if (sb.s_feature_incompat & EXT4_FEATURE_INCOMPAT_64BIT)
		blocks |= (uint64_t)sb.s_blocks_count_hi << 32;
	per_group = sb.s_blocks_per_group;
	shift = sb.s_log_block_size;
	if (sb.s_magic != EXT2_SUPER_MAGIC || shift > 6 || per_group == 0)
		return sp_err_set(err, -EBADMSG, "superblock: magic %#x, block size 1024 << %u, %u blocks per group",
				  sb.s_magic, shift, per_group);
	if (blocks > w->size >> (shift + 10) || blocks / per_group >= GROUPS_MAX)
		return sp_err_set(err, -EBADMSG, "superblock: %" PRIu64 " blocks of %u bytes in groups of %u, where "
				  "%" PRIu64 " bytes are", blocks, 1024u << shift, per_group, w->size);
	return 0;
}

static int read_inode(ext2_filsys fs, ext2_file_t file, uint64_t len, uint8_t **ret_bytes, struct sp_err *err)
{
	struct window *w = fs->io->private_data;
	uint8_t *buf = sp_alloc((size_t)len);
	uint64_t done = 0;

	if (!buf)
		return sp_err_set(err, -ENOMEM, "out of memory");
	w->reads = READS_LOOKUP + (len / fs->blocksize + 1) * READS_BLOCK;
	while (done < len) {
		unsigned got = 0, want = (unsigned)sp_min(len - done, SP_MIB(1));
		errcode_t code = ext2fs_file_read(file, buf + done, want, &got);

		if (code || got == 0) {
			sp_free(buf);
			return failed(err, code ? code : EXT2_ET_SHORT_READ, "reading");
		}
		done += got;
	}
	*ret_bytes = buf;
	return 0;
}

static int read_file(ext2_filsys fs, ext2_ino_t inode, uint8_t **ret_bytes, size_t *ret_len, struct sp_err *err)
{
	ext2_file_t file;
	errcode_t code = ext2fs_file_open(fs, inode, 0, &file);
	__u64 len = 0;
	int r;

	if (code)
		return failed(err, code, "opening");
	code = ext2fs_file_get_lsize(file, &len);
	if (code)
		r = failed(err, code, "size");
	else if (!LINUX_S_ISREG(ext2fs_file_get_inode(file)->i_mode))
		r = sp_err_set(err, -EINVAL, "is no regular file");
	else if (len == 0)
		r = sp_err_set(err, -EINVAL, "is empty");
	else if (len > VMM_KERNEL_FILE_MAX)
		r = sp_err_set(err, -EFBIG, "has %" PRIu64 " bytes; 1 GiB is the most that is loaded", (uint64_t)len);
	else
		r = read_inode(fs, file, len, ret_bytes, err);
	if (r == 0)
		*ret_len = (size_t)len;
	ext2fs_file_close(file);
	return r;
}

static int read_path(ext2_filsys fs, const char *path, uint8_t **ret_bytes, size_t *ret_len, struct sp_err *err)
{
	ext2_ino_t inode;
	errcode_t code = ext2fs_namei_follow(fs, EXT2_ROOT_INO, EXT2_ROOT_INO, path, &inode);
	int r = code ? failed(err, code, path) : read_file(fs, inode, ret_bytes, ret_len, err);

	/* What the journal holds has not reached its place, and a file system that is only read stays as it is. */
	if (r < 0 && r != -ENOMEM && ext2fs_has_feature_journal_needs_recovery(fs->super))
		sp_err_prefix(err, r, "the file system was not unmounted cleanly");
	return r;
}

int kernel_file_read_ext(struct vhd_disk *d, uint64_t offset, uint64_t size, const char *path, uint8_t **ret_bytes,
			 size_t *ret_len, struct sp_err *err)
{
	struct window w = { .disk = d, .offset = offset, .size = size, .reads = READS_LOOKUP };
	ext2_filsys fs;
	errcode_t code;
	int r;

	r = check_superblock(&w, err);
	if (r < 0)
		return r;
	initialize_ext2_error_table();
	opening = &w;
	code = ext2fs_open2("disk", NULL, EXT2_FLAG_64BITS, 0, 0, &window_manager, &fs);
	opening = NULL;
	if (code)
		return failed(err, code, "file system");
	r = read_path(fs, path, ret_bytes, ret_len, err);
	ext2fs_close_free(&fs);
	return r;
}
