/* Packets made in memory, fanned out by one core to two workers on another: how many a second.  What
 * all sides share: the packets, what a worker does with one, and the account at the end.
 *
 *   PROGRAM BURST PAUSES SECONDS [CPU CPU]
 *
 * The source writes 4096 packets of 64 bytes, of as many flows, into 4096 buffers before the race, as
 * a NIC's DMA would, and then hands them out in the order in which they came back to it: no core
 * writes a packet in the race.  A worker reads the packet's only cache line.  One thread on the
 * second core is both workers in turn, so that the scheduler has no part in it; it pauses so many
 * times when it has found nothing for either.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef BENCH_FANOUT_RACE_H
#define BENCH_FANOUT_RACE_H

#include "measure.h"
#include "mix.h"

#define PACKETS   4096 /* buffers too */
#define WORKERS   2
#define MAX_BURST 64
#define MEGABYTES 64 /* that DPDK is given */

/* Whether so many megabytes of huge pages are free: then both sides use them, else neither. */
static inline int huge_pages(void) {
    FILE *f = fopen("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "re");
    unsigned long long pages = 0;
    if (f) {
        if (fscanf(f, "%llu", &pages) != 1)
            pages = 0;
        fclose(f);
    }
    return 2 * pages >= MEGABYTES;
}

/* What went out, and what came to the workers. */
struct account {
    uint64_t packets, sum; /* of their numbers */
};

/* Reads all of a packet. */
static inline void read_packet(const uint8_t *packet, struct account *a, uint64_t *bits) {
    uint64_t words[PACKET_SIZE / 8];
    memcpy(words, packet, sizeof words);
    for (int i = 0; i < PACKET_SIZE / 8; i++)
        *bits ^= words[i];
    a->packets++;
    a->sum += words[PACKET_SIZE / 8 - 1] >> 48;
}

/* Between the two cores. */
struct race {
    uint64_t ready;      /* written by the workers */
    uint64_t end;        /* by the source: how many packets there are in all, + 1 */
    struct account came; /* by the workers, at their end */
    uint64_t bits;       /* so that all that was read is wanted */
    double off;
};

/* Which packets of one worker have come: at most so many. */
static uint32_t take(uint32_t worker, uint32_t burst, struct account *came, uint64_t *bits);

static inline void work(struct race *race, uint32_t burst, uint32_t pauses) {
    struct account came = {0};
    uint64_t end = 0, bits = 0;
    __atomic_store_n(&race->ready, 1, __ATOMIC_RELEASE);
    while (!take(0, burst, &came, &bits) && !take(1, burst, &came, &bits))
        if (__atomic_load_n(&race->end, __ATOMIC_ACQUIRE))
            break;
    struct stretch begun = stretch_begin();
    while (end == 0 || came.packets + 1 < end) {
        uint32_t n = 0;
        for (uint32_t w = 0; w < WORKERS; w++)
            n += take(w, burst, &came, &bits);
        if (!n) {
            end = __atomic_load_n(&race->end, __ATOMIC_ACQUIRE);
            back_off(pauses);
        }
    }
    race->off = stretch_off(stretch_end(begun));
    race->bits = bits;
    race->came = came;
}

/* Prints the result, once the workers have ended; returns the program's.  `stride`: how far the
 * packets lie apart, in bytes. */
static inline int account(const struct race *race, struct account out, struct stretch took,
                          unsigned stride) {
    if (race->came.packets != out.packets || race->came.sum != out.sum) {
        fprintf(stderr, "%llu packets came of %llu, or not the same\n",
                (unsigned long long)race->came.packets, (unsigned long long)out.packets);
        return 1;
    }
    double off = stretch_off(took) > race->off ? stretch_off(took) : race->off;
    printf("{\"rate\": %.0f, \"off\": %.4f, \"stride\": %u}\n",
           (double)out.packets * 1e9 / (double)took.wall, off, stride);
    return 0;
}

#endif
