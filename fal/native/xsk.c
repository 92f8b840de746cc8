/* SPDX-License-Identifier: BSD-3-Clause */
#include "xsk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define RETRIES 20 /* 50 ms apart: sockets and UMEMs are taken down asynchronously */

static void pause_50ms(void) {
    nanosleep(&(struct timespec){0, 50000000}, NULL);
}

/* ---- making and closing ---------------------------------------------------------------------- */

static int set(int fd, int option, uint32_t value) {
    return setsockopt(fd, SOL_XDP, option, &value, sizeof value);
}

/* Makes a ring and maps it, unless it has no entries. */
static int make_ring(struct fal_xsk_ring *r, int fd, int option, uint32_t entries, size_t slot_size,
                     const struct xdp_ring_offset *offset, uint64_t page_offset) {
    if (!entries)
        return 0;
    if (set(fd, option, entries) < 0)
        return -1;
    r->map_size = offset->desc + entries * slot_size;
    void *map = mmap(NULL, r->map_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd,
                     (off_t)page_offset);
    if (map == MAP_FAILED)
        return -1;
    r->map = map;
    r->producer = (uint32_t *)((char *)map + offset->producer);
    r->consumer = (uint32_t *)((char *)map + offset->consumer);
    r->flags = (uint32_t *)((char *)map + offset->flags);
    r->slots = (char *)map + offset->desc;
    r->mask = entries - 1;
    return 0;
}

int fal_xsk_make(struct fal_xsk *x, const struct fal_xsk_entries *entries) {
    struct xdp_mmap_offsets at;
    socklen_t n = sizeof at;
    *x = (struct fal_xsk){.fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0)};
    if (x->fd < 0 || getsockopt(x->fd, SOL_XDP, XDP_MMAP_OFFSETS, &at, &n) < 0)
        return -1;
    if (n != sizeof at) { /* the layout of before Linux 5.4 */
        errno = EOPNOTSUPP;
        return -1;
    }
    const size_t address = sizeof(uint64_t), desc = sizeof(struct xdp_desc);
    if (make_ring(&x->fill, x->fd, XDP_UMEM_FILL_RING, entries->fill, address, &at.fr,
                  XDP_UMEM_PGOFF_FILL_RING) < 0 ||
        make_ring(&x->done, x->fd, XDP_UMEM_COMPLETION_RING, entries->done, address, &at.cr,
                  XDP_UMEM_PGOFF_COMPLETION_RING) < 0 ||
        make_ring(&x->rx, x->fd, XDP_RX_RING, entries->rx, desc, &at.rx, XDP_PGOFF_RX_RING) < 0)
        return -1;
    return make_ring(&x->tx, x->fd, XDP_TX_RING, entries->tx, desc, &at.tx, XDP_PGOFF_TX_RING);
}

void fal_xsk_close(struct fal_xsk *x) {
    const struct fal_xsk_ring *rings[] = {&x->fill, &x->rx, &x->tx, &x->done};
    for (unsigned i = 0; i < sizeof rings / sizeof *rings; i++)
        if (rings[i]->map)
            munmap(rings[i]->map, rings[i]->map_size);
    if (x->fd >= 0)
        close(x->fd);
    *x = (struct fal_xsk){.fd = -1};
}

/* The kernel pins the pages and counts them as locked memory, huge pages too. */
int fal_xsk_register(const struct fal_xsk *x, const struct fal_xsk_umem *umem,
                     struct fal_error *err) {
    const struct xdp_umem_reg reg = {
        .addr = (uintptr_t)umem->frames,
        .len = (uint64_t)umem->frame_count * umem->frame_size,
        .chunk_size = umem->frame_size,
        .flags = fal_xsk_unaligned(umem->frame_size) ? XDP_UMEM_UNALIGNED_CHUNK_FLAG : 0,
    };
    struct rlimit limit;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_MEMLOCK, &limit);
    }
    getrlimit(RLIMIT_MEMLOCK, &limit);
    for (int i = 0;; i++) {
        if (setsockopt(x->fd, SOL_XDP, XDP_UMEM_REG, &reg, sizeof reg) == 0)
            return 0;
        /* Memory of this user that was just freed may still be counted. */
        if (errno != ENOBUFS || reg.len > limit.rlim_cur || i == RETRIES)
            break;
        pause_50ms();
    }
    if (errno == ENOBUFS)
        return fal_fail(err, ENOBUFS,
                        "frames of %.1f MiB exceed the limit of %.1f MiB of locked memory for this "
                        "user: raise it (ulimit -l, systemd: LimitMEMLOCK=), give CAP_IPC_LOCK, or "
                        "have fewer (fal-poller --frames)",
                        (double)reg.len / 1048576, (double)limit.rlim_cur / 1048576);
    if (errno == ENOMEM)
        return fal_fail(err, ENOMEM,
                        "the kernel has no memory to pin frames of %.1f MiB: have fewer "
                        "(fal-poller --frames)",
                        (double)reg.len / 1048576);
    return fal_fail(err, errno, "the kernel refuses the frames: %s", strerror(errno));
}

