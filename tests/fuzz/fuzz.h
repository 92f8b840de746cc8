/* What every fuzz target has: libFuzzer calls it with bytes of its own making.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_FUZZ_H
#define FAL_FUZZ_H

#include <stddef.h>
#include <stdint.h>

#include "../native/check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
