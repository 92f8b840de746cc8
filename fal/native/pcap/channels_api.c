/* The paper's functions about channels: the core's, in the paper's types.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <pcap/pcap.h>
#include <stdio.h>
#include <string.h>

#include "ethtool.h"
#include "irq.h"

#pragma GCC visibility push(default)
#include "channels_api.h"
#pragma GCC visibility pop

_Static_assert(sizeof(cpu_set_t) == sizeof(struct fal_cpus), "one may be copied to the other");

static int answer(int result, const struct fal_error *err, char *errbuf) {
    if (result >= 0)
        return 1;
    if (errbuf)
        snprintf(errbuf, PCAP_ERRBUF_SIZE, "%s", err->text);
    errno = err->code;
    return PCAP_ERROR;
}

int pcap_set_channels(const char *dev, const struct pcap_channels *ch, int mask, char *errbuf) {
    struct fal_error err;
    return answer(fal_channels_set(dev, ch, (unsigned)mask, &err), &err, errbuf);
}

int pcap_get_channels(const char *dev, struct pcap_channels *ch, char *errbuf) {
    struct fal_error err;
    return answer(fal_channels_get(dev, ch, &err), &err, errbuf);
}

int pcap_irq_lookup(const char *dev, int channel, int mode, char *errbuf) {
    struct fal_error err;
    unsigned irqs[FAL_CHANNEL_IRQS];
    int n = fal_channel_irqs("", dev, (unsigned)channel, (unsigned)mode, irqs, &err);
    return n < 0 ? answer(n, &err, errbuf) : (int)irqs[0];
}

int pcap_irq_setaffinity(unsigned irq, const cpu_set_t *cpus, char *errbuf) {
    struct fal_error err;
    struct fal_cpus set;
    memcpy(&set, cpus, sizeof set);
    return answer(fal_irq_setaffinity("", irq, &set, &err), &err, errbuf);
}

int pcap_irq_getaffinity(unsigned irq, cpu_set_t *cpus, char *errbuf) {
    struct fal_error err;
    struct fal_cpus set = {0};
    int result = fal_irq_getaffinity("", irq, &set, &err);
    memcpy(cpus, &set, sizeof set);
    return answer(result, &err, errbuf);
}

int pcap_channel_setaffinity_mode(const char *dev, int channel, int mode, const cpu_set_t *cpus,
                                  char *errbuf) {
    struct fal_error err;
    struct fal_cpus set;
    memcpy(&set, cpus, sizeof set);
    int result = fal_channel_setaffinity("", dev, (unsigned)channel, (unsigned)mode, &set, &err);
    return answer(result, &err, errbuf);
}

int pcap_channel_getaffinity_mode(const char *dev, int channel, int mode, cpu_set_t *cpus,
                                  char *errbuf) {
    struct fal_error err;
    struct fal_cpus set = {0};
    int result = fal_channel_getaffinity("", dev, (unsigned)channel, (unsigned)mode, &set, &err);
    memcpy(cpus, &set, sizeof set);
    return answer(result, &err, errbuf);
}

int(pcap_channel_setaffinity)(const char *dev, int channel, const cpu_set_t *cpus) {
    return pcap_channel_setaffinity_mode(dev, channel, PCAP_COMBINED_CHANNELS, cpus, NULL);
}

int(pcap_channel_getaffinity)(const char *dev, int channel, cpu_set_t *cpus) {
    return pcap_channel_getaffinity_mode(dev, channel, PCAP_COMBINED_CHANNELS, cpus, NULL);
}
