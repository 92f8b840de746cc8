/* The tpacket backend: the kernel's packet socket, for any Ethernet device.  The host keeps its
 * packets: what comes here is a copy of the kernel's, which is copied once more, into the pool.
 *
 * As with any packet socket both directions come, those that the host sends with FAL_DESC_OUTGOING;
 * but for the loopback device, where each packet would come twice.
 *
 * A socket is a queue.
 * SPDX-License-Identifier: BSD-3-Clause */
#include "../tpacket.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <stdlib.h>
#include <string.h>

#include "../backend.h"

#define BLOCKS    128 /* 16 MiB: of a trickle, one is filled every RETIRE_MS */
#define RETIRE_MS 4

struct part {
    struct fal_pool pool;
    struct fal_tpacket socket;
    struct fal_tpacket_place place;
    struct fal_tpacket_counts counts;
    uint16_t queue;
    int gone; /* an errno */
    uint64_t send_failed;
    uint32_t sent; /* of `sending`: frames that went out, and are to be handed back */
    uint32_t sending[FAL_TX_FRAMES];
    uint32_t free; /* of `frame`: what the poller has handed over */
    uint32_t frame[2 * FAL_BURST];
};

struct tpacket {
    char device[FAL_NAME_SIZE];
    uint32_t parts;
    struct part part[];
};

static int tpacket_queues(const struct fal_backend_options *o, struct fal_error *err) {
    (void)err;
    return (int)o->pollers;
}

static void tpacket_close(void *device) {
    struct tpacket *t = device;
    for (uint32_t i = 0; i < t->parts; i++)
        fal_tpacket_close(&t->part[i].socket);
    free(t);
}

/* The sockets of several pollers share the packets by flow, in a group with a number that the
 * kernel finds for the first. */
static int open_parts(struct tpacket *t, const struct fal_backend_options *o,
                      const struct fal_pool *pools, struct fal_error *err) {
    struct fal_tpacket_fanout group = {.type = PACKET_FANOUT_HASH | PACKET_FANOUT_FLAG_UNIQUEID};
    for (; t->parts < o->pollers; t->parts++) {
        struct part *b = &t->part[t->parts];
        b->pool = pools[t->parts];
        b->queue = (uint16_t)t->parts;
        if (fal_tpacket_open(&b->socket, t->device, BLOCKS, RETIRE_MS, o->promisc, err) < 0)
            return -1;
        if (fal_tpacket_start(&b->socket, err) < 0 ||
            (o->pollers > 1 && fal_tpacket_join(&b->socket, &group, err) < 0)) {
            fal_tpacket_close(&b->socket);
            return -1;
        }
        group.type = PACKET_FANOUT_HASH;
    }
    return 0;
}

static void *tpacket_open(const struct fal_backend_options *o, const struct fal_pool *pools,
                          void **parts, struct fal_backend_facts *facts, struct fal_error *err) {
    struct tpacket *t = calloc(1, sizeof *t + o->pollers * sizeof *t->part);
    if (!t) {
        fal_fail(err, ENOMEM, "no memory for the tpacket backend");
        return NULL;
    }
    strncpy(t->device, o->device, sizeof t->device - 1);
    if (open_parts(t, o, pools, err) < 0) {
        tpacket_close(t);
        return NULL;
    }
    for (uint32_t i = 0; i < t->parts; i++) {
        parts[i] = &t->part[i];
        facts->queue[i] = i;
    }
    strcpy(facts->mode, "copy");
    facts->queue_count = t->parts;
    facts->ifindex = t->part->socket.ifindex;
    facts->max_send = t->part->socket.max_send;
    if (facts->max_send > pools->frame_size)
        facts->max_send = pools->frame_size;
    return t;
}

/* Copies a packet into a frame. */
static void put(struct part *b, uint32_t frame, struct fal_desc *d) {
    const uint8_t *from = b->socket.map + d->offset;
    if (d->caplen > b->pool.frame_size) {
        d->caplen = (uint16_t)b->pool.frame_size;
        d->flags |= FAL_DESC_TRUNCATED;
    }
    d->offset = (uint64_t)frame * b->pool.frame_size;
    d->queue = b->queue;
    memcpy(b->pool.frames + d->offset, from, d->caplen);
}

static int tpacket_rx_burst(void *part, struct fal_desc *packets, uint32_t *frame, uint16_t *cpu,
                            uint32_t max) {
    struct part *b = part;
    uint32_t n = 0;
    memset(cpu, 0, max * sizeof *cpu); /* nobody knows */
    while (n < max && b->free && fal_tpacket_block(&b->socket, &b->place)) {
        fal_tpacket_next(&b->socket, &b->place, &packets[n]);
        frame[n] = b->frame[--b->free];
        put(b, frame[n], &packets[n]);
        n++;
    }
    if (n == 0 && b->gone) {
        errno = b->gone;
        return -1;
    }
    return (int)n;
}

static uint32_t tpacket_wants(void *part) {
    const struct part *b = part;
    return (uint32_t)(sizeof b->frame / sizeof *b->frame) - b->free;
}

static void tpacket_refill(void *part, const uint32_t *frame, uint32_t n) {
    struct part *b = part;
    memcpy(b->frame + b->free, frame, n * sizeof *frame);
    b->free += n;
}

static void tpacket_tx_burst(void *part, const uint32_t *frame, const uint32_t *length,
                             uint32_t n) {
    struct part *b = part;
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *data = b->pool.frames + (uint64_t)frame[i] * b->pool.frame_size;
        b->send_failed += fal_tpacket_send(&b->socket, data, length[i]) < 0;
    }
    memcpy(b->sending + b->sent, frame, n * sizeof *frame);
    b->sent += n;
}

static uint32_t tpacket_tx_done(void *part, uint32_t *frame, uint32_t max) {
    struct part *b = part;
    uint32_t n = b->sent < max ? b->sent : max;
    b->sent -= n;
    memcpy(frame, b->sending + b->sent, n * sizeof *frame);
    return n;
}

static uint32_t tpacket_wait(void *part, struct pollfd *fds, uint32_t max) {
    struct part *b = part;
    (void)max;
    b->gone = fal_tpacket_news(&b->socket); /* else one that went down would never let us sleep */
    *fds = (struct pollfd){.fd = b->socket.fd, .events = POLLIN};
    return 1;
}

static void tpacket_stats(void *part, struct fal_backend_stats *stats) {
    struct part *b = part;
    fal_tpacket_stats(&b->socket, &b->counts);
    stats->if_dropped = b->counts.dropped;
    stats->send_failed = b->send_failed;
    b->gone = fal_tpacket_news(&b->socket);
}

const struct fal_backend_ops fal_backend_tpacket = {
    .name = "tpacket",
    .queues = tpacket_queues,
    .open = tpacket_open,
    .rx_burst = tpacket_rx_burst,
    .wants = tpacket_wants,
    .refill = tpacket_refill,
    .tx_burst = tpacket_tx_burst,
    .tx_done = tpacket_tx_done,
    .wait = tpacket_wait,
    .stats = tpacket_stats,
    .close = tpacket_close,
};
