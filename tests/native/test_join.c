/* Joining and leaving by the thousands while packets flow: two pollers with the null backend, a
 * control thread that publishes plans at random, and workers that read through their cursors.  No
 * frame changes while it is held, each member's packets come in order, every frame comes back, and
 * the books balance.  TSan watches all of it: the plan's handing over, the taking back of a ring,
 * the records that the poller frees.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <linux/filter.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "poller.h"
#include "ring.h"

#define POLLERS 2
#define SOCKETS 8
#define GROUPS  4 /* 0 by hash, the others by lb */
#define RING    64
#ifdef __SANITIZE_THREAD__
#define PLANS 500
#else
#define PLANS 700
#endif
#define PAYLOAD 42 /* where a packet of the null backend carries its number */

/* Group 1 has a filter: every other packet. */
static const struct fal_bpf_insn odd[] = {{BPF_LD | BPF_B | BPF_ABS, 0, 0, PAYLOAD},
                                          {BPF_ALU | BPF_AND | BPF_K, 0, 0, 1},
                                          {BPF_RET | BPF_A, 0, 0, 0}};

/* A socket and its worker.  `state` is all that the two threads say to one another. */
enum state { FREE, READING, PAUSING, PAUSED, QUITTING };

struct worker {
    uint32_t state, seen; /* packets that it has seen */
    struct fal_consumer ring[POLLERS];
    struct fal_cursor_page page;
    struct fal_segment cursors;
    int wake[2];
    pthread_t thread;
    /* the control thread's */
    bool open, started;
    uint32_t group, record;
    uint64_t id;
};

static struct worker worker[SOCKETS];
static const uint8_t *frames[POLLERS];
static struct { uint32_t members, record; } group[GROUPS];
static struct fal_device *device;
static struct fal_segment arena[POLLERS];
static struct fal_poller_status *books;

static uint32_t below(uint32_t *random, uint32_t n) {
    *random = *random * 1664525 + 1013904223;
    return (*random >> 8) % n;
}

static uint64_t number_of(uint32_t poller, const struct fal_desc *d) {
    uint64_t number;
    memcpy(&number, frames[poller] + d->offset + PAYLOAD, sizeof number);
    return number;
}

/* ---- a worker -------------------------------------------------------------------------------- */

static void read_some(struct worker *w, uint32_t *random, uint64_t *all_next) {
    const struct fal_desc *d;
    uint64_t number[RING];
    uint32_t p = below(random, POLLERS);
    uint64_t *next = &all_next[p];
    uint32_t n = fal_consumer_peek(&w->ring[p], 1 + below(random, RING), &d);
    for (uint32_t i = 0; i < n; i++) {
        number[i] = number_of(p, &d[i]);
        CHECK(number[i] >= *next); /* in order, and none twice */
        *next = number[i] + 1;
        CHECK(d[i].len == 60 && d[i].caplen == 60);
    }
    if (!n || below(random, 4) == 0)
        sched_yield();
    for (uint32_t i = 0; i < n; i++) /* held until now */
        CHECK(number_of(p, &d[i]) == number[i]);
    uint32_t back = n ? below(random, n + 1) : 0;
    if (back < n)
        *next = number[back];
    if (back)
        fal_consumer_release(&w->ring[p], back);
    fal_store_relaxed(&w->seen, fal_load_relaxed(&w->seen) + back);
}

static void *work(void *arg) {
    struct worker *w = arg;
    uint32_t random = (uint32_t)(w - worker) + 100;
    uint64_t next[POLLERS] = {0};
    for (;;) {
        switch (fal_load_acquire(&w->state)) {
        case QUITTING:
            return NULL;
        case READING:
            read_some(w, &random, next);
            break;
        case PAUSING:
            memset(next, 0, sizeof next);
            fal_store_release(&w->state, PAUSED);
            break;
        default:
            sched_yield();
        }
    }
}

/* ---- the books --------------------------------------------------------------------------------
 */

static void check_books(const struct fal_poller_status *s) {
    for (uint32_t g = 0; g < FAL_GROUP_RECORDS; g++) {
        const struct fal_group_status *b = &s->group[g];
        uint64_t delivered = b->gone_delivered, drops = 0;
        for (uint32_t i = 0; i < FAL_DROPS; i++)
            drops += b->drops[i];
        CHECK(b->received == b->filtered + b->delivered + drops);
        CHECK(!b->filtered || b->id == 1);
        CHECK(b->gone_delivered == b->gone_consumed + b->gone_abandoned);
        for (uint32_t i = 0; i < FAL_MAX_MEMBERS; i++) {
            const struct fal_member_status *m = &s->member[i];
            if (!m->socket || m->group != g)
                continue;
            CHECK(b->live);
            CHECK(m->consumed + m->abandoned <= m->delivered);
            CHECK(m->delivered - m->consumed - m->abandoned <= RING);
            delivered += m->delivered;
        }
        CHECK(b->delivered == delivered);
    }
}

