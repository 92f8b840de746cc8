/* The single-producer single-consumer ring of descriptors, and the bell that wakes its consumer.
 * The only atomics of the data path.
 *
 * Who writes what
 *   producer index  (arena, fal_ring)      the poller
 *   slots           (arena, after it)      the poller, only those in [producer, consumer + capacity)
 *   consumer index  (cursor page)          the worker
 * Indices run freely over 32 bits; differences are taken in unsigned arithmetic, which survives the
 * wrap.  Each side keeps a private copy of both indices and looks at the other's only when it must.
 *
 * Which barrier pairs with which
 *   (a) submit: slots are written, then the producer index is stored with release;
 *       peek: the producer index is loaded with acquire, then slots (and frames) are read.
 *   (b) release: slots and frames are read, then the consumer index is stored with release;
 *       reclaim: the consumer index is loaded with acquire, then slots and frames are written anew.
 *   (c) the bell: two fences, described below.
 *
 * States of a slot, and its legal transitions
 *   free -> (reserve) -> being written -> (submit) -> full -> (release) -> read -> (reclaim) -> free
 * Prohibited: the poller never reads a slot back (a worker could not change it, but it need not be
 * asked either: what lies there the poller remembers in private memory); the worker never writes
 * one; nobody moves an index backwards; a consumer index outside [last seen, producer] is a broken
 * worker, and its membership ends.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_RING_H
#define FAL_RING_H

#include <stdbool.h>

#include "layout_check.h"

/* To fetch a line for oneself alone; what gcc makes of __builtin_prefetch(…, 1) leaves the others
 * their copies, unless told of the instruction.  AMD's 64-bit CPUs all have it; to Intel's, before they
 * had it, it was one that does nothing. */
static inline void fal_prefetch_to_write(const void *line) {
#ifdef __x86_64__
    __asm__ volatile("prefetchw %0" : : "m"(*(const char *)line));
#else
    __builtin_prefetch(line, 1);
#endif
}

/* ---- the poller's side --------------------------------------------------------------------- */

struct fal_producer {
    struct fal_desc *slots;
    uint32_t *producer;       /* in the arena */
    const uint32_t *consumer; /* in the worker's cursor page: never trusted */
    uint32_t mask;            /* capacity - 1 */
    uint32_t next;            /* slots before it are written */
    uint32_t submitted;       /* what the worker has been shown */
    uint32_t reclaimed;       /* slots before it came back */
};

static inline uint32_t fal_producer_room(const struct fal_producer *p) {
    return p->mask + 1 - (p->next - p->reclaimed);
}

static inline bool fal_producer_full(const struct fal_producer *p) {
    return p->next - p->reclaimed > p->mask;
}

/* The slot to write next, by its place; there must be room. */
static inline uint32_t fal_producer_reserve_at(struct fal_producer *p) {
    return p->next++ & p->mask;
}

static inline struct fal_desc *fal_producer_reserve(struct fal_producer *p) {
    return &p->slots[fal_producer_reserve_at(p)];
}

/* Asks for the lines of the next n slots, which the worker has, to write to them soon: a store that
 * must wait for its line holds up all that follow it. */
static inline void fal_producer_prepare(const struct fal_producer *p, uint32_t n) {
    uint32_t at = p->next & p->mask, to_end = p->mask + 1 - at;
    n = n < to_end ? n : to_end; /* a few less before the ring's end */
    const struct fal_desc *slot = &p->slots[at], *end = slot + n;
    for (; slot < end; slot += 64 / sizeof *slot)
        fal_prefetch_to_write(slot);
}

/* Shows the worker all that has been reserved.  Pairs with fal_consumer_peek. */
static inline void fal_producer_submit(struct fal_producer *p) {
    __atomic_store_n(p->producer, p->next, __ATOMIC_RELEASE); /* (a) */
    p->submitted = p->next;
}

/* How many more slots the worker has given back, or UINT32_MAX if its index is impossible.
 * Loads the index once: a worker may change it at any time.  The caller takes the frames back and
 * advances p->reclaimed. */
