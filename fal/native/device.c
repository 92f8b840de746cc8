/* A device and its pollers, as the control thread has them: opened and closed, told to begin and to
 * stop, given rings and plans.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "poller_private.h"

void fal_device_stop(struct fal_device *d) {
    for (struct fal_poller *p = d->poller; p < d->poller + d->pollers; p++) {
        fal_store_release(&p->stop, 1);
        fal_bump(p->kick);
    }
}

void fal_device_begin(struct fal_device *d) {
    for (struct fal_poller *p = d->poller; p < d->poller + d->pollers; p++) {
        fal_store_release(&p->begun, 1);
        fal_bump(p->kick);
    }
}

int fal_device_event_fd(struct fal_device *d) {
    return d->event;
}

uint32_t fal_device_events(struct fal_device *d) {
    uint64_t word;
    (void)!read(d->event, &word, sizeof word);
    return fal_exchange_acquire(&d->events, 0);
}

int fal_device_broken(struct fal_device *d, uint32_t socket) {
    for (struct fal_poller *p = d->poller; p < d->poller + d->pollers; p++)
        if (fal_load_acquire(&p->sockets[socket - 1].broken))
            return 1;
    return 0;
}

/* ---- records and rings ----------------------------------------------------------------------- */

/* A poller frees records and never takes one; the control thread takes them, one plan after the
 * other, and the same for all pollers: what looks free at all of them here is free. */
int fal_device_free_group(struct fal_device *d) {
    for (uint32_t i = 0; i < FAL_GROUP_RECORDS; i++) {
        uint32_t taken = 0;
        for (struct fal_poller *p = d->poller; p < d->poller + d->pollers; p++)
            taken |= fal_load_relaxed(&p->mine->group[i].live);
        if (!taken)
            return (int)i;
    }
    return -1;
}

int fal_device_free_member(struct fal_device *d) {
    for (uint32_t i = 0; i < FAL_MAX_MEMBERS; i++) {
        uint32_t taken = 0;
        for (struct fal_poller *p = d->poller; p < d->poller + d->pollers; p++)
            taken |= fal_load_relaxed(&p->mine->member[i].socket);
        if (!taken)
            return (int)i;
    }
    return -1;
}

uint32_t fal_device_memberships(struct fal_device *d, uint32_t socket) {
    uint32_t most = 0;
    for (struct fal_poller *p = d->poller; p < d->poller + d->pollers; p++) {
        uint32_t n = 0;
        for (uint32_t i = 0; i < FAL_MAX_MEMBERS; i++)
            n += fal_load_relaxed(&p->mine->member[i].socket) == socket;
        most = n > most ? n : most;
    }
    return most;
}

static int make_ring(struct fal_poller *p, uint32_t socket, uint64_t offset, uint32_t capacity,
                     const struct fal_segment *cursors, int wake) {
    struct socket_ring *s = &p->sockets[socket - 1];
    struct fal_cursor_page *page = (struct fal_cursor_page *)cursors->address;
    uint32_t *frame = calloc(capacity, sizeof *frame);
    if (!frame)
        return -1;
    struct fal_ring *ring = (struct fal_ring *)(p->arena + offset);
    memset(ring, 0, sizeof *ring);
    free(s->frame); /* of an admission that did not come to a plan */
    *s = (struct socket_ring){
        .ring = {.slots = (struct fal_desc *)(ring + 1),
                 .producer = &ring->producer,
                 .consumer = &page->cursor[p->index].consumer,
                 .mask = capacity - 1},
        .bell = {.seq = &page->seq},
        .frame = frame,
        .wake = wake,
        .socket = socket,
    };
    return 0;
}

int fal_device_ring(struct fal_device *d, uint32_t socket, uint64_t offset, uint32_t capacity,
                    const struct fal_segment *cursors, int wake, struct fal_error *err) {
    for (struct fal_poller *p = d->poller; p < d->poller + d->pollers; p++)
        if (make_ring(p, socket, offset, capacity, cursors, wake) < 0)
            return fal_fail(err, ENOMEM, "no memory for a ring of %u", capacity);
    return 0;
}

/* The socket's number says which poller sends for it: they take turns. */
static struct fal_poller *sender_of(struct fal_device *d, uint32_t socket) {
    return &d->poller[socket % d->pollers];
}

