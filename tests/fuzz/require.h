// What a fuzz target holds to be true of any input: if it is not, the input is a finding.
#ifndef LOCKSTEP_TESTS_FUZZ_REQUIRE_H
#define LOCKSTEP_TESTS_FUZZ_REQUIRE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/status.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline void require(bool holds)
{
    if (!holds) {
        fprintf(stderr, "after: %s\n", ls_status_message());
        abort();
    }
}

#endif
