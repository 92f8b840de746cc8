/* What we know of a pcap_t that is more than libpcap's own: a table beside libpcap's handles.
 *
 *     open.c      create, set_…, activate, close
 *     read.c      loop, dispatch, next, next_ex, breakloop
 *     attribute.c everything else that is asked of one
 *     fanout.c    pcap_fanout
 *     fal.c       handles of a fal-poller's
 *     kernel.c    handles of the kernel's, in a group
 *
 * A handle of fal-poller's is one of libpcap's pcap_open_dead, so that whatever is not about
 * capturing works as it is.  One of the kernel's is libpcap's own; it is in the table only if we
 * have a say in it.  All others are not, and are let pass.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_PCAP_HANDLE_H
#define FAL_PCAP_HANDLE_H

#include <stdbool.h>

#include "fal.h"
#include "config.h"
#include "names.h"
#include "real.h"

#define FAL_PCAP_SNAPLEN 262144 /* MAXIMUM_SNAPLEN of libpcap */
#define FAL_PCAP_OVER    (-100) /* of a read: the source is over, all that it gave was read */

struct fal_pcap_ops;

struct fal_pcap_handle {
    pcap_t *p; /* what the program has */
    const struct fal_pcap_ops *ops;
    struct fal_pcap_name name;
    bool active;
    struct fal_error wrong; /* with the configuration: it cannot be activated; code 0: nothing */
    struct fal_pcap_settings settings[FAL_MAX_DEVICES]; /* of each device, by configuration */

    bool chosen; /* the group, by pcap_fanout */
    char fanout[FAL_NAME_SIZE];

    /* as set before activation */
    int snaplen; /* 0: not */
    int timeout; /* milliseconds; 0: for ever */
    int buffer;  /* bytes; 0: not set */
    int precision;
    bool monitor;

    /* of a fal-poller's */
    struct fal_socket *socket;
    bool started, watched; /* takes traffic; its descriptor was given out */
    bool nonblock;
    pcap_direction_t direction;
    uint32_t broken; /* 1: by pcap_breakloop, from anywhere (ring.h's atomics) */
    uint32_t done;   /* descriptors of the batch that is out whose packets the program has had */
    uint64_t taken;  /* packets that were received, and matched */
    struct pcap_pkthdr header; /* what next_ex points at */
    uint8_t *packet;           /* the program's own copy of the last one; NULL: none yet */

    /* of the kernel's */
    struct pcap_stat before; /* what it had counted when it joined */
    unsigned unread;         /* packets that may lie there from before */
    struct timespec joined;
};

/* Who captures.  Functions that return int return what libpcap's of that name does, and put their
 * words where pcap_geterr finds them. */
struct fal_pcap_ops {
    int (*activate)(struct fal_pcap_handle *h);
    /* All devices into this group, after activation; h->settings then say so. */
    int (*fanout)(struct fal_pcap_handle *h, const struct fal_pcap_settings *wanted);
    int (*dispatch)(struct fal_pcap_handle *h, int count, pcap_handler callback, u_char *user);
    int (*next_ex)(struct fal_pcap_handle *h, struct pcap_pkthdr **header, const u_char **data);
    int (*stats)(struct fal_pcap_handle *h, struct pcap_stat *stats);
};
extern const struct fal_pcap_ops fal_pcap_fal, fal_pcap_kernel;

/* The process's; NULL and *err: it is wrong. */
const struct fal_pcap_config *fal_pcap_configuration(const struct fal_error **err);

/* Whether libpcap captures for p by a packet socket. */
bool fal_pcap_kernel_socket(pcap_t *p);

/* What libpcap does by itself for the kernel's. */
int fal_pcap_fal_inject(struct fal_pcap_handle *h, const void *frame, size_t size);
int fal_pcap_fal_fileno(struct fal_pcap_handle *h);
int fal_pcap_fal_setfilter(struct fal_pcap_handle *h, const struct bpf_program *program);
void fal_pcap_fal_break(struct fal_pcap_handle *h);

/* NULL: it is libpcap's alone.  For signal handlers, too. */
struct fal_pcap_handle *fal_pcap_find(const pcap_t *p);
/* The same, of a fal-poller's. */
struct fal_pcap_handle *fal_pcap_own(const pcap_t *p);
/* A new one, for p, that is otherwise like *as; NULL: no memory. */
struct fal_pcap_handle *fal_pcap_add(pcap_t *p, const struct fal_pcap_handle *as);
/* Out of the table, and freed; p is libpcap's to close. */
void fal_pcap_forget(struct fal_pcap_handle *h);

/* Puts the words where pcap_geterr finds them; returns PCAP_ERROR. */
int fal_pcap_fail(const struct fal_pcap_handle *h, const struct fal_error *err);
__attribute__((format(printf, 2, 3))) int fal_pcap_say(const struct fal_pcap_handle *h,
                                                       const char *format, ...);

/* Whether it is active; if not it says so, and *result is PCAP_ERROR_NOT_ACTIVATED. */
bool fal_pcap_active(const struct fal_pcap_handle *h, int *result);
/* Whether it is, and can be set no more, which it says. */
bool fal_pcap_too_late(const struct fal_pcap_handle *h);

#endif
