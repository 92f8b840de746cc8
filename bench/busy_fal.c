/* busy_fal DEVICE STEPS GROUP: a worker of FAL's, in a group by hash.
 * SPDX-License-Identifier: BSD-3-Clause */
#include "busy.h"
#include "fal.h"

int main(int argc, char **argv) {
    struct fal_error err;
    struct fal_batch batch;
    struct fal_stats stats;
    if (argc != 4) {
        fprintf(stderr, "usage: busy_fal DEVICE STEPS GROUP\n");
        return 1;
    }
    uint32_t steps = (uint32_t)atoi(argv[2]);
    struct fal_socket *s = fal_open(8192, &err);
    if (!s || fal_join(s, atoi(argv[3]), "hash", &err) < 0 || fal_attach(s, argv[1], &err) < 0 ||
        fal_start(s, &err) < 0) {
        fprintf(stderr, "busy_fal: %s\n", err.text);
        return 1;
    }
    busy_begin();
    uint64_t processed = 0;
    while (!busy_ended) {
        if (fal_wait(s, 100, &err) < 0 && !busy_ended) {
            fprintf(stderr, "busy_fal: %s\n", err.text);
            return 1;
        }
        while (!busy_ended && fal_receive(s, 64, &batch) > 0) {
            for (uint32_t i = 0; i < batch.count; i++) {
                if (i + 1 < batch.count) /* while the worker works on this one */
                    __builtin_prefetch(batch.frames + batch.packets[i + 1].offset);
                busy_work(batch.frames + batch.packets[i].offset, steps);
            }
            processed += batch.count;
        }
    }
    fal_stats(s, &stats);
    busy_report(processed, stats.recv + stats.drop);
    fal_close(s);
    return 0;
}
