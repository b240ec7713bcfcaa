/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TOOLS_SPINDLE_BACKUP_H
#define SPINDLE_TOOLS_SPINDLE_BACKUP_H
/*
 * spindle-backup: one file per verb. Every verb begins with REPOSITORY [SET].
 *
 * Exit status: 0 done, 1 failed or misused, 2 verification found damage, 3 the copy would be less consistent than
 * required; 130 and 143 after a signal.
 */
#include "backup/backup.h"
#include "tools/options.h"
#include "tools/output.h"
#include "tools/progress.h"

#define BACKUP_EXIT_DAMAGE 2
#define BACKUP_EXIT_LEVEL 3

int backup_verb_create(const struct tool_verb *verb, int argc, char **argv);
int backup_verb_list(const struct tool_verb *verb, int argc, char **argv);
int backup_verb_verify(const struct tool_verb *verb, int argc, char **argv);
int backup_verb_restore(const struct tool_verb *verb, int argc, char **argv);
int backup_verb_mount(const struct tool_verb *verb, int argc, char **argv);
int backup_verb_boot(const struct tool_verb *verb, int argc, char **argv);
int backup_verb_prune(const struct tool_verb *verb, int argc, char **argv);
int backup_verb_copy(const struct tool_verb *verb, int argc, char **argv);

#define BACKUP_OPT_POINT(t) { 0, "point", "N", "the point (default: the newest)", TOOL_NUMBER, (t) }
#define BACKUP_OPT_RATE(t) { 0, "rate-limit", "SIZE", "at most so many bytes in a second", TOOL_SIZE, (t) }
#define BACKUP_OPT_KEY(t) { 0, "key", "FILE", "Ed25519 key (PEM) or secret to sign or verify with", TOOL_TEXT, (t) }

/* @path NULL: no key. Complains. */
int backup_tool_key(const char *path, struct backup_key **ret_key);
void backup_time_text(int64_t time, char ret_text[static 32]);

#endif
