/* What parsing and hashing cost a packet: the mix, in bursts of 64, by the default fields.
 *
 *   hash [ROUNDS]
 *
 * Counted by callgrind, which is told when to collect, and by the clock, of which the median burst
 * is printed.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <valgrind/callgrind.h>

#include "flow.h"
#include "measure.h"
#include "mix.h"

#define PACKETS 4096
#define BURST   64
#define BURSTS  (PACKETS / BURST)

static uint8_t frames[PACKETS][PACKET_SIZE];
static struct fal_desc packets[PACKETS];

/* One by one they have the same hashes. */
static int same(const struct fal_desc *burst) {
    for (uint32_t i = 0; i < BURST; i++) {
        struct fal_flow flow;
        fal_flow(frames[0] + burst[i].offset, PACKET_SIZE, FAL_HASH_SEED, FAL_HASH_FLOW, &flow);
        if (flow.hash != burst[i].hash)
            return 0;
    }
    return 1;
}

int main(int argc, char **argv) {
    uint32_t rounds = argc > 1 ? (uint32_t)atoi(argv[1]) : 1;
    uint64_t *took = calloc(rounds * BURSTS, sizeof *took);
    if (!rounds || !took)
        return 1;
    for (uint32_t i = 0; i < PACKETS; i++) {
        make_packet(frames[i], (uint16_t)i);
        packets[i] = (struct fal_desc){.offset = i * PACKET_SIZE, .caplen = PACKET_SIZE};
    }
    for (uint32_t i = 0; i < rounds * BURSTS; i++) {
        struct fal_desc *burst = packets + i % BURSTS * BURST;
        uint64_t begun = now_ns(CLOCK_MONOTONIC);
        CALLGRIND_TOGGLE_COLLECT;
        uint32_t unparsed = fal_flows(frames[0], burst, BURST, FAL_HASH_SEED);
        CALLGRIND_TOGGLE_COLLECT;
        took[i] = now_ns(CLOCK_MONOTONIC) - begun;
        if (unparsed || !same(burst)) {
            fprintf(stderr, "hash: not what fal_flow says\n");
            return 1;
        }
    }
    printf("{\"packets\": %u, \"ns\": %.3f}\n", rounds * PACKETS,
           (double)median(took, rounds * BURSTS) / BURST);
    free(took);
    return 0;
}
