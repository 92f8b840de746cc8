/* Who holds which frame, in the poller, which is looked into: sockets of their own and groups, with
 * filters, overflow and nobody in them, who come and go; workers that read when they like, and one
 * that lies.  After each step every frame is free once, or lies in as many rings as is noted.
 * SPDX-License-Identifier: BSD-3-Clause */
#include "../../fal/native/poller.c"

#include <linux/filter.h>
#include <stdlib.h>

#include "check.h"

#define SOCKETS FAL_MAX_SOCKETS
#define EMPTY   FAL_MAX_GROUPS /* groups that have no member, besides */
#define RING    FAL_MIN_RING
#define FRAME   64
#define FRAMES  (FAL_BURST + SOCKETS * RING)

static struct fal_poller *p;
static struct fal_desc slots[SOCKETS][RING];
static uint32_t producer[SOCKETS], consumer[SOCKETS];
static struct burst burst;
static uint32_t aim = SOCKETS; /* packets pass one group's filter, or by chance */
static uint64_t seed = 1;

static uint32_t below(uint32_t n) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33) % n;
}

/* ---- plans ----------------------------------------------------------------------------------- */

/* So many members of each group, in the order of the sockets; a group without a socket is left out.
 * Group i has a filter if `filters`: a packet passes if byte i % FRAME of it is not 0. */
static struct plan *make_plan(const bool *here, uint32_t members, uint32_t empty, uint32_t flags,
                              bool filters) {
    struct plan *plan = calloc(1, sizeof *plan);
    plan->group = calloc(SOCKETS + EMPTY, sizeof *plan->group);
    plan->about = calloc(SOCKETS + EMPTY, sizeof *plan->about);
    plan->member = calloc(SOCKETS, sizeof *plan->member);
    for (uint32_t i = 0; i < SOCKETS + empty; i++) {
        bool socket = i < SOCKETS;
        uint32_t record = socket ? i / members : i;
        if (socket && !here[i])
            continue;
        if (!plan->groups || plan->group[plan->groups - 1].record != record) {
            struct group *g = &plan->group[plan->groups];
            g->record = record;
            g->fanout = plan->about[plan->groups].fanout =
                (struct fal_fanout){FAL_MODE_LB, flags, FAL_HASH_FLOW};
            g->steering = (struct fal_steering){.mode = FAL_MODE_LB};
            if (filters) {
                g->filter = calloc(2, sizeof *g->filter);
                g->filter[0] =
                    (struct fal_bpf_insn){BPF_LD | BPF_B | BPF_ABS, 0, 0, record % FRAME};
                g->filter[1] = (struct fal_bpf_insn){BPF_RET | BPF_A, 0, 0, 0};
            }
            plan->groups++;
        }
        if (socket) {
            struct group *g = &plan->group[plan->groups - 1];
            g->member[g->steering.members++] = &p->sockets[i];
            plan->about[plan->groups - 1].started++;
            plan->member[plan->sockets] =
                (struct fal_plan_member){.socket = i + 1, .record = i, .pid = 1};
            plan->socket[plan->sockets++] = &p->sockets[i];
        }
    }
    return plan;
}

static void free_plan(struct plan *plan) {
    for (uint32_t i = 0; i < plan->groups; i++)
        free(plan->group[i].filter);
    free(plan->group);
    free(plan->about);
    free(plan->member);
    free(plan);
}

static void adopt(struct plan *plan) {
    static const uint64_t never;
    struct plan *old = p->plan;
    for (uint32_t i = 0; i < plan->sockets; i++) {
        struct socket_ring *s = plan->socket[i];
        uint32_t k = (uint32_t)(s - p->sockets);
        if (fal_plan_has(old, s))
            continue;
        producer[k] = consumer[k] = 0;
        *s = (struct socket_ring){.ring = {slots[k], &producer[k], &consumer[k], RING - 1, 0, 0, 0},
                                  .bell.seq = &never,
                                  .frame = calloc(RING, sizeof *s->frame),
                                  .socket = k + 1};
    }
    fal_poller_adopt(p, plan);
    for (uint32_t i = 0; i < old->sockets; i++)
        if (!fal_plan_has(plan, old->socket[i])) {
            free(old->socket[i]->frame);
            memset(old->socket[i], 0xff, sizeof *old->socket[i]); /* not to be touched any more */
        }
    free_plan(old);
}

/* ---- packets --------------------------------------------------------------------------------- */

