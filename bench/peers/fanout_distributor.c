/* DPDK's way to the same by its own library for it: rte_distributor in burst mode.  It has one worker,
 * for which all packets are: two on one core wait for each other, since to ask for packets a worker
 * waits for the distributor, which may be waiting for the other one.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <rte_distributor.h>

#include "fanout_dpdk.h"

static struct rte_distributor *distributor;

static void prepare(void) {
    distributor = rte_distributor_create("fan-out", SOCKET_ID_ANY, 1, RTE_DIST_ALG_BURST);
    if (!distributor)
        fail("rte_distributor_create");
}

static uint32_t take(uint32_t worker, uint32_t most, struct account *came, uint64_t *bits) {
    static bool asked;
    struct rte_mbuf *packet[8];
    (void)most; /* it gives 8 at a time */
    if (worker)
        return 0;
    if (!asked)
        rte_distributor_request_pkt(distributor, 0, NULL, 0);
    asked = true;
    int n = rte_distributor_poll_pkt(distributor, 0, packet);
    if (n < 0) /* nothing yet; 0 is an answer */
        return 0;
    asked = false;
    if (n)
        consume(packet, (uint32_t)n, came, bits);
    return (uint32_t)n;
}

static inline struct account fan_out(void) {
    struct rte_mbuf *packet[MAX_BURST];
    uint32_t n = receive(packet);
    struct account out = {.packets = n};
    for (uint32_t i = 0; i < n; i++) {
        if (i + LOOK_AHEAD < n)
            rte_prefetch0(bytes_of(packet[i + LOOK_AHEAD]));
        packet[i]->hash.usr = hash_of(packet[i]);
        out.sum += number_of(bytes_of(packet[i]));
    }
    rte_distributor_process(distributor, packet, n);
    return out;
}

/* What lies in the distributor's backlog goes on when a worker asks. */
static void settle(void) {
    rte_distributor_process(distributor, NULL, 0);
}
