/* SPDX-License-Identifier: BSD-2-Clause */
/* One kind of session (HOSTILE_RUN, from the build) as libFuzzer wants it. */
#include "tests/hostile_guest/guest.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
#ifdef VMBUS_HOSTILE
	memory_open(&guest_memory);
#endif
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { .data = data, .size = size };

	if (size == 0)
		return 0;
	rng_init(&in.rng, data[0]);
	HOSTILE_RUN(&in);
	return 0;
}
