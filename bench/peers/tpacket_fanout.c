/* The kernel's own fan-out: a process with a packet socket and a ring (TPACKET_V3) for each worker,
 * all in one group (PACKET_FANOUT).  A worker sleeps only when it has no block.
 *
 *   PROGRAM CPU WORKERS DEVICE MODE            MODE: a number, PACKET_FANOUT_…
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include "packet_ring.h"
#include "workers.h"

#define GROUP     1
#define BLOCK     (1 << 20)
#define BLOCKS    32
#define RETIRE_MS 10

static void read_block(struct tally *t, const struct tpacket_block_desc *block) {
    const uint8_t *at = (const uint8_t *)block + block->hdr.bh1.offset_to_first_pkt;
    for (uint32_t n = block->hdr.bh1.num_pkts; n > 0; n--) {
        const struct tpacket3_hdr *packet = (const struct tpacket3_hdr *)at;
        read_packet(t, at + packet->tp_mac, packet->tp_len);
        at += packet->tp_next_offset;
    }
}

static void work(int argc, char **argv, struct tally *t) {
    struct packet_ring ring;
    if (argc != 5) {
        fprintf(stderr, "usage: %s CPU WORKERS DEVICE MODE\n", argv[0]);
        exit(1);
    }
    packet_ring_open(&ring, argv[3], BLOCK, BLOCKS, RETIRE_MS, GROUP | atoi(argv[4]) << 16);
    struct pollfd readable = {.fd = ring.fd, .events = POLLIN};
    set_up();
    for (;;) {
        struct tpacket_block_desc *block = packet_ring_next(&ring);
        if (block) {
            read_block(t, block);
            packet_ring_return(&ring, block);
        } else if (ended) {
            break;
        } else {
            poll(&readable, 1, WAIT_MS);
        }
    }
    struct tpacket_stats_v3 stats = packet_ring_stats(&ring);
    t->dropped = stats.tp_drops;
    if (stats.tp_packets != t->packets + stats.tp_drops) {
        fprintf(stderr, "%u packets, %lu read, %u dropped\n", stats.tp_packets, t->packets,
                stats.tp_drops);
        exit(1);
    }
}
