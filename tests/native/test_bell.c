/* The bell never loses a wake-up, and it needs both of its fences for that.
 *
 * The race, again and again, with ring.h's own functions: the poller puts a packet into an empty
 * ring and looks whether it must wake; at the same moment the worker arms and looks whether it may
 * sleep.  A wake-up is lost where the worker found nothing and the poller sent nothing.  Two
 * threads on two cores; the lines that each will look at are in its cache before, so that a missing
 * fence shows: the look then overtakes the store, which waits in the core's store buffer.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "check.h"
#include "ring.h"

#define SLOTS  64
#define RACES  1000000u  /* without a loss, with both fences */
#define LIMIT  60000000u /* one loss at least, with one fence */
#define ENOUGH 10u       /* losses show what is to be shown */

static struct {
    struct fal_ring ring;
    struct fal_desc slot[SLOTS];
    struct fal_cursor_page page;
    struct {
        _Alignas(128) uint32_t round;
    } at[2]; /* how far each thread is */
    _Alignas(128) bool sent, over;
    bool poller_fence, worker_fence;
    uint32_t races, lost;
    int cpu[2];
} shared;

/* Both threads leave it at the same moment. */
static void meet(int me) {
    uint32_t mine = shared.at[me].round + 1;
    fal_store_release(&shared.at[me].round, mine);
    for (int spins = 0; fal_load_acquire(&shared.at[!me].round) < mine; spins++)
        if (spins > 20000) /* the other has lost its core */
            sched_yield();
}

static void delay(uint32_t *random) {
    *random = *random * 1664525 + 1013904223;
    for (volatile uint32_t i = *random >> 27; i; i--)
        ;
}

static void run_on(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((unsigned)cpu, &set);
    CHECK(sched_setaffinity(0, sizeof set, &set) == 0);
}

static void *poller(void *arg) {
    struct fal_producer p = {.slots = shared.slot,
                             .producer = &shared.ring.producer,
                             .consumer = &shared.page.cursor[0].consumer,
                             .mask = SLOTS - 1};
    struct fal_bell bell = {.seq = &shared.page.seq};
    uint32_t random = 1;
    run_on(shared.cpu[0]);
    for (;;) {
        meet(0);
        if (shared.over)
            return arg;
        p.reclaimed += fal_producer_returned(&p);
        CHECK(p.reclaimed == p.next);
        (void)fal_load_relaxed(bell.seq);
        delay(&random);

        fal_producer_reserve(&p)->hash = p.submitted;
        fal_producer_submit(&p);
        if (shared.poller_fence)
            fal_bell_fence();
        else
            __atomic_signal_fence(__ATOMIC_SEQ_CST); /* for the compiler alone */
        shared.sent = fal_bell_wanted(&bell);
        meet(0);
    }
}

static void arm_without_fence(uint64_t *seq) {
    uint64_t now = fal_load_relaxed(seq);
    fal_store_relaxed(seq, now + 1 + (now & 1));
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

static void *worker(void *arg) {
    struct fal_consumer c = {.slots = shared.slot,
                             .producer = &shared.ring.producer,
                             .consumer = &shared.page.cursor[0].consumer,
                             .mask = SLOTS - 1};
    bool strong = shared.poller_fence && shared.worker_fence;
    uint32_t random = 2;
    run_on(shared.cpu[1]);
    do {
        shared.over = shared.races == (strong ? RACES : LIMIT) || shared.lost == ENOUGH;
        meet(1);
        if (shared.over)
            return arg;
        (void)fal_load_relaxed(c.producer);
        delay(&random);

        if (shared.worker_fence)
            fal_bell_arm(&shared.page.seq);
        else
            arm_without_fence(&shared.page.seq);
        bool asleep = fal_consumer_empty(&c);
        meet(1);
        shared.races++;
        shared.lost += asleep && !shared.sent;

        const struct fal_desc *packet;
        CHECK(fal_consumer_peek(&c, SLOTS, &packet) == 1 && packet->hash == c.next);
        fal_consumer_release(&c, 1);
    } while (true);
}

static uint32_t lost(bool poller_fence, bool worker_fence) {
    pthread_t threads[2];
    int cpu[2] = {shared.cpu[0], shared.cpu[1]};
    memset(&shared, 0, sizeof shared);
    memcpy(shared.cpu, cpu, sizeof cpu);
    shared.poller_fence = poller_fence;
    shared.worker_fence = worker_fence;
    CHECK(pthread_create(&threads[0], NULL, poller, NULL) == 0);
    CHECK(pthread_create(&threads[1], NULL, worker, NULL) == 0);
    CHECK(pthread_join(threads[0], NULL) == 0 && pthread_join(threads[1], NULL) == 0);
    printf("poller's fence: %d, worker's fence: %d: %u lost of %u\n", poller_fence, worker_fence,
           shared.lost, shared.races);
    return shared.lost;
}

int main(void) {
    cpu_set_t ours;
    int cores = 0;
    CHECK(sched_getaffinity(0, sizeof ours, &ours) == 0);
    for (int cpu = 0; cores < 2 && cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET((unsigned)cpu, &ours))
            shared.cpu[cores++] = cpu;
    if (cores < 2)
        fprintf(stderr, "one core shows no race: this test wants two\n");
    CHECK(cores == 2);

    CHECK(lost(true, true) == 0);
    CHECK(lost(false, true) > 0);
    CHECK(lost(true, false) > 0);
    return 0;
}
