/* The kernel's packet socket with a receive ring (TPACKET_V3), and its fan-out.  An engine: whoever
 * uses it decides what becomes of the packets.
 *
 * The ring is a row of blocks in memory that we share with the kernel.  A block is the kernel's
 * until it is full, or `retire_ms` after its first packet; then it is ours until we give it back.
 * Blocks come in order, one at a time:
 *
 *     while (n = fal_tpacket_block(t, &place))  n packets are left in the block
 *         for (; n; n--) {
 *             fal_tpacket_next(t, &place, &packet); each once; their bytes lie at t->map + packet.offset
 *             …
 *         }                                 the next fal_tpacket_block gives it back
 *
 * A slow trickle fills a block with one packet every retire_ms: who stands still for blocks *
 * retire_ms loses packets, however small they are.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_TPACKET_H
#define FAL_TPACKET_H

#include <linux/filter.h>
#include <stdbool.h>

#include "error.h"

#define FAL_TPACKET_BLOCK 131072 /* bytes: holds the largest packet there is */

/* Where its reader is.  Who copies it, and goes on from the copy, reads the same packets again, if
 * their block is not given back yet. */
struct fal_tpacket_place {
    uint32_t block;   /* the one that is open, or comes next */
    uint32_t next_at; /* in it: where fal_tpacket_next goes on */
    uint32_t left;    /* packets in it that were not read yet */
    uint32_t open;    /* 1: it is ours, and has not been given back */
    uint64_t number;  /* then, the kernel's for it */
};

/* What the kernel counted, as of the last fal_tpacket_stats. */
struct fal_tpacket_counts {
    uint64_t received; /* packets that were put into the ring */
    uint64_t dropped;  /* that found no room there */
};

struct fal_tpacket {
    const char *device; /* the caller's; for messages */
    int fd;             /* readable when there is a block, or news of the device; -1: not open */
    uint32_t ifindex;
    uint32_t max_send; /* bytes of a frame that can be sent, with one tag */
    bool loopback;
    uint8_t *map;
    uint32_t blocks;
};

/* How a socket takes part in the kernel's fan-out: PACKET_FANOUT_…, of linux/if_packet.h. */
struct fal_tpacket_fanout {
    uint16_t group;              /* with PACKET_FANOUT_FLAG_UNIQUEID it is filled in */
    uint16_t type;               /* mode and flags */
    struct sock_filter *program; /* of PACKET_FANOUT_CBPF; NULL: as the group has it */
    uint16_t instructions;
};

/* A socket on an Ethernet device with a ring of so many blocks.  It receives nothing yet. */
int fal_tpacket_open(struct fal_tpacket *t, const char *device, uint32_t blocks, uint32_t retire_ms,
                     bool promisc, struct fal_error *err);
/* From here on it receives everything. */
int fal_tpacket_start(struct fal_tpacket *t, struct fal_error *err);
/* From here on its share, for good.  It must receive before it can join, so what comes in the
 * microseconds between may come to two members; with a filter until it has joined, it would come to
 * none.  EINVAL: the group has another mode, other flags or another device. */
int fal_tpacket_join(struct fal_tpacket *t, struct fal_tpacket_fanout *fanout,
                     struct fal_error *err);
/* Closes it, and keeps the ring's place in memory, as pages of zeros, for who still looks at it. */
void fal_tpacket_leave(struct fal_tpacket *t);
void fal_tpacket_close(struct fal_tpacket *t);

static inline uint64_t fal_tpacket_size(const struct fal_tpacket *t) {
    return (uint64_t)t->blocks * FAL_TPACKET_BLOCK;
}

/* Packets left in the open block.  If there are none it is given back (they may be overwritten from
 * then on), and the next is opened.  0: there is no other yet. */
uint32_t fal_tpacket_block(const struct fal_tpacket *t, struct fal_tpacket_place *place);
/* Of the descriptor, hash, vlan_tci and queue are left 0.  The tag that the NIC or the kernel took
 * off is in the bytes again. */
void fal_tpacket_next(const struct fal_tpacket *t, struct fal_tpacket_place *place,
                      struct fal_desc *packet);
/* Whether packets lie there that were not read, also in a block that is not ours yet. */
bool fal_tpacket_unread(const struct fal_tpacket *t, const struct fal_tpacket_place *place);

/* Sends one frame; -1 and errno, ENODEV: the device is gone. */
int fal_tpacket_send(struct fal_tpacket *t, const void *data, uint32_t size);

/* Brings the counts up to date, in memory that processes may share. */
void fal_tpacket_stats(const struct fal_tpacket *t, struct fal_tpacket_counts *counts);
/* Takes note of news: 0, also when the device is down; ENODEV: it is removed, or was moved to
 * another namespace. */
int fal_tpacket_news(struct fal_tpacket *t);

#endif
