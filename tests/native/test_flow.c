/* The flow hash: no byte is read beyond the frame, both directions agree, and the load is even.
 * What the value must be, docs/hash-vectors.json and tests/unit/test_flow.py say.
 * SPDX-License-Identifier: BSD-3-Clause */
#include "flow.h"

#include "check.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define FLOWS   20000
#define BUCKETS 16384
#define WORKERS 64
#define BOUND   1.35                /* the fullest worker over the mean */
#define KEY     0x243f6a8885a308d3u /* seed ^ KEY is what lies over the endpoints */

static uint64_t state = 1;

/* Not the function under test: xorshift64*. */
static uint64_t draw(void) {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 0x2545f4914f6cdd1du;
}

/* ---- frames
 * -------------------------------------------------------------------------------------- */

struct kind {
    const char *name;
    uint16_t tag[3], type; /* tags: their ethertypes, 0 where there is none */
    uint8_t first, protocol;
    uint16_t fragment;
    uint16_t flags; /* expected of the whole frame */
};

static const struct kind kinds[] = {
    {"ipv4 tcp", {0}, 0x0800, 0x45, 6, 0x4000, 0},
    {"ipv4 udp", {0}, 0x0800, 0x45, 17, 0, 0},
    {"ipv4 sctp", {0}, 0x0800, 0x45, 132, 0, 0},
    {"ipv4 icmp", {0}, 0x0800, 0x45, 1, 0, 0},
    {"ipv4 options", {0}, 0x0800, 0x4f, 6, 0, 0},
    {"ipv4 first fragment", {0}, 0x0800, 0x45, 17, 0x2000, FAL_FLOW_FRAGMENT | FAL_FLOW_FIRST},
    {"ipv4 later fragment", {0}, 0x0800, 0x45, 17, 0x00b9, FAL_FLOW_FRAGMENT},
    {"ipv4 bad version", {0}, 0x0800, 0x65, 6, 0, FAL_FLOW_UNPARSED},
    {"ipv4 bad length", {0}, 0x0800, 0x44, 6, 0, FAL_FLOW_UNPARSED},
    {"ipv6 tcp", {0}, 0x86dd, 0x60, 6, 0, 0},
    {"ipv6 icmp", {0}, 0x86dd, 0x60, 58, 0, 0},
    {"ipv6 extension", {0}, 0x86dd, 0x60, 0, 0, 0},
    {"ipv6 bad version", {0}, 0x86dd, 0x40, 6, 0, FAL_FLOW_UNPARSED},
    {"802.1q ipv4", {0x8100}, 0x0800, 0x45, 6, 0, FAL_FLOW_VLAN},
    {"802.1ad ipv6", {0x88a8}, 0x86dd, 0x60, 17, 0, FAL_FLOW_VLAN | FAL_FLOW_8021AD},
    {"qinq ipv6", {0x88a8, 0x8100}, 0x86dd, 0x6f, 6, 0, FAL_FLOW_VLAN | FAL_FLOW_8021AD},
    {"two 802.1q ipv4", {0x8100, 0x8100}, 0x0800, 0x45, 6, 0, FAL_FLOW_VLAN},
    {"three tags", {0x8100, 0x8100, 0x8100}, 0x0800, 0x45, 6, 0, FAL_FLOW_VLAN},
    {"tagged arp", {0x8100}, 0x0806, 0, 0, 0, FAL_FLOW_VLAN | FAL_FLOW_UNPARSED},
    {"arp", {0}, 0x0806, 0, 0, 0, FAL_FLOW_UNPARSED},
};

#define KINDS     (sizeof kinds / sizeof kinds[0])
#define FRAME_MAX 128

struct endpoint {
    uint8_t mac[6], address[16], port[2];
};

