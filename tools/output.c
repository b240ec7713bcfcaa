/* SPDX-License-Identifier: BSD-2-Clause */
#include "tools/output.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"

static const char *command = "vhd-tool";

enum remedy { REMEDY_SHARE, REMEDY_ORPHAN, REMEDY_ROOT, REMEDY_REPLACE, REMEDY_REBASE, REMEDIES };

static struct {
	const char *option, *text;
	bool offered, given;
} remedies[REMEDIES] = {
	[REMEDY_SHARE] = { "force-share", "-U looks at it without waiting for the other program" },
	[REMEDY_ORPHAN] = { "orphan", "--orphan=eio or --orphan=zero opens the image without its parent" },
	[REMEDY_ROOT] = { "image-root", "--image-root=DIR names the folder below which parents may lie" },
	[REMEDY_REPLACE] = { "force", "--force replaces it" },
	[REMEDY_REBASE] = { NULL,
			    "if that file has the right content, \"vhd-tool rebase -u\" makes the child accept it",
			    .offered = true },
};

void tool_set_command(const char *name)
{
	command = name;
}

const char *tool_command(void)
{
	return command;
}

/* "vhd-tool" of "vhd-tool convert". */
static int program_len(void)
{
	return (int)strcspn(command, " ");
}

void tool_offer_option(const char *name)
{
	for (size_t i = 0; name && i < REMEDIES; i++)
		if (remedies[i].option && strcmp(remedies[i].option, name) == 0)
			remedies[i].offered = true;
}

void tool_note_option(const char *name)
{
	for (size_t i = 0; name && i < REMEDIES; i++)
		if (remedies[i].option && strcmp(remedies[i].option, name) == 0)
			remedies[i].given = true;
}

static const char *remedy_for(const char *file, int code)
{
	enum remedy which = REMEDIES;

	if (code == -EBUSY)
		which = REMEDY_SHARE;
	else if (code == -EXDEV)
		which = REMEDY_ROOT;
	else if (code == -EEXIST)
		which = REMEDY_REPLACE;
	else if (code == -ESTALE)
		which = REMEDY_REBASE;
	else if (code == -ENOENT && access(file, F_OK) == 0)
		which = REMEDY_ORPHAN;	/* the file is there, so it is the parent that is not */
	return which < REMEDIES && remedies[which].offered && !remedies[which].given ? remedies[which].text : NULL;
}

void tool_fail(const char *file, const struct sp_err *err)
{
	const char *remedy = remedy_for(file, err->code);

	fflush(stdout);
	fprintf(stderr, "%.*s: %s: %s\n", program_len(), command, file, sp_err_text(err));
	if (remedy)
		fprintf(stderr, "%.*s: %s\n", program_len(), command, remedy);
}

void tool_warn(const char *file, const char *text)
{
	fflush(stdout);
	fprintf(stderr, "%.*s: %s: warning: %s\n", program_len(), command, file, text);
}

void tool_json_print(json_object *object)
{
	puts(json_object_to_json_string_ext(object, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED |
						    JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(object);
}

void tool_json_text(json_object *object, const char *key, const char *text)
{
	if (text && *text)
		json_object_object_add(object, key, json_object_new_string(text));
}

void tool_json_u64(json_object *object, const char *key, uint64_t value)
{
	json_object_object_add(object, key, json_object_new_uint64(value));
}

void tool_json_bool(json_object *object, const char *key, bool value)
{
	json_object_object_add(object, key, json_object_new_boolean(value));
}

const char *tool_guid_text(const struct sp_guid *guid, enum vhd_format_id format, char ret_text[static SP_GUID_TEXT])
{
	if (format == VHD_FORMAT_VHD)
		sp_guid_format_be(guid, ret_text);
	else
		sp_guid_format_le(guid, ret_text);
	return ret_text;
}
