/* SPDX-License-Identifier: BSD-3-Clause */
#include "tpacket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define TAG       4 /* bytes of a VLAN tag */
#define ADDRESSES 12
#define SECOND    1000000000ull

#ifndef PACKET_FANOUT_FLAG_IGNORE_OUTGOING
#define PACKET_FANOUT_FLAG_IGNORE_OUTGOING 0x4000
#endif

static int set(int fd, int option, uint32_t value) {
    return setsockopt(fd, SOL_PACKET, option, &value, sizeof value);
}

/* ---- opening and closing --------------------------------------------------------------------- */

static int no_socket(const char *device, struct fal_error *err) {
    if (errno == EPERM)
        return fal_fail(err, EPERM,
                        "no permission for a packet socket on %s: be root, or have CAP_NET_RAW",
                        device);
    return fal_fail(err, errno, "cannot open a packet socket on %s: %s", device, strerror(errno));
}

static int find_device(struct fal_tpacket *t, struct fal_error *err) {
    struct ifreq r = {0};
    if (!*t->device || strlen(t->device) >= IFNAMSIZ)
        return fal_fail(err, ENODEV, "no device '%.32s' (see: ip link)", t->device);
    strcpy(r.ifr_name, t->device);
    if (ioctl(t->fd, SIOCGIFINDEX, &r) < 0)
        return fal_fail(err, ENODEV, "no device %s (see: ip link)", t->device);
    t->ifindex = (uint32_t)r.ifr_ifindex;
    if (ioctl(t->fd, SIOCGIFMTU, &r) < 0)
        return no_socket(t->device, err);
    t->max_send = ETH_HLEN + TAG + (uint32_t)r.ifr_mtu;
    if (ioctl(t->fd, SIOCGIFHWADDR, &r) < 0)
        return no_socket(t->device, err);
    t->loopback = r.ifr_hwaddr.sa_family == ARPHRD_LOOPBACK;
    if (t->loopback && set(t->fd, PACKET_IGNORE_OUTGOING, 1) < 0) /* each would come twice */
        return no_socket(t->device, err);
    if (r.ifr_hwaddr.sa_family != ARPHRD_ETHER && !t->loopback)
        return fal_fail(err, EINVAL, "%s is no Ethernet device (link type %u)", t->device,
                        r.ifr_hwaddr.sa_family);
    return 0;
}

/* PACKET_RESERVE keeps room before each packet, for the tag that is put back. */
static int make_ring(struct fal_tpacket *t, uint32_t retire_ms, struct fal_error *err) {
    const struct tpacket_req3 ring = {
        .tp_block_size = FAL_TPACKET_BLOCK,
        .tp_block_nr = t->blocks,
        .tp_frame_size = 2048, /* means nothing in version 3, but is checked */
        .tp_frame_nr = FAL_TPACKET_BLOCK / 2048 * t->blocks,
        .tp_retire_blk_tov = retire_ms,
    };
    if (set(t->fd, PACKET_VERSION, TPACKET_V3) < 0 || set(t->fd, PACKET_RESERVE, TAG) < 0 ||
        setsockopt(t->fd, SOL_PACKET, PACKET_RX_RING, &ring, sizeof ring) < 0)
        return fal_fail(err, errno, "the kernel gives no ring of %u MiB for %s: %s",
                        (uint32_t)(fal_tpacket_size(t) >> 20), t->device, strerror(errno));
    void *map = mmap(NULL, fal_tpacket_size(t), PROT_READ | PROT_WRITE, MAP_SHARED, t->fd, 0);
    if (map == MAP_FAILED)
        return fal_fail(err, errno, "cannot map the ring of %s: %s", t->device, strerror(errno));
    t->map = map;
    return 0;
}

int fal_tpacket_open(struct fal_tpacket *t, const char *device, uint32_t blocks, uint32_t retire_ms,
                     bool promisc, struct fal_error *err) {
    *t = (struct fal_tpacket){.device = device, .blocks = blocks};
    t->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0); /* 0: it receives nothing */
    if (t->fd < 0)
        return no_socket(device, err);
    if (find_device(t, err) < 0 || make_ring(t, retire_ms, err) < 0) {
        fal_tpacket_close(t);
        return -1;
    }
    const struct packet_mreq all = {.mr_ifindex = (int)t->ifindex, .mr_type = PACKET_MR_PROMISC};
    if (promisc && setsockopt(t->fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof all) < 0) {
        fal_fail(err, errno, "cannot make %s promiscuous: %s", device, strerror(errno));
        fal_tpacket_close(t);
        return -1;
    }
    return 0;
}

