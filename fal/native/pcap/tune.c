/* SPDX-License-Identifier: BSD-3-Clause */
#include "tune.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "ethtool.h"
#include "irq.h"

#define WHERE 128 /* bytes */

/* "/etc/pcap.conf:3", "PCAP_IRQ_eth0_0" */
static const char *where(const struct fal_pcap_setting *s, char *text) {
    snprintf(text, WHERE, s->line ? "%.100s:%u" : "%.100s", s->source, s->line);
    return text;
}

static int fail(const struct fal_pcap_setting *s, const struct fal_error *why,
                struct fal_error *err) {
    char text[WHERE];
    return fal_fail(err, why->code, "%s: %.*s", where(s, text), FAL_ERROR_TEXT - WHERE, why->text);
}

/* ---- channels -------------------------------------------------------------------------------- */

/* Of which kind a setting is: PCAP_…_CHANNELS; 0: it is of something else; -1 and *err. */
static int kind_of(const struct fal_pcap_setting *s, const char *device, struct fal_error *err) {
    switch (s->key) {
    case FAL_PCAP_CHANNELS:
        return fal_channels_receiving(device, err);
    case FAL_PCAP_RX_CHANNELS:
        return PCAP_RX_CHANNELS;
    case FAL_PCAP_TX_CHANNELS:
        return PCAP_TX_CHANNELS;
    case FAL_PCAP_COMBINED_CHANNELS:
        return PCAP_COMBINED_CHANNELS;
    case FAL_PCAP_OTHER_CHANNELS:
        return PCAP_OTHER_CHANNELS;
    default:
        return 0;
    }
}

static void put(struct pcap_channels *channels, int kind, unsigned count) {
    if (kind == PCAP_RX_CHANNELS)
        channels->rx_count = count;
    if (kind == PCAP_TX_CHANNELS)
        channels->tx_count = count;
    if (kind == PCAP_COMBINED_CHANNELS)
        channels->combined_count = count;
    if (kind == PCAP_OTHER_CHANNELS)
        channels->other_count = count;
}

/* All in one request: a driver may have no room for more of one kind before there are less of
 * another. */
static int tune_channels(const struct fal_pcap_config *c, const char *device,
                         struct fal_error *err) {
    struct pcap_channels old, new = {0};
    const struct fal_pcap_setting *s, *last = NULL;
    struct fal_error why;
    unsigned which = 0;
    char text[WHERE];
    for (uint32_t i = 0; (s = fal_pcap_config_setting(c, i)); i++) {
        int kind = fal_pcap_setting_names(s, device) ? kind_of(s, device, &why) : 0;
        if (kind < 0)
            return fail(s, &why, err);
        if (kind == 0)
            continue;
        put(&new, kind, s->number);
        which |= (unsigned)kind;
        last = s;
    }
    if (!last)
        return 0;
    int changed = fal_channels_get(device, &old, &why);
    if (changed == 0)
        changed = fal_channels_set(device, &new, which, &why);
    if (changed < 0 || fal_channels_get(device, &new, &why) < 0)
        return fail(last, &why, err);
    if (changed)
        syslog(LOG_INFO,
               "%s: has %u rx, %u tx, %u other, %u combined channels now, by %s; it had %u, %u, "
               "%u, %u",
               device, new.rx_count, new.tx_count, new.other_count, new.combined_count,
               where(last, text), old.rx_count, old.tx_count, old.other_count, old.combined_count);
    return 0;
}

/* ---- interrupts ------------------------------------------------------------------------------ */

static int tune_irq(const char *root, const struct fal_pcap_setting *s, const char *device,
                    struct fal_error *err) {
    struct fal_error why;
    struct fal_cpus old, new;
    char text[WHERE], was[FAL_CPUS_TEXT], is[FAL_CPUS_TEXT];
    unsigned channel = (unsigned)s->index;
    int changed = -1;
    if (fal_cpus_parse(s->value, &new, &why) == 0 &&
        fal_channel_getaffinity(root, device, channel, PCAP_COMBINED_CHANNELS, &old, &why) == 0)
        changed =
            fal_channel_setaffinity(root, device, channel, PCAP_COMBINED_CHANNELS, &new, &why);
    if (changed < 0)
        return fail(s, &why, err);
    if (changed)
        syslog(LOG_INFO, "%s: channel %u is served by CPUs %.200s now, by %s; it was by %.200s",
               device, channel, fal_cpus_text(&new, is), where(s, text), fal_cpus_text(&old, was));
    return 0;
}

static int tune(const char *root, const struct fal_pcap_config *c, const char *device,
                struct fal_error *err) {
    const struct fal_pcap_setting *s;
    if (tune_channels(c, device, err) < 0)
        return -1;
    for (uint32_t i = 0; (s = fal_pcap_config_setting(c, i)); i++)
        if (s->key == FAL_PCAP_IRQ && fal_pcap_setting_names(s, device) &&
            tune_irq(root, s, device, err) < 0)
            return -1;
    return 0;
}

/* ---- once a process -------------------------------------------------------------------------- */

static struct tuned {
    struct tuned *next;
    char device[];
} * done;

static int is_done(const char *device) {
    for (struct tuned *t = done; t; t = t->next)
        if (!strcmp(t->device, device))
            return 1;
    return 0;
}

static int remember(const char *device, struct fal_error *err) {
    struct tuned *t = malloc(sizeof *t + strlen(device) + 1);
    if (!t)
        return fal_fail(err, ENOMEM, "no memory for the name of a device");
    strcpy(t->device, device);
    t->next = done;
    done = t;
    return 0;
}

int fal_pcap_tune(const char *root, const struct fal_pcap_config *c, const char *device,
                  struct fal_error *err) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    int result = is_done(device) ? 0 : tune(root, c, device, err);
    if (result == 0 && !is_done(device))
        result = remember(device, err);
    pthread_mutex_unlock(&lock);
    return result;
}
