/* The null backend: packets made in memory, as fast as they are taken.  For trying FAL without a
 * NIC or a privilege, and for measuring FAL itself.
 *
 * Of n pollers each has a queue, and p makes the packets p, p + n, p + 2 n, …  Packet i belongs to
 * flow i modulo `flows`, and carries i in the first 8 bytes (little endian) of its payload.  Plain,
 * there are 64 flows of UDP over IPv4, in frames of 60 bytes.  Else flows and sizes are drawn, the
 * same for the same seed: a quarter IPv6, seven of ten TCP, an eighth tagged.  L4 checksums are 0,
 * and so are payloads but for the number.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../backend.h"

#define PLAIN_FLOWS 64
#define PLAIN_SIZE  60
#define NUMBER      8  /* bytes of it */
#define HEADERS     78 /* Ethernet, tag, IPv6, TCP */

struct flow {
    uint8_t header[HEADERS];
    uint8_t ip;   /* where IP begins */
    uint8_t l4;   /* where TCP or UDP does */
    uint8_t size; /* of all headers */
    bool ipv6, tcp;
    uint32_t sum; /* of the IPv4 header with length 0 */
};

struct part {
    struct fal_pool pool;
    uint64_t next, step; /* the number of the next packet, and how far it is to the one after */
    uint64_t count;      /* 0: no end */
    uint16_t queue;
    uint64_t random;             /* the generator's state */
    uint32_t size_min, size_max; /* 0: IMIX */
    const struct flow *flow;     /* the device's */
    uint32_t flows, next_flow;
    bool plain;    /* all packets are PLAIN_SIZE, with their lengths filled in beforehand */
    uint32_t sent; /* of `sending`: what tx_burst was given; it goes nowhere */
    uint32_t sending[FAL_TX_FRAMES];
    uint32_t free; /* of `frame`: what the poller has handed over */
    uint32_t frame[FAL_BURST];
};

struct null {
    struct flow *flow;
    struct part part[];
};

