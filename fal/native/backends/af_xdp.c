/* AF_XDP: the kernel puts packets straight into the pool, one socket for each queue of a device.
 *
 * Each poller's pool is registered (UMEM) by the first of its sockets; its others share it.  By the
 * first it also sends.
 *
 * A received frame is in exactly one place: with the poller, in a fill ring, in the kernel (the
 * driver's ring, or set aside by the socket when its rx ring was full), or in an rx ring.  All but
 * the first are counted in the queue's `held`, which stays below FAL_BACKEND_HOLD, so that the fill ring
 * (which has as many slots) can never overflow and its consumer index need not be looked at.
 *
 * In a frame: 256 bytes that the kernel keeps for XDP programs (ours leaves its stamp at their
 * end), then the packet.  What is sent begins where its frame does.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <dirent.h>
#include <errno.h>
#include <linux/ethtool.h>
#include <linux/if_packet.h>
#include <linux/if_xdp.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../backend.h"
#include "../xsk.h"
#include "xdp_program.h"

#define HEADROOM       256      /* XDP_PACKET_HEADROOM: the kernel's, at the head of each frame */
#define LINK_HEADER    (14 + 8) /* Ethernet and two VLAN tags: what the MTU does not count */
#define CLOCK_READINGS 5
#define SECOND         INT64_C(1000000000)

/* Numbers from Linux 6.6, newer than the oldest headers that this is built with. */
#ifndef XDP_USE_SG
#define XDP_USE_SG    (1 << 4)
#define XDP_PKT_CONTD (1 << 0)
#endif

_Static_assert((FAL_BACKEND_HOLD & (FAL_BACKEND_HOLD - 1)) == 0, "the fill ring's size");

struct queue {
    struct fal_xsk xsk; /* tx and done are used in a part's first */
    uint32_t id;
    uint32_t held;     /* frames that are not the poller's */
    uint32_t too_long; /* packets of more than FAL_MAX_PIECES */
    bool given;        /* its packets come to the socket */
};

/* What one poller has of the device. */
struct part {
    struct fal_pool pool;
    const struct fal_xdp_program *program;
    int gone;             /* an errno: the device is no more */
    int64_t clock_offset; /* from the stamps' clock to the wall's */
    uint32_t wanted;      /* sum of FAL_BACKEND_HOLD - held */
    uint32_t first;       /* the queue to look at first: in turn */
    uint32_t most;        /* pieces of one packet: 1 without chains */
    uint64_t refused;     /* frames to send that the device had no room for */
    uint32_t queue_count;
    struct queue queue[FAL_MAX_QUEUES];
};

struct af_xdp {
    struct fal_xdp_program program;
    uint32_t ifindex;
    int promisc; /* a packet socket that asks for it; -1: none */
    uint32_t parts;
    struct part part[];
};

/* ---- what a device is ------------------------------------------------------------------------ */

struct device {
    struct ifreq name;
    uint32_t ifindex;
    uint32_t mtu;
    uint32_t queues;
};

static int no_device(const char *name, struct fal_error *err) {
    char list[128] = "";
    struct if_nameindex *all = if_nameindex();
    size_t at = 0;
    for (struct if_nameindex *i = all; i && i->if_index; i++) {
        size_t n = strlen(i->if_name);
        if (at + n + 7 > sizeof list) { /* room for ", ..." */
            memcpy(list + at, ", ...", 6);
            break;
        }
        at += (size_t)sprintf(list + at, "%s%s", at ? ", " : "", i->if_name);
    }
    if_freenameindex(all);
    return fal_fail(err, ENODEV, "no device %.32s; there are: %s", name, list);
}

/* For drivers that do not say how many channels they have. */
static uint32_t count_sysfs_queues(const char *name) {
    char path[64];
    snprintf(path, sizeof path, "/sys/class/net/%s/queues", name);
    DIR *dir = opendir(path);
    uint32_t n = 0;
    for (struct dirent *e; dir && (e = readdir(dir));)
        n += strncmp(e->d_name, "rx-", 3) == 0;
    if (dir)
        closedir(dir);
    return n ? n : 1;
}