static void put16(uint8_t *p, uint32_t v) {
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static void put64(uint8_t *p, uint64_t v) {
    for (int i = 0; i < 8; i++)
        p[i] = (uint8_t)(v >> (56 - 8 * i));
}

static uint32_t build(uint8_t *frame, const struct kind *kind, const struct endpoint *from,
                      const struct endpoint *to) {
    uint32_t at = 12, ip;
    memset(frame, 0, FRAME_MAX);
    memcpy(frame, to->mac, 6);
    memcpy(frame + 6, from->mac, 6);
    for (int i = 0; i < 3 && kind->tag[i]; i++, at += 4) {
        put16(frame + at, kind->tag[i]);
        put16(frame + at + 2, 0xa001u + (unsigned)i);
    }
    put16(frame + at, kind->type);
    ip = at + 2;
    frame[ip] = kind->first;
    if (kind->type == 0x0800) {
        put16(frame + ip + 6, kind->fragment);
        frame[ip + 9] = kind->protocol;
        memcpy(frame + ip + 12, from->address, 4);
        memcpy(frame + ip + 16, to->address, 4);
        at = ip + (kind->first & 15) * 4u;
    } else if (kind->type == 0x86dd) {
        frame[ip + 6] = kind->protocol;
        memcpy(frame + ip + 8, from->address, 16);
        memcpy(frame + ip + 24, to->address, 16);
        at = ip + 40;
    } else
        return ip + 28; /* all zero: the same in both directions */
    memcpy(frame + at, from->port, 2);
    memcpy(frame + at + 2, to->port, 2);
    return at + 8;
}

static void draw_endpoint(struct endpoint *e) {
    for (size_t i = 0; i < sizeof *e; i++)
        ((uint8_t *)e)[i] = (uint8_t)(draw() >> 56);
}

/* ---- safety and symmetry
 * ------------------------------------------------------------------------- */

/* A buffer of exactly that size, so that ASan sees the first byte read too far. */
static struct fal_flow flow_of(const uint8_t *frame, uint32_t length, uint32_t fields) {
    struct fal_flow out = {.hash = 1, .vlan_tci = 1, .flags = 0xffff};
    uint8_t *exact = malloc(length);
    CHECK(exact || !length);
    if (length)
        memcpy(exact, frame, length);
    fal_flow(exact, length, FAL_HASH_SEED, fields, &out);
    free(exact);
    return out;
}

static void test_every_length(void) {
    uint8_t there[FRAME_MAX], back[FRAME_MAX];
    for (size_t k = 0; k < KINDS; k++)
        for (int round = 0; round < 8; round++) {
            struct endpoint a, b;
            draw_endpoint(&a);
            draw_endpoint(&b);
            uint32_t whole = build(there, &kinds[k], &a, &b);
            CHECK(build(back, &kinds[k], &b, &a) == whole && whole <= FRAME_MAX);
            for (uint32_t length = 0; length <= whole; length++) {
                struct fal_flow one = flow_of(there, length, FAL_HASH_FLOW),
                                other = flow_of(back, length, FAL_HASH_FLOW);
                CHECK(one.hash == other.hash);
                CHECK(one.vlan_tci == other.vlan_tci && one.flags == other.flags);
                CHECK(one.vlan_tci == (kinds[k].tag[0] && length >= 18 ? 0xa001 : 0));
                CHECK(!(one.flags & FAL_FLOW_VLAN) == !one.vlan_tci);
                if (length < 12)
                    CHECK(one.hash == 0 && one.flags == FAL_FLOW_UNPARSED);
                if (length == whole)
                    CHECK(one.flags == kinds[k].flags);
            }
        }
    struct fal_flow none;
    fal_flow(NULL, 0, FAL_HASH_SEED, FAL_HASH_FLOW, &none);
    CHECK(none.hash == 0 && none.flags == FAL_FLOW_UNPARSED);
}

static uint32_t one_of(const uint16_t *from, size_t n) {
    return from[draw() % n];
}

#define ONE_OF(...)                                                                                \
    one_of((const uint16_t[]){__VA_ARGS__},                                                        \
           sizeof((const uint16_t[]){__VA_ARGS__}) / sizeof(uint16_t))

/* Random layers, one inside the other: tags, labels, IP, its extension headers, tunnels. */
static void nest(uint8_t *frame, uint32_t size) {
    uint32_t at = 14, type = ONE_OF(0x0800, 0x86dd, 0x8100, 0x8847), protocol;
    for (uint32_t i = 0; i < size; i++)
        frame[i] = (uint8_t)(draw() >> 56 & draw() >> 56); /* rather small numbers */
    put16(frame + 12, type);
    while (at + 64 < size) {
        switch (type) {
        case 0x8100:
            type = ONE_OF(0x0800, 0x86dd, 0x8100);
            put16(frame + at + 2, type);
            at += 4;
            continue;
        case 0x8847:
            frame[at + 2] |= 1;
            type = ONE_OF(0x0800, 0x86dd, 0x6558);
            at += type == 0x6558 ? 8 : 4;
            continue;
        case 0x6558:
            type = ONE_OF(0x0800, 0x86dd, 0x8100);
            put16(frame + at + 12, type);
            at += 14;
            continue;
        case 0x0800:
            frame[at] = (uint8_t)(0x45 + (draw() % 4 == 0));
            put16(frame + at + 6, ONE_OF(0, 0, 0, 0x2000));
            protocol = frame[at + 9] = (uint8_t)ONE_OF(1, 4, 6, 17, 17, 17, 41, 47);
            at += (frame[at] & 15) * 4;
            break;
        default:
            frame[at] = 0x60;
            protocol = frame[at + 6] = (uint8_t)ONE_OF(0, 4, 17, 17, 41, 43, 44, 47, 51, 58, 60);
            at += 40;
        }
        while (protocol == 0 || protocol == 43 || protocol == 44 || protocol == 51 ||
               protocol == 60) {
            uint32_t length = protocol == 51 ? 12 : 8;
            frame[at + 1] = protocol == 51;
            if (protocol == 44)
                put16(frame + at + 2, ONE_OF(0, 1));
            protocol = frame[at] = (uint8_t)ONE_OF(0, 4, 17, 17, 41, 43, 44, 47, 51, 58, 60);
            at += length;
            if (at + 64 >= size)
                return;
        }
        type = ONE_OF(0x0800, 0x86dd);
        if (protocol == 17) {
            uint32_t port = ONE_OF(4789, 6081, 2152);
            put16(frame + at + 2, port);
            at += 8;
            frame[at] = port == 4789 ? 8 : port == 6081 ? 1 : (uint8_t)(0x30 | (draw() & 7));
            if (port == 2152)
                frame[at + 1] = 255;
            else
                type = 0x6558;
            put16(frame + at + 2, type);
            at += port == 6081 ? 12 : port == 2152 && frame[at] & 7 ? 12 : 8;
        } else if (protocol == 47) {
            frame[at] = ONE_OF(0, 0x20, 0xb0);
            frame[at + 1] = 0;
            put16(frame + at + 2, type);
            at += 4 + (frame[at] == 0xb0 ? 12 : frame[at] / 8);
        } else if (protocol == 1 || protocol == 58) {
            frame[at] = (uint8_t)ONE_OF(1, 3, 8, 11);
            type = protocol == 1 ? 0x0800 : 0x86dd;
            at += 8;
        } else
            type = protocol == 4 ? 0x0800 : 0x86dd;
        if (at < size)
            frame[at] = type == 0x0800 ? 0x45 : 0x60; /* the version, where it tells the type */
    }
}

/* The short ways lead where the long one does, which is taken where a field is asked for, too, that
 * there is not. */
static void compare_ways(const uint8_t *frame, uint32_t length) {
    struct fal_flow by_short = flow_of(frame, length, FAL_HASH_FLOW),
                    by_long = flow_of(frame, length, FAL_HASH_FLOW | 256);
    CHECK(by_short.hash == by_long.hash && by_short.flags == by_long.flags);
    CHECK(by_short.vlan_tci == by_long.vlan_tci);
}

static void test_any_bytes(void) {
    enum { SIZE = 320 };
    uint8_t frame[SIZE];
    uint32_t deep = 0;
    for (int round = 0; round < 300000; round++) {
        struct endpoint a = {0}, b = {0};
        if (round % 3 == 0) {
            memset(frame, 0, sizeof frame);
            build(frame, &kinds[draw() % KINDS], &a, &b);
            for (uint32_t i = 0, n = (uint32_t)(draw() % 4); i < n; i++)
                frame[12 + draw() % 32] = (uint8_t)(draw() >> 56);
        } else
            nest(frame, SIZE);
        uint32_t length = (uint32_t)(draw() % (SIZE + 1)), fields = draw() & 0xff;
        compare_ways(frame, draw() % 2 ? length : length % 80);
        struct fal_flow out = flow_of(frame, length, fields);
        fields &= ~(uint32_t)(FAL_HASH_INNER | FAL_HASH_ICMP);
        deep += out.hash != flow_of(frame, length, fields).hash;
    }
    CHECK(deep > 10000); /* or else these frames show nothing */
}

/* A burst says what fal_flow says of each, adds to flags, and reads no further. */
static void test_bursts(void) {
    enum { MOST = 70 };
    for (int round = 0; round < 2000; round++) {
        struct fal_desc burst[MOST] = {0};
        struct fal_flow flow[MOST];
        uint8_t frame[FRAME_MAX], *frames = NULL;
        uint32_t n = (uint32_t)(draw() % (MOST + 1)), size = 0, unparsed = 0;
        uint64_t seed = draw();
        for (uint32_t i = 0; i < n; i++) {
            struct endpoint a, b;
            draw_endpoint(&a);
            draw_endpoint(&b);
            uint32_t length = build(frame, &kinds[draw() % KINDS], &a, &b);
            length = draw() % 4 ? length : (uint32_t)(draw() % length);
            fal_flow(frame, length, seed, FAL_HASH_FLOW, &flow[i]);
            frames = realloc(frames, size + length + 1);
            CHECK(frames);
            memcpy(frames + size, frame, length);
            burst[i] = (struct fal_desc){.offset = size,
                                         .caplen = (uint16_t)length,
                                         .vlan_tci = 1,
                                         .flags = FAL_DESC_TRUNCATED};
            size += length;
        }
        frames = size ? realloc(frames, size) : frames; /* ASan sees the first byte read too far */
        uint32_t told = fal_flows(frames, burst, n, seed);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t flags = FAL_DESC_TRUNCATED | FAL_DESC_FIRST;
            flags |= flow[i].flags & FAL_FLOW_VLAN ? FAL_DESC_VLAN : 0;
            flags |= flow[i].flags & FAL_FLOW_8021AD ? FAL_DESC_8021AD : 0;
            unparsed += (flow[i].flags & FAL_FLOW_UNPARSED) != 0;
            CHECK(burst[i].hash == flow[i].hash && burst[i].flags == flags);
            CHECK(burst[i].vlan_tci == flow[i].vlan_tci);
        }
        CHECK(told == unparsed);
        free(frames);
    }
}

