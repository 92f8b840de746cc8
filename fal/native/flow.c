/* A frame's way to 32 bits: skip the tags, find two endpoints, sort them, multiply and mix.
 *
 * An endpoint is one 64-bit number (address and port; of IPv6, its digest), so that sorting two of
 * them, which makes the hash symmetric, is one comparison.
 * docs/fanout.md is the definition, tests/unit/reference_hash.py says it again in Python:
 * a change here changes both, and docs/hash-vectors.json.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include "flow.h"

#include <string.h>

enum {
    MACS = 12,
    ETHER_HEADER = 14,
    TAG = 4,
    MAX_TAGS = 2,
    IPV4_HEADER = 20,
    IPV6_HEADER = 40,
    PORTS = 4,
    ETHERTYPE_8021Q = 0x8100,
    ETHERTYPE_8021AD = 0x88a8,
    ETHERTYPE_IPV4 = 0x0800,
    ETHERTYPE_IPV6 = 0x86dd,
    PROTOCOL_TCP = 6,
    PROTOCOL_UDP = 17,
    PROTOCOL_SCTP = 132,
};

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

/* Both halves of the product, and both factors again: a factor such as 0, 1 or 2^32 makes a product
 * that has forgotten the other one, or half of it, or would cancel it out.  Added twice and four
 * times, there is none that does so: at worst the upper three bits of the other factor are lost. */
static inline uint64_t mix(uint64_t a, uint64_t b) {
    wide product = (wide)a * b;
    return ((uint64_t)product ^ (uint64_t)(product >> 64)) + 2 * a + 4 * b;
}

/* Two endpoints in either order, and what kind of packet it is: ethertype * 256 + IP protocol.
 * The last factor is odd and never small, so it needs no such care as in mix(). */
static inline uint32_t hash_of(uint64_t a, uint64_t b, uint64_t kind, uint64_t key) {
    uint64_t low = a < b ? a : b, high = a < b ? b : a;
    wide product = (wide)mix(low ^ key, high ^ key) * (FINAL + 2 * kind);
    return (uint32_t)(((uint64_t)product ^ (uint64_t)(product >> 64)) >> 32);
}

/* Asked one after the other, the likeliest first: a table or a switch costs more. */
static inline int has_ports(uint32_t protocol) {
    if (__builtin_expect(protocol == PROTOCOL_TCP, 1))
        return 1;
    if (__builtin_expect(protocol == PROTOCOL_UDP, 1))
        return 1;
    return protocol == PROTOCOL_SCTP;
}

static inline int is_fragment(const uint8_t *ipv4) { /* "more fragments", or an offset */
    return (load16(ipv4 + 6) & 0xff3f) != 0;
}

static inline uint64_t endpoint4(const uint8_t *address, uint64_t port) {
    return load32(address) | port << 32;
}

static inline uint64_t endpoint6(const uint8_t *address, uint64_t port, uint64_t key) {
    return mix(load64(address) ^ key, load64(address + 8) ^ key) + port;
}

/* No addresses: by the MACs (48 bits each) and the last ethertype seen. */
static __attribute__((noinline, cold)) uint32_t by_macs(const uint8_t *data, uint64_t type,
                                                        uint64_t key) {
    return hash_of(load64(data) & 0xffffffffffff, load64(data + 4) >> 16, type << 8, key);
}

void fal_flow(const uint8_t *data, uint32_t caplen, uint64_t seed, struct fal_flow *out) {
    const uint64_t key = seed ^ KEY;
    out->vlan_tci = out->flags = 0;
    if (caplen < ETHER_HEADER) {
        out->flags = FAL_FLOW_UNPARSED;
        out->hash = caplen < MACS ? 0 : by_macs(data, 0, key);
        return;
    }

    const uint8_t *at = data + ETHER_HEADER; /* the layer at hand */
    uint32_t left = caplen - ETHER_HEADER, tags = 0;
    uint64_t source = 0, destination = 0; /* ports */
    /* The next step (MPLS, tunnels) widens this loop over the layers. */
    for (;;) {
        uint32_t type = load16be(at - 2);
        if (type == ETHERTYPE_IPV4 && left >= IPV4_HEADER) {
            uint32_t header = IPV4_HEADER;
            if (__builtin_expect(at[0] != 0x45, 0)) { /* version, and the length in words */
                if (at[0] < 0x45 || at[0] > 0x4f)
                    break;
                header = (at[0] & 15) * 4;
            }
            if (has_ports(at[9]) && !is_fragment(at) && left >= header + PORTS) {
                source = load16(at + header);
                destination = load16(at + header + 2);
            }
            out->hash = hash_of(endpoint4(at + 12, source), endpoint4(at + 16, destination),
                                (ETHERTYPE_IPV4 << 8) + (uint64_t)at[9], key);
            return;
        }
        if (type == ETHERTYPE_IPV6 && left >= IPV6_HEADER && at[0] >> 4 == 6) {
            if (has_ports(at[6]) && left >= IPV6_HEADER + PORTS) {
                source = load16(at + IPV6_HEADER);
                destination = load16(at + IPV6_HEADER + 2);
            }
            out->hash =
                hash_of(endpoint6(at + 8, source, key), endpoint6(at + 24, destination, key),
                        (ETHERTYPE_IPV6 << 8) + (uint64_t)at[6], key);
            return;
        }
        if ((type != ETHERTYPE_8021Q && type != ETHERTYPE_8021AD) || left < TAG || tags == MAX_TAGS)
            break;
        if (tags++ == 0) {
            out->vlan_tci = load16be(at);
            out->flags = type == ETHERTYPE_8021AD ? FAL_FLOW_VLAN | FAL_FLOW_8021AD : FAL_FLOW_VLAN;
        }
        at += TAG;
        left -= TAG;
    }
    out->flags |= FAL_FLOW_UNPARSED;
    out->hash = by_macs(data, load16be(at - 2), key);
}