static int find_device(const char *name, struct device *d, struct fal_error *err) {
    memset(d, 0, sizeof *d);
    if (!*name || strlen(name) >= IFNAMSIZ || strchr(name, '/'))
        return no_device(name, err);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0); /* any socket will do, and this needs
                                                               neither privilege nor IP */
    if (fd < 0)
        return fal_fail(err, errno, "cannot make a socket: %s", strerror(errno));
    strcpy(d->name.ifr_name, name);
    if (ioctl(fd, SIOCGIFINDEX, &d->name) < 0) {
        close(fd);
        return no_device(name, err);
    }
    d->ifindex = (uint32_t)d->name.ifr_ifindex;
    if (ioctl(fd, SIOCGIFMTU, &d->name) == 0)
        d->mtu = (uint32_t)d->name.ifr_mtu;
    struct ethtool_channels channels = {.cmd = ETHTOOL_GCHANNELS};
    d->name.ifr_data = (void *)&channels;
    if (ioctl(fd, SIOCETHTOOL, &d->name) == 0)
        d->queues = channels.rx_count + channels.combined_count;
    if (d->queues == 0)
        d->queues = count_sysfs_queues(name);
    close(fd);
    return 0;
}

/* The wanted queues, each once; their number. */
static int choose_queues(const struct fal_backend_options *options, const struct device *d,
                         uint32_t *chosen, struct fal_error *err) {
    uint32_t n = options->queues ? options->queue_count : d->queues;
    if (n > FAL_MAX_QUEUES)
        return fal_fail(err, EINVAL,
                        "%s has %u queues, at most %d can be had: give --queues 0-%d, or set up "
                        "fewer: ethtool -L %s combined %d",
                        options->device, n, FAL_MAX_QUEUES, FAL_MAX_QUEUES - 1, options->device,
                        FAL_MAX_QUEUES);
    if (n == 0)
        return fal_fail(err, EINVAL, "no queue of %s is asked for", options->device);
    for (uint32_t i = 0; i < n; i++) {
        chosen[i] = options->queues ? options->queues[i] : i;
        if (chosen[i] >= d->queues)
            return fal_fail(err, EINVAL, "%s has no queue %u: it has %u, from 0 to %u",
                            options->device, chosen[i], d->queues, d->queues - 1);
        for (uint32_t k = 0; k < i; k++)
            if (chosen[k] == chosen[i])
                return fal_fail(err, EINVAL, "queue %u of %s is asked for twice", chosen[i],
                                options->device);
    }
    return (int)n;
}

static int af_xdp_queues(const struct fal_backend_options *options, struct fal_error *err) {
    struct device d;
    uint32_t chosen[FAL_MAX_QUEUES];
    if (find_device(options->device, &d, err) < 0)
        return -1;
    return choose_queues(options, &d, chosen, err);
}

static int check_frames(const struct device *d, const struct fal_pool *pool,
                        struct fal_error *err) {
    uint32_t size = pool->frame_size;
    if (size < 2048 || size > 4096 || size % 64)
        return fal_fail(err, EINVAL,
                        "af_xdp wants frames of 2048 to 4096 bytes, whole cache lines, not %u",
                        size);
    uint32_t fits = FAL_MAX_PIECES * (size - HEADROOM) - LINK_HEADER;
    if (d->mtu > fits)
        return fal_fail(err, EMSGSIZE,
                        "the MTU of %s, %u, does not fit into %d frames of %u bytes (at most %u): "
                        "give --frame-size 4096",
                        d->name.ifr_name, d->mtu, FAL_MAX_PIECES, size, fits);
    return 0;
}

static bool needs_chains(const struct device *d, const struct fal_pool *pool) {
    return d->mtu > pool->frame_size - HEADROOM - LINK_HEADER;
}