/* ---- quality
 * ------------------------------------------------------------------------------------- */

/* The i-th flow of a pattern: two endpoints, which have no MACs. */
typedef void pattern(uint32_t i, struct endpoint *a, struct endpoint *b);

static void set4(struct endpoint *e, uint32_t address, uint32_t port) {
    put16(e->address, address >> 16);
    put16(e->address + 2, address);
    put16(e->port, port);
}

static void set6(struct endpoint *e, uint64_t net, uint64_t host, uint32_t port) {
    put64(e->address, net);
    put64(e->address + 8, host);
    put16(e->port, port);
}

#define NET    0x0a000000u
#define SERVER 0xc0000250u
#define NET6   0x20010db800000000u

static void at_random(uint32_t i, struct endpoint *a, struct endpoint *b) {
    (void)i;
    draw_endpoint(a);
    draw_endpoint(b);
}

static void many_clients(uint32_t i, struct endpoint *a, struct endpoint *b) {
    set4(a, NET + i, 40000);
    set4(b, SERVER, 443);
}

static void sequential_ports(uint32_t i, struct endpoint *a, struct endpoint *b) {
    set4(a, NET + 1, 20000 + i);
    set4(b, SERVER, 443);
}

static void address_scan(uint32_t i, struct endpoint *a, struct endpoint *b) {
    set4(a, SERVER, 55555);
    set4(b, NET + i, 23);
}

