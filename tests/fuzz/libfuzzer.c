/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One target (FUZZ_TARGET, from the build) as libFuzzer wants it.
 */
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	for (unsigned i = 0; i < FUZZ_TARGET.seeds; i++)	/* outside of the first input's limits */
		fz_seed(FUZZ_TARGET.seed[i]);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	fz_run(&FUZZ_TARGET, data, size);
	return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
	return fz_mutate(&FUZZ_TARGET, data, size, max_size, seed);
}
