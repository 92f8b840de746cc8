/* What the programs of the benchmarks share: a core of one's own, the time, whether the core was
 * one's own indeed, and medians.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#include <immintrin.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* Binds the calling thread to one CPU, or ends the program. */
static inline void pin(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set)) {
        perror("sched_setaffinity");
        exit(1);
    }
}

static inline uint64_t now_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* A stretch of one thread's time, in nanoseconds: by the wall, and what it had of its CPU. */
struct stretch {
    uint64_t wall, cpu;
};

static inline struct stretch stretch_begin(void) {
    return (struct stretch){now_ns(CLOCK_MONOTONIC), now_ns(CLOCK_THREAD_CPUTIME_ID)};
}

static inline struct stretch stretch_end(struct stretch begun) {
    struct stretch now = stretch_begin();
    return (struct stretch){now.wall - begun.wall, now.cpu - begun.cpu};
}

/* The share of it in which the thread was off its CPU, 0 to 1. */
static inline double stretch_off(struct stretch s) {
    return s.cpu < s.wall ? 1 - (double)s.cpu / (double)s.wall : 0;
}

static inline void back_off(uint32_t pauses) {
    while (pauses--)
        _mm_pause();
}

static inline int compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Sorts them. */
static inline uint64_t median(uint64_t *values, uint32_t n) {
    qsort(values, n, sizeof *values, compare);
    return values[n / 2];
}

#endif
