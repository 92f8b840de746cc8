/* Reading: the same for whoever captures.
 * SPDX-License-Identifier: BSD-3-Clause */
#include "handle.h"

int pcap_dispatch(pcap_t *p, int count, pcap_handler callback, u_char *user) {
    struct fal_pcap_handle *h = fal_pcap_find(p);
    if (!h)
        return fal_pcap_real.pcap_dispatch(p, count, callback, user);
    int n;
    if (fal_pcap_active(h, &n) && (n = h->ops->dispatch(h, count, callback, user)) == FAL_PCAP_OVER)
        n = PCAP_ERROR_BREAK; /* 0 would say that nothing came in time, and be asked again */
    return n;
}

/* Time-outs do not end it. */
int pcap_loop(pcap_t *p, int count, pcap_handler callback, u_char *user) {
    struct fal_pcap_handle *h = fal_pcap_find(p);
    if (!h)
        return fal_pcap_real.pcap_loop(p, count, callback, user);
    int n, left = count;
    if (!fal_pcap_active(h, &n))
        return n;
    do {
        n = h->ops->dispatch(h, left, callback, user);
        left -= n > 0 ? n : 0;
    } while (n >= 0 && (count <= 0 || left > 0));
    return n == FAL_PCAP_OVER || n > 0 ? 0 : n;
}

int pcap_next_ex(pcap_t *p, struct pcap_pkthdr **header, const u_char **data) {
    struct fal_pcap_handle *h = fal_pcap_find(p);
    if (!h)
        return fal_pcap_real.pcap_next_ex(p, header, data);
    int n;
    if (fal_pcap_active(h, &n) && (n = h->ops->next_ex(h, header, data)) == FAL_PCAP_OVER)
        n = PCAP_ERROR_BREAK;
    return n;
}

const u_char *pcap_next(pcap_t *p, struct pcap_pkthdr *header) {
    struct pcap_pkthdr *its;
    const u_char *data;
    if (!fal_pcap_find(p))
        return fal_pcap_real.pcap_next(p, header);
    if (pcap_next_ex(p, &its, &data) != 1)
        return NULL;
    *header = *its;
    return data;
}

void pcap_breakloop(pcap_t *p) {
    struct fal_pcap_handle *h = fal_pcap_own(p);
    if (h)
        fal_pcap_fal_break(h);
    else
        fal_pcap_real.pcap_breakloop(p);
}

int pcap_stats(pcap_t *p, struct pcap_stat *stats) {
    struct fal_pcap_handle *h = fal_pcap_find(p);
    int n;
    if (!h)
        return fal_pcap_real.pcap_stats(p, stats);
    return fal_pcap_active(h, &n) ? h->ops->stats(h, stats) : n;
}
