/* Sends a list of frames on a device, over and over, through an AF_XDP socket that only sends: it
 * wants no XDP program, and leaves to the host all that comes in.  (See live.h for another way.)
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_SENDER_H
#define FAL_SENDER_H

#include "error.h"

#define FAL_SENDER_LONGEST 4096 /* bytes: of one frame */

/* Frame i lies from ends[i] to ends[i + 1] in data, and has FAL_MIN_SEND bytes at least. */
struct fal_sender_list {
    const uint8_t *data;
    const uint64_t *ends;
    uint32_t count; /* of frames: at least one */
};

/* What became of frames, so far. */
struct fal_sender_counts {
    uint64_t sent;
    uint64_t sent_bytes; /* without preamble and FCS */
    uint64_t too_long;   /* for the MTU, as packet sockets have it, or FAL_SENDER_LONGEST */
    uint64_t refused;    /* by the device, which had no room or no carrier */
    uint64_t unwanted;   /* by a device that takes no XDP frames, or not now (live.h) */
};

/* How long this frame may be: the MTU counts neither the header of Ethernet nor one VLAN tag. */
uint32_t fal_sender_limit(const uint8_t *frame, uint32_t mtu);

struct fal_sender;

/* The list must stay where it is.  NULL and *err: EBUSY: queue 0 has an AF_XDP socket. */
struct fal_sender *fal_sender_open(const char *device, uint32_t ifindex, uint32_t mtu,
                                   const struct fal_sender_list *list, struct fal_error *err);
/* Goes on in the list by at most so many frames, and adds to the counts what became of them.
 * 1: of some; 0: of none, there is no room now; -1 and errno: ENETDOWN: the device is down. */
int fal_sender_send(struct fal_sender *s, uint32_t most, struct fal_sender_counts *counts);
void fal_sender_close(struct fal_sender *s);

#endif
