/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * After a power cut or a kill, before the disks are opened again. What is found decides:
 *
 *	"<leaf>.live-prepared"	 not decided: children, second names and side-cars go, then the record
 *	"<leaf>.live"		 decided. Each disk of the set is one of
 *		ready	the child is there: it takes the name in use
 *		done	the name in use is a child of the old leaf already
 *		lost	neither
 *		lost and no disk done: an abort had begun, it is taken back; lost and some done: somebody interfered
 *
 * Each step may be cut and done again. All files are looked up beside the disks the caller names, beneath the folders
 * it opened. The writer's lock of every disk of the set is held meanwhile.
 */
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/seed.h"
#include "vhd/live_int.h"

enum member_state { MEMBER_READY, MEMBER_DONE, MEMBER_LOST };

struct member {
	const struct vhd_live_place *place;
	struct store_folder *folder;
	struct live_names names;	/* as in the record, in the directory of the disk */
	struct sp_guid identity;
	struct store *lock;
	enum member_state state;
};

struct recovery {
	const struct vhd_live_place *place;
	unsigned places;
	struct live_record rec;
	struct member *member;
	unsigned ready, done, lost;
};

/* ---- looking ------------------------------------------------------------------------------------- */

static int open_quietly(struct store_folder *f, const char *name, struct vhd_image **ret, struct sp_err *err)
{
	const struct vhd_format *format;
	struct store *s;
	int r = store_folder_open(f, name, STORE_NO_LOCK | STORE_REGULAR, &s, err);

	if (r < 0)
		return r;
	r = vhd_format_probe(s, &format, err);
	if (r < 0) {
		store_close(s);
		return r;
	}
	return vhd_image_open(s, name, format, 0, ret, err);
}

static bool exists(struct store_folder *f, const char *name)
{
	struct store *s;

	if (store_folder_open(f, name, STORE_NO_LOCK, &s, NULL) < 0)
		return false;
	store_close(s);
	return true;
}

/* The entry's names beside the place's image. */
static int member_at(struct member *m, const struct vhd_live_place *p, const struct live_entry *e)
{
	m->folder = p->folder;
	m->identity = e->identity;
	m->names.image = sp_strdup(p->image);
	m->names.file = op_name_sibling(p->image, e->names.file);
	m->names.child = op_name_sibling(p->image, e->names.child);
	m->names.meta = e->names.meta ? op_name_sibling(p->image, e->names.meta) : NULL;
	return m->names.image && m->names.file && m->names.child && (m->names.meta || !e->names.meta) ? 0 : -ENOMEM;
}

static bool is_child_of(const struct vhd_image *img, const struct sp_guid *identity)
{
	for (unsigned i = 0; i < img->parent.identities; i++)
		if (sp_guid_equal(&img->parent.identity[i], identity))
			return true;
	return false;
}

static bool knows_identity(const struct member *m)
{
	struct vhd_image *img;
	bool knows;

	if (open_quietly(m->folder, m->names.image, &img, NULL) < 0)
		return false;
	knows = sp_guid_equal(&img->identity, &m->identity) || is_child_of(img, &m->identity);
	vhd_image_close(img, true);
	return knows;
}

/* How sure it is that the entry speaks of this place; several may have the name, and copies the identity. */
static unsigned likeness(const struct member *m, const struct live_entry *e)
{
	return 1 + (strcmp(m->names.image, e->path) == 0 ? 2 : 0) + (knows_identity(m) ? 4 : 0) +
	       (exists(m->folder, m->names.child) ? 8 : 0);
}

static bool is_claimed(const struct recovery *rc, unsigned members, const struct vhd_live_place *p)
{
	for (unsigned i = 0; i < members; i++)
		if (rc->member[i].place == p)
			return true;
	return false;
}

static int find_member(struct recovery *rc, unsigned index, struct sp_err *err)
{
	const struct live_entry *e = &rc->rec.entry[index];
	unsigned best = 0;

	for (unsigned i = 0; i < rc->places; i++) {
		const struct vhd_live_place *p = &rc->place[i];
		struct member found = { .place = p };
		unsigned like;

		if (strcmp(op_name_base(p->image), e->names.image) != 0 || is_claimed(rc, index, p))
			continue;
		if (member_at(&found, p, e) < 0) {
			live_names_fini(&found.names);
			return sp_err_set(err, -ENOMEM, "out of memory");
		}
		like = likeness(&found, e);
		if (like > best) {
			struct member old = rc->member[index];

			rc->member[index] = found;
			found = old;
			best = like;
		}
		live_names_fini(&found.names);
	}
	return best ? 0 : sp_err_set(err, -ENOENT, "an interrupted snapshot of a set speaks of a disk %s, which this "
				     "machine does not have; give it all disks of the set", e->path);
}

static int judge(struct member *m, struct sp_err *err)
{
	struct vhd_image *img;
	bool done, same;
	int r = open_quietly(m->folder, m->names.image, &img, err);

	if (r < 0)
		return sp_err_prefix(err, r, "%s", m->names.image);
	done = is_child_of(img, &m->identity) && !op_image_is(m->folder, m->names.file, img);
	same = sp_guid_equal(&img->identity, &m->identity);
	vhd_image_close(img, true);
	if (done) {
		m->state = MEMBER_DONE;
		return 0;
	}
	m->state = exists(m->folder, m->names.child) ? MEMBER_READY : MEMBER_LOST;
	if (m->state == MEMBER_READY && !same)
		return sp_err_set(err, -ESTALE, "%s was written by somebody else after its snapshot was taken and "
				  "before its new leaf %s was put in place; keep one of the two by hand",
				  m->names.image, m->names.child);
	return 0;
}

