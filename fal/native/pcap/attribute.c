/* What a program sets and asks of a handle.  Of one of fal-poller's it is ours; all others are
 * libpcap's.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <linux/if_ether.h>

#include "handle.h"

/* ---- before activation ----------------------------------------------------------------------- */

#define SETTER(function, statement)                                                                \
    int function(pcap_t *p, int value) {                                                           \
        struct fal_pcap_handle *h = fal_pcap_own(p);                                               \
        if (!h)                                                                                    \
            return fal_pcap_real.function(p, value);                                               \
        if (fal_pcap_too_late(h))                                                                  \
            return PCAP_ERROR_ACTIVATED;                                                           \
        statement;                                                                                 \
        return 0;                                                                                  \
    }

SETTER(pcap_set_timeout, h->timeout = value)
SETTER(pcap_set_rfmon, h->monitor = value != 0)
/* A packet is there as soon as fal-poller has it, and its device is promiscuous or not for all. */
SETTER(pcap_set_immediate_mode, (void)value)
SETTER(pcap_set_promisc, (void)value)
SETTER(pcap_set_buffer_size, if (value <= 0) return 0; h->buffer = value)
SETTER(pcap_set_tstamp_type, if (value != PCAP_TSTAMP_HOST) return PCAP_WARNING_TSTAMP_TYPE_NOTSUP)
SETTER(pcap_set_tstamp_precision,
       if (value != PCAP_TSTAMP_PRECISION_MICRO &&
           value != PCAP_TSTAMP_PRECISION_NANO) return PCAP_ERROR_TSTAMP_PRECISION_NOTSUP;
       h->precision = value)
SETTER(pcap_set_protocol_linux, if (value && value != ETH_P_ALL) return fal_pcap_say(
                                    h, "a fal-poller gives all protocols: use a filter"))

int pcap_set_snaplen(pcap_t *p, int snaplen) {
    struct fal_pcap_handle *h = fal_pcap_find(p);
    if (h && fal_pcap_too_late(h))
        return PCAP_ERROR_ACTIVATED;
    if (h)
        h->snaplen = snaplen;
    return h && h->ops == &fal_pcap_fal ? 0 : fal_pcap_real.pcap_set_snaplen(p, snaplen);
}

/* libpcap's own function, of an active handle; one that is not says so, which pcap_open_dead's does
 * not. */
#define ACTIVE(type, refused, function, parameters, arguments)                                     \
    type function parameters {                                                                     \
        struct fal_pcap_handle *h = fal_pcap_own(p);                                               \
        int result;                                                                                \
        if (h && !fal_pcap_active(h, &result))                                                     \
            return refused;                                                                        \
        return fal_pcap_real.function arguments;                                                   \
    }

ACTIVE(int, result, pcap_datalink, (pcap_t * p), (p))
ACTIVE(int, result, pcap_datalink_ext, (pcap_t * p), (p))
ACTIVE(int, result, pcap_list_datalinks, (pcap_t * p, int **list), (p, list))
ACTIVE(int, result, pcap_set_datalink, (pcap_t * p, int dlt), (p, dlt))
ACTIVE(int, result, pcap_is_swapped, (pcap_t * p), (p))
ACTIVE(int, result, pcap_major_version, (pcap_t * p), (p))
ACTIVE(int, result, pcap_minor_version, (pcap_t * p), (p))
ACTIVE(int, result, pcap_bufsize, (pcap_t * p), (p))
ACTIVE(int, PCAP_ERROR, pcap_compile,
       (pcap_t * p, struct bpf_program *program, const char *text, int optimize,
        bpf_u_int32 netmask),
       (p, program, text, optimize, netmask))

int pcap_can_set_rfmon(pcap_t *p) {
    return fal_pcap_own(p) ? 0 : fal_pcap_real.pcap_can_set_rfmon(p);
}

/* ---- asked ----------------------------------------------------------------------------------- */

int pcap_get_tstamp_precision(pcap_t *p) {
    struct fal_pcap_handle *h = fal_pcap_own(p);
    return h ? h->precision : fal_pcap_real.pcap_get_tstamp_precision(p);
}

int pcap_snapshot(pcap_t *p) {
    struct fal_pcap_handle *h = fal_pcap_own(p);
    if (!h)
        return fal_pcap_real.pcap_snapshot(p);
    return h->active ? h->snaplen : PCAP_ERROR_NOT_ACTIVATED;
}

