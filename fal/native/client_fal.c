/* A device that a fal-poller serves: admission and membership by its control socket, packets from
 * the rings that the poller fills, frames to send into an area of our own.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client_private.h"
#include "control.h"

static const struct fal_status *status_of(const struct fal_attachment *a) {
    return (const struct fal_status *)a->mapping->status.address;
}

static struct fal_request request_of(const struct fal_socket *s, const struct fal_attachment *a,
                                     uint32_t type) {
    struct fal_request request = {.type = type,
                                  .version = FAL_PROTOCOL_VERSION,
                                  .id = s->id,
                                  .group = a->group,
                                  .ring = s->capacity,
                                  .filter = s->group_filter.count,
                                  .program = s->group_program.count};
    memcpy(request.mode, a->mode, sizeof request.mode);
    return request;
}

static int ask_for(struct fal_socket *s, struct fal_attachment *a, uint32_t type,
                   struct fal_reply *reply, int *fds, uint32_t *fd_count, struct fal_error *err) {
    struct fal_request request = request_of(s, a, type);
    if (type != FAL_JOIN)
        request.filter = request.program = 0;
    struct fal_error local = a->ended;
    if (local.code) {
        if (fd_count)
            *fd_count = 0;
        return fal_fail(err, local.code, "%s", local.text);
    }
    if (fal_control_ask(a->control, &request, s->group_filter.instructions,
                        s->group_program.instructions, reply, fds, fd_count, &local) < 0) {
        if (reply->type == FAL_BYE || local.code == ECONNRESET || local.code == ETIMEDOUT)
            fal_client_end(s, a, &local);
        if (err)
            *err = local;
        return -1;
    }
    return 0;
}

/* The mapping is enough: the descriptor is closed by the caller. */
static int map(int fd, uint64_t size, uint32_t writable, struct fal_segment *segment,
               struct fal_error *err) {
    int result = fal_segment_map(fd, size, writable, segment, err);
    segment->fd = -1;
    return result;
}

static int nonsense(struct fal_error *err) {
    return fal_fail(err, EPROTO, "fal-poller sent a reply that makes no sense");
}

static bool fits(const struct fal_segment *s, uint64_t offset, uint64_t size) {
    return offset <= s->size && size <= s->size - offset;
}

/* Ring number i of the socket's, which the reply says to be in an arena: it, and the frames, lie
 * inside of that. */
static int find_ring(struct fal_client_ring *r, const struct fal_segment *segment,
                     const struct fal_reply *reply, uint32_t i, struct fal_cursor_page *cursors,
                     struct fal_error *err) {
    const struct fal_arena *arena = (const struct fal_arena *)segment->address;
    const uint64_t at = reply->ring_offset[i], frames_at = arena->frames_offset;
    const uint64_t slots_size = (uint64_t)reply->ring * sizeof(struct fal_desc);
    uint64_t frames_size;
    if (arena->magic != FAL_ARENA_MAGIC || arena->version != FAL_LAYOUT_VERSION)
        return fal_fail(err, EPROTO, "fal-poller is of another version (restart it)");
    if (at % _Alignof(struct fal_desc) ||
        !fits(segment, at, sizeof(struct fal_ring) + slots_size) ||
        __builtin_mul_overflow(arena->frames, arena->frame_size, &frames_size) ||
        !fits(segment, frames_at, frames_size))
        return nonsense(err);
    struct fal_ring *ring = (struct fal_ring *)(segment->address + at);
    *r = (struct fal_client_ring){
        .consumer = {.slots = (struct fal_desc *)(ring + 1),
                     .producer = &ring->producer,
                     .consumer = &cursors->cursor[i].consumer,
                     .mask = reply->ring - 1},
        .frames = segment->address + frames_at,
        .frames_size = frames_size,
        .most = reply->ring,
    };
    return 0;
}

