/* Any bytes as a frame: the parser reads nothing beyond them, the short ways through it lead where the
 * long one does, and a flow's two directions meet.
 * Input: the seed (8 bytes), the fields that count (1: FAL_HASH_…), the frame.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "flow.h"
#include "fuzz.h"

static void swap(uint8_t *a, uint8_t *b, size_t size) {
    for (; size; size--, a++, b++) {
        uint8_t kept = *a;
        *a = *b;
        *b = kept;
    }
}

/* Makes the frame's answer of it: MACs, and addresses and ports if it is plain IP, perhaps behind
 * tags.  False: too odd for us, such as IP behind labels. */
static bool mirror(uint8_t *frame, size_t size) {
    if (size < 14)
        return size < 12;
    swap(frame, frame + 6, 6);
    size_t at = 14, address, ports;
    unsigned type = (unsigned)(frame[12] << 8 | frame[13]), protocol;
    for (; (type == 0x8100 || type == 0x88a8) && size - at >= 4; at += 4)
        type = (unsigned)(frame[at + 2] << 8 | frame[at + 3]);
    if (at > 14 + 12 * 4)
        return false; /* more tags than are stepped over, perhaps */
    uint8_t *ip = frame + at;
    if (type == 0x0800 && size - at >= 20 && ip[0] >= 0x45 && ip[0] <= 0x4f) {
        address = 4;
        swap(ip + 12, ip + 16, address);
        protocol = ip[9];
        ports = (size_t)(ip[0] & 15) * 4;
        if (ip[6] & 0x1f || ip[7])
            return true; /* a later fragment has none */
    } else if (type == 0x86dd && size - at >= 40 && ip[0] >> 4 == 6) {
        address = 16;
        swap(ip + 8, ip + 24, address);
        protocol = ip[6];
        ports = 40;
        if (protocol == 0 || protocol == 43 || protocol == 44 || protocol == 51 || protocol == 60)
            return false;
    } else {
        return type != 0x8847 && type != 0x8848 && type != 0x6558;
    }
    if ((protocol == 6 || protocol == 17 || protocol == 132) && size - at >= ports + 4)
        swap(ip + ports, ip + ports + 2, 2);
    return true;
}

/* Asked for a field that there is not, too, the parser goes the long way. */
static void compare(const uint8_t *frame, uint32_t size, uint64_t seed) {
    struct fal_flow by_short, by_long;
    fal_flow(frame, size, seed, FAL_HASH_FLOW, &by_short);
    fal_flow(frame, size, seed, FAL_HASH_FLOW | 256, &by_long);
    CHECK(by_short.hash == by_long.hash && by_short.flags == by_long.flags);
    CHECK(by_short.vlan_tci == by_long.vlan_tci);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint64_t seed;
    struct fal_flow there = {0}, back = {0};
    if (size < sizeof seed + 1)
        return -1;
    memcpy(&seed, data, sizeof seed);
    uint32_t hash = data[sizeof seed];
    data += sizeof seed + 1;
    size -= sizeof seed + 1;

    uint8_t *frame = malloc(size); /* of that size exactly: ASan knows where it ends */
    if (size)
        memcpy(frame, data, size);
    compare(frame, (uint32_t)size, seed);
    fal_flow(frame, (uint32_t)size, seed, hash, &there);
    if (!(hash & (FAL_HASH_INNER | FAL_HASH_ICMP)) && mirror(frame, size)) {
        fal_flow(frame, (uint32_t)size, seed, hash, &back);
        CHECK(there.hash == back.hash && there.flags == back.flags && there.whole == back.whole);
    }
    free(frame);
    return 0;
}
