/* FAL's ring, as the poller and a client use it.
 * SPDX-License-Identifier: BSD-3-Clause */
#include "ring.h"

#define RING_BYTES (128 + RING_SLOTS * sizeof(struct fal_desc))

static struct fal_producer producer;
static struct fal_consumer consumer;

static void ring_make(uint8_t *memory);

#include "ring_race.h"

/* Each index on its own line, then the slots. */
static void ring_make(uint8_t *memory) {
    uint32_t *index = (uint32_t *)memory;
    struct fal_desc *slots = (struct fal_desc *)(memory + 128);
    producer = (struct fal_producer){
        .slots = slots, .producer = index, .consumer = index + 16, .mask = RING_SLOTS - 1};
    consumer = (struct fal_consumer){
        .slots = slots, .producer = index, .consumer = index + 16, .mask = RING_SLOTS - 1};
}

static uint32_t ring_put(uint32_t batch, uint64_t number) {
    if (fal_producer_room(&producer) < batch) {
        producer.reclaimed += fal_producer_returned(&producer);
        if (fal_producer_room(&producer) < batch)
            return 0;
    }
    struct fal_producer p = producer; /* in registers: what is stored to slots may not change it */
    for (uint32_t i = 0; i < batch; i++)
        fill_in(fal_producer_reserve(&p), number + i);
    fal_producer_submit(&p);
    fal_producer_prepare(&p, batch);
    producer = p;
    return batch;
}

static uint32_t ring_take(uint32_t batch, uint64_t *sum) {
    const struct fal_desc *first;
    uint32_t n = fal_consumer_peek(&consumer, batch, &first);
    if (!n)
        return 0;
    uint64_t read = 0;
    for (uint32_t i = 0; i < n; i++)
        read += read_out(&first[i]);
    *sum += read;
    fal_consumer_release(&consumer, n);
    return n;
}
