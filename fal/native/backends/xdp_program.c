/* The XDP program: some twenty instructions and maybe a filter, assembled here.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <linux/capability.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../ebpf.h"
#include "xdp_filter.h"
#include "xdp_program.h"

#define PROGRAM_NAME "fal_xdp" /* by it a second fal-poller knows the first */
#define ATTACH_TRIES 10        /* 50 ms apart: a dying predecessor's link lives a moment longer */

/* Numbers from newer kernels than the oldest headers that this is built with. */
#define HELPER_KTIME_GET_TAI_NS 208 /* Linux 6.1 */
#define CAPABILITY_BPF          39  /* Linux 5.8 */

/* ---- who may ------------------------------------------------------------------------------- */

int fal_xdp_no_privilege(const char *device, struct fal_error *err) {
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {{0}};
    if (syscall(SYS_capget, &head, data) < 0)
        return fal_fail(err, EPERM, "no privilege to take %s: run as root", device);

    uint64_t have = data[0].effective | (uint64_t)data[1].effective << 32;
    bool raw = have >> CAP_NET_RAW & 1;
    bool admin = (have >> CAP_NET_ADMIN | have >> CAP_SYS_ADMIN) & 1; /* to the kernel, either */
    bool may_bpf = (have >> CAPABILITY_BPF | have >> CAP_SYS_ADMIN) & 1;
    if (raw && admin && may_bpf)
        return fal_fail(err, EPERM,
                        "no privilege to take %s: the capabilities are there, but not in the "
                        "first user namespace, or a security module forbids it",
                        device);
    return fal_fail(err, EPERM,
                    "no privilege to take %s: missing%s%s%s; run as root, or with CAP_NET_RAW, "
                    "CAP_NET_ADMIN and CAP_BPF (systemd: AmbientCapabilities=)",
                    device, raw ? "" : " CAP_NET_RAW", admin ? "" : " CAP_NET_ADMIN",
                    may_bpf ? "" : " CAP_BPF");
}

/* ---- the program --------------------------------------------------------------------------- */

#define STAMP ((int)sizeof(struct fal_xdp_stamp))
#define PASS  2 /* instructions after the filter */

enum { R0, R1, R2, R3, CONTEXT = FAL_XDP_CONTEXT, META = 7, DATA = 8 };

static int make_map(uint32_t slots) {
    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.map_type = BPF_MAP_TYPE_XSKMAP;
    attr.key_size = attr.value_size = 4;
    attr.max_entries = slots;
    memcpy(attr.map_name, PROGRAM_NAME, sizeof PROGRAM_NAME);
    return (int)fal_ebpf(BPF_MAP_CREATE, &attr);
}

/* What matches `filter` goes on to the host.  Of the others the redirection is decided first, then
 * they are stamped: a packet that goes to the host stays as it is.  Where there is no room for the
 * stamp the packet goes without. */
static int load(int map, int time_helper, uint32_t flags, const struct bpf_insn *filter,
                uint32_t filter_size) {
    const struct bpf_insn begin[] = {{BPF_ALU64 | BPF_MOV | BPF_X, CONTEXT, R1, 0, 0}};
    const struct bpf_insn pass[PASS] = {{BPF_ALU64 | BPF_MOV | BPF_K, R0, 0, 0, XDP_PASS},
                                        {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}};
    const struct bpf_insn rest[] = {
        {BPF_LDX | BPF_MEM | BPF_W, R2, CONTEXT, offsetof(struct xdp_md, rx_queue_index), 0},
        {BPF_LD | BPF_IMM | BPF_DW, R1, BPF_PSEUDO_MAP_FD, 0, map}, /* two slots long */
        {0, 0, 0, 0, 0},
        {BPF_ALU64 | BPF_MOV | BPF_K, R3, 0, 0, XDP_PASS}, /* where the queue has no socket */
        {BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_redirect_map},
        {BPF_JMP | BPF_JNE | BPF_K, R0, 0, 14, XDP_REDIRECT}, /* to exit */

        {BPF_ALU64 | BPF_MOV | BPF_X, R1, CONTEXT, 0, 0},
        {BPF_ALU64 | BPF_MOV | BPF_K, R2, 0, 0, -STAMP},
        {BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_xdp_adjust_meta},
        {BPF_JMP | BPF_JNE | BPF_K, R0, 0, 9, 0}, /* to redirect */
        {BPF_LDX | BPF_MEM | BPF_W, META, CONTEXT, offsetof(struct xdp_md, data_meta), 0},
        {BPF_LDX | BPF_MEM | BPF_W, DATA, CONTEXT, offsetof(struct xdp_md, data), 0},
        {BPF_ALU64 | BPF_MOV | BPF_X, R2, META, 0, 0},
        {BPF_ALU64 | BPF_ADD | BPF_K, R2, 0, 0, STAMP},
        {BPF_JMP | BPF_JGT | BPF_X, R2, DATA, 4, 0}, /* never, but the verifier wants to see it */
        {BPF_JMP | BPF_CALL, 0, 0, 0, time_helper},
        {BPF_STX | BPF_MEM | BPF_DW, META, R0, offsetof(struct fal_xdp_stamp, time), 0},
        {BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_get_smp_processor_id},
        {BPF_STX | BPF_MEM | BPF_W, META, R0, offsetof(struct fal_xdp_stamp, cpu), 0},

        {BPF_ALU64 | BPF_MOV | BPF_K, R0, 0, 0, XDP_REDIRECT}, /* redirect: */
        {BPF_JMP | BPF_EXIT, 0, 0, 0, 0},                      /* exit: */
    };
    const struct {
        const struct bpf_insn *code;
        uint32_t size;
    } part[] = {{begin, 1},
                {filter, filter_size},
                {pass, filter ? PASS : 0},
                {rest, sizeof rest / sizeof *rest}};
    struct bpf_insn *program =
        calloc(1 + filter_size + PASS + sizeof rest / sizeof *rest, sizeof *program);
    uint32_t size = 0;
    if (!program)
        return -1;
    for (unsigned i = 0; i < sizeof part / sizeof *part; size += part[i++].size)
        if (part[i].size)
            memcpy(program + size, part[i].code, part[i].size * sizeof *program);
    int fd = fal_ebpf_load(BPF_PROG_TYPE_XDP, PROGRAM_NAME, program, size, flags);
    free(program);
    return fd;
}

