/* A worker for the tests: quick to start, and it behaves as it is told.
 *
 *     worker DEVICE GROUP MODE RING HOW COUNT
 *
 * GROUP -1: none; MODE "-": as the group is; COUNT 0: for ever.  HOW: "hold" never reads, "spin"
 * reads without waiting, "read" waits; a number does that too, and naps so many microseconds after
 * each batch.  It says "started", and at the end how many packets it had and what ended it.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <fal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    struct fal_error err = {0};
    struct fal_batch batch;
    if (argc != 7)
        return 2;
    int group = atoi(argv[2]), nap = atoi(argv[5]);
    const char *mode = strcmp(argv[3], "-") ? argv[3] : NULL;
    int waits = strcmp(argv[5], "spin") != 0;
    unsigned long long packets = 0, count = strtoull(argv[6], NULL, 10);

    struct fal_socket *s = fal_open((uint32_t)atoi(argv[4]), &err);
    if (!s || (group >= 0 && fal_join(s, group, mode, &err)) || fal_attach(s, argv[1], &err) ||
        fal_start(s, &err)) {
        printf("%s\n", err.text);
        return 1;
    }
    puts("started");
    fflush(stdout);
    while (!strcmp(argv[5], "hold"))
        pause();
    while (!count || packets < count) {
        while (fal_receive(s, 1024, &batch) > 0) {
            packets += batch.count;
            if (nap)
                usleep((useconds_t)nap);
        }
        if (waits && (!count || packets < count) && fal_wait(s, -1, &err) < 0)
            break;
    }
    printf("%llu %d\n", packets, err.code);
    fal_close(s);
    return 0;
}
