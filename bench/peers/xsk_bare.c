/* The AF_XDP socket that fal-poller has, with its rings' sizes and its XDP program, and as
 * many frames as it lends the kernel, read
 * by a bare loop: the first cache line of each packet, and the frame goes back.  No descriptors, no
 * hash, no fan-out, no worker.
 *
 *   PROGRAM CPU 1 DEVICE
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include <net/if.h>

#include "backends/xdp_program.h"
#include "layout.h"
#include "workers.h"
#include "xsk.h"

#define FRAMES FAL_RX_RING
#define BATCH  64

static void check(int result, const struct fal_error *err) {
    if (result < 0) {
        fprintf(stderr, "%s\n", err->text);
        exit(1);
    }
}

/* Reads up to a batch, and gives its frames back: in the order in which they came, into a fill ring
 * that has room for all frames. */
static uint32_t read_batch(struct fal_xsk *x, const uint8_t *frames, struct tally *t) {
    const struct xdp_desc *full = x->rx.slots;
    uint64_t *empty = x->fill.slots;
    uint32_t n = __atomic_load_n(x->rx.producer, __ATOMIC_ACQUIRE) - x->rx.next;
    n = n < BATCH ? n : BATCH;
    for (uint32_t i = 0; i < n; i++) {
        const struct xdp_desc *d = &full[(x->rx.next + i) & x->rx.mask];
        read_packet(t, frames + d->addr, d->len);
        empty[(x->fill.next + i) & x->fill.mask] = d->addr & ~(uint64_t)2047;
    }
    if (n) {
        x->rx.next += n;
        x->fill.next += n;
        __atomic_store_n(x->rx.consumer, x->rx.next, __ATOMIC_RELEASE);
        __atomic_store_n(x->fill.producer, x->fill.next, __ATOMIC_RELEASE);
    }
    return n;
}

static void work(int argc, char **argv, struct tally *t) {
    const struct fal_xsk_entries entries = {
        .fill = FRAMES, .rx = FAL_RX_RING, .done = FAL_XSK_UNUSED};
    const char *device = argc > 3 ? argv[3] : "";
    const struct fal_backend_options options = {.device = device, .mode = "native"};
    uint32_t ifindex = if_nametoindex(device);
    struct fal_xdp_program program;
    struct fal_error err = {0};
    struct fal_xsk x;
    uint8_t *frames = mmap(NULL, FRAMES * 2048, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    const struct fal_xsk_umem umem = {frames, 2048, FRAMES};
    if (frames == MAP_FAILED || fal_xsk_make(&x, &entries) < 0)
        fault(device);
    check(fal_xsk_register(&x, &umem, &err), &err);
    if (fal_xsk_bind(&x, ifindex, 0, XDP_COPY | XDP_USE_NEED_WAKEUP, -1) < 0)
        fault(device);
    for (; x.fill.next < FRAMES; x.fill.next++)
        ((uint64_t *)x.fill.slots)[x.fill.next] = (uint64_t)x.fill.next * 2048;
    __atomic_store_n(x.fill.producer, x.fill.next, __ATOMIC_RELEASE);
    check(fal_xdp_attach(&program, &options, ifindex, 1, false, &err), &err);
    if (fal_xdp_give(&program, 0, x.fd) < 0)
        fault(device);
    set_up();
    while (read_batch(&x, frames, t) || !ended)
        ;
    struct xdp_statistics lost;
    socklen_t size = sizeof lost;
    if (getsockopt(x.fd, SOL_XDP, XDP_STATISTICS, &lost, &size) < 0)
        fault("getsockopt");
    t->dropped = lost.rx_dropped + lost.rx_ring_full;
    fal_xdp_detach(&program);
    fal_xsk_close(&x);
}
