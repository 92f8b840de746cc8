/* Fragments in any order: while a decision is remembered, all pieces of a datagram follow it.
 * Input: pieces of six bytes: group, datagram, flags, hash, hash of the whole, tenths of a second.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <stdbool.h>
#include <stdlib.h>

#include "defrag.h"
#include "fuzz.h"

#define DATAGRAMS 16
#define GROUPS    4

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct {
        uint64_t seen_ns; /* 0: never */
        uint32_t hash;
        bool first;
    } known[GROUPS][DATAGRAMS] = {0};
    struct fal_defrag *d = calloc(1, sizeof *d);
    uint64_t now_ns = 1;
    if (!d)
        return -1;
    for (; size >= 6; data += 6, size -= 6) {
        uint32_t group = data[0] % GROUPS, which = data[1] % DATAGRAMS;
        bool first = data[2] & 1;
        struct fal_flow flow = {.hash = data[3],
                                .whole = data[4],
                                .flags = FAL_FLOW_FRAGMENT | (first ? FAL_FLOW_FIRST : 0),
                                .datagram = (which + 1) * 0x9e3779b97f4a7c15u};
        now_ns += data[5] * 100000000ull;
        uint32_t hash = fal_defrag(d, group, &flow, now_ns);

        bool decided = known[group][which].seen_ns &&
                       now_ns - known[group][which].seen_ns < FAL_DEFRAG_NS &&
                       !(first && known[group][which].first);
        uint32_t expected = decided ? known[group][which].hash : first ? flow.whole : flow.hash;
        CHECK(d->evicted || hash == expected);
        known[group][which].first = first || (decided && known[group][which].first);
        known[group][which].hash = hash;
        known[group][which].seen_ns = now_ns;
    }
    free(d);
    return 0;
}