/* Before Linux 6.6 a packet has one frame. */
static int no_chains(const struct device *d, const struct fal_pool *pool, struct fal_error *err) {
    uint32_t size = pool->frame_size;
    const char *name = d->name.ifr_name;
    uint32_t fits = size - HEADROOM - LINK_HEADER, largest = 4096 - HEADROOM - LINK_HEADER;
    if (d->mtu <= largest)
        return fal_fail(err, EMSGSIZE,
                        "the MTU of %s, %u, does not fit into a frame of %u bytes (at most %u): "
                        "give --frame-size 4096, or lower it: ip link set dev %s mtu %u",
                        name, d->mtu, size, fits, name, fits);
    return fal_fail(err, EMSGSIZE,
                    "the MTU of %s, %u, does not fit into a frame (at most %u with --frame-size "
                    "4096; more wants Linux 6.6): lower it: ip link set dev %s mtu %u",
                    name, d->mtu, largest, name, largest);
}

/* ---- sockets --------------------------------------------------------------------------------- */

static void close_sockets(struct af_xdp *x) {
    for (struct part *p = x->part; p < x->part + x->parts; p++)
        for (uint32_t i = p->queue_count; i-- > 0;) /* the first holds the UMEM that all share */
            fal_xsk_close(&p->queue[i].xsk);
}

static int failed(const struct queue *q, const char *device, struct fal_error *err) {
    if (errno == EPERM)
        return fal_xdp_no_privilege(device, err);
    if (errno == EBUSY)
        return fal_fail(err, EBUSY,
                        "queue %u of %s belongs to another AF_XDP socket: stop the program that "
                        "has it, or leave the queue out: --queues",
                        q->id, device);
    return fal_xsk_failed(device, q->id, err);
}

/* A part's sockets: the mode that the first one gets holds for those that share its UMEM. */
static int open_part(struct part *p, uint32_t ifindex, bool zero_copy, const char *device,
                     struct fal_error *err) {
    const struct fal_xsk_umem umem = {p->pool.frames, p->pool.frame_size, p->pool.frame_count};
    const uint16_t first = XDP_USE_NEED_WAKEUP | (p->most > 1 ? XDP_USE_SG : 0);
    for (uint32_t i = 0; i < p->queue_count; i++) {
        struct queue *q = &p->queue[i];
        const struct fal_xsk_entries entries = {
            .fill = FAL_BACKEND_HOLD,
            .rx = FAL_RX_RING,
            .tx = i ? 0 : FAL_TX_FRAMES,
            .done = i ? FAL_XSK_UNUSED : FAL_TX_FRAMES,
        };
        if (fal_xsk_make(&q->xsk, &entries) < 0)
            return failed(q, device, err);
        if (i == 0 && fal_xsk_register(&q->xsk, &umem, err) < 0)
            return -1;
        uint16_t flags = i ? XDP_SHARED_UMEM : first | (zero_copy ? XDP_ZEROCOPY : XDP_COPY);
        int bound = fal_xsk_bind(&q->xsk, ifindex, q->id, flags, p->queue[0].xsk.fd);
        if (bound < 0 && i == 0 && zero_copy && errno != EBUSY) /* the pool is pinned already */
            bound = fal_xsk_bind(&q->xsk, ifindex, q->id, first | XDP_COPY, -1);
        if (bound < 0)
            return failed(q, device, err);
    }
    return 0;
}

static int open_sockets(struct af_xdp *x, bool zero_copy, const char *device,
                        struct fal_error *err) {
    for (struct part *p = x->part; p < x->part + x->parts; p++)
        if (open_part(p, x->ifindex, zero_copy, device, err) < 0)
            return -1;
    return 0;
}

