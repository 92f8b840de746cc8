/* busy_send DEVICE COUNT RATE: sends so many frames of 60 bytes, of 4096 flows of UDP in turn, so many
 * a second, by sendmmsg.
 *
 * Until the next 16 are due it gives its CPU to whoever wants it.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <linux/if_packet.h>
#include <net/if.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "measure.h"

#define FLOWS  4096
#define BURST  16
#define LENGTH 60

static uint8_t frame[FLOWS][LENGTH];

/* 10.0.x.y:1024 + flow -> 10.1.0.1:53; without a UDP checksum. */
static void make(uint8_t *f, uint32_t flow) {
    static const uint8_t begin[] = {2,  0, 0, 0, 0, 2,  2,  0, 0, 0,  0, 1, 8, 0,  0x45, 0, 0,
                                    46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 0, 10, 1,    0, 1};
    memcpy(f, begin, sizeof begin);
    f[28] = (uint8_t)(flow >> 8);
    f[29] = (uint8_t)flow;
    uint32_t sum = 0, port = 1024 + flow;
    for (int i = 14; i < 34; i += 2)
        sum += (uint32_t)(f[i] << 8 | f[i + 1]);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = ~(sum + (sum >> 16));
    f[24] = (uint8_t)(sum >> 8);
    f[25] = (uint8_t)sum;
    f[34] = (uint8_t)(port >> 8);
    f[35] = (uint8_t)port;
    f[37] = 53;
    f[39] = LENGTH - 34;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: busy_send DEVICE COUNT RATE\n");
        return 1;
    }
    uint64_t count = strtoull(argv[2], NULL, 10), rate = strtoull(argv[3], NULL, 10);
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(argv[1])};
    int s = socket(AF_PACKET, SOCK_RAW, 0);
    if (s < 0 || bind(s, (struct sockaddr *)&to, sizeof to) < 0) {
        perror("busy_send");
        return 1;
    }
    for (uint32_t i = 0; i < FLOWS; i++)
        make(frame[i], i);
    uint64_t sent = 0, begun = now_ns(CLOCK_MONOTONIC);
    while (sent < count) {
        struct iovec data[BURST];
        struct mmsghdr message[BURST] = {0};
        for (uint32_t i = 0; i < BURST; i++) {
            data[i] = (struct iovec){frame[(sent + i) % FLOWS], LENGTH};
            message[i].msg_hdr = (struct msghdr){.msg_iov = &data[i], .msg_iovlen = 1};
        }
        while (now_ns(CLOCK_MONOTONIC) - begun < sent * 1000000000 / rate)
            sched_yield();
        int n = sendmmsg(s, message, BURST, 0);
        if (n < 0) {
            perror("busy_send");
            return 1;
        }
        sent += (uint64_t)n;
    }
    printf("{\"sent\": %llu, \"cpu\": %.4f}\n", (unsigned long long)sent,
           (double)now_ns(CLOCK_THREAD_CPUTIME_ID) / 1e9);
    return 0;
}
