/* Fan-out: which member of a group gets a packet.  Pure: it knows no backend, parses no packet,
 * calls nothing but libc, and holds no state of its own.
 *
 * Two halves.  The control thread builds a table when a member comes or goes; the poller steers
 * bursts by it.  docs/fanout.md says why it is made so and what was measured.
 *
 * Plain enough for cffi to take verbatim (declarations and integer constants only).
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_FANOUT_H
#define FAL_FANOUT_H

#include "layout.h"

#define FAL_BUCKETS       16384 /* buckets of a group: the top 14 bits of a packet's hash */
#define FAL_BUCKET_SHIFT  18    /* bucket = hash >> FAL_BUCKET_SHIFT */
#define FAL_GROUP_MEMBERS 256   /* at most; a member's number fits in a byte */

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
    uint64_t next;        /* lb: whose turn it is, modulo members; starts at 1, as in the kernel.
                             rnd: the state of its generator; starts as any seed */
    const uint8_t *table; /* hash: FAL_BUCKETS entries, each below members */
    /* rollover: where the packets of a member without room went last; as a mode, [0] is the member
     * that is being filled.  Starts as all zero. */
    uint8_t elsewhere[FAL_GROUP_MEMBERS];
};

/* Packets, and beside them what is in no descriptor: an entry for each packet. */
struct fal_burst {
    const struct fal_desc *packets;
    const uint16_t *cpu;     /* cpu: that received it; NULL, where nobody knows, is CPU 0 */
    const uint32_t *verdict; /* cbpf: what the group's program returned */
    uint32_t n;
};

/* Writes to member[i] the number, 0..members-1, of the member that gets packets[i].  hash and qm
 * read the descriptors' hash or queue and nothing else of them; the others read no descriptor. */
void fal_steer(struct fal_steering *s, const struct fal_burst *burst, uint8_t *member);

/* After fal_steer where rollover is the mode or a flag: moves packets away from members whose ring
 * has no room (as a mode: is backlogged) to others that have.  room[i] is the room in member i's
 * ring of capacity[i], and is counted down by slots[k], what packet k takes of it at most.  A packet
 * for which there is no room keeps its member, to be dropped there. */
void fal_rollover(struct fal_steering *s, const uint32_t *capacity, uint32_t *room,
                  const uint8_t *slots, uint32_t n, uint8_t *member);

#endif
