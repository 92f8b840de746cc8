/* What a packet's descriptor says of its flow.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_DESCRIBE_H
#define FAL_DESCRIBE_H

#include "flow.h"

/* What flow.h says of a tag, two bits higher. */
_Static_assert(FAL_DESC_VLAN == FAL_FLOW_VLAN << 2, "");
_Static_assert(FAL_DESC_8021AD == FAL_FLOW_8021AD << 2, "");

static inline void fal_describe(struct fal_desc *d, const struct fal_flow *flow) {
    d->hash = flow->hash;
    d->vlan_tci = flow->vlan_tci;
    d->flags |= (uint16_t)(FAL_DESC_FIRST | (flow->flags & (FAL_FLOW_VLAN | FAL_FLOW_8021AD)) << 2);
}

#endif