int pcap_fileno(pcap_t *p) {
    struct fal_pcap_handle *h = fal_pcap_own(p);
    return h ? fal_pcap_fal_fileno(h) : fal_pcap_real.pcap_fileno(p);
}

int pcap_get_selectable_fd(pcap_t *p) {
    struct fal_pcap_handle *h = fal_pcap_own(p);
    return h ? fal_pcap_fal_fileno(h) : fal_pcap_real.pcap_get_selectable_fd(p);
}

int pcap_getnonblock(pcap_t *p, char *errbuf) {
    struct fal_pcap_handle *h = fal_pcap_own(p);
    int result;
    if (!h)
        return fal_pcap_real.pcap_getnonblock(p, errbuf);
    return fal_pcap_active(h, &result) ? h->nonblock : result;
}

/* ---- done ------------------------------------------------------------------------------------ */

int pcap_setnonblock(pcap_t *p, int nonblock, char *errbuf) {
    struct fal_pcap_handle *h = fal_pcap_own(p);
    if (!h)
        return fal_pcap_real.pcap_setnonblock(p, nonblock, errbuf);
    h->nonblock = nonblock != 0;
    return 0;
}

int pcap_setdirection(pcap_t *p, pcap_direction_t direction) {
    struct fal_pcap_handle *h = fal_pcap_own(p);
    int result;
    if (!h)
        return fal_pcap_real.pcap_setdirection(p, direction);
    if (!fal_pcap_active(h, &result))
        return result;
    if (direction != PCAP_D_INOUT && direction != PCAP_D_IN && direction != PCAP_D_OUT)
        return fal_pcap_say(h, "Invalid direction");
    h->direction = direction;
    return 0;
}

int pcap_setfilter(pcap_t *p, struct bpf_program *program) {
    struct fal_pcap_handle *h = fal_pcap_own(p);
    int result;
    if (!h)
        return fal_pcap_real.pcap_setfilter(p, program);
    if (!fal_pcap_active(h, &result))
        return result;
    if (!program || !program->bf_len)
        return fal_pcap_say(h, "setfilter: No filter specified");
    return fal_pcap_fal_setfilter(h, program);
}

static int inject(struct fal_pcap_handle *h, const void *frame, size_t size) {
    int result;
    return fal_pcap_active(h, &result) ? fal_pcap_fal_inject(h, frame, size) : result;
}

int pcap_inject(pcap_t *p, const void *frame, size_t size) {
    struct fal_pcap_handle *h = fal_pcap_own(p);
    return h ? inject(h, frame, size) : fal_pcap_real.pcap_inject(p, frame, size);
}

int pcap_sendpacket(pcap_t *p, const u_char *frame, int size) {
    struct fal_pcap_handle *h = fal_pcap_own(p);
    if (!h)
        return fal_pcap_real.pcap_sendpacket(p, frame, size);
    if (size < 0)
        return fal_pcap_say(h, "the number of bytes to be sent is negative");
    return inject(h, frame, (size_t)size) < 0 ? PCAP_ERROR : 0;
}

/* ---- files ----------------------------------------------------------------------------------- */

/* The head of a file says snapshot length and precision, which pcap_open_dead was told too early. */
static pcap_t *with_head(const struct fal_pcap_handle *h) {
    return fal_pcap_real.pcap_open_dead_with_tstamp_precision(DLT_EN10MB, h->snaplen,
                                                              (u_int)h->precision);
}

#define DUMPER(function, type)                                                                     \
    pcap_dumper_t *function(pcap_t *p, type file) {                                                \
        struct fal_pcap_handle *h = fal_pcap_own(p);                                               \
        int result;                                                                                \
        if (h && !fal_pcap_active(h, &result))                                                     \
            return NULL;                                                                           \
        pcap_t *head = h ? with_head(h) : NULL;                                                    \
        if (!head)                                                                                 \
            return fal_pcap_real.function(p, file);                                                \
        pcap_dumper_t *dumper = fal_pcap_real.function(head, file);                                \
        if (!dumper)                                                                               \
            fal_pcap_say(h, "%s", fal_pcap_real.pcap_geterr(head));                                \
        fal_pcap_real.pcap_close(head);                                                            \
        return dumper;                                                                             \
    }

DUMPER(pcap_dump_open, const char *)
DUMPER(pcap_dump_open_append, const char *)
DUMPER(pcap_dump_fopen, FILE *)
