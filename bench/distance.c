/* distance CPU CPU: prints the round trip of a cache line between two CPUs, in nanoseconds (the median
 * of 21 stretches of 2,000 trips).
 * SPDX-License-Identifier: BSD-3-Clause */
#include <pthread.h>

#include "measure.h"

#define STRETCHES 21
#define TRIPS     2000

static _Alignas(64) uint32_t ball; /* even: here, odd: at the other */
static int other_cpu;

static void *other(void *unused) {
    (void)unused;
    pin(other_cpu);
    for (uint32_t i = 0; i < STRETCHES * TRIPS; i++) {
        while (__atomic_load_n(&ball, __ATOMIC_ACQUIRE) != 2 * i + 1)
            ;
        __atomic_store_n(&ball, 2 * i + 2, __ATOMIC_RELEASE);
    }
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: distance CPU CPU\n");
        return 1;
    }
    other_cpu = atoi(argv[2]);
    pthread_t thread;
    if (pthread_create(&thread, NULL, other, NULL))
        return 1;
    pin(atoi(argv[1]));
    uint64_t ns[STRETCHES];
    uint32_t i = 0;
    for (uint32_t s = 0; s < STRETCHES; s++) {
        uint64_t begun = now_ns(CLOCK_MONOTONIC);
        for (uint32_t end = i + TRIPS; i < end; i++) {
            __atomic_store_n(&ball, 2 * i + 1, __ATOMIC_RELEASE);
            while (__atomic_load_n(&ball, __ATOMIC_ACQUIRE) != 2 * i + 2)
                ;
        }
        ns[s] = now_ns(CLOCK_MONOTONIC) - begun;
    }
    pthread_join(thread, NULL);
    printf("%.1f\n", (double)median(ns, STRETCHES) / TRIPS);
    return 0;
}
