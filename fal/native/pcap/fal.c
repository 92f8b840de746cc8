/* Handles of a fal-poller's: libfal's socket, read as libpcap reads.
 * SPDX-License-Identifier: BSD-3-Clause */
#include "fal.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "error.h"
#include "handle.h"
#include "ring.h"

#define BATCH 64

/* ---- activation ------------------------------------------------------------------------------ */

static int set_group_filter(const struct fal_pcap_handle *h, const struct fal_pcap_settings *s,
                            struct fal_error *err) {
    struct bpf_program program;
    if (!s->from_filter)
        return fal_set_group_filter(h->socket, NULL, 0, err);
    if (fal_pcap_real.pcap_compile(h->p, &program, s->filter, 1, PCAP_NETMASK_UNKNOWN) < 0)
        return fal_pcap_setting_wrong(s->from_filter, fal_pcap_real.pcap_geterr(h->p), err);
    int result = fal_set_group_filter(h->socket, (const struct fal_bpf_insn *)program.bf_insns,
                                      program.bf_len, err);
    fal_pcap_real.pcap_freecode(&program);
    return result;
}

/* The first device's that is in one; -1: none is. */
static int32_t group_of(const struct fal_pcap_handle *h) {
    int32_t group = -1;
    for (uint32_t i = 0; i < h->name.devices && group < 0; i++)
        group = h->settings[i].group;
    return group;
}

/* Each device's group; everywhere or nowhere. */
static int join(const struct fal_pcap_handle *h, struct fal_error *err) {
    for (uint32_t i = 0; i < h->name.devices; i++) {
        const struct fal_pcap_settings *s = &h->settings[i];
        if (s->group >= 0 && (set_group_filter(h, s, err) < 0 ||
                              fal_join_device(h->socket, i, s->group, s->fanout, err) < 0)) {
            fal_leave(h->socket, NULL);
            return -1;
        }
    }
    return 0;
}

static int attach(const struct fal_pcap_handle *h, struct fal_error *err) {
    char names[sizeof h->name.device + sizeof "fal:"] = "fal:";
    for (uint32_t i = 0; i < h->name.devices; i++) {
        strcat(names, i ? "^" : "");
        strcat(names, h->name.device[i].name);
    }
    if (fal_attach(h->socket, names, err) < 0)
        return -1;
    if (join(h, err) == 0)
        return 0;
    fal_detach(h->socket, NULL);
    return -1;
}

static int start(struct fal_pcap_handle *h) {
    struct fal_error err;
    if (!h->started && fal_start(h->socket, &err) < 0)
        return fal_pcap_fail(h, &err);
    h->started = true;
    return 0;
}

/* What the buffer that the program wishes for holds, in full frames; the default at least. */
static uint32_t slots_for(int buffer) {
    uint32_t slots = FAL_DEFAULT_RING;
    while (slots < FAL_MAX_RING && slots * UINT64_C(2) * FAL_DEFAULT_FRAME_SIZE <= (uint64_t)buffer)
        slots *= 2;
    return slots;
}

static int status_of(int code) {
    switch (code) {
    case ENOENT:
    case ECONNREFUSED:
        return PCAP_ERROR_NO_SUCH_DEVICE;
    case EACCES:
    case EPERM:
        return PCAP_ERROR_PERM_DENIED;
    default:
        return PCAP_ERROR;
    }
}

static int activate(struct fal_pcap_handle *h) {
    struct fal_error err = {0};
    if (h->monitor)
        return PCAP_ERROR_RFMON_NOTSUP;
    if (h->snaplen <= 0 || h->snaplen > FAL_PCAP_SNAPLEN)
        h->snaplen = FAL_PCAP_SNAPLEN;
    for (uint32_t i = 0; i < h->name.devices; i++)
        if (h->settings[i].caplen && h->settings[i].caplen < (uint32_t)h->snaplen)
            h->snaplen = (int)h->settings[i].caplen;
    uint32_t wished = slots_for(h->buffer), slots = h->settings[0].ring;
    do { /* a buffer is a wish: as much of it as there is room for, as libpcap does */
        fal_close(h->socket);
        h->socket = fal_open(slots ? slots : wished, &err);
        if (h->socket && attach(h, &err) == 0)
            return group_of(h) >= 0 ? 0 : start(h);
    } while (err.code == ENOSPC && !slots && (wished /= 2) >= FAL_DEFAULT_RING);
    fal_pcap_fail(h, &err);
    return status_of(err.code);
}

/* What the program has had of the last batch goes back; the rest, if it left it by a jump, comes
 * again. */
static void settle(struct fal_pcap_handle *h) {
    if (h->done)
        fal_release_first(h->socket, h->done);
    h->done = 0;
}

