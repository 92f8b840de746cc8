/* All workers of all groups on a fal-poller's device, in turn on one thread, so that the scheduler has no
 * part in it: what the poller does in a second, and what a packet costs a worker.
 *
 *   reader DEVICE GROUPS WORKERS BYTES SECONDS CPU
 *
 * WORKERS in each group, each by hash.  Of each packet the first BYTES are read (and all that is
 * there, if it is shorter).
 * SPDX-License-Identifier: BSD-3-Clause */
#include <string.h>
#include <unistd.h>

#include "fal.h"
#include "measure.h"

#define BURST 64
#define WARM  0.05 /* seconds */

static struct fal_socket *sockets[FAL_MAX_SOCKETS];
static uint32_t count, bytes;
static volatile uint64_t bits; /* so that all that is read is wanted */

static void check(int result, const struct fal_error *err) {
    if (result < 0) {
        fprintf(stderr, "reader: %s\n", err->text);
        exit(1);
    }
}

static uint64_t read_packet(const uint8_t *packet, uint32_t length) {
    uint64_t word, sum = 0;
    length = length < bytes ? length : bytes;
    for (uint32_t at = 0; at + sizeof word <= length; at += (uint32_t)sizeof word) {
        memcpy(&word, packet + at, sizeof word);
        sum ^= word;
    }
    return sum;
}

static uint32_t take(struct fal_socket *s) {
    struct fal_batch batch;
    int n = fal_receive(s, BURST, &batch);
    uint64_t sum = 0;
    for (int i = 0; i < n; i++) {
        if (i + 4 < n)
            __builtin_prefetch(batch.frames + batch.packets[i + 4].offset);
        sum ^= read_packet(batch.frames + batch.packets[i].offset, batch.packets[i].caplen);
    }
    fal_release(s);
    bits ^= sum;
    return n > 0 ? (uint32_t)n : 0;
}

/* What the poller has done: packets for all groups, and of them lost. */
static void handled(uint64_t *packets, uint64_t *lost) {
    *packets = *lost = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct fal_stats stats;
        if (fal_stats(sockets[i], &stats))
            exit(1);
        *packets += stats.recv + stats.drop;
        *lost += stats.drop;
    }
}

/* Reads for so many seconds, and until something came; returns how many packets, and the nanoseconds
 * in which there were any. */
static uint64_t read_for(double seconds, uint64_t *busy) {
    uint64_t begun = now_ns(CLOCK_MONOTONIC), before = begun, taken = 0;
    *busy = 0;
    while (!taken || (double)(before - begun) < seconds * 1e9) {
        for (uint32_t i = 0; i < count; i++) {
            uint32_t n = take(sockets[i]);
            uint64_t now = now_ns(CLOCK_MONOTONIC);
            taken += n;
            *busy += n ? now - before : 0;
            before = now;
        }
    }
    return taken;
}

int main(int argc, char **argv) {
    if (argc != 7) {
        fprintf(stderr, "usage: reader DEVICE GROUPS WORKERS BYTES SECONDS CPU\n");
        return 1;
    }
    struct fal_error err;
    uint32_t groups = (uint32_t)atoi(argv[2]), workers = (uint32_t)atoi(argv[3]);
    count = groups * workers;
    bytes = (uint32_t)atoi(argv[4]);
    if (!count || count > FAL_MAX_SOCKETS)
        return 1;
    pin(atoi(argv[6]));
    for (uint32_t i = 0; i < count; i++) {
        sockets[i] = fal_open(0, &err);
        check(sockets[i] ? 0 : -1, &err);
        check(fal_join(sockets[i], (int32_t)(i % groups), "hash", &err), &err);
        check(fal_attach(sockets[i], argv[1], &err), &err);
    }
    for (uint32_t i = 0; i < count; i++)
        check(fal_start(sockets[i], &err), &err);

    uint64_t packets, more, lost, lost_more, busy;
    read_for(WARM, &busy);
    handled(&packets, &lost);
    struct stretch begun = stretch_begin();
    uint64_t taken = read_for(atof(argv[5]), &busy);
    struct stretch took = stretch_end(begun);
    handled(&more, &lost_more);
    printf("{\"poller_ns\": %.3f, \"lost\": %.4f, \"worker_ns\": %.3f, \"off\": %.4f}\n",
           (double)took.wall * groups / (double)(more - packets),
           (double)(lost_more - lost) / (double)(more - packets), (double)busy / (double)taken,
           stretch_off(took));
    for (uint32_t i = 0; i < count; i++)
        fal_close(sockets[i]);
    return 0;
}
