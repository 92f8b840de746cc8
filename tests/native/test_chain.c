/* Packets in pieces on their way through the poller, which is looked into: rings of the smallest
 * size, chains of all lengths that begin in all slots, workers that give back any number of slots.
 * A packet enters a ring whole or not at all and lies in one piece there, the books count packets,
 * and every frame comes back.
 * SPDX-License-Identifier: BSD-3-Clause */
#include "../../fal/native/poller.c"

#include <stdlib.h>

#include "check.h"

#define RINGS  2
#define RING   FAL_MIN_RING
#define FRAMES (FAL_BURST + RINGS * RING)
#define ROUNDS 30000

static struct fal_poller *p;
static struct group *group;
static struct fal_desc slots[RINGS][RING];
static uint32_t producer[RINGS], consumer[RINGS], shown[RINGS]; /* shown: checked up to here */
static uint64_t in_ring[RINGS];                                 /* packets */
static struct burst burst;
static uint64_t seed = 1;

static uint32_t below(uint32_t n) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33) % n;
}

static void set_up(void) {
    p = calloc(1, sizeof *p);
    p->chains = true;
    p->pool = (struct fal_pool){calloc(FRAMES, 64), FRAMES * 64, 64, FRAMES};
    p->free_frames = calloc(FRAMES, sizeof *p->free_frames);
    p->references = calloc(FRAMES, sizeof *p->references);
    p->rest = calloc(FRAMES, sizeof *p->rest);
    p->mine = calloc(1, sizeof *p->mine);
    p->status = calloc(1, sizeof *p->status);
    p->queues = 1;
    while (p->free_count < FRAMES) {
        p->free_frames[p->free_count] = p->free_count;
        p->free_count++;
    }
    p->plan = calloc(1, sizeof *p->plan);
    p->plan->groups = 1;
    p->plan->sockets = RINGS;
    p->plan->group = group = calloc(1, sizeof *group);
    group->steering = (struct fal_steering){.mode = FAL_MODE_LB, .members = RINGS};
    group->fanout = (struct fal_fanout){FAL_MODE_LB, 0, FAL_HASH_FLOW};
    for (uint32_t i = 0; i < RINGS; i++) {
        static uint64_t never;
        struct socket_ring *s = p->plan->socket[i] = group->member[i] = &p->sockets[i];
        *s = (struct socket_ring){
            .ring = {slots[i], &producer[i], &consumer[i], RING - 1, 0, 0, 0},
            .bell.seq = &never,
            .frame = calloc(RING, sizeof *s->frame),
            .socket = i + 1,
            .used = 1,
            .membership[0] = {i, 0, &p->mine->member[i], &p->status->member[i]}};
    }
}

static void take_down(void) {
    for (uint32_t i = 0; i < RINGS; i++)
        free(p->sockets[i].frame);
    free(group);
    free(p->plan);
    free(p->status);
    free(p->mine);
    free(p->rest);
    free(p->references);
    free(p->free_frames);
    free(p->pool.frames);
    free(p);
}

/* A packet of so many pieces: its len is their number, their caplen says which they are. */
static void receive(uint32_t pieces) {
    for (uint32_t i = 0; i < pieces; i++, burst.n++) {
        struct fal_desc *d = &burst.packets[burst.n];
        uint32_t frame = burst.frame[burst.n] = p->free_frames[--p->free_count];
        *d = (struct fal_desc){.offset = frame * 64u, .caplen = (uint16_t)(i + 1)};
        d->len = i ? 0 : pieces;
        d->flags = i + 1 < pieces ? FAL_DESC_MORE : 0;
    }
}

/* Returns how many packets came. */
static uint32_t receive_some(void) {
    uint32_t packets = 0, most = below(FAL_BURST) + 1;
    burst.n = 0;
    for (;; packets++) {
        uint32_t pieces = below(3) ? 1 : 1 + below(FAL_MAX_PIECES);
        if (burst.n + pieces > most || pieces > p->free_count)
            return packets;
        receive(pieces);
    }
}

