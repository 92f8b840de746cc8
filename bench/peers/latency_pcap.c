/* latency_pcap DEVICE COUNT sleep|spin v2|v3: a program of libpcap's that takes so many frames.
 *
 * v2: immediate mode, which is TPACKET_V2 and wakes the reader for each packet.  v3: as by default,
 * in blocks, with the shortest time-out.  sleep: waits in poll, in pcap_dispatch; spin: never waits.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <pcap/pcap.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>

#include "latency.h"

static struct latency found;
static bool more = true;
static uint64_t last;

static void take(u_char *user, const struct pcap_pkthdr *header, const u_char *data) {
    (void)user;
    if (more)
        more = latency_note(&found, data, header->caplen);
    last = now_ns(CLOCK_MONOTONIC);
}

int main(int argc, char **argv) {
    char text[PCAP_ERRBUF_SIZE];
    if (argc != 5) {
        fprintf(stderr, "usage: latency_pcap DEVICE COUNT sleep|spin v2|v3\n");
        return 1;
    }
    bool spin = !strcmp(argv[3], "spin");
    pcap_t *p = pcap_create(argv[1], text);
    if (!p || pcap_set_snaplen(p, 2048) || pcap_set_promisc(p, 1) || pcap_set_timeout(p, 1) ||
        pcap_set_buffer_size(p, 8 << 20) || pcap_set_immediate_mode(p, !strcmp(argv[4], "v2")) ||
        pcap_activate(p) < 0 || (spin && pcap_setnonblock(p, 1, text) < 0)) {
        fprintf(stderr, "latency_pcap: %s\n", p ? pcap_geterr(p) : text);
        return 1;
    }
    pcap_setdirection(p, PCAP_D_IN);
    latency_begin(&found, (uint32_t)atoi(argv[2]));
    last = now_ns(CLOCK_MONOTONIC);
    struct pollfd in = {.fd = pcap_get_selectable_fd(p), .events = POLLIN};
    while (more && now_ns(CLOCK_MONOTONIC) - last < 2000000000) {
        if (!spin)
            poll(&in, 1, 2000);
        if (pcap_dispatch(p, -1, take, NULL) == 0 && spin)
            sched_yield(); /* as FAL's worker does */
    }
    pcap_close(p);
    latency_end(&found);
    return 0;
}