static inline uint32_t fal_producer_returned(const struct fal_producer *p) {
    uint32_t returned = __atomic_load_n(p->consumer, __ATOMIC_ACQUIRE) - p->reclaimed; /* (b) */
    return returned <= p->submitted - p->reclaimed ? returned : UINT32_MAX;
}

/* ---- the worker's side --------------------------------------------------------------------- */

struct fal_consumer {
    const struct fal_desc *slots;
    const uint32_t *producer; /* in the arena */
    uint32_t *consumer;       /* in the cursor page */
    uint32_t mask;
    uint32_t next; /* slots before it were given back */
    uint32_t seen; /* the producer index when last looked at */
};

static inline bool fal_consumer_empty(const struct fal_consumer *c) {
    return __atomic_load_n(c->producer, __ATOMIC_ACQUIRE) == c->next; /* afresh, not c->seen */
}

/* Descriptors that may be read, in one piece (at most up to the ring's end), at most `max`. */
static inline uint32_t fal_consumer_peek(struct fal_consumer *c, uint32_t max,
                                         const struct fal_desc **first) {
    if (c->seen == c->next)
        c->seen = __atomic_load_n(c->producer, __ATOMIC_ACQUIRE); /* (a) */
    uint32_t n = c->seen - c->next, to_end = c->mask + 1 - (c->next & c->mask);
    *first = &c->slots[c->next & c->mask];
    n = n < to_end ? n : to_end;
    return n < max ? n : max;
}

/* Gives the first n back: their frames may be overwritten from now on. */
static inline void fal_consumer_release(struct fal_consumer *c, uint32_t n) {
    c->next += n;
    __atomic_store_n(c->consumer, c->next, __ATOMIC_RELEASE); /* (b) */
}

/* ---- the bell -------------------------------------------------------------------------------
 *
 * A worker that is about to sleep arms it (seq becomes odd), and looks at its rings once more; a
 * poller that has submitted looks whether it is armed.  Each side stores, then loads what the other
 * stores, so each needs a full fence between the two: without the worker's, its look at the rings
 * can come before the arming is seen; without the poller's, its look at seq can come before the
 * packets are seen.  In both cases both sides see the old value, and the worker sleeps on packets.
 *
 * An odd seq is answered once: the poller remembers in `woken` (private) which it has answered. */

struct fal_bell {
    const uint64_t *seq; /* in the worker's cursor page */
    uint64_t woken;
};

/* The fence of the poller: once, after a burst was submitted to all rings. */
static inline void fal_bell_fence(void) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* (c) */
}

/* After the fence: whether a wake must be sent to this worker. */
static inline bool fal_bell_wanted(struct fal_bell *b) {
    uint64_t seq = __atomic_load_n(b->seq, __ATOMIC_RELAXED);
    if (!(seq & 1) || seq == b->woken)
        return false;
    b->woken = seq;
    return true;
}

/* Arms; after it the worker must look at every producer index afresh, and disarm where it finds a
 * packet. */
static inline void fal_bell_arm(uint64_t *seq) {
    uint64_t now = __atomic_load_n(seq, __ATOMIC_RELAXED);
    __atomic_store_n(seq, now + 1 + (now & 1), __ATOMIC_RELAXED); /* the next odd number */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);                      /* (c) */
}

static inline void fal_bell_disarm(uint64_t *seq) {
    uint64_t now = __atomic_load_n(seq, __ATOMIC_RELAXED);
    __atomic_store_n(seq, now + (now & 1), __ATOMIC_RELAXED);
}

/* ---- transmitting: the same ring turned round ------------------------------------------------
 *
 *   producer index, lengths, frames  (transmit area)     the worker
 *   consumer index `transmitted`     (arena, fal_ring)   the poller
 * Barriers as (a) and (b) above; the bell is the arena's transmit_seq, which the poller arms and
 * workers answer, as (c).  The poller loads each length once, and copies a frame before it looks
 * at it: the worker may write to both at any time. */

struct fal_sender {
    struct fal_transmit *area;
    const uint32_t *transmitted;
    uint32_t next;
};

