/* Opening: which handles we have a say in, and what of it is the configuration's.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "error.h"
#include "handle.h"
#include "tune.h"

/* ---- configuration --------------------------------------------------------------------------- */

static struct fal_pcap_config *config; /* read once, and kept; NULL: it is wrong */
static struct fal_error wrong;

static void read_config(void) {
    config = fal_pcap_config_read(&wrong);
}

const struct fal_pcap_config *fal_pcap_configuration(const struct fal_error **err) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, read_config);
    *err = &wrong;
    return config;
}

/* What it says of each device; -1 and *err. */
static int configure(struct fal_pcap_name *name, struct fal_pcap_settings *settings,
                     struct fal_error *err) {
    const struct fal_error *why;
    if (!fal_pcap_configuration(&why)) {
        *err = *why;
        return -1;
    }
    for (uint32_t i = 0; i < name->devices; i++)
        if (fal_pcap_config_for(config, name->device[i].key, name->engine, &settings[i], err) < 0 ||
            fal_pcap_tune("", config, name->device[i].name, err) < 0)
            return -1;
    return 0;
}

/* ---- create ---------------------------------------------------------------------------------- */

static pcap_t *refuse(char *errbuf, const char *why) {
    snprintf(errbuf, PCAP_ERRBUF_SIZE, "%s", why);
    return NULL;
}

/* Whether libpcap alone will do. */
static bool is_plain(const struct fal_pcap_name *name, const struct fal_pcap_settings *s) {
    return name->engine == FAL_PCAP_KERNEL && s->group < 0 && !s->caplen;
}

/* NULL and *h NULL too: errbuf says why. */
static pcap_t *create(const char *device, struct fal_pcap_handle **h, char *errbuf) {
    struct fal_pcap_settings settings[FAL_MAX_DEVICES] = {{.group = -1}};
    struct fal_pcap_name name;
    struct fal_error err = {0}, bad = {0};
    const struct fal_error *why;
    fal_pcap_configuration(&why);
    *h = NULL;
    if (fal_pcap_name_parse(device, config ? fal_pcap_config_driver(config) : "", &name, &err) <
            0 ||
        fal_pcap_engine_check(name.engine, &err) < 0)
        return refuse(errbuf, err.text);
    if (configure(&name, settings, &bad) == 0 && is_plain(&name, settings))
        return fal_pcap_real.pcap_create(device, errbuf);
    bool fal = name.engine == FAL_PCAP_FAL;
    pcap_t *p = fal ? fal_pcap_real.pcap_open_dead(DLT_EN10MB, FAL_PCAP_SNAPLEN)
                    : fal_pcap_real.pcap_create(name.device[0].name, errbuf);
    if (!p)
        return fal ? refuse(errbuf, "no memory for a handle") : NULL;
    if (!(*h = fal_pcap_add(p, fal ? &fal_pcap_fal : &fal_pcap_kernel))) {
        fal_pcap_real.pcap_close(p);
        return refuse(errbuf, "no memory for a handle");
    }
    (*h)->name = name;
    (*h)->wrong = bad;
    memcpy((*h)->settings, settings, sizeof settings);
    return p;
}

pcap_t *pcap_create(const char *device, char *errbuf) {
    struct fal_pcap_handle *h;
    return create(device, &h, errbuf);
}

/* ---- activate -------------------------------------------------------------------------------- */

int pcap_activate(pcap_t *p) {
    struct fal_pcap_handle *h = fal_pcap_find(p);
    if (!h)
        return fal_pcap_real.pcap_activate(p);
    if (h->active) {
        fal_pcap_say(h, "can't perform  operation on activated capture");
        return PCAP_ERROR_ACTIVATED;
    }
    if (h->wrong.code)
        return fal_pcap_fail(h, &h->wrong);
    int status = h->ops->activate(h);
    h->active = status >= 0;
    return status;
}

/* In libpcap's words. */
static void say_why(char *errbuf, const char *device, pcap_t *p, int status) {
    const char *words = fal_pcap_real.pcap_geterr(p);
    if (status == PCAP_ERROR)
        snprintf(errbuf, PCAP_ERRBUF_SIZE, "%s: %.*s", device, PCAP_ERRBUF_SIZE - 3, words);
    else if (status == PCAP_ERROR_NO_SUCH_DEVICE || status == PCAP_ERROR_PERM_DENIED)
        snprintf(errbuf, PCAP_ERRBUF_SIZE, "%s: %s (%.*s)", device,
                 fal_pcap_real.pcap_statustostr(status), PCAP_ERRBUF_SIZE - 6, words);
    else
        snprintf(errbuf, PCAP_ERRBUF_SIZE, "%s: %s", device,
                 fal_pcap_real.pcap_statustostr(status));
}

pcap_t *pcap_open_live(const char *device, int snaplen, int promisc, int timeout, char *errbuf) {
    struct fal_pcap_handle *h;
    pcap_t *p = create(device, &h, errbuf);
    if (p && !h) { /* libpcap's alone: all of it */
        fal_pcap_real.pcap_close(p);
        return fal_pcap_real.pcap_open_live(device, snaplen, promisc, timeout, errbuf);
    }
    if (!p)
        return NULL;
    pcap_set_snaplen(p, snaplen);
    pcap_set_promisc(p, promisc);
    pcap_set_timeout(p, timeout);
    int status = pcap_activate(p);
    if (status >= 0)
        return p;
    say_why(errbuf, device ? device : "any", p, status);
    pcap_close(p);
    return NULL;
}

void pcap_close(pcap_t *p) {
    struct fal_pcap_handle *h = fal_pcap_find(p);
    if (h)
        fal_pcap_forget(h);
    fal_pcap_real.pcap_close(p);
}
