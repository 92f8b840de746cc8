/* SPDX-License-Identifier: BSD-3-Clause */
#include "poller_private.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "bpf.h"

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define SECOND  1000000000ull
#define SPIN_NS 50000ull   /* adaptive: so long before sleeping (a wake costs 20 us) */
#define NAP_NS  50000ull   /* when to look first for what wakes nobody: room, drained, sent */
#define READ_NS 8000000ull /* when to look first whether workers have read; then twice as far */

static uint64_t now_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

void fal_bump(int eventfd) {
    uint64_t one = 1;
    while (write(eventfd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

static void tell(struct fal_poller *p, uint32_t event) {
    fal_or_release(&p->device->events, event);
    fal_bump(p->device->event);
}

/* ---- frames come back ------------------------------------------------------------------------ */

static void frame_put(struct fal_poller *p, uint32_t frame) {
    p->free_frames[p->free_count++] = frame;
}

/* Its counters have changed: they are shown at the end of the round. */
static void touch(struct fal_poller *p, struct socket_ring *s) {
    if (!s->touched)
        p->touched[p->touches++] = s;
    s->touched = true;
}

/* Takes back frames that one ring held: each is free if no other holds it. */
static void take_back_frames(struct fal_poller *p, const uint32_t *restrict frame, uint32_t n) {
    uint32_t *free_frame = p->free_frames + p->free_count;
    uint16_t *references = p->references;
    if (!p->shared) { /* as they lie */
        memcpy(free_frame, frame, n * sizeof *frame);
        p->free_count += n;
        return;
    }
#pragma GCC unroll 4
    for (const uint32_t *end = frame + n; frame < end; frame++) {
        uint16_t *others = &references[*frame];
        if (*others)
            --*others;
        else
            *free_frame++ = *frame;
    }
    uint32_t freed = (uint32_t)(free_frame - (p->free_frames + p->free_count));
    p->shared -= n - freed;
    p->free_count += freed;
}

/* Takes back what lies in the next n slots; returns how many packets begin there. */
static uint32_t take_back(struct fal_poller *p, struct socket_ring *s, uint32_t n) {
    uint32_t mask = s->ring.mask, at = s->ring.reclaimed, packets = n;
    s->ring.reclaimed += n;
    if (!p->chains) {
        uint32_t to_end = mask + 1 - (at & mask), run = n < to_end ? n : to_end;
        take_back_frames(p, s->frame + (at & mask), run);
        take_back_frames(p, s->frame, n - run);
        return n;
    }
    for (; n > 0; n--, at++) {
        uint32_t slot = s->frame[at & mask], frame = slot & ~FAL_SLOT_REST;
        packets -= slot / FAL_SLOT_REST;
        if (!(slot & FAL_SLOT_SKIP))
            take_back_frames(p, &frame, 1);
    }
    return packets;
}

static bool group_has_records(const struct fal_poller *p, uint32_t group) {
    for (uint32_t i = 0; i < FAL_MAX_MEMBERS; i++)
        if (p->mine->member[i].socket && p->mine->member[i].group == group)
            return true;
    return false;
}

/* Clears a record of the status.  Its first word, which says that it is free, goes last and in one
 * piece: the control thread looks at it at any time. */
static void free_record(void *record, size_t size) {
    uint32_t *taken = record;
    memset(taken + 1, 0, size - sizeof *taken);
    fal_store_release(taken, 0);
}

/* Closes the books of a socket's oldest membership: they go to its group's account of the gone. */
static void close_membership(struct fal_poller *p, struct socket_ring *s) {
    uint32_t record = s->membership[0].record;
    struct fal_member_status *m = &p->mine->member[record];
    struct fal_group_status *g = &p->mine->group[m->group];
    uint32_t group = m->group;
    g->gone_delivered += m->delivered;
    g->gone_consumed += m->consumed;
    g->gone_abandoned += m->abandoned;
    free_record(m, sizeof *m);
    p->records_changed = true;
    if (g->live == 2 && !group_has_records(p, group))
        free_record(g, sizeof *g);
    s->used--;
    memmove(s->membership, s->membership + 1, s->used * sizeof *s->membership);
}

/* Books n packets that the worker gave back. */
static void book_consumed(struct fal_poller *p, struct socket_ring *s, uint32_t n) {
    while (s->used > 1) {
        struct membership *old = &s->membership[0];
        uint32_t k = n < old->left ? n : old->left;
        p->mine->member[old->record].consumed += k;
        old->left -= k;
        n -= k;
        if (old->left)
            return;
        close_membership(p, s);
    }
    p->mine->member[s->membership[0].record].consumed += n;
}

/* Takes all of a socket's frames back, read or not. */
static void abandon(struct fal_poller *p, struct socket_ring *s) {
    struct fal_producer *r = &s->ring;
    take_back(p, s, r->submitted - r->reclaimed);
    for (uint32_t i = 0; i < s->used; i++) {
        struct fal_member_status *m = &p->mine->member[s->membership[i].record];
        m->abandoned = m->delivered - m->consumed;
    }
}

/* An impossible index: nothing that this worker says can be believed. */
static void break_off(struct fal_poller *p, struct socket_ring *s) {
    abandon(p, s);
    s->ring.reclaimed = s->ring.next - (s->ring.mask + 1); /* no room: gets nothing more */
    fal_store_release(&s->broken, 1);
    tell(p, FAL_EVENT_BROKEN);
}

static void reclaim(struct fal_poller *p, struct socket_ring *s) {
    if (s->broken || s->ring.reclaimed == s->ring.submitted)
        return;
    uint32_t n = fal_producer_returned(&s->ring);
    if (n == 0)
        return;
    touch(p, s);
    if (n != UINT32_MAX) {
        book_consumed(p, s, take_back(p, s, n));
        return;
    }
    break_off(p, s);
}

static void reclaim_all(struct fal_poller *p) {
    for (uint32_t i = 0; i < p->plan->sockets; i++)
        reclaim(p, p->plan->socket[i]);
}

/* Whether a ring's worker is to be asked what it has read: it writes to that line all the time, and
 * each look takes it away.  So only when a sixteenth is taken; of a ring of less than 512, anything,
 * as a burst may need all of it. */
static bool due(const struct socket_ring *s) {
    return s->ring.next - s->ring.reclaimed > s->ring.mask / 256 * 16;
}

/* Before a ring gets its first packet of a round, and at no later time in it: the frames of a worker
 * that is cut off are those that it has been shown.  One that is full is looked at once. */
static __attribute__((noinline)) void catch_up(struct fal_poller *p, struct socket_ring *s) {
    if (!s->dropped)
        reclaim(p, s);
}

void fal_poller_refill(struct fal_poller *p) {
    uint32_t n = p->ops->wants(p->part);
    if (n > p->free_count)
        n = p->free_count;
    if (n) {
        p->free_count -= n;
        p->ops->refill(p->part, p->free_frames + p->free_count, n);
    }
}

/* ---- counters are shown ---------------------------------------------------------------------- */

/* The rest of a record changes with the plan alone. */
static void show_member(struct fal_member_status *to, const struct fal_member_status *from) {
    to->delivered = from->delivered;
    to->consumed = from->consumed;
    to->abandoned = from->abandoned;
    to->dropped = from->dropped;
}

static void publish_counters(struct fal_poller *p) {
    struct fal_poller_status *to = p->status, *from = p->mine;
    fal_sequence_begin(&to->sequence);
    to->received = from->received;
    to->if_dropped = from->if_dropped;
    to->sent = from->sent;
    to->send_failed = from->send_failed + p->send_failed;
    to->unparsed = from->unparsed;
    to->defrag_evicted = p->defrag.evicted;
    to->frames_free = p->free_count;
    for (uint32_t i = 0; i < p->queues; i++)
        to->queue[i].received = from->queue[i].received;
    for (uint32_t i = 0; i < p->plan->groups; i++)
        to->group[p->plan->group[i].record] = from->group[p->plan->group[i].record];
    for (uint32_t i = 0; i < p->touches; i++) {
        struct socket_ring *s = p->touched[i];
        s->touched = false;
        to->socket[s->socket - 1] = from->socket[s->socket - 1];
        for (uint32_t k = 0; k < s->used; k++)
            show_member(s->membership[k].shown, s->membership[k].books);
    }
    p->touches = 0;
    if (p->records_changed) {
        p->records_changed = false;
        to->groups = to->members = 0;
        for (uint32_t i = 0; i < FAL_GROUP_RECORDS; i++)
            if (from->group[i].live)
                to->groups = i + 1;
        for (uint32_t i = 0; i < FAL_MAX_MEMBERS; i++)
            if (from->member[i].socket)
                to->members = i + 1;
        memcpy(to->group, from->group, sizeof to->group);
        memcpy(to->member, from->member, sizeof to->member);
        memcpy(to->socket, from->socket, sizeof to->socket);
    }
    fal_sequence_end(&to->sequence);
}

/* ---- packets go out -------------------------------------------------------------------------- */

/* What came in one round, and what was found out about it. */
struct burst {
    struct fal_desc packets[FAL_BURST];
    uint32_t frame[FAL_BURST];
    uint16_t cpu[FAL_BURST];
    uint16_t missed[FAL_BURST]; /* by how many groups; 0 between rounds */
    bool misses;                /* some are by some */
    uint8_t at[FAL_BURST];      /* what a group's filter let through: where it was in the burst */
    uint32_t n;
};

/* Sets the other pieces of packets apart, so that each packet is one entry of the burst from here
 * on: its first piece. */
static void set_apart(struct fal_poller *p, struct burst *b) {
    struct pieces *others = &p->others;
    uint32_t n = b->n;
    bool more = false;
    b->n = others->n = 0;
    for (uint32_t i = 0; i < n; i++) {
        bool other = more;
        more = b->packets[i].flags & FAL_DESC_MORE;
        if (other) {
            others->piece[others->n] = b->packets[i];
            others->frame[others->n++] = b->frame[i];
        } else {
            p->rest[b->frame[i]] = (uint8_t)others->n;
            b->packets[b->n] = b->packets[i];
            b->frame[b->n] = b->frame[i];
            b->cpu[b->n++] = b->cpu[i];
        }
    }
}

/* How many pieces a packet has. */
static uint32_t pieces_of(const struct fal_poller *p, const struct fal_desc *first,
                          uint32_t frame) {
    uint32_t n = 1;
    if (first->flags & FAL_DESC_MORE)
        while (p->others.piece[p->rest[frame] + n++ - 1].flags & FAL_DESC_MORE)
            ;
    return n;
}

/* Packets of one queue come together. */
static void count_queues(struct fal_poller *p, const struct burst *b) {
    for (uint32_t i = 0, n; i < b->n; i += n) {
        uint16_t queue = b->packets[i].queue;
        for (n = p->queues == 1 ? b->n : 1; i + n < b->n && b->packets[i + n].queue == queue;)
            n++;
        while (p->mine->queue[p->queue_index].id != queue)
            p->queue_index = (p->queue_index + 1) % p->queues;
        p->mine->queue[p->queue_index].received += n;
    }
    p->mine->received += b->n;
}

static void classify(struct fal_poller *p, struct burst *b) {
    p->mine->unparsed += fal_flows(p->pool.frames, b->packets, b->n, p->hash_seed);
    count_queues(p, b);
}

/* A burst as a group hashes it that does not hash by the default: other fields, what lies deeper,
 * or a fragment as its datagram goes. */
static const struct fal_desc *hash_again(struct fal_poller *p, const struct group *g,
                                         const struct burst *b, struct fal_desc *again) {
    bool defrag = g->fanout.flags & FAL_FANOUT_DEFRAG;
    if (g->fanout.hash == FAL_HASH_FLOW && !defrag)
        return b->packets;
    memcpy(again, b->packets, b->n * sizeof *again);
    for (uint32_t i = 0; i < b->n; i++) {
        struct fal_desc *d = &again[i];
        struct fal_flow flow;
        fal_flow(p->pool.frames + d->offset, d->caplen, p->hash_seed, g->fanout.hash, &flow);
        d->hash = defrag && flow.flags & FAL_FLOW_FRAGMENT
                      ? fal_defrag(&p->defrag, g->record, &flow, d->ts_ns)
                      : flow.hash;
    }
    return again;
}

static void roll_over(struct fal_poller *p, struct group *g, const struct burst *b,
                      uint8_t *member) {
    uint8_t slots[FAL_BURST];
    uint32_t capacity[FAL_GROUP_MEMBERS], room[FAL_GROUP_MEMBERS];
    for (uint32_t i = 0; i < g->steering.members; i++) {
        if (due(g->member[i]))
            catch_up(p, g->member[i]);
        capacity[i] = g->member[i]->ring.mask + 1;
        room[i] = fal_producer_room(&g->member[i]->ring);
    }
    for (uint32_t i = 0; i < b->n; i++) /* a chain may have to begin anew in slot 0 */
        slots[i] = (uint8_t)(2 * pieces_of(p, &b->packets[i], b->frame[i]) - 1);
    fal_rollover(&g->steering, capacity, room, slots, b->n, member);
}

static inline void put_piece(struct socket_ring *s, const struct fal_desc *piece, uint32_t slot) {
    s->frame[s->ring.next & s->ring.mask] = slot;
    *fal_producer_reserve(&s->ring) = *piece;
}

/* Puts a packet in pieces into a ring whole, all pieces as the group sees the first; or not at all. */
static bool put_chain(struct fal_poller *p, struct socket_ring *s, const struct fal_desc *first,
                      uint32_t frame) {
    uint32_t at = p->rest[frame], n = pieces_of(p, first, frame);
    uint32_t to_end = s->ring.mask + 1 - (s->ring.next & s->ring.mask);
    uint32_t skipped = n > to_end ? to_end : 0;
    if (fal_producer_room(&s->ring) < skipped + n)
        return false;
    s->others += skipped + n - 1;
    while (skipped-- > 0) {
        put_piece(s, &(struct fal_desc){.flags = FAL_DESC_SKIP}, FAL_SLOT_SKIP | FAL_SLOT_REST);
    }
    put_piece(s, first, frame);
    struct fal_desc piece = *first;
    for (; piece.flags & FAL_DESC_MORE; at++) {
        const struct fal_desc *other = &p->others.piece[at];
        piece.offset = other->offset;
        piece.caplen = other->caplen;
        piece.flags = (uint16_t)((first->flags & ~(FAL_DESC_FIRST | FAL_DESC_MORE)) |
                                 (other->flags & FAL_DESC_MORE));
        put_piece(s, &piece, p->others.frame[at] | FAL_SLOT_REST);
    }
    return true;
}

/* Before a packet is put into a ring that has got none in this round. */
static inline void begin(struct fal_poller *p, struct socket_ring *s) {
    touch(p, s);
    if (unlikely(due(s)))
        catch_up(p, s);
}

/* Puts each packet of a burst into its member's ring; writes down which found no room, and returns
 * how many. */
static uint32_t put(struct fal_poller *p, struct socket_ring *const *ring, const uint8_t *member,
                    const struct fal_desc *packets, const uint32_t *frame, uint32_t n,
                    uint8_t *full) {
    uint32_t dropped = 0;
    for (uint32_t i = 0; i < n; i++, packets++) {
        struct socket_ring *s = ring[member[i]];
        struct fal_producer *r = &s->ring;
        if (r->next == r->submitted)
            begin(p, s);
        if (unlikely(fal_producer_full(r))) {
            s->dropped++;
            full[dropped++] = (uint8_t)i;
            continue;
        }
        uint32_t at = fal_producer_reserve_at(r);
        r->slots[at] = *packets;
        s->frame[at] = frame[i];
    }
    return dropped;
}

/* The same where packets may come in pieces. */
static uint32_t put_chains(struct fal_poller *p, struct socket_ring *const *ring,
                           const uint8_t *member, const struct fal_desc *packets,
                           const uint32_t *frame, uint32_t n, uint8_t *full) {
    uint32_t dropped = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct socket_ring *s = ring[member[i]];
        if (s->ring.next == s->ring.submitted)
            begin(p, s);
        if (!put_chain(p, s, &packets[i], frame[i])) {
            s->dropped++;
            full[dropped++] = (uint8_t)i;
        }
    }
    return dropped;
}

/* Mode cbpf: the verdict picks the member. */
static void run_program(struct fal_poller *p, const struct group *g, const struct burst *b,
                        uint32_t *verdict) {
    for (uint32_t i = 0; i < b->n; i++) {
        const struct fal_desc *d = &b->packets[i];
        verdict[i] = fal_bpf_run(g->program, p->pool.frames + d->offset, d->len, d->caplen);
    }
}

static void miss(struct burst *b, uint32_t i) {
    b->missed[i]++;
    b->misses = true;
}

static void deliver(struct fal_poller *p, struct group *g, struct burst *b) {
    struct fal_group_status *books = &p->mine->group[g->record];
    struct fal_desc again[FAL_BURST];
    uint32_t verdict[FAL_BURST], n = b->n, full = 0;
    uint8_t member[FAL_BURST], dropped[FAL_BURST];
    books->received += n;
    if (!g->steering.members) {
        books->drops[FAL_DROP_NO_MEMBER] += n;
        for (uint32_t i = 0; i < n; i++)
            miss(b, i);
        return;
    }
    const struct fal_desc *packets = hash_again(p, g, b, again);
    if (g->program)
        run_program(p, g, b, verdict);
    fal_steer(&g->steering,
              &(struct fal_burst){.packets = packets, .cpu = b->cpu, .verdict = verdict, .n = n},
              member);
    if (g->fanout.mode == FAL_MODE_ROLLOVER || g->fanout.flags & FAL_FANOUT_ROLLOVER)
        roll_over(p, g, b, member);
    full = (p->chains ? put_chains : put)(p, g->member, member, packets, b->frame, n, dropped);
    for (uint32_t i = 0; i < full; i++)
        miss(b, dropped[i]);
    books->drops[FAL_DROP_RING_FULL] += full;
    books->delivered += n - full;
}

/* What the group's filter lets through; the rest is booked. */
static struct burst *matching(struct fal_poller *p, const struct group *g, struct burst *b,
                              struct burst *kept) {
    struct fal_group_status *books = &p->mine->group[g->record];
    kept->n = 0;
    kept->misses = false;
    for (uint32_t i = 0; i < b->n; i++) {
        const struct fal_desc *d = &b->packets[i];
        if (!fal_bpf_run(g->filter, p->pool.frames + d->offset, d->len, d->caplen)) {
            miss(b, i);
            continue;
        }
        kept->packets[kept->n] = *d;
        kept->frame[kept->n] = b->frame[i];
        kept->cpu[kept->n] = b->cpu[i];
        kept->missed[kept->n] = 0;
        kept->at[kept->n++] = (uint8_t)i;
    }
    books->received += b->n - kept->n;
    books->filtered += b->n - kept->n;
    return kept;
}

static void submit(struct fal_poller *p) {
    for (uint32_t i = 0; i < p->touches; i++) {
        struct socket_ring *s = p->touched[i];
        uint32_t n = s->ring.next - s->ring.submitted;
        if (!(n | s->dropped))
            continue;
        struct fal_member_status *m = s->membership[s->used - 1].books;
        struct fal_socket_status *total = &p->mine->socket[s->socket - 1];
        m->delivered += n - s->others;
        m->dropped += s->dropped;
        total->delivered += n - s->others;
        total->dropped += s->dropped;
        s->dropped = s->others = 0;
        if (!n)
            continue;
        s->served = true;
        fal_producer_submit(&s->ring);
        fal_producer_prepare(&s->ring, n);
        if (due(s))
            __builtin_prefetch(s->ring.consumer);
    }
}

/* One wake a sleep, none a packet.  EAGAIN: the worker's end is readable already; short of memory:
 * again with its next packets, or tick. */
static void ring_bells(struct socket_ring **socket, uint32_t sockets) {
    fal_bell_fence();
    for (uint32_t i = 0; i < sockets; i++) {
        struct socket_ring *s = socket[i];
        if (!s->served)
            continue;
        s->served = false;
        if (fal_bell_wanted(&s->bell) && send(s->wake, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 &&
            (errno == ENOBUFS || errno == ENOMEM)) {
            s->bell.woken = 0;
            s->served = true;
        }
    }
}

static void settle_frame(struct fal_poller *p, uint32_t frame, uint32_t holders) {
    if (!holders) {
        frame_put(p, frame);
    } else {
        p->references[frame] = (uint16_t)(holders - 1);
        p->shared += holders - 1;
    }
}

/* Frames that no ring took come back; of the others it is noted how many did. */
static void settle(struct fal_poller *p, struct burst *b) {
    for (uint32_t i = 0; i < b->n; i++) {
        uint32_t frame = b->frame[i], at = p->chains ? p->rest[frame] : 0u;
        uint32_t holders = p->plan->groups - b->missed[i];
        b->missed[i] = 0;
        settle_frame(p, frame, holders);
        for (uint32_t n = pieces_of(p, &b->packets[i], frame); n > 1; n--)
            settle_frame(p, p->others.frame[at++], holders);
    }
}

static void deliver_matching(struct fal_poller *p, struct group *g, struct burst *b) {
    struct burst kept;
    deliver(p, g, matching(p, g, b, &kept));
    for (uint32_t k = 0; kept.misses && k < kept.n; k++)
        if (kept.missed[k])
            miss(b, kept.at[k]);
}

static void forward(struct fal_poller *p, struct burst *b) {
    if (p->chains)
        set_apart(p, b);
    classify(p, b);
    b->misses = false;
    for (uint32_t i = 0; i < p->plan->groups; i++) {
        struct group *g = &p->plan->group[i];
        (g->filter ? deliver_matching : deliver)(p, g, b);
    }
    submit(p);
    if (b->misses || p->plan->groups != 1) /* else each frame is in one ring */
        settle(p, b);
    ring_bells(p->touched, p->touches);
    publish_counters(p);
}

/* ---- frames to be sent ----------------------------------------------------------------------- */

static uint64_t *transmit_seq(struct fal_poller *p) {
    return &((struct fal_arena *)p->arena)->transmit_seq;
}

static void take_back_sent(struct fal_poller *p) {
    uint32_t n =
        p->sending ? p->ops->tx_done(p->part, p->free_frames + p->free_count, p->sending) : 0;
    p->free_count += n;
    p->sending -= n;
}

/* Copies up to `max` frames that a socket wants sent, and hands them to the backend.  Its worker may
 * write to them and to their lengths at any time: both are read once. */
static uint32_t send_some(struct fal_poller *p, struct socket_ring *s, uint32_t max) {
    struct fal_transmitter *t = fal_load_acquire(&s->transmitter);
    uint32_t frame[FAL_BURST], length[FAL_BURST], n = 0, taken = 0;
    if (!t || s->broken)
        return 0;
    uint32_t waiting = fal_transmitter_waiting(t);
    if (waiting == UINT32_MAX) {
        break_off(p, s);
        return 0;
    }
    waiting = waiting < max ? waiting : max;
    for (; taken < waiting && p->sending + n < FAL_TX_FRAMES && p->free_count; taken++) {
        const uint8_t *from = fal_transmitter_peek(t, &length[n]);
        if (length[n] < FAL_MIN_SEND || length[n] > p->max_send) {
            p->mine->send_failed++;
        } else {
            frame[n] = p->free_frames[--p->free_count];
            memcpy(p->pool.frames + (uint64_t)frame[n] * p->pool.frame_size, from, length[n]);
            n++;
        }
        fal_transmitter_release(t);
    }
    if (n)
        p->ops->tx_burst(p->part, frame, length, n);
    p->sending += n;
    p->mine->sent += n;
    return taken;
}

/* What a socket wanted sent before it goes: one area full, however fast its worker refills it. */
static void send_last(struct fal_poller *p, struct socket_ring *s) {
    uint32_t n, left = FAL_TX_SLOTS;
    for (; left && (n = send_some(p, s, left < FAL_BURST ? left : FAL_BURST)); left -= n)
        take_back_sent(p);
    uint32_t waiting = s->transmitter && !s->broken ? fal_transmitter_waiting(s->transmitter) : 0;
    if (waiting <= FAL_TX_SLOTS) /* more than may lie with the backend */
        p->mine->send_failed += waiting;
}

/* Whether there was something to send. */
static bool transmit(struct fal_poller *p) {
    uint32_t left = FAL_BURST, sockets = p->plan->sockets;
    if (!fal_load_acquire(&p->sends))
        return false;
    take_back_sent(p);
    for (uint32_t i = 0; i < sockets && left; i++)
        left -= send_some(p, p->plan->socket[p->next_sender++ % sockets], left);
    return left < FAL_BURST;
}

/* Asks to be woken by who transmits; false: somebody wants to already, and can. */
static bool arm_for_senders(struct fal_poller *p) {
    fal_bell_arm(transmit_seq(p));
    if (p->sending == FAL_TX_FRAMES || !p->free_count)
        return true;
    for (uint32_t i = 0; i < p->plan->sockets; i++) {
        const struct fal_transmitter *t = fal_load_acquire(&p->plan->socket[i]->transmitter);
        if (t && fal_transmitter_waiting(t) && !p->plan->socket[i]->broken)
            return false;
    }
    return true;
}

/* Edge-triggered: a worker that shuts its end, or fills it, keeps nobody awake. */
static void hear_senders(struct fal_poller *p) {
    struct epoll_event event[16];
    char bytes[4096];
    int n = epoll_wait(p->senders, event, 16, 0);
    for (int i = 0; i < n; i++) /* once: whoever sends on and on is an edge on and on, no more */
        (void)!recv(event[i].data.fd, bytes, sizeof bytes, MSG_DONTWAIT);
}

/* ---- a new plan ------------------------------------------------------------------------------ */

bool fal_plan_has(const struct plan *plan, const struct socket_ring *s) {
    for (uint32_t i = 0; i < plan->sockets; i++)
        if (plan->socket[i] == s)
            return true;
    return false;
}

static struct group *find_group(struct plan *plan, uint32_t record) {
    for (uint32_t i = 0; i < plan->groups; i++)
        if (plan->group[i].record == record)
            return &plan->group[i];
    return NULL;
}

static void enter(struct fal_poller *p, struct socket_ring *s, const struct fal_plan_member *m,
                  uint32_t group, int32_t number) {
    struct membership *last = s->used ? &s->membership[s->used - 1] : NULL;
    struct fal_member_status *books = &p->mine->member[m->record];
    if (!last || last->record != m->record) {
        memset(books, 0, sizeof *books);
        s->membership[s->used++] = (struct membership){
            .record = m->record, .books = books, .shown = &p->status->member[m->record]};
        if (last) {
            struct fal_member_status *old = &p->mine->member[last->record];
            last->left = (uint32_t)(old->delivered - old->consumed - old->abandoned);
            old->number = -2;
            book_consumed(p, s, 0); /* closes it at once if nothing of it is unread */
        }
    }
    books->socket = s->socket;
    books->group = group;
    books->number = number;
    books->pid = m->pid;
    books->ring = s->ring.mask + 1;
}

void fal_poller_adopt(struct fal_poller *p, struct plan *plan) {
    struct plan *old = p->plan;
    reclaim_all(p); /* what was read until now belongs to what was until now */
    for (uint32_t i = 0; i < old->sockets; i++) {
        struct socket_ring *s = old->socket[i];
        if (fal_plan_has(plan, s))
            continue;
        send_last(p, s);
        if (!s->broken)
            abandon(p, s);
        while (s->used)
            close_membership(p, s);
        memset(&p->mine->socket[s->socket - 1], 0, sizeof *p->mine->socket);
    }
    for (uint32_t i = 0; i < old->groups; i++)
        if (!find_group(plan, old->group[i].record))
            p->mine->group[old->group[i].record].live = 2;

    const struct fal_plan_member *m = plan->member;
    for (uint32_t i = 0; i < plan->groups; i++) {
        struct group *g = &plan->group[i], *before = find_group(old, g->record);
        struct fal_group_status *books = &p->mine->group[g->record];
        if (before) {
            g->steering.next = before->steering.next;
            memcpy(g->steering.elsewhere, before->steering.elsewhere, sizeof g->steering.elsewhere);
        } else
            *books = (struct fal_group_status){.live = 1};
        books->id = plan->about[i].id;
        books->fanout = plan->about[i].fanout;
        for (uint32_t k = 0; k < plan->about[i].started + plan->about[i].admitted; k++, m++)
            enter(p, &p->sockets[m->socket - 1], m, g->record,
                  k < plan->about[i].started ? (int32_t)k : -1);
    }
    for (uint32_t i = 0; i < FAL_GROUP_RECORDS; i++)
        if (p->mine->group[i].live == 2 && !group_has_records(p, i))
            free_record(&p->mine->group[i], sizeof p->mine->group[i]);
    p->plan = plan;
    p->records_changed = true;
    publish_counters(p);
}

/* ---- the loop -------------------------------------------------------------------------------- */

static void tick(struct fal_poller *p) {
    struct fal_backend_stats stats = {0};
    p->ops->stats(p->part, &stats);
    p->mine->if_dropped = stats.if_dropped;
    p->send_failed = stats.send_failed;
    reclaim_all(p);
    ring_bells(p->plan->socket, p->plan->sockets);
    publish_counters(p);
}

static bool drained(struct fal_poller *p) {
    reclaim_all(p);
    for (uint32_t i = 0; i < p->plan->sockets; i++)
        if (!p->plan->socket[i]->broken &&
            p->plan->socket[i]->ring.reclaimed != p->plan->socket[i]->ring.submitted)
            return false;
    return true;
}

/* Sleeps until there is a packet, a word from the control thread, or `until`. */
static void sleep_until(struct fal_poller *p, uint64_t until) {
    struct pollfd fds[2 + FAL_BACKEND_POLLFDS] = {{.fd = p->kick, .events = POLLIN},
                                                  {.fd = p->senders, .events = POLLIN}};
    uint32_t n = 0;
    if (fal_load_relaxed(&p->begun) && !p->over && !p->full) {
        n = p->ops->wait(p->part, fds + 2, FAL_BACKEND_POLLFDS);
        if (!n) { /* a source that cannot wake us */
            sched_yield();
            return;
        }
    }
    uint64_t now = now_ns(CLOCK_MONOTONIC);
    struct timespec left = {0};
    if (until > now)
        left = (struct timespec){(time_t)((until - now) / SECOND), (long)((until - now) % SECOND)};
    if (!arm_for_senders(p)) {
        sched_yield();
    } else if (ppoll(fds, 2 + n, &left, NULL) > 0) {
        uint64_t word;
        if (fds[0].revents)
            (void)!read(p->kick, &word, sizeof word);
        if (fds[1].revents)
            hear_senders(p);
    }
    fal_bell_disarm(transmit_seq(p));
}

/* How long to sleep before the next look for what wakes nobody: a part of how long it has not come, so
 * that who is slow is hardly kept waiting, and who has stopped costs hardly anything. */
static uint64_t nap(uint64_t idle) {
    uint64_t ns = idle / 8;
    return ns < NAP_NS ? NAP_NS : ns < READ_NS ? ns : READ_NS;
}

static void take_in_pending(struct fal_poller *p) {
    struct plan *plan = fal_load_acquire(&p->pending);
    if (!plan)
        return;
    fal_poller_adopt(p, plan);
    fal_store_relaxed(&p->pending, NULL);
    fal_bump(p->taken); /* the write orders all that was done before it */
}

/* How many packets the source may be asked for: of one that must lose nothing no more than every
 * ring has room for. */
static uint32_t wanted(struct fal_poller *p) {
    uint32_t most = FAL_BURST;
    for (uint32_t i = 0; p->device->facts.lossless && i < p->plan->sockets; i++) {
        struct socket_ring *s = p->plan->socket[i];
        if (fal_producer_room(&s->ring) < FAL_BURST)
            reclaim(p, s);
        uint32_t room = fal_producer_room(&s->ring);
        if (!s->broken && room < most)
            most = room;
    }
    return most;
}

static int loop(struct fal_poller *p, struct fal_error *err) {
    struct burst burst = {0};
    uint64_t now = now_ns(CLOCK_MONOTONIC), next_tick = now, idle_since = 0, look = READ_NS;
    bool told_drained = false;

    while (!fal_load_acquire(&p->stop)) {
        take_in_pending(p);
        int n = 0;
        bool begun = fal_load_acquire(&p->begun);
        uint32_t most = begun && !p->over ? wanted(p) : 0;
        p->full = begun && !p->over && !most;
        if (most) {
            n = p->ops->rx_burst(p->part, burst.packets, burst.frame, burst.cpu, most);
            if (n < 0 && errno == ENODATA)
                p->over = true;
            else if (n < 0 && p->ops->why)
                return fal_fail(err, errno, "%s: %s", p->device->options.source.device,
                                p->ops->why(p->part));
            else if (n < 0)
                return fal_fail(err, errno, "%s is gone: %s", p->device->options.source.device,
                                strerror(errno));
        }
        if (n > 0) {
            burst.n = (uint32_t)n;
            forward(p, &burst);
        }
        bool busy = transmit(p) || n > 0;
        now = now_ns(CLOCK_MONOTONIC);
        if (now >= next_tick) {
            tick(p);
            next_tick = now + SECOND;
        }
        if (busy) {
            idle_since = 0;
        } else if (!idle_since) {
            idle_since = now;
            reclaim_all(p);
            look = READ_NS;
        } else if (!p->free_count) { /* the backend may be waiting for frames */
            reclaim_all(p);
        }
        fal_poller_refill(p);
        if (busy)
            continue;
        if (p->over && !told_drained && drained(p)) {
            publish_counters(p);
            told_drained = true;
            if (fal_count_out(&p->device->undrained))
                tell(p, FAL_EVENT_DRAINED);
        }
        if ((p->over && !told_drained) || (p->full && p->idle != FAL_IDLE_SPIN))
            sleep_until(p, now + nap(now - idle_since));
        else if (p->idle == FAL_IDLE_SLEEP || p->over || !begun ||
                 (p->idle == FAL_IDLE_ADAPTIVE && now - idle_since > SPIN_NS)) {
            uint64_t until = p->sending ? now + nap(now - idle_since) : next_tick;
            if (!drained(p) && now + look < until) {
                until = now + look; /* the books follow who still reads; wakes are not sent again */
                look *= 2;
            }
            fal_poller_refill(p);
            publish_counters(p);
            sleep_until(p, until);
        } else {
            sched_yield(); /* a worker on the same core must not wait for the end of our time slice
                            */
        }
    }
    return 0;
}

static int pin(int32_t cpu, struct fal_error *err) {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (cpu < 0)
        return 0;
    CPU_SET((unsigned)cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) < 0) /* 0: this thread alone */
        return fal_fail(err, errno, "cannot run on CPU %d: %s (see --cpus)", cpu, strerror(errno));
    return 0;
}

int fal_poller_run(struct fal_poller *p, struct fal_error *err) {
    int result = pin(p->cpu, err);
    if (result == 0) {
        pthread_mutex_lock(&p->lock);
        p->running = true;
        pthread_mutex_unlock(&p->lock);
        result = loop(p, err);
        pthread_mutex_lock(&p->lock);
        take_in_pending(p);
        for (uint32_t i = 0; result == 0 && i < p->plan->sockets; i++)
            send_last(p, p->plan->socket[i]);
        tick(p);
        p->running = false; /* from now on the control thread adopts plans itself */
        pthread_mutex_unlock(&p->lock);
    }
    if (result < 0)
        tell(p, FAL_EVENT_FAILED);
    return result;
}