int fal_device_transmit(struct fal_device *d, uint32_t socket, const struct fal_segment *area,
                        uint64_t offset, int wake, struct fal_error *err) {
    struct fal_poller *p = sender_of(d, socket);
    struct fal_transmitter *t = calloc(1, sizeof *t);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.fd = wake};
    if (!t || epoll_ctl(p->senders, EPOLL_CTL_ADD, wake, &event) < 0) {
        free(t);
        return fal_fail(err, ENOMEM, "no memory for a transmit area");
    }
    t->area = (const struct fal_transmit *)area->address;
    t->transmitted = &((struct fal_ring *)(p->arena + offset))->transmitted;
    p->sockets[socket - 1].sender = wake;
    fal_store_release(&p->sockets[socket - 1].transmitter, t);
    fal_store_release(&p->sends, 1);
    return 0;
}

/* ---- plans ----------------------------------------------------------------------------------- */

static void free_plan(struct plan *plan) {
    if (plan) {
        for (uint32_t i = 0; i < plan->groups; i++) {
            free(plan->group[i].filter);
            free(plan->group[i].program);
        }
        free(plan->group);
        free(plan->member);
        free(plan->about);
        free(plan);
    }
}

/* rnd: another sequence in each group and poller, and with a fixed seed the same at each start. */
static uint64_t first_turn(const struct fal_poller *p, const struct fal_plan_group *group) {
    if (group->fanout.mode != FAL_MODE_RND)
        return 1;
    return p->hash_seed ^ (uint64_t)p->index << 48 ^ (uint64_t)(uint32_t)group->id << 32;
}

/* A copy for the plan; NULL: there is none, or no memory. */
static struct fal_bpf_insn *copy_program(const struct fal_bpf_insn *program, uint32_t count) {
    struct fal_bpf_insn *copy = count ? malloc(count * sizeof *copy) : NULL;
    if (copy)
        memcpy(copy, program, count * sizeof *copy);
    return copy;
}

static struct plan *build_plan(struct fal_poller *p, const struct fal_plan_group *groups,
                               uint32_t n, const struct fal_plan_member *members) {
    struct plan *plan = calloc(1, sizeof *plan);
    uint32_t total = 0;
    for (uint32_t i = 0; i < n; i++)
        total += groups[i].started + groups[i].admitted;
    if (!plan || !(plan->group = calloc(n + 1, sizeof *plan->group)) ||
        !(plan->about = calloc(n + 1, sizeof *plan->about)) ||
        !(plan->member = calloc(total + 1, sizeof *plan->member))) {
        free_plan(plan);
        return NULL;
    }
    plan->groups = n;
    if (n)
        memcpy(plan->about, groups, n * sizeof *groups);
    if (total)
        memcpy(plan->member, members, total * sizeof *members);
    for (uint32_t i = 0; i < n; i++) {
        struct group *g = &plan->group[i];
        uint64_t ids[FAL_GROUP_MEMBERS];
        for (uint32_t k = 0; k < groups[i].started + groups[i].admitted; k++, members++) {
            struct socket_ring *s = &p->sockets[members->socket - 1];
            plan->socket[plan->sockets++] = s;
            if (k < groups[i].started) {
                g->member[k] = s;
                ids[k] = members->id;
            }
        }
        g->record = groups[i].record;
        g->fanout = groups[i].fanout;
        g->steering = (struct fal_steering){.mode = g->fanout.mode,
                                            .members = groups[i].started,
                                            .next = first_turn(p, &groups[i]),
                                            .table = g->table};
        g->filter = copy_program(groups[i].filter, groups[i].filter_count);
        g->program = copy_program(groups[i].program, groups[i].program_count);
        if ((groups[i].filter_count && !g->filter) || (groups[i].program_count && !g->program) ||
            (g->fanout.mode == FAL_MODE_HASH && groups[i].started &&
             fal_buckets_build(ids, groups[i].started, g->table) < 0)) {
            free_plan(plan);
            return NULL;
        }
    }
    return plan;
}

