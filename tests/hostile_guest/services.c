/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Integration services against a guest that answers as the input says: with what was asked, with lies, with noise, into
 * a broken ring, or after it has gone and come back. Whoever asked on the host hears exactly once, and what the guest
 * tells of itself is text that can be shown.
 */
#include <json-c/json.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/utf8.h"
#include "tests/hostile_guest/guest.h"
#include "tests/support/ring_pair.h"
#include "vmm/ic_int.h"

#define RING_PAGES 8u
#define OPENS_MAX  6u
#define STEPS	   400u
#define BODY_MAX   8192u

uint64_t services_messages;

struct stage {
	struct input *in;
	struct test_mem mem;
	struct ring_pair pair;
	struct vmm_loop *loop;
	int turn;			/* eventfd: ends a run of the loop */
	unsigned turns;			/* to be taken until then */
	struct vmm_ic *ic;
	enum vmm_ic_kind kind;
	bool open, paused;
	unsigned opens, asked, answered;
	struct ic_header head;		/* of the last message of the host */
};

/* ---- the host ------------------------------------------------------------------------------------------ */

static uint64_t reference_time(void *ctx)
{
	return 1;
}

static bool is_paused(void *ctx)
{
	return ((struct stage *)ctx)->paused;
}

static void take_turn(struct stage *s)
{
	uint64_t one = 1;

	session_check(write(s->turn, &one, sizeof(one)) == sizeof(one), "no turn");
}

static void on_turn(void *ctx, uint32_t events)
{
	struct stage *s = ctx;
	uint64_t count;

	session_check(read(s->turn, &count, sizeof(count)) == sizeof(count), "no turn");
	if (--s->turns > 0)
		take_turn(s);
	else
		vmm_loop_quit(s->loop);
}

/* Several turns: what is ready beside the last one is left. */
static void run_loop(struct stage *s)
{
	s->turns = 4;
	take_turn(s);
	session_check(vmm_loop_run(s->loop) == 0, "the loop");
}

static void ask_vss(struct stage *s);

static void vss_answered(void *ctx, int res, uint32_t status)
{
	struct stage *s = ctx;

	session_check(++s->answered <= s->asked, "an answer to nothing");
	if (input_chance(s->in, 4))
		ask_vss(s);
}

static void ask_vss(struct stage *s)
{
	if (vmm_ic_vss(s->ic, (uint8_t)input_below(s->in, 8), 60000, vss_answered, s) == 0)
		s->asked++;
}

static void shutdown_answered(void *ctx, int res)
{
	struct stage *s = ctx;

	session_check(++s->answered <= s->asked, "an answer to nothing");
}

static void ask(struct stage *s)
{
	if (s->kind == VMM_IC_VSS)
		ask_vss(s);
	else if (s->kind == VMM_IC_TIMESYNC)
		vmm_ic_sync_time(s->ic);
	else if (s->kind == VMM_IC_SHUTDOWN &&
		 vmm_ic_shutdown(s->ic, input_chance(s->in, 2), shutdown_answered, s) == 0)
		s->asked++;
}

/* As on_timer() of ic.c, without the time. */
static void tick(struct stage *s)
{
	pthread_mutex_lock(&s->ic->lock);
	if (s->ic->ch && s->ic->watched == s->ic->generation && s->ic->state == IC_READY && s->ic->ops->tick)
		s->ic->ops->tick(s->ic);
	pthread_mutex_unlock(&s->ic->lock);
}

static void check_text(const char *text)
{
	while (*text) {
		uint32_t cp;
		unsigned len = sp_utf8_next(text, &cp);

		session_check(len > 0 && cp >= ' ' && cp != 0x7f && !sp_is_surrogate(cp), "text with %#x",
			      (uint8_t)*text);
		text += len;
	}
}

