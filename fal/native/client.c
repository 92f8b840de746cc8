/* libfal: the worker's side of everything.
 * SPDX-License-Identifier: BSD-3-Clause */
#include "fal.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "arena.h"
#include "bpf.h"
#include "control.h"
#include "ring.h"

#define SPIN_NS 50000ull /* before a blocking wait sleeps: waking costs the poller 8 us */

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

/* All shared memory of one attachment.  Counted, since views of it may outlive the socket. */
struct fal_mapping {
    uint32_t references;
    uint32_t arenas;
    struct fal_segment arena[FAL_MAX_POLLERS];
    struct fal_segment status, cursors, transmit;
};

#define MATCHES 1024 /* at most in one batch */
#define SKIP    256  /* packets that do not match are given back so many at a time */

/* A batch of a socket with a filter. */
struct matches {
    struct fal_desc packet[MATCHES];
    uint32_t place[MATCHES]; /* counted from the first packet that is held */
};

struct program {
    struct fal_bpf_insn *instructions; /* NULL: none */
    uint32_t count;
};

/* A device that the socket is attached to. */
struct attachment {
    struct fal_mapping *mapping;
    struct fal_cursor_page *cursors;
    uint32_t number, member; /* the socket's there, and its record in the status */
    uint32_t first;          /* of its rings in the socket's */
    int control, wake;       /* -1: none */
    bool joined;             /* the socket's group there */
    struct fal_error ended;  /* code 0: not */
};

struct fal_socket {
    struct attachment device[FAL_MAX_DEVICES];
    uint32_t devices; /* 0: not attached */
    struct fal_consumer ring[FAL_MAX_RINGS];
    uint32_t device_of[FAL_MAX_RINGS];
    uint32_t rings;
    uint32_t next_ring; /* served in turn */
    uint32_t held,
        held_ring;           /* slots of the batch that is out, and between and after its packets */
    bool chains;             /* packets may come in pieces */
    struct program filter;   /* run on what is received */
    struct matches *matches; /* NULL: there never was a filter */
    uint32_t matched;        /* descriptors of the batch that is out, if it was filtered; else 0 */
    uint64_t filtered;       /* packets that it did not let through */
    uint32_t *is_reader;     /* a page that a fork wipes: 1 in the process that reads */

    struct fal_sender sender; /* area NULL: it has not sent yet */
    struct fal_bell poller;   /* of the one that sends */
    int wake_poller;          /* -1: it has not sent yet */
    int epoll, again;         /* the descriptor given out; eventfd that makes it readable */
    bool watched;             /* it has been given out */
    struct fal_error ended;   /* of one device by a fault, or of all; code 0: not */

    /* what was asked for */
    uint64_t id;
    uint32_t capacity;
    int32_t group;
    char mode[FAL_NAME_SIZE];
    struct program group_filter, group_program;
};