static void mirrored_pairs(uint32_t i, struct endpoint *a, struct endpoint *b) {
    set4(a, NET + i, 5000);
    set4(b, NET + 0x10000 + i, 5000);
}

static void swapped_octets(uint32_t i, struct endpoint *a, struct endpoint *b) {
    set4(a, NET + (i & 0xff) * 256 + (i >> 8), 1000 + (i >> 8));
    set4(b, NET + (i >> 8) * 256 + (i & 0xff), 1000 + (i & 0xff));
}

static void grid(uint32_t i, struct endpoint *a, struct endpoint *b) {
    set4(a, NET + i % 200, 4789);
    set4(b, NET + 0x10000 + i / 200, 4789);
}

static void wide_steps(uint32_t i, struct endpoint *a, struct endpoint *b) {
    set4(a, i << 17, 0);
    set4(b, SERVER, 0);
}

static void hosts6(uint32_t i, struct endpoint *a, struct endpoint *b) {
    set6(a, NET6, 1 + i, 40000);
    set6(b, NET6 + 1, 0x80, 443);
}

static void nets6(uint32_t i, struct endpoint *a, struct endpoint *b) {
    set6(a, NET6 + ((uint64_t)i << 16), 1, 40000);
    set6(b, NET6 + 1, 0x80, 443);
}