/* Whether the poller was running, and so will say when it has taken the plan in. */
static bool hand_over(struct fal_poller *p, struct plan *plan) {
    pthread_mutex_lock(&p->lock);
    bool running = p->running;
    if (running)
        fal_store_release(&p->pending, plan);
    else
        fal_poller_adopt(p, plan);
    pthread_mutex_unlock(&p->lock);
    if (running)
        fal_bump(p->kick);
    return running;
}

/* Before they go from the plan: when that is taken in, the poller has done with their descriptors,
 * whose numbers may then become others'. */
static void deafen(struct fal_poller *p, const struct plan *plan) {
    for (uint32_t i = 0; i < p->plan->sockets; i++) {
        const struct socket_ring *s = p->plan->socket[i];
        if (s->transmitter && !fal_plan_has(plan, s))
            epoll_ctl(p->senders, EPOLL_CTL_DEL, s->sender, NULL);
    }
}

/* What only the old plan has is the poller's no more. */
static void dispose(struct plan *old, const struct plan *plan) {
    for (uint32_t i = 0; i < old->sockets; i++)
        if (!fal_plan_has(plan, old->socket[i])) {
            free(old->socket[i]->transmitter);
            free(old->socket[i]->frame);
            *old->socket[i] = (struct socket_ring){0};
        }
    free_plan(old);
}

/* All pollers take their plans in at the same time, each between two bursts. */
int fal_device_publish(struct fal_device *d, const struct fal_plan_group *groups,
                       uint32_t group_count, const struct fal_plan_member *members,
                       struct fal_error *err) {
    struct plan *plan[FAL_MAX_POLLERS], *old[FAL_MAX_POLLERS];
    bool running[FAL_MAX_POLLERS];
    for (uint32_t i = 0; i < d->pollers; i++) {
        old[i] = d->poller[i].plan;
        plan[i] = build_plan(&d->poller[i], groups, group_count, members);
        if (!plan[i]) {
            while (i-- > 0)
                free_plan(plan[i]);
            return fal_fail(err, ENOMEM, "no memory for the steering tables");
        }
    }
    for (uint32_t i = 0; i < d->pollers; i++) {
        deafen(&d->poller[i], plan[i]);
        running[i] = hand_over(&d->poller[i], plan[i]);
    }
    for (uint32_t i = 0; i < d->pollers; i++) {
        uint64_t word;
        while (running[i] && read(d->poller[i].taken, &word, sizeof word) < 0 && errno == EINTR)
            ;
        dispose(old[i], plan[i]);
    }
    return 0;
}

/* ---- opening and closing --------------------------------------------------------------------- */

static const struct fal_backend_ops *const backends[] = {&fal_backend_af_xdp, &fal_backend_null,
                                                         &fal_backend_pcap, &fal_backend_tpacket};

static const struct fal_backend_ops *find_backend(const char *name, struct fal_error *err) {
    for (unsigned i = 0; i < sizeof backends / sizeof *backends; i++)
        if (!strcmp(backends[i]->name, name))
            return backends[i];
    fal_fail(err, EINVAL, "unknown backend '%s' (known: af_xdp, null, pcap, tpacket)", name);
    return NULL;
}

int fal_device_queues(const struct fal_poller_options *options, struct fal_error *err) {
    const struct fal_backend_ops *ops = find_backend(options->backend, err);
    const struct fal_backend_options *o = &options->source;
    int queues = ops ? ops->queues(o, err) : -1;
    if (queues >= 0 && o->pollers > (uint32_t)queues)
        return fal_fail(err, EINVAL,
                        "%u CPUs for %d queue%s of %s: each poller wants a queue (give as many "
                        "--cpus as there are queues, or fewer)",
                        o->pollers, queues, queues == 1 ? "" : "s", o->device);
    return queues;
}

static void close_poller(struct fal_poller *p) {
    for (uint32_t i = 0; i < FAL_MAX_SOCKETS; i++) {
        free(p->sockets[i].transmitter);
        free(p->sockets[i].frame);
    }
    free_plan(p->plan);
    free(p->free_frames);
    free(p->references);
    free(p->rest);
    free(p->mine);
    close(p->kick);
    close(p->taken);
    close(p->senders);
    pthread_mutex_destroy(&p->lock);
}