/* What was put into a ring now: whole packets, none across its end, padding only before one. */
static void check_shown(uint32_t ring) {
    uint32_t skipped = 0, pieces = 0, at = 0;
    for (; shown[ring] != producer[ring]; shown[ring]++) {
        const struct fal_desc *d = &slots[ring][shown[ring] % RING];
        if (d->flags & FAL_DESC_SKIP) {
            CHECK(at == pieces);
            skipped++;
            continue;
        }
        if (skipped)
            CHECK(shown[ring] % RING == 0 && d->flags & FAL_DESC_FIRST && d->len > skipped);
        skipped = 0;
        if (d->flags & FAL_DESC_FIRST) {
            CHECK(at == pieces);
            pieces = d->len;
            at = 0;
            in_ring[ring]++;
            CHECK(shown[ring] % RING + pieces <= RING);
        }
        CHECK(d->len == pieces && d->caplen == ++at);
        CHECK(!(d->flags & FAL_DESC_MORE) == (at == pieces));
    }
    CHECK(at == pieces && !skipped);
}

static void read_some(uint32_t ring) {
    uint32_t n = below(4) ? below(producer[ring] - consumer[ring] + 1) : 0;
    for (; n > 0; n--, consumer[ring]++)
        in_ring[ring] -= (slots[ring][consumer[ring] % RING].flags & FAL_DESC_FIRST) != 0;
}

static void check_books(uint64_t received) {
    const struct fal_group_status *g = p->mine->group;
    uint64_t delivered = 0, dropped = 0;
    for (uint32_t i = 0; i < RINGS; i++) {
        const struct fal_member_status *m = &p->mine->member[i];
        CHECK(m->delivered == m->consumed + in_ring[i]);
        CHECK(p->mine->socket[i].delivered == m->delivered);
        delivered += m->delivered;
        dropped += m->dropped;
    }
    CHECK(p->mine->received == received && p->mine->queue[0].received == received);
    CHECK(g->received == received && g->delivered == delivered);
    CHECK(g->drops[FAL_DROP_RING_FULL] == dropped && delivered + dropped == received);
}

/* Frames are free, or in a ring: in one slot for each reference. */
static void check_frames(void) {
    uint32_t lying = 0;
    for (uint32_t i = 0; i < RINGS; i++)
        for (uint32_t k = p->sockets[i].ring.reclaimed; k != producer[i]; k++)
            lying += !(slots[i][k % RING].flags & FAL_DESC_SKIP);
    CHECK(p->free_count + lying == FRAMES);
}

static void test_any_packets(void) {
    uint32_t padded = 0;
    uint64_t received = 0;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint32_t before[RINGS] = {producer[0], producer[1]};
        reclaim_all(p);
        check_books(received);
        received += receive_some();
        group->fanout.flags = round / 1000 % 2 ? FAL_FANOUT_ROLLOVER : 0;
        forward(p, &burst);
        for (uint32_t i = 0; i < RINGS; i++) {
            for (uint32_t k = before[i]; k != producer[i]; k++)
                padded += (slots[i][k % RING].flags & FAL_DESC_SKIP) != 0;
            check_shown(i);
        }
        check_books(received);
        check_frames();
        for (uint32_t i = 0; i < RINGS; i++)
            read_some(i);
    }
    CHECK(padded > ROUNDS / 10);
}

static void test_an_empty_ring_takes_the_longest(void) {
    for (uint32_t at = 0; at < RING; at++) {
        for (uint32_t i = 0; i < RINGS; i++)
            consumer[i] = producer[i];
        reclaim_all(p);
        CHECK(p->free_count == FRAMES);
        for (uint32_t i = 0; i < RINGS; i++) {
            struct fal_producer *r = &p->sockets[i].ring;
            r->next = r->submitted = r->reclaimed = consumer[i] = producer[i] = shown[i] = at;
        }
        burst.n = 0;
        for (uint32_t i = 0; i < RINGS; i++)
            receive(FAL_MAX_PIECES);
        uint64_t delivered = p->mine->group->delivered;
        forward(p, &burst);
        CHECK(p->mine->group->delivered == delivered + RINGS);
        for (uint32_t i = 0; i < RINGS; i++)
            check_shown(i);
    }
}

int main(void) {
    set_up();
    test_any_packets();
    test_an_empty_ring_takes_the_longest();
    for (uint32_t i = 0; i < RINGS; i++) /* unread, all of it */
        abandon(p, &p->sockets[i]);
    CHECK(p->free_count == FRAMES);
    take_down();
    return 0;
}
