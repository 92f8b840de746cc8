/* The kernel's packet socket with a receive ring (TPACKET_V3), and its fan-out.  An engine: whoever
 * uses it decides what becomes of the packets.
 *
 * The ring is a row of blocks in memory that we share with the kernel.  A block is the kernel's
 * until it is full, or `retire_ms` after its first packet; then it is ours until we give it back.
 * Blocks come in order, one at a time:
 *
 *     while (fal_tpacket_block(t, &n))      n packets lie in the block
 *         for (; n; n--) {
 *             fal_tpacket_next(t, &packet); they are read once each, in place
 *             …
 *         }
 *         fal_tpacket_release(t);           from here on they may be overwritten
 *
 * A slow trickle fills a block with one packet every retire_ms: who stands still for blocks *
 * retire_ms loses packets, however small they are.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_TPACKET_H
#define FAL_TPACKET_H

#include <stdbool.h>

#include "error.h"

#define FAL_TPACKET_BLOCK 131072 /* bytes: holds the largest packet there is */

struct fal_tpacket {
    const char *device; /* the caller's; for messages */
    int fd;             /* readable when there is a block, or news of the device; -1: not open */
    uint32_t ifindex;
    bool loopback;
    uint32_t max_send; /* bytes of a frame that can be sent, with one tag */
    uint8_t *map;
    uint32_t blocks;
    uint32_t block;   /* which comes next */
    uint32_t next_at; /* in the block: where fal_tpacket_next goes on */
    uint64_t drops;   /* as counted by fal_tpacket_stats */
};

/* One packet.  The tag that the NIC or the kernel took off is in the bytes again, and in len. */
struct fal_tpacket_packet {
    uint64_t ts_ns; /* since 1970 UTC */
    uint8_t *data;
    uint32_t caplen;
    uint32_t len; /* on the wire */
    uint16_t vlan_tci;
    uint16_t vlan_tpid; /* 0: none was taken off */
    bool outgoing;
    bool csum_part; /* its L4 checksum is not filled in yet */
};

/* How a socket takes part in the kernel's fan-out: PACKET_FANOUT_…, of linux/if_packet.h. */
struct fal_tpacket_fanout {
    uint16_t group; /* with PACKET_FANOUT_FLAG_UNIQUEID it is filled in */
    uint16_t type;  /* mode and flags */
};

/* A socket on an Ethernet device with a ring of so many blocks.  It receives nothing yet. */
int fal_tpacket_open(struct fal_tpacket *t, const char *device, uint32_t blocks, uint32_t retire_ms,
                     bool promisc, struct fal_error *err);
/* From here on it receives: its share if it is to join a group, else everything.  EINVAL: the
 * group has another mode, other flags or another device. */
int fal_tpacket_start(struct fal_tpacket *t, struct fal_tpacket_fanout *fanout,
                      struct fal_error *err);
void fal_tpacket_close(struct fal_tpacket *t);

static inline uint64_t fal_tpacket_size(const struct fal_tpacket *t) {
    return (uint64_t)t->blocks * FAL_TPACKET_BLOCK;
}

/* Whether the next block is ours; the number of packets in it. */
bool fal_tpacket_block(struct fal_tpacket *t, uint32_t *packets);
void fal_tpacket_next(struct fal_tpacket *t, struct fal_tpacket_packet *packet);
void fal_tpacket_release(struct fal_tpacket *t);

/* Sends one frame; -1 and errno. */
int fal_tpacket_send(struct fal_tpacket *t, const void *data, uint32_t size);

/* Brings t->packets (that came to this socket) and t->drops (of them, for want of room) up to
 * date. */
void fal_tpacket_stats(struct fal_tpacket *t);
/* Takes note of news: 0, also when the device is down; ENODEV: it is removed, or was moved to
 * another namespace. */
int fal_tpacket_news(struct fal_tpacket *t);

#endif
