/* The kernel's own fan-out: a process with a packet socket and a ring (TPACKET_V3) for each worker,
 * all in one group (PACKET_FANOUT).  A block is handed over when it is full, or RETIRE_MS after its
 * first packet; a worker sleeps only when it has none.
 *
 *   PROGRAM CPU WORKERS DEVICE MODE            MODE: a number, PACKET_FANOUT_…
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sys/socket.h>

#include "workers.h"

#define GROUP     1
#define BLOCK     (1 << 20)
#define BLOCKS    32
#define RETIRE_MS 10

static void set(int fd, int option, const void *value, socklen_t size) {
    if (setsockopt(fd, SOL_PACKET, option, value, size) < 0)
        fault("setsockopt");
}

static uint8_t *open_ring(int fd, const char *device, int mode) {
    const int version = TPACKET_V3;
    const struct tpacket_req3 ring = {
        .tp_block_size = BLOCK,
        .tp_block_nr = BLOCKS,
        .tp_frame_size = 2048,
        .tp_frame_nr = BLOCKS * (BLOCK / 2048),
        .tp_retire_blk_tov = RETIRE_MS,
    };
    const struct sockaddr_ll address = {
        .sll_family = AF_PACKET,
        .sll_protocol = htons(ETH_P_ALL),
        .sll_ifindex = (int)if_nametoindex(device),
    };
    const int fanout = GROUP | mode << 16;
    set(fd, PACKET_VERSION, &version, sizeof version);
    set(fd, PACKET_RX_RING, &ring, sizeof ring);
    uint8_t *map = mmap(NULL, (size_t)BLOCK * BLOCKS, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_POPULATE | MAP_LOCKED, fd, 0);
    if (map == MAP_FAILED || bind(fd, (const struct sockaddr *)&address, sizeof address) < 0)
        fault(device);
    set(fd, PACKET_FANOUT, &fanout, sizeof fanout);
    return map;
}

static void read_block(struct tally *t, const struct tpacket_block_desc *block) {
    const uint8_t *at = (const uint8_t *)block + block->hdr.bh1.offset_to_first_pkt;
    for (uint32_t n = block->hdr.bh1.num_pkts; n > 0; n--) {
        const struct tpacket3_hdr *packet = (const struct tpacket3_hdr *)at;
        read_packet(t, at + packet->tp_mac, packet->tp_len);
        at += packet->tp_next_offset;
    }
}

static void work(int argc, char **argv, struct tally *t) {
    int fd = argc > 4 ? socket(AF_PACKET, SOCK_RAW, 0) : -1;
    if (fd < 0)
        fault("socket");
    uint8_t *map = open_ring(fd, argv[3], atoi(argv[4]));
    struct pollfd readable = {.fd = fd, .events = POLLIN};
    set_up();
    for (uint32_t next = 0;; next = (next + 1) % BLOCKS) {
        struct tpacket_block_desc *block = (void *)(map + (size_t)next * BLOCK);
        while (
            !(__atomic_load_n(&block->hdr.bh1.block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER)) {
            if (ended)
                goto out;
            poll(&readable, 1, WAIT_MS);
        }
        read_block(t, block);
        __atomic_store_n(&block->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
    }
out:;
    struct tpacket_stats_v3 stats;
    socklen_t size = sizeof stats;
    if (getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &size) < 0)
        fault("getsockopt");
    t->dropped = stats.tp_drops;
    if (stats.tp_packets != t->packets + stats.tp_drops) {
        fprintf(stderr, "%u packets, %lu read, %u dropped\n", stats.tp_packets, t->packets,
                stats.tp_drops);
        exit(1);
    }
}
