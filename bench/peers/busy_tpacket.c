/* busy_tpacket DEVICE STEPS GROUP: a worker over TPACKET_V3, in a PACKET_FANOUT group by hash; -1: in
 * none.  Its ring has 9 blocks of 128 KiB, which hold 8192 of these frames, as a
 * worker's of FAL does.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <poll.h>

#include "busy.h"
#include "packet_ring.h"

#define BLOCK  (128 << 10)
#define BLOCKS 9
#define RETIRE 4 /* ms */

static uint64_t process(const struct tpacket_block_desc *block, uint32_t steps) {
    uint32_t n = block->hdr.bh1.num_pkts, i;
    const uint8_t *at = (const uint8_t *)block + block->hdr.bh1.offset_to_first_pkt;
    for (i = 0; i < n && !busy_ended; i++) {
        const struct tpacket3_hdr *packet = (const struct tpacket3_hdr *)(const void *)at;
        busy_work(at + packet->tp_mac, steps);
        at += packet->tp_next_offset;
    }
    return i;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: busy_tpacket DEVICE STEPS GROUP\n");
        return 1;
    }
    uint32_t steps = (uint32_t)atoi(argv[2]);
    int group = atoi(argv[3]);
    struct packet_ring ring;
    packet_ring_open(&ring, argv[1], BLOCK, BLOCKS, RETIRE,
                     group < 0 ? -1 : group | PACKET_FANOUT_HASH << 16);
    struct pollfd readable = {.fd = ring.fd, .events = POLLIN};
    busy_begin();
    uint64_t processed = 0;
    while (!busy_ended) {
        struct tpacket_block_desc *block = packet_ring_next(&ring);
        if (!block) {
            poll(&readable, 1, 100);
            continue;
        }
        processed += process(block, steps);
        packet_ring_return(&ring, block);
    }
    busy_report(processed, packet_ring_stats(&ring).tp_packets);
    return 0;
}
