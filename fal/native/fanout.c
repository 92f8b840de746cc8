/* SPDX-License-Identifier: BSD-3-Clause */
#include "fanout.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* ---- Buckets ----
 *
 * A Maglev table.  Every member has a list of all buckets in the order in which it would like them.
 * Members take turns; at its turn a member takes the first bucket on its list that nobody has yet.
 *
 * Two departures from the paper.  The list is a full shuffle keyed by the member's id, where the
 * paper steps through the table by a fixed skip: two members with an unlucky pair of skips run
 * after one another, and then far more buckets move than need to.  And turns go by id rather than
 * by number, since numbers differ between pollers (members may have come in another order) and
 * change when a member leaves.
 *
 * The shuffle is done lazily, one step of Fisher-Yates for each bucket looked at: what a member
 * never gets to need not be shuffled.  All members together look at some 160,000 buckets (16,384
 * times its logarithm) at most, however many they are; with equal ids, n * 16,384.
 *
 * The result is part of what pollers agree on: another generator, order or step is another table.
 * Pollers of two versions at one socket would then part the two directions of a flow. */

struct member {
    uint64_t id;
    uint64_t state;  /* of its generator */
    uint16_t *list;  /* all buckets; in their final order up to `looked` */
    uint32_t looked; /* how many of them it has looked at */
    uint32_t number;
};

/* splitmix64's finalizer: every bit of x acts upon every bit of the result, one to one. */
static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* The next bucket on m's list.  Must not be called more than FAL_BUCKETS times. */
static uint32_t next_bucket(struct member *m) {
    uint32_t i = m->looked++;
    m->state += 0x9e3779b97f4a7c15u;
    /* Of the buckets left, one at random.  Scaling 32 random bits rather than taking a remainder
     * leaves a bias of at most FAL_BUCKETS / 2^32. */
    uint64_t left = FAL_BUCKETS - i;
    uint32_t j = i + (uint32_t)(((mix(m->state) >> 32) * left) >> 32);
    uint16_t bucket = m->list[j];
    m->list[j] = m->list[i];
    m->list[i] = bucket;
    return bucket;
}