static void look(struct stage *s)
{
	json_object *o = vmm_ic_describe(s->ic), *guest;

	if (json_object_object_get_ex(o, "guest", &guest)) {
		json_object_object_foreach(guest, key, value) {
			check_text(key);
			check_text(json_object_get_string(value));
		}
	}
	session_check(json_object_to_json_string(o), "no description");
	json_object_put(o);
}

/* ---- the guest ----------------------------------------------------------------------------------------- */

static void guest_open(struct stage *s)
{
	const struct vmbus_offer *offer = vmm_ic_offer(s->ic);
	const struct vmbus_open open = { .target_vp = 0 };

	if (s->opens == OPENS_MAX)
		return;
	s->opens++;
	ring_pair_open(&s->pair, &s->mem, RING_PAGES, RING_PAGES);
	session_check(offer->ops->open(offer->device, &s->pair.host, &open) == 0, "cannot open");
	s->open = true;
	if (!input_chance(s->in, 8))
		run_loop(s);
}

static void guest_close(struct stage *s)
{
	const struct vmbus_offer *offer = vmm_ic_offer(s->ic);

	offer->ops->close(offer->device, &s->pair.host);
	ring_pair_close(&s->pair);
	s->open = false;
}

static void guest_read(struct stage *s)
{
	static uint64_t buf[BODY_MAX / 4];
	struct vmbus_packet p;

	while (vmbus_channel_receive(&s->pair.guest, buf, sizeof(buf), &p) > 0)
		if (p.payload_len >= sizeof(s->head))
			memcpy(&s->head, p.payload, sizeof(s->head));
	vmbus_channel_flush(&s->pair.guest);
}

static void guest_send(struct stage *s, const void *bytes, size_t len, uint16_t type)
{
	const struct vmbus_packet p = { .type = type, .payload = bytes, .payload_len = (uint32_t)len };

	services_messages++;
	if (vmbus_channel_send(&s->pair.guest, &p) == 0)
		vmbus_channel_flush(&s->pair.guest);
}

static void fill(struct input *in, uint8_t *to, size_t len)
{
	for (size_t i = 0; i < len; i += 8) {
		uint64_t v = input_chance(in, 2) ? input_u64(in) : 0x0041004200430044;

		memcpy(to + i, &v, sp_min(len - i, sizeof(v)));
	}
}

/* Versions that are spoken, or others. */
static size_t choose_versions(struct input *in, enum vmm_ic_kind kind, uint8_t *body)
{
	static const uint16_t majors[] = { 3, 3, 4, 5, 5 };	/* of each kind */
	const struct ic_negotiate n = {
		.frameworks = le16_make(input_chance(in, 16) ? (uint16_t)input_number(in) : 1),
		.messages = le16_make(input_chance(in, 16) ? (uint16_t)input_number(in) : 1),
	};
	bool other = input_chance(in, 8);
	const struct ic_version v[] = {
		{ le16_make(input_chance(in, 2) ? 3 : 1), le16_make(0) },
		{ le16_make(other ? (uint16_t)input_below(in, 6) : majors[kind]),
		  le16_make(other ? (uint16_t)input_below(in, 4) : 0) },
	};

	memcpy(body, &n, sizeof(n));
	memcpy(body + sizeof(n), v, sizeof(v));
	return sizeof(n) + sizeof(v);
}

static size_t kvp_body(struct input *in, uint8_t *body)
{
	struct ic_kvp *k = (struct ic_kvp *)body;

	fill(in, k->key, 64);
	fill(in, k->value, 64);
	k->key_size = le32_make((uint32_t)(input_chance(in, 4) ? input_number(in) : input_below(in, 64)));
	k->value_size = le32_make((uint32_t)(input_chance(in, 4) ? input_number(in) : input_below(in, 64)));
	return sizeof(*k);
}

