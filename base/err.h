/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_BASE_ERR_H
#define SPINDLE_BASE_ERR_H
/*
 * The verdict is the returned negative errno; this is the story behind it. Each layer adds in front
 * what only it knows. Functions take a NULL err as "not interested".
 *
 * Verdicts in use: -EINVAL caller's mistake, -EBADMSG malformed image, -ENOTSUP valid but not ours,
 * -ESTALE parent identity changed, -ENOENT no such file or parent, -ELOOP chain too deep or circular,
 * -ERANGE past the end, -EROFS, -EBUSY locked or in use, -EXDEV outside the allowed folder,
 * -EIO, -ENOSPC, -ENOMEM, -ECANCELED.
 */
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SP_ERR_TEXT_MAX 1024

struct sp_err {
	int code;			/* negative errno, 0 when nothing has been recorded */
	char text[SP_ERR_TEXT_MAX];	/* one line, UTF-8, cut at the end when too long */
};

/** sp_err_set - record the story, replacing an older one; returns @code so callers can return it. */
int sp_err_set(struct sp_err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/** sp_err_prefix - put "what: " in front of the recorded story; returns @code. When nothing has been
 * recorded yet, the story becomes "what: <strerror>". */
int sp_err_prefix(struct sp_err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/** sp_err_text - never NULL; "no error" when nothing has been recorded. */
const char *sp_err_text(const struct sp_err *err);

#ifdef __cplusplus
}
#endif
#endif
