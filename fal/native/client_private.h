/* What the files of the client share: a socket, its devices, and what they may be served by.
 *
 *     client.c         the socket: groups, filters, batches, waiting
 *     client_fal.c     a device that a fal-poller serves
 *     client_kernel.c  a device of the kernel's, by a packet socket
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_CLIENT_PRIVATE_H
#define FAL_CLIENT_PRIVATE_H

#include "arena.h"
#include "fal.h"
#include "ring.h"

/* All shared memory of one device.  Counted, since views of it may outlive the socket. */
struct fal_mapping {
    uint32_t references;
    uint32_t arenas;
    struct fal_segment arena[FAL_MAX_POLLERS];
    struct fal_segment status, cursors, transmit;
};

#define FAL_MATCHES 1024 /* at most in one batch */

/* A batch of a socket with a filter. */
struct fal_matches {
    struct fal_desc packet[FAL_MATCHES];
    uint32_t place[FAL_MATCHES]; /* counted from the first packet that is held */
};

struct fal_program {
    struct fal_bpf_insn *instructions; /* NULL: none */
    uint32_t count;
};

/* A device that the socket is attached to. */
struct fal_attachment {
    const struct fal_engine *engine;
    struct fal_mapping *mapping;
    struct fal_cursor_page *cursors;
    uint32_t first;    /* of its rings in the socket's */
    int wake, control; /* readable when there is something to read, or to hear; -1: none */
    bool joined;       /* the group below */
    int32_t group;     /* -1: none */
    char mode[FAL_NAME_SIZE];
    struct fal_error ended; /* code 0: not */

    /* of a fal-poller */
    uint32_t number, member;  /* the socket's there, and its record in the status */
    struct fal_sender sender; /* area NULL: it has not sent yet */
    struct fal_bell poller;   /* of the one that sends */
    int wake_poller;          /* -1: it has not sent yet */

    struct fal_kernel_socket *kernel; /* of the kernel */
};

/* One ring of the socket's, and the frames that its packets lie in. */
struct fal_client_ring {
    struct fal_consumer consumer;
    const uint8_t *frames;
    uint64_t frames_size; /* bytes */
    uint32_t most;        /* packets that may lie there */
    uint32_t device;
};

struct fal_socket {
    struct fal_attachment device[FAL_MAX_DEVICES];
    uint32_t devices; /* 0: not attached */
    struct fal_client_ring ring[FAL_MAX_RINGS];
    uint32_t rings;
    uint32_t next_ring; /* served in turn */
    uint32_t held,
        held_ring; /* slots of the batch that is out, and between and after its packets */
    bool chains;   /* packets may come in pieces */
    struct fal_program filter;   /* run on what is received */
    struct fal_matches *matches; /* NULL: there never was a filter */
    uint32_t matched;    /* descriptors of the batch that is out, if it was filtered; else 0 */
    uint64_t filtered;   /* packets that it did not let through */
    uint32_t *is_reader; /* a page that a fork wipes: 1 in the process that reads */

    int epoll, again;       /* the descriptor given out; eventfd that makes it readable */
    uint32_t interrupted;   /* by fal_interrupt, and fal_wait has not told yet */
    bool watched;           /* it has been given out */
    struct fal_error ended; /* of one device by a fault, or of all; code 0: not */

    /* what was asked for */
    uint64_t id;
    uint32_t capacity;
    int32_t group; /* of devices to come */
    char mode[FAL_NAME_SIZE];
    struct fal_program group_filter, group_program;
};

/* What serves a device.  Functions that return int fill in *err with -1. */
struct fal_engine {
    /* Admits the socket: its mapping, cursors and descriptors, and its rings, from s->ring[first]
     * on.  What it has set when it fails, `detach` takes down. */
    int (*attach)(struct fal_socket *s, struct fal_attachment *a, const char *name,
                  struct fal_error *err);
    /* FAL_START, FAL_JOIN, FAL_LEAVE. */
    int (*change)(struct fal_socket *s, struct fal_attachment *a, uint32_t what,
                  struct fal_error *err);
    /* Fills an empty ring; NULL: somebody else fills it. */
    void (*pull)(struct fal_socket *s, struct fal_attachment *a);
    /* Whether the device has ended, and why. */
    bool (*ended)(struct fal_socket *s, struct fal_attachment *a, struct fal_error *why);
    int (*send)(struct fal_socket *s, struct fal_attachment *a, const void *frame, uint32_t length,
                struct fal_error *err);
    void (*stats)(struct fal_socket *s, struct fal_attachment *a, struct fal_stats *stats);
    int32_t (*member)(const struct fal_attachment *a);
    /* All but the mapping. */
    void (*detach)(struct fal_attachment *a);
};

extern const struct fal_engine fal_engine_fal, fal_engine_kernel;

/* A device has ended, with a last word or without. */
void fal_client_end(struct fal_socket *s, struct fal_attachment *a, const struct fal_error *why);

#endif
