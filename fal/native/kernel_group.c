/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel_group.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <string.h>
#include <sys/socket.h>

#include "modes.h"
#include "tpacket.h"

/* The kernel counts from the network header, our programs and libpcap's from the Ethernet header:
 * the loads are told so, where a program does not ask for the length. */
static int for_kernel(const struct fal_kernel_group *g, struct sock_filter *to,
                      struct fal_error *err) {
    for (uint32_t i = 0; i < g->instructions; i++) {
        const struct fal_bpf_insn *own = &g->program[i];
        to[i] = (struct sock_filter){own->code, own->jt, own->jf, own->k};
        uint32_t class = BPF_CLASS(to[i].code), mode = BPF_MODE(to[i].code);
        if (class != BPF_LD && class != BPF_LDX)
            continue;
        if (mode == BPF_LEN)
            return fal_fail(err, EOPNOTSUPP,
                            "the kernel's cbpf knows no length as ours does (leave it out, or use "
                            "fal-poller)");
        if (mode != BPF_ABS && mode != BPF_IND && mode != BPF_MSH)
            continue;
        if (to[i].k > UINT16_MAX)
            return fal_fail(err, EOPNOTSUPP,
                            "the program loads from offset %u: in the kernel 65535 is the last",
                            to[i].k);
        to[i].k += (uint32_t)SKF_LL_OFF;
    }
    return 0;
}

/* What of our words the kernel can do; without a word, whatever mode it is. */
static int fanout_of(const struct fal_kernel_group *g, struct fal_fanout *f,
                     struct fal_error *err) {
    *f = (struct fal_fanout){.hash = FAL_HASH_FLOW};
    if (g->mode[0] && fal_fanout_parse(g->mode, f, err) < 0)
        return -1;
    if (f->hash != FAL_HASH_FLOW)
        return fal_fail(
            err, EOPNOTSUPP,
            "the kernel's fan-out has no '%s' (it has hash, lb, cpu, rollover, rnd, qm, "
            "cbpf, defrag; fal-poller has all)",
            g->mode);
    if (g->filter)
        return fal_fail(err, EOPNOTSUPP,
                        "the kernel's groups have no filter: give each socket one, or use "
                        "fal-poller");
    if (g->instructions && (!g->mode[0] || f->mode != FAL_MODE_CBPF))
        return fal_fail(err, EINVAL, "only mode cbpf takes a program (name it)");
    /* The kernel would make such a group, and give all to its first member. */
    if (g->mode[0] && f->mode == FAL_MODE_CBPF && !g->instructions)
        return fal_fail(err, EINVAL,
                        "mode cbpf wants a program (name no mode, to join a group that has one)");
    return 0;
}

/* As the group is: the kernel does not tell, but only the right mode is let in. */
static int join_as_it_is(struct fal_tpacket *t, struct fal_tpacket_fanout *group,
                         struct fal_error *err) {
    static const uint16_t flags[] = {0, FAL_FANOUT_ROLLOVER, FAL_FANOUT_DEFRAG,
                                     FAL_FANOUT_ROLLOVER | FAL_FANOUT_DEFRAG};
    struct fal_error why = {0};
    for (uint16_t i = 0; i < sizeof flags / sizeof *flags; i++)
        for (uint16_t mode = PACKET_FANOUT_HASH; mode <= PACKET_FANOUT_EBPF; mode++) {
            group->type = mode | flags[i];
            if (fal_tpacket_join(t, group, &why) == 0)
                return 0;
            if (why.code != EINVAL)
                break;
        }
    return fal_fail(err, why.code, "%s", why.text);
}

int fal_kernel_group_check(const struct fal_kernel_group *g, struct fal_error *err) {
    struct fal_fanout f;
    return fanout_of(g, &f, err);
}

int fal_kernel_group_join(struct fal_tpacket *t, const struct fal_kernel_group *g,
                          struct fal_error *err) {
    struct sock_filter program[FAL_BPF_MAX];
    struct fal_tpacket_fanout group = {.group = (uint16_t)g->group};
    struct fal_fanout f;
    if (fanout_of(g, &f, err) < 0 || for_kernel(g, program, err) < 0)
        return -1;
    if (!g->mode[0])
        return join_as_it_is(t, &group, err);
    group.type = (uint16_t)(f.mode | f.flags);
    if (g->instructions) {
        group.program = program;
        group.instructions = (uint16_t)g->instructions;
    }
    return fal_tpacket_join(t, &group, err);
}

bool fal_kernel_group_device(int fd, struct fal_kernel_device *device) {
    struct sockaddr_ll bound = {0};
    socklen_t size = sizeof bound;
    if (getsockname(fd, (struct sockaddr *)&bound, &size) < 0 || bound.sll_family != AF_PACKET)
        return false;
    device->loopback = bound.sll_hatype == ARPHRD_LOOPBACK;
    if (!if_indextoname((unsigned)bound.sll_ifindex, device->name))
        strcpy(device->name, "any");
    return true;
}

int fal_kernel_group_join_socket(int fd, const struct fal_kernel_device *device,
                                 const struct fal_kernel_group *g, struct fal_error *err) {
    struct fal_tpacket t = {.device = device->name, .fd = fd, .loopback = device->loopback};
    return fal_kernel_group_join(&t, g, err);
}
