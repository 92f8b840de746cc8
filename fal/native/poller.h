/* The poller: the one place where backend, fan-out and rings meet.
 *
 * Two threads use it.  The polling thread is inside fal_poller_run for its whole life and owns the
 * backend, the frames, the rings and the counters.  The control thread calls everything else; it
 * changes what the poller does only by fal_poller_publish, which hands over an immutable plan and
 * returns when the poller has taken it in.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_POLLER_H
#define FAL_POLLER_H

#include "arena.h"
#include "error.h"
#include "fanout.h"

#define FAL_SOCKET_MEMBERSHIPS                                                                     \
    8 /* of one socket: the present one, and former ones with unread packets */

enum fal_idle { FAL_IDLE_SPIN = 0, FAL_IDLE_ADAPTIVE = 1, FAL_IDLE_SLEEP = 2 };

/* Why the poller wrote its event descriptor; see fal_poller_events. */
#define FAL_EVENT_BROKEN  1 /* some socket broke the rules: fal_poller_broken tells which */
#define FAL_EVENT_DRAINED 2 /* the source is over and every ring is empty */
#define FAL_EVENT_FAILED  4 /* fal_poller_run has returned with an error */

/* What the operator asked for; strings are his words, and must outlive the poller. */
struct fal_poller_options {
    const char *backend;
    const char *device;
    const char *mode;       /* "auto", "native", "generic" */
    const uint32_t *queues; /* the wanted queues; NULL: all */
    uint32_t queue_count;
    uint32_t promisc;
    uint64_t count; /* the source ends after so many packets; 0: never */
    uint64_t hash_seed;
    int32_t cpu; /* to run on; -1: wherever the kernel likes */
    uint32_t idle;
};

/* What came of it. */
struct fal_poller_facts {
    const char *backend;
    char mode[FAL_NAME_SIZE];
    uint32_t zero_copy;
    uint32_t queue_count;
    uint32_t ifindex; /* 0: no network device */
};

/* One group of a plan, and one socket's place in it.  Members of a group lie together in the array
 * of members, in the order of their numbers; those that are only admitted (number -1) come last. */
struct fal_plan_group {
    int32_t id;
    uint32_t record; /* in the status */
    uint32_t mode;
    uint32_t started; /* members that are steered to */
    uint32_t admitted;
};

struct fal_plan_member {
    uint64_t id;     /* the socket's random id */
    uint32_t socket; /* its number */
    uint32_t record; /* in the status */
    uint32_t pid;
};

struct fal_poller;

/* How many queues the options come to, which the size of the pool depends on; -1 and *err. */
int fal_poller_queues(const struct fal_poller_options *options, struct fal_error *err);
/* Opens the device, with the frames of `arena`; counters go to `status`.  NULL and *err. */
struct fal_poller *fal_poller_open(const struct fal_poller_options *options,
                                   const struct fal_segment *arena,
                                   struct fal_poller_status *status, struct fal_poller_facts *facts,
                                   struct fal_error *err);
void fal_poller_close(struct fal_poller *p);

/* The polling thread.  0 when told to stop; -1 and *err when the device is gone. */
int fal_poller_run(struct fal_poller *p, struct fal_error *err);
void fal_poller_stop(struct fal_poller *p);

/* Lets the source begin: nothing is received before. */
void fal_poller_begin(struct fal_poller *p);

/* A socket's ring, at that offset in the arena; `cursors` is its cursor page, wake the descriptor
 * that wakes its worker.  It takes part from the plan that first names it until one that does not.
 */
int fal_poller_ring(struct fal_poller *p, uint32_t socket, uint64_t offset, uint32_t capacity,
                    const struct fal_segment *cursors, int wake, struct fal_error *err);

/* Replaces the plan and waits until the poller has taken it in: then sockets that it does not name
 * are gone (frames taken back, books closed) and theirs may be freed. */
int fal_poller_publish(struct fal_poller *p, const struct fal_plan_group *groups,
                       uint32_t group_count, const struct fal_plan_member *members,
                       struct fal_error *err);

/* Records of the status that are free for the next plan, and how many memberships of a socket still
 * have a record (one that it left keeps it until its last packet is read).  -1: none is free. */
int fal_poller_free_group(struct fal_poller *p);
int fal_poller_free_member(struct fal_poller *p);
uint32_t fal_poller_memberships(struct fal_poller *p, uint32_t socket);

/* Readable when there are events; reading them (FAL_EVENT_… or'ed) clears it. */
int fal_poller_event_fd(struct fal_poller *p);
uint32_t fal_poller_events(struct fal_poller *p);
/* 1 if that socket broke the rules (an impossible cursor): it gets nothing any more. */
int fal_poller_broken(struct fal_poller *p, uint32_t socket);

#endif