/* The kernel undoes it when the socket is closed, however that comes about. */
static int be_promiscuous(struct af_xdp *x, const char *device, struct fal_error *err) {
    const struct packet_mreq request = {.mr_ifindex = (int)x->ifindex,
                                        .mr_type = PACKET_MR_PROMISC};
    x->promisc = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0); /* 0: it receives nothing */
    if (x->promisc >= 0 &&
        setsockopt(x->promisc, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &request, sizeof request) == 0)
        return 0;
    if (errno == EPERM)
        return fal_xdp_no_privilege(device, err);
    return fal_fail(err, errno, "cannot make %s promiscuous: %s (or give --no-promisc)", device,
                    strerror(errno));
}

/* ---- clocks ---------------------------------------------------------------------------------- */

static int64_t now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

/* How far the wall clock is ahead of this one: read it before and after, keep the quickest of some
 * tries.  TAI and the wall clock are whole seconds apart, which makes that exact. */
static int64_t measure_offset(clockid_t clock) {
    int64_t best = INT64_MAX, offset = 0;
    for (int i = 0; i < CLOCK_READINGS; i++) {
        int64_t before = now(clock), wall = now(CLOCK_REALTIME), after = now(clock);
        if (after - before < best) {
            best = after - before;
            offset = wall - before - best / 2;
        }
    }
    if (clock == CLOCK_TAI)
        offset = (offset + (offset < 0 ? -SECOND : SECOND) / 2) / SECOND * SECOND;
    return offset;
}

/* ---- the backend ----------------------------------------------------------------------------- */

static void af_xdp_close(void *device) {
    struct af_xdp *x = device;
    fal_xdp_detach(&x->program); /* first: from here on the host has its packets back */
    close_sockets(x);
    if (x->promisc >= 0)
        close(x->promisc);
    free(x);
}

static int open_all(struct af_xdp *x, const struct fal_backend_options *options,
                    const struct device *d, struct fal_error *err) {
    const char *mode = options->mode ? options->mode : "auto", *device = options->device;
    if (strcmp(mode, "auto") != 0 && strcmp(mode, "native") != 0 && strcmp(mode, "generic") != 0)
        return fal_fail(err, EINVAL, "mode %.32s: auto, native or generic", mode);
    uint32_t slots = 0;
    for (struct part *p = x->part; p < x->part + x->parts; p++)
        for (uint32_t i = 0; i < p->queue_count; i++)
            slots = p->queue[i].id >= slots ? p->queue[i].id + 1 : slots;

    /* The program first: whether the driver takes it decides how sockets can be bound. */
    bool chains = x->part->most > 1;
    if (fal_xdp_attach(&x->program, options, d->ifindex, slots, chains, err) < 0)
        return -1;
    struct fal_error error;
    bool zero_copy = x->program.native && !fal_xsk_unaligned(x->part->pool.frame_size);
    if (open_sockets(x, zero_copy, device, &error) < 0) {
        zero_copy = zero_copy && error.code != EBUSY && error.code != ENOBUFS;
        close_sockets(x);
        /* Drivers may have zero copy on some queues, but not on others. */
        if (!zero_copy || open_sockets(x, false, device, &error) < 0) {
            if (chains && error.code == EINVAL)
                return no_chains(d, &x->part->pool, err);
            if (err)
                *err = error;
            return -1;
        }
    }
    return options->promisc ? be_promiscuous(x, device, err) : 0;
}

