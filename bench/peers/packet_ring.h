/* The kernel's ring of blocks (TPACKET_V3), of a packet socket that may be in a fan-out group.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef BENCH_PACKET_RING_H
#define BENCH_PACKET_RING_H

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>

struct packet_ring {
    int fd;
    uint32_t size, count, next; /* of blocks */
    uint8_t *blocks;
};

static inline void packet_ring_check(int failed, const char *what) {
    if (failed) {
        perror(what);
        exit(1);
    }
}

/* A block is handed over when it is full, or so many milliseconds after its first packet.
 * `fanout`: the group and PACKET_FANOUT_… << 16; -1: none.  Ends the program where it fails. */
static inline void packet_ring_open(struct packet_ring *r, const char *device, uint32_t size,
                                    uint32_t count, uint32_t retire_ms, int fanout) {
    const int version = TPACKET_V3;
    const struct tpacket_req3 ring = {.tp_block_size = size,
                                      .tp_block_nr = count,
                                      .tp_frame_size = 2048,
                                      .tp_frame_nr = size / 2048 * count,
                                      .tp_retire_blk_tov = retire_ms};
    const struct sockaddr_ll from = {.sll_family = AF_PACKET,
                                     .sll_protocol = htons(ETH_P_ALL),
                                     .sll_ifindex = (int)if_nametoindex(device)};
    int fd = socket(AF_PACKET, SOCK_RAW, 0);
    packet_ring_check(fd < 0, "socket");
    packet_ring_check(setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof version) ||
                          setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &ring, sizeof ring),
                      "ring");
    uint8_t *blocks = mmap(NULL, (size_t)size * count, PROT_READ | PROT_WRITE,
                           MAP_SHARED | MAP_POPULATE | MAP_LOCKED, fd, 0);
    packet_ring_check(blocks == MAP_FAILED, "mmap");
    packet_ring_check(bind(fd, (const struct sockaddr *)&from, sizeof from), device);
    packet_ring_check(
        fanout >= 0 && setsockopt(fd, SOL_PACKET, PACKET_FANOUT, &fanout, sizeof fanout), "fanout");
    *r = (struct packet_ring){.fd = fd, .size = size, .count = count, .blocks = blocks};
}

/* Returns the next block, NULL while it is the kernel's. */
static inline struct tpacket_block_desc *packet_ring_next(const struct packet_ring *r) {
    struct tpacket_block_desc *block = (void *)(r->blocks + (size_t)r->next * r->size);
    uint32_t status = __atomic_load_n(&block->hdr.bh1.block_status, __ATOMIC_ACQUIRE);
    return status & TP_STATUS_USER ? block : NULL;
}

static inline void packet_ring_return(struct packet_ring *r, struct tpacket_block_desc *block) {
    __atomic_store_n(&block->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
    r->next = (r->next + 1) % r->count;
}

/* `tp_packets`: those that were dropped, too. */
static inline struct tpacket_stats_v3 packet_ring_stats(const struct packet_ring *r) {
    struct tpacket_stats_v3 stats = {0};
    socklen_t size = sizeof stats;
    packet_ring_check(getsockopt(r->fd, SOL_PACKET, PACKET_STATISTICS, &stats, &size),
                      "getsockopt");
    return stats;
}

#endif