static const struct fal_status *status_of(const struct attachment *a) {
    return (const struct fal_status *)a->mapping->status.address;
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- sleeping -------------------------------------------------------------------------------- */

static bool all_empty(struct fal_socket *s) {
    for (uint32_t i = 0; i < s->rings; i++)
        if (!fal_consumer_empty(&s->ring[i]))
            return false;
    return true;
}

/* Sleeping (see ring.h and "Waking" in docs/architecture.md).  The descriptor given out is readable
 * unless the bell is armed and all rings were found empty after arming it: a byte in the wake
 * socket, or the eventfd, stays until the next arm().  Once armed by fal_attach this always holds;
 * only the process that reads arms it again.  True: armed, so whoever sleeps is woken. */
static bool arm(struct fal_socket *s) {
    uint64_t word;
    char bytes[64];
    for (uint32_t i = 0; i < s->devices; i++)
        while (recv(s->device[i].wake, bytes, sizeof bytes, MSG_DONTWAIT) > 0)
            ;
    (void)!read(s->again, &word, sizeof word);
    for (uint32_t i = 0; i < s->devices; i++)
        fal_bell_arm(&s->device[i].cursors->seq);
    if (all_empty(s) && !s->ended.code)
        return true;
    for (uint32_t i = 0; i < s->devices; i++)
        fal_bell_disarm(&s->device[i].cursors->seq);
    word = 1;
    (void)!write(s->again, &word, sizeof word);
    return false;
}

static int set_program(struct program *p, const struct fal_bpf_insn *program, uint32_t n,
                       struct fal_error *err) {
    struct fal_bpf_insn *copy = NULL;
    if (n && fal_bpf_check(program, n, err) < 0)
        return -1;
    if (n && !(copy = malloc(n * sizeof *copy)))
        return fal_fail(err, ENOMEM, "no memory for a BPF program");
    if (n)
        memcpy(copy, program, n * sizeof *copy);
    free(p->instructions);
    *p = (struct program){copy, n};
    return 0;
}

/* ---- open, attach ---------------------------------------------------------------------------- */

struct fal_socket *fal_open(uint32_t ring, struct fal_error *err) {
    if (ring && (ring & (ring - 1) || ring < FAL_MIN_RING || ring > FAL_MAX_RING)) {
        fal_fail(err, EINVAL, "ring %u: a ring's size is a power of two from %u to %u", ring,
                 FAL_MIN_RING, FAL_MAX_RING);
        return NULL;
    }
    struct fal_socket *s = calloc(1, sizeof *s);
    if (!s) {
        fal_fail(err, ENOMEM, "no memory for a socket");
        return NULL;
    }
    s->epoll = s->again = s->wake_poller = -1;
    s->group = -1;
    s->capacity = ring;
    s->is_reader = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s->is_reader == MAP_FAILED || madvise(s->is_reader, 4096, MADV_WIPEONFORK) < 0 ||
        getrandom(&s->id, sizeof s->id, 0) != sizeof s->id) {
        fal_fail(err, errno, "cannot make a socket: %s", strerror(errno));
        fal_close(s);
        return NULL;
    }
    return s;
}

static struct fal_request request_of(const struct fal_socket *s, uint32_t type) {
    struct fal_request request = {.type = type,
                                  .version = FAL_PROTOCOL_VERSION,
                                  .id = s->id,
                                  .group = s->group,
                                  .ring = s->capacity,
                                  .filter = s->group_filter.count,
                                  .program = s->group_program.count};
    memcpy(request.mode, s->mode, sizeof request.mode);
    return request;
}

/* A device has ended, with a last word or without.  By a fault the socket has ended, too; otherwise
 * it goes on until all its devices have. */
static void note_end(struct fal_socket *s, struct attachment *a, const struct fal_error *why) {
    bool all = true;
    a->ended = *why;
    for (uint32_t i = 0; i < s->devices; i++)
        all &= s->device[i].ended.code != 0;
    if (!s->ended.code && (all || why->code != ENODATA))
        s->ended = *why;
    if (s->ended.code)
        return;
    const int over[] = {a->control, a->wake}; /* readable for ever, and nothing to wait for */
    for (unsigned i = 0; i < sizeof over / sizeof *over; i++)
        epoll_ctl(s->epoll, EPOLL_CTL_DEL, over[i], NULL);
}

static int ask_for(struct fal_socket *s, struct attachment *a, uint32_t type,
                   struct fal_reply *reply, int *fds, uint32_t *fd_count, struct fal_error *err) {
    struct fal_request request = request_of(s, type);
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
            note_end(s, a, &local);
        if (err)
            *err = local;
        return -1;
    }
    return 0;
}

/* Of all devices that have not ended cleanly, and of which it is not so already: -1 where one
 * refuses, then those after it were not asked. */
