/* The pollers of a device: the one place where backend, fan-out and rings meet.
 *
 * Each poller is a thread that is inside fal_poller_run for its whole life; it owns its part of the
 * backend, its frames, its rings and its counters, and shares none of them with another poller.
 * One control thread calls everything else; it changes what the pollers do only by
 * fal_device_publish, which hands an immutable plan to each and returns when all have taken it in.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_POLLER_H
#define FAL_POLLER_H

#include "arena.h"
#include "error.h"
#include "fanout.h"
#include "options.h"

#define FAL_SOCKET_MEMBERSHIPS                                                                     \
    8 /* of one socket: the present one, and former ones with unread packets */

enum fal_idle { FAL_IDLE_SPIN = 0, FAL_IDLE_ADAPTIVE = 1, FAL_IDLE_SLEEP = 2 };

/* Why a poller wrote the event descriptor; see fal_device_events. */
#define FAL_EVENT_BROKEN  1 /* some socket broke the rules: fal_device_broken tells which */
#define FAL_EVENT_DRAINED 2 /* the source is over and every ring is empty, of all pollers */
#define FAL_EVENT_FAILED  4 /* a fal_poller_run has returned with an error */

struct fal_poller_options {
    const char *backend;
    struct fal_backend_options source; /* for the backend */
    uint64_t hash_seed;
    const int32_t *cpus; /* of each poller: to run on; -1: wherever the kernel likes */
    uint32_t idle;
};

/* One group of a plan, and one socket's place in it.  Members of a group lie together in the array
 * of members, in the order of their numbers; those that are only admitted (number -1) come last. */
struct fal_plan_group {
    int32_t id;
    uint32_t record; /* in the status */
    struct fal_fanout fanout;
    uint32_t started; /* members that are steered to */
    uint32_t admitted;
    uint32_t filter_count; /* checked BPF, which is copied; 0: no filter */
    const struct fal_bpf_insn *filter;
    uint32_t program_count; /* the same of mode cbpf's program */
    const struct fal_bpf_insn *program;
};

struct fal_plan_member {
    uint64_t id;     /* the socket's random id */
    uint32_t socket; /* its number */
    uint32_t record; /* in the status */
    uint32_t pid;
};

struct fal_device;
struct fal_poller;

/* How many queues the options come to, which the size of the pools depends on; -1 and *err. */
int fal_device_queues(const struct fal_poller_options *options, struct fal_error *err);
/* Opens the device, with an arena and a status for each poller.  NULL and *err. */
struct fal_device *fal_device_open(const struct fal_poller_options *options,
                                   const struct fal_segment *arenas,
                                   struct fal_poller_status *status, struct fal_error *err);
const struct fal_backend_facts *fal_device_facts(const struct fal_device *d);
/* Once no poller runs. */
void fal_device_close(struct fal_device *d);

/* A polling thread.  0 when told to stop; -1 and *err when the device is gone. */
struct fal_poller *fal_device_poller(struct fal_device *d, uint32_t index);
int fal_poller_run(struct fal_poller *p, struct fal_error *err);
void fal_device_stop(struct fal_device *d);

/* Lets the source begin: nothing is received before. */
void fal_device_begin(struct fal_device *d);

/* A socket's rings, one a poller, each at that offset in its arena; `cursors` is its cursor page,
 * wake the descriptor that wakes its worker.  It takes part from the plan that first names it until
 * one that does not. */
int fal_device_ring(struct fal_device *d, uint32_t socket, uint64_t offset, uint32_t capacity,
                    const struct fal_segment *cursors, int wake, struct fal_error *err);

/* The transmit area of a socket whose ring lies at `offset`; by `wake` its worker wakes the poller
 * that sends for it.  Both may be taken away when the socket has gone from the plan. */
int fal_device_transmit(struct fal_device *d, uint32_t socket, const struct fal_segment *area,
                        uint64_t offset, int wake, struct fal_error *err);

/* Replaces the plan and waits until all pollers have taken it in: then sockets that it does not
 * name are gone (frames taken back, books closed) and theirs may be freed. */
int fal_device_publish(struct fal_device *d, const struct fal_plan_group *groups,
                       uint32_t group_count, const struct fal_plan_member *members,
                       struct fal_error *err);

/* Records of the status that are free for the next plan, and how many memberships of a socket still
 * have a record (one that it left keeps it until its last packet is read).  -1: none is free. */
int fal_device_free_group(struct fal_device *d);
int fal_device_free_member(struct fal_device *d);
uint32_t fal_device_memberships(struct fal_device *d, uint32_t socket);

/* Readable when there are events; reading them (FAL_EVENT_… or'ed) clears it. */
int fal_device_event_fd(struct fal_device *d);
uint32_t fal_device_events(struct fal_device *d);
/* 1 if that socket broke the rules (an impossible cursor): it gets nothing any more. */
int fal_device_broken(struct fal_device *d, uint32_t socket);

#endif
