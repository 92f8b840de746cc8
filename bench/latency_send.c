/* latency_send DEVICE COUNT RATE: sends so many frames, so many a second, each with its time in it.
 *
 * Until the next one's time it sleeps, or, where that is too near, gives its core to whoever wants
 * it.  Prints which share of the frames went out later than half their distance.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

#include "latency.h"

#define NEAR_NS 200000 /* not to be slept: waking takes 50 us */

/* Returns the time. */
static uint64_t wait_until(uint64_t due, bool near) {
    const struct timespec at = {(time_t)(due / 1000000000), (long)(due % 1000000000)};
    uint64_t now;
    if (!near)
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
    while ((now = now_ns(CLOCK_MONOTONIC)) < due)
        sched_yield();
    return now;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: latency_send DEVICE COUNT RATE\n");
        return 1;
    }
    uint64_t count = strtoull(argv[2], NULL, 10), apart = 1000000000 / strtoull(argv[3], NULL, 10);
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(argv[1])};
    int s = socket(AF_PACKET, SOCK_RAW, 0);
    if (s < 0 || bind(s, (struct sockaddr *)&to, sizeof to) < 0) {
        perror("latency_send");
        return 1;
    }
    uint8_t frame[LATENCY_SIZE] = {
        2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, LATENCY_TYPE >> 8, LATENCY_TYPE & 255};
    uint64_t late = 0, due = now_ns(CLOCK_MONOTONIC);
    for (uint64_t i = 0; i < count; i++, due += apart) {
        uint64_t now = wait_until(due, apart < NEAR_NS);
        late += now > due + apart / 2;
        memcpy(frame + LATENCY_STAMP, &now, sizeof now);
        if (send(s, frame, sizeof frame, 0) != sizeof frame) {
            perror("latency_send");
            return 1;
        }
    }
    printf("{\"late\": %.4f}\n", (double)late / (double)count);
    return 0;
}
