/* Opening: which handles we have a say in, and what of it is the configuration's.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <pthread.h>

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

/* What it says of each device, whose channels are seen to; -1 and *err. */
static int configure(struct fal_pcap_handle *h, struct fal_error *err) {
    const struct fal_error *why;
    if (!fal_pcap_configuration(&why)) {
        *err = *why;
        return -1;
    }
    for (uint32_t i = 0; i < h->name.devices; i++)
        if (fal_pcap_config_for(config, h->name.device[i].key, h->name.engine, &h->settings[i],
                                err) < 0 ||
            fal_pcap_tune("", config, h->name.device[i].name, err) < 0)
            return -1;
    return 0;
}

/* ---- create ---------------------------------------------------------------------------------- */

/* What a handle for `device` is to be.  Returns -1: nothing, as errbuf tells; 0: libpcap's alone. */
static int decide(const char *device, struct fal_pcap_handle *h, char *errbuf) {
    const struct fal_error *why;
    struct fal_error err = {0};
    *h = (struct fal_pcap_handle){.ops = &fal_pcap_kernel};
    for (unsigned i = 0; i < FAL_MAX_DEVICES; i++)
        h->settings[i].group = -1;
    const char *driver = fal_pcap_configuration(&why) ? fal_pcap_config_driver(config) : "";
    if (fal_pcap_name_parse(device, driver, &h->name, &err) < 0 ||
        fal_pcap_engine_check(h->name.engine, &err) < 0) {
        snprintf(errbuf, PCAP_ERRBUF_SIZE, "%s", err.text);
        return -1;
    }
    if (h->name.engine == FAL_PCAP_FAL)
        h->ops = &fal_pcap_fal;
    if (configure(h, &h->wrong) < 0)
        return 1;
    const struct fal_pcap_settings *s = &h->settings[0];
    return h->name.engine != FAL_PCAP_KERNEL || s->group >= 0 || s->caplen || s->ring;
}

static pcap_t *create(const struct fal_pcap_handle *as, char *errbuf) {
    bool own = as->ops == &fal_pcap_fal;
    pcap_t *p = own ? fal_pcap_real.pcap_open_dead(DLT_EN10MB, FAL_PCAP_SNAPLEN)
                    : fal_pcap_real.pcap_create(as->name.device[0].name, errbuf);
    if (p && fal_pcap_add(p, as))
        return p;
    if (p || own)
        snprintf(errbuf, PCAP_ERRBUF_SIZE, "no memory for a handle");
    if (p)
        fal_pcap_real.pcap_close(p);
    return NULL;
}

pcap_t *pcap_create(const char *device, char *errbuf) {
    struct fal_pcap_handle as;
    int ours = decide(device, &as, errbuf);
    if (ours == 0)
        return fal_pcap_real.pcap_create(device, errbuf);
    return ours < 0 ? NULL : create(&as, errbuf);
}

/* ---- activate -------------------------------------------------------------------------------- */

int pcap_activate(pcap_t *p) {
    struct fal_pcap_handle *h = fal_pcap_find(p);
    if (!h)
        return fal_pcap_real.pcap_activate(p);
    if (fal_pcap_too_late(h))
        return PCAP_ERROR_ACTIVATED;
    if (h->wrong.code)
        return fal_pcap_fail(h, &h->wrong);
    int status = h->ops->activate(h);
    h->active = status >= 0;
    return status;
}

/* In libpcap's words. */
static void say_why(char *errbuf, const char *device, pcap_t *p, int status) {
    const char *words = fal_pcap_real.pcap_geterr(p);
    const char *state = fal_pcap_real.pcap_statustostr(status);
    struct fal_error err;
    if (status == PCAP_ERROR)
        fal_fail(&err, EINVAL, "%s: %s", device, words);
    else if (status == PCAP_ERROR_NO_SUCH_DEVICE || status == PCAP_ERROR_PERM_DENIED)
        fal_fail(&err, EINVAL, "%s: %s (%s)", device, state, words);
    else
        fal_fail(&err, EINVAL, "%s: %s", device, state);
    snprintf(errbuf, PCAP_ERRBUF_SIZE, "%s", err.text);
}

pcap_t *pcap_open_live(const char *device, int snaplen, int promisc, int timeout, char *errbuf) {
    struct fal_pcap_handle as;
    int ours = decide(device, &as, errbuf);
    if (ours == 0)
        return fal_pcap_real.pcap_open_live(device, snaplen, promisc, timeout, errbuf);
    pcap_t *p = ours < 0 ? NULL : create(&as, errbuf);
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
