/* A device of the kernel's, by a packet socket and its fan-out: "tpacket:eth0", or plain "eth0".
 *
 * The packets of a block are described in a ring like a poller's, whose frames are the kernel's ring
 * itself; when all of them are read, the next block is.  So one block is held at a time, and the
 * rest of the client finds everything where it would if a fal-poller had put it there.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "client_private.h"
#include "control.h"
#include "describe.h"
#include "modes.h"
#include "tpacket.h"

#define RETIRE_MS 32 /* a packet is seen so long after it came, or when a block is full */
#define PER_BLOCK 32 /* a ring of n packets is one of n / 32 blocks, a frame of 4096 bytes each */
#define BLOCKS    64 /* at least: a trickle fills one in RETIRE_MS, all in two seconds */

/* Which process reads may change after a fork, so all that tells where it stands is shared. */
struct shared {
    struct fal_cursor_page cursors;
    struct fal_ring ring;
    struct fal_tpacket_place place;
    struct fal_desc slots[];
};

struct fal_kernel_socket {
    struct fal_tpacket socket;
    struct shared *shared;
    char device[FAL_NAME_SIZE];
};

/* ---- fan-out --------------------------------------------------------------------------------- */

/* The kernel counts from the network header, our programs and libpcap's from the Ethernet header:
 * the loads are told so, where a program does not ask for the length. */
static int for_kernel(const struct fal_program *from, struct fal_bpf_insn *to,
                      struct fal_error *err) {
    for (uint32_t i = 0; i < from->count; i++) {
        to[i] = from->instructions[i];
        uint32_t class = BPF_CLASS(to[i].code), mode = BPF_MODE(to[i].code);
        if (class != BPF_LD && class != BPF_LDX)
            continue;
        if (mode == BPF_LEN)
            return fal_fail(err, EOPNOTSUPP,
                            "the kernel's cbpf knows no length as ours does (leave it out, or use "
                            "fal-poller)");
        if (mode == BPF_ABS || mode == BPF_IND || mode == BPF_MSH)
            to[i].k += (uint32_t)SKF_LL_OFF;
    }
    return 0;
}

/* What of our words the kernel can do.  Without a word: FAL_NOT_SUPPORTED as the mode. */
static int fanout_of(const struct fal_socket *s, struct fal_fanout *f, struct fal_error *err) {
    *f = (struct fal_fanout){FAL_NOT_SUPPORTED, 0, FAL_HASH_FLOW};
    if (s->mode[0] && fal_fanout_parse(s->mode, f, err) < 0)
        return -1;
    if (f->hash != FAL_HASH_FLOW)
        return fal_fail(
            err, EOPNOTSUPP,
            "the kernel's fan-out has no '%s' (it has hash, lb, cpu, rollover, rnd, qm, "
            "cbpf, defrag; fal-poller has all)",
            s->mode);
    if (s->group_filter.count)
        return fal_fail(err, EOPNOTSUPP,
                        "the kernel's groups have no filter: give each socket one, or use "
                        "fal-poller");
    return 0;
}

static int join(struct fal_kernel_socket *k, const struct fal_fanout *f,
                struct fal_tpacket_fanout *group, struct fal_error *err) {
    static const uint16_t flags[] = {0, FAL_FANOUT_ROLLOVER, FAL_FANOUT_DEFRAG,
                                     FAL_FANOUT_ROLLOVER | FAL_FANOUT_DEFRAG};
    group->type = (uint16_t)(f->mode | f->flags);
    if (f->mode != FAL_NOT_SUPPORTED)
        return fal_tpacket_start(&k->socket, group, err);
    /* As the group is: nobody tells, but only the right one is let in. */
    for (uint16_t i = 0; i < sizeof flags / sizeof *flags; i++)
        for (uint16_t mode = PACKET_FANOUT_HASH; mode <= PACKET_FANOUT_EBPF; mode++) {
            group->type = mode | flags[i];
            struct fal_error local = {0};
            if (fal_tpacket_start(&k->socket, group, &local) == 0)
                return 0;
            if (err)
                *err = local;
            if (local.code != EINVAL)
                return -1;
        }
    return -1;
}