static int ask_all(struct fal_socket *s, uint32_t type, struct fal_error *err) {
    if (s->devices == 0)
        return fal_fail(err, ENOTCONN, "the socket is attached to no device");
    if (s->ended.code)
        return fal_fail(err, s->ended.code, "%s", s->ended.text);
    for (struct attachment *a = s->device; a < s->device + s->devices; a++) {
        struct fal_reply reply = {0};
        if (a->ended.code || (type != FAL_START && a->joined == (type == FAL_JOIN)))
            continue;
        if (ask_for(s, a, type, &reply, NULL, NULL, err) < 0)
            return -1;
        if (type != FAL_START) {
            a->joined = type == FAL_JOIN;
            a->member = reply.member;
        }
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

/* Maps what came with the reply to FAL_OPEN.  Descriptors that are kept become -1 in fds. */
static int take_over(struct fal_socket *s, struct attachment *a, const struct fal_reply *reply,
                     int *fds, uint32_t n, struct fal_error *err) {
    struct fal_mapping *m = a->mapping = calloc(1, sizeof *m);
    if (!m)
        return fal_fail(err, ENOMEM, "no memory for a socket");
    m->references = 1;
    if (reply->pollers < 1 || reply->pollers > FAL_MAX_POLLERS || n != 3 + reply->pollers)
        return fal_fail(err, EPROTO, "fal-poller sent a reply that makes no sense");
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
    a->joined = s->group >= 0;
    a->first = s->rings;
    s->chains |= status_of(a)->chains != 0;
    for (; m->arenas < reply->pollers; m->arenas++) {
        struct fal_segment *segment = &m->arena[m->arenas];
        int fd = fds[3 + m->arenas];
        off_t size = lseek(fd, 0, SEEK_END);
        if (size < (off_t)sizeof(struct fal_arena))
            return fal_fail(err, EPROTO, "fal-poller sent an empty arena");
        if (map(fd, (uint64_t)size, 0, segment, err) < 0)
            return -1;
        struct fal_arena *arena = (struct fal_arena *)segment->address;
        if (arena->magic != FAL_ARENA_MAGIC || arena->version != FAL_LAYOUT_VERSION)
            return fal_fail(err, EPROTO, "fal-poller is of another version (restart it)");
        struct fal_ring *ring =
            (struct fal_ring *)(segment->address + reply->ring_offset[m->arenas]);
        s->device_of[s->rings] = (uint32_t)(a - s->device);
        s->ring[s->rings++] = (struct fal_consumer){
            .slots = (struct fal_desc *)(ring + 1),
            .producer = &ring->producer,
            .consumer = &a->cursors->cursor[m->arenas].consumer,
            .mask = reply->ring - 1,
        };
    }
    return 0;
}

/* The descriptor given out.  After a fork it is in both processes, and what one takes out of it is
 * missing in the other: so it lives as long as the attachment, and is only ever closed. */
static int make_descriptor(struct fal_socket *s) {
    s->again = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (s->again < 0 || s->epoll < 0)
        return -1;
    struct epoll_event in = {.events = EPOLLIN};
    int failed = epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->again, &in);
    for (uint32_t i = 0; i < s->devices; i++)
        failed |= epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->device[i].control, &in) |
                  epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->device[i].wake, &in);
    return failed;
}