/* splitmix64 */
static uint64_t draw(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* ---- flows ----------------------------------------------------------------------------------- */

static void put16(uint8_t *at, uint32_t value) {
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

struct endpoints {
    uint8_t source[16], destination[16]; /* IPv4: the last four */
    uint16_t source_port, destination_port;
};

static void make_flow(struct flow *f, bool ipv6, bool tcp, int vlan, const struct endpoints *ends) {
    static const uint8_t macs[12] = {2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1};
    uint8_t *at = f->header;
    memcpy(at, macs, sizeof macs);
    f->ip = vlan < 0 ? 14 : 18;
    if (vlan >= 0) {
        put16(at + 12, 0x8100);
        put16(at + 14, (uint32_t)vlan);
    }
    put16(at + f->ip - 2, ipv6 ? 0x86dd : 0x0800);
    at += f->ip;
    if (ipv6) {
        at[0] = 0x60;
        at[6] = tcp ? 6 : 17;
        at[7] = 64;
        memcpy(at + 8, ends->source, 16);
        memcpy(at + 24, ends->destination, 16);
        at += 40;
    } else {
        at[0] = 0x45;
        at[8] = 64;
        at[9] = tcp ? 6 : 17;
        memcpy(at + 12, ends->source + 12, 4);
        memcpy(at + 16, ends->destination + 12, 4);
        for (int i = 0; i < 20; i += 2)
            f->sum += (uint32_t)(at[i] << 8 | at[i + 1]);
        at += 20;
    }
    f->l4 = (uint8_t)(at - f->header);
    put16(at, ends->source_port);
    put16(at + 2, ends->destination_port);
    if (tcp) {
        at[12] = 0x50; /* five words */
        at[13] = 0x10; /* ACK */
        put16(at + 14, 0xffff);
    }
    f->size = (uint8_t)(f->l4 + (tcp ? 20 : 8));
    f->ipv6 = ipv6;
    f->tcp = tcp;
}

/* 10.0.0.i+1, port 10000 + i -> 10.1.0.1, port 53 */
static void make_plain_flow(struct flow *f, uint32_t i) {
    struct endpoints ends = {.source_port = (uint16_t)(10000 + i), .destination_port = 53};
    memcpy(ends.source + 12, (uint8_t[]){10, 0, 0, (uint8_t)(i + 1)}, 4);
    memcpy(ends.destination + 12, (uint8_t[]){10, 1, 0, 1}, 4);
    make_flow(f, false, false, -1, &ends);
}

static void draw_flow(struct flow *f, uint64_t *random) {
    static const uint8_t prefix[4] = {0x20, 0x01, 0x0d, 0xb8};
    static const uint16_t services[4] = {80, 443, 53, 22};
    uint64_t kind = draw(random), a = draw(random), b = draw(random);
    struct endpoints ends;
    memcpy(ends.source, prefix, 4);
    memcpy(ends.destination, prefix, 4);
    memset(ends.source + 4, 0, 8);
    memset(ends.destination + 4, 0, 8);
    memcpy(ends.source + 12, &a, 4);
    memcpy(ends.destination + 12, &b, 4);
    ends.source[12] = ends.destination[12] = 10;
    ends.source_port = (uint16_t)(1024 + (a >> 32) % 64512);
    ends.destination_port = services[b >> 32 & 3];
    int vlan = kind >> 16 & 7 ? -1 : (int)(1 + (kind >> 32) % 4094);
    make_flow(f, (kind & 3) == 0, (kind >> 8 & 255) % 10 < 7, vlan, &ends);
}

/* ---- packets --------------------------------------------------------------------------------- */

static uint32_t draw_size(struct part *b) {
    if (b->size_min == b->size_max && b->size_min)
        return b->size_min;
    uint64_t r = draw(&b->random) >> 32;
    if (b->size_min)
        return b->size_min + (uint32_t)(r % (b->size_max - b->size_min + 1));
    return r % 12 < 7 ? 60 : r % 12 < 11 ? 590 : 1514;
}

static void set_lengths(const struct flow *f, uint8_t *to, uint32_t size) {
    if (f->ipv6) {
        put16(to + f->ip + 4, size - f->l4);
    } else {
        uint32_t sum = f->sum + size - f->ip;
        sum = (sum & 0xffff) + (sum >> 16);
        put16(to + f->ip + 2, size - f->ip);
        put16(to + f->ip + 10, ~(sum + (sum >> 16)));
    }
    if (!f->tcp)
        put16(to + f->l4 + 4, size - f->l4);
}

static uint32_t make_packet(struct part *b, uint8_t *to) {
    const struct flow *f = &b->flow[b->next_flow];
    for (b->next_flow += (uint32_t)b->step; b->next_flow >= b->flows;) /* a division is slow */
        b->next_flow -= b->flows;
    if (b->plain) {
        memcpy(to, f->header, PLAIN_SIZE);
        memcpy(to + f->size, &b->next, NUMBER);
        return PLAIN_SIZE;
    }
    uint32_t size = draw_size(b), least = f->size + NUMBER;
    size = size > least ? size : least;
    memcpy(to, f->header, f->size);
    memcpy(to + f->size, &b->next, NUMBER);
    memset(to + least, 0, size - least);
    set_lengths(f, to, size);
    return size;
}

/* ---- the backend ----------------------------------------------------------------------------- */

static int null_queues(const struct fal_backend_options *o, struct fal_error *err) {
    (void)err;
    return (int)o->pollers;
}

static void null_close(void *device) {
    struct null *n = device;
    free(n->flow);
    free(n);
}

static struct flow *make_flows(const struct fal_backend_options *o, uint64_t *random) {
    uint32_t flows = o->flows ? o->flows : PLAIN_FLOWS;
    struct flow *flow = calloc(flows, sizeof *flow);
    for (uint32_t i = 0; flow && i < flows; i++) {
        if (o->flows) {
            draw_flow(&flow[i], random);
        } else {
            make_plain_flow(&flow[i], i);
            set_lengths(&flow[i], flow[i].header, PLAIN_SIZE);
        }
    }
    return flow;
}

static void *null_open(const struct fal_backend_options *o, const struct fal_pool *pools,
                       void **parts, struct fal_backend_facts *facts, struct fal_error *err) {
    uint32_t largest = o->flows && !o->size_max ? 1514 : o->size_max;
    if (largest > pools->frame_size) {
        fal_fail(err, EINVAL, "packets of %u bytes do not fit into frames of %u (--frame-size)",
                 largest, pools->frame_size);
        return NULL;
    }
    struct null *n = calloc(1, sizeof *n + o->pollers * sizeof *n->part);
    uint64_t random = o->seed;
    if (!n || !(n->flow = make_flows(o, &random))) {
        fal_fail(err, ENOMEM, "no memory for the null backend");
        free(n);
        return NULL;
    }
    strcpy(facts->mode, "memory");
    facts->zero_copy = 1;
    facts->queue_count = o->pollers;
    facts->max_send = pools->frame_size;
    for (uint32_t i = 0; i < o->pollers; i++) {
        struct part *b = parts[i] = &n->part[i];
        *b = (struct part){.pool = pools[i],
                           .next = i,
                           .step = o->pollers,
                           .count = o->count,
                           .random = random + i,
                           .size_min = o->size_min,
                           .size_max = o->size_max,
                           .flow = n->flow,
                           .flows = o->flows ? o->flows : PLAIN_FLOWS,
                           .plain = !o->flows};
        b->next_flow = i % b->flows;
        b->queue = (uint16_t)(facts->queue[i] = i);
    }
    return n;
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
        uint32_t size = make_packet(b, b->pool.frames + offset);
        packets[i] = (struct fal_desc){.ts_ns = ts,
                                       .offset = offset,
                                       .len = size,
                                       .caplen = (uint16_t)size,
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
