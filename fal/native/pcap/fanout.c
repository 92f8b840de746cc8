/* pcap_fanout: the one function that libpcap's interface grows by.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>

#include "error.h"
#include "handle.h"
#include "modes.h"
#include "pcap_fanout.h"

/* One that was libpcap's alone until now; NULL: it cannot be in a group, as pcap_geterr tells. */
static struct fal_pcap_handle *adopt(pcap_t *p) {
    const struct fal_pcap_handle as = {
        .ops = &fal_pcap_kernel,
        .name = {.engine = FAL_PCAP_KERNEL, .devices = 1},
        .settings[0].group = -1,
        .active = fal_pcap_real.pcap_datalink(p) != PCAP_ERROR_NOT_ACTIVATED,
    };
    struct fal_pcap_handle *h = NULL;
    const char *why = "no memory for a handle";
    if (as.active && !fal_pcap_kernel_socket(p))
        why = "fan-out is for what is captured live, by packet sockets or a fal-poller";
    else
        h = fal_pcap_add(p, &as);
    if (!h)
        snprintf(fal_pcap_real.pcap_geterr(p), PCAP_ERRBUF_SIZE, "%s", why);
    return h;
}

static int check(int group, const char *fanout, struct fal_error *err) {
    struct fal_fanout f = {0};
    if (group < 0 || group > FAL_MAX_GROUP_ID)
        return fal_fail(err, EINVAL, "group %d: ids are 0 to %d", group, FAL_MAX_GROUP_ID);
    if (fanout[0] && fal_fanout_parse(fanout, &f, err) < 0)
        return -1;
    if (f.mode == FAL_MODE_CBPF)
        return fal_fail(err, EOPNOTSUPP,
                        "mode '%s' wants a program, which pcap_fanout cannot give: name no mode "
                        "to join a group that has one",
                        fanout);
    return 0;
}

/* What is wanted: the group, and what configuration says of it. */
static int want(struct fal_pcap_handle *h, int group, const char *fanout,
                struct fal_pcap_settings *wanted, struct fal_error *err) {
    const struct fal_error *why;
    const struct fal_pcap_config *config = fal_pcap_configuration(&why);
    if (!config) {
        *err = *why;
        return -1;
    }
    *wanted = h->settings[0];
    if (check(group, fanout, err) < 0 ||
        fal_pcap_config_group(config, group, h->name.engine, wanted, err) < 0)
        return -1;
    wanted->group = group;
    if (fanout[0]) {
        snprintf(h->fanout, sizeof h->fanout, "%s", fanout);
        wanted->fanout = h->fanout;
    }
    return 0;
}

int pcap_fanout(pcap_t *p, int group, const char *fanout) {
    struct fal_pcap_handle *h = fal_pcap_find(p), *known = h;
    struct fal_pcap_settings wanted;
    struct fal_error err;
    int result = PCAP_ERROR;
    if (!h && !(h = adopt(p)))
        return PCAP_ERROR;
    if (h->chosen)
        fal_pcap_say(h, "already in group %d", h->settings[0].group);
    else if (want(h, group, fanout ? fanout : "", &wanted, &err) < 0)
        fal_pcap_fail(h, &err);
    else
        result = h->active ? h->ops->fanout(h, &wanted) : 0;
    for (uint32_t i = 0; result == 0 && i < h->name.devices; i++)
        h->settings[i] = wanted;
    h->chosen |= result == 0;
    if (result < 0 && !known)
        fal_pcap_forget(h);
    return result;
}
