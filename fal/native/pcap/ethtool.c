/* SPDX-License-Identifier: BSD-3-Clause */
#include "ethtool.h"

#include <errno.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* The four kinds, in the order in which both structures have their counts. */
#define KINDS 4
static const struct {
    unsigned int bit;
    const char *word;
} kinds[KINDS] = {
    {PCAP_RX_CHANNELS, "rx"},
    {PCAP_TX_CHANNELS, "tx"},
    {PCAP_OTHER_CHANNELS, "other"},
    {PCAP_COMBINED_CHANNELS, "combined"},
};

struct counts {
    uint32_t cmd, most[KINDS], now[KINDS];
};

_Static_assert(sizeof(struct counts) == sizeof(struct ethtool_channels) &&
                   offsetof(struct counts, now) == offsetof(struct ethtool_channels, rx_count) &&
                   sizeof(struct pcap_channels) == KINDS * sizeof(uint32_t),
               "the kernel's counts, and the paper's");

static int request(const char *device, uint32_t cmd, struct counts *counts) {
    struct ifreq r = {.ifr_data = (void *)counts};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0); /* needs neither privilege nor IP */
    if (fd < 0)
        return errno;
    counts->cmd = cmd;
    strcpy(r.ifr_name, device);
    int error = ioctl(fd, SIOCETHTOOL, &r) < 0 ? errno : 0;
    close(fd);
    return error;
}

static int get(const char *device, struct counts *counts, struct fal_error *err) {
    int named = *device && strlen(device) < IFNAMSIZ;
    int error = named ? request(device, ETHTOOL_GCHANNELS, counts) : ENODEV;
    switch (error) {
    case 0:
        return 0;
    case ENODEV:
        return fal_fail(err, ENODEV, "no device %.64s (see: ip link)", device);
    case EOPNOTSUPP:
        return fal_fail(err, EOPNOTSUPP, "the driver of %s counts no channels", device);
    default:
        return fal_fail(err, error, "cannot ask for the channels of %s: %s", device,
                        strerror(error));
    }
}

/* "4 rx, 4 tx": the kinds that there can be. */
static const char *words(const struct counts *counts, const uint32_t *count, char *text,
                         size_t size) {
    size_t at = 0;
    *text = 0;
    for (int i = 0; i < KINDS; i++)
        if (counts->most[i])
            at += (size_t)snprintf(text + at, size - at, "%s%u %s", at ? ", " : "", count[i],
                                   kinds[i].word);
    return text;
}

int fal_channels_get(const char *device, struct pcap_channels *channels, struct fal_error *err) {
    struct counts counts = {0};
    if (get(device, &counts, err) < 0)
        return -1;
    memcpy(channels, counts.now, sizeof *channels);
    return 0;
}

int fal_channels_set(const char *device, const struct pcap_channels *channels, unsigned int which,
                     struct fal_error *err) {
    struct counts counts = {0};
    uint32_t wanted[KINDS];
    char text[128];
    int other = 0;
    if (which & ~PCAP_ALL_CHANNELS)
        return fal_fail(err, EINVAL, "no channels have bit 0x%x: see PCAP_ALL_CHANNELS", which);
    if (get(device, &counts, err) < 0)
        return -1;
    memcpy(wanted, channels, sizeof wanted);
    for (int i = 0; i < KINDS; i++) {
        if (!(which & kinds[i].bit))
            continue;
        if (wanted[i] > counts.most[i])
            return fal_fail(err, EINVAL, "%s cannot have %u %s channels: %s at most", device,
                            wanted[i], kinds[i].word,
                            words(&counts, counts.most, text, sizeof text));
        other |= counts.now[i] != wanted[i];
        counts.now[i] = wanted[i];
    }
    int error = other ? request(device, ETHTOOL_SCHANNELS, &counts) : 0;
    if (error == EPERM)
        return fal_fail(err, EPERM, "setting the channels of %s needs CAP_NET_ADMIN", device);
    if (error)
        return fal_fail(err, error, "the driver of %s refuses to have %s channels: %s", device,
                        words(&counts, counts.now, text, sizeof text), strerror(error));
    return other;
}

int fal_channels_receiving(const char *device, struct fal_error *err) {
    struct counts counts = {0};
    if (get(device, &counts, err) < 0)
        return -1;
    return counts.most[3] ? PCAP_COMBINED_CHANNELS : PCAP_RX_CHANNELS;
}
