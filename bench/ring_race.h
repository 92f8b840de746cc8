/* Two pinned processes and a ring: how many descriptors a second go through it.  The same for all
 * rings: a file says what it is (RING_BYTES, ring_make, ring_put, ring_take), then includes this.
 *
 *   PROGRAM BATCH PAUSE_FULL PAUSE_EMPTY SECONDS [CPU CPU]
 *
 * The producer fills in every field of every descriptor, the consumer reads each of them and adds
 * up five fields.  A side that finds the ring full, or empty, pauses so many times before it looks
 * again.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef BENCH_RING_RACE_H
#define BENCH_RING_RACE_H

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "measure.h"

#define RING_SLOTS 4096
#define MAX_BATCH  64

/* How many of `batch` went in, or were taken; the sum is of what was read. */
static uint32_t ring_put(uint32_t batch, uint64_t number);
static uint32_t ring_take(uint32_t batch, uint64_t *sum);

static inline void fill_in(struct fal_desc *d, uint64_t number) {
    *d = (struct fal_desc){
        .ts_ns = number,
        .offset = number << 11,
        .len = 60,
        .hash = (uint32_t)number,
        .caplen = 60,
        .flags = FAL_DESC_FIRST,
        .queue = 1,
    };
}

static inline uint64_t read_out(const struct fal_desc *d) {
    return d->ts_ns + d->offset + d->len + d->caplen + d->flags;
}

static struct shared {
    uint64_t begin, end; /* written by the producer: `end` is how many there are in all, + 1 */
    uint64_t sum, off_permille, taken;
} * shared;

static void consume(uint32_t batch, uint32_t pauses) {
    uint64_t taken = 0, sum = 0, end = 0;
    while (!__atomic_load_n(&shared->begin, __ATOMIC_ACQUIRE))
        ;
    struct stretch begun = stretch_begin();
    while (end == 0 || taken + 1 < end) {
        uint32_t n = ring_take(batch, &sum);
        taken += n;
        if (!n) {
            end = __atomic_load_n(&shared->end, __ATOMIC_ACQUIRE);
            back_off(pauses);
        }
    }
    shared->off_permille = (uint64_t)(1000 * stretch_off(stretch_end(begun)));
    shared->sum = sum;
    shared->taken = taken;
}

int main(int argc, char **argv) {
    if (argc != 5 && argc != 7) {
        fprintf(stderr, "usage: %s BATCH PAUSE_FULL PAUSE_EMPTY SECONDS [CPU CPU]\n", argv[0]);
        return 1;
    }
    uint32_t batch = (uint32_t)atoi(argv[1]), full = (uint32_t)atoi(argv[2]);
    double seconds = atof(argv[4]);
    if (batch < 1 || batch > MAX_BATCH)
        return 1;
    uint8_t *memory = mmap(NULL, sizeof *shared + RING_BYTES + 4096, PROT_READ | PROT_WRITE,
                           MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED)
        return 1;
    shared = (struct shared *)memory;
    ring_make(memory + 4096);
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* it waits for whatever comes */
        pin(argc == 7 ? atoi(argv[6]) : 1);
        consume(batch, (uint32_t)atoi(argv[3]));
        _exit(0);
    }
    pin(argc == 7 ? atoi(argv[5]) : 0);
    usleep(20000);
    __atomic_store_n(&shared->begin, 1, __ATOMIC_RELEASE);
    struct stretch begun = stretch_begin(), took;
    uint64_t number = 0;
    do {
        for (uint32_t i = 0; i < 4096; i++) {
            uint32_t n = ring_put(batch, number);
            number += n;
            if (n == 0)
                back_off(full);
        }
        took = stretch_end(begun);
    } while ((double)took.wall < seconds * 1e9);
    __atomic_store_n(&shared->end, number + 1, __ATOMIC_RELEASE);
    int status;
    if (waitpid(child, &status, 0) != child || status) {
        fprintf(stderr, "the consumer failed\n");
        return 1;
    }
    /* number = 0 … n - 1 of 60 + 60 + FIRST and (1 + 2048) number each */
    uint64_t sum = number * (120 + FAL_DESC_FIRST) + 2049 * (number * (number - 1) / 2);
    if (shared->taken != number || shared->sum != sum) {
        fprintf(stderr, "what was read is not what was written\n");
        return 1;
    }
    double off = (double)shared->off_permille / 1000, own = stretch_off(took);
    printf("{\"rate\": %.0f, \"off\": %.4f}\n", (double)number * 1e9 / (double)took.wall,
           off > own ? off : own);
    return 0;
}

#endif
