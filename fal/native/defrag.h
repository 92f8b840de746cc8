/* All fragments of a datagram by one hash: the first piece to arrive decides, and nothing is held
 * back.  Pure: the clock is passed in, the table is the caller's, and no memory is asked for.
 *
 * Plain enough for cffi to take verbatim (declarations and integer constants only).
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_DEFRAG_H
#define FAL_DEFRAG_H

#include "flow.h"

#define FAL_DEFRAG_SETS 1024
#define FAL_DEFRAG_WAYS 4          /* datagrams that share a set; 4096 in all */
#define FAL_DEFRAG_NS   2000000000 /* after so long without a piece a datagram is forgotten */

struct fal_decision {
    uint64_t datagram; /* and the group */
    uint64_t seen_ns;  /* its last piece; 0: free */
    uint32_t hash;     /* decided by its first piece to arrive */
    uint32_t first;    /* 1: its first fragment has been seen */
};

/* 96 KiB, all zero at the start. */
struct fal_defrag {
    uint64_t evicted; /* decisions that had to make room while they were still of use */
    struct fal_decision decision[FAL_DEFRAG_SETS][FAL_DEFRAG_WAYS];
};

/* The hash by which a fragment is steered in a group (any number that stands for it).  flow: as
 * fal_flow filled it in, with FAL_FLOW_FRAGMENT among its flags.  now_ns: nanoseconds of any clock,
 * not 0. */
uint32_t fal_defrag(struct fal_defrag *d, uint32_t group, const struct fal_flow *flow,
                    uint64_t now_ns);

#endif
