/* A frame's way to 32 bits: walk through its layers to an IP packet, find two endpoints there, sort
 * them, multiply and mix.
 *
 * An endpoint is one 64-bit number (address and port; of IPv6, its digest), so that sorting two of
 * them, which makes the hash symmetric, is one comparison.  What is rare (fragments, extension
 * headers, labels, tunnels) lies in functions of its own, out of the way of what is not.
 * docs/fanout.md is the definition, tests/unit/reference_hash.py says it again in Python:
 * a change here changes both, and docs/hash-vectors.json.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include "describe.h"

#include <stdbool.h>
#include <string.h>

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define RARE        __attribute__((noinline, cold))

enum {
    MAX_LAYERS = 16,    /* tags, labels, frames and IP packets */
    MAX_EXTENSIONS = 8, /* headers in a row, of IPv6 and of GTP-U */
    MACS = 12,
    TYPE = 2, /* an ethertype */
    ETHER_HEADER = 14,
    TAG = 4,
    LABEL = 4,
    CONTROL_WORD = 4,
    IPV4_HEADER = 20,
    IPV6_HEADER = 40,
    EXTENSION = 8, /* the shortest */
    PORTS = 4,
    ICMP_HEADER = 8,
    UDP_HEADER = 8,
    GRE_HEADER = 4,
    TUNNEL_HEADER = 8, /* of VXLAN, Geneve and GTP-U, without what is optional */
    LEAST_ETHERTYPE = 0x600,
    ETHERTYPE_8021Q = 0x8100,
    ETHERTYPE_8021AD = 0x88a8,
    ETHERTYPE_IPV4 = 0x0800,
    ETHERTYPE_IPV6 = 0x86dd,
    ETHERTYPE_MPLS = 0x8847,
    ETHERTYPE_MPLS_MULTICAST = 0x8848,
    ETHERTYPE_FRAME = 0x6558, /* transparent Ethernet bridging: a whole frame */
    PROTOCOL_HOP_BY_HOP = 0,
    PROTOCOL_ICMP = 1,
    PROTOCOL_IPV4 = 4,
    PROTOCOL_TCP = 6,
    PROTOCOL_UDP = 17,
    PROTOCOL_IPV6 = 41,
    PROTOCOL_ROUTING = 43,
    PROTOCOL_FRAGMENT = 44,
    PROTOCOL_GRE = 47,
    PROTOCOL_AH = 51,
    PROTOCOL_ICMPV6 = 58,
    PROTOCOL_OPTIONS = 60,
    PROTOCOL_SCTP = 132,
    PORT_GTPU = 2152,
    PORT_VXLAN = 4789,
    PORT_GENEVE = 6081,
};

/* Beside the FAL_HASH_… bits: look at a first fragment as if it were all of its datagram. */
#define WHOLE 0x80000000u

/* The first digits of pi and of the golden ratio: nothing is hidden in them. */
static const uint64_t KEY = 0x243f6a8885a308d3;
static const uint64_t FINAL = 0x9e3779b97f4a7c15;

__extension__ typedef unsigned __int128 wide;

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define LITTLE(bits, v) (v)
#define BIG(bits, v)    __builtin_bswap##bits(v)
#else
#define LITTLE(bits, v) __builtin_bswap##bits(v)
#define BIG(bits, v)    (v)
#endif

/* As its sender meant it: what is compared or reported. */
static inline uint16_t load16be(const uint8_t *p) {
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return BIG(16, v);
}

/* Little-endian: the hash takes addresses and ports so, and need not turn them round. */
static inline uint64_t load16(const uint8_t *p) {
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return LITTLE(16, v);
}

static inline uint64_t load32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return LITTLE(32, v);
}

static inline uint64_t load64(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return LITTLE(64, v);
}