void fal_device_close(struct fal_device *d) {
    if (!d)
        return;
    if (d->backend)
        d->ops->close(d->backend);
    for (uint32_t i = 0; i < d->pollers; i++)
        close_poller(&d->poller[i]);
    close(d->event);
    free(d);
}

static int prepare_poller(struct fal_device *d, uint32_t index, const struct fal_segment *arena,
                          struct fal_poller_status *status) {
    const struct fal_arena *layout = (const struct fal_arena *)arena->address;
    struct fal_poller *p = &d->poller[index];
    pthread_mutex_init(&p->lock, NULL);
    p->device = d;
    p->ops = d->ops;
    p->index = index;
    p->hash_seed = d->options.hash_seed;
    p->idle = d->options.idle;
    p->cpu = d->options.cpus[index];
    p->status = status;
    p->arena = arena->address;
    p->node = arena->node;
    p->pool = (struct fal_pool){.frames = arena->address + layout->frames_offset,
                                .frames_size = layout->frames * layout->frame_size,
                                .frame_size = (uint32_t)layout->frame_size,
                                .frame_count = (uint32_t)layout->frames};
    p->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    p->taken = eventfd(0, EFD_CLOEXEC);
    p->senders = epoll_create1(EPOLL_CLOEXEC);
    p->mine = calloc(1, sizeof *p->mine);
    p->references = calloc(layout->frames, sizeof *p->references);
    p->free_frames = calloc(layout->frames, sizeof *p->free_frames);
    p->rest = calloc(layout->frames, sizeof *p->rest);
    p->plan = calloc(1, sizeof *p->plan);
    while (p->free_frames && p->free_count < p->pool.frame_count) { /* frame 0 goes out first */
        p->free_frames[p->free_count] = p->pool.frame_count - 1 - p->free_count;
        p->free_count++;
    }
    d->pollers++;
    return p->kick < 0 || p->taken < 0 || p->senders < 0 || !p->mine || !p->references ||
           !p->free_frames || !p->rest || !p->plan;
}

/* Its queues, and the frames for them: before the first packet can come. */
static void begin_poller(struct fal_poller *p, const struct fal_backend_facts *facts, void *part) {
    p->part = part;
    p->max_send = facts->max_send;
    p->chains = facts->chains;
    for (uint32_t i = p->index; i < facts->queue_count; i += p->device->pollers, p->queues++)
        p->status->queue[p->queues].id = p->mine->queue[p->queues].id = facts->queue[i];
    p->status->queues = p->queues;
    p->status->cpu = (uint32_t)p->cpu;
    p->status->node = p->node;
    fal_poller_refill(p);
}

struct fal_device *fal_device_open(const struct fal_poller_options *options,
                                   const struct fal_segment *arenas,
                                   struct fal_poller_status *status, struct fal_error *err) {
    const struct fal_backend_ops *ops = find_backend(options->backend, err);
    uint32_t pollers = options->source.pollers;
    struct fal_device *d = ops ? calloc(1, sizeof *d + pollers * sizeof *d->poller) : NULL;
    if (!d) {
        if (ops)
            fal_fail(err, ENOMEM, "no memory for the pollers");
        return NULL;
    }
    struct fal_pool pools[FAL_MAX_POLLERS];
    void *parts[FAL_MAX_POLLERS];
    d->ops = ops;
    d->options = *options;
    d->undrained = pollers;
    d->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int failed = d->event < 0;
    for (uint32_t i = 0; i < pollers; i++) {
        failed |= prepare_poller(d, i, &arenas[i], &status[i]);
        pools[i] = d->poller[i].pool;
    }
    if (failed)
        fal_fail(err, errno, "cannot set up the pollers: %s", strerror(errno));
    else
        d->backend = ops->open(&options->source, pools, parts, &d->facts, err);
    if (!d->backend) {
        fal_device_close(d);
        return NULL;
    }
    for (uint32_t i = 0; i < d->pollers; i++)
        begin_poller(&d->poller[i], &d->facts, parts[i]);
    return d;
}

const struct fal_backend_facts *fal_device_facts(const struct fal_device *d) {
    return &d->facts;
}

struct fal_poller *fal_device_poller(struct fal_device *d, uint32_t index) {
    return &d->poller[index];
}
