/* The null backend: packets made in memory, as fast as they are taken.  For trying FAL without a
 * NIC or a privilege, and for measuring FAL itself.
 *
 * 64 flows of UDP over IPv4, 60-byte frames; packet i belongs to flow i modulo 64, and carries i in
 * the first 8 bytes (little endian) of its payload.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../backend.h"

#define FLOWS       64
#define FRAME_BYTES 60
#define PAYLOAD     42

struct null {
    struct fal_pool pool;
    uint64_t made, count;
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
    (void)o, (void)err;
    return 1;
}

static void *null_open(const struct fal_backend_options *o, const struct fal_pool *pool,
                       struct fal_backend_facts *facts, struct fal_error *err) {
    struct null *b = calloc(1, sizeof *b);
    if (!b) {
        fal_fail(err, ENOMEM, "no memory for the null backend");
        return NULL;
    }
    b->pool = *pool;
    b->count = o->count;
    for (uint32_t i = 0; i < FLOWS; i++)
        make_flow(b->flow[i], i);
    strcpy(facts->mode, "memory");
    facts->zero_copy = 1;
    facts->queue_count = 1;
    return b;
}

static int null_rx_burst(void *backend, struct fal_desc *packets, uint32_t *frame, uint32_t max) {
    struct null *b = backend;
    if (b->count && b->made == b->count) {
        errno = ENODATA;
        return -1;
    }
    uint32_t n = max < b->free ? max : b->free;
    if (b->count && n > b->count - b->made)
        n = (uint32_t)(b->count - b->made);
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    uint64_t ts = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    for (uint32_t i = 0; i < n; i++, b->made++) {
        frame[i] = b->frame[--b->free];
        uint64_t offset = (uint64_t)frame[i] * b->pool.frame_size;
        uint8_t *to = b->pool.frames + offset;
        memcpy(to, b->flow[b->made % FLOWS], FRAME_BYTES);
        memcpy(to + PAYLOAD, &b->made, sizeof b->made);
        packets[i] = (struct fal_desc){
            .ts_ns = ts, .offset = offset, .len = FRAME_BYTES, .caplen = FRAME_BYTES};
    }
    return (int)n;
}

static uint32_t null_wants(void *backend) {
    return FAL_BURST -
           ((struct null *)backend)->free; /* a burst is enough, and stays in the cache */
}

static void null_refill(void *backend, const uint32_t *frame, uint32_t n) {
    struct null *b = backend;
    memcpy(b->frame + b->free, frame, n * sizeof *frame);
    b->free += n;
}

static uint32_t null_wait(void *backend, struct pollfd *fds, uint32_t max) {
    (void)backend, (void)fds, (void)max;
    return 0;
}

static void null_stats(void *backend, struct fal_backend_stats *stats) {
    (void)backend, (void)stats;
}

static void null_close(void *backend) {
    free(backend);
}

const struct fal_backend_ops fal_backend_null = {
    .name = "null",
    .queues = null_queues,
    .open = null_open,
    .rx_burst = null_rx_burst,
    .wants = null_wants,
    .refill = null_refill,
    .wait = null_wait,
    .stats = null_stats,
    .close = null_close,
};