static int look(struct recovery *rc, struct sp_err *err)
{
	int r = 0;

	rc->member = sp_calloc(rc->rec.count, sizeof(*rc->member));
	if (!rc->member)
		return sp_err_set(err, -ENOMEM, "out of memory");
	for (unsigned i = 0; r == 0 && i < rc->rec.count; i++) {
		r = find_member(rc, i, err);
		if (r == 0)
			r = store_folder_open(rc->member[i].folder, rc->member[i].names.image, STORE_RDWR,
					      &rc->member[i].lock, err);
	}
	return r;
}

static int judge_all(struct recovery *rc, struct sp_err *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < rc->rec.count; i++) {
		r = judge(&rc->member[i], err);
		rc->ready += rc->member[i].state == MEMBER_READY;
		rc->done += rc->member[i].state == MEMBER_DONE;
		rc->lost += rc->member[i].state == MEMBER_LOST;
	}
	return r;
}

/* ---- acting -------------------------------------------------------------------------------------- */

static int remove_record(struct store_folder *f, const char *name, struct sp_err *err)
{
	int r = live_file_remove(f, name);

	if (r == 0)
		r = store_folder_sync(f, name);
	return r < 0 ? sp_err_set(err, r, "cannot delete %s: %s", name, strerror(-r)) : 0;
}

/* A file by another name is somebody else's. */
static bool is_second_name(const struct member *m)
{
	struct store *s;
	bool same;

	if (store_folder_open(m->folder, m->names.file, STORE_NO_LOCK, &s, NULL) < 0)
		return false;
	same = store_same(s, m->lock);
	store_close(s);
	return same;
}

static int unlink_if(struct store_folder *f, const char *name)
{
	int r = store_folder_unlink(f, name);

	return r == -ENOENT ? 0 : r;
}

static int drop_member(const struct member *m, struct sp_err *err)
{
	int r = unlink_if(m->folder, m->names.child);

	if (r == 0 && is_second_name(m))
		r = unlink_if(m->folder, m->names.file);
	if (r == 0 && m->names.meta)
		r = live_file_remove(m->folder, m->names.meta);
	if (r == 0)
		r = store_folder_sync(m->folder, m->names.image);
	return r < 0 ? sp_err_set(err, r, "cannot take back the snapshot of %s: %s", m->names.image, strerror(-r)) : 0;
}

static int drop(struct recovery *rc, struct sp_err *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < rc->rec.count; i++)
		r = drop_member(&rc->member[i], err);
	return r;
}

static int complete(struct recovery *rc, struct sp_err *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < rc->rec.count; i++) {
		struct member *m = &rc->member[i];

		if (m->state == MEMBER_READY)
			r = op_rename_durable(m->folder, m->names.child, m->names.image, true, err);
	}
	return r;
}

static int go_on(struct recovery *rc, enum vhd_live_outcome *ret, struct sp_err *err)
{
	int r = judge_all(rc, err);

	if (r < 0)
		return r;
	if (rc->lost > 0 && rc->done > 0)
		return sp_err_set(err, -ENOENT, "%u of %u disks have the leaf of an interrupted snapshot, and the new "
				  "leaf of another one has disappeared", rc->done, rc->rec.count);
	*ret = rc->lost > 0 || SP_SEED_BUG(LIVE_RECOVER_DROPS) ? VHD_LIVE_DROPPED : VHD_LIVE_COMPLETED;
	return *ret == VHD_LIVE_DROPPED ? drop(rc, err) : complete(rc, err);
}

static void recovery_fini(struct recovery *rc)
{
	for (unsigned i = 0; rc->member && i < rc->rec.count; i++) {
		store_close(rc->member[i].lock);
		live_names_fini(&rc->member[i].names);
	}
	sp_free(rc->member);
	live_record_fini(&rc->rec);
}

static int recover_record(const struct vhd_live_place *places, unsigned count, const struct vhd_live_place *at,
			  bool committed, enum vhd_live_outcome *ret, struct sp_err *err)
{
	struct recovery rc = { .place = places, .places = count };
	SP_AUTO_FREE char *name = live_name_record(at->image, committed);
	int r = name ? live_record_read(at->folder, name, &rc.rec, err) : sp_err_set(err, -ENOMEM, "out of memory");

	*ret = VHD_LIVE_NOTHING;
	if (r == -ENOENT) {
		if (err)
			err->code = 0;
		live_file_remove(at->folder, name);	/* what was going to be the record */
		return 0;
	}
	if (r == -EBADMSG && !committed) {	/* nothing else had been made */
		*ret = VHD_LIVE_DROPPED;
		return remove_record(at->folder, name, err);
	}
	if (r == 0)
		r = look(&rc, err);
	if (r == 0 && committed)
		r = go_on(&rc, ret, err);
	else if (r == 0 && (*ret = VHD_LIVE_DROPPED))
		r = drop(&rc, err);
	if (r == 0)
		r = remove_record(at->folder, name, err);
	recovery_fini(&rc);
	return r;
}

int vhd_live_recover(const struct vhd_live_place *places, unsigned count, enum vhd_live_outcome *ret_outcome,
		     struct sp_err *err)
{
	enum vhd_live_outcome one, most = VHD_LIVE_NOTHING;
	int r = 0;

	for (unsigned i = 0; r == 0 && i < 2 * count; i++) {
		r = recover_record(places, count, &places[i / 2], i % 2 == 0, &one, err);
		most = sp_max(most, one);
	}
	if (ret_outcome)
		*ret_outcome = most;
	return r;
}