static int start(struct fal_socket *s, struct fal_attachment *a, struct fal_error *err) {
    struct fal_bpf_insn program[FAL_BPF_MAX];
    struct fal_tpacket_fanout group = {.group = (uint16_t)s->group};
    struct fal_fanout f;
    if (s->group < 0)
        return fal_tpacket_start(&a->kernel->socket, NULL, err);
    if (fanout_of(s, &f, err) < 0 || for_kernel(&s->group_program, program, err) < 0)
        return -1;
    if (s->group_program.count) {
        group.program = program;
        group.instructions = (uint16_t)s->group_program.count;
    }
    return join(a->kernel, &f, &group, err);
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
    struct fal_fanout f;
    if (fanout_of(s, &f, err) < 0)
        return -1;
    uint32_t capacity = s->capacity ? s->capacity : FAL_DEFAULT_RING;
    uint32_t blocks = capacity / PER_BLOCK > BLOCKS ? capacity / PER_BLOCK : BLOCKS;
    uint64_t size = sizeof(struct shared) + capacity * sizeof(struct fal_desc);
    struct fal_mapping *m = a->mapping = calloc(1, sizeof *m);
    struct fal_kernel_socket *k = a->kernel = calloc(1, sizeof *k);
    if (!m || !k)
        return fal_fail(err, ENOMEM, "no memory for a socket");
    k->socket.fd = -1;
    m->references = 1;
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return fal_fail(err, ENOMEM, "no memory for a ring of %u packets", capacity);
    m->cursors = (struct fal_segment){.address = memory, .size = size, .fd = -1};
    k->shared = memory;
    a->cursors = &k->shared->cursors;
    strncpy(k->device, name, sizeof k->device - 1);
    if (fal_tpacket_open(&k->socket, &k->shared->place, k->device, blocks, RETIRE_MS, true, err) <
        0)
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
        .device = (uint32_t)(a - s->device),
    };
    return 0;
}

/* ---- looking --------------------------------------------------------------------------------- */

/* Packets that the socket was given, but not its reader. */
static uint32_t unread(const struct shared *shared) {
    return (uint32_t)shared->place.received - fal_load_relaxed(&shared->cursors.cursor[0].consumer);
}

/* A device that is gone ends the socket when its last block is read.  An error that is pending, and
 * keeps the descriptor readable, is taken away. */
static bool ended(struct fal_socket *s, struct fal_attachment *a, struct fal_error *why) {
    struct fal_kernel_socket *k = a->kernel;
    (void)s;
    if (!k->socket.receives || fal_tpacket_news(&k->socket) == 0)
        return false;
    fal_tpacket_stats(&k->socket);
    if (unread(k->shared))
        return false;
    fal_fail(why, ENODEV, "%s is gone", k->device);
    return true;
}

static void stats(struct fal_socket *s, struct fal_attachment *a, struct fal_stats *stats) {
    struct shared *shared = a->kernel->shared;
    (void)s;
    fal_tpacket_stats(&a->kernel->socket);
    stats->recv += shared->place.received;
    stats->drop += shared->place.dropped;
}

/* The kernel does not tell. */
static int32_t member(const struct fal_attachment *a) {
    (void)a;
    return -1;
}

/* ---- packets --------------------------------------------------------------------------------- */

static void pull(struct fal_socket *s, struct fal_attachment *a) {
    struct fal_consumer *r = &s->ring[a->first].consumer;
    struct fal_kernel_socket *k = a->kernel;
    if (!fal_consumer_empty(r))
        return;
    uint32_t n = fal_tpacket_block(&k->socket), i;
    for (i = 0; i < n && i <= r->mask; i++) {
        struct fal_desc *d = &k->shared->slots[(r->next + i) & r->mask];
        struct fal_flow flow;
        fal_tpacket_next(&k->socket, d);
        fal_flow(k->socket.map + d->offset, d->caplen, FAL_HASH_SEED, FAL_HASH_FLOW, &flow);
        fal_describe(d, &flow);
    }
    if (i)
        fal_store_release(&k->shared->ring.producer, r->next + i);
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
    struct fal_fanout f;
    if (what != FAL_LEAVE && s->group >= 0 && s->devices > 1)
        return fal_fail(err, EOPNOTSUPP, "a fan-out group of the kernel's has one device");
    if (what == FAL_START || (what == FAL_JOIN && a->kernel->socket.receives))
        return start(s, a, err);
    if (what == FAL_JOIN)
        return fanout_of(s, &f, err);
    if (a->kernel->socket.receives)
        return fal_fail(err, EOPNOTSUPP,
                        "the kernel lets no socket out of its group: close it, and open another");
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
