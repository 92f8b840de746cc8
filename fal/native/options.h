/* What the operator asks of a backend, and what that found out when it opened.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_OPTIONS_H
#define FAL_OPTIONS_H

#include "layout_check.h"

#define FAL_RATE_MAX     0                  /* flat out, and nothing is lost */
#define FAL_RATE_CAPTURE 0xffffffffffffffff /* as it was captured */

/* Strings are the operator's words; all that is pointed to must outlive the device. */
struct fal_backend_options {
    const char *device;
    const char *mode;       /* "auto", "native", "generic" */
    const uint32_t *queues; /* the wanted queues; NULL: all */
    uint32_t queue_count;   /* of `queues` */
    uint32_t promisc;       /* 1: ask the device to receive everything */
    uint32_t pollers;       /* among which the queues are dealt out */
    const struct fal_bpf_insn
        *pass;           /* checked: what it matches goes on to the host; NULL: nothing */
    uint32_t pass_count; /* instructions of `pass` */
    uint64_t count;      /* end after so many packets; 0: never */
    uint64_t rate;       /* of a file: FAL_RATE_…, or packets a second */
    uint64_t loop;       /* read a file so many times; 0: for ever */
    uint32_t flows;      /* draw so many made-up flows; 0: the plain ones */
    uint32_t size_min;   /* bytes of their packets, from here … */
    uint32_t size_max;   /* … to here; both 0: IMIX */
    uint64_t seed;       /* of what is drawn */
};

struct fal_backend_facts {
    char mode[FAL_NAME_SIZE]; /* what runs really: "native", "copy", "max", … */
    uint32_t zero_copy;
    uint32_t queue_count;
    uint32_t queue[FAL_MAX_QUEUES]; /* their ids */
    uint32_t ifindex;               /* of the network device; 0: none */
    uint32_t max_send;              /* bytes of a frame that can be sent; 0: none can be */
    uint32_t lossless; /* 1: the poller asks for no more than every ring has room for */
    uint32_t chains;   /* 1: rx_burst may give packets in pieces */
};

#endif
