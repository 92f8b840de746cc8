/* libfal: the worker's side of everything.  What differs with who serves a device is in
 * client_fal.c and client_kernel.c.
 * SPDX-License-Identifier: BSD-3-Clause */
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

#include "bpf.h"
#include "client_private.h"
#include "control.h"

#define SPIN_NS 50000ull /* before a blocking wait sleeps: waking costs the poller 8 us */

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

#define SKIP 256 /* packets that do not match are given back so many at a time */

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- sleeping -------------------------------------------------------------------------------- */

/* A ring that nobody else fills is filled when somebody looks. */
static struct fal_consumer *look_at(struct fal_socket *s, uint32_t i) {
    struct fal_attachment *a = &s->device[s->ring[i].device];
    if (a->engine->pull)
        a->engine->pull(s, a);
    return &s->ring[i].consumer;
}

static bool all_empty(struct fal_socket *s) {
    for (uint32_t i = 0; i < s->rings; i++)
        if (!fal_consumer_empty(look_at(s, i)))
            return false;
    return true;
}

static void unwatch(struct fal_socket *s, const struct fal_attachment *a) {
    epoll_ctl(s->epoll, EPOLL_CTL_DEL, a->wake, NULL);
    if (a->control >= 0)
        epoll_ctl(s->epoll, EPOLL_CTL_DEL, a->control, NULL);
}

/* By a fault of one device the socket has ended, too; otherwise it goes on until all have. */
void fal_client_end(struct fal_socket *s, struct fal_attachment *a, const struct fal_error *why) {
    bool all = true;
    a->ended = *why;
    for (uint32_t i = 0; i < s->devices; i++)
        all &= s->device[i].ended.code != 0;
    if (!s->ended.code && (all || why->code != ENODATA))
        s->ended = *why;
    if (!s->ended.code)
        unwatch(s, a); /* readable for ever, and nothing to wait for */
}

static bool has_ended(struct fal_socket *s, struct fal_attachment *a) {
    struct fal_error why;
    if (a->ended.code || !a->engine->ended(s, a, &why))
        return false;
    fal_client_end(s, a, &why);
    return true;
}

/* Sleeping (see ring.h and "Waking" in docs/architecture.md).  The descriptor given out is readable
 * unless the bell is armed and all rings were found empty after arming it: a byte in the wake
 * socket, or the eventfd, stays until the next arm().  Once armed by fal_attach this always holds;
 * only the process that reads arms it again.  True: armed, so whoever sleeps is woken. */
static bool arm(struct fal_socket *s) {
    uint64_t word;
    char bytes[64];
    for (uint32_t i = 0; i < s->devices; i++) {
        if (s->device[i].engine->pull) /* no bell; of an end it tells once, if that */
            has_ended(s, &s->device[i]);
        else
            while (recv(s->device[i].wake, bytes, sizeof bytes, MSG_DONTWAIT) > 0)
                ;
    }
    (void)!read(s->again, &word, sizeof word);
    for (uint32_t i = 0; i < s->devices; i++)
        fal_bell_arm(&s->device[i].cursors->seq);
    if (all_empty(s) && !s->ended.code && !fal_load_relaxed(&s->interrupted))
        return true;
    for (uint32_t i = 0; i < s->devices; i++)
        fal_bell_disarm(&s->device[i].cursors->seq);
    word = 1;
    (void)!write(s->again, &word, sizeof word);
    return false;
}