/* ---- whose program is there already --------------------------------------------------------- */

struct resident {
    uint32_t id; /* 0: cannot be told */
    bool generic;
    char name[BPF_OBJ_NAME_LEN]; /* empty: cannot be told */
};

static void parse_xdp(const struct rtattr *nest, struct resident *r) {
    int left = (int)RTA_PAYLOAD(nest);
    for (const struct rtattr *a = RTA_DATA(nest); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
        switch (a->rta_type) {
        case IFLA_XDP_DRV_PROG_ID:
        case IFLA_XDP_SKB_PROG_ID:
        case IFLA_XDP_HW_PROG_ID:
            memcpy(&r->id, RTA_DATA(a), sizeof r->id);
            r->generic = a->rta_type == IFLA_XDP_SKB_PROG_ID;
        }
    }
}

static struct resident find_resident(uint32_t ifindex) {
    struct resident r = {0};
    struct {
        struct nlmsghdr head;
        struct ifinfomsg body;
    } question = {{sizeof question, RTM_GETLINK, NLM_F_REQUEST, 1, 0},
                  {.ifi_family = AF_UNSPEC, .ifi_index = (int)ifindex}};
    _Alignas(struct nlmsghdr) char answer[32768];

    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0)
        return r;
    ssize_t n = send(fd, &question, sizeof question, 0);
    if (n == (ssize_t)sizeof question)
        n = recv(fd, answer, sizeof answer, 0);
    close(fd);
    const struct nlmsghdr *head = (const struct nlmsghdr *)answer;
    if (n < 0 || !NLMSG_OK(head, (size_t)n) || head->nlmsg_type != RTM_NEWLINK)
        return r;
    int left = (int)IFLA_PAYLOAD(head);
    const struct rtattr *a = IFLA_RTA(NLMSG_DATA(head));
    for (; RTA_OK(a, left); a = RTA_NEXT(a, left))
        if ((a->rta_type & NLA_TYPE_MASK) == IFLA_XDP)
            parse_xdp(a, &r);

    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.prog_id = r.id;
    fd = r.id ? (int)fal_ebpf(BPF_PROG_GET_FD_BY_ID, &attr) : -1; /* needs CAP_SYS_ADMIN */
    if (fd >= 0) {
        struct bpf_prog_info info = {0};
        memset(&attr, 0, sizeof attr);
        attr.info.bpf_fd = (uint32_t)fd;
        attr.info.info_len = sizeof info;
        attr.info.info = (uintptr_t)&info;
        if (fal_ebpf(BPF_OBJ_GET_INFO_BY_FD, &attr) == 0)
            memcpy(r.name, info.name, sizeof r.name);
        close(fd);
    }
    return r;
}

static int taken(const char *device, uint32_t ifindex, struct fal_error *err) {
    struct resident r = find_resident(ifindex);
    r.name[sizeof r.name - 1] = '\0';
    if (!r.id) /* programs of a bond or a team hinder those of its ports */
        return fal_fail(err, EBUSY, "%s is taken: an XDP program is on it, or on a device above it",
                        device);
    if (strcmp(r.name, PROGRAM_NAME) == 0)
        return fal_fail(err, EBUSY,
                        "%s is taken by another fal-poller (XDP program %u, %s): stop that one, "
                        "or attach workers to it",
                        device, r.id, r.generic ? "generic" : "native");
    return fal_fail(err, EBUSY,
                    "%s has an XDP program already (id %u, %s, %s): stop what put it there, or "
                    "remove it: ip link set dev %s %s off",
                    device, r.id, *r.name ? r.name : "maybe another fal-poller's",
                    r.generic ? "generic" : "native", device, r.generic ? "xdpgeneric" : "xdp");
}

