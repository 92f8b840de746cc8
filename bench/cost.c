/* What the poller's loop costs a packet, with workers that read at once.
 *
 *   cost WORKERS GROUPS FLOWS BYTES MODE BURSTS      WORKERS: of each group
 *
 * The poller itself, as a device with the null backend has it; but between two bursts of 64 the
 * source lets all workers read what they have, on the same thread.  Counted is what lies between
 * the source's return and its next call: by callgrind, which is told when to collect, and by the
 * clock, of which the median burst is printed.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <linux/filter.h>
#include <string.h>
#include <valgrind/callgrind.h>

#include "measure.h"
#include "modes.h"
#include "poller_private.h"

#define BURST   64
#define WARM    512 /* bursts before the first that counts */
#define RING    1024
#define SOURCE  26 /* where a packet of the null backend has its source address */
#define PAYLOAD 42 /* ... and its number */

static struct worker {
    struct fal_cursor_page page;
    struct fal_consumer ring;
} worker[FAL_MAX_SOCKETS];

static struct fal_device *device;
static struct fal_segment arena;
static struct fal_poller_status books;
static uint32_t workers, flows, bytes, bursts, done;
static uint64_t read_packets, read_sum;
static uint64_t begun, *took;
static bool counting;

/* ---- counting -------------------------------------------------------------------------------- */

static void begin(void) {
    counting = done > WARM && done <= WARM + bursts;
    begun = now_ns(CLOCK_MONOTONIC);
    if (counting)
        CALLGRIND_TOGGLE_COLLECT;
}

static void end(void) {
    if (counting) {
        CALLGRIND_TOGGLE_COLLECT;
        took[done - WARM - 1] = now_ns(CLOCK_MONOTONIC) - begun;
    }
    counting = false;
}

/* ---- the source ------------------------------------------------------------------------------ */

static void read_all(struct worker *w) {
    const struct fal_desc *first;
    const uint8_t *frames = device->poller->pool.frames;
    for (uint32_t n; (n = fal_consumer_peek(&w->ring, UINT32_MAX, &first));) {
        for (uint32_t i = 0; i < n; i++) {
            uint64_t number;
            memcpy(&number, frames + first[i].offset + PAYLOAD, sizeof number);
            read_sum += number;
        }
        read_packets += n;
        fal_consumer_release(&w->ring, n);
    }
}

/* The null backend's packets, UDP over IPv4, of so many flows and bytes. */
static int source_rx_burst(void *part, struct fal_desc *packets, uint32_t *frame, uint16_t *cpu,
                           uint32_t max) {
    static uint32_t flow;
    end();
    for (uint32_t i = 0; i < workers; i++)
        read_all(&worker[i]);
    if (done++ == WARM + bursts)
        fal_device_stop(device);
    int n = fal_backend_null.rx_burst(part, packets, frame, cpu, max < BURST ? max : BURST);
    for (int i = 0; i < n; i++) {
        uint32_t source = 10 | flow << 8;
        memcpy(device->poller->pool.frames + packets[i].offset + SOURCE, &source, sizeof source);
        flow = flow + 1 == flows ? 0 : flow + 1;
        packets[i].len = bytes;
        packets[i].caplen = (uint16_t)bytes;
        cpu[i] = (uint16_t)i;
    }
    begin();
    return n;
}

/* The backend's own, as rx_burst is: not counted. */
static void source_refill(void *part, const uint32_t *frame, uint32_t n) {
    if (counting)
        CALLGRIND_TOGGLE_COLLECT;
    fal_backend_null.refill(part, frame, n);
    if (counting)
        CALLGRIND_TOGGLE_COLLECT;
}

/* ---- groups and workers ---------------------------------------------------------------------- */

static void check(int result, const struct fal_error *err) {
    if (result < 0) {
        fprintf(stderr, "cost: %s\n", err->text);
        exit(1);
    }
}

