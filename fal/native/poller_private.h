/* What the polling threads and the control thread know of a device, all of it private to the process.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_POLLER_PRIVATE_H
#define FAL_POLLER_PRIVATE_H

#include <pthread.h>

#include "backend.h"
#include "defrag.h"
#include "poller.h"
#include "ring.h"

/* One membership whose packets lie in a ring; `left` of them, but for the last one, the present. */
struct membership {
    uint32_t record;
    uint32_t left;
    struct fal_member_status *books, *shown; /* the record in `mine`, and in the status */
};

/* What a slot was given: the number of its frame, and these. */
#define FAL_SLOT_REST 0x80000000 /* no packet begins here */
#define FAL_SLOT_SKIP 0x40000000 /* and there is no frame */

/* A socket's ring. */
struct socket_ring {
    struct fal_producer ring;
    struct fal_bell bell;
    uint32_t *frame; /* what was put into each slot (FAL_SLOT_…): slots are never read back */
    int wake;
    uint32_t socket;                     /* its number; 0: free */
    uint32_t broken;                     /* written by the poller, read by the control thread */
    uint32_t dropped;                    /* in this round */
    uint32_t others;                     /* slots written in this round that begin no packet */
    bool touched;                        /* in this round: its counters have changed */
    bool served;                         /* it got packets, and has not been woken for them */
    struct fal_transmitter *transmitter; /* at the one poller that sends for it; NULL: not yet */
    int sender;                          /* by which its worker wakes that poller */
    uint32_t used; /* memberships, oldest first; the last is the present one */
    struct membership membership[FAL_SOCKET_MEMBERSHIPS];
};

struct group {
    struct fal_steering steering;
    struct fal_fanout fanout;
    struct socket_ring *member[FAL_GROUP_MEMBERS];
    uint32_t record;
    struct fal_bpf_insn *filter;  /* NULL: none */
    struct fal_bpf_insn *program; /* of mode cbpf; else NULL */
    uint8_t table[FAL_BUCKETS];
};

/* Immutable once published, but for what steering remembers of each group (lb's turn, rnd's
 * generator, where rollover is), which is the poller's. */
struct plan {
    struct group *group;
    uint32_t groups;
    uint32_t sockets;
    struct socket_ring *socket[FAL_MAX_SOCKETS];
    struct fal_plan_member *member; /* in the order given to fal_device_publish */
    struct fal_plan_group *about;
};

/* What a burst has of packets in pieces, but for their first ones. */
struct pieces {
    uint32_t n;
    struct fal_desc piece[FAL_BURST];
    uint32_t frame[FAL_BURST];
};

struct fal_poller {
    struct fal_device *device;
    const struct fal_backend_ops *ops;
    void *part;     /* of the backend's device */
    uint32_t index; /* of the poller; its queues are facts.queue[index], [index + pollers]… */
    uint64_t hash_seed;
    uint32_t idle;
    int32_t cpu;
    struct fal_pool pool;
    uint8_t *arena;
    int32_t node; /* NUMA, of the arena */

    struct plan *plan;     /* what the poller works by */
    uint32_t *free_frames; /* last in, first out: what is hot in the cache goes out first */
    uint32_t free_count;
    uint16_t *references; /* of each frame that lies in a ring: in how many others it does */
    uint32_t shared;      /* their sum */
    bool chains;          /* packets may come in pieces; then: */
    struct pieces others; /* of the burst at hand */
    uint8_t *rest;        /* of a frame with a first piece: where in `others` the next is */
    struct fal_poller_status *mine; /* counters; never read back from shared memory */
    struct fal_poller_status *status;
    struct fal_defrag defrag;
    uint32_t max_send;    /* bytes of a frame */
    uint64_t send_failed; /* at the device; those that never got there are counted in `mine` */
    uint32_t sending;     /* frames that lie with the backend to be sent */
    uint32_t next_sender; /* in the plan's sockets: served in turn */
    uint32_t touches;     /* how many sockets are in `touched` */
    uint32_t queues;
    uint32_t queue_index; /* where the last packet's queue stands in mine->queue */
    bool over;            /* the source has ended */
    bool full;            /* a lossless source waits for room in some ring */
    bool records_changed; /* in the status: show all of them */

    struct socket_ring sockets[FAL_MAX_SOCKETS];
    struct socket_ring *touched[FAL_MAX_SOCKETS]; /* in this round, each once */

    /* between the two threads */
    pthread_mutex_t lock; /* for `running` against `pending`: never held while packets flow */
    bool running;
    struct plan *pending; /* control -> poller: release/acquire */
    uint32_t stop, begun; /* control -> poller */
    uint32_t sends;       /* control -> poller: set behind any `transmitter`, release/acquire */
    int kick;             /* eventfd, control -> poller: look at the above */
    int taken;            /* eventfd, poller -> control: the pending plan is taken in */
    int senders;          /* epoll over the sockets by which workers wake the poller to transmit */
};

/* A device and its pollers.  The control thread's, but for what says otherwise. */
struct fal_device {
    const struct fal_backend_ops *ops;
    void *backend;
    struct fal_poller_options options;
    struct fal_backend_facts facts;
    uint32_t events;    /* pollers -> control, or'ed */
    uint32_t undrained; /* pollers whose source goes on, or lies unread */
    int event;          /* eventfd, pollers -> control */
    uint32_t pollers;
    struct fal_poller poller[];
};

/* Has the poller, or in its place the control thread, work by this plan from now on. */
void fal_poller_adopt(struct fal_poller *p, struct plan *plan);
bool fal_plan_has(const struct plan *plan, const struct socket_ring *s);
/* Hands the backend as many frames as it wants. */
void fal_poller_refill(struct fal_poller *p);
void fal_bump(int eventfd);

#endif