/* What lies in the rings, as large as they are: more may come meanwhile. */
static void drain(struct fal_pcap_handle *h) {
    struct fal_batch batch;
    struct fal_view view;
    uint32_t left = 0;
    int n;
    for (uint32_t i = 0; fal_view(h->socket, i, &view) == 0; i++)
        left += view.capacity;
    while (left && (n = fal_receive(h->socket, left, &batch)) > 0) {
        h->taken += batch.whole;
        left -= (uint32_t)n;
    }
    fal_release(h->socket);
}

/* Into the groups that h->settings say.  What lies in the ring of one in no group is everything, and
 * not its share: it goes with the ring.  The ring of one whose descriptor the program has stays, and
 * what comes in the moment of joining comes to it, and to a member: rather twice than to nobody. */
static int regroup(struct fal_pcap_handle *h, bool member, struct fal_error *err) {
    if (member)
        fal_leave(h->socket, NULL);
    else if (h->watched)
        drain(h);
    if (member || h->watched)
        return join(h, err);
    fal_detach(h->socket, NULL);
    h->started = false;
    h->taken = 0;
    return attach(h, err);
}

static int fanout(struct fal_pcap_handle *h, const struct fal_pcap_settings *wanted) {
    struct fal_pcap_settings before[FAL_MAX_DEVICES];
    struct fal_error err;
    bool member = group_of(h) >= 0;
    if (member && h->started)
        return fal_pcap_say(h, "already in group %d", group_of(h));
    settle(h);
    memcpy(before, h->settings, sizeof before);
    for (uint32_t i = 0; i < h->name.devices; i++)
        h->settings[i] = *wanted;
    if (regroup(h, member, &err) == 0)
        return 0;
    memcpy(h->settings, before, sizeof before);
    if (regroup(h, member, NULL) == 0 && !member)
        start(h); /* it goes on as it was */
    return fal_pcap_fail(h, &err);
}

/* ---- reading --------------------------------------------------------------------------------- */

/* Whether the program gets the packet that begins here. */
static bool take(struct fal_pcap_handle *h, const struct fal_desc *d) {
    if (!(d->flags & FAL_DESC_FIRST))
        return false;
    h->taken++;
    return h->direction == PCAP_D_INOUT ||
           (h->direction == PCAP_D_OUT) == !!(d->flags & FAL_DESC_OUTGOING);
}

/* Packet i of a batch, with h->header, in memory of its own: programs write into what they get, as
 * libpcap lets them, and may not write where it lies.  NULL: no memory. */
static const u_char *packet(struct fal_pcap_handle *h, const struct fal_batch *batch, uint32_t i) {
    const struct fal_desc *d = &batch->packets[i];
    uint32_t most = (uint32_t)h->snaplen;
    const uint64_t second = 1000000000;
    h->header.ts.tv_sec = (time_t)(d->ts_ns / second);
    h->header.ts.tv_usec = (suseconds_t)(d->ts_ns % second);
    if (h->precision == PCAP_TSTAMP_PRECISION_MICRO)
        h->header.ts.tv_usec /= 1000;
    h->header.len = d->len;
    if (!h->packet && !(h->packet = malloc(most)))
        return NULL;
    h->header.caplen = fal_copy(batch, i, h->packet, most);
    return h->packet;
}

static int receive(struct fal_pcap_handle *h, uint32_t most, struct fal_batch *batch) {
    int n = fal_receive(h->socket, most, batch);
    if (n < 0)
        fal_pcap_say(h, errno == EBUSY ? "another process reads this handle"
                                       : "the handle is attached to no device");
    return n;
}

/* What is there, up to `most` packets, and no more than a ring may hold, so that it ends.  A callback
 * may read, too, or set a filter, or join a group: then the rest of the batch went back, and comes
 * again as it is to be.  Returns how many the program got. */
static int deliver(struct fal_pcap_handle *h, uint32_t most, pcap_handler callback, u_char *user) {
    struct fal_batch batch;
    uint32_t count = 0, seen = 0;
    while (count < most && seen < FAL_DEFAULT_RING && !fal_load_relaxed(&h->broken)) {
        uint32_t left = most - count;
        int n = receive(h, left < BATCH ? left : BATCH, &batch);
        if (n < 0)
            return PCAP_ERROR;
        if (n == 0)
            break;
        seen += batch.count;
        for (uint32_t i = 0; i < batch.count && h->done == i && !fal_load_relaxed(&h->broken);
             i++) {
            h->done = i + 1;
            if (!take(h, &batch.packets[i]))
                continue;
            const u_char *data = packet(h, &batch, i);
            if (!data)
                return fal_pcap_say(h, "no memory for a packet of %u bytes", batch.packets[i].len);
            const struct pcap_pkthdr header = h->header;
            callback(user, &header, data);
            count++;
        }
        settle(h);
    }
    return (int)count;
}

static bool was_broken(struct fal_pcap_handle *h) {
    return fal_exchange_acquire(&h->broken, 0);
}