static void *af_xdp_open(const struct fal_backend_options *options, const struct fal_pool *pools,
                         void **parts, struct fal_backend_facts *facts, struct fal_error *err) {
    struct device d;
    uint32_t chosen[FAL_MAX_QUEUES];
    int n;
    if (find_device(options->device, &d, err) < 0 ||
        (n = choose_queues(options, &d, chosen, err)) < 0 || check_frames(&d, pools, err) < 0)
        return NULL;
    struct af_xdp *x = calloc(1, sizeof *x + options->pollers * sizeof *x->part);
    if (!x) {
        fal_fail(err, ENOMEM, "no memory");
        return NULL;
    }
    x->ifindex = d.ifindex;
    x->program.map = x->program.link = x->promisc = -1;
    x->parts = options->pollers;
    for (uint32_t i = 0; i < x->parts; i++) {
        x->part[i].pool = pools[i];
        x->part[i].program = &x->program;
        x->part[i].most = needs_chains(&d, pools) ? FAL_MAX_PIECES : 1;
        parts[i] = &x->part[i];
    }
    for (uint32_t i = 0; i < (uint32_t)n; i++) {
        struct part *p = &x->part[i % x->parts];
        p->queue[p->queue_count++] = (struct queue){.xsk.fd = -1, .id = chosen[i]};
        p->wanted += FAL_BACKEND_HOLD;
    }
    if (open_all(x, options, &d, err) < 0) {
        af_xdp_close(x);
        return NULL;
    }
    struct xdp_options got = {0};
    socklen_t size = sizeof got;
    getsockopt(x->part[0].queue[0].xsk.fd, SOL_XDP, XDP_OPTIONS, &got, &size);
    memset(facts, 0, sizeof *facts);
    strcpy(facts->mode, x->program.native ? "native" : "generic");
    facts->zero_copy = (got.flags & XDP_OPTIONS_ZEROCOPY) != 0;
    facts->queue_count = (uint32_t)n;
    memcpy(facts->queue, chosen, facts->queue_count * sizeof *chosen);
    facts->ifindex = x->ifindex;
    facts->chains = x->part->most > 1;
    facts->max_send =
        d.mtu + LINK_HEADER < pools->frame_size ? d.mtu + LINK_HEADER : pools->frame_size;
    for (uint32_t i = 0; i < x->parts; i++)
        x->part[i].clock_offset = measure_offset(x->program.clock);
    return x;
}

/* One packet's descriptor, and its CPU.  The stamp is cleared once it is read: where the program
 * could not leave one the next time, this one must not be believed again. */
static void describe(struct part *p, const struct xdp_desc *from, uint32_t queue, uint64_t *clock,
                     struct fal_desc *to, uint16_t *cpu) {
    struct fal_xdp_stamp stamp;
    uint64_t begin = fal_xsk_begin(from->addr);
    uint8_t *at = p->pool.frames + begin - sizeof stamp;
    memcpy(&stamp, at, sizeof stamp);
    if (stamp.time) {
        memset(at, 0, sizeof stamp);
        to->ts_ns = stamp.time + (uint64_t)p->clock_offset;
    } else {
        if (!*clock)
            *clock = (uint64_t)now(CLOCK_REALTIME);
        to->ts_ns = *clock;
    }
    *cpu = (uint16_t)stamp.cpu;
    to->offset = begin;
    to->len = from->len;
    to->caplen = (uint16_t)from->len;
    to->flags = FAL_DESC_FIRST;
    to->queue = (uint16_t)queue;
}

/* How many of the next n descriptors are whole packets, up to one of too many pieces. */
static uint32_t whole(const struct fal_xsk_ring *rx, uint32_t n) {
    const struct xdp_desc *slots = rx->slots;
    uint32_t end = 0;
    for (uint32_t i = 0; i < n && i - end < FAL_MAX_PIECES; i++)
        if (!(slots[(rx->next + i) & rx->mask].options & XDP_PKT_CONTD))
            end = i + 1;
    return end;
}

static uint64_t address(const struct part *p, uint32_t frame) {
    return (uint64_t)frame * p->pool.frame_size;
}

/* The next packet has too many pieces: once they are all there its frames go to where they came
 * from.  n: descriptors that are there. */
static void discard(struct part *p, struct queue *q, uint32_t n) {
    struct fal_xsk_ring *rx = &q->xsk.rx, *fill = &q->xsk.fill;
    const struct xdp_desc *from = rx->slots;
    uint64_t *to = fill->slots;
    uint32_t pieces = 1;
    for (; from[(rx->next + pieces - 1) & rx->mask].options & XDP_PKT_CONTD; pieces++)
        if (pieces == n)
            return;
    for (uint32_t i = 0; i < pieces; i++)
        to[fill->next++ & fill->mask] =
            address(p, fal_xsk_frame(from[rx->next++ & rx->mask].addr, p->pool.frame_size));
    __atomic_store_n(rx->consumer, rx->next, __ATOMIC_RELEASE);
    __atomic_store_n(fill->producer, fill->next, __ATOMIC_RELEASE);
    q->too_long++;
}