/* A mapping holds the socket as a descriptor does, in its group, too. */
void fal_tpacket_leave(struct fal_tpacket *t) {
    if (t->map)
        mmap(t->map, fal_tpacket_size(t), PROT_READ, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1,
             0);
    if (t->fd >= 0)
        close(t->fd);
    t->fd = -1;
}

void fal_tpacket_close(struct fal_tpacket *t) {
    fal_tpacket_leave(t);
    if (t->map)
        munmap(t->map, fal_tpacket_size(t));
    t->map = NULL;
}

int fal_tpacket_start(struct fal_tpacket *t, struct fal_error *err) {
    const struct sockaddr_ll address = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = (int)t->ifindex};
    return bind(t->fd, (const struct sockaddr *)&address, sizeof address) < 0
               ? no_socket(t->device, err)
               : 0;
}

/* A group's program can be set by a member alone, and none leaves: so whether the kernel takes it is
 * tried on another socket. */
static int try_program(const struct sock_fprog *program, uint16_t group, struct fal_error *err) {
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    int refused = setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, program, sizeof *program) < 0 &&
                  errno == EINVAL;
    close(fd);
    return refused
               ? fal_fail(err, EINVAL, "the kernel does not take the program of group %u", group)
               : 0;
}

int fal_tpacket_join(struct fal_tpacket *t, struct fal_tpacket_fanout *fanout,
                     struct fal_error *err) {
    /* The group has a hook of its own, which knows nothing of what its sockets ignore. */
    uint32_t type = fanout->type | (t->loopback ? PACKET_FANOUT_FLAG_IGNORE_OUTGOING : 0);
    uint32_t word = fanout->group | type << 16;
    socklen_t size = sizeof word;
    const struct sock_fprog program = {fanout->instructions, fanout->program};
    if (fanout->program && try_program(&program, fanout->group, err) < 0)
        return -1;
    if (setsockopt(t->fd, SOL_PACKET, PACKET_FANOUT, &word, sizeof word) < 0) {
        if (errno == EINVAL)
            return fal_fail(err, EINVAL,
                            "the kernel's fan-out group %u has another mode, other flags or "
                            "another device than %s, or %s is down",
                            fanout->group, t->device, t->device);
        if (errno == ENOSPC)
            return fal_fail(err, ENOSPC, "the kernel's fan-out group %u has all its members",
                            fanout->group);
        return fal_fail(err, errno, "cannot join the kernel's fan-out group %u: %s", fanout->group,
                        strerror(errno));
    }
    if (getsockopt(t->fd, SOL_PACKET, PACKET_FANOUT, &word, &size) == 0)
        fanout->group = (uint16_t)word;
    if (fanout->program &&
        setsockopt(t->fd, SOL_PACKET, PACKET_FANOUT_DATA, &program, sizeof program) < 0)
        return fal_fail(err, errno, "the kernel does not take the program of group %u: %s",
                        fanout->group, strerror(errno));
    return 0;
}

/* ---- receiving ------------------------------------------------------------------------------- */

static struct tpacket_hdr_v1 *block_of(const struct fal_tpacket *t, uint32_t block) {
    uint64_t at = (uint64_t)block * FAL_TPACKET_BLOCK;
    return &((struct tpacket_block_desc *)(t->map + at))->hdr.bh1;
}

/* The block's status is the barrier, as the kernel wants it: load-acquire before its packets are
 * read, store-release after.  One with another number was given back already. */