static inline uint64_t fold(uint64_t a, uint64_t b) {
    wide product = (wide)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Both halves of the product, and both factors again: a factor such as 0, 1 or 2^32 makes a product
 * that has forgotten the other one, or half of it, or would cancel it out.  Added twice and four
 * times, there is none that does so: at worst the upper three bits of the other factor are lost. */
static inline uint64_t mix(uint64_t a, uint64_t b) {
    return fold(a, b) + 2 * a + 4 * b;
}

/* Two endpoints in either order, and what kind of packet it is: see kind_of().  This is mix() of the
 * lower one and the higher one: of its terms, 2 * higher alone asks which is which.
 * The last factor is odd and never small, so it needs no such care. */
static inline uint32_t hash_of(uint64_t a, uint64_t b, uint64_t kind, uint64_t key) {
    uint64_t higher = (a < b ? b : a) ^ key;
    a ^= key;
    b ^= key;
    uint64_t mixed = fold(a, b) + 2 * (a + b + higher);
    return (uint32_t)(fold(mixed, FINAL + 2 * kind) >> 32);
}

/* A part of the frame, and what it is: an ethertype or, behind an IP header, an IP protocol. */
struct layer {
    const uint8_t *at;
    uint32_t left;     /* bytes, of those that are there at all */
    uint16_t type;     /* an ethertype 0 is nothing that can be looked into */
    uint16_t fragment; /* behind an IP header: FAL_FLOW_FRAGMENT, FAL_FLOW_FIRST */
};

static const struct layer nothing;

static inline struct layer behind(struct layer l, uint32_t header, uint32_t type) {
    if (header > l.left)
        header = l.left;
    return (struct layer){l.at + header, l.left - header, (uint16_t)type, 0};
}

/* An IP packet, told by its version alone. */
static struct layer ip_behind(struct layer l, uint32_t header) {
    l = behind(l, header, 0);
    uint8_t version = l.left ? l.at[0] >> 4 : 0;
    l.type = version == 4 ? ETHERTYPE_IPV4 : version == 6 ? ETHERTYPE_IPV6 : 0;
    return l;
}

/* Below the last label there is no word of what follows; IP tells itself, and a pseudowire's frame
 * is known by the control word before it, which begins with four zero bits. */
static RARE struct layer behind_label(struct layer l) {
    if (l.left <= LABEL)
        return nothing;
    if (!(l.at[2] & 1)) /* not the bottom of the stack */
        return behind(l, LABEL, l.type);
    if (l.at[LABEL] >> 4 == 0)
        return behind(l, LABEL + CONTROL_WORD, ETHERTYPE_FRAME);
    return ip_behind(l, LABEL);
}

/* ---- IP ---- */

/* Of what is not the whole of its datagram: it begins at `offset` in that. */
static inline uint16_t fragment_at(uint32_t offset, uint32_t spec) {
    if (offset)
        return FAL_FLOW_FRAGMENT;
    return spec & WHOLE ? 0 : FAL_FLOW_FRAGMENT | FAL_FLOW_FIRST;
}

static inline uint16_t fragment4(const uint8_t *ip, uint32_t spec) {
    uint32_t word = load16be(ip + 6) & 0x3fff; /* "more fragments", and the offset */
    return likely(!word) ? 0 : fragment_at(word & 0x1fff, spec);
}

static inline bool is_extension(uint32_t protocol) {
    const uint64_t bits = 1ull << PROTOCOL_HOP_BY_HOP | 1ull << PROTOCOL_ROUTING |
                          1ull << PROTOCOL_FRAGMENT | 1ull << PROTOCOL_AH |
                          1ull << PROTOCOL_OPTIONS;
    return protocol < 64 && bits >> protocol & 1;
}

/* Steps over extension headers, as long as they are there as a whole; a fragment header is the last
 * one, since what follows in the first fragment is not in the others.  One with neither an offset
 * nor more to come makes no fragment. */
static RARE struct layer behind_extensions(struct layer l, uint32_t spec) {
    for (uint32_t i = 0; i < MAX_EXTENSIONS && l.left >= EXTENSION && is_extension(l.type); i++) {
        uint32_t size = l.type == PROTOCOL_FRAGMENT ? EXTENSION
                        : l.type == PROTOCOL_AH     ? (l.at[1] + 2u) * 4
                                                    : (l.at[1] + 1u) * 8;
        if (size > l.left)
            return l;
        uint32_t word = load16be(l.at + 2) & 0xfff9; /* the offset, and "more fragments" */
        uint16_t fragment = l.type == PROTOCOL_FRAGMENT && word ? fragment_at(word >> 3, spec) : 0;
        l = behind(l, size, l.at[0]);
        l.fragment = fragment;
        if (fragment)
            return l;
    }
    return l;
}

/* ---- tunnels ---- */

static struct layer inside_gre(struct layer l) {
    if (l.left < GRE_HEADER)
        return nothing;
    uint32_t flags = load16be(l.at);
    if (flags & 0x4007) /* source routes, or another version */
        return nothing;
    uint32_t words = (flags >> 15 & 1) + (flags >> 13 & 1) + (flags >> 12 & 1);
    return behind(l, GRE_HEADER + words * 4, load16be(l.at + 2)); /* checksum, key, sequence */
}

/* The optional word says what extension header comes next; each one's last byte says it again. */
static struct layer inside_gtpu(struct layer l) {
    const uint8_t *gtp = l.at + UDP_HEADER;
    uint32_t size = UDP_HEADER + TUNNEL_HEADER, next = 0;
    if (gtp[0] >> 4 != 3 || gtp[1] != 255) /* version 1 and not GTP', a user's packet */
        return nothing;
    if (gtp[0] & 7) {
        size += 4;
        if (l.left < size)
            return nothing;
        next = gtp[0] & 4 ? l.at[size - 1] : 0u;
    }
    for (uint32_t i = 0; next; i++) {
        uint32_t words = size < l.left ? l.at[size] : 0u;
        if (i == MAX_EXTENSIONS || words == 0 || words * 4 > l.left - size)
            return nothing;
        size += words * 4;
        next = l.at[size - 1];
    }
    return ip_behind(l, size);
}

static struct layer inside_udp(struct layer l) {
    if (l.left < UDP_HEADER + TUNNEL_HEADER)
        return nothing;
    const uint8_t *header = l.at + UDP_HEADER;
    switch (load16be(l.at + 2)) {
    case PORT_VXLAN:
        return header[0] & 8 ? behind(l, UDP_HEADER + TUNNEL_HEADER, ETHERTYPE_FRAME) : nothing;
    case PORT_GENEVE:
        if (header[0] >> 6) /* another version; the other bits count words of options */
            return nothing;
        return behind(l, UDP_HEADER + TUNNEL_HEADER + (header[0] & 63) * 4u, load16be(header + 2));
    case PORT_GTPU:
        return inside_gtpu(l);
    }
    return nothing;
}

/* What lies in an IP packet's payload, if the spec looks there. */
static RARE struct layer inside(struct layer l, uint32_t spec) {
    uint32_t type = l.left >= ICMP_HEADER ? l.at[0] : 0u;
    if (spec & FAL_HASH_ICMP) {
        if (l.type == PROTOCOL_ICMP && ((type >= 3 && type <= 5) || type == 11 || type == 12))
            return behind(l, ICMP_HEADER, ETHERTYPE_IPV4);
        if (l.type == PROTOCOL_ICMPV6 && type >= 1 && type <= 4)
            return behind(l, ICMP_HEADER, ETHERTYPE_IPV6);
    }
    if (!(spec & FAL_HASH_INNER))
        return nothing;
    switch (l.type) {
    case PROTOCOL_IPV4:
        return behind(l, 0, ETHERTYPE_IPV4);
    case PROTOCOL_IPV6:
        return behind(l, 0, ETHERTYPE_IPV6);
    case PROTOCOL_GRE:
        return inside_gre(l);
    case PROTOCOL_UDP:
        return inside_udp(l);
    }
    return nothing;
}

/* ---- the hash ---- */

/* VLAN id, ethertype, IP protocol. */
static inline uint64_t kind_of(uint64_t type, uint64_t protocol, uint32_t spec,
                               const struct fal_flow *out) {
    uint64_t vlan = spec & FAL_HASH_VLAN ? out->vlan_tci & 0xfffu : 0;
    bool counts = spec & FAL_HASH_PROTOCOL && (!(spec & FAL_HASH_TCP) || protocol == PROTOCOL_TCP);
    return vlan << 24 | type << 8 | (counts ? protocol : 0);
}

/* All bits set where a protocol has ports. */
static const uint32_t ports_of[256] = {
    [PROTOCOL_TCP] = UINT32_MAX, [PROTOCOL_UDP] = UINT32_MAX, [PROTOCOL_SCTP] = UINT32_MAX};

static inline bool has_ports(uint32_t protocol, uint32_t spec) {
    return spec & FAL_HASH_PORTS && ports_of[protocol] &&
           (!(spec & FAL_HASH_TCP) || protocol == PROTOCOL_TCP);
}

static inline uint64_t endpoint4(const uint8_t *address, uint64_t port) {
    return load32(address) | port << 32;
}

static inline uint64_t endpoint6(const uint8_t *address, uint64_t port, uint64_t key) {
    return mix(load64(address) ^ key, load64(address + 8) ^ key) + port;
}

static inline void note_tag(const uint8_t *tag, uint32_t type, struct fal_flow *out) {
    out->vlan_tci = load16be(tag);
    out->flags = type == ETHERTYPE_8021AD ? FAL_FLOW_VLAN | FAL_FLOW_8021AD : FAL_FLOW_VLAN;
}

/* No addresses: by the MACs (48 bits each) and the last ethertype seen. */
static RARE uint32_t by_macs(const uint8_t *data, uint64_t kind, uint64_t key) {
    return hash_of(load64(data) & 0xffffffffffff, load64(data + 4) >> 16, kind, key);
}

static void walk(const uint8_t *data, uint32_t caplen, uint64_t key, uint32_t spec,
                 struct fal_flow *out);

/* Which datagram a fragment belongs to.  Unlike the hash it tells the directions apart: each has
 * identifications of its own. */
static RARE void note_fragment(struct layer ip, struct layer upper, uint64_t key,
                               struct fal_flow *out) {
    uint64_t ends, id;
    if (ip.type == ETHERTYPE_IPV4) {
        ends = mix(endpoint4(ip.at + 12, 0) ^ key, endpoint4(ip.at + 16, 0) ^ key);
        id = load16(ip.at + 4) | (uint64_t)upper.type << 32;
    } else { /* whatever each fragment says of the next header (RFC 8200, 4.5) */
        ends = mix(endpoint6(ip.at + 8, 0, key), endpoint6(ip.at + 24, 0, key));
        id = load32(upper.at - 4);
    }
    out->datagram = mix(ends ^ key, id);
    out->flags |= upper.fragment;
}

static RARE uint32_t whole_hash(const uint8_t *data, uint32_t caplen, uint64_t key, uint32_t spec) {
    struct fal_flow whole;
    walk(data, caplen, key, spec | WHOLE, &whole);
    return whole.hash;
}

/* Every IP packet on the way makes a hash; the innermost that the spec looks at is the last. */
static __attribute__((noinline)) void walk(const uint8_t *data, uint32_t caplen, uint64_t key,
                                           uint32_t spec, struct fal_flow *out) {
    out->vlan_tci = out->flags = 0;
    if (caplen < ETHER_HEADER) {
        out->flags = FAL_FLOW_UNPARSED;
        out->hash = caplen < MACS ? 0 : by_macs(data, 0, key);
        return;
    }

    struct layer l = {data + ETHER_HEADER, caplen - ETHER_HEADER, load16be(data + MACS), 0}, upper;
    bool found = false;
    for (uint32_t layers = 0; layers < MAX_LAYERS; layers++) {
        uint64_t source = 0, destination = 0; /* ports */
        if (l.type == ETHERTYPE_IPV4 && l.left >= IPV4_HEADER && l.at[0] >= 0x45 &&
            l.at[0] <= 0x4f) { /* version, and the length in words */
            upper = behind(l, (l.at[0] & 15) * 4u, l.at[9]);
            upper.fragment = fragment4(l.at, spec);
        } else if (l.type == ETHERTYPE_IPV6 && l.left >= IPV6_HEADER && l.at[0] >> 4 == 6) {
            upper = behind_extensions(behind(l, IPV6_HEADER, l.at[6]), spec);
        } else if ((l.type == ETHERTYPE_8021Q || l.type == ETHERTYPE_8021AD) && l.left >= TAG) {
            if (l.at == data + ETHER_HEADER)
                note_tag(l.at, l.type, out);
            l = behind(l, TAG, load16be(l.at + 2));
            continue;
        } else if (l.type == ETHERTYPE_FRAME && l.left >= ETHER_HEADER) {
            l = behind(l, ETHER_HEADER, load16be(l.at + MACS));
            continue;
        } else if (l.type == ETHERTYPE_MPLS || l.type == ETHERTYPE_MPLS_MULTICAST) {
            struct layer below = behind_label(l);
            if (!below.type)
                break;
            l = below;
            continue;
        } else {
            break;
        }

        if (has_ports(upper.type, spec) && !upper.fragment && upper.left >= PORTS) {
            source = load16(upper.at);
            destination = load16(upper.at + 2);
        }
        uint64_t a, b, kind = kind_of(l.type, upper.type, spec, out);
        if (l.type == ETHERTYPE_IPV4) {
            a = endpoint4(l.at + 12, source);
            b = endpoint4(l.at + 16, destination);
        } else {
            a = endpoint6(l.at + 8, source, key);
            b = endpoint6(l.at + 24, destination, key);
        }
        out->hash = hash_of(a, b, kind, key);

        if (unlikely(upper.fragment)) {
            note_fragment(l, upper, key, out);
            if (upper.fragment & FAL_FLOW_FIRST)
                out->whole = whole_hash(data, caplen, key, spec);
            return;
        }
        if (!(spec & (FAL_HASH_INNER | FAL_HASH_ICMP)))
            return;
        found = true;
        l = inside(upper, spec);
    }
    if (!found) {
        out->flags |= FAL_FLOW_UNPARSED;
        uint32_t type = l.type < LEAST_ETHERTYPE ? 0 : l.type; /* else it is a length (802.3) */
        out->hash = by_macs(data, kind_of(type, 0, spec, out), key);
    }
}

/* ---- what most packets are -------------------------------------------------------------------
 *
 * Asked for the default fields, and without a detour: IPv4 that has no options and is no fragment, or
 * IPv6 without extension headers; two tags at most.  A shorter way to what walk() says. */

/* With `n` bytes of a frame from `at` on, where its ethertype stands. */
static inline bool is_plain4(const uint8_t *at, uint32_t n) {
    const uint64_t fragment = 0xff3f; /* "more fragments" and the offset, little-endian */
    return n >= TYPE + IPV4_HEADER + PORTS && load16be(at) == ETHERTYPE_IPV4 && at[TYPE] == 0x45 &&
           !(load16(at + TYPE + 6) & fragment);
}

static inline bool is_plain6(const uint8_t *at, uint32_t n) {
    return n >= TYPE + IPV6_HEADER + PORTS && load16be(at) == ETHERTYPE_IPV6 &&
           at[TYPE] >> 4 == 6 && !is_extension(at[TYPE + 6]);
}

static inline uint32_t hash4(const uint8_t *ip, uint64_t key) {
    uint64_t protocol = ip[9], ports = load32(ip + IPV4_HEADER) & ports_of[protocol];
    return hash_of(endpoint4(ip + 12, ports & 0xffff), endpoint4(ip + 16, ports >> 16),
                   (ETHERTYPE_IPV4 << 8) + protocol, key);
}

static inline uint32_t hash6(const uint8_t *ip, uint64_t key) {
    uint64_t protocol = ip[6], ports = load32(ip + IPV6_HEADER) & ports_of[protocol];
    return hash_of(endpoint6(ip + 8, ports & 0xffff, key), endpoint6(ip + 24, ports >> 16, key),
                   (ETHERTYPE_IPV6 << 8) + protocol, key);
}

/* Behind tags, IPv6, or the long way. */
static inline __attribute__((always_inline)) void less_usual(const uint8_t *data, uint32_t caplen,
                                                             uint64_t key, struct fal_flow *out) {
    uint32_t at = MACS;
    struct fal_flow flow = {0};
    for (; at < MACS + 2 * TAG && caplen >= at + TYPE + TAG; at += TAG) {
        uint32_t type = load16be(data + at);
        if (type != ETHERTYPE_8021Q && type != ETHERTYPE_8021AD)
            break;
        if (at == MACS)
            note_tag(data + at + TYPE, type, &flow);
    }
    if (caplen > at && is_plain4(data + at, caplen - at))
        flow.hash = hash4(data + at + TYPE, key);
    else if (caplen > at && is_plain6(data + at, caplen - at))
        flow.hash = hash6(data + at + TYPE, key);
    else {
        walk(data, caplen, key, FAL_HASH_FLOW, out);
        return;
    }
    *out = flow;
}

static inline bool is_usual(const uint8_t *data, uint32_t caplen) {
    return likely(caplen >= ETHER_HEADER + IPV4_HEADER + PORTS &&
                  is_plain4(data + MACS, caplen - MACS));
}

void fal_flow(const uint8_t *data, uint32_t caplen, uint64_t seed, uint32_t hash,
              struct fal_flow *out) {
    uint64_t key = seed ^ KEY;
    if (hash != FAL_HASH_FLOW)
        walk(data, caplen, key, hash, out);
    else if (!is_usual(data, caplen))
        less_usual(data, caplen, key, out);
    else
        *out = (struct fal_flow){.hash = hash4(data + ETHER_HEADER, key)};
    if (unlikely(!(hash & FAL_HASH_ADDRESSES)) && caplen >= MACS) {
        uint64_t kind = kind_of(0, 0, hash, out);
        out->hash = hash & FAL_HASH_MACS ? by_macs(data, kind, key) : hash_of(0, 0, kind, key);
    }
}

/* Both return 1 for an unparsed packet. */
static __attribute__((noinline)) uint32_t describe_less_usual(const uint8_t *data, uint64_t key,
                                                              struct fal_desc *packet) {
    struct fal_flow flow;
    less_usual(data, packet->caplen, key, &flow);
    fal_describe(packet, &flow);
    return (flow.flags & FAL_FLOW_UNPARSED) != 0;
}

static inline uint32_t describe(const uint8_t *data, uint64_t key, struct fal_desc *packet) {
    if (unlikely(!is_usual(data, packet->caplen)))
        return describe_less_usual(data, key, packet);
    struct fal_flow flow = {.hash = hash4(data + ETHER_HEADER, key)};
    fal_describe(packet, &flow);
    return 0;
}

uint32_t fal_flows(const uint8_t *frames, struct fal_desc *packets, uint32_t n, uint64_t seed) {
    const uint32_t ahead = 4;
    uint64_t key = seed ^ KEY;
    uint32_t i = 0, unparsed = 0;
    for (; i + ahead < n; i++) {
        __builtin_prefetch(frames + packets[i + ahead].offset);
        unparsed += describe(frames + packets[i].offset, key, &packets[i]);
    }
    for (; i < n; i++)
        unparsed += describe(frames + packets[i].offset, key, &packets[i]);
    return unparsed;
}
