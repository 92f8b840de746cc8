/* The wire format of the control socket: SOCK_SEQPACKET, one message a packet.  A request has a
 * fixed part, which BPF programs may follow; a reply has a fixed size.
 *
 * The connection is the socket's membership: it is what tells that the worker lives, and it ends
 * when its last descriptor is closed, however that comes about.  The worker asks, fal-poller
 * answers each request with one reply; besides, fal-poller may send FAL_BYE at any time, its last
 * word.
 *
 *   worker                                   fal-poller
 *   FAL_OPEN {id, group, mode, ring, …} ->
 *                                       <-   FAL_OPEN {socket, ring_offset…} + descriptors:
 *                                            status, cursor page, wake socket, arena of each poller
 *   FAL_START                           ->
 *                                       <-   FAL_START          (packets come from now on)
 *   FAL_JOIN {group, …} | FAL_LEAVE     ->
 *                                       <-   FAL_JOIN | FAL_LEAVE
 *   FAL_TRANSMIT                        ->
 *                                       <-   FAL_TRANSMIT {poller} + descriptors: transmit area,
 *                                            socket that wakes that poller
 *                                       <-   FAL_BYE {code}     (ENODATA: a clean end)
 *
 * A reply with code != 0 refuses; text says why.  A refused FAL_OPEN ends the connection.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_CONTROL_H
#define FAL_CONTROL_H

#include "error.h"

#define FAL_PROTOCOL_VERSION 1
#define FAL_CONTROL_FDS      35 /* at most: status, cursor page, wake socket, FAL_MAX_POLLERS arenas */

enum fal_message {
    FAL_OPEN = 1,
    FAL_START = 2,
    FAL_JOIN = 3,
    FAL_LEAVE = 4,
    FAL_BYE = 5,
    FAL_TRANSMIT = 6
};

struct fal_request {
    uint32_t type;
    uint32_t version; /* FAL_PROTOCOL_VERSION */
    uint64_t id;      /* random, the socket's for its life: keys its place in the bucket table */
    int32_t group;    /* 0..65535; -1: none */
    uint32_t ring;    /* capacity, a power of two; 0: the default */
    uint32_t filter; /* instructions of the group's filter, which follow the request; 0: as it is */
    uint32_t program;         /* then, so many of the program that picks the member (cbpf) */
    char mode[FAL_NAME_SIZE]; /* as the user wrote it, NUL-terminated; "": as the group is */
};

struct fal_reply {
    uint32_t type;
    int32_t code;     /* errno; 0: done */
    uint32_t socket;  /* number, from 1 */
    uint32_t member;  /* index of its membership's record in the status */
    uint32_t ring;    /* capacity */
    uint32_t pollers; /* how many arenas and rings */
    uint32_t poller;  /* which one sends for this socket */
    uint32_t pad;
    uint64_t ring_offset[FAL_MAX_POLLERS]; /* of struct fal_ring in each arena */
    char text[FAL_ERROR_TEXT];
};

/* The worker's end.  Connects to the fal-poller of that name; -1 and *err. */
int fal_control_connect(const char *name, struct fal_error *err);
/* The names of those that run and let us in, at most so many; returns how many. */
int fal_control_names(char (*names)[FAL_NAME_SIZE], int most);

/* Sends a request, with the programs that it announces, and waits for its reply.  Descriptors that
 * come with it go to fds (*fd_count: room for so many, FAL_CONTROL_FDS or none; then how many came).
 * -1 and *err, which is the reply's where that refuses: then descriptors may have come, too. */
int fal_control_ask(int fd, const struct fal_request *request, const struct fal_bpf_insn *filter,
                    const struct fal_bpf_insn *program, struct fal_reply *reply, int *fds,
                    uint32_t *fd_count, struct fal_error *err);

#endif
