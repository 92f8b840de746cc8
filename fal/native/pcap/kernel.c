/* Handles of the kernel's that are in a group: libpcap captures, and its socket joins.
 *
 * libpcap binds the socket long before it can join, so everything that comes in between lies in its
 * ring.  That is not the member's: so many packets, if they came before it joined, are passed over.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <limits.h>
#include <time.h>

#include "handle.h"
#include "kernel_group.h"

static int join(struct fal_pcap_handle *h, const struct fal_pcap_settings *wanted) {
    const struct fal_kernel_group group = {.group = wanted->group, .mode = wanted->fanout};
    int fd = fal_pcap_real.pcap_fileno(h->p);
    struct fal_kernel_device device;
    struct fal_error err;
    if (!fal_kernel_group_device(fd, &device))
        return fal_pcap_say(
            h,
            "group %d: libpcap captures on '%s' by no packet socket, and only these have fan-out",
            wanted->group, h->name.device[0].name);
    /* From the last look to the join packets may come to two members: no step more than must be. */
    if (fal_pcap_real.pcap_stats(h->p, &h->before) < 0)
        return PCAP_ERROR;
    clock_gettime(CLOCK_REALTIME, &h->joined);
    if (fal_kernel_group_join_socket(fd, &device, &group, &err) < 0)
        return fal_pcap_fail(h, &err);
    h->unread = h->before.ps_recv - h->before.ps_drop;
    h->settings[0] = *wanted;
    return 0;
}

bool fal_pcap_kernel_socket(pcap_t *p) {
    struct fal_kernel_device device;
    return !fal_pcap_real.pcap_file(p) &&
           fal_kernel_group_device(fal_pcap_real.pcap_fileno(p), &device);
}

static int fanout(struct fal_pcap_handle *h, const struct fal_pcap_settings *wanted) {
    if (h->settings[0].group >= 0)
        return fal_pcap_say(h, "already in group %d", h->settings[0].group);
    return join(h, wanted);
}

static int activate(struct fal_pcap_handle *h) {
    const struct fal_pcap_settings wanted = h->settings[0];
    if (wanted.caplen && (h->snaplen <= 0 || (uint32_t)h->snaplen > wanted.caplen))
        fal_pcap_real.pcap_set_snaplen(h->p, (int)wanted.caplen);
    if (wanted.ring) /* as for a fal-poller's, in full frames */
        fal_pcap_real.pcap_set_buffer_size(h->p, wanted.ring < INT_MAX / FAL_DEFAULT_FRAME_SIZE
                                                     ? (int)wanted.ring * FAL_DEFAULT_FRAME_SIZE
                                                     : INT_MAX);
    int status = fal_pcap_real.pcap_activate(h->p);
    if (status < 0 || wanted.group < 0)
        return status;
    return join(h, &wanted) < 0 ? PCAP_ERROR : status;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* Whether a packet came before the member joined; the first that did not ends it. */
static bool came_before(struct fal_pcap_handle *h, const struct timeval *t) {
    bool nano = fal_pcap_real.pcap_get_tstamp_precision(h->p) == PCAP_TSTAMP_PRECISION_NANO;
    long fraction = nano ? h->joined.tv_nsec : h->joined.tv_nsec / 1000;
    if (h->unread && (t->tv_sec < h->joined.tv_sec ||
                      (t->tv_sec == h->joined.tv_sec && t->tv_usec < fraction))) {
        h->unread--;
        return true;
    }
    h->unread = 0;
    return false;
}

struct sieve {
    struct fal_pcap_handle *h;
    pcap_handler callback;
    u_char *user;
    int passed;
};

static void sieve(u_char *user, const struct pcap_pkthdr *header, const u_char *data) {
    struct sieve *s = (struct sieve *)user;
    if (came_before(s->h, &header->ts))
        return;
    s->passed++;
    s->callback(s->user, header, data);
}

static int dispatch(struct fal_pcap_handle *h, int count, pcap_handler callback, u_char *user) {
    if (!h->unread)
        return fal_pcap_real.pcap_dispatch(h->p, count, callback, user);
    struct sieve s = {h, callback, user, 0};
    int n = fal_pcap_real.pcap_dispatch(h->p, count, sieve, (u_char *)&s);
    return n < 0 ? n : s.passed;
}

static int next_ex(struct fal_pcap_handle *h, struct pcap_pkthdr **header, const u_char **data) {
    int n;
    do
        n = fal_pcap_real.pcap_next_ex(h->p, header, data);
    while (n == 1 && h->unread && came_before(h, &(*header)->ts));
    return n;
}

static int stats(struct fal_pcap_handle *h, struct pcap_stat *to) {
    if (fal_pcap_real.pcap_stats(h->p, to) < 0)
        return PCAP_ERROR;
    to->ps_recv -= h->before.ps_recv;
    to->ps_drop -= h->before.ps_drop;
    to->ps_ifdrop -= h->before.ps_ifdrop;
    return 0;
}

const struct fal_pcap_ops fal_pcap_kernel = {
    .activate = activate,
    .fanout = fanout,
    .dispatch = dispatch,
    .next_ex = next_ex,
    .stats = stats,
};
