/* What a backend (a passive socket: AF_XDP, netmap, DPDK, …) offers to the poller: one const table
 * of functions.  A backend includes its engine's headers and this file, never rings or fan-out.
 *
 * Who owns a frame: the poller has a pool of them.  `refill` hands frames to the backend,
 * `rx_burst` hands them back filled; in between they are the backend's (and its NIC's).  A backend
 * never keeps more than FAL_BACKEND_HOLD a queue of them.
 *
 * A device serves one or more pollers, which share nothing: the i-th of its chosen queues belongs to
 * poller i modulo pollers, and each poller has a pool of its own.  What one poller has of the device
 * is its part.  All functions that take a part run on that poller's thread.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_BACKEND_H
#define FAL_BACKEND_H

#include <poll.h>

#include "error.h"
#include "options.h"

/* Where frames lie: the backend receives into frames + offset. */
struct fal_pool {
    uint8_t *frames;
    uint64_t frames_size; /* bytes */
    uint32_t frame_size;  /* bytes: the stride */
    uint32_t frame_count;
};

struct fal_backend_stats {
    uint64_t if_dropped;  /* packets lost at the interface, before rx_burst; of the part's queues */
    uint64_t send_failed; /* frames that the device did not take, of those given to tx_burst */
};

#define FAL_BACKEND_POLLFDS FAL_MAX_QUEUES

struct fal_backend_ops {
    const char *name;

    /* How many queues `options` come to, without opening anything: the pool's size depends on it.
     * -1 and *err, e.g. for an unknown device. */
    int (*queues)(const struct fal_backend_options *options, struct fal_error *err);

    /* Opens the device with a pool for each poller (valid until close), and fills in its parts.
     * NULL and *err. */
    void *(*open)(const struct fal_backend_options *options, const struct fal_pool *pools,
                  void **parts, struct fal_backend_facts *facts, struct fal_error *err);

    /* At most `max` (<= FAL_BURST) packets.  Fills in ts_ns, offset, len, caplen, flags and queue
     * of packets[i] (the poller does hash and vlan_tci), the number of its frame in frame[i], and the CPU
     * that received it in cpu[i] (0 where that is not known).
     * A packet in pieces is one entry each, at most FAL_MAX_PIECES and never a part of them: the
     * first as above, with the whole packet's len; the others with offset, caplen and frame[i]; all
     * but the last with FAL_DESC_MORE.
     * -1 and errno where the source is over: ENODATA its end, else an error (ENETDOWN is none). */
    int (*rx_burst)(void *part, struct fal_desc *packets, uint32_t *frame, uint16_t *cpu,
                    uint32_t max);

    /* Why it is over, in words; of the last rx_burst that failed.  NULL: errno says it all. */
    const char *(*why)(void *part);

    /* How many more frames the backend can take. */
    uint32_t (*wants)(void *part);
    /* Hands over n (<= wants) frames by their numbers. */
    void (*refill)(void *part, const uint32_t *frame, uint32_t n);

    /* Sends n frames, of lengths length[i], which begin where their frames do; NULL: cannot send.
     * They are the backend's until tx_done hands them back, so many at a time as max; it never has
     * more than FAL_TX_FRAMES of them. */
    void (*tx_burst)(void *part, const uint32_t *frame, const uint32_t *length, uint32_t n);
    uint32_t (*tx_done)(void *part, uint32_t *frame, uint32_t max);

    /* Descriptors that become readable when packets come; returns their number (0: the backend has
     * none and must be asked again). */
    uint32_t (*wait)(void *part, struct pollfd *fds, uint32_t max);

    /* Once a second: clocks, counters. */
    void (*stats)(void *part, struct fal_backend_stats *stats);
    void (*close)(void *device);
};

/* Frames that a backend may hold for each of its queues: a receive ring full, the driver's own in it. */
#define FAL_BACKEND_HOLD FAL_RX_RING

extern const struct fal_backend_ops fal_backend_null;
extern const struct fal_backend_ops fal_backend_af_xdp;
extern const struct fal_backend_ops fal_backend_pcap;
extern const struct fal_backend_ops fal_backend_tpacket;

#endif
