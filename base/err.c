/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/err.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

/*
 * Stories quote names that an image or the host's file system made up. What is not printable UTF-8 becomes '?', so that
 * a name can neither forge a second line nor speak to the terminal. Also drops a character that the cut has halved.
 */
static void record(struct sp_err *err, int code, const char *text)
{
	size_t at = 0;

	while (*text) {
		uint32_t cp;
		unsigned len = sp_utf8_next(text, &cp);
		bool printable = len && cp >= 0x20 && !(cp >= 0x7f && cp < 0xa0) && !sp_is_surrogate(cp);
		unsigned room = printable ? len : 1;

		if (at + room >= sizeof(err->text))
			break;
		if (printable)
			memcpy(err->text + at, text, len);
		else
			err->text[at] = '?';
		at += room;
		text += len ? len : 1;
	}
	err->text[at] = '\0';
	err->code = code;
}

int sp_err_set(struct sp_err *err, int code, const char *fmt, ...)
{
	char text[SP_ERR_TEXT_MAX + 4];		/* 4: the cut is made by record(), which knows characters */
	va_list ap;

	if (!err)
		return code;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	record(err, code, text);
	return code;
}

int sp_err_prefix(struct sp_err *err, int code, const char *fmt, ...)
{
	char text[2 * SP_ERR_TEXT_MAX];
	va_list ap;
	size_t len;

	if (!err)
		return code;
	va_start(ap, fmt);
	vsnprintf(text, SP_ERR_TEXT_MAX, fmt, ap);
	va_end(ap);
	len = strlen(text);
	snprintf(text + len, sizeof(text) - len, ": %s", err->code ? err->text : strerror(-code));
	record(err, code, text);
	return code;
}

const char *sp_err_text(const struct sp_err *err)
{
	return err && err->code ? err->text : "no error";
}
