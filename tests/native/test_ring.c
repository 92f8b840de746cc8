/* The ring: every packet comes once, in order, whole, and no frame changes while it is held, with
 * indices that wrap; and impossible cursors are seen.  Under TSan each of the four halves of the
 * barriers (a) and (b) is then left out in turn, and TSan must see the race that this makes.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "ring.h"

#define CAPACITY   64
#define FRAMES     96 /* more than fit, so that which frame lies in which slot changes */
#define FRAME_SIZE 64
#define PACKETS    400000u
#define START      (UINT32_MAX - PACKETS / 2) /* the indices wrap in the middle */

static struct {
    struct fal_ring ring;
    struct fal_desc slot[CAPACITY];
    struct fal_cursor_page page;
    uint64_t frame[FRAMES][FRAME_SIZE / 8];
} shared;

/* The functions of ring.h, and the same with one barrier less. */
static struct {
    void (*submit)(struct fal_producer *);
    uint32_t (*returned)(const struct fal_producer *);
    uint32_t (*peek)(struct fal_consumer *, uint32_t, const struct fal_desc **);
    void (*release)(struct fal_consumer *, uint32_t);
} use = {fal_producer_submit, fal_producer_returned, fal_consumer_peek, fal_consumer_release};

static struct fal_producer new_producer(uint32_t at) {
    shared.ring.producer = shared.page.cursor[0].consumer = at;
    return (struct fal_producer){.slots = shared.slot,
                                 .producer = &shared.ring.producer,
                                 .consumer = &shared.page.cursor[0].consumer,
                                 .mask = CAPACITY - 1,
                                 .next = at,
                                 .submitted = at,
                                 .reclaimed = at};
}

static struct fal_consumer new_consumer(uint32_t at) {
    return (struct fal_consumer){.slots = shared.slot,
                                 .producer = &shared.ring.producer,
                                 .consumer = &shared.page.cursor[0].consumer,
                                 .mask = CAPACITY - 1,
                                 .next = at,
                                 .seen = at};
}

static uint32_t below(uint32_t *random, uint32_t n) {
    *random = *random * 1664525 + 1013904223;
    return (*random >> 8) % n;
}

static void *produce(void *arg) {
    struct fal_producer p = *(struct fal_producer *)arg;
    uint32_t free_frame[FRAMES], free_count = FRAMES, in_slot[CAPACITY], random = 1;
    for (uint32_t i = 0; i < FRAMES; i++)
        free_frame[i] = i;
    for (uint32_t packet = 0; p.reclaimed != START + PACKETS;) {
        uint32_t back = use.returned(&p);
        CHECK(back != UINT32_MAX);
        for (; back; back--, p.reclaimed++)
            free_frame[free_count++] = in_slot[p.reclaimed & p.mask];

        uint32_t n = 1 + below(&random, CAPACITY);
        if (n > PACKETS - packet)
            n = PACKETS - packet;
        if (n > fal_producer_room(&p))
            n = fal_producer_room(&p);
        for (uint32_t i = 0; i < n; i++, packet++) {
            uint32_t frame = free_frame[--free_count];
            in_slot[p.next & p.mask] = frame;
            for (uint32_t k = 0; k < FRAME_SIZE / 8; k++)
                shared.frame[frame][k] = packet;
            *fal_producer_reserve(&p) =
                (struct fal_desc){.hash = packet, .offset = (uint64_t)frame * FRAME_SIZE};
        }
        if (n)
            use.submit(&p);
        else
            sched_yield();
    }
    CHECK(free_count == FRAMES);
    return NULL;
}

static bool whole(const struct fal_desc *d, uint32_t packet) {
    const uint64_t *frame = shared.frame[d->offset / FRAME_SIZE];
    for (uint32_t k = 0; k < FRAME_SIZE / 8; k++)
        if (frame[k] != packet)
            return false;
    return d->hash == packet;
}

static void *consume(void *arg) {
    struct fal_consumer c = *(struct fal_consumer *)arg;
    const struct fal_desc *first;
    uint32_t random = 2;
    for (uint32_t packet = 0; packet < PACKETS;) {
        uint32_t n = use.peek(&c, 1 + below(&random, CAPACITY), &first);
        CHECK(n <= CAPACITY && (first - shared.slot) + n <= CAPACITY); /* does not wrap */
        for (uint32_t i = 0; i < n; i++)
            CHECK(whole(&first[i], packet + i));
        if (!n || below(&random, 8) == 0)
            sched_yield(); /* so that the ring is full at times, too */
        uint32_t part = n ? 1 + below(&random, n) : 0;
        for (uint32_t i = 0; i < part; i++)
            CHECK(whole(&first[i], packet + i));
        if (part)
            use.release(&c, part);
        packet += part;
    }
    CHECK(fal_consumer_empty(&c));
    return NULL;
}

static void two_threads(void) {
    pthread_t threads[2];
    struct fal_producer p = new_producer(START);
    struct fal_consumer c = new_consumer(START);
    CHECK(pthread_create(&threads[0], NULL, produce, &p) == 0);
    CHECK(pthread_create(&threads[1], NULL, consume, &c) == 0);
    CHECK(pthread_join(threads[0], NULL) == 0 && pthread_join(threads[1], NULL) == 0);
}

