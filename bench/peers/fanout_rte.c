/* DPDK's way to the same: a hash, and an rte_ring a worker.
 * SPDX-License-Identifier: BSD-3-Clause */
#include "fanout_dpdk.h"

static struct rte_ring *to[WORKERS];

static void prepare(void) {
    to[0] = make_ring("0");
    to[1] = make_ring("1");
}

static uint32_t take(uint32_t worker, uint32_t most, struct account *came, uint64_t *bits) {
    struct rte_mbuf *packet[MAX_BURST];
    uint32_t n = rte_ring_dequeue_burst(to[worker], (void **)packet, most, NULL);
    if (n)
        consume(packet, n, came, bits);
    return n;
}

static inline struct account fan_out(void) {
    struct rte_mbuf *packet[MAX_BURST], *part[WORKERS][MAX_BURST];
    uint32_t n = receive(packet), count[WORKERS] = {0};
    struct account out = {.packets = n};
    for (uint32_t i = 0; i < n; i++) {
        if (i + LOOK_AHEAD < n)
            rte_prefetch0(bytes_of(packet[i + LOOK_AHEAD]));
        uint32_t w = hash_of(packet[i]) % WORKERS;
        part[w][count[w]++] = packet[i];
        out.sum += number_of(bytes_of(packet[i]));
    }
    for (uint32_t w = 0; w < WORKERS; w++)
        if (count[w])
            rte_ring_enqueue_bulk(to[w], (void *const *)part[w], count[w], NULL); /* room for all */
    return out;
}

static void settle(void) {
    rte_pause();
}