static int attach_one(struct fal_socket *s, const char *name, struct fal_error *err) {
    int fds[FAL_CONTROL_FDS];
    uint32_t n = FAL_CONTROL_FDS;
    struct fal_reply reply = {0};
    struct fal_request request = request_of(s, FAL_OPEN);
    if (s->devices == FAL_MAX_DEVICES)
        return fal_fail(err, EINVAL, "a socket has at most %d devices", FAL_MAX_DEVICES);
    struct attachment *a = &s->device[s->devices++];
    *a = (struct attachment){.control = -1, .wake = -1};
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

int fal_attach(struct fal_socket *s, const char *device, struct fal_error *err) {
    if (s->devices)
        return fal_fail(err, EISCONN, "the socket is attached to a device already");
    if (strncmp(device, "fal:", 4))
        return fal_fail(err, EINVAL, "device '%s': write fal:NAME", device);
    s->ended = (struct fal_error){0};
    int result = 0;
    for (const char *name = device + 4, *end; result == 0 && name; name = end ? end + 1 : NULL) {
        char one[512];
        end = strchr(name, '^');
        size_t n = end ? (size_t)(end - name) : strlen(name);
        if (n < sizeof one) {
            memcpy(one, name, n);
            one[n] = 0;
            result = attach_one(s, one, err);
        } else {
            result = fal_fail(err, ENAMETOOLONG, "device '%.40s…': the name is too long", name);
        }
    }
    if (result == 0 && make_descriptor(s) < 0)
        result = fal_fail(err, errno, "cannot watch fal-poller: %s", strerror(errno));
    if (result == 0) {
        arm(s);
        return 0;
    }
    fal_detach(s, NULL);
    return -1;
}

int fal_detach(struct fal_socket *s, struct fal_error *err) {
    uint32_t were = s->devices;
    int *fds[] = {&s->epoll, &s->again, &s->wake_poller};
    if (were && *s->is_reader) /* after a fork the other may read now */
        fal_store_release(&s->device[0].cursors->reader, 0);
    for (unsigned i = 0; i < sizeof fds / sizeof *fds; i++) {
        if (*fds[i] >= 0)
            close(*fds[i]);
        *fds[i] = -1;
    }
    for (uint32_t i = 0; i < were; i++) {
        struct attachment *a = &s->device[i];
        if (a->control >= 0)
            close(a->control);
        if (a->wake >= 0)
            close(a->wake);
        fal_unpin(a->mapping);
    }
    s->watched = false;
    s->held = s->matched = s->rings = s->devices = 0;
    s->chains = false;
    s->filtered = 0;
    s->sender.area = NULL;
    *s->is_reader = 0;
    return were ? 0 : fal_fail(err, ENOTCONN, "the socket is attached to no device");
}

void fal_close(struct fal_socket *s) {
    if (!s)
        return;
    if (s->is_reader && s->is_reader != MAP_FAILED) {
        fal_detach(s, NULL);
        munmap(s->is_reader, 4096);
    }
    free(s->matches);
    free(s->filter.instructions);
    free(s->group_filter.instructions);
    free(s->group_program.instructions);
    free(s);
}

int fal_start(struct fal_socket *s, struct fal_error *err) {
    return ask_all(s, FAL_START, err);
}

/* ---- groups ---------------------------------------------------------------------------------- */

int fal_set_group_filter(struct fal_socket *s, const struct fal_bpf_insn *program, uint32_t n,
                         struct fal_error *err) {
    return set_program(&s->group_filter, program, n, err);
}

int fal_set_group_program(struct fal_socket *s, const struct fal_bpf_insn *program, uint32_t n,
                          struct fal_error *err) {
    return set_program(&s->group_program, program, n, err);
}

int fal_join(struct fal_socket *s, int32_t group, const char *fanout, struct fal_error *err) {
    if (group < 0 || group > FAL_MAX_GROUP_ID)
        return fal_fail(err, EINVAL, "group %d: ids are 0 to %d", group, FAL_MAX_GROUP_ID);
    if (s->group >= 0)
        return fal_fail(err, EALREADY, "already in group %d", s->group);
    if (fanout && strlen(fanout) >= sizeof s->mode)
        return fal_fail(err, EINVAL, "unknown fan-out mode '%.40s…'", fanout);
    snprintf(s->mode, sizeof s->mode, "%s", fanout ? fanout : "");
    s->group = group;
    if (!s->devices)
        return 0; /* kept until fal_attach */
    if (ask_all(s, FAL_JOIN, err) == 0)
        return 0;
    ask_all(s, FAL_LEAVE, NULL); /* everywhere or nowhere */
    s->group = -1;
    return -1;
}

int fal_leave(struct fal_socket *s, struct fal_error *err) {
    if (s->group < 0)
        return fal_fail(err, EINVAL, "the socket is in no group");
    if (s->devices && ask_all(s, FAL_LEAVE, err) < 0) /* again later: some may have left */
        return -1;
    s->group = -1;
    s->mode[0] = 0;
    set_program(&s->group_filter, NULL, 0, NULL);
    set_program(&s->group_program, NULL, 0, NULL);
    return 0;
}

/* ---- receiving ------------------------------------------------------------------------------- */

/* A zombie is dead, though kill() still finds it. */
static bool lives(pid_t pid) {
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0)
        return kill(pid, 0) == 0 || errno != ESRCH;
    bool alive = poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 0) == 0;
    close(fd);
    return alive;
}

/* Whether this process may read: the first that tries is the one, until it is dead.  The page of
 * the first device says it for all. */