static int set_program(struct fal_program *p, const struct fal_bpf_insn *program, uint32_t n,
                       struct fal_error *err) {
    struct fal_bpf_insn *copy = NULL;
    if (n && fal_bpf_check(program, n, err) < 0)
        return -1;
    if (n && !(copy = malloc(n * sizeof *copy)))
        return fal_fail(err, ENOMEM, "no memory for a BPF program");
    if (n)
        memcpy(copy, program, n * sizeof *copy);
    free(p->instructions);
    *p = (struct fal_program){copy, n};
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
    s->epoll = s->again = -1;
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

/* Of all devices that have not ended cleanly, and of which it is not so already: -1 where one
 * refuses, then those after it were not asked. */
static int ask_all(struct fal_socket *s, uint32_t type, struct fal_error *err) {
    if (s->devices == 0)
        return fal_fail(err, ENOTCONN, "the socket is attached to no device");
    if (s->ended.code)
        return fal_fail(err, s->ended.code, "%s", s->ended.text);
    for (struct fal_attachment *a = s->device; a < s->device + s->devices; a++) {
        if (a->ended.code || (type != FAL_START && a->joined == (type == FAL_JOIN)))
            continue;
        if (a->engine->change(s, a, type, err) < 0)
            return -1;
        if (type != FAL_START)
            a->joined = type == FAL_JOIN;
    }
    return 0;
}

static int watch(struct fal_socket *s, const struct fal_attachment *a) {
    struct epoll_event in = {.events = EPOLLIN};
    int failed = epoll_ctl(s->epoll, EPOLL_CTL_ADD, a->wake, &in);
    return a->control < 0 ? failed : failed | epoll_ctl(s->epoll, EPOLL_CTL_ADD, a->control, &in);
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
        failed |= watch(s, &s->device[i]);
    return failed;
}

static int attach_one(struct fal_socket *s, const struct fal_engine *engine, const char *name,
                      struct fal_error *err) {
    if (s->devices == FAL_MAX_DEVICES)
        return fal_fail(err, EINVAL, "a socket has at most %d devices", FAL_MAX_DEVICES);
    struct fal_attachment *a = &s->device[s->devices++];
    *a = (struct fal_attachment){.engine = engine,
                                 .first = s->rings,
                                 .control = -1,
                                 .wake = -1,
                                 .wake_poller = -1,
                                 .joined = s->group >= 0,
                                 .group = s->group};
    memcpy(a->mode, s->mode, sizeof a->mode);
    return engine->attach(s, a, name, err);
}

/* Who serves it; *names becomes what is behind the prefix.  Without one it is the kernel's. */
static const struct fal_engine *engine_of(const char *device, const char **names) {
    const size_t prefix = strcspn(device, ":") + 1;
    *names = strchr(device, ':') ? device + prefix : device;
    if (*names == device || !strncmp(device, "tpacket:", prefix))
        return &fal_engine_kernel;
    return strncmp(device, "fal:", prefix) ? NULL : &fal_engine_fal;
}

int fal_attach(struct fal_socket *s, const char *device, struct fal_error *err) {
    const char *name, *end;
    const struct fal_engine *engine = engine_of(device, &name);
    if (s->devices)
        return fal_fail(err, EISCONN, "the socket is attached to a device already");
    if (!engine)
        return fal_fail(err, EINVAL,
                        "device '%s': write fal:NAME (served by fal-poller), or tpacket:DEVICE or "
                        "DEVICE (the kernel's)",
                        device);
    s->ended = (struct fal_error){0};
    int result = 0;
    for (; result == 0 && name; name = end ? end + 1 : NULL) {
        char one[512];
        end = strchr(name, '^');
        size_t n = end ? (size_t)(end - name) : strlen(name);
        if (n < sizeof one) {
            memcpy(one, name, n);
            one[n] = 0;
            result = attach_one(s, engine, one, err);
        } else {
            result = fal_fail(err, ENAMETOOLONG, "device '%.40s…': the name is too long", name);
        }
    }
    if (result == 0 && make_descriptor(s) < 0)
        result = fal_fail(err, errno, "cannot watch %s: %s", device, strerror(errno));
    if (result == 0) {
        arm(s);
        return 0;
    }
    fal_detach(s, NULL);
    return -1;
}

int fal_detach(struct fal_socket *s, struct fal_error *err) {
    uint32_t were = s->devices;
    int *fds[] = {&s->epoll, &s->again};
    if (were && *s->is_reader) /* after a fork the other may read now */
        fal_store_release(&s->device[0].cursors->reader, 0);
    for (unsigned i = 0; i < sizeof fds / sizeof *fds; i++) {
        if (*fds[i] >= 0)
            close(*fds[i]);
        *fds[i] = -1;
    }
    for (uint32_t i = 0; i < were; i++) {
        s->device[i].engine->detach(&s->device[i]);
        fal_unpin(s->device[i].mapping);
    }
    s->watched = false;
    s->held = s->matched = s->rings = s->devices = 0;
    s->chains = false;
    s->filtered = 0;
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

static int check_group(int32_t group, const char *fanout, struct fal_error *err) {
    if (group < 0 || group > FAL_MAX_GROUP_ID)
        return fal_fail(err, EINVAL, "group %d: ids are 0 to %d", group, FAL_MAX_GROUP_ID);
    if (fanout && strlen(fanout) >= FAL_NAME_SIZE)
        return fal_fail(err, EINVAL, "unknown fan-out mode '%.40s…'", fanout);
    return 0;
}

/* The group of the devices from first to before end; -1: none. */
static void set_group(struct fal_attachment *first, struct fal_attachment *end, int32_t group,
                      const char *fanout) {
    for (struct fal_attachment *a = first; a < end; a++) {
        a->group = group;
        snprintf(a->mode, sizeof a->mode, "%s", fanout ? fanout : "");
    }
}

int fal_join(struct fal_socket *s, int32_t group, const char *fanout, struct fal_error *err) {
    struct fal_attachment *end = s->device + s->devices;
    if (check_group(group, fanout, err) < 0)
        return -1;
    if (s->group >= 0)
        return fal_fail(err, EALREADY, "already in group %d", s->group);
    for (struct fal_attachment *a = s->device; a < end; a++)
        if (a->joined)
            return fal_fail(err, EALREADY, "already in group %d", a->group);
    snprintf(s->mode, sizeof s->mode, "%s", fanout ? fanout : "");
    s->group = group;
    set_group(s->device, end, group, fanout);
    if (!s->devices)
        return 0; /* kept until fal_attach */
    if (ask_all(s, FAL_JOIN, err) == 0)
        return 0;
    ask_all(s, FAL_LEAVE, NULL); /* everywhere or nowhere */
    set_group(s->device, end, -1, NULL);
    s->group = -1;
    return -1;
}

int fal_join_device(struct fal_socket *s, uint32_t device, int32_t group, const char *fanout,
                    struct fal_error *err) {
    if (check_group(group, fanout, err) < 0)
        return -1;
    if (device >= s->devices)
        return fal_fail(err, ENOTCONN, "the socket is attached to no device %u", device);
    struct fal_attachment *a = &s->device[device];
    if (a->joined)
        return fal_fail(err, EALREADY, "already in group %d", a->group);
    set_group(a, a + 1, group, fanout);
    a->joined = a->engine->change(s, a, FAL_JOIN, err) == 0;
    if (!a->joined)
        set_group(a, a + 1, -1, NULL);
    return a->joined ? 0 : -1;
}

int fal_leave(struct fal_socket *s, struct fal_error *err) {
    bool joined = s->group >= 0;
    for (uint32_t i = 0; i < s->devices; i++)
        joined |= s->device[i].joined;
    if (!joined)
        return fal_fail(err, EINVAL, "the socket is in no group");
    if (s->devices && ask_all(s, FAL_LEAVE, err) < 0) /* again later: some may have left */
        return -1;
    set_group(s->device, s->device + s->devices, -1, NULL);
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
    for (uint32_t i = 0; i < s->rings; i++) { /* another process may have read before */
        struct fal_consumer *r = &s->ring[i].consumer;
        r->next = r->seen = fal_load_acquire(r->consumer);
    }
    for (uint32_t i = 0; i < s->devices; i++)
        if (s->device[i].sender.area)
            s->device[i].sender.next = fal_load_acquire(&s->device[i].sender.area->producer);
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
    struct fal_consumer *r = &s->ring[s->held_ring].consumer;
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

static bool match(const struct fal_socket *s, const uint8_t *frames, const struct fal_desc *d) {
    return fal_bpf_run(s->filter.instructions, frames + d->offset, d->len, d->caplen) != 0;
}

/* Gives back what does not match and lies before the first packet that does; false: there is none.
 * No more than may lie there, so that it ends however fast packets come. */
static bool skip(struct fal_socket *s, uint32_t ring) {
    const uint8_t *frames = s->ring[ring].frames;
    const struct fal_desc *d;
    bool found = false;
    for (uint32_t n, i, done = 0; done < s->ring[ring].most && !found; done += i) {
        struct fal_consumer *r = look_at(s, ring);
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
    struct fal_matches *to = s->matches;
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
        struct fal_consumer *r = look_at(s, i);
        if (s->filter.count && !skip(s, i))
            continue;
        uint32_t n = peek(s, r, s->filter.count ? FAL_MATCHES : max, batch);
        if (!n)
            continue;
        batch->frames = s->ring[i].frames;
        batch->slot = r->next & r->mask;
        batch->ring = i;
        batch->device = s->ring[i].device;
        s->held = s->filter.count ? filter(s, batch, n, max < FAL_MATCHES ? max : FAL_MATCHES) : n;
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
        if (fal_exchange_acquire(&s->interrupted, 0))
            return fal_fail(err, EINTR, "interrupted");
        if (now - start < SPIN_NS && timeout) {
            sched_yield();
        } else if (!arm(s)) { /* not to be slept on, but maybe nothing that matches */
            if (now >= end)
                return something(s);
        } else {
            struct pollfd fds[2 * FAL_MAX_DEVICES + 1];
            for (uint32_t i = 0; i < s->devices; i++) { /* poll() passes over a negative one */
                const struct fal_attachment *a = &s->device[i];
                fds[2 * i] = (struct pollfd){a->ended.code ? -1 : a->wake, POLLIN, 0};
                fds[2 * i + 1] = (struct pollfd){a->ended.code ? -1 : a->control, POLLIN, 0};
            }
            fds[2 * s->devices] = (struct pollfd){s->again, POLLIN, 0};
            uint64_t left = end > now ? end - now : 0;
            struct timespec until = {(time_t)(left / 1000000000u), (long)(left % 1000000000u)};
            int n = ppoll(fds, 2 * s->devices + 1, timeout < 0 ? NULL : &until, NULL);
            if (n < 0 && errno == EINTR)
                return fal_fail(err, EINTR, "interrupted by a signal");
            if (n == 0)
                return something(s);                  /* time is up */
            for (uint32_t i = 0; i < s->devices; i++) /* what lies in the rings comes first */
                if ((fds[2 * i + 1].revents || fds[2 * i].revents & (POLLHUP | POLLERR)) &&
                    has_ended(s, &s->device[i]))
                    arm(s); /* the descriptor tells of it from now on, too */
        }
        now = now_ns();
    }
}

/* The word is there before the eventfd is; arm() empties that, and then looks at the word. */
void fal_interrupt(struct fal_socket *s) {
    int saved = errno;
    fal_store_release(&s->interrupted, 1);
    if (s->again >= 0)
        (void)!write(s->again, &(uint64_t){1}, sizeof(uint64_t));
    errno = saved;
}

/* ---- sending --------------------------------------------------------------------------------- */

int fal_inject(struct fal_socket *s, const void *frame, uint32_t length, struct fal_error *err) {
    if (!s->devices)
        return fal_fail(err, ENOTCONN, "the socket is attached to no device");
    if (!may_read(s))
        return fal_fail(err, EBUSY, "process %u uses this socket", s->device[0].cursors->reader);
    struct fal_attachment *a = &s->device[0];
    if (a->ended.code)
        return fal_fail(err, a->ended.code, "%s", a->ended.text);
    return a->engine->send(s, a, frame, length, err) < 0 ? -1 : (int)length;
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
    const struct fal_attachment *a = &s->device[0];
    return s->devices && a->group >= 0 ? a->engine->member(a) : -1;
}

int fal_stats(struct fal_socket *s, struct fal_stats *stats) {
    *stats = (struct fal_stats){.filtered = s->filtered};
    for (uint32_t i = 0; i < s->devices; i++)
        s->device[i].engine->stats(s, &s->device[i], stats);
    return s->devices ? 0 : -1;
}

uint32_t fal_rings(struct fal_socket *s) {
    return s->rings;
}

int fal_view(struct fal_socket *s, uint32_t ring, struct fal_view *view) {
    if (ring >= s->rings)
        return -1;
    const struct fal_client_ring *r = &s->ring[ring];
    *view = (struct fal_view){.slots = r->consumer.slots,
                              .frames = r->frames,
                              .frames_size = r->frames_size,
                              .capacity = r->consumer.mask + 1};
    return 0;
}

struct fal_mapping *fal_pin(struct fal_socket *s, uint32_t ring) {
    if (ring >= s->rings)
        return NULL;
    struct fal_mapping *m = s->device[s->ring[ring].device].mapping;
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
