/* Worker processes on one CPU that read packets until SIGTERM, and what they read, as JSON.  A file
 * says what a worker does (work), then includes this.
 *
 *   PROGRAM CPU WORKERS …
 *
 * "ready" is said on stderr when all are set up.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef BENCH_WORKERS_H
#define BENCH_WORKERS_H

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "measure.h"

#define MOST_WORKERS 64
#define WAIT_MS      50 /* how late a worker may see that it is to end */

/* Of one worker. */
struct tally {
    uint64_t packets, bytes;
    uint64_t sum;     /* of a byte of the first cache line of each */
    uint64_t dropped; /* that found no room, as the kernel counted; 0: counted elsewhere */
    uint64_t padding[4];
};

static volatile sig_atomic_t ended; /* SIGTERM came: read what is there, and return */

/* Calls set_up() once it can be sent to. */
static void work(int argc, char **argv, struct tally *t);

static int told; /* a pipe: a byte for each worker that is set up */

static void set_up(void) {
    if (write(told, "", 1) != 1)
        exit(1);
}

static inline void read_packet(struct tally *t, const uint8_t *data, uint32_t length) {
    t->sum += data[26]; /* the first of an IPv4 source address */
    t->bytes += length;
    t->packets++;
}

static void fault(const char *what) {
    perror(what);
    exit(1);
}

static void end(int number) {
    (void)number;
    ended = 1;
}

int main(int argc, char **argv) {
    pid_t pid[MOST_WORKERS];
    int ready[2], workers = argc > 2 ? atoi(argv[2]) : 0;
    const struct sigaction action = {.sa_handler = end}; /* no SA_RESTART */
    struct tally *tally = mmap(NULL, MOST_WORKERS * sizeof *tally, PROT_READ | PROT_WRITE,
                               MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (workers < 1 || workers > MOST_WORKERS || tally == MAP_FAILED || pipe(ready) < 0)
        fault(argv[0]);
    told = ready[1];
    pin(atoi(argv[1]));
    sigaction(SIGTERM, &action, NULL);
    for (int i = 0; i < workers; i++) {
        pid[i] = fork();
        if (pid[i] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            work(argc, argv, &tally[i]);
            return 0;
        }
        char byte;
        struct pollfd set_up_or_gone = {.fd = ready[0], .events = POLLIN};
        while (poll(&set_up_or_gone, 1, 100) == 0)
            if (waitpid(pid[i], NULL, WNOHANG))
                return 1;
        if (read(ready[0], &byte, 1) != 1)
            fault("read");
    }
    fprintf(stderr, "ready\n");
    while (!ended)
        usleep(1000);
    struct tally all = {0};
    printf("{\"packets\": [");
    for (int i = 0; i < workers; i++) {
        int status;
        kill(pid[i], SIGTERM);
        while (waitpid(pid[i], &status, 0) < 0)
            ;
        if (status)
            fault("a worker failed");
        printf("%s%lu", i ? ", " : "", tally[i].packets);
        all.bytes += tally[i].bytes;
        all.sum += tally[i].sum;
        all.dropped += tally[i].dropped;
    }
    printf("], \"bytes\": %lu, \"sum\": %lu, \"dropped\": %lu}\n", all.bytes, all.sum, all.dropped);
    return 0;
}

#endif
