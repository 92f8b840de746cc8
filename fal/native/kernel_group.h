/* The kernel's fan-out, asked for in our words: for whoever has a packet socket.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_KERNEL_GROUP_H
#define FAL_KERNEL_GROUP_H

#include <stdbool.h>

#include "error.h"
#include "layout.h"

struct fal_tpacket;

struct fal_kernel_group {
    int32_t group;
    const char *mode; /* as in `fal modes`; "": as the group is, hash for a new one */
    bool filter;      /* one was asked for */
    const struct fal_bpf_insn *program; /* of mode cbpf */
    uint32_t instructions;
};

/* Whether the kernel can do it.  EOPNOTSUPP: only a fal-poller can; EINVAL: nobody can. */
int fal_kernel_group_check(const struct fal_kernel_group *g, struct fal_error *err);
/* Joins with a socket that receives; see fal_tpacket_join. */
int fal_kernel_group_join(struct fal_tpacket *t, const struct fal_kernel_group *g,
                          struct fal_error *err);

/* The same, of a packet socket that somebody else made, on the device that it says. */
struct fal_kernel_device {
    char name[FAL_NAME_SIZE];
    bool loopback;
};
bool fal_kernel_group_device(int fd, struct fal_kernel_device *device); /* false: no such socket */
int fal_kernel_group_join_socket(int fd, const struct fal_kernel_device *device,
                                 const struct fal_kernel_group *g, struct fal_error *err);

#endif