/* Maps what came with the reply to FAL_OPEN.  Descriptors that are kept become -1 in fds. */
static int take_over(struct fal_socket *s, struct fal_attachment *a, const struct fal_reply *reply,
                     int *fds, uint32_t n, struct fal_error *err) {
    struct fal_mapping *m = a->mapping = calloc(1, sizeof *m);
    if (!m)
        return fal_fail(err, ENOMEM, "no memory for a socket");
    m->references = 1;
    if (reply->pollers < 1 || reply->pollers > FAL_MAX_POLLERS || n != 3 + reply->pollers ||
        reply->socket < 1 || reply->socket > FAL_MAX_SOCKETS || reply->member >= FAL_MAX_MEMBERS ||
        reply->ring < FAL_MIN_RING || reply->ring > FAL_MAX_RING || reply->ring & (reply->ring - 1))
        return nonsense(err);
    if (s->rings + reply->pollers > FAL_MAX_RINGS)
        return fal_fail(err, ENOSPC, "these devices have more than %d pollers", FAL_MAX_RINGS);
    if (map(fds[0], sizeof(struct fal_status), 0, &m->status, err) < 0 ||
        map(fds[1], FAL_CURSOR_PAGE, 1, &m->cursors, err) < 0)
        return -1;
    a->wake = fds[2];
    fds[2] = -1;
    a->cursors = (struct fal_cursor_page *)m->cursors.address;
    a->number = reply->socket;
    a->member = reply->member;
    s->chains |= status_of(a)->chains != 0;
    if (status_of(a)->max_send > FAL_TX_SLOT_SIZE)
        return nonsense(err);
    m->arenas = reply->pollers;
    for (uint32_t i = 0; i < m->arenas; i++) {
        int fd = fds[3 + i];
        off_t size = lseek(fd, 0, SEEK_END);
        if (size < (off_t)sizeof(struct fal_arena))
            return fal_fail(err, EPROTO, "fal-poller sent an empty arena");
        struct fal_client_ring *r = &s->ring[s->rings];
        if (map(fd, (uint64_t)size, 0, &m->arena[i], err) < 0 ||
            find_ring(r, &m->arena[i], reply, i, a->cursors, err) < 0)
            return -1;
        r->device = (uint32_t)(a - s->device);
        s->rings++;
    }
    return 0;
}