/* Also in the middle of it all; but TSan does not know of sequence numbers. */
static void check_books_now(void) {
#ifndef __SANITIZE_THREAD__
    static struct fal_poller_status copy;
    for (uint32_t p = 0; p < POLLERS; p++) {
        CHECK(fal_status_copy(&books[p], &copy) == 0);
        check_books(&copy);
    }
#endif
}

/* ---- the control thread ------------------------------------------------------------------------
 */

static void publish(struct worker *entering) {
    struct fal_error err;
    struct fal_plan_group about[GROUPS];
    struct fal_plan_member members[SOCKETS];
    uint32_t groups = 0, n = 0;
    if (entering) {
        int record = fal_device_free_member(device);
        CHECK(record >= 0);
        entering->record = (uint32_t)record;
        if (group[entering->group].members++ == 0) {
            CHECK((record = fal_device_free_group(device)) >= 0);
            group[entering->group].record = (uint32_t)record;
        }
    }
    for (uint32_t g = 0; g < GROUPS; g++) {
        uint32_t part[2] = {0, 0};
        for (int started = 1; started >= 0; started--)
            for (uint32_t i = 0; i < SOCKETS; i++)
                if (worker[i].open && worker[i].group == g && worker[i].started == started) {
                    members[n++] = (struct fal_plan_member){
                        .id = worker[i].id, .socket = i + 1, .record = worker[i].record, .pid = 1};
                    part[started]++;
                }
        if (part[0] + part[1])
            about[groups++] = (struct fal_plan_group){
                .id = (int32_t)g,
                .record = group[g].record,
                .fanout = {g ? FAL_MODE_LB : FAL_MODE_HASH, 0, FAL_HASH_FLOW},
                .filter = odd,
                .filter_count = g == 1 ? 3 : 0,
                .started = part[1],
                .admitted = part[0]};
    }
    CHECK(fal_device_publish(device, about, groups, members, &err) == 0);
}

/* Seldom the one whose table takes TSan 10 ms to build. */
static uint32_t some_group(uint32_t *random) {
    return below(random, 8) ? 1 + below(random, GROUPS - 1) : 0;
}

static void open_worker(struct worker *w, uint32_t *random) {
    struct fal_error err;
    uint32_t i = (uint32_t)(w - worker);
    const struct fal_arena *layout = (const struct fal_arena *)arena[0].address;
    uint64_t offset =
        layout->rings_offset + i * (sizeof(struct fal_ring) + RING * sizeof(struct fal_desc));
    memset(&w->page, 0, sizeof w->page);
    CHECK(fal_device_ring(device, i + 1, offset, RING, &w->cursors, w->wake[0], &err) == 0);
    for (uint32_t p = 0; p < POLLERS; p++) {
        struct fal_ring *ring = (struct fal_ring *)(arena[p].address + offset);
        w->ring[p] = (struct fal_consumer){.slots = (struct fal_desc *)(ring + 1),
                                           .producer = &ring->producer,
                                           .consumer = &w->page.cursor[p].consumer,
                                           .mask = RING - 1};
    }
    w->open = true;
    w->started = below(random, 2);
    w->group = some_group(random);
    w->id = *random;
    publish(w);
    fal_store_release(&w->state, READING);
}

/* Its packets may lie in the ring unread, or be held: they are abandoned. */
static void close_worker(struct worker *w) {
    fal_store_release(&w->state, PAUSING);
    while (fal_load_acquire(&w->state) != PAUSED)
        sched_yield();
    w->open = false;
    group[w->group].members--;
    publish(NULL);
}

/* Its packets from the group before may lie in the ring unread, and are read later. */
static void move_worker(struct worker *w, uint32_t to) {
    uint32_t socket = (uint32_t)(w - worker) + 1;
    if (fal_device_memberships(device, socket) >= FAL_SOCKET_MEMBERSHIPS)
        return;
    group[w->group].members--;
    w->group = to;
    publish(w);
}

static void shuffle(uint32_t plans) {
    static uint32_t random = 1;
    for (uint32_t i = 0; i < plans; i++) {
        struct worker *w = &worker[below(&random, SOCKETS)];
        uint32_t what = below(&random, 8);
        if (!w->open) {
            open_worker(w, &random);
        } else if (what == 0) {
            close_worker(w);
        } else if (!w->started) {
            w->started = true;
            publish(NULL);
        } else {
            uint32_t to = some_group(&random);
            if (to != w->group)
                move_worker(w, to);
        }
        check_books_now();
        if (below(&random, 8) == 0)
            sched_yield();
    }
}

