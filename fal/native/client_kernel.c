/* A device of the kernel's, by a packet socket and its fan-out: "tpacket:eth0", or plain "eth0".
 *
 * The packets of a block are described in a ring like a poller's, whose frames are the kernel's ring
 * itself; when all of them are read, the next block is.  So one block is held at a time, and the
 * rest of the client finds everything where it would if a fal-poller had put it there.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <linux/if_packet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "client_private.h"
#include "control.h"
#include "describe.h"
#include "kernel_group.h"
#include "tpacket.h"

#define RETIRE_MS 32  /* a packet is seen so long after it came, or when a block is full */
#define PER_BLOCK 32  /* a ring of n packets is one of n / 32 blocks, a frame of 4096 bytes each */
#define LEAST     64  /* blocks: a trickle fills one in RETIRE_MS, all in two seconds */
#define MOST      512 /* blocks: 64 MiB */
#define SMALLEST  96  /* bytes of a block that a packet takes at least */

/* Where the reader stands: `end` is the producer index behind what it has read so far. */
struct standing {
    struct fal_tpacket_place place;
    uint32_t end;
};

/* Which process reads may change after a fork, and it may die at any instruction: so what tells
 * where it stands is shared, and changes from one copy to the other with one store. */
struct shared {
    struct fal_cursor_page cursors;
    struct fal_ring ring;
    struct standing standing[2];
    uint32_t turn; /* & 1: the copy that holds */
    uint32_t started, joined;
    struct fal_tpacket_counts counts;
    struct fal_desc slots[];
};

struct fal_kernel_socket {
    struct fal_tpacket socket;
    struct shared *shared;
    char device[FAL_NAME_SIZE];
};

static struct fal_kernel_group group_of(const struct fal_socket *s,
                                        const struct fal_attachment *a) {
    return (struct fal_kernel_group){.group = a->group,
                                     .mode = a->mode,
                                     .filter = s->group_filter.count != 0,
                                     .program = s->group_program.instructions,
                                     .instructions = s->group_program.count};
}

/* ---- attaching ------------------------------------------------------------------------------- */

static void detach(struct fal_attachment *a) {
    if (!a->kernel)
        return;
    fal_tpacket_leave(&a->kernel->socket);
    free(a->kernel);
    a->kernel = NULL;
}

static int attach(struct fal_socket *s, struct fal_attachment *a, const char *name,
                  struct fal_error *err) {
    const struct fal_kernel_group group = group_of(s, a);
    if (fal_kernel_group_check(&group, err) < 0)
        return -1;
    uint32_t capacity = s->capacity ? s->capacity : FAL_DEFAULT_RING;
    uint32_t blocks = capacity / PER_BLOCK;
    blocks = blocks < LEAST ? LEAST : blocks < MOST ? blocks : MOST;
    uint64_t size = sizeof(struct shared) + capacity * sizeof(struct fal_desc);
    struct fal_mapping *m = a->mapping = calloc(1, sizeof *m);
    if (!m)
        return fal_fail(err, ENOMEM, "no memory for a socket");
    m->references = 1;
    struct fal_kernel_socket *k = a->kernel = calloc(1, sizeof *k);
    if (!k)
        return fal_fail(err, ENOMEM, "no memory for a socket");
    k->socket.fd = -1;
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return fal_fail(err, ENOMEM, "no memory for a ring of %u packets", capacity);
    m->cursors = (struct fal_segment){.address = memory, .size = size, .fd = -1};
    k->shared = memory;
    a->cursors = &k->shared->cursors;
    strncpy(k->device, name, sizeof k->device - 1);
    if (fal_tpacket_open(&k->socket, k->device, blocks, RETIRE_MS, true, err) < 0)
        return -1;
    m->arenas = 1;
    m->arena[0] = (struct fal_segment){
        .address = k->socket.map, .size = fal_tpacket_size(&k->socket), .fd = -1};
    a->wake = k->socket.fd;
    s->ring[s->rings++] = (struct fal_client_ring){
        .consumer = {.slots = k->shared->slots,
                     .producer = &k->shared->ring.producer,
                     .consumer = &a->cursors->cursor[0].consumer,
                     .mask = capacity - 1},
        .frames = k->socket.map,
        .frames_size = fal_tpacket_size(&k->socket),
        .most = blocks * (FAL_TPACKET_BLOCK / SMALLEST),
        .device = (uint32_t)(a - s->device),
    };
    return 0;
}

/* ---- looking --------------------------------------------------------------------------------- */

