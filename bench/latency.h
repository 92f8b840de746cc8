/* What the programs of latency share: a frame that carries when it was sent, and what a worker makes
 * of it.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef BENCH_LATENCY_H
#define BENCH_LATENCY_H

#include <stdbool.h>
#include <string.h>

#include "measure.h"

/* A frame of a protocol that no host takes for its own. */
#define LATENCY_TYPE  0x88b5
#define LATENCY_SIZE  60
#define LATENCY_STAMP 16  /* u64: CLOCK_MONOTONIC before it was sent; of the host's byte order */
#define LATENCY_EARLY 200 /* the first are not counted: caches are cold */

struct latency {
    uint64_t *ns;
    uint32_t count, most; /* arrived; to arrive */
};

static inline void latency_begin(struct latency *l, uint32_t most) {
    *l = (struct latency){.ns = calloc(most, sizeof *l->ns), .most = most};
    if (!l->ns)
        exit(1);
    memset(l->ns, 1, most * sizeof *l->ns); /* there before it is written to */
    fprintf(stderr, "ready\n");
}

/* A frame is in the worker's hands; false: it was the last. */
static inline bool latency_note(struct latency *l, const uint8_t *frame, uint32_t size) {
    uint64_t sent;
    if (size < LATENCY_SIZE || frame[12] != LATENCY_TYPE >> 8 || frame[13] != (LATENCY_TYPE & 255))
        return true;
    memcpy(&sent, frame + LATENCY_STAMP, sizeof sent);
    l->ns[l->count++] = now_ns(CLOCK_MONOTONIC) - sent;
    return l->count < l->most;
}

/* Prints the percentiles, in microseconds. */
static inline void latency_end(struct latency *l) {
    uint32_t early = l->count > 2 * LATENCY_EARLY ? LATENCY_EARLY : 0, n = l->count - early;
    uint64_t *ns = l->ns + early;
    if (!n) {
        fprintf(stderr, "nothing arrived\n");
        exit(1);
    }
    uint64_t p50 = median(ns, n);
    printf("{\"arrived\": %u, \"p50\": %.2f, \"p99\": %.2f, \"p99.9\": %.2f}\n", l->count,
           (double)p50 / 1000, (double)ns[n - 1 - n / 100] / 1000,
           (double)ns[n - 1 - n / 1000] / 1000);
}

#endif
