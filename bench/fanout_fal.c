/* FAL's poller as it is, with a backend of memory in the place of the null one; workers with the ring
 * of the client.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arena.h"
#include "backend.h"
#include "fanout_race.h"
#include "flow.h"
#include "poller.h"
#include "ring.h"

#define STRIDE 2112 /* one of 2048 puts all packets' first lines into few sets of the cache */
#define RING   4096 /* has room for all frames: no packet is dropped */

/* ---- the backend ----------------------------------------------------------------------------- */

static struct {
    struct fal_pool pool;
    uint32_t burst, first, last; /* free running, of `queue` */
    struct account out;
    uint32_t queue[PACKETS]; /* frames, in the order in which they came */
} source;

static int source_queues(const struct fal_backend_options *o, struct fal_error *err) {
    (void)o, (void)err;
    return 1;
}

static void *source_open(const struct fal_backend_options *o, const struct fal_pool *pools,
                         void **parts, struct fal_backend_facts *facts, struct fal_error *err) {
    (void)o, (void)err;
    source.pool = *pools;
    for (uint32_t i = 0; i < PACKETS; i++)
        make_packet(pools->frames + (uint64_t)i * pools->frame_size, (uint16_t)i);
    facts->queue_count = 1;
    return parts[0] = &source;
}

static int source_rx_burst(void *part, struct fal_desc *packets, uint32_t *frame, uint16_t *cpu,
                           uint32_t max) {
    (void)part;
    uint32_t there = source.last - source.first, n = max < source.burst ? max : source.burst;
    n = n < there ? n : there;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t number = source.queue[source.first++ % PACKETS];
        source.out.sum += number;
        frame[i] = number;
        cpu[i] = 0;
        packets[i] = (struct fal_desc){.ts_ns = source.out.packets,
                                       .offset = (uint64_t)number * STRIDE,
                                       .len = PACKET_SIZE,
                                       .caplen = PACKET_SIZE};
    }
    source.out.packets += n;
    return (int)n;
}

static uint32_t source_wants(void *part) {
    (void)part;
    return PACKETS - (source.last - source.first);
}

static void source_refill(void *part, const uint32_t *frame, uint32_t n) {
    (void)part;
    for (uint32_t i = 0; i < n; i++)
        source.queue[source.last++ % PACKETS] = frame[i];
}

static uint32_t source_wait(void *part, struct pollfd *fds, uint32_t max) {
    (void)part, (void)fds, (void)max;
    return 0;
}

static uint32_t source_tx_done(void *part, uint32_t *frame, uint32_t max) {
    (void)part, (void)frame, (void)max;
    return 0;
}

static void source_stats(void *part, struct fal_backend_stats *stats) {
    (void)part, (void)stats;
}

static void source_close(void *device) {
    (void)device;
}

/* The linker takes this one, and leaves the library's. */
const struct fal_backend_ops fal_backend_null = {
    .name = "null",
    .queues = source_queues,
    .open = source_open,
    .rx_burst = source_rx_burst,
    .wants = source_wants,
    .refill = source_refill,
    .tx_done = source_tx_done,
    .wait = source_wait,
    .stats = source_stats,
    .close = source_close,
};

/* ---- the workers ----------------------------------------------------------------------------- */

static struct fal_consumer consumer[WORKERS];
static const uint8_t *frames;

static uint32_t take(uint32_t worker, uint32_t burst, struct account *came, uint64_t *bits) {
    const struct fal_desc *first;
    uint32_t n = fal_consumer_peek(&consumer[worker], burst, &first);
    for (uint32_t i = 0; i < n; i++) {
        if (i + 4 < n)
            __builtin_prefetch(frames + first[i + 4].offset);
        read_packet(frames + first[i].offset, came, bits);
    }
    if (n)
        fal_consumer_release(&consumer[worker], n);
    return n;
}

/* ---- the race -------------------------------------------------------------------------------- */

static struct fal_device *device;
static double seconds;

static void *stop(void *unused) {
    (void)unused;
    usleep((useconds_t)(seconds * 1e6));
    fal_device_stop(device);
    return NULL;
}