uint32_t fal_tpacket_block(const struct fal_tpacket *t, struct fal_tpacket_place *p) {
    while (!p->left) {
        struct tpacket_hdr_v1 *block = block_of(t, p->block);
        if (p->open) {
            if (block->seq_num == p->number)
                __atomic_store_n(&block->block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
            p->block = (p->block + 1) % t->blocks;
            p->open = 0;
        } else if (__atomic_load_n(&block->block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER) {
            p->number = block->seq_num;
            p->left = block->num_pkts;
            p->next_at = block->offset_to_first_pkt;
            p->open = 1;
        } else {
            break;
        }
    }
    return p->left;
}

/* Behind an open block, or where all is read, is the one that the kernel fills: it counts at once. */
bool fal_tpacket_unread(const struct fal_tpacket *t, const struct fal_tpacket_place *p) {
    return p->left || block_of(t, (p->block + p->open) % t->blocks)->num_pkts;
}

/* In front of the packet is room for it, by PACKET_RESERVE. */
static void put_tag_back(struct tpacket3_hdr *h) {
    uint16_t tpid = h->tp_status & TP_STATUS_VLAN_TPID_VALID ? h->hv1.tp_vlan_tpid : ETH_P_8021Q;
    const uint16_t tag[2] = {htons(tpid), htons((uint16_t)h->hv1.tp_vlan_tci)};
    uint8_t *data = (uint8_t *)h + h->tp_mac - TAG;
    memmove(data, data + TAG, ADDRESSES);
    memcpy(data + ADDRESSES, tag, TAG);
    h->tp_mac -= TAG;
    h->tp_snaplen += TAG;
    h->tp_len += TAG;
    h->tp_status &= ~(uint32_t)TP_STATUS_VLAN_VALID; /* once, also for who reads it again */
}

void fal_tpacket_next(const struct fal_tpacket *t, struct fal_tpacket_place *p,
                      struct fal_desc *d) {
    uint64_t at = (uint64_t)p->block * FAL_TPACKET_BLOCK + p->next_at;
    struct tpacket3_hdr *h = (struct tpacket3_hdr *)(t->map + at);
    const struct sockaddr_ll *from =
        (const struct sockaddr_ll *)(t->map + at + TPACKET_ALIGN(sizeof *h));
    p->next_at += h->tp_next_offset;
    p->left--;
    if (h->tp_status & TP_STATUS_VLAN_VALID && h->tp_snaplen >= ADDRESSES)
        put_tag_back(h);
    uint32_t caplen = h->tp_snaplen < UINT16_MAX ? h->tp_snaplen : UINT16_MAX;
    *d = (struct fal_desc){
        .ts_ns = h->tp_sec * SECOND + h->tp_nsec,
        .offset = at + h->tp_mac,
        .len = h->tp_len,
        .caplen = (uint16_t)caplen,
        .flags = (uint16_t)((caplen < h->tp_len ? FAL_DESC_TRUNCATED : 0) |
                            (from->sll_pkttype == PACKET_OUTGOING ? FAL_DESC_OUTGOING : 0) |
                            (h->tp_status & TP_STATUS_CSUMNOTREADY ? FAL_DESC_CSUM_PART : 0)),
    };
}

/* ---- the rest -------------------------------------------------------------------------------- */

int fal_tpacket_send(struct fal_tpacket *t, const void *data, uint32_t size) {
    const struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = (int)t->ifindex};
    ssize_t n;
    int tries = 0;
    do /* the first ENETDOWN may be an old one, that was pending */
        n = sendto(t->fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL, (const struct sockaddr *)&to,
                   sizeof to);
    while (n < 0 && errno == ENETDOWN && !tries++);
    if (n < 0 && errno == ENXIO)
        errno = ENODEV;
    return (int)n;
}

void fal_tpacket_stats(const struct fal_tpacket *t, struct fal_tpacket_counts *counts) {
    struct tpacket_stats_v3 s;
    socklen_t size = sizeof s;
    if (getsockopt(t->fd, SOL_PACKET, PACKET_STATISTICS, &s, &size) < 0)
        return;
    /* Reading sets them to 0, in whichever process; the first counts the second, too. */
    __atomic_fetch_add(&counts->received, s.tp_packets - s.tp_drops, __ATOMIC_RELAXED);
    __atomic_fetch_add(&counts->dropped, s.tp_drops, __ATOMIC_RELAXED);
}

/* The kernel unbinds a socket whose device is removed; that it went down is a pending error, which
 * would keep the descriptor readable. */
int fal_tpacket_news(struct fal_tpacket *t) {
    struct sockaddr_ll address = {0};
    int pending;
    socklen_t size = sizeof pending, address_size = sizeof address;
    getsockopt(t->fd, SOL_SOCKET, SO_ERROR, &pending, &size);
    if (getsockname(t->fd, (struct sockaddr *)&address, &address_size) < 0)
        return 0;
    return address.sll_ifindex == (int)t->ifindex ? 0 : ENODEV;
}
