/* SPDX-License-Identifier: BSD-3-Clause */
#include "tune.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "ethtool.h"
#include "irq.h"

/* What is wrong, and where it was asked for in front. */
static int fail(const struct fal_pcap_setting *s, const struct fal_error *why,
                struct fal_error *err) {
    fal_pcap_setting_wrong(s, why->text, err);
    err->code = why->code;
    return -1;
}

/* Tells what was changed, and where that is asked for, in the words of an error. */
__attribute__((format(printf, 2, 3))) static void log_change(const struct fal_pcap_setting *s,
                                                             const char *format, ...) {
    struct fal_error said;
    char what[FAL_ERROR_TEXT];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    fal_pcap_setting_wrong(s, what, &said);
    syslog(LOG_INFO, "%s", said.text);
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
        log_change(last,
                   "%s has %u rx, %u tx, %u other, %u combined channels now; it had %u, %u, %u, %u",
                   device, new.rx_count, new.tx_count, new.other_count, new.combined_count,
                   old.rx_count, old.tx_count, old.other_count, old.combined_count);
    return 0;
}

/* ---- interrupts ------------------------------------------------------------------------------ */

static int tune_irq(const char *root, const struct fal_pcap_setting *s, const char *device,
                    struct fal_error *err) {
    struct fal_error why;
    struct fal_cpus old, new;
    char was[FAL_CPUS_TEXT], is[FAL_CPUS_TEXT];
    unsigned channel = (unsigned)s->index;
    int changed = -1;
    if (fal_cpus_parse(s->value, &new, &why) == 0 &&
        fal_channel_getaffinity(root, device, channel, PCAP_COMBINED_CHANNELS, &old, &why) == 0)
        changed =
            fal_channel_setaffinity(root, device, channel, PCAP_COMBINED_CHANNELS, &new, &why);
    if (changed < 0)
        return fail(s, &why, err);
    if (changed)
        log_change(s, "CPUs %.80s serve channel %u of %s now; it was %.80s",
                   fal_cpus_text(&new, is), channel, device, fal_cpus_text(&old, was));
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
    int result = 0;
    if (!is_done(device) && (result = tune(root, c, device, err)) == 0)
        result = remember(device, err);
    pthread_mutex_unlock(&lock);
    return result;
}
