/* Fan-out: which member of a group gets a packet.  Pure: it knows no backend, parses no packet,
 * calls nothing but libc, and holds no state of its own.
 *
 * Two halves.  The control thread names a mode and builds a table when a member comes or goes; the
 * poller steers bursts by it.  docs/fanout.md says why it is made so and what was measured.
 *
 * Plain enough for cffi to take verbatim (declarations and integer constants only).
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_FANOUT_H
#define FAL_FANOUT_H

#include "layout.h"

#define FAL_BUCKETS       16384 /* buckets of a group: the top 14 bits of a packet's hash */
#define FAL_BUCKET_SHIFT  18    /* bucket = hash >> FAL_BUCKET_SHIFT */
#define FAL_GROUP_MEMBERS 256   /* at most; a member's number fits in a byte */

/* The kernel's numbers (PACKET_FANOUT_*).  Kept free: cpu 2, rollover 3, rnd 4, qm 5. */
enum fal_mode {
    FAL_MODE_HASH = 0,
    FAL_MODE_LB = 1,
    FAL_MODE_CBPF = 6,
};

/* The mode that a word means, in upper or lower case; -1: no such word. */
int fal_mode_parse(const char *word);

/* The word for a mode; NULL: no such mode. */
const char *fal_mode_name(int mode);

/* Deals the buckets out to n members: table[b], b in 0..FAL_BUCKETS-1, becomes the number (the
 * index in ids[]) of the member that has bucket b.  Who gets what depends on the set of ids alone,
 * not on their order.  Equal ids are dealt in the order of their numbers.
 *
 * Returns 0, or -1 with errno EINVAL (n is not in 1..FAL_GROUP_MEMBERS) or ENOMEM; the table is
 * then as it was. */
int fal_buckets_build(const uint64_t *ids, uint32_t n, uint8_t *table);

/* One group as its poller sees it; private to the poller. */
struct fal_steering {
    uint32_t mode;        /* enum fal_mode */
    uint32_t members;     /* 1..FAL_GROUP_MEMBERS */
    uint64_t next;        /* lb: whose turn it is, modulo members; starts at 1, as in the kernel */
    const uint8_t *table; /* hash: FAL_BUCKETS entries, each below members */
};

/* Writes to member[i] the number, 0..members-1, of the member that gets packets[i], for n packets.
 * hash reads the descriptors' hash and nothing else; lb reads no descriptor. */
void fal_steer(struct fal_steering *s, const struct fal_desc *packets, uint32_t n, uint8_t *member);

#endif