static void grid6(uint32_t i, struct endpoint *a, struct endpoint *b) {
    set6(a, NET6, i % 200, 4789);
    set6(b, NET6 + 1, i / 200, 4789);
}

static void mirrored6(uint32_t i, struct endpoint *a, struct endpoint *b) {
    set6(a, NET6 + i, i, 5000);
    set6(b, NET6 + 0x100000000 + i, i, 5000);
}

static const struct {
    const char *name;
    pattern *make;
    bool six;
} patterns[] = {
    {"random", at_random, false},
    {"random, IPv6", at_random, true},
    {"many clients, one server", many_clients, false},
    {"one client, sequential ports", sequential_ports, false},
    {"address scan", address_scan, false},
    {"mirrored pairs", mirrored_pairs, false},
    {"swapped octets and ports", swapped_octets, false},
    {"grid 200 x 100", grid, false},
    {"clients 2^17 apart, no ports", wide_steps, false},
    {"IPv6, sequential hosts", hosts6, true},
    {"IPv6, sequential networks", nets6, true},
    {"IPv6, grid 200 x 100", grid6, true},
    {"IPv6, mirrored pairs", mirrored6, true},
};

#define PATTERNS (sizeof patterns / sizeof patterns[0])

static uint32_t hash_of(bool six, const struct endpoint *a, const struct endpoint *b,
                        uint64_t seed) {
    static const struct kind four_tcp = {"", {0}, 0x0800, 0x45, 6, 0, 0},
                             six_tcp = {"", {0}, 0x86dd, 0x60, 6, 0, 0};
    uint8_t frame[FRAME_MAX];
    struct fal_flow out;
    uint32_t length = build(frame, six ? &six_tcp : &four_tcp, a, b);
    fal_flow(frame, length, seed, FAL_HASH_FLOW, &out);
    return out.hash;
}

/* The fullest of n workers over the mean. */
static double load(const uint32_t *bucket, uint32_t n) {
    uint32_t worker[WORKERS] = {0}, fullest = 0;
    for (uint32_t b = 0; b < BUCKETS; b++)
        worker[b * n / BUCKETS] += bucket[b];
    for (uint32_t w = 0; w < n; w++)
        if (worker[w] > fullest)
            fullest = worker[w];
    return (double)fullest * n / FLOWS;
}

/* Returns the load with 64 workers, and counts what a pattern sets: its top and lowest 14 bits, and
 * each bit. */