static void guest_answer(struct stage *s)
{
	static _Alignas(8) uint8_t bytes[sizeof(struct ic_header) + BODY_MAX + 8];
	struct ic_header h = s->head;
	uint8_t *body = bytes + sizeof(h);
	size_t len;

	memset(bytes, 0, sizeof(bytes));
	if (le16_get(h.type) == IC_NEGOTIATE)
		len = choose_versions(s->in, s->kind, body);
	else if (le16_get(h.type) == IC_KVP)
		len = kvp_body(s->in, body);
	else
		fill(s->in, body, len = 40);
	h.flags = IC_TRANSACTION | IC_RESPONSE;
	h.status = le32_make(input_chance(s->in, 24) ? (uint32_t)input_number(s->in) : IC_STATUS_OK);
	if (input_chance(s->in, 24))
		fill(s->in, (uint8_t *)&h, sizeof(h));
	if (input_chance(s->in, 24))
		len = input_below(s->in, BODY_MAX);
	memcpy(bytes, &h, sizeof(h));
	guest_send(s, bytes, (sizeof(h) + len + 7) & ~7ull, VMBUS_PACKET_INBAND);
}

static void guest_noise(struct stage *s)
{
	static uint8_t bytes[256];
	size_t len = input_below(s->in, sizeof(bytes)) & ~7u;

	fill(s->in, bytes, len);
	guest_send(s, bytes, len, (uint16_t)input_below(s->in, 16));
}

/* Indices, mask, pending size of the ring that the host reads. */
static void guest_scribble(struct stage *s)
{
	uint32_t v = (uint32_t)input_number(s->in);

	memcpy(s->pair.mapping.base + 4 * input_below(s->in, 4), &v, sizeof(v));
	vmbus_channel_flush(&s->pair.guest);
}

/* ---- a session ----------------------------------------------------------------------------------------- */

static void step(struct stage *s)
{
	switch (input_below(s->in, 32)) {
	case 0:
		if (!s->open)
			guest_open(s);
		else if (input_chance(s->in, 4))
			guest_close(s);
		break;
	case 1:
		if (s->open && input_chance(s->in, 8))
			guest_scribble(s);
		break;
	case 2 ... 3:
		if (s->open)
			guest_noise(s);
		break;
	case 4 ... 9:
		ask(s);
		break;
	case 10 ... 12:
		tick(s);
		break;
	case 13:
		s->paused = !s->paused;
		break;
	case 14 ... 15:
		look(s);
		break;
	case 16 ... 22:
		run_loop(s);
		break;
	default:
		if (s->open) {
			guest_read(s);
			guest_answer(s);
		}
	}
}

static void begin(struct stage *s, struct input *in)
{
	const struct vmm_ic_host host = { .reference_time = reference_time, .paused = is_paused, .ctx = s };
	struct sp_err err = { 0 };

	*s = (struct stage){ .in = in, .kind = (enum vmm_ic_kind)input_below(in, VMM_IC_VSS + 1) };
	test_mem_open(&s->mem, OPENS_MAX * 2 * RING_PAGES);
	s->turn = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	session_check(s->turn >= 0 && vmm_loop_new(&s->loop) == 0, "no loop");
	session_check(vmm_loop_add(s->loop, s->turn, EPOLLIN, on_turn, s, NULL) == 0, "no turn");
	session_check(vmm_ic_new(s->kind, s->loop, &host, &s->ic, &err) == 0, "%s", sp_err_text(&err));
	guest_open(s);
}

/* Once the channel has gone nobody waits any more, but for a shutdown, which the machine's end answers. */
static void end(struct stage *s)
{
	if (s->open)
		guest_close(s);
	run_loop(s);
	session_check(s->kind == VMM_IC_SHUTDOWN || s->answered == s->asked, "%u of %u answers", s->answered, s->asked);
	look(s);
	vmm_ic_free(s->ic);
	vmm_loop_free(s->loop);
	close(s->turn);
	test_mem_close(&s->mem);
}

void services_run(struct input *in)
{
	struct stage s;

	begin(&s, in);
	for (unsigned i = 0; i < STEPS && !input_ended(in); i++)
		step(&s);
	end(&s);
}