static int by_id(const void *a, const void *b) {
    const struct member *x = a, *y = b;
    if (x->id != y->id)
        return x->id < y->id ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

int fal_buckets_build(const uint64_t *ids, uint32_t n, uint8_t *table) {
    if (n < 1 || n > FAL_GROUP_MEMBERS) {
        errno = EINVAL;
        return -1;
    }
    size_t list_size = FAL_BUCKETS * sizeof(uint16_t);
    struct member *members = malloc(n * sizeof *members);
    uint16_t *lists = malloc(n * list_size);
    bool *taken = calloc(FAL_BUCKETS, sizeof *taken);
    int result = -1;
    if (!members || !lists || !taken)
        goto out; /* errno is malloc's */

    for (uint32_t b = 0; b < FAL_BUCKETS; b++)
        lists[b] = (uint16_t)b;
    for (uint32_t i = 0; i < n; i++) {
        uint16_t *list = lists + (size_t)i * FAL_BUCKETS;
        if (i > 0)
            memcpy(list, lists, list_size);
        /* The id is mixed first: ids that lie a multiple of the generator's step apart would
         * otherwise give the same sequence, only shifted. */
        members[i] = (struct member){.id = ids[i], .state = mix(ids[i]), .list = list, .number = i};
    }
    qsort(members, n, sizeof *members, by_id);

    for (uint32_t dealt = 0, turn = 0; dealt < FAL_BUCKETS; dealt++) {
        struct member *m = &members[turn];
        uint32_t b;
        /* Ends: a bucket that is free now was free whenever m looked before, so m, who takes the
         * first free one it sees, has not looked at it yet. */
        do
            b = next_bucket(m);
        while (taken[b]);
        taken[b] = true;
        table[b] = (uint8_t)m->number;
        turn = turn + 1 == n ? 0 : turn + 1;
    }
    result = 0;
out:
    free(taken);
    free(lists);
    free(members);
    return result;
}

/* ---- Steering ----
 *
 * One loop a mode, and the choice outside of it: a packet then costs a load and a store, but for
 * the division where something is taken modulo members. */

static void steer_hash(const uint8_t *table, const struct fal_burst *b, uint8_t *restrict member) {
    const struct fal_desc *packets = b->packets;
#pragma GCC unroll 4
    for (uint32_t i = 0, n = b->n; i < n; i++)
        member[i] = table[packets[i].hash >> FAL_BUCKET_SHIFT];
}

/* `next` counts on for ever, as the kernel's counter does, so that members who come or go do not
 * start the round anew.  One division a burst, not one a packet. */
static void steer_lb(struct fal_steering *s, uint32_t n, uint8_t *member) {
    uint32_t turn = (uint32_t)(s->next % s->members);
    s->next += n;
    for (uint32_t i = 0; i < n; i++) {
        member[i] = (uint8_t)turn;
        turn = turn + 1 == s->members ? 0 : turn + 1;
    }
}

/* Scaled as in next_bucket(). */
static void steer_rnd(struct fal_steering *s, uint32_t n, uint8_t *member) {
    for (uint32_t i = 0; i < n; i++) {
        s->next += 0x9e3779b97f4a7c15u;
        member[i] = (uint8_t)(((mix(s->next) >> 32) * s->members) >> 32);
    }
}

static void steer_qm(uint32_t members, const struct fal_burst *b, uint8_t *member) {
    for (uint32_t i = 0; i < b->n; i++)
        member[i] = (uint8_t)(b->packets[i].queue % members);
}

static void steer_cpu(uint32_t members, const struct fal_burst *b, uint8_t *member) {
    for (uint32_t i = 0; i < b->n; i++)
        member[i] = (uint8_t)(b->cpu[i] % members);
}

static void steer_cbpf(uint32_t members, const struct fal_burst *b, uint8_t *member) {
    for (uint32_t i = 0; i < b->n; i++)
        member[i] = (uint8_t)(b->verdict[i] % members);
}

void fal_steer(struct fal_steering *s, const struct fal_burst *b, uint8_t *member) {
    switch (s->mode) {
    case FAL_MODE_HASH:
        steer_hash(s->table, b, member);
        return;
    case FAL_MODE_LB:
        steer_lb(s, b->n, member);
        return;
    case FAL_MODE_RND:
        steer_rnd(s, b->n, member);
        return;
    case FAL_MODE_QM:
        steer_qm(s->members, b, member);
        return;
    case FAL_MODE_CPU:
        if (!b->cpu)
            break;
        steer_cpu(s->members, b, member);
        return;
    case FAL_MODE_CBPF:
        if (!b->verdict)
            break;
        steer_cbpf(s->members, b, member);
        return;
    }
    memset(member, 0, b->n); /* rollover begins with any; member 0 always exists */
}

/* ---- Rollover ----
 *
 * As in the kernel: a member's packets go on to where they went last, for as long as there is more
 * than a quarter of that ring free.  The last quarter is for its owner's own packets. */

/* The first member from `from` on, round the group, with more than that share of its ring free, and
 * so many slots; members: there is none. */
static uint32_t with_room(uint32_t members, const uint32_t *capacity, const uint32_t *room,
                          uint32_t from, uint32_t quarters, uint32_t slots) {
    uint32_t i = from < members ? from : members - 1; /* there were more of them */
    for (uint32_t seen = 0; seen < members; seen++) {
        if (room[i] >= slots && (uint64_t)room[i] * 4 > (uint64_t)capacity[i] * quarters)
            return i;
        i = i + 1 == members ? 0 : i + 1;
    }
    return members;
}

void fal_rollover(struct fal_steering *s, const uint32_t *capacity, uint32_t *room,
                  const uint8_t *slots, uint32_t n, uint8_t *member) {
    bool fill = s->mode == FAL_MODE_ROLLOVER;
    for (uint32_t i = 0; i < n; i++) {
        uint8_t *at = &s->elsewhere[fill ? 0 : member[i]];
        if (fill || room[member[i]] < slots[i]) {
            uint32_t to = with_room(s->members, capacity, room, *at, 1, slots[i]);
            if (to < s->members)
                *at = (uint8_t)to;
            else if (fill) /* all are backlogged: whoever can take it at all */
                to = with_room(s->members, capacity, room, *at, 0, slots[i]);
            if (to < s->members)
                member[i] = (uint8_t)to;
        }
        room[member[i]] -= room[member[i]] < slots[i] ? room[member[i]] : slots[i];
    }
}
