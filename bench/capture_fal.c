/* Workers of a fal-poller, in one group.
 *
 *   PROGRAM CPU WORKERS DEVICE MODE
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>

#include "fal.h"
#include "workers.h"

#define GROUP 1
#define BATCH 64

static void work(int argc, char **argv, struct tally *t) {
    struct fal_error err = {0};
    struct fal_batch batch;
    struct fal_socket *s = argc > 4 ? fal_open(0, &err) : NULL;
    if (!s || fal_attach(s, argv[3], &err) < 0 || fal_join(s, GROUP, argv[4], &err) < 0 ||
        fal_start(s, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    set_up();
    for (;;) {
        int n = fal_receive(s, BATCH, &batch);
        for (int i = 0; i < n; i++)
            read_packet(t, batch.frames + batch.packets[i].offset, batch.packets[i].len);
        if (n)
            continue;
        if (ended)
            break;
        if (fal_wait(s, WAIT_MS, &err) < 0 && err.code != EINTR) {
            fprintf(stderr, "%s\n", err.text);
            exit(1);
        }
    }
    fal_close(s);
}
