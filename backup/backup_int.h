/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_BACKUP_BACKUP_INT_H
#define SPINDLE_BACKUP_BACKUP_INT_H
/*
 * What the files of this room share. Everything on disk goes through a store_folder, so that tests can put a recording
 * or a failing one underneath.
 */
#include "backup/backup.h"
#include "vhd/disk_int.h"
#include "vhd/store.h"

#define BACKUP_CHUNK (1u << 20)
#define BACKUP_SIZE_MAX (UINT64_C(64) << 40)
#define BACKUP_POINTS_MAX 65535u
#define BACKUP_FILE_MAX (BACKUP_NAME_MAX + 16)
#define BACKUP_JSON_MAX (UINT64_C(512) << 20)	/* bytes of a manifest */

/* ---- digest.c ------------------------------------------------------------------------------------ */

/* SHA-256 of each MiB of something; the last one may be short. 32 zero bytes stand for a MiB of zeros, so that a large
 * empty disk costs nothing. */
struct backup_digests {
	uint64_t size, count;		/* count == ceil(size / MiB) */
	uint8_t (*sum)[32];
};

int backup_digests_init(struct backup_digests *d, uint64_t size);	/* all zeros; -ENOMEM */
void backup_digests_fini(struct backup_digests *d);
int backup_digests_copy(struct backup_digests *d, const struct backup_digests *from);	/* as many as fit */
int backup_digest(const void *buf, size_t len, uint8_t ret[static 32]);
int backup_digests_root(const struct backup_digests *d, uint8_t ret[static 32]);
bool backup_sum_equal(const struct backup_digests *a, const struct backup_digests *b, uint64_t index);

/* Holds threads back so that all together keep to a rate. Zero-initialise; rate 0: never waits. */
struct backup_pace {
	uint64_t rate, start_ns;
	SP_ATOMIC(uint64_t) done;
};
int backup_pace(struct backup_pace *p, uint64_t bytes, struct sp_job *job);

/* Digests of a file's bytes. @known: sums that need not be read again where @is_known says so; both may be NULL. */
int backup_digest_file(struct store *s, const struct backup_digests *known, const uint8_t *is_known, unsigned threads,
		       struct backup_pace *pace, struct sp_job *job, struct backup_digests *ret, struct sp_err *err);

/* The same of what a disk reads. */
int backup_digest_disk(struct vhd_disk *disk, unsigned threads, struct backup_pace *pace, struct sp_job *job,
		       struct backup_digests *ret, struct sp_err *err);
/* How many of the sums that both have differ, and the first of them. */
bool backup_digests_differ(const struct backup_digests *a, const struct backup_digests *b, uint64_t *ret_first,
			   uint64_t *ret_count);

/* ---- manifest.c, manifest_json.c ----------------------------------------------------------------- */

struct backup_disk {
	char name[BACKUP_NAME_MAX + 1];
	char source[1024], track[64];
	uint64_t size, source_size;
	struct sp_guid identity;	/* DataWriteGuid of the file: what its children refer to */
	struct backup_digests file;	/* of the file's bytes; file.size is its size */
	struct backup_digests content;	/* of the disk; empty when decoded without what is below */
	uint8_t content_root[32];
};

struct backup_manifest {
	unsigned number, parent;
	struct sp_guid set, id;
	int64_t time, guest_time;
	enum backup_level level;
	char reasons[256];
	char *machine;			/* NULL: nothing is known of one */
	unsigned disks;
	struct backup_disk *disk;
	bool is_signed;
	char signature_kind[16];
	uint8_t signature[64];
	size_t signature_len;
	uint8_t root[32];
};

void backup_manifest_free(struct backup_manifest *m);
/* Text of the manifest, canonical; signs it when there is a key. @below: manifest of the parent point, with content. */
int backup_manifest_encode(struct backup_manifest *m, const struct backup_manifest *below, const struct backup_key *key,
			   char **ret_text, struct sp_err *err);
/* Believes nothing. @below may be NULL; then there is content only where there is no parent. */
int backup_manifest_decode(const char *text, size_t len, const struct backup_manifest *below,
			   struct backup_manifest **ret, struct sp_err *err);
const struct backup_disk *backup_manifest_disk(const struct backup_manifest *m, const char *name);
void backup_disk_file(unsigned number, const char *disk, char ret[static BACKUP_FILE_MAX]);
void backup_manifest_file(unsigned number, char ret[static BACKUP_FILE_MAX]);

/* ---- sign.c -------------------------------------------------------------------------------------- */

