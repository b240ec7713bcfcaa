/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Names: from the operator's path to a folder and a name in it, and from one name to another.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/env.h"
#include "vhd/ops_int.h"

const char *op_name_base(const char *name)
{
	const char *slash = strrchr(name, '/');

	return slash ? slash + 1 : name;
}

static size_t dir_len(const char *name)
{
	return (size_t)(op_name_base(name) - name);	/* with its '/' */
}

bool op_name_same_dir(const char *a, const char *b)
{
	return dir_len(a) == dir_len(b) && memcmp(a, b, dir_len(a)) == 0;
}

char *op_name_sibling(const char *name, const char *base)
{
	return sp_asprintf("%.*s%s", (int)dir_len(name), name, base);
}

char *op_name_temp(const char *name)
{
	struct sp_guid g;

	sp_env_guid(&g);
	return sp_asprintf("%.*s.%s.tmp-%02x%02x%02x%02x", (int)dir_len(name), name, op_name_base(name), g.b[0], g.b[1],
			   g.b[2], g.b[3]);
}

char *op_name_relative(const char *from, const char *to)
{
	size_t common = 0, ups = 0, room;
	char *text, *p;

	for (size_t i = 0; from[i] && from[i] == to[i]; i++)
		if (from[i] == '/')
			common = i + 1;
	for (const char *s = from + common; *s; s++)
		ups += *s == '/';
	room = 3 * ups + strlen(to + common) + 1;
	text = sp_alloc(room);
	if (!text)
		return NULL;
	p = text;
	for (; ups > 0; ups--)
		p = mempcpy(p, "../", 3);
	memcpy(p, to + common, strlen(to + common) + 1);
	return text;
}

/* A memory folder has no path that the host would know. */
char *op_name_absolute(const struct store_folder *f, const char *name)
{
	if (!f->path || f->path[0] != '/')
		return NULL;
	return sp_asprintf("%s/%s", strcmp(f->path, "/") == 0 ? "" : f->path, name);
}

char *op_name_in(const char *layer_path)
{
	while (*layer_path == '/')
		layer_path++;
	return sp_strdup(layer_path);
}

/* realpath() of @path, or for a file still to be made, of its directory with the name put behind. */
static int real_path(const char *path, bool create, char ret[static PATH_MAX])
{
	SP_AUTO_FREE char *dir = NULL;
	const char *base = op_name_base(path);
	size_t n;

	if (realpath(path, ret))
		return 0;
	if (!create || errno != ENOENT || !*base)
		return -errno;
	dir = dir_len(path) ? sp_asprintf("%.*s", (int)dir_len(path), path) : sp_strdup(".");
	if (!dir)
		return -ENOMEM;
	if (!realpath(dir, ret))
		return -errno;
	n = strlen(ret);
	if (n + 1 + strlen(base) >= PATH_MAX)
		return -ENAMETOOLONG;
	snprintf(ret + n, PATH_MAX - n, "%s%s", n > 1 ? "/" : "", base);
	return 0;
}

static int root_path(const char *real, const char *root, char ret[static PATH_MAX])
{
	size_t n = dir_len(real);

	if (root)
		return realpath(root, ret) ? 0 : -errno;
	snprintf(ret, PATH_MAX, "%.*s", n > 1 ? (int)n - 1 : 1, real);
	return 0;
}

static int place_split(const char *path, const char *real, const char *root, struct op_place *ret, struct sp_err *err)
{
	size_t n = strlen(root);

	if (n == 1)
		n = 0;		/* "/": everything is below it */
	if (strncmp(real, root, n) != 0 || real[n] != '/')
		return sp_err_set(err, -EXDEV, "%s is outside the allowed folder %s", path, root);
	ret->name = sp_strdup(real + n + 1);
	if (!ret->name)
		return sp_err_set(err, -ENOMEM, "out of memory");
	return store_folder_host(root, &ret->folder, err);
}

int op_place_open(const char *path, const char *root, bool create, struct op_place *ret, struct sp_err *err)
{
	char real[PATH_MAX], real_root[PATH_MAX];
	int r = real_path(path, create, real);

	*ret = (struct op_place){ 0 };
	if (r < 0)
		return sp_err_set(err, r, "%s: %s", path, strerror(-r));
	r = root_path(real, root, real_root);
	if (r < 0)
		return sp_err_set(err, r, "%s: %s", root, strerror(-r));
	r = place_split(path, real, real_root, ret, err);
	if (r < 0)
		op_place_close(ret);
	return r;
}

void op_place_close(struct op_place *p)
{
	if (p->folder)
		store_folder_close(p->folder);
	sp_free(p->name);
	*p = (struct op_place){ 0 };
}
