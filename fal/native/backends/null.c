/* The null backend: packets made in memory, as fast as they are taken.  For trying FAL without a
 * NIC or a privilege, and for measuring FAL itself.
 *
 * 64 flows of UDP over IPv4, 60-byte frames; packet i belongs to flow i modulo 64, and carries i in
 * the first 8 bytes (little endian) of its payload.  Of n pollers, each has a queue, and p makes the
 * packets p, p + n, p + 2 n, …
 * SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../backend.h"

#define FLOWS       64
#define FRAME_BYTES 60
#define PAYLOAD     42

struct part {
    struct fal_pool pool;
    uint64_t next, step; /* the number of the next packet, and how far it is to the one after */
    uint64_t count;      /* 0: no end */
    uint16_t queue;
    uint32_t sent; /* of `sending`: what tx_burst was given; it goes nowhere */
    uint32_t sending[FAL_TX_FRAMES];
    uint32_t free; /* of `frame`: what the poller has handed over */
    uint32_t frame[FAL_BURST];
    uint8_t flow[FLOWS][FRAME_BYTES];
};

static uint16_t ip_checksum(const uint8_t *header) {
    uint32_t sum = 0;
    for (int i = 0; i < 20; i += 2)
        sum += (uint32_t)(header[i] << 8 | header[i + 1]);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

static void make_flow(uint8_t *f, uint32_t i) {
    static const uint8_t header[PAYLOAD] = {
        2,    0, 0, 0,  0, 2, 2, 0,  0,  0,  0, 1, 8,  0,       /* Ethernet */
        0x45, 0, 0, 46, 0, 0, 0, 0,  64, 17, 0, 0, 10, 0, 0, 0, /* IPv4, UDP */
        10,   1, 0, 1,  0, 0, 0, 53, 0,  26, 0, 0};             /* ports, length */
    memcpy(f, header, sizeof header);
    f[29] = (uint8_t)(i + 1);            /* 10.0.0.i+1 -> 10.1.0.1 */
    f[34] = (uint8_t)((10000 + i) >> 8); /* source port 10000 + i -> 53 */
    f[35] = (uint8_t)(10000 + i);
    uint16_t sum = ip_checksum(f + 14);
    f[24] = (uint8_t)(sum >> 8);
    f[25] = (uint8_t)sum;
}

static int null_queues(const struct fal_backend_options *o, struct fal_error *err) {
    (void)err;
    return (int)o->pollers;
}

static void *null_open(const struct fal_backend_options *o, const struct fal_pool *pools,
                       void **parts, struct fal_backend_facts *facts, struct fal_error *err) {
    struct part *all = calloc(o->pollers, sizeof *all);
    if (!all) {
        fal_fail(err, ENOMEM, "no memory for the null backend");
        return NULL;
    }
    strcpy(facts->mode, "memory");
    facts->zero_copy = 1;
    facts->queue_count = o->pollers;
    facts->max_send = pools->frame_size;
    for (uint32_t i = 0; i < o->pollers; i++) {
        struct part *b = parts[i] = &all[i];
        *b = (struct part){.pool = pools[i], .next = i, .step = o->pollers, .count = o->count};
        b->queue = (uint16_t)(facts->queue[i] = i);
        for (uint32_t f = 0; f < FLOWS; f++)
            make_flow(b->flow[f], f);
    }
    return all;
}

static int null_rx_burst(void *part, struct fal_desc *packets, uint32_t *frame, uint16_t *cpu,
                         uint32_t max) {
    struct part *b = part;
    if (b->count && b->next >= b->count) {
        errno = ENODATA;
        return -1;
    }
    uint32_t n = max < b->free ? max : b->free;
    if (b->count && n > (b->count - b->next + b->step - 1) / b->step)
        n = (uint32_t)((b->count - b->next + b->step - 1) / b->step);
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    uint64_t ts = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    for (uint32_t i = 0; i < n; i++, b->next += b->step) {
        frame[i] = b->frame[--b->free];
        cpu[i] = 0;
        uint64_t offset = (uint64_t)frame[i] * b->pool.frame_size;
        uint8_t *to = b->pool.frames + offset;
        memcpy(to, b->flow[b->next % FLOWS], FRAME_BYTES);
        memcpy(to + PAYLOAD, &b->next, sizeof b->next);
        packets[i] = (struct fal_desc){.ts_ns = ts,
                                       .offset = offset,
                                       .len = FRAME_BYTES,
                                       .caplen = FRAME_BYTES,
                                       .queue = b->queue};
    }
    return (int)n;
}

static uint32_t null_wants(void *part) {
    return FAL_BURST - ((struct part *)part)->free; /* a burst is enough, and stays in the cache */
}

static void null_refill(void *part, const uint32_t *frame, uint32_t n) {
    struct part *b = part;
    memcpy(b->frame + b->free, frame, n * sizeof *frame);
    b->free += n;
}

static void null_tx_burst(void *part, const uint32_t *frame, const uint32_t *length, uint32_t n) {
    struct part *b = part;
    (void)length;
    memcpy(b->sending + b->sent, frame, n * sizeof *frame);
    b->sent += n;
}

static uint32_t null_tx_done(void *part, uint32_t *frame, uint32_t max) {
    struct part *b = part;
    uint32_t n = b->sent < max ? b->sent : max;
    b->sent -= n;
    memcpy(frame, b->sending + b->sent, n * sizeof *frame);
    return n;
}

static uint32_t null_wait(void *part, struct pollfd *fds, uint32_t max) {
    (void)part, (void)fds, (void)max;
    return 0;
}

static void null_stats(void *part, struct fal_backend_stats *stats) {
    (void)part, (void)stats;
}

static void null_close(void *device) {
    free(device);
}

const struct fal_backend_ops fal_backend_null = {
    .name = "null",
    .queues = null_queues,
    .open = null_open,
    .rx_burst = null_rx_burst,
    .wants = null_wants,
    .refill = null_refill,
    .tx_burst = null_tx_burst,
    .tx_done = null_tx_done,
    .wait = null_wait,
    .stats = null_stats,
    .close = null_close,
};