static uint32_t receive(struct part *p, struct queue *q, struct fal_desc *packets, uint32_t *frame,
                        uint16_t *cpu, uint32_t max, uint64_t *clock) {
    struct fal_xsk_ring *rx = &q->xsk.rx;
    const struct xdp_desc *slots = rx->slots;
    struct fal_desc *first = packets;
    bool more = false;
    uint32_t n = __atomic_load_n(rx->producer, __ATOMIC_ACQUIRE) - rx->next;
    if (p->most > 1) {
        uint32_t there = n;
        n = whole(rx, n < max ? n : max);
        if (n == 0 && there >= p->most)
            discard(p, q, there);
    }
    n = n < max ? n : max;
    if (n == 0)
        return 0;
    for (uint32_t i = 0; i < n; i++) /* the stamps, written by the CPU that received */
        __builtin_prefetch(
            p->pool.frames + fal_xsk_begin(slots[(rx->next + i) & rx->mask].addr) - 8, 1);
    for (uint32_t i = 0; i < n; i++) {
        const struct xdp_desc *from = &slots[(rx->next + i) & rx->mask];
        struct fal_desc *to = &packets[i];
        if (more) {
            first->len += from->len;
            *to = (struct fal_desc){.offset = fal_xsk_begin(from->addr),
                                    .caplen = (uint16_t)from->len};
        } else {
            describe(p, from, q->id, clock, to, &cpu[i]);
            first = to;
        }
        more = from->options & XDP_PKT_CONTD;
        to->flags |= more ? FAL_DESC_MORE : 0;
        frame[i] = fal_xsk_frame(from->addr, p->pool.frame_size);
    }
    rx->next += n;
    __atomic_store_n(rx->consumer, rx->next, __ATOMIC_RELEASE);
    q->held -= n;
    p->wanted += n;
    return n;
}

/* One that waits for frames: also where it found none just before they were given. */
static void wake_driver(const struct queue *q) {
    if (__atomic_load_n(q->xsk.fill.flags, __ATOMIC_RELAXED) & XDP_RING_NEED_WAKEUP)
        recvfrom(q->xsk.fd, NULL, 0, MSG_DONTWAIT, NULL, NULL);
}

static int af_xdp_rx_burst(void *part, struct fal_desc *packets, uint32_t *frame, uint16_t *cpu,
                           uint32_t max) {
    struct part *p = part;
    uint64_t clock = 0;
    uint32_t n = 0, at = p->first;
    for (uint32_t i = 0; i < p->queue_count && n + p->most <= max; i++) {
        struct queue *q = &p->queue[at];
        uint32_t got = receive(p, q, packets + n, frame + n, cpu + n, max - n, &clock);
        if (!got)
            wake_driver(q);
        n += got;
        at = at + 1 < p->queue_count ? at + 1 : 0;
    }
    /* After a full burst the next begins with the queue after the one that filled it, so that a
     * flood on one queue costs the others no turn. */
    if (n + p->most > max)
        p->first = at;
    if (n == 0 && p->gone) {
        errno = p->gone;
        return -1;
    }
    return (int)n;
}

static uint32_t af_xdp_wants(void *part) {
    return ((struct part *)part)->wanted;
}