static inline bool fal_sender_has_room(const struct fal_sender *s) {
    return s->next - __atomic_load_n(s->transmitted, __ATOMIC_ACQUIRE) < FAL_TX_SLOTS; /* (b) */
}

/* The slot to write next; there must be room. */
static inline uint8_t *fal_sender_reserve(const struct fal_sender *s) {
    return (uint8_t *)s->area + (1 + s->next % FAL_TX_SLOTS) * FAL_TX_SLOT_SIZE;
}

static inline void fal_sender_submit(struct fal_sender *s, uint32_t length) {
    s->area->length[s->next % FAL_TX_SLOTS] = length;
    __atomic_store_n(&s->area->producer, ++s->next, __ATOMIC_RELEASE); /* (a) */
}

struct fal_transmitter {
    const struct fal_transmit *area; /* never trusted */
    uint32_t *transmitted;
    uint32_t next;
};

/* How many frames wait, or UINT32_MAX if the worker's index is impossible. */
static inline uint32_t fal_transmitter_waiting(const struct fal_transmitter *t) {
    uint32_t n = __atomic_load_n(&t->area->producer, __ATOMIC_ACQUIRE) - t->next; /* (a) */
    return n <= FAL_TX_SLOTS ? n : UINT32_MAX;
}

static inline const uint8_t *fal_transmitter_peek(const struct fal_transmitter *t,
                                                  uint32_t *length) {
    uint32_t slot = t->next % FAL_TX_SLOTS;
    *length = __atomic_load_n(&t->area->length[slot], __ATOMIC_RELAXED);
    return (const uint8_t *)t->area + (1 + slot) * FAL_TX_SLOT_SIZE;
}

static inline void fal_transmitter_release(struct fal_transmitter *t) {
    __atomic_store_n(t->transmitted, ++t->next, __ATOMIC_RELEASE); /* (b) */
}

/* ---- a counter block under a sequence number (the status) ----------------------------------- */

static inline void fal_sequence_begin(uint64_t *sequence) {
    __atomic_store_n(sequence, *sequence + 1, __ATOMIC_RELAXED); /* odd */
    __atomic_thread_fence(__ATOMIC_RELEASE); /* the odd number before any counter */
}

static inline void fal_sequence_end(uint64_t *sequence) {
    __atomic_store_n(sequence, *sequence + 1, __ATOMIC_RELEASE); /* all counters before the even */
}

/* A reader copies between the two; the copy is of one moment if the second says so. */
static inline uint64_t fal_sequence_enter(const uint64_t *sequence) {
    return __atomic_load_n(sequence, __ATOMIC_ACQUIRE);
}

static inline bool fal_sequence_unchanged(const uint64_t *sequence, uint64_t entered) {
    __atomic_thread_fence(__ATOMIC_ACQUIRE); /* the copy before the second look */
    return !(entered & 1) && __atomic_load_n(sequence, __ATOMIC_RELAXED) == entered;
}

/* ---- words outside of the rings ----------------------------------------------- */

#define fal_load_acquire(p)        __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define fal_load_relaxed(p)        __atomic_load_n((p), __ATOMIC_RELAXED)
#define fal_store_release(p, v)    __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define fal_store_relaxed(p, v)    __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define fal_or_release(p, v)       __atomic_fetch_or((p), (v), __ATOMIC_RELEASE)
#define fal_exchange_acquire(p, v) __atomic_exchange_n((p), (v), __ATOMIC_ACQUIRE)

/* A count of users: the last to go (true) sees all that the others did. */
#define fal_count_in(p)  ((void)__atomic_fetch_add((p), 1, __ATOMIC_RELAXED))
#define fal_count_out(p) (__atomic_fetch_sub((p), 1, __ATOMIC_ACQ_REL) == 1)

/* Puts `mine` where *expected still stands; else *expected becomes what stands there. */
static inline bool fal_claim(uint32_t *word, uint32_t *expected, uint32_t mine) {
    return __atomic_compare_exchange_n(word, expected, mine, false, __ATOMIC_ACQ_REL,
                                       __ATOMIC_RELAXED);
}

#endif