static bool may_read(struct fal_socket *s) {
    if (*s->is_reader)
        return true;
    uint32_t *word = &s->device[0].cursors->reader;
    uint32_t me = (uint32_t)getpid(), reader = fal_load_relaxed(word);
    while (reader != me) {
        if (reader && lives((pid_t)reader))
            return false;
        if (fal_claim(word, &reader, me))
            break;
    }
    for (uint32_t i = 0; i < s->rings; i++) /* another process may have read before */
        s->ring[i].next = s->ring[i].seen = fal_load_acquire(s->ring[i].consumer);
    if (s->sender.area)
        s->sender.next = fal_load_acquire(&s->sender.area->producer);
    s->held = s->matched = 0;
    *s->is_reader = 1;
    return true;
}

static uint32_t packets_in(const struct fal_desc *d, uint32_t n) {
    uint32_t packets = 0;
    for (uint32_t i = 0; i < n; i++)
        packets += (d[i].flags & FAL_DESC_FIRST) != 0;
    return packets;
}

/* Gives the first n of the batch back, and the rest of their last packet; of one that was filtered,
 * also what lies before the next: all that is held if there is no such. */
static void give_back(struct fal_socket *s, uint32_t n) {
    struct fal_consumer *r = &s->ring[s->held_ring];
    const struct fal_desc *slots = &r->slots[r->next & r->mask];
    const struct fal_desc *batch = s->matched ? s->matches->packet : slots;
    uint32_t held = s->held, count = s->matched ? s->matched : held;
    while (s->chains && n < count && !(batch[n].flags & FAL_DESC_FIRST))
        n++;
    n = n < count ? n : count;
    if (!s->matched) {
        held = n;
    } else {
        if (n < count)
            held = s->matches->place[n];
        s->filtered += s->chains ? packets_in(slots, held) - packets_in(batch, n) : held - n;
    }
    if (held)
        fal_consumer_release(r, held);
    s->held = s->matched = 0;
}

void fal_release(struct fal_socket *s) {
    fal_release_first(s, UINT32_MAX);
}

void fal_release_first(struct fal_socket *s, uint32_t n) {
    if (!s->held || !*s->is_reader)
        return;
    give_back(s, n);
    if (s->watched && all_empty(s))
        arm(s);
}

static const struct fal_segment *arena_of(const struct fal_socket *s, uint32_t ring) {
    const struct attachment *a = &s->device[s->device_of[ring]];
    return &a->mapping->arena[ring - a->first];
}

static const uint8_t *frames_of(const struct fal_socket *s, uint32_t ring) {
    const uint8_t *arena = arena_of(s, ring)->address;
    return arena + ((const struct fal_arena *)arena)->frames_offset;
}

static bool match(const struct fal_socket *s, const uint8_t *frames, const struct fal_desc *d) {
    return fal_bpf_run(s->filter.instructions, frames + d->offset, d->len, d->caplen) != 0;
}

/* Gives back what does not match and lies before the first packet that does; false: there is none.
 * No more than a ring holds, so that it ends however fast packets come. */
static bool skip(struct fal_socket *s, uint32_t ring) {
    struct fal_consumer *r = &s->ring[ring];
    const uint8_t *frames = frames_of(s, ring);
    const struct fal_desc *d;
    bool found = false;
    for (uint32_t n, i, done = 0; done <= r->mask && !found; done += i) {
        n = fal_consumer_peek(r, UINT32_MAX, &d);
        for (i = 0; i < n; i++) {
            if (!(d[i].flags & FAL_DESC_FIRST))
                continue;
            if (i >= SKIP || (found = match(s, frames, &d[i])))
                break;
            s->filtered++;
        }
        if (i)
            fal_consumer_release(r, i);
        if (n == 0)
            break;
    }
    return found;
}

/* Whether a packet is there that may be received; no batch is out. */
static bool something(struct fal_socket *s) {
    if (!s->filter.count)
        return !all_empty(s);
    for (uint32_t i = 0; i < s->rings; i++)
        if (skip(s, i))
            return true;
    return false;
}

static uint32_t pieces_of(const struct fal_desc *first) {
    uint32_t n = 1;
    for (; first->flags & FAL_DESC_MORE; first++)
        n++;
    return n;
}

/* Whether n pieces more are too many for a batch; one packet may have as many as it likes. */
static bool too_many(uint32_t count, uint32_t n, uint32_t max) {
    return count ? count + n > max : max == 0;
}