/* A device that is gone ends the socket when its last packet is read.  An error that is pending, and
 * keeps the descriptor readable, is taken away. */
static bool ended(struct fal_socket *s, struct fal_attachment *a, struct fal_error *why) {
    struct fal_kernel_socket *k = a->kernel;
    struct shared *shared = k->shared;
    (void)s;
    if (!shared->started || fal_tpacket_news(&k->socket) == 0 ||
        fal_tpacket_unread(&k->socket, &shared->standing[shared->turn & 1].place))
        return false;
    fal_fail(why, ENODEV, "%s is gone", k->device);
    return true;
}

static void stats(struct fal_socket *s, struct fal_attachment *a, struct fal_stats *stats) {
    struct fal_tpacket_counts *counts = &a->kernel->shared->counts;
    (void)s;
    fal_tpacket_stats(&a->kernel->socket, counts);
    stats->recv += fal_load_relaxed(&counts->received);
    stats->drop += fal_load_relaxed(&counts->dropped);
}

/* The kernel does not tell. */
static int32_t member(const struct fal_attachment *a) {
    (void)a;
    return -1;
}

/* ---- packets --------------------------------------------------------------------------------- */

static void pull(struct fal_socket *s, struct fal_attachment *a) {
    struct fal_consumer *r = &s->ring[a->first].consumer;
    struct fal_tpacket *t = &a->kernel->socket;
    struct shared *shared = a->kernel->shared;
    const struct standing *now = &shared->standing[shared->turn & 1];
    struct standing *next = &shared->standing[~shared->turn & 1];
    fal_store_release(&shared->ring.producer, now->end); /* who died may have left this undone */
    if (!fal_consumer_empty(r))
        return;
    *next = *now;
    uint32_t n = fal_tpacket_block(t, &next->place);
    for (uint32_t i = 0; i < n && i <= r->mask; i++) {
        struct fal_desc *d = &shared->slots[next->end++ & r->mask];
        struct fal_flow flow;
        fal_tpacket_next(t, &next->place, d);
        fal_flow(t->map + d->offset, d->caplen, FAL_HASH_SEED, FAL_HASH_FLOW, &flow);
        fal_describe(d, &flow);
    }
    fal_store_release(&shared->turn, shared->turn + 1);
    fal_store_release(&shared->ring.producer, next->end);
}

static int send_frame(struct fal_socket *s, struct fal_attachment *a, const void *frame,
                      uint32_t length, struct fal_error *err) {
    struct fal_tpacket *t = &a->kernel->socket;
    (void)s;
    if (length < FAL_MIN_SEND || length > t->max_send)
        return fal_fail(err, EMSGSIZE, "a frame of %u bytes: this device sends %d to %u", length,
                        FAL_MIN_SEND, t->max_send);
    if (fal_tpacket_send(t, frame, length) >= 0)
        return 0;
    if (errno == ENOBUFS || errno == EAGAIN)
        return fal_fail(err, EAGAIN, "too many frames are waiting to be sent");
    return fal_fail(err, errno, "cannot send on %s: %s", a->kernel->device, strerror(errno));
}

/* ---- changing -------------------------------------------------------------------------------- */

static int change(struct fal_socket *s, struct fal_attachment *a, uint32_t what,
                  struct fal_error *err) {
    const struct fal_kernel_group group = group_of(s, a);
    if (what != FAL_LEAVE && a->group >= 0 && s->devices > 1)
        return fal_fail(err, EOPNOTSUPP, "a fan-out group of the kernel's has one device");
    struct shared *shared = a->kernel->shared;
    if (what == FAL_LEAVE)
        return !shared->joined ? 0
                               : fal_fail(err, EOPNOTSUPP,
                                          "the kernel lets no socket out of its group: close it, "
                                          "and open another");
    if (what == FAL_JOIN && !shared->started)
        return fal_kernel_group_check(&group, err); /* kept until the start */
    if (!shared->started && fal_tpacket_start(&a->kernel->socket, err) < 0)
        return -1;
    shared->started = 1;
    if (a->group >= 0 && !shared->joined &&
        fal_kernel_group_join(&a->kernel->socket, &group, err) < 0)
        return -1;
    shared->joined = a->group >= 0;
    return 0;
}

const struct fal_engine fal_engine_kernel = {
    .attach = attach,
    .change = change,
    .pull = pull,
    .ended = ended,
    .send = send_frame,
    .stats = stats,
    .member = member,
    .detach = detach,
};