/* A consumer index is possible from the last one seen to the last slot submitted, and no further:
 * a slot reserved but not submitted has been shown to nobody. */
static void prohibited_cursors(uint32_t at) {
    struct fal_producer p = new_producer(at);
    uint32_t *cursor = &shared.page.cursor[0].consumer;
    const uint32_t submitted = 40, reclaimed = 10;
    for (uint32_t i = 0; i < submitted; i++)
        fal_producer_reserve(&p);
    fal_producer_submit(&p);
    *cursor = at + reclaimed;
    CHECK(fal_producer_returned(&p) == reclaimed);
    p.reclaimed += reclaimed;
    for (uint32_t i = 0; i < 5; i++)
        fal_producer_reserve(&p);
    CHECK(fal_producer_room(&p) == CAPACITY - (submitted + 5 - reclaimed));

    for (uint32_t i = reclaimed; i <= submitted; i++) {
        *cursor = at + i;
        CHECK(fal_producer_returned(&p) == i - reclaimed);
    }
    const uint32_t wrong[] = {reclaimed - 1,        0,           submitted + 1, submitted + 5,
                              reclaimed + CAPACITY, 0x80000000u, UINT32_MAX};
    for (uint32_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        *cursor = at + wrong[i];
        CHECK(fal_producer_returned(&p) == UINT32_MAX);
    }
}

static void edges(uint32_t at) {
    struct fal_producer p = new_producer(at);
    struct fal_consumer c = new_consumer(at);
    const struct fal_desc *first;
    CHECK(fal_consumer_empty(&c) && fal_consumer_peek(&c, CAPACITY, &first) == 0);
    CHECK(fal_producer_room(&p) == CAPACITY && fal_producer_returned(&p) == 0);
    for (uint32_t i = 0; i < CAPACITY; i++)
        fal_producer_reserve(&p)->hash = i;
    CHECK(fal_producer_room(&p) == 0);
    CHECK(fal_consumer_empty(&c)); /* reserved is not submitted */
    fal_producer_submit(&p);
    for (uint32_t i = 0; i < CAPACITY;) {
        uint32_t n = fal_consumer_peek(&c, CAPACITY, &first);
        CHECK(n && first->hash == i && !fal_consumer_empty(&c));
        CHECK(fal_consumer_peek(&c, 1, &first) == 1);
        fal_consumer_release(&c, n);
        i += n;
    }
    CHECK(fal_consumer_empty(&c) && fal_consumer_peek(&c, CAPACITY, &first) == 0);
    CHECK(fal_producer_returned(&p) == CAPACITY);
}

#ifdef __SANITIZE_THREAD__
static void weak_submit(struct fal_producer *p) {
    fal_store_relaxed(p->producer, p->next);
    p->submitted = p->next;
}

static uint32_t weak_returned(const struct fal_producer *p) {
    uint32_t returned = fal_load_relaxed(p->consumer) - p->reclaimed;
    return returned <= p->submitted - p->reclaimed ? returned : UINT32_MAX;
}

static uint32_t weak_peek(struct fal_consumer *c, uint32_t max, const struct fal_desc **first) {
    if (c->seen == c->next)
        c->seen = fal_load_relaxed(c->producer);
    *first = c->slots;
    return c->seen == c->next ? 0 : fal_consumer_peek(c, max, first);
}

static void weak_release(struct fal_consumer *c, uint32_t n) {
    c->next += n;
    fal_store_relaxed(c->consumer, c->next);
}

static void weaken(const char *what) {
    if (!strcmp(what, "submit"))
        use.submit = weak_submit;
    else if (!strcmp(what, "returned"))
        use.returned = weak_returned;
    else if (!strcmp(what, "peek"))
        use.peek = weak_peek;
    else if (!strcmp(what, "release"))
        use.release = weak_release;
}

/* Runs this program anew, with that function weakened; its report is expected, so not shown. */
static bool race_is_seen(const char *what) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(freopen("/dev/null", "w", stderr));
        setenv("TSAN_OPTIONS", "halt_on_error=1 exitcode=66", 1);
        execl("/proc/self/exe", "test_ring", what, NULL);
        _exit(1);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 66;
}
#endif

int main(int argc, char **argv) {
#ifdef __SANITIZE_THREAD__
    if (argc > 1) {
        weaken(argv[1]);
        two_threads();
        return 0;
    }
    CHECK(!race_is_seen("nothing"));
    CHECK(race_is_seen("submit"));
    CHECK(race_is_seen("peek"));
    CHECK(race_is_seen("release"));
    CHECK(race_is_seen("returned"));
#endif
    (void)argc, (void)argv;
    two_threads();
    for (uint32_t at = 0; at <= 2 * CAPACITY; at++) {
        edges(at - CAPACITY);
        prohibited_cursors(at - CAPACITY);
    }
    return 0;
}