static void check(int result, const struct fal_error *err) {
    if (result < 0) {
        fprintf(stderr, "%s\n", err->text);
        exit(1);
    }
}

int main(int argc, char **argv) {
    if (argc != 4 && argc != 6) {
        fprintf(stderr, "usage: %s BURST PAUSES SECONDS [CPU CPU]\n", argv[0]);
        return 1;
    }
    struct fal_error err;
    struct fal_segment arena, page[WORKERS];
    int32_t cpu = argc == 6 ? atoi(argv[4]) : 0;
    struct fal_poller_options options = {
        .backend = "null",
        .source = {.device = "memory", .pollers = 1},
        .hash_seed = FAL_HASH_SEED,
        .cpus = &cpu,
        .idle = FAL_IDLE_SPIN,
    };
    source.burst = (uint32_t)atoi(argv[1]);
    seconds = atof(argv[3]);
    const uint64_t ring_size = sizeof(struct fal_ring) + RING * sizeof(struct fal_desc);
    check(fal_arena_create(PACKETS, STRIDE, WORKERS * ring_size / sizeof(struct fal_desc),
                           huge_pages() ? FAL_HUGEPAGES_TRY : FAL_HUGEPAGES_OFF, -1, &arena, &err),
          &err);
    struct fal_arena *layout = (struct fal_arena *)arena.address;
    layout->frames = PACKETS; /* the rest of the last page lies idle */
    struct fal_poller_status *status = calloc(1, sizeof *status);
    struct race *race =
        mmap(NULL, sizeof *race, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!status || race == MAP_FAILED)
        return 1;
    device = fal_device_open(&options, &arena, status, &err);
    check(device ? 0 : -1, &err);
    frames = arena.address + layout->frames_offset;

    struct fal_plan_member members[WORKERS];
    for (uint32_t w = 0; w < WORKERS; w++) {
        uint64_t offset = layout->rings_offset + w * ring_size;
        check(fal_cursor_page_create(&page[w], &err), &err);
        check(fal_device_ring(device, w + 1, offset, RING, &page[w], -1, &err), &err);
        members[w] = (struct fal_plan_member){.id = scramble(w), .socket = w + 1, .record = w};
    }
    struct fal_plan_group group = {.fanout = {.mode = FAL_MODE_HASH, .hash = FAL_HASH_FLOW},
                                   .started = WORKERS};
    check(fal_device_publish(device, &group, 1, members, &err), &err);

    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* it waits for whatever comes */
        for (uint32_t w = 0; w < WORKERS; w++) {
            struct fal_ring *ring =
                (struct fal_ring *)(arena.address + layout->rings_offset + w * ring_size);
            struct fal_segment mine;
            check(fal_segment_map(page[w].fd, FAL_CURSOR_PAGE, 1, &mine, &err), &err);
            consumer[w] = (struct fal_consumer){
                .slots = (struct fal_desc *)(ring + 1),
                .producer = &ring->producer,
                .consumer = &((struct fal_cursor_page *)mine.address)->cursor[0].consumer,
                .mask = RING - 1};
        }
        pin(argc == 6 ? atoi(argv[5]) : 1);
        work(race, source.burst, (uint32_t)atoi(argv[2]));
        _exit(0);
    }
    while (!__atomic_load_n(&race->ready, __ATOMIC_ACQUIRE))
        usleep(1000);
    pthread_t timer;
    if (pthread_create(&timer, NULL, stop, NULL))
        return 1;
    fal_device_begin(device);
    struct stretch begun = stretch_begin();
    check(fal_poller_run(fal_device_poller(device, 0), &err), &err);
    struct stretch took = stretch_end(begun);
    __atomic_store_n(&race->end, source.out.packets + 1, __ATOMIC_RELEASE);
    int ended;
    if (waitpid(child, &ended, 0) != child || ended) {
        fprintf(stderr, "the workers failed\n");
        return 1;
    }
    pthread_join(timer, NULL);
    fal_device_close(device);
    return account(race, source.out, took, STRIDE);
}