/* As fal_consumer_peek, but whole packets.  What is to be skipped fills the ring up to its end, and
 * a packet comes behind it; after the batch it is held, too.  Returns how many slots are. */
static uint32_t peek_chains(struct fal_consumer *r, uint32_t max, struct fal_batch *batch) {
    const struct fal_desc *d;
    uint32_t there = fal_consumer_peek(r, UINT32_MAX, &d), count = 0;
    if (there && d->flags & FAL_DESC_SKIP) {
        fal_consumer_release(r, there);
        there = fal_consumer_peek(r, UINT32_MAX, &d);
    }
    while (count < there && !(d[count].flags & FAL_DESC_SKIP)) {
        uint32_t n = pieces_of(&d[count]);
        if (too_many(count, n, max))
            break;
        count += n;
        batch->whole++;
    }
    batch->packets = d;
    batch->count = count;
    return count && count < there && d[count].flags & FAL_DESC_SKIP ? there : count;
}

static uint32_t peek(const struct fal_socket *s, struct fal_consumer *r, uint32_t max,
                     struct fal_batch *batch) {
    if (s->chains)
        return peek_chains(r, max, batch);
    return batch->count = batch->whole = fal_consumer_peek(r, max, &batch->packets);
}

/* Leaves of the batch what matches, at most `max` pieces; returns how many of the slots are held.
 * Of a packet in pieces the filter sees the first, and the others go with it. */
static uint32_t filter(struct fal_socket *s, struct fal_batch *batch, uint32_t slots,
                       uint32_t max) {
    struct matches *to = s->matches;
    const struct fal_desc *d = batch->packets;
    uint32_t i, n;
    batch->whole = 0;
    for (i = 0; i < batch->count; i += n) {
        n = pieces_of(&d[i]);
        if (too_many(s->matched, n, max))
            break;
        if (!match(s, batch->frames, &d[i]))
            continue;
        batch->whole++;
        for (uint32_t k = i; k < i + n; k++) {
            to->packet[s->matched] = d[k];
            to->place[s->matched++] = k;
        }
    }
    slots = i < batch->count ? i : slots;
    batch->packets = to->packet;
    batch->count = s->matched;
    batch->slot = FAL_NO_SLOT;
    return slots;
}

int fal_setfilter(struct fal_socket *s, const struct fal_bpf_insn *program, uint32_t n,
                  struct fal_error *err) {
    if (n && !s->matches && !(s->matches = malloc(sizeof *s->matches)))
        return fal_fail(err, ENOMEM, "no memory for a filter");
    return set_program(&s->filter, program, n, err);
}

int fal_receive(struct fal_socket *s, uint32_t max, struct fal_batch *batch) {
    *batch = (struct fal_batch){0};
    if (!s->devices || !may_read(s)) {
        errno = s->devices ? EBUSY : ENOTCONN;
        return -1;
    }
    give_back(s, UINT32_MAX);
    for (uint32_t k = 0; k < s->rings; k++) {
        uint32_t i = s->next_ring++ % s->rings;
        struct fal_consumer *r = &s->ring[i];
        if (s->filter.count && !skip(s, i))
            continue;
        uint32_t n = peek(s, r, s->filter.count ? MATCHES : max, batch);
        if (!n)
            continue;
        batch->frames = frames_of(s, i);
        batch->slot = r->next & r->mask;
        batch->ring = i;
        batch->device = s->device_of[i];
        s->held = s->filter.count ? filter(s, batch, n, max < MATCHES ? max : MATCHES) : n;
        s->held_ring = i;
        return (int)batch->count;
    }
    if (s->watched)
        arm(s); /* found empty: the next packet must be a new edge */
    return 0;
}

uint32_t fal_copy(const struct fal_batch *batch, uint32_t i, void *to, uint32_t size) {
    uint32_t copied = 0;
    for (bool more = true; more && i < batch->count; i++) {
        const struct fal_desc *d = &batch->packets[i];
        uint32_t n = d->caplen < size - copied ? d->caplen : size - copied;
        memcpy((uint8_t *)to + copied, batch->frames + d->offset, n);
        copied += n;
        more = d->flags & FAL_DESC_MORE;
    }
    return copied;
}

