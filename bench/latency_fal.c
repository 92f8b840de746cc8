/* latency_fal DEVICE COUNT sleep|spin: a worker of FAL's that takes so many frames.
 * sleep: waits as programs do, by fal_wait; spin: receives again and again.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <stdbool.h>
#include <string.h>

#include "fal.h"
#include "latency.h"

int main(int argc, char **argv) {
    struct fal_error err;
    struct fal_batch batch;
    struct latency found;
    if (argc != 4) {
        fprintf(stderr, "usage: latency_fal DEVICE COUNT sleep|spin\n");
        return 1;
    }
    bool spin = !strcmp(argv[3], "spin");
    struct fal_socket *s = fal_open(0, &err);
    if (!s || fal_attach(s, argv[1], &err) < 0 || fal_start(s, &err) < 0) {
        fprintf(stderr, "latency_fal: %s\n", err.text);
        return 1;
    }
    latency_begin(&found, (uint32_t)atoi(argv[2]));
    uint64_t last = now_ns(CLOCK_MONOTONIC);
    bool more = true;
    while (more && now_ns(CLOCK_MONOTONIC) - last < 2000000000) {
        if (spin)
            sched_yield(); /* the poller may be on this core */
        else if (fal_wait(s, 2000, &err) < 0)
            break;
        while (more && fal_receive(s, 64, &batch) > 0) {
            for (uint32_t i = 0; more && i < batch.count; i++)
                more = latency_note(&found, batch.frames + batch.packets[i].offset,
                                    batch.packets[i].caplen);
            last = now_ns(CLOCK_MONOTONIC);
        }
    }
    fal_close(s);
    latency_end(&found);
    return 0;
}
