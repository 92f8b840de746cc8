/* DPDK's rte_ring, one producer and one consumer, with elements of the size of our descriptors: by its
 * copying interface or, compiled with ZERO_COPY, written and read in place.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <rte_ring.h>
#include <rte_ring_peek_zc.h>

#include "layout.h"

#define SIZE       sizeof(struct fal_desc)
#define RING_BYTES (sizeof(struct rte_ring) + RING_SLOTS * SIZE)

static struct rte_ring *ring;

static void ring_make(uint8_t *memory);

#include "ring_race.h"

static void ring_make(uint8_t *memory) {
    ring = (struct rte_ring *)memory;
    if (rte_ring_init(ring, "race", RING_SLOTS, RING_F_SP_ENQ | RING_F_SC_DEQ)) {
        fprintf(stderr, "rte_ring_init failed\n");
        exit(1);
    }
}

#ifdef ZERO_COPY

static uint32_t ring_put(uint32_t batch, uint64_t number) {
    struct rte_ring_zc_data at;
    if (!rte_ring_enqueue_zc_bulk_elem_start(ring, SIZE, batch, &at, NULL))
        return 0;
    for (uint32_t i = 0; i < at.n1; i++)
        fill_in((struct fal_desc *)at.ptr1 + i, number + i);
    for (uint32_t i = at.n1; i < batch; i++)
        fill_in((struct fal_desc *)at.ptr2 + i - at.n1, number + i);
    rte_ring_enqueue_zc_elem_finish(ring, batch);
    return batch;
}

static uint32_t ring_take(uint32_t batch, uint64_t *sum) {
    struct rte_ring_zc_data at;
    uint32_t n = rte_ring_dequeue_zc_burst_elem_start(ring, SIZE, batch, &at, NULL);
    if (!n)
        return 0;
    uint64_t read = 0;
    for (uint32_t i = 0; i < at.n1; i++)
        read += read_out((struct fal_desc *)at.ptr1 + i);
    for (uint32_t i = at.n1; i < n; i++)
        read += read_out((struct fal_desc *)at.ptr2 + i - at.n1);
    *sum += read;
    rte_ring_dequeue_zc_elem_finish(ring, n);
    return n;
}

#else

static uint32_t ring_put(uint32_t batch, uint64_t number) {
    struct fal_desc made[MAX_BATCH];
    for (uint32_t i = 0; i < batch; i++)
        fill_in(&made[i], number + i);
    return rte_ring_enqueue_bulk_elem(ring, made, SIZE, batch, NULL);
}

static uint32_t ring_take(uint32_t batch, uint64_t *sum) {
    struct fal_desc taken[MAX_BATCH];
    uint32_t n = rte_ring_dequeue_burst_elem(ring, taken, SIZE, batch, NULL);
    for (uint32_t i = 0; i < n; i++)
        *sum += read_out(&taken[i]);
    return n;
}

#endif