/* Takes note of a last word, or of a death without one. */
static void listen_for_end(struct fal_socket *s, struct attachment *a) {
    struct fal_reply reply;
    struct fal_error why;
    /* It stays there, for another process that reads after this one. */
    ssize_t n = recv(a->control, &reply, sizeof reply, MSG_DONTWAIT | MSG_PEEK);
    if (n < 0 && errno == ECONNRESET) /* our last request was not read; a last word may follow */
        n = recv(a->control, &reply, sizeof reply, MSG_DONTWAIT | MSG_PEEK);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n == sizeof reply && reply.type == FAL_BYE) {
        reply.text[sizeof reply.text - 1] = 0;
        fal_fail(&why, reply.code, "%s", reply.text);
    } else {
        fal_fail(&why, ECONNRESET, "fal-poller died");
    }
    note_end(s, a, &why);
    arm(s); /* the descriptor tells of the end from now on, even if the last word has been read */
}

int fal_wait(struct fal_socket *s, int timeout, struct fal_error *err) {
    if (!s->devices)
        return fal_fail(err, ENOTCONN, "the socket is attached to no device");
    if (!may_read(s))
        return fal_fail(err, EBUSY, "process %u reads this socket", s->device[0].cursors->reader);
    give_back(s, UINT32_MAX);
    uint64_t start = now_ns(), now = start;
    uint64_t end = timeout < 0 ? UINT64_MAX : start + (uint64_t)timeout * 1000000u;
    if (timeout == 0 && all_empty(s))
        sched_yield(); /* who spins like this on the poller's core must let it run */
    for (;;) {
        if (something(s))
            return 1;
        if (s->ended.code) {
            if (err)
                *err = s->ended;
            return -1;
        }
        if (now - start < SPIN_NS && timeout) {
            sched_yield();
        } else if (!arm(s)) { /* not to be slept on, but maybe nothing that matches */
            if (now >= end)
                return something(s);
        } else {
            struct pollfd fds[2 * FAL_MAX_DEVICES];
            for (uint32_t i = 0; i < s->devices; i++) { /* poll() passes over a negative one */
                const struct attachment *a = &s->device[i];
                fds[2 * i] = (struct pollfd){a->ended.code ? -1 : a->wake, POLLIN, 0};
                fds[2 * i + 1] = (struct pollfd){a->ended.code ? -1 : a->control, POLLIN, 0};
            }
            uint64_t left = end > now ? end - now : 0;
            struct timespec until = {(time_t)(left / 1000000000u), (long)(left % 1000000000u)};
            int n = ppoll(fds, 2 * s->devices, timeout < 0 ? NULL : &until, NULL);
            if (n < 0 && errno == EINTR)
                return fal_fail(err, EINTR, "interrupted by a signal");
            if (n == 0)
                return something(s);                  /* time is up */
            for (uint32_t i = 0; i < s->devices; i++) /* what lies in the rings comes first */
                if (fds[2 * i + 1].revents || fds[2 * i].revents & (POLLHUP | POLLERR))
                    listen_for_end(s, &s->device[i]);
        }
        now = now_ns();
    }
}

/* ---- sending --------------------------------------------------------------------------------- */