static void admit(uint32_t i) {
    struct fal_error err;
    struct worker *w = &worker[i];
    uint64_t size = sizeof(struct fal_ring) + RING * sizeof(struct fal_desc);
    uint64_t offset = ((const struct fal_arena *)arena.address)->rings_offset + i * size;
    struct fal_segment cursors = {.address = (uint8_t *)&w->page, .size = sizeof w->page};
    check(fal_device_ring(device, i + 1, offset, RING, &cursors, -1, &err), &err);
    struct fal_ring *ring = (struct fal_ring *)(arena.address + offset);
    w->ring = (struct fal_consumer){.slots = (struct fal_desc *)(ring + 1),
                                    .producer = &ring->producer,
                                    .consumer = &w->page.cursor[0].consumer,
                                    .mask = RING - 1};
}

static void publish(uint32_t groups, const struct fal_fanout *fanout) {
    /* the last byte of the source address */
    static const struct fal_bpf_insn program[] = {{BPF_LD | BPF_B | BPF_ABS, 0, 0, SOURCE + 3},
                                                  {BPF_RET | BPF_A, 0, 0, 0}};
    struct fal_plan_group group[FAL_MAX_GROUPS];
    struct fal_plan_member member[FAL_MAX_SOCKETS];
    struct fal_error err;
    for (uint32_t i = 0; i < groups; i++)
        group[i] = (struct fal_plan_group){.id = (int32_t)i,
                                           .record = i,
                                           .fanout = *fanout,
                                           .started = workers / groups,
                                           .program = program,
                                           .program_count = fanout->mode == FAL_MODE_CBPF ? 2 : 0};
    for (uint32_t i = 0; i < workers; i++) {
        admit(i);
        member[i] = (struct fal_plan_member){.id = i, .socket = i + 1, .record = i, .pid = 1};
    }
    check(fal_device_publish(device, group, groups, member, &err), &err);
}

int main(int argc, char **argv) {
    struct fal_error err;
    struct fal_fanout fanout;
    if (argc != 7) {
        fprintf(stderr, "usage: cost WORKERS GROUPS FLOWS BYTES MODE BURSTS\n");
        return 1;
    }
    uint32_t groups = (uint32_t)atoi(argv[2]);
    workers = (uint32_t)atoi(argv[1]) * groups;
    flows = (uint32_t)atoi(argv[3]);
    bytes = (uint32_t)atoi(argv[4]);
    bursts = (uint32_t)atoi(argv[6]);
    took = calloc(bursts, sizeof *took);
    if (!groups || groups > FAL_MAX_GROUPS || !workers || workers > FAL_MAX_SOCKETS || !flows ||
        bytes < 60 || bytes > FAL_DEFAULT_FRAME_SIZE || !bursts || !took)
        return 1;
    check(fal_fanout_parse(argv[5], &fanout, &err), &err);

    const int32_t anywhere = -1;
    struct fal_poller_options options = {.backend = "null",
                                         .source = {.device = "null", .pollers = 1},
                                         .hash_seed = 0x46414c2d68617368,
                                         .cpus = &anywhere,
                                         .idle = FAL_IDLE_SPIN};
    uint64_t slots = RING + sizeof(struct fal_ring) / sizeof(struct fal_desc);
    uint64_t frames = workers * RING + 2 * FAL_BURST; /* every ring may be full */
    check(fal_arena_create(frames, FAL_DEFAULT_FRAME_SIZE, workers * slots, FAL_HUGEPAGES_OFF, -1,
                           &arena, &err),
          &err);
    device = fal_device_open(&options, &arena, &books, &err);
    check(device ? 0 : -1, &err);
    struct fal_backend_ops source = fal_backend_null;
    source.rx_burst = source_rx_burst;
    source.refill = source_refill;
    device->poller->ops = &source;
    publish(groups, &fanout);
    fal_device_begin(device);
    check(fal_poller_run(device->poller, &err), &err);
    for (uint32_t i = 0; i < workers; i++)
        read_all(&worker[i]);

    uint64_t all = (uint64_t)done * BURST;
    if (read_packets != groups * all || read_sum != groups * (all * (all - 1) / 2)) {
        fprintf(stderr, "cost: packets were lost\n");
        return 1;
    }
    printf("{\"packets\": %llu, \"ns\": %.3f}\n", (unsigned long long)bursts * BURST,
           (double)median(took, bursts) / BURST);
    fal_device_close(device);
    fal_segment_free(&arena);
    free(took);
    return 0;
}
