/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VHD_STORE_MEM_INT_H
#define SPINDLE_VHD_STORE_MEM_INT_H
/*
 * Memory files beyond the public header: content that several handles share, and copies that cost nothing
 * until they are written to. For the memory folder and for tests.
 */
#include "vhd/store.h"

/* The content. Counted; a handle holds one count. Any thread. */
struct mem_file;

int mem_file_new(uint64_t size, uint64_t limit, struct mem_file **ret_file);
struct mem_file *mem_file_get(struct mem_file *file);
void mem_file_put(struct mem_file *file);	/* NULL is fine */
/* New content that shares every page with @file until one of the two writes it. Constant time. */
int mem_file_clone(struct mem_file *file, struct mem_file **ret_file);
/* A handle on @file, with a count of its own. */
int mem_file_open(struct mem_file *file, const char *name, bool writable, struct store **ret_store);
uint64_t mem_file_allocated(struct mem_file *file);	/* bytes of pages */

/* NULL when @s is not a memory store. */
struct mem_file *store_mem_file(struct store *s);
/* A store of its own with the present content of @s, sharing pages. -EINVAL when @s is not a memory store. */
int store_mem_clone(struct store *s, struct store **ret_store);

/* The same for all files of a memory folder. Constant time per file. -EINVAL for another kind of folder. */
int store_folder_mem_clone(struct store_folder *f, struct store_folder **ret_folder);
/* Puts @file (one count is taken) under @name, replacing what was there; NULL removes the name. */
int store_folder_mem_put(struct store_folder *f, const char *name, struct mem_file *file);
/* The content of @name, not counted; NULL when there is none. */
struct mem_file *store_folder_mem_get(struct store_folder *f, const char *name);
/* Calls @each for every name, in no particular order, until it returns non-zero; returns that. */
int store_folder_mem_each(struct store_folder *f, int (*each)(void *arg, const char *name, struct mem_file *file),
			  void *arg);
/* Lexical form of @name without "." and ".."; -EXDEV when it leaves the folder, -EINVAL when nothing is left.
 * Caller frees with sp_free(). */
int store_folder_normalise(const char *name, char **ret_name);

#endif
