/* A cache of decisions in sets of four.  Pieces of a datagram mostly come one right after the
 * other, so little is lost when an old decision goes: a piece that comes too late for it is steered
 * by its addresses, as without `defrag`.
 * SPDX-License-Identifier: BSD-3-Clause */
#include "defrag.h"

/* Stamps may go back a little, from one queue to another: so within two seconds either way. */
static int is_alive(const struct fal_decision *d, uint64_t now_ns) {
    return d->seen_ns && now_ns - d->seen_ns + FAL_DEFRAG_NS < 2ull * FAL_DEFRAG_NS;
}

/* The datagram's own, else the one to be replaced: the first that is free, else the oldest. */
static struct fal_decision *find(struct fal_decision *set, uint64_t datagram, uint64_t now_ns) {
    struct fal_decision *oldest = set;
    for (int i = 0; i < FAL_DEFRAG_WAYS; i++) {
        if (!is_alive(&set[i], now_ns))
            set[i].seen_ns = 0;
        else if (set[i].datagram == datagram)
            return &set[i];
        if (set[i].seen_ns < oldest->seen_ns)
            oldest = &set[i];
    }
    return oldest;
}

uint32_t fal_defrag(struct fal_defrag *d, uint32_t group, const struct fal_flow *flow,
                    uint64_t now_ns) {
    uint64_t datagram = (flow->datagram ^ group) * 0x9e3779b97f4a7c15u;
    struct fal_decision *it = find(d->decision[datagram >> 54], datagram, now_ns);
    uint32_t first = (flow->flags & FAL_FLOW_FIRST) != 0;
    uint32_t known = it->seen_ns && it->datagram == datagram;

    /* A second first fragment begins another datagram: hosts use identifications again soon. */
    if (!known || (first && it->first)) {
        d->evicted += !known && it->seen_ns;
        it->hash = first ? flow->whole : flow->hash;
        it->first = 0;
    }
    it->datagram = datagram;
    it->seen_ns = known && it->seen_ns > now_ns ? it->seen_ns : now_ns;
    it->first |= first;
    return it->hash;
}
