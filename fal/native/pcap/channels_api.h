/* Part of pcap/fanout.h: the channels of a device, and the CPUs that serve their interrupts.
 *
 *     struct pcap_channels ch = {.combined_count = 2};
 *     cpu_set_t cpus;                                                 (CPU_SET wants _GNU_SOURCE)
 *     CPU_ZERO(&cpus);
 *     CPU_SET(3, &cpus);
 *     if (pcap_set_channels("eth0", &ch, PCAP_COMBINED_CHANNELS, errbuf) != 1 ||
 *         pcap_channel_setaffinity("eth0", 0, &cpus) != 1) …
 *
 * All return 1, or -1 and errno; errbuf (PCAP_ERRBUF_SIZE bytes, or NULL) then says what, and what
 * to do.  What they change is the device's, and stays.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_PCAP_CHANNELS_API_H
#define FAL_PCAP_CHANNELS_API_H

#include <sched.h>

#include "channels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Sets those counts that the mask names, in one request, where they are others now. */
int pcap_set_channels(const char *dev, const struct pcap_channels *ch, int mask, char *errbuf);
int pcap_get_channels(const char *dev, struct pcap_channels *ch, char *errbuf);

/* The number of a channel's interrupt (not 1), or -1.  mode: PCAP_RX_CHANNELS, by which it receives,
 * PCAP_TX_CHANNELS, by which it sends, PCAP_COMBINED_CHANNELS, by which it does both: where each has
 * its own, that by which it receives. */
int pcap_irq_lookup(const char *dev, int channel, int mode, char *errbuf);
int pcap_irq_setaffinity(unsigned int irq, const cpu_set_t *cpus, char *errbuf);
int pcap_irq_getaffinity(unsigned int irq, cpu_set_t *cpus, char *errbuf);

/* All interrupts of a channel: the CPUs of any of them. */
int pcap_channel_setaffinity(const char *dev, int channel, const cpu_set_t *cpus);
int pcap_channel_getaffinity(const char *dev, int channel, cpu_set_t *cpus);

/* Those of a mode, as in pcap_irq_lookup, which the two above may be called for, with five
 * arguments. */
int pcap_channel_setaffinity_mode(const char *dev, int channel, int mode, const cpu_set_t *cpus,
                                  char *errbuf);
int pcap_channel_getaffinity_mode(const char *dev, int channel, int mode, cpu_set_t *cpus,
                                  char *errbuf);

#define PCAP_3_OR_5(a, b, c, d, e, function, ...) function
#define pcap_channel_setaffinity(...)                                                              \
    PCAP_3_OR_5(__VA_ARGS__, pcap_channel_setaffinity_mode,                                        \
                pcap_channel_setaffinity_takes_3_or_5_arguments, pcap_channel_setaffinity, 0)      \
    (__VA_ARGS__)
#define pcap_channel_getaffinity(...)                                                              \
    PCAP_3_OR_5(__VA_ARGS__, pcap_channel_getaffinity_mode,                                        \
                pcap_channel_getaffinity_takes_3_or_5_arguments, pcap_channel_getaffinity, 0)      \
    (__VA_ARGS__)

#ifdef __cplusplus
}
#endif
#endif
