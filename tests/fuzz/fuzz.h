/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_FUZZ_H
#define SPINDLE_TESTS_FUZZ_H
/*
 * Fuzz targets of the engine. The same code runs under libFuzzer (libfuzzer.c, clang) and as a plain program that
 * replays the committed corpus (replay.c, any compiler).
 *
 * An input does not hold an image but what to change in one: images of many MiB become inputs of some dozen bytes.
 *
 *	byte 0		which seed image, modulo the target's list
 *	byte 1		FZ_SEAL ... : what is put right after the changes; FZ_VARIANT: how the target opens it
 *	records		kind (1), file (1), offset (8, little-endian), length (2), then bytes of a patch
 *
 * Parsing is loose: anything is an input. The seed images are made by the engine itself, in memory, at start.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vhd/disk_int.h"
#include "vhd/image.h"
#include "vhd/store.h"

#define FZ_SEAL 0x01u		/* checksums of every structure a change touched */
#define FZ_LOG_SYNC 0x02u	/* log entries: GUID of the header, one sequence number throughout */
#define FZ_FOOTER 0x04u		/* VHD: the footer follows the end of the file */
#define FZ_VARIANT(flags) ((flags) >> 3)

#define FZ_FILES 3u		/* leaf, its parent, and that one's */
#define FZ_RECORDS 64u
#define FZ_INPUT_MAX 4096u
#define FZ_FILE_LIMIT (64u << 20)	/* bytes of memory behind one image file */

enum fz_kind { FZ_PATCH, FZ_SIZE, FZ_ZERO, FZ_OP, FZ_KINDS };

/* FZ_OP: file is the operation, length counts units of 2^(file >> 4) bytes. */
struct fz_record {
	enum fz_kind kind;
	uint8_t file;
	uint64_t offset;
	uint16_t len;
	const uint8_t *bytes;	/* FZ_PATCH: in the input */
};

struct fz_input {
	uint8_t seed, flags;
	unsigned records;
	struct fz_record record[FZ_RECORDS];
};

#define FZ_HEADER 2u
#define FZ_RECORD_SIZE 12u

/* ---- seeds ---------------------------------------------------------------------------------------- */

enum fz_seed_id {
	FZ_VHD_FIXED, FZ_VHD_DYNAMIC, FZ_VHD_SMALL_BLOCKS, FZ_VHD_CHILD, FZ_VHD_CHAIN,
	FZ_VHDX_FIXED, FZ_VHDX_DYNAMIC, FZ_VHDX_4K, FZ_VHDX_HUGE, FZ_VHDX_CHILD, FZ_VHDX_CHAIN,
	FZ_VHDX_DIRTY, FZ_VHDX_DIRTY_CHILD,
	FZ_SEEDS,
};

/* A number inside an image that is worth a hostile value. */
struct fz_field {
	uint64_t offset;
	uint8_t file, width;	/* bytes: 1, 2, 4, 8; 16: a GUID */
	bool big_endian;
	uint64_t twin;		/* the same field of the other copy, 0: none */
};

struct fz_seed {
	struct store_folder *folder;
	enum vhd_format_id format;
	unsigned files;
	const char *name[FZ_FILES];	/* leaf first */
	uint64_t size;			/* of the virtual disk */
	uint64_t log_offset, metadata_offset, bat_offset;	/* VHDX leaf */
	uint32_t log_length, log_used;	/* used: up to and including the last entry's first sector */
	struct fz_field *field;		/* fields.c */
	unsigned fields;
};

/* Made on first use; never freed. */
const struct fz_seed *fz_seed(enum fz_seed_id id);
/* Fills seed->field. */
void fz_fields(struct fz_seed *seed);

/* ---- a case: a seed with the changes of an input applied ------------------------------------------- */

struct fz_case {
	const struct fz_seed *seed;
	struct fz_input in;
	struct store_folder *folder;	/* a copy, to be ruined at will */
};

struct fz_target {
	const char *name;
	const enum fz_seed_id *seed;
	unsigned seeds;
	bool ops;			/* FZ_OP records mean something */
	void (*run)(struct fz_case *c);
};

extern const struct fz_target fz_target_vhd, fz_target_vhdx_open, fz_target_vhdx_log, fz_target_vhdx_metadata,
	fz_target_chain, fz_target_disk_write, fz_target_check_repair, fz_target_track;

void fz_parse(const uint8_t *data, size_t size, struct fz_input *ret);
/* Bytes written; records that do not fit in @room are left out. */
size_t fz_unparse(const struct fz_input *in, uint8_t *buf, size_t room);
/* One input through one target, inside the limits (limits.c). Aborts on a finding. */
void fz_run(const struct fz_target *t, const uint8_t *data, size_t size);
/* Structure-aware mutation in place; returns the new size. */
size_t fz_mutate(const struct fz_target *t, uint8_t *data, size_t size, size_t max_size, unsigned random);
/* seal.c: puts checksums right over what the input changed. */
void fz_seal(struct fz_case *c, unsigned file);

/* ---- helpers of targets ---------------------------------------------------------------------------- */

/* A broken promise: tells, and ends the process as a crash would. */
void fz_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
#define fz_check(cond, ...)                   \
	do {                                  \
		if (!(cond))                  \
			fz_fail(__VA_ARGS__); \
	} while (0)

/* A store on a copy of file @file of the case; NULL when there is no such file. */
struct store *fz_store(struct fz_case *c, unsigned file, bool writable);
/* Maps the disk in a bounded number of steps and reads at the edges of what it finds. @ret_hash: of the answers. */
void fz_walk(struct vhd_disk *d, uint64_t *ret_hash);
/* Maps one image the same way, checking what every place promises. */
void fz_map_image(struct vhd_image *img);
/* limits.c: memory of the run that begins. */
void fz_limits_begin(void);
void fz_limits_end(void);

#endif