int backup_sign(const struct backup_key *key, const uint8_t root[static 32], char ret_kind[static 16],
		uint8_t ret_signature[static 64], size_t *ret_len, struct sp_err *err);
int backup_sign_verify(const struct backup_key *key, const struct backup_manifest *m, struct sp_err *err);

/* ---- catalogue.c --------------------------------------------------------------------------------- */

struct backup_entry {
	unsigned number;
	uint8_t manifest[32];		/* SHA-256 of the manifest file */
};

struct backup_catalogue {
	struct sp_guid id;
	unsigned next;			/* number of the next point */
	struct backup_entry *point;	/* ascending */
	unsigned points;
	/* A point that is being written. */
	unsigned pending;		/* 0: none */
	char (*pending_disk)[BACKUP_NAME_MAX + 1];
	unsigned pending_disks;
	/* Points that are going: [drop[0] .. drop[n-1]] into @into; 0: they are simply deleted. */
	unsigned *drop, drops, into;	/* listed above until they are gone */
	uint8_t into_manifest[32];	/* the manifest that @into may have already; zeros: none */
};

void backup_catalogue_fini(struct backup_catalogue *c);
int backup_catalogue_load(struct store_folder *f, struct backup_catalogue *ret, struct sp_err *err);
/* Replaces it in one durable step. */
int backup_catalogue_save(struct store_folder *f, const struct backup_catalogue *c, struct sp_err *err);
int backup_catalogue_find(const struct backup_catalogue *c, unsigned number);	/* index or -1 */

/* ---- set.c --------------------------------------------------------------------------------------- */

struct backup_set {
	struct store_folder *folder;
	bool owns_folder, writable;
	struct store *lock;
	char name[BACKUP_NAME_MAX + 1];
	struct backup_catalogue cat;
};

/* @folder stays the caller's. */
int backup_set_open_in(struct store_folder *folder, const char *name, unsigned flags, struct backup_set **ret_set,
		       struct sp_err *err);
/* A small file replaced in one durable step; read whole. sp_free() the text, which ends with a NUL beyond *ret_len. */
int backup_file_write(struct store_folder *f, const char *name, const char *text, size_t len, struct sp_err *err);
int backup_file_read(struct store_folder *f, const char *name, uint64_t max, char **ret_text, size_t *ret_len,
		     struct sp_err *err);
int backup_rename(struct store_folder *f, const char *from, const char *to, struct sp_err *err);
void backup_part(const char *file, char ret[static BACKUP_FILE_MAX + 8]);

/* Manifest of a point as listed in the catalogue. @content: with what the points below say. */
int backup_manifest_load(struct backup_set *set, unsigned number, bool content, struct backup_manifest **ret,
			 struct sp_err *err);
/* Manifest under its final name, then the point in the catalogue, replacing one of the same number. */
int backup_manifest_commit(struct backup_set *set, unsigned number, const char *text, size_t len, struct sp_err *err);
int backup_set_writable(const struct backup_set *set, struct sp_err *err);

/* ---- chunks.c ------------------------------------------------------------------------------------ */

struct backup_copy {
	struct vhd_disk *source, *leaf;
	const struct backup_digests *base;	/* what the leaf held before; count 0: nothing */
	const struct backup_range *changed;	/* NULL: look at everything */
	size_t changes;
	bool fresh;			/* nothing has been written into the leaf yet */
	bool full;			/* the leaf has no parent */
	unsigned threads;
	struct backup_pace *pace;
	struct backup_digests *content;	/* out */
	uint64_t bytes_read, bytes_written;	/* out */
};

/* Makes the leaf read as the source does. */
int backup_copy(struct backup_copy *c, struct sp_job *job, struct sp_err *err);
/* Digests of the file behind @leaf (closed meanwhile), most of them taken from the content. */
int backup_copy_file_digests(struct store_folder *f, const char *file, const struct backup_digests *content,
			     unsigned threads, struct backup_digests *ret, struct sp_err *err);

/* ---- create.c ------------------------------------------------------------------------------------ */

/* Forgets a point that was never finished. */
int backup_drop_pending(struct backup_set *set, struct sp_err *err);
int backup_announce(struct backup_set *set, unsigned number, const struct backup_manifest *m, struct sp_err *err);

/* ---- prune.c ------------------------------------------------------------------------------------- */

/* The point is on its way out, or takes in one that is: its files are not what its manifest says. */
bool backup_point_going(const struct backup_set *set, unsigned number);
int backup_prune_finish(struct backup_set *set, const struct backup_key *key, struct sp_job *job, struct sp_err *err);

#endif
