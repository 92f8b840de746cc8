/* busy_tpacket DEVICE STEPS GROUP: a worker over TPACKET_V3, in a PACKET_FANOUT group by hash; -1: in
 * none.  Its ring has 9 blocks of 128 KiB, which hold 8192 of these frames, as a
 * worker's of FAL does.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "busy.h"

#define BLOCK  (128 << 10)
#define BLOCKS 9
#define RETIRE 4 /* ms after which a block is handed over that is not full */

static int fail(const char *what) {
    perror(what);
    return 1;
}

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
    int version = TPACKET_V3, group = atoi(argv[3]);
    int fanout = (group & 0xffff) | PACKET_FANOUT_HASH << 16;
    struct tpacket_req3 ring = {.tp_block_size = BLOCK,
                                .tp_block_nr = BLOCKS,
                                .tp_frame_size = 2048,
                                .tp_frame_nr = BLOCK / 2048 * BLOCKS,
                                .tp_retire_blk_tov = RETIRE};
    struct sockaddr_ll from = {.sll_family = AF_PACKET,
                               .sll_protocol = htons(ETH_P_ALL),
                               .sll_ifindex = (int)if_nametoindex(argv[1])};
    int s = socket(AF_PACKET, SOCK_RAW, 0);
    if (s < 0 || setsockopt(s, SOL_PACKET, PACKET_VERSION, &version, sizeof version) ||
        setsockopt(s, SOL_PACKET, PACKET_RX_RING, &ring, sizeof ring))
        return fail("busy_tpacket: ring");
    uint8_t *memory =
        mmap(NULL, (size_t)BLOCK * BLOCKS, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, s, 0);
    if (memory == MAP_FAILED || bind(s, (struct sockaddr *)&from, sizeof from))
        return fail("busy_tpacket: bind");
    if (group >= 0 && setsockopt(s, SOL_PACKET, PACKET_FANOUT, &fanout, sizeof fanout))
        return fail("busy_tpacket: fanout");
    busy_begin();
    uint64_t processed = 0;
    for (uint32_t i = 0; !busy_ended;) {
        struct tpacket_block_desc *block =
            (struct tpacket_block_desc *)(void *)(memory + (size_t)i * BLOCK);
        if (!(__atomic_load_n(&block->hdr.bh1.block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER)) {
            poll(&(struct pollfd){.fd = s, .events = POLLIN}, 1, 100);
            continue;
        }
        processed += process(block, steps);
        __atomic_store_n(&block->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
        i = (i + 1) % BLOCKS;
    }
    struct tpacket_stats_v3 stats = {0};
    socklen_t size = sizeof stats;
    getsockopt(s, SOL_PACKET, PACKET_STATISTICS, &stats, &size);
    busy_report(processed, stats.tp_packets); /* the dropped ones, too */
    return 0;
}