/* The first time: asks for a transmit area, of the first device. */
static int get_area(struct fal_socket *s, struct fal_error *err) {
    struct fal_reply reply = {0};
    int fds[FAL_CONTROL_FDS];
    uint32_t n = FAL_CONTROL_FDS;
    int result = ask_for(s, &s->device[0], FAL_TRANSMIT, &reply, fds, &n, err);
    struct fal_mapping *m = s->device[0].mapping;
    if (result == 0 && (n != 2 || reply.poller >= m->arenas))
        result = fal_fail(err, EPROTO, "fal-poller sent a reply that makes no sense");
    if (result == 0 && (result = map(fds[0], FAL_TX_AREA, 1, &m->transmit, err)) == 0) {
        uint8_t *arena = m->arena[reply.poller].address;
        const struct fal_ring *ring =
            (const struct fal_ring *)s->ring[reply.poller].slots - 1; /* its head lies before it */
        s->poller = (struct fal_bell){.seq = &((struct fal_arena *)arena)->transmit_seq};
        struct fal_transmit *area = (struct fal_transmit *)m->transmit.address;
        s->sender = (struct fal_sender){.area = area,
                                        .transmitted = &ring->transmitted,
                                        .next = fal_load_acquire(&area->producer)};
        s->wake_poller = fds[1];
        fds[1] = -1;
    }
    for (uint32_t i = 0; i < n; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    return result;
}

int fal_inject(struct fal_socket *s, const void *frame, uint32_t length, struct fal_error *err) {
    if (!s->devices)
        return fal_fail(err, ENOTCONN, "the socket is attached to no device");
    if (!may_read(s))
        return fal_fail(err, EBUSY, "process %u uses this socket", s->device[0].cursors->reader);
    struct attachment *a = &s->device[0];
    if (a->ended.code)
        return fal_fail(err, a->ended.code, "%s", a->ended.text);
    if (!s->sender.area && get_area(s, err) < 0)
        return -1;
    const struct fal_status *status = status_of(a);
    if (length < FAL_MIN_SEND || length > status->max_send)
        return fal_fail(err, EMSGSIZE, "a frame of %u bytes: this device sends %d to %u", length,
                        FAL_MIN_SEND, status->max_send);
    if (!fal_sender_has_room(&s->sender)) {
        listen_for_end(s, a); /* who takes none may be no more */
        if (a->ended.code)
            return fal_fail(err, a->ended.code, "%s", a->ended.text);
        return fal_fail(err, EAGAIN, "%d frames are waiting to be sent", FAL_TX_SLOTS);
    }
    memcpy(fal_sender_reserve(&s->sender), frame, length);
    fal_sender_submit(&s->sender, length);
    fal_bell_fence();
    if (fal_bell_wanted(&s->poller))
        (void)!send(s->wake_poller, "", 1,
                    MSG_DONTWAIT | MSG_NOSIGNAL); /* full: readable already */
    return (int)length;
}

int fal_fileno(struct fal_socket *s) {
    if (s->devices && !s->watched) {
        s->watched = true;
        if (*s->is_reader && s->held == 0) /* else another process may have it armed, and sleep */
            arm(s);
    }
    return s->epoll;
}

/* ---- looking --------------------------------------------------------------------------------- */

int32_t fal_member(struct fal_socket *s) {
    if (!s->devices || s->group < 0)
        return -1;
    return fal_load_relaxed(
        &status_of(&s->device[0])->poller[0].member[s->device[0].member].number);
}

int fal_stats(struct fal_socket *s, struct fal_stats *stats) {
    *stats = (struct fal_stats){0};
    if (!s->devices)
        return -1;
    for (uint32_t i = 0; i < s->rings; i++) {
        const struct attachment *a = &s->device[s->device_of[i]];
        const struct fal_poller_status *from = &status_of(a)->poller[i - a->first];
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
    stats->filtered = s->filtered;
    return 0;
}

uint32_t fal_rings(struct fal_socket *s) {
    return s->rings;
}

int fal_view(struct fal_socket *s, uint32_t ring, struct fal_view *view) {
    if (ring >= s->rings)
        return -1;
    const struct fal_arena *arena = (const struct fal_arena *)arena_of(s, ring)->address;
    view->slots = s->ring[ring].slots;
    view->capacity = s->ring[ring].mask + 1;
    view->frames = frames_of(s, ring);
    view->frames_size = arena->frames * arena->frame_size;
    return 0;
}

struct fal_mapping *fal_pin(struct fal_socket *s, uint32_t ring) {
    if (ring >= s->rings)
        return NULL;
    struct fal_mapping *m = s->device[s->device_of[ring]].mapping;
    fal_count_in(&m->references);
    return m;
}

void fal_unpin(struct fal_mapping *m) {
    if (!m || !fal_count_out(&m->references))
        return;
    for (uint32_t i = 0; i < m->arenas; i++)
        fal_segment_free(&m->arena[i]);
    fal_segment_free(&m->status);
    fal_segment_free(&m->cursors);
    fal_segment_free(&m->transmit);
    free(m);
}
