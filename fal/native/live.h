/* Sends a list of frames on a device, over and over, as XDP frames: they are made inside the kernel
 * (BPF_PROG_TEST_RUN, "live frames", Linux 5.18) and redirected to the device, which takes them as
 * it takes those of any XDP program: no socket, no skb, no queueing discipline, no taps.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_LIVE_H
#define FAL_LIVE_H

#include "sender.h"

#define FAL_LIVE_LONGEST 3408 /* bytes of one frame: a page less what the kernel keeps in it */

struct fal_live;

/* The list is copied.  ifindex: of a device in this network namespace.  NULL and *err: EPERM; E2BIG:
 * the list is too long; EINVAL: the kernel has no such frames. */
struct fal_live *fal_live_open(uint32_t ifindex, uint32_t mtu, const struct fal_sender_list *list,
                               struct fal_error *err);
/* Goes on in the list by at most so many frames, at least one, and adds to the counts what became of
 * them.  To begin and end takes some 20 us.  A signal ends it early.  0; -1 and errno. */
int fal_live_send(struct fal_live *l, uint32_t most, struct fal_sender_counts *counts);
void fal_live_close(struct fal_live *l);

/* Attaches a program that drops all that comes to a device, in its driver, until the descriptor that
 * is returned is closed: no receiver is quicker.  -1 and *err. */
int fal_live_sink(uint32_t ifindex, struct fal_error *err);

#endif