int fal_xsk_bind(const struct fal_xsk *x, uint32_t ifindex, uint32_t queue, uint16_t flags,
                 int other) {
    const struct sockaddr_xdp address = {
        .sxdp_family = AF_XDP,
        .sxdp_flags = flags,
        .sxdp_ifindex = ifindex,
        .sxdp_queue_id = queue,
        .sxdp_shared_umem_fd = flags & XDP_SHARED_UMEM ? (uint32_t)other : 0,
    };
    for (int i = 0;; i++) {
        if (bind(x->fd, (const struct sockaddr *)&address, sizeof address) == 0)
            return 0;
        if (errno != EBUSY || i == RETRIES)
            return -1;
        pause_50ms();
    }
}

int fal_xsk_failed(const char *device, uint32_t queue, struct fal_error *err) {
    switch (errno) {
    case ENODEV:
        return fal_fail(err, ENODEV, "%s was removed", device);
    case EAFNOSUPPORT:
        return fal_fail(err, EAFNOSUPPORT,
                        "this kernel is built without AF_XDP (CONFIG_XDP_SOCKETS)");
    case ENOMEM:
    case ENOBUFS:
        return fal_fail(err, errno, "the kernel has no memory for the AF_XDP socket of queue %u",
                        queue);
    }
    return fal_fail(err, errno, "cannot make the AF_XDP socket of queue %u of %s: %s", queue,
                    device, strerror(errno));
}

/* ---- sending --------------------------------------------------------------------------------- */

void fal_xsk_send(struct fal_xsk *x, uint32_t frame_size, const uint32_t *frame,
                  const uint32_t *length, uint32_t n) {
    struct xdp_desc *slots = x->tx.slots;
    for (uint32_t i = 0; i < n; i++)
        slots[(x->tx.next + i) & x->tx.mask] =
            (struct xdp_desc){.addr = (uint64_t)frame[i] * frame_size, .len = length[i]};
    x->tx.next += n;
    __atomic_store_n(x->tx.producer, x->tx.next, __ATOMIC_RELEASE);
}

uint32_t fal_xsk_taken(const struct fal_xsk *x) {
    return __atomic_load_n(x->tx.consumer, __ATOMIC_ACQUIRE);
}

/* Without a driver of its own to do it, the kernel sends in this call, some 32 frames at a time. */
int fal_xsk_kick(const struct fal_xsk *x) {
    uint32_t taken = fal_xsk_taken(x), before;
    do {
        before = taken;
        if (before == x->tx.next ||
            !(__atomic_load_n(x->tx.flags, __ATOMIC_RELAXED) & XDP_RING_NEED_WAKEUP) ||
            sendto(x->fd, NULL, 0, MSG_DONTWAIT, NULL, 0) >= 0)
            return 0;
        taken = fal_xsk_taken(x);
    } while (errno == EAGAIN && taken != before);
    return errno;
}

uint32_t fal_xsk_sent(struct fal_xsk *x, uint32_t frame_size, uint32_t *frame, uint32_t max) {
    const uint64_t *slots = x->done.slots;
    uint32_t n = __atomic_load_n(x->done.producer, __ATOMIC_ACQUIRE) - x->done.next;
    n = n < max ? n : max;
    for (uint32_t i = 0; i < n; i++)
        frame[i] = fal_xsk_frame(slots[(x->done.next + i) & x->done.mask], frame_size);
    x->done.next += n;
    __atomic_store_n(x->done.consumer, x->done.next, __ATOMIC_RELEASE);
    return n;
}
