/* SPDX-License-Identifier: BSD-3-Clause */
#include "sender.h"

#include <errno.h>
#include <net/ethernet.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "xsk.h"

#define QUEUE 0
#define TAG   4 /* bytes of a VLAN tag */

struct fal_sender {
    struct fal_xsk xsk;
    struct fal_xsk_umem umem;
    struct fal_sender_list list;
    uint32_t next; /* of the list */
    uint32_t mtu;
    uint32_t settled; /* in tx: up to here it is counted what became of frames */
    uint32_t free;
    uint32_t free_frame[FAL_TX_FRAMES]; /* the last one given back goes out first: it is hot */
};

static int failed(const char *device, struct fal_error *err) {
    if (errno == EBUSY)
        return fal_fail(err, EBUSY,
                        "queue %u of %s belongs to another AF_XDP socket: stop the program that "
                        "has it (fal-poller, maybe), or send by --via socket",
                        QUEUE, device);
    return fal_xsk_failed(device, QUEUE, err);
}

static int open_socket(struct fal_sender *s, const char *device, uint32_t ifindex,
                       struct fal_error *err) {
    const struct fal_xsk_entries entries = {
        .fill = FAL_XSK_UNUSED, .tx = FAL_TX_FRAMES, .done = FAL_TX_FRAMES};
    size_t size = (size_t)s->umem.frame_size * s->umem.frame_count;
    void *frames = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (frames == MAP_FAILED)
        return fal_fail(err, errno, "no memory to send from");
    s->umem.frames = frames;
    if (fal_xsk_make(&s->xsk, &entries) < 0)
        return failed(device, err);
    if (fal_xsk_register(&s->xsk, &s->umem, err) < 0)
        return -1;
    /* Zero copy would turn the queue over to the socket in both directions: the host lost its
     * packets. */
    if (fal_xsk_bind(&s->xsk, ifindex, QUEUE, XDP_COPY | XDP_USE_NEED_WAKEUP, -1) < 0)
        return failed(device, err);
    return 0;
}

struct fal_sender *fal_sender_open(const char *device, uint32_t ifindex, uint32_t mtu,
                                   const struct fal_sender_list *list, struct fal_error *err) {
    struct fal_sender *s = calloc(1, sizeof *s);
    if (!s) {
        fal_fail(err, ENOMEM, "no memory to send from");
        return NULL;
    }
    s->xsk.fd = -1;
    s->list = *list;
    s->mtu = mtu;
    s->umem.frame_size = ETH_HLEN + mtu + TAG <= 2048 ? 2048 : FAL_SENDER_LONGEST;
    s->umem.frame_count = FAL_TX_FRAMES;
    for (; s->free < FAL_TX_FRAMES; s->free++)
        s->free_frame[s->free] = s->free;
    if (open_socket(s, device, ifindex, err) < 0) {
        fal_sender_close(s);
        return NULL;
    }
    return s;
}

void fal_sender_close(struct fal_sender *s) {
    fal_xsk_close(&s->xsk);
    if (s->umem.frames)
        munmap(s->umem.frames, (size_t)s->umem.frame_size * s->umem.frame_count);
    free(s);
}

uint32_t fal_sender_limit(const uint8_t *frame, uint32_t mtu) {
    bool tagged = frame[12] == ETHERTYPE_VLAN >> 8 && frame[13] == (ETHERTYPE_VLAN & 0xff);
    return ETH_HLEN + (tagged ? TAG : 0) + mtu;
}

/* Puts at most so many frames into tx; whether one was too long. */
static bool put(struct fal_sender *s, uint32_t most, struct fal_sender_counts *counts) {
    bool too_long = false;
    for (; most > 0 && s->free > 0; most--) {
        const uint64_t *ends = s->list.ends + s->next;
        const uint8_t *data = s->list.data + ends[0];
        uint32_t length = (uint32_t)(ends[1] - ends[0]);
        s->next = s->next + 1 < s->list.count ? s->next + 1 : 0;
        if (length > fal_sender_limit(data, s->mtu) || length > s->umem.frame_size) {
            counts->too_long++;
            too_long = true;
            continue;
        }
        const uint32_t frame = s->free_frame[--s->free], size = s->umem.frame_size;
        memcpy(s->umem.frames + (size_t)frame * size, data, length);
        fal_xsk_send(&s->xsk, size, &frame, &length, 1);
    }
    return too_long;
}

/* Counts what the kernel has taken from tx since; `refused`: the last of it was not sent.  The kernel
 * need not have moved its index for that one yet. */
static bool settle(struct fal_sender *s, bool refused, struct fal_sender_counts *counts) {
    const struct xdp_desc *slots = s->xsk.tx.slots;
    uint32_t taken = fal_xsk_taken(&s->xsk);
    if ((int32_t)(taken - s->settled) < refused)
        taken = s->settled + refused;
    bool some = taken != s->settled;
    for (; s->settled != taken - refused; s->settled++) {
        counts->sent++;
        counts->sent_bytes += slots[s->settled & s->xsk.tx.mask].len;
    }
    counts->refused += refused;
    s->settled = taken;
    return some;
}

int fal_sender_send(struct fal_sender *s, uint32_t most, struct fal_sender_counts *counts) {
    s->free +=
        fal_xsk_sent(&s->xsk, s->umem.frame_size, s->free_frame + s->free, FAL_TX_FRAMES - s->free);
    uint32_t waiting = s->xsk.tx.next - s->settled;
    bool some = put(s, most > waiting ? most - waiting : 0, counts);
    int code;
    do {
        code = fal_xsk_kick(&s->xsk);
        some |= settle(s, code == EBUSY, counts);
    } while (code == EBUSY);
    if (code && code != EAGAIN && code != ENOBUFS && code != EINTR) {
        errno = code;
        return -1;
    }
    return some;
}