static void receive(uint32_t pieces) {
    for (uint32_t i = 0; i < pieces; i++, burst.n++) {
        uint32_t frame = burst.frame[burst.n] = p->free_frames[--p->free_count];
        uint8_t *bytes = p->pool.frames + frame * FRAME;
        for (uint32_t k = 0; k < FRAME; k++)
            bytes[k] = aim < SOCKETS ? k == aim : (uint8_t)below(2);
        burst.packets[burst.n] = (struct fal_desc){.offset = frame * FRAME,
                                                   .len = FRAME,
                                                   .caplen = FRAME,
                                                   .flags = i + 1 < pieces ? FAL_DESC_MORE : 0};
    }
}

static void receive_some(uint32_t most) {
    burst.n = 0;
    for (;;) {
        uint32_t pieces = p->chains && !below(8) ? 1 + below(FAL_MAX_PIECES) : 1;
        if (burst.n + pieces > most || pieces > p->free_count)
            return;
        receive(pieces);
    }
}

static void read_all(uint32_t socket) {
    consumer[socket] = producer[socket];
}

/* ---- what must hold -------------------------------------------------------------------------- */

static void check_frames(void) {
    static uint16_t holders[FRAMES];
    static bool is_free[FRAMES];
    uint32_t shared = 0;
    memset(holders, 0, sizeof holders);
    memset(is_free, 0, sizeof is_free);
    for (uint32_t i = 0; i < p->plan->sockets; i++) {
        const struct socket_ring *s = p->plan->socket[i];
        CHECK(s->ring.next == s->ring.submitted && !s->dropped && !s->others);
        for (uint32_t k = s->ring.reclaimed; !s->broken && k != s->ring.submitted; k++)
            if (!(s->ring.slots[k % RING].flags & FAL_DESC_SKIP))
                holders[s->ring.slots[k % RING].offset / FRAME]++;
    }
    CHECK(p->free_count <= FRAMES);
    for (uint32_t i = 0; i < p->free_count; i++) {
        CHECK(!is_free[p->free_frames[i]]);
        is_free[p->free_frames[i]] = true;
    }
    for (uint32_t i = 0; i < FRAMES; i++) {
        CHECK(is_free[i] == !holders[i]);
        CHECK(p->references[i] == (holders[i] ? holders[i] - 1 : 0));
        shared += p->references[i];
    }
    CHECK(p->shared == shared);
}

static void check_books(void) {
    for (uint32_t i = 0; i < p->plan->groups; i++) {
        const struct fal_group_status *g = &p->mine->group[p->plan->group[i].record];
        uint64_t drops = 0;
        for (uint32_t k = 0; k < sizeof g->drops / sizeof *g->drops; k++)
            drops += g->drops[k];
        CHECK(g->received == g->filtered + g->delivered + drops);
    }
    for (uint32_t i = 0; i < p->plan->sockets; i++) {
        const struct socket_ring *s = p->plan->socket[i];
        const struct fal_member_status *m = s->membership[0].books;
        uint64_t in_ring = 0;
        for (uint32_t k = s->ring.reclaimed; !s->broken && k != s->ring.submitted; k++)
            in_ring += (s->ring.slots[k % RING].flags & FAL_DESC_FIRST) != 0;
        CHECK(s->used == 1 && m->delivered == m->consumed + in_ring + m->abandoned);
    }
}

static void check(void) {
    check_frames();
    check_books();
}

static void forward_some(uint32_t most) {
    receive_some(most);
    forward(p, &burst);
    check();
}

/* ---- the tests ------------------------------------------------------------------------------- */

/* All hold a frame, then none can take any; and they give back in any order. */
static void test_all_and_none(void) {
    bool here[SOCKETS];
    uint32_t order[SOCKETS];
    memset(here, true, sizeof here);
    adopt(make_plan(here, 1, EMPTY, 0, false));
    CHECK(p->plan->groups == SOCKETS + EMPTY);
    for (uint32_t round = 0; round < 10; round++) {
        forward_some(RING);
        CHECK(p->free_count + RING == FRAMES && p->shared == RING * (SOCKETS - 1));
        forward_some(FAL_BURST);
        CHECK(p->free_count + RING == FRAMES);
        for (uint32_t i = 0; i < SOCKETS; i++) {
            uint32_t k = below(i + 1);
            order[i] = order[k];
            order[k] = i;
        }
        for (uint32_t i = 0; i < SOCKETS; i++) {
            CHECK(p->shared == RING * (SOCKETS - 1 - i));
            read_all(order[i]);
            reclaim(p, &p->sockets[order[i]]);
            check();
        }
        CHECK(p->free_count == FRAMES && !p->shared);
    }
}

static void test_nobody(void) {
    bool here[SOCKETS] = {0};
    adopt(make_plan(here, 1, 0, 0, false));
    CHECK(!p->plan->groups);
    forward_some(FAL_BURST);
    CHECK(p->free_count == FRAMES);
}

