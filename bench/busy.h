/* What the busy workers share: work of so much of a CPU's time a packet, and what they report.
 *
 * The work is a chain of multiplications, so many a packet: a clock would count the time, too, in
 * which the worker had no CPU.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef BENCH_BUSY_H
#define BENCH_BUSY_H

#include <signal.h>
#include <stdbool.h>

#include "measure.h"

static volatile sig_atomic_t busy_ended;

static inline void busy_end(int number) {
    (void)number;
    busy_ended = 1;
}

/* Reads the first bytes of a packet, and works on. */
static inline uint64_t busy_work(const uint8_t *packet, uint32_t steps) {
    uint64_t x = packet[0];
    while (steps--)
        x = x * 6364136223846793005u + 1;
    __asm__ volatile("" : "+r"(x));
    return x;
}

/* SIGTERM ends the worker; it is ready. */
static inline void busy_begin(void) {
    struct sigaction action = {.sa_handler = busy_end}; /* interrupts what waits */
    sigaction(SIGTERM, &action, NULL);
    fprintf(stderr, "ready\n");
}

/* How many it worked on, and how many were for it, whether its ring had room or not. */
static inline void busy_report(uint64_t processed, uint64_t meant) {
    printf("{\"processed\": %llu, \"meant\": %llu}\n", (unsigned long long)processed,
           (unsigned long long)meant);
}

#endif
