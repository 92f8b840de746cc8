/* SPDX-License-Identifier: BSD-3-Clause */
#include "fanout.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* ---- Modes ---- */

/* Every word that names a mode.  A mode's own name stands first among its words. */
static const struct {
    const char *word;
    int mode;
} words[] = {
    {"hash", FAL_MODE_HASH},
    {"lb", FAL_MODE_LB},
    {"cbpf", FAL_MODE_CBPF},
};

#define WORDS (sizeof words / sizeof words[0])

/* Not strcasecmp: that follows the program's locale, and these words must not. */
static bool same_word(const char *lower, const char *word) {
    for (; *lower; lower++, word++) {
        char c = *word;
        if (c >= 'A' && c <= 'Z')
            c = (char)(c - 'A' + 'a');
        if (c != *lower)
            return false;
    }
    return *word == '\0';
}

int fal_mode_parse(const char *word) {
    if (word)
        for (size_t i = 0; i < WORDS; i++)
            if (same_word(words[i].word, word))
                return words[i].mode;
    return -1;
}

const char *fal_mode_name(int mode) {
    for (size_t i = 0; i < WORDS; i++)
        if (words[i].mode == mode)
            return words[i].word;
    return NULL;
}

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
 * One loop a mode, and the choice outside of it: a packet then costs a load and a store.
 *
 * Where the other modes go.  Those that need only the descriptor are one more loop here: qm is its
 * queue modulo members, rnd draws from a generator that takes the place of `next`.  What is not in
 * a descriptor comes beside the packets as an array of the burst that the poller fills in: the CPU
 * for cpu, the program's verdict for cbpf.  rollover, as a mode or as a flag, depends on the room
 * in each ring, which changes within a burst: it is a second pass over member[], after this one. */

static void steer_hash(const uint8_t *table, const struct fal_desc *packets, uint32_t n,
                       uint8_t *member) {
    for (uint32_t i = 0; i < n; i++)
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

void fal_steer(struct fal_steering *s, const struct fal_desc *packets, uint32_t n,
               uint8_t *member) {
    switch (s->mode) {
    case FAL_MODE_HASH:
        steer_hash(s->table, packets, n, member);
        break;
    case FAL_MODE_LB:
        steer_lb(s, n, member);
        break;
    default: /* the control thread lets no other through; member 0 always exists */
        memset(member, 0, n);
    }
}
