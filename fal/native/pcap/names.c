/* SPDX-License-Identifier: BSD-3-Clause */
#include "names.h"

#include <errno.h>
#include <net/if.h>
#include <stdbool.h>
#include <string.h>

static const struct {
    const char *word;
    const char *missing; /* NULL: we have it */
    bool several;        /* DEVICE^DEVICE */
} engines[] = {
    [FAL_PCAP_FAL] = {"fal", NULL, true},
    [FAL_PCAP_TPACKET] = {"tpacket", NULL, false},
    [FAL_PCAP_PFRING] = {"pfring", "PF_RING (its kernel module, and libpfring)", false},
    [FAL_PCAP_ZC] = {"zc", "PF_RING ZC (its drivers, and libpfring)", false},
    [FAL_PCAP_PFQ] = {"pfq", "PFQ (its kernel module, and libpfq)", true},
};

static int find(const char *word, size_t length) {
    for (int i = 0; i < (int)(sizeof engines / sizeof *engines); i++)
        if (engines[i].word && strlen(engines[i].word) == length &&
            !memcmp(engines[i].word, word, length))
            return i;
    return -1;
}

int fal_pcap_engine_of(const char *word) {
    return find(word, strlen(word));
}

int fal_pcap_engine_check(uint32_t engine, struct fal_error *err) {
    if (!engines[engine].missing)
        return 0;
    return fal_fail(err, EOPNOTSUPP,
                    "%s: this library is built without %s: use fal: or tpacket: instead",
                    engines[engine].word, engines[engine].missing);
}

/* The length of DEVICE in DEVICE:NUMBER; `length` where it is no such name. */
static size_t real_length(const char *name, size_t length) {
    size_t n = length;
    while (n > 0 && name[n - 1] >= '0' && name[n - 1] <= '9')
        n--;
    return n < length && n > 1 && name[n - 1] == ':' ? n - 1 : length;
}

static int add(struct fal_pcap_name *out, const char *name, size_t length, const char *text,
               struct fal_error *err) {
    if (!length && out->engine != FAL_PCAP_KERNEL)
        return fal_fail(err, EINVAL, "device '%.80s': the name of a device is empty", text);
    if (out->devices == FAL_MAX_DEVICES)
        return fal_fail(err, EINVAL, "device '%.80s…': a handle has at most %d devices", text,
                        FAL_MAX_DEVICES);
    if (length >= FAL_PCAP_NAME_SIZE)
        return fal_fail(err, ENAMETOOLONG, "device '%.80s…': a name has at most %d bytes", text,
                        FAL_PCAP_NAME_SIZE - 1);
    struct fal_pcap_device *d = &out->device[out->devices++];
    memcpy(d->key, name, length);
    memcpy(d->name, name, out->engine == FAL_PCAP_ZC ? length : real_length(name, length));
    if (out->engine == FAL_PCAP_KERNEL && !if_nametoindex(d->name))
        memcpy(d->name, name, length);
    return 0;
}

int fal_pcap_name_parse(const char *text, const char *driver, struct fal_pcap_name *out,
                        struct fal_error *err) {
    const char *name = text ? text : "any", *end;
    int engine = find(name, strcspn(name, ":"));
    *out = (struct fal_pcap_name){0};
    if (engine < 0 || !strchr(name, ':'))
        engine = *driver ? fal_pcap_engine_of(driver) : FAL_PCAP_KERNEL;
    else if (engine != FAL_PCAP_ZC)
        name = strchr(name, ':') + 1;
    if (engine < 0)
        return fal_fail(err, EINVAL, "there is no engine '%.40s'", driver);
    out->engine = (uint32_t)engine;
    do {
        end = engines[engine].several ? strchrnul(name, '^') : strchr(name, 0);
        if (add(out, name, (size_t)(end - name), text ? text : "any", err) < 0)
            return -1;
        name = end + 1;
    } while (*end);
    return 0;
}