/* Milliseconds that are left of a time-out; -1: for ever.  end NULL: of none. */
static int left_of(const struct fal_pcap_handle *h, struct timespec *end) {
    struct timespec now;
    if (h->nonblock || !end)
        return 0;
    if (h->timeout <= 0)
        return -1;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (!end->tv_sec) { /* the first wait */
        end->tv_sec = now.tv_sec + h->timeout / 1000;
        end->tv_nsec = now.tv_nsec + h->timeout % 1000 * 1000000L;
    }
    int64_t left = (end->tv_sec - now.tv_sec) * INT64_C(1000) +
                   (end->tv_nsec - now.tv_nsec + 999999) / 1000000;
    return left > 0 ? (int)left : 0;
}

/* 1: there is something; 0: time is up; else what a read returns. */
static int wait_for(struct fal_pcap_handle *h, struct timespec *end) {
    struct fal_error err;
    int n;
    do {
        if (was_broken(h))
            return PCAP_ERROR_BREAK;
        n = fal_wait(h->socket, left_of(h, end), &err);
    } while (n < 0 && err.code == EINTR);
    if (n >= 0)
        return n;
    return err.code == ENODATA ? FAL_PCAP_OVER : fal_pcap_fail(h, &err);
}

/* A program that waits by the descriptor, and then reads, is not to wait again: not where the
 * filter leaves nothing of what there was, nor where it was readable once too often. */
static bool was_told(struct fal_pcap_handle *h) {
    return h->watched && !h->nonblock &&
           poll(&(struct pollfd){.fd = fal_fileno(h->socket), .events = POLLIN}, 1, 0) == 1;
}

static int dispatch(struct fal_pcap_handle *h, int count, pcap_handler callback, u_char *user) {
    struct timespec end = {0};
    if (start(h) < 0)
        return PCAP_ERROR;
    bool told = was_told(h);
    settle(h);
    for (;;) {
        if (was_broken(h))
            return PCAP_ERROR_BREAK;
        int n = deliver(h, count > 0 ? (uint32_t)count : UINT32_MAX, callback, user);
        if (n != 0 || (n = wait_for(h, told ? NULL : &end)) <= 0)
            return n;
    }
}

static int next_ex(struct fal_pcap_handle *h, struct pcap_pkthdr **header, const u_char **data) {
    struct fal_batch batch;
    struct timespec end = {0};
    if (start(h) < 0)
        return PCAP_ERROR;
    bool told = was_told(h);
    settle(h);
    for (;;) {
        if (was_broken(h))
            return PCAP_ERROR_BREAK;
        int n = receive(h, 1, &batch);
        if (n < 0 || (n == 0 && (n = wait_for(h, told ? NULL : &end)) <= 0))
            return n;
        if (batch.count == 0 || !take(h, batch.packets))
            continue;
        h->done = batch.count;
        *header = &h->header;
        *data = packet(h, &batch, 0);
        settle(h);
        return *data ? 1 : fal_pcap_say(h, "no memory for a packet");
    }
}

/* As on Linux: what was received are packets that matched, also those that were dropped then.
 * fal-poller counts after the fact: what was read already was received. */
static int stats(struct fal_pcap_handle *h, struct pcap_stat *to) {
    struct fal_stats s;
    if (fal_stats(h->socket, &s) < 0)
        return fal_pcap_say(h, "the handle is attached to no device");
    uint64_t read = h->taken + s.filtered;
    to->ps_recv = (u_int)((s.recv > read ? s.recv : read) - s.filtered + s.drop);
    to->ps_drop = (u_int)s.drop;
    to->ps_ifdrop = (u_int)s.ifdrop;
    return 0;
}

const struct fal_pcap_ops fal_pcap_fal = {
    .activate = activate,
    .fanout = fanout,
    .dispatch = dispatch,
    .next_ex = next_ex,
    .stats = stats,
};

/* ---- the rest -------------------------------------------------------------------------------- */

int fal_pcap_fal_inject(struct fal_pcap_handle *h, const void *frame, size_t size) {
    struct fal_error err;
    if (start(h) < 0)
        return PCAP_ERROR;
    int n = fal_inject(h->socket, frame, size < UINT32_MAX ? (uint32_t)size : UINT32_MAX, &err);
    return n < 0 ? fal_pcap_fail(h, &err) : n;
}

int fal_pcap_fal_fileno(struct fal_pcap_handle *h) {
    if (!h->active || start(h) < 0)
        return PCAP_ERROR;
    h->watched = true;
    return fal_fileno(h->socket);
}

int fal_pcap_fal_setfilter(struct fal_pcap_handle *h, const struct bpf_program *program) {
    struct fal_error err;
    settle(h);
    return fal_setfilter(h->socket, (const struct fal_bpf_insn *)program->bf_insns, program->bf_len,
                         &err) < 0
               ? fal_pcap_fail(h, &err)
               : 0;
}

void fal_pcap_fal_break(struct fal_pcap_handle *h) {
    fal_store_release(&h->broken, 1);
    if (h->socket)
        fal_interrupt(h->socket);
}
