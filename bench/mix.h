/* The packets of several benchmarks: 64 bytes each, made from their number alone.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef BENCH_MIX_H
#define BENCH_MIX_H

#include <stdint.h>
#include <string.h>

#define PACKET_SIZE 64

/* splitmix64's finalizer */
static inline uint64_t scramble(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Of 20 packets 15 are IPv4/TCP, 3 IPv4/UDP, 2 IPv6/UDP; an eighth of IPv4's are tagged.  The last
 * two bytes are the number of the packet. */
static inline void make_packet(uint8_t *to, uint16_t number) {
    static const uint8_t macs[12] = {2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1};
    uint64_t kind = scramble(number + 1), ends = scramble(kind), ports = scramble(ends);
    uint32_t choice = (kind & 0xffffffff) % 20;
    uint8_t *at = to + sizeof macs;
    memset(to, 0, PACKET_SIZE);
    memcpy(to, macs, sizeof macs);
    if (choice < 18) {
        if (kind >> 61 == 0) {
            memcpy(at, (uint8_t[]){0x81, 0, 0, 100}, 4);
            at += 4;
        }
        at[0] = 8;
        at[2] = 0x45;
        at[10] = 64;
        at[11] = choice < 15 ? 6 : 17;
        memcpy(at + 14, &ends, 8);
        memcpy(at + 22, &ports, 4);
    } else {
        memcpy(at, (uint8_t[]){0x86, 0xdd, 0x60}, 3);
        at[8] = 17;
        at[9] = 64;
        memcpy(at + 10, (uint8_t[]){0x20, 1, 0xd, 0xb8}, 4);
        memcpy(at + 26, (uint8_t[]){0x20, 1, 0xd, 0xb8}, 4);
        memcpy(at + 22, &ends, 4);
        memcpy(at + 38, (uint8_t *)&ends + 4, 4);
        memcpy(at + 42, &ports, 4);
    }
    memcpy(to + PACKET_SIZE - sizeof number, &number, sizeof number);
}

#endif
