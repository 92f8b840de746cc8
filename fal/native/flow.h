/* Packet bytes to a flow hash: a pure function of the frame and a seed; docs/fanout.md defines it.
 * Plain enough for cffi to take verbatim once the preprocessor lines are dropped.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_FLOW_H
#define FAL_FLOW_H

#include <stdint.h>

/* The default seed: the ASCII bytes "FAL-hash".  Fixed, so that results can be repeated. */
#define FAL_HASH_SEED 0x46414c2d68617368

/* Bits of fal_flow.flags. */
#define FAL_FLOW_VLAN     1 /* a tag was seen: vlan_tci is the outermost one's */
#define FAL_FLOW_8021AD   2 /* ... and its type was 0x88a8 (802.1ad), not 0x8100 (802.1Q) */
#define FAL_FLOW_UNPARSED 4 /* no IP addresses found: the hash is that of the MACs, or 0 */

struct fal_flow {
    uint32_t hash; /* the same in both directions; all 32 bits are equally good */
    uint16_t vlan_tci;
    uint16_t flags;
};

/* Fills in *out from a whole Ethernet frame, of which the first `caplen` bytes are at `data`.
 * Reads nothing beyond them; any caplen will do, 0 too (then `data` may be NULL). */
void fal_flow(const uint8_t *data, uint32_t caplen, uint64_t seed, struct fal_flow *out);

#endif