static int attach(struct fal_socket *s, struct fal_attachment *a, const char *name,
                  struct fal_error *err) {
    int fds[FAL_CONTROL_FDS];
    uint32_t n = FAL_CONTROL_FDS;
    struct fal_reply reply = {0};
    struct fal_request request = request_of(s, a, FAL_OPEN);
    if ((a->control = fal_control_connect(name, err)) < 0)
        return -1;
    int result = fal_control_ask(a->control, &request, s->group_filter.instructions,
                                 s->group_program.instructions, &reply, fds, &n, err);
    if (result == 0)
        result = take_over(s, a, &reply, fds, n, err);
    for (uint32_t i = 0; i < n; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    return result;
}

static void detach(struct fal_attachment *a) {
    const int fds[] = {a->control, a->wake, a->wake_poller};
    for (unsigned i = 0; i < sizeof fds / sizeof *fds; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

static int change(struct fal_socket *s, struct fal_attachment *a, uint32_t what,
                  struct fal_error *err) {
    struct fal_reply reply = {0};
    if (ask_for(s, a, what, &reply, NULL, NULL, err) < 0)
        return -1;
    if (what == FAL_START)
        return 0;
    if (reply.member >= FAL_MAX_MEMBERS)
        return nonsense(err);
    a->member = reply.member;
    return 0;
}

/* By a last word, or by a death without one. */
static bool ended(struct fal_socket *s, struct fal_attachment *a, struct fal_error *why) {
    struct fal_reply reply;
    (void)s;
    /* It stays there, for another process that reads after this one. */
    ssize_t n = recv(a->control, &reply, sizeof reply, MSG_DONTWAIT | MSG_PEEK);
    if (n < 0 && errno == ECONNRESET) /* our last request was not read; a last word may follow */
        n = recv(a->control, &reply, sizeof reply, MSG_DONTWAIT | MSG_PEEK);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n == sizeof reply && reply.type == FAL_BYE) {
        reply.text[sizeof reply.text - 1] = 0;
        fal_fail(why, reply.code, "%s", reply.text);
    } else {
        fal_fail(why, ECONNRESET, "fal-poller died");
    }
    return true;
}

/* ---- sending --------------------------------------------------------------------------------- */

/* The first time: asks for a transmit area. */
static int get_area(struct fal_socket *s, struct fal_attachment *a, struct fal_error *err) {
    struct fal_reply reply = {0};
    int fds[FAL_CONTROL_FDS];
    uint32_t n = FAL_CONTROL_FDS;
    int result = ask_for(s, a, FAL_TRANSMIT, &reply, fds, &n, err);
    struct fal_mapping *m = a->mapping;
    if (result == 0 && (n != 2 || reply.poller >= m->arenas))
        result = nonsense(err);
    if (result == 0 && (result = map(fds[0], FAL_TX_AREA, 1, &m->transmit, err)) == 0) {
        uint8_t *arena = m->arena[reply.poller].address;
        const struct fal_consumer *r = &s->ring[a->first + reply.poller].consumer;
        const struct fal_ring *ring = (const struct fal_ring *)r->slots - 1; /* its head */
        a->poller = (struct fal_bell){.seq = &((struct fal_arena *)arena)->transmit_seq};
        struct fal_transmit *area = (struct fal_transmit *)m->transmit.address;
        a->sender = (struct fal_sender){.area = area,
                                        .transmitted = &ring->transmitted,
                                        .next = fal_load_acquire(&area->producer)};
        a->wake_poller = fds[1];
        fds[1] = -1;
    }
    for (uint32_t i = 0; i < n; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    return result;
}

static int send_frame(struct fal_socket *s, struct fal_attachment *a, const void *frame,
                      uint32_t length, struct fal_error *err) {
    if (!a->sender.area && get_area(s, a, err) < 0)
        return -1;
    if (length < FAL_MIN_SEND || length > status_of(a)->max_send)
        return fal_fail(err, EMSGSIZE, "a frame of %u bytes: this device sends %d to %u", length,
                        FAL_MIN_SEND, status_of(a)->max_send);
    if (!fal_sender_has_room(&a->sender)) {
        struct fal_error why;
        if (ended(s, a, &why)) { /* who takes none may be no more */
            fal_client_end(s, a, &why);
            return fal_fail(err, why.code, "%s", why.text);
        }
        return fal_fail(err, EAGAIN, "%d frames are waiting to be sent", FAL_TX_SLOTS);
    }
    memcpy(fal_sender_reserve(&a->sender), frame, length);
    fal_sender_submit(&a->sender, length);
    fal_bell_fence();
    if (fal_bell_wanted(&a->poller))
        (void)!send(a->wake_poller, "", 1,
                    MSG_DONTWAIT | MSG_NOSIGNAL); /* full: readable already */
    return 0;
}

/* ---- looking --------------------------------------------------------------------------------- */

static int32_t member(const struct fal_attachment *a) {
    return fal_load_relaxed(&status_of(a)->poller[0].member[a->member].number);
}

static void stats(struct fal_socket *s, struct fal_attachment *a, struct fal_stats *stats) {
    (void)s;
    for (uint32_t i = 0; i < a->mapping->arenas; i++) {
        const struct fal_poller_status *from = &status_of(a)->poller[i];
        struct fal_socket_status mine;
        uint64_t entered, ifdrop;
        int tries = 0;
        do { /* one moment; of a poller that died while writing, the last there is */
            entered = fal_sequence_enter(&from->sequence);
            mine.delivered = fal_load_relaxed(&from->socket[a->number - 1].delivered);
            mine.dropped = fal_load_relaxed(&from->socket[a->number - 1].dropped);
            ifdrop = fal_load_relaxed(&from->if_dropped);
        } while (!fal_sequence_unchanged(&from->sequence, entered) && ++tries < 1000000);
        stats->recv += mine.delivered;
        stats->drop += mine.dropped;
        stats->ifdrop += ifdrop;
    }
}

const struct fal_engine fal_engine_fal = {
    .attach = attach,
    .change = change,
    .ended = ended,
    .send = send_frame,
    .stats = stats,
    .member = member,
    .detach = detach,
};