/* ---- attach and detach ----------------------------------------------------------------------- */

static int create_link(int program, uint32_t ifindex, bool native) {
    uint32_t flags = native ? XDP_FLAGS_DRV_MODE : XDP_FLAGS_SKB_MODE;
    for (int i = 1;; i++) {
        int fd = fal_ebpf_attach(program, ifindex, flags);
        if (fd >= 0 || (errno != EBUSY && errno != EEXIST) || i == ATTACH_TRIES)
            return fd;
        nanosleep(&(struct timespec){0, 50000000}, NULL);
    }
}

static int attach(struct fal_xdp_program *x, int program, const char *device, uint32_t ifindex,
                  const char *mode, struct fal_error *err) {
    bool native = strcmp(mode, "generic") != 0, generic = strcmp(mode, "native") != 0;
    if (native) {
        x->link = create_link(program, ifindex, true);
        x->native = x->link >= 0;
        /* What is in the way of any program is in the way of a generic one too. */
        if (x->native || errno == EBUSY || errno == EEXIST || errno == EPERM || errno == ENODEV)
            generic = false;
    }
    if (generic)
        x->link = create_link(program, ifindex, false);
    if (x->link >= 0)
        return 0;

    switch (errno) {
    case EBUSY:
    case EEXIST:
        return taken(device, ifindex, err);
    case EPERM:
        return fal_xdp_no_privilege(device, err);
    case ENODEV:
        return fal_fail(err, ENODEV, "%s was removed", device);
    case EOPNOTSUPP:
    case EINVAL:
    case ERANGE:
    case ENOSPC:
        if (strcmp(mode, "native") == 0)
            return fal_fail(err, errno,
                            "the driver of %s refuses an XDP program (%s)%s: give --mode generic",
                            device, strerror(errno),
                            errno == EOPNOTSUPP ? ""
                            : errno == ENOSPC   ? "; too few queues for one more"
                                                : "; maybe its MTU is too large, or LRO is on");
    }
    return fal_fail(err, errno, "cannot attach an XDP program to %s: %s", device, strerror(errno));
}

/* The program with the best clock that the kernel has; -1 and *err. */
static int load_any(struct fal_xdp_program *x, const struct fal_backend_options *options,
                    bool chains, struct fal_error *err) {
    struct bpf_insn *filter = NULL;
    uint32_t size = 0;
    if (options->pass &&
        !(filter = fal_xdp_filter(options->pass, options->pass_count, PASS, &size, err)))
        return -1;
    /* TAI is set with the clock of the wall and never steps at a leap second. */
    x->clock = CLOCK_TAI;
    int program =
        load(x->map, HELPER_KTIME_GET_TAI_NS, chains ? BPF_F_XDP_HAS_FRAGS : 0, filter, size);
    if (program < 0 && errno != EPERM) {
        x->clock = CLOCK_MONOTONIC;
        /* A kernel without TAI has no chains either. */
        program = load(x->map, BPF_FUNC_ktime_get_ns, 0, filter, size);
    }
    free(filter);
    if (program >= 0)
        return program;
    if (errno == EPERM)
        return fal_xdp_no_privilege(options->device, err);
    if (options->pass)
        return fal_fail(err, errno,
                        "the kernel refuses --pass as a part of the XDP program: %s (take a "
                        "simpler expression)",
                        strerror(errno));
    return fal_fail(err, errno,
                    "the kernel refuses the XDP program: %s (AF_XDP wants Linux 5.9 or later)",
                    strerror(errno));
}

int fal_xdp_attach(struct fal_xdp_program *x, const struct fal_backend_options *options,
                   uint32_t ifindex, uint32_t slots, bool chains, struct fal_error *err) {
    *x = (struct fal_xdp_program){.map = -1, .link = -1};
    x->map = make_map(slots);
    int program = -1;
    if (x->map >= 0)
        program = load_any(x, options, chains, err);
    else if (errno == EPERM)
        fal_xdp_no_privilege(options->device, err);
    else
        fal_fail(err, errno, "the kernel refuses the XDP map: %s (AF_XDP wants Linux 5.9 or later)",
                 strerror(errno));
    int result = -1;
    if (program >= 0) {
        result = attach(x, program, options->device, ifindex, options->mode, err);
        close(program); /* the link holds it */
    }
    if (result < 0)
        fal_xdp_detach(x);
    return result;
}

int fal_xdp_give(const struct fal_xdp_program *x, uint32_t queue, int socket) {
    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.map_fd = (uint32_t)x->map;
    attr.key = (uintptr_t)&queue;
    attr.value = (uintptr_t)&socket;
    return (int)fal_ebpf(BPF_MAP_UPDATE_ELEM, &attr);
}

void fal_xdp_detach(struct fal_xdp_program *x) {
    if (x->link >= 0)
        close(x->link);
    if (x->map >= 0)
        close(x->map);
    x->link = x->map = -1;
}
