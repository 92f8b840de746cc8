/* Packet bytes to a flow hash: a pure function of the frame, a seed and the fields that count;
 * docs/fanout.md defines it.
 * Plain enough for cffi to take verbatim once the preprocessor lines are dropped.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_FLOW_H
#define FAL_FLOW_H

#include "layout.h"

/* The default seed: the ASCII bytes "FAL-hash".  Fixed, so that results can be repeated. */
#define FAL_HASH_SEED 0x46414c2d68617368

/* Bits of fal_flow.flags. */
#define FAL_FLOW_VLAN     1  /* a tag was seen: vlan_tci is the outermost one's */
#define FAL_FLOW_8021AD   2  /* ... and its type was 0x88a8 (802.1ad), not 0x8100 (802.1Q) */
#define FAL_FLOW_UNPARSED 4  /* no IP addresses found: the hash is that of the MACs, or 0 */
#define FAL_FLOW_FRAGMENT 8  /* a piece of an IP datagram: `datagram` says of which */
#define FAL_FLOW_FIRST    16 /* ... the first one, which has the ports: `whole` is valid */

struct fal_flow {
    uint32_t hash; /* the same in both directions; all 32 bits are equally good */
    uint16_t vlan_tci;
    uint16_t flags;
    uint64_t datagram; /* of source, destination, protocol and identification */
    uint32_t whole;    /* the hash that the datagram would have in one piece */
    uint32_t pad;
};

/* Fills in *out from a whole Ethernet frame, of which the first `caplen` bytes are at `data`.
 * hash: FAL_HASH_… bits.  Reads nothing beyond caplen; any will do, 0 too (then `data` may be NULL).
 * Of a fragment, `hash` is that of its addresses and protocol. */
void fal_flow(const uint8_t *data, uint32_t caplen, uint64_t seed, uint32_t hash,
              struct fal_flow *out);

/* The same of a burst by the default fields, packet i at frames + packets[i].offset, the first
 * packets[i].caplen bytes of it: fills in hash, vlan_tci and flags (FIRST and those of a tag are added)
 * of its descriptor.  Returns how many are FAL_FLOW_UNPARSED. */
uint32_t fal_flows(const uint8_t *frames, struct fal_desc *packets, uint32_t n, uint64_t seed);

#endif