static uint32_t fill(struct part *p, struct queue *q, const uint32_t *frame, uint32_t n) {
    uint32_t room = FAL_BACKEND_HOLD - q->held;
    n = n < room ? n : room;
    if (n == 0)
        return 0;
    struct fal_xsk_ring *ring = &q->xsk.fill;
    uint64_t *slots = ring->slots;
    for (uint32_t i = 0; i < n; i++)
        slots[(ring->next + i) & ring->mask] = address(p, frame[i]);
    ring->next += n;
    __atomic_store_n(ring->producer, ring->next, __ATOMIC_RELEASE);
    q->held += n;
    p->wanted -= n;
    wake_driver(q);
    /* Only now, so that before there are frames the host gets the packets, instead of nobody. */
    if (!q->given) {
        if (fal_xdp_give(p->program, q->id, q->xsk.fd) < 0)
            p->gone = errno;
        q->given = true;
    }
    return n;
}

/* Equal shares, until all are gone: whatever another queue has, none starves. */
static void af_xdp_refill(void *part, const uint32_t *frame, uint32_t n) {
    struct part *p = part;
    while (n > 0 && p->wanted > 0) {
        uint32_t share = (n + p->queue_count - 1) / p->queue_count;
        for (uint32_t i = 0; i < p->queue_count && n > 0; i++) {
            uint32_t taken = fill(p, &p->queue[i], frame, share < n ? share : n);
            frame += taken;
            n -= taken;
        }
    }
}

/* What one call leaves, the next one sends. */
static void kick(struct part *p) {
    p->refused += fal_xsk_kick(&p->queue[0].xsk) == EBUSY;
}

static void af_xdp_tx_burst(void *part, const uint32_t *frame, const uint32_t *length, uint32_t n) {
    struct part *p = part;
    fal_xsk_send(&p->queue[0].xsk, p->pool.frame_size, frame, length, n);
    kick(p);
}

static uint32_t af_xdp_tx_done(void *part, uint32_t *frame, uint32_t max) {
    struct part *p = part;
    kick(p);
    return fal_xsk_sent(&p->queue[0].xsk, p->pool.frame_size, frame, max);
}

static uint32_t af_xdp_wait(void *part, struct pollfd *fds, uint32_t max) {
    const struct part *p = part;
    uint32_t n = p->queue_count < max ? p->queue_count : max;
    for (uint32_t i = 0; i < n; i++)
        fds[i] = (struct pollfd){.fd = p->queue[i].xsk.fd, .events = POLLIN};
    return n;
}

/* Lost are: rx_dropped, which contains those that found the fill ring empty (so its own counter,
 * of attempts, is left out), and rx_ring_full; no packet is in both.  The kernel says that a
 * device is gone by a pending error on its sockets; poll() does not tell, and down is not gone. */
static void af_xdp_stats(void *part, struct fal_backend_stats *stats) {
    struct part *p = part;
    stats->if_dropped = 0;
    stats->send_failed = p->refused;
    for (uint32_t i = 0; i < p->queue_count; i++) {
        struct xdp_statistics s = {0};
        socklen_t size = sizeof s;
        if (getsockopt(p->queue[i].xsk.fd, SOL_XDP, XDP_STATISTICS, &s, &size) == 0)
            stats->if_dropped += s.rx_dropped + s.rx_ring_full;
        stats->if_dropped += p->queue[i].too_long;
        stats->send_failed += s.tx_invalid_descs;
        int pending = 0;
        size = sizeof pending;
        if (getsockopt(p->queue[i].xsk.fd, SOL_SOCKET, SO_ERROR, &pending, &size) == 0 && pending)
            p->gone = ENODEV;
    }
    p->clock_offset = measure_offset(p->program->clock);
}

const struct fal_backend_ops fal_backend_af_xdp = {
    .name = "af_xdp",
    .queues = af_xdp_queues,
    .open = af_xdp_open,
    .rx_burst = af_xdp_rx_burst,
    .wants = af_xdp_wants,
    .refill = af_xdp_refill,
    .tx_burst = af_xdp_tx_burst,
    .tx_done = af_xdp_tx_done,
    .wait = af_xdp_wait,
    .stats = af_xdp_stats,
    .close = af_xdp_close,
};