/* ---- the end --------------------------------------------------------------------------------- */

static uint32_t held(uint32_t poller) {
    bool seen[1 << 16] = {false};
    uint32_t n = 0;
    const struct fal_arena *layout = (const struct fal_arena *)arena[poller].address;
    CHECK(layout->frames <= 1 << 16);
    for (uint32_t i = 0; i < SOCKETS; i++) {
        const struct fal_consumer *ring = &worker[i].ring[poller];
        for (uint32_t k = ring->next; worker[i].open && k != *ring->producer; k++) {
            uint64_t frame = ring->slots[k & (RING - 1)].offset / layout->frame_size;
            n += !seen[frame];
            seen[frame] = true;
        }
    }
    return n;
}

static void *poll_all(void *poller) {
    struct fal_error err;
    CHECK(fal_poller_run(poller, &err) == 0);
    return NULL;
}

int main(void) {
    struct fal_error err;
    const int32_t anywhere[POLLERS] = {-1, -1};
    struct fal_poller_options options = {.backend = "null",
                                         .source = {.device = "null", .pollers = POLLERS},
                                         .cpus = anywhere,
                                         .idle = FAL_IDLE_ADAPTIVE};
    pthread_t thread[POLLERS];
    uint64_t all[POLLERS]; /* frames */
    for (uint32_t p = 0; p < POLLERS; p++) {
        CHECK(fal_arena_create(2 * FAL_BURST + SOCKETS * RING, 2048,
                               SOCKETS * (RING + sizeof(struct fal_ring) / sizeof(struct fal_desc)),
                               FAL_HUGEPAGES_OFF, -1, &arena[p], &err) == 0);
        const struct fal_arena *layout = (const struct fal_arena *)arena[p].address;
        frames[p] = arena[p].address + layout->frames_offset;
        all[p] = layout->frames;
    }
    books = calloc(POLLERS, sizeof *books);
    device = fal_device_open(&options, arena, books, &err);
    CHECK(device);
    for (uint32_t i = 0; i < SOCKETS; i++) {
        struct worker *w = &worker[i];
        w->cursors = (struct fal_segment){.address = (uint8_t *)&w->page, .size = sizeof w->page};
        CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, w->wake) == 0);
        CHECK(pthread_create(&w->thread, NULL, work, w) == 0);
    }
    for (uint32_t p = 0; p < POLLERS; p++)
        CHECK(pthread_create(&thread[p], NULL, poll_all, fal_device_poller(device, p)) == 0);
    fal_device_begin(device);
    shuffle(PLANS);
    fal_device_stop(device);
    shuffle(PLANS / 20); /* some of it after the polling threads have ended */
    for (uint32_t p = 0; p < POLLERS; p++)
        CHECK(pthread_join(thread[p], NULL) == 0);
    for (uint32_t i = 0; i < SOCKETS; i++) {
        fal_store_release(&worker[i].state, QUITTING);
        CHECK(pthread_join(worker[i].thread, NULL) == 0);
    }
    /* The polling threads are gone, so a plan is taken in by this one: what was read is booked. */
    publish(NULL);
    for (uint32_t p = 0; p < POLLERS; p++) {
        check_books(&books[p]);
        CHECK(books[p].received > PLANS / POLLERS);
        CHECK(books[p].frames_free == all[p] - FAL_BURST - held(p));
    }
    for (uint32_t i = 0; i < SOCKETS; i++)
        if (worker[i].open) {
            worker[i].open = false;
            group[worker[i].group].members--;
            publish(NULL);
        }
    for (uint32_t p = 0; p < POLLERS; p++) {
        check_books(&books[p]);
        for (uint32_t i = 0; i < FAL_MAX_MEMBERS; i++)
            CHECK(!books[p].member[i].socket);
        for (uint32_t g = 0; g < FAL_GROUP_RECORDS; g++)
            CHECK(!books[p].group[g].live);
        CHECK(books[p].frames_free == all[p] - FAL_BURST); /* which the backend holds */
    }

    fal_device_close(device);
    for (uint32_t p = 0; p < POLLERS; p++)
        fal_segment_free(&arena[p]);
    for (uint32_t i = 0; i < SOCKETS; i++) {
        close(worker[i].wake[0]);
        close(worker[i].wake[1]);
    }
    free(books);
    return 0;
}