/* Groups of one to three, of few sockets so that it often is one ring, or of many. */
static void test_any(uint32_t rounds) {
    bool here[SOCKETS] = {0};
    for (uint32_t round = 0; round < rounds; round++) {
        if (round % 400 == 0)
            test_nobody(); /* the groups are other ones now */
        if (round % 40 == 0) {
            uint32_t most = below(4) ? 1 + below(8) : 1 + below(SOCKETS);
            for (uint32_t i = 0; i < SOCKETS; i++)
                here[i] = i < most && below(3);
            adopt(make_plan(here, 1 + round / 400 % 3, below(2) * below(4),
                            below(2) ? FAL_FANOUT_ROLLOVER : 0, below(2)));
            check();
        }
        forward_some(1 + below(FAL_BURST));
        for (uint32_t i = 0; i < p->plan->sockets; i++) {
            uint32_t k = (uint32_t)(p->plan->socket[i] - p->sockets);
            if (consumer[k] == producer[k] + 1 || p->plan->socket[i]->broken || below(3))
                continue;
            consumer[k] += below(producer[k] - consumer[k] + 1);
            if (!below(100))
                consumer[k] = producer[k] + 1;
            if (below(2))
                reclaim(p, p->plan->socket[i]);
        }
        check();
    }
    test_nobody();
}

static void forward_to(uint32_t socket, uint32_t n) {
    aim = socket;
    forward_some(n);
    aim = SOCKETS;
}

static bool two[SOCKETS] = {true, true};

/* A ring that a worker has read is empty, however long others had all the packets. */
static void test_who_has_read_has_room(void) {
    test_nobody();
    adopt(make_plan(two, 1, 0, 0, true));
    for (uint32_t round = 0; round < 10; round++) {
        uint64_t dropped = p->mine->member[0].dropped;
        forward_to(0, RING);
        CHECK(p->mine->member[0].dropped == dropped && producer[0] == consumer[0] + RING);
        forward_to(0, 2);
        CHECK(p->mine->member[0].dropped == dropped + 2);
        forward_to(1, 10);
        read_all(0);
        read_all(1);
        forward_to(1, 10);
    }
}

/* ... and its packets flow over no more. */
static void test_who_has_read_gets_its_own(void) {
    test_nobody();
    adopt(make_plan(two, 2, 0, FAL_FANOUT_ROLLOVER, false));
    for (uint32_t round = 0; round < 10; round++) {
        while (producer[0] - consumer[0] < RING) {
            forward_some(16);
            read_all(1);
        }
        forward_some(16);
        CHECK(producer[1] == consumer[1] + 16);
        read_all(0);
        read_all(1);
        forward_some(16);
        CHECK(producer[0] == consumer[0] + 8 && producer[1] == consumer[1] + 8);
    }
}

/* ... and takes the longest packet, wherever it begins. */
static void test_who_has_read_takes_the_longest(void) {
    test_nobody();
    adopt(make_plan(two, 1, 0, 0, false));
    for (uint32_t at = 0; at < RING; at++) {
        for (uint32_t n; (n = (at - producer[0]) % RING);) {
            forward_some(n > 2 ? n - 2 : n); /* so few are not looked at in a longer ring */
            read_all(0);
            read_all(1);
        }
        uint64_t delivered = p->mine->member[0].delivered;
        burst.n = 0;
        receive(FAL_MAX_PIECES);
        forward(p, &burst);
        check();
        CHECK(p->mine->member[0].delivered == delivered + 1);
        read_all(0);
        read_all(1);
    }
}

int main(void) {
    p = calloc(1, sizeof *p);
    p->device = calloc(1, sizeof *p->device);
    p->device->event = -1;
    p->pool = (struct fal_pool){calloc(FRAMES, FRAME), FRAMES * FRAME, FRAME, FRAMES};
    p->free_frames = calloc(FRAMES, sizeof *p->free_frames);
    p->references = calloc(FRAMES, sizeof *p->references);
    p->rest = calloc(FRAMES, sizeof *p->rest);
    p->mine = calloc(1, sizeof *p->mine);
    p->status = calloc(1, sizeof *p->status);
    p->queues = 1;
    for (; p->free_count < FRAMES; p->free_count++)
        p->free_frames[p->free_count] = p->free_count;
    p->plan = calloc(1, sizeof *p->plan);

    test_nobody();
    test_all_and_none();
    test_who_has_read_has_room();
    test_who_has_read_gets_its_own();
    test_any(6000);
    p->chains = true;
    test_who_has_read_takes_the_longest();
    test_any(6000);

    free_plan(p->plan);
    free(p->status);
    free(p->mine);
    free(p->rest);
    free(p->references);
    free(p->free_frames);
    free(p->pool.frames);
    free(p->device);
    free(p);
    return 0;
}