static double run_pattern(size_t p, uint64_t seed, uint32_t *top, uint32_t *bottom,
                          uint32_t *ones) {
    memset(top, 0, BUCKETS * sizeof *top);
    memset(bottom, 0, BUCKETS * sizeof *bottom);
    memset(ones, 0, 32 * sizeof *ones);
    for (uint32_t i = 0; i < FLOWS; i++) {
        struct endpoint a = {0}, b = {0};
        patterns[p].make(i, &a, &b);
        uint32_t hash = hash_of(patterns[p].six, &a, &b, seed);
        top[hash >> 18]++;
        bottom[hash & (BUCKETS - 1)]++;
        for (int bit = 0; bit < 32; bit++)
            ones[bit] += hash >> bit & 1;
    }
    return load(top, WORKERS);
}

static uint32_t top[BUCKETS], bottom[BUCKETS], ones[32];

/* All bits are to be good: the lowest 14 must balance too, and each bit must be set as often as not
 * (within six standard deviations, 71 each). */
static void test_even(void) {
    const uint64_t seeds[] = {FAL_HASH_SEED, 0,      1,      2,      UINT64_MAX,
                              draw(),        draw(), draw(), draw(), draw()};
    for (size_t p = 0; p < PATTERNS; p++) {
        double usual = 0, worst = 0;
        for (size_t s = 0; s < sizeof seeds / sizeof seeds[0]; s++) {
            double full = run_pattern(p, seeds[s], top, bottom, ones);
            for (uint32_t n = 2; n <= WORKERS; n++) {
                CHECK(load(top, n) <= BOUND);
                CHECK(load(bottom, n) <= BOUND);
            }
            for (int bit = 0; bit < 32; bit++)
                CHECK(abs((int)ones[bit] - FLOWS / 2) < 6 * 71);
            usual = s == 0 ? full : usual;
            worst = full > worst ? full : worst;
        }
        printf("%-30s %.2f  %.2f\n", patterns[p].name, usual, worst);
    }
}

/* Factors that could make the product forget the other one: as if whoever sends knew the seed, a
 * server (address and port as the hash takes them) or a network is made to be such a factor.  Half
 * of the mixing is then gone; what is left must still spread. */
static void test_no_factor_collapses(void) {
    const uint64_t aimed[] = {0, 0x0000bb01500200c0, 0x00000000b80d0120};
    const uint64_t factors[] = {0, 1, 2, 3, (uint64_t)1 << 32, (uint64_t)1 << 63, UINT64_MAX};
    for (size_t p = 0; p < PATTERNS; p++)
        for (size_t i = 0; i < sizeof aimed / sizeof aimed[0]; i++)
            for (size_t f = 0; f < sizeof factors / sizeof factors[0]; f++)
                CHECK(run_pattern(p, KEY ^ aimed[i] ^ factors[f], top, bottom, ones) <= 1.5);
}

/* Any bit of address or port turned round turns each bit of the hash with probability 1/2: within
 * six standard deviations (22 of 2000 draws). */
static void test_avalanche(void) {
    enum { DRAWS = 2000, BITS = 8 * 18 };
    for (int six = 0; six < 2; six++)
        for (int bit = 0; bit < BITS; bit++) {
            if (!six && bit / 8 >= 4 && bit / 8 < 16)
                continue; /* IPv4 has four bytes of address */
            uint32_t turned[32] = {0};
            for (int i = 0; i < DRAWS; i++) {
                struct endpoint a, b;
                draw_endpoint(&a);
                draw_endpoint(&b);
                uint32_t before = hash_of(six, &a, &b, FAL_HASH_SEED);
                uint8_t *byte = bit / 8 < 16 ? &a.address[bit / 8] : &a.port[bit / 8 - 16];
                *byte ^= (uint8_t)(1u << (bit & 7));
                uint32_t changed = before ^ hash_of(six, &a, &b, FAL_HASH_SEED);
                for (int o = 0; o < 32; o++)
                    turned[o] += changed >> o & 1;
            }
            for (int o = 0; o < 32; o++)
                CHECK(abs((int)turned[o] - DRAWS / 2) < 6 * 22);
        }
}

int main(void) {
    test_every_length();
    test_any_bytes();
    test_bursts();
    test_even();
    test_no_factor_collapses();
    test_avalanche();
    return 0;
}
