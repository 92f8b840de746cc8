/* The XDP program that sends a device's packets to AF_XDP sockets, and its attachment.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_XDP_PROGRAM_H
#define FAL_XDP_PROGRAM_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "../backend.h"

/* Directly before each packet that it redirects, the program leaves a stamp.  The kernel copies it
 * along with the packet. */
struct fal_xdp_stamp {
    uint64_t time; /* nanoseconds of `clock`; 0: the program could leave none */
    uint32_t cpu;  /* that it ran on */
    uint32_t unused;
};

struct fal_xdp_program {
    int map;         /* queue id -> socket (XSKMAP) */
    int link;        /* holds the program at the device: gone with its last descriptor */
    bool native;     /* in the driver; else generic, in the stack */
    clockid_t clock; /* of the time stamps */
};

/* Loads the program and attaches it; `slots` is the highest queue id plus one; chains: for packets
 * in pieces, too, where the kernel has them.  All packets go on to the host until their queue is
 * given to a socket; what options->pass matches, always. */
int fal_xdp_attach(struct fal_xdp_program *x, const struct fal_backend_options *options,
                   uint32_t ifindex, uint32_t slots, bool chains, struct fal_error *err);
/* From now on the packets of this queue go to this socket; -1 and errno. */
int fal_xdp_give(const struct fal_xdp_program *x, uint32_t queue, int socket);
/* May be called on what fal_xdp_attach failed on, or once again. */
void fal_xdp_detach(struct fal_xdp_program *x);

/* The error for an EPERM: names the capabilities that this thread lacks. */
int fal_xdp_no_privilege(const char *device, struct fal_error *err);

#endif
