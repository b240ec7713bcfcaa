/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the guest tells of itself: names, addresses, versions, enumerated every half minute from its daemon. Text of a
 * guest: sizes are cut to the fields, control characters go. Without a daemon not even the negotiation is answered,
 * which is no fault.
 */
#include <string.h>

#include "base/alloc.h"
#include "base/utf16.h"
#include "vmm/ic_int.h"

#define EVERY_MS  30000
#define ITEMS_MAX 16u
#define KEY_MAX	  128u
#define VALUE_MAX 1024u

struct kvp {
	uint32_t index;			/* of the item asked for */
	uint32_t items;
	struct { char key[KEY_MAX], value[VALUE_MAX]; } item[ITEMS_MAX];
};

static void ask(struct vmm_ic *ic)
{
	struct kvp *k = ic->data;
	struct ic_kvp *body = sp_zalloc(sizeof(*body));

	if (!body)
		return;
	body->operation = IC_KVP_ENUMERATE;
	body->pool = IC_KVP_POOL_AUTO;
	body->index = le32_make(k->index);
	ic_send(ic, body, sizeof(*body));
	sp_free(body);
}

static void tick(struct vmm_ic *ic)
{
	struct kvp *k = ic->data;

	if (ic->pending || ic->host.paused(ic->host.ctx))
		return;
	k->index = 0;
	ask(ic);
}

static void ready(struct vmm_ic *ic)
{
	ic_timer(ic, 1, EVERY_MS);
}

/* Of both kinds, as U+0080 to U+009F work in a terminal, too; and halves of characters, which are no UTF-8. */
static void make_harmless(char *text)
{
	for (unsigned char *p = (unsigned char *)text; *p; p++) {
		if (*p < ' ' || *p == 0x7f)
			*p = '?';
		else if (p[0] == 0xc2 && p[1] < 0xa0)
			p[0] = p[1] = '?';
		else if (p[0] == 0xed && p[1] >= 0xa0)
			p[0] = p[1] = p[2] = '?';
	}
}

static void keep_text(char *to, size_t room, const uint8_t *utf16, size_t bytes)
{
	char *text = sp_utf16_decode(utf16, bytes, false);
	size_t len;

	*to = '\0';
	if (!text)
		return;
	len = strlen(text);
	len = len < room ? len : room - 1;
	while (len && ((unsigned char)text[len] & 0xc0) == 0x80)
		len--;			/* not in the middle of a character */
	memcpy(to, text, len);
	to[len] = '\0';
	make_harmless(to);
	sp_free(text);
}

static void answer(struct vmm_ic *ic, uint32_t status, const uint8_t *body, size_t len)
{
	struct kvp *k = ic->data;
	const struct ic_kvp *item = (const struct ic_kvp *)body;	/* all its fields are bytes */

	if (status != IC_STATUS_OK || len < offsetof(struct ic_kvp, rest) || k->index == ITEMS_MAX) {
		k->items = k->index;	/* the end, or as far as it got */
		return;
	}
	keep_text(k->item[k->index].key, KEY_MAX, item->key, sp_min(le32_get(item->key_size), sizeof(item->key)));
	keep_text(k->item[k->index].value, VALUE_MAX, item->value,
		  sp_min(le32_get(item->value_size), sizeof(item->value)));
	k->index++;
	k->items = k->index > k->items ? k->index : k->items;
	ask(ic);
}

static void describe(struct vmm_ic *ic, json_object *o)
{
	const struct kvp *k = ic->data;
	json_object *items = json_object_new_object();

	for (uint32_t i = 0; items && i < k->items; i++)
		json_object_object_add(items, k->item[i].key, json_object_new_string(k->item[i].value));
	json_object_object_add(o, "guest", items);
}

const struct ic_ops ic_kvp_ops = {
	.name = "kvp", .class_guid = "a9a0f4e7-5a45-4d96-b827-8a841e8c03e6",
	.instance_guid = "242ff919-07db-4180-9c2e-b86cb68c8c55", .type = IC_KVP,
	.message = { { 1, 0 }, { 3, 0 }, { 4, 0 }, { 5, 0 } }, .state_size = sizeof(struct kvp),
	.ready = ready, .answer = answer, .tick = tick, .describe = describe,
};
