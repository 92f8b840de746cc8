/* Two programs, assembled here, and a map that they share with us (mmap):
 *
 *   XDP, once a frame     writes the next frame of the list over what lay in the page (a page comes
 *                         back with the bytes of its last frame), cuts it to its length, and
 *                         redirects it
 *   a raw tracepoint      xdp_devmap_xmit, once for up to 16 frames: what the device took of them.
 *                         Nothing else tells: to the caller of the test run all went well
 *
 * All of a test run's frames are redirected, and handed to the device, on one CPU that nothing else
 * can take meanwhile (bottom halves are off).  So what is handed over there while frames are pending
 * is ours.  The map is read and written here between test runs only.
 * SPDX-License-Identifier: BSD-3-Clause */
#include "live.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <sched.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ebpf.h"

#define PENDING  32         /* more than are redirected before a device is handed some: 17 */
#define LOOPBACK 1          /* the index of lo in every network namespace */
#define LARGEST  (1u << 29) /* bytes of a map: offsets beyond are refused by the verifier */

/* Numbers from newer kernels than the oldest headers that this is built with. */
#define HELPER_XDP_STORE_BYTES 190       /* Linux 5.18 */
#define LIVE_FRAMES            (1u << 1) /* the same */

struct entry {
    uint32_t offset; /* in the map */
    uint32_t length; /* 0: too long for the device */
};

/* What the programs and we share; its counts are of one test run. */
struct state {
    uint64_t redirected;    /* frames */
    uint64_t handed;        /* of them, to the device; the others it never gets, or not yet */
    uint64_t bytes;         /* of frames redirected */
    uint64_t handed_bytes;  /* of frames handed to the device */
    uint64_t ends[PENDING]; /* what `bytes` was after each of the last frames */
    uint64_t sent, sent_bytes, too_long;
    uint32_t cpu;   /* where frames are redirected */
    uint32_t error; /* of the device, negative */
    uint32_t next;  /* of the list */
    uint32_t unused;
    struct entry list[];
};

struct fal_live {
    struct state *state;
    size_t size;
    const uint8_t *longest; /* a frame that no other is longer than */
    uint32_t longest_length;
    int map, xdp, trace, link, known, space;
};

/* ---- the programs ------------------------------------------------------------------------------ */

enum { R0, R1, R2, R3, R4, CONTEXT = 6, STATE, LENGTH, DATA };
enum { SENT = LENGTH, HANDED = DATA };

#define AT(field) (short)offsetof(struct state, field)
/* clang-format off */
#define SET(to, value)       {BPF_ALU64 | BPF_MOV | BPF_K, to, 0, 0, (int)(value)}
#define COPY(to, from)       {BPF_ALU64 | BPF_MOV | BPF_X, to, from, 0, 0}
#define ADD(to, from)        {BPF_ALU64 | BPF_ADD | BPF_X, to, from, 0, 0}
#define SUBTRACT(to, from)   {BPF_ALU64 | BPF_SUB | BPF_X, to, from, 0, 0}
#define DO(op, to, value)    {BPF_ALU64 | BPF_##op | BPF_K, to, 0, 0, (int)(value)}
#define LOAD(size, to, from, at)  {BPF_LDX | BPF_MEM | BPF_##size, to, from, at, 0}
#define STORE(size, to, at, from) {BPF_STX | BPF_MEM | BPF_##size, to, from, at, 0}
#define JUMP_IF(op, what, value, by)    {BPF_JMP | BPF_##op | BPF_K, what, 0, by, (int)(value)}
#define JUMP_IF_SAME(one, other, by)     {BPF_JMP | BPF_JEQ | BPF_X, one, other, by, 0}
#define JUMP_UNLESS_SAME(one, other, by) {BPF_JMP | BPF_JNE | BPF_X, one, other, by, 0}
#define CALL(helper)         {BPF_JMP | BPF_CALL, 0, 0, 0, helper}
#define EXIT                 {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}
#define LOAD_STATE(map)      {BPF_LD | BPF_IMM | BPF_DW, STATE, BPF_PSEUDO_MAP_VALUE, 0, map}, {0, 0, 0, 0, 0}
/* From a number of frames to the place of the last one's `ends`, relative to its begin. */
#define END_OF(n)            DO(AND, n, PENDING - 1), DO(LSH, n, 3), ADD(n, STATE)
/* clang-format on */

static int load(uint32_t type, const struct bpf_insn *program, size_t bytes) {
    return fal_ebpf_load(type, "fal_gen", program, (uint32_t)(bytes / sizeof *program), 0);
}

static int load_xdp(const struct fal_live *l, uint32_t ifindex, uint32_t count) {
    const uint32_t longest = l->longest_length;
    const struct bpf_insn program[] = {
        COPY(CONTEXT, R1),
        LOAD_STATE(l->map),
        LOAD(W, R1, STATE, AT(next)),
        JUMP_IF(JLT, R1, count, 1),
        SET(R1, 0),
        COPY(R2, R1),
        DO(ADD, R2, 1),
        STORE(W, STATE, AT(next), R2),
        DO(LSH, R1, 3), /* an entry's size */
        ADD(R1, STATE),
        LOAD(W, DATA, R1, AT(list[0].offset)),
        LOAD(W, LENGTH, R1, AT(list[0].length)),
        JUMP_IF(JEQ, LENGTH, 0, 29),               /* to too_long */
        JUMP_IF(JGT, LENGTH, longest, 31),         /* to drop: never, but the verifier */
        JUMP_IF(JGT, DATA, l->size - longest, 30), /* wants to see it */
        ADD(DATA, STATE),

        COPY(R2, LENGTH),
        DO(SUB, R2, longest),
        JUMP_IF(JEQ, R2, 0, 2),
        COPY(R1, CONTEXT),
        CALL(BPF_FUNC_xdp_adjust_tail),
        COPY(R1, CONTEXT),
        SET(R2, 0),
        COPY(R3, DATA),
        COPY(R4, LENGTH),
        CALL(HELPER_XDP_STORE_BYTES),

        CALL(BPF_FUNC_get_smp_processor_id),
        STORE(W, STATE, AT(cpu), R0),
        LOAD(DW, R1, STATE, AT(bytes)),
        ADD(R1, LENGTH),
        STORE(DW, STATE, AT(bytes), R1),
        LOAD(DW, R2, STATE, AT(redirected)),
        DO(ADD, R2, 1),
        STORE(DW, STATE, AT(redirected), R2),
        END_OF(R2),
        STORE(DW, R2, AT(ends), R1),

        SET(R1, ifindex),
        SET(R2, 0),
        CALL(BPF_FUNC_redirect),
        EXIT,

        LOAD(DW, R1, STATE, AT(too_long)), /* too_long: */
        DO(ADD, R1, 1),
        STORE(DW, STATE, AT(too_long), R1),
        SET(R0, XDP_DROP), /* drop: */
        EXIT,
    };
    return load(BPF_PROG_TYPE_XDP, program, sizeof program);
}

/* Its arguments: from, to, sent, dropped, error. */
static int load_trace(const struct fal_live *l) {
    const struct bpf_insn program[] = {
        COPY(CONTEXT, R1),
        LOAD_STATE(l->map),
        LOAD(DW, HANDED, STATE, AT(handed)),
        LOAD(DW, R1, STATE, AT(redirected)),
        JUMP_IF_SAME(HANDED, R1, 30), /* to out */
        CALL(BPF_FUNC_get_smp_processor_id),
        LOAD(W, R1, STATE, AT(cpu)),
        JUMP_UNLESS_SAME(R0, R1, 27), /* to out */

        LOAD(DW, SENT, CONTEXT, 2 * 8),
        JUMP_IF(JEQ, SENT, 0, 14), /* to rest */
        ADD(HANDED, SENT),
        COPY(R2, HANDED),
        END_OF(R2),
        LOAD(DW, R1, R2, AT(ends)),
        LOAD(DW, R2, STATE, AT(handed_bytes)),
        SUBTRACT(R1, R2),
        LOAD(DW, R2, STATE, AT(sent_bytes)),
        ADD(R2, R1),
        STORE(DW, STATE, AT(sent_bytes), R2),
        LOAD(DW, R2, STATE, AT(sent)),
        ADD(R2, SENT),
        STORE(DW, STATE, AT(sent), R2),

        LOAD(DW, R1, CONTEXT, 3 * 8), /* rest: */
        ADD(HANDED, R1),
        STORE(DW, STATE, AT(handed), HANDED),
        END_OF(HANDED),
        LOAD(DW, R1, HANDED, AT(ends)),
        STORE(DW, STATE, AT(handed_bytes), R1),
        LOAD(DW, R1, CONTEXT, 4 * 8),
        JUMP_IF(JEQ, R1, 0, 1),
        STORE(W, STATE, AT(error), R1),

        SET(R0, 0), /* out: */
        EXIT,
    };
    return load(BPF_PROG_TYPE_RAW_TRACEPOINT, program, sizeof program);
}

/* ---- opening and closing ----------------------------------------------------------------------- */

static int failed(struct fal_error *err) {
    if (errno == EPERM)
        return fal_fail(err, EPERM,
                        "sending XDP frames needs CAP_SYS_ADMIN (run it as root); --via socket and "
                        "af_xdp do not");
    return fal_fail(err, errno,
                    "the kernel refuses to make XDP frames: %s (they want Linux 5.18 or later)",
                    strerror(errno));
}

/* Makes the map, and fills in the list. */
static int make_map(struct fal_live *l, uint32_t mtu, const struct fal_sender_list *list,
                    struct fal_error *err) {
    uint64_t at = sizeof *l->state + (uint64_t)list->count * sizeof(struct entry);
    /* To the verifier any frame may be as long as the longest: the last one, too. */
    uint64_t size = at + list->ends[list->count] + FAL_LIVE_LONGEST;
    if (size > LARGEST)
        return fal_fail(err, E2BIG,
                        "traffic of %.0f MiB: XDP frames are made from 511 MiB at most (fewer "
                        "--flows, or --via socket)",
                        (double)size / 1048576);
    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.map_type = BPF_MAP_TYPE_ARRAY;
    attr.key_size = 4;
    attr.value_size = (uint32_t)size;
    attr.max_entries = 1;
    attr.map_flags = BPF_F_MMAPABLE;
    l->map = (int)fal_ebpf(BPF_MAP_CREATE, &attr);
    if (l->map < 0)
        return failed(err);
    void *state = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, l->map, 0);
    if (state == MAP_FAILED)
        return fal_fail(err, errno, "no memory to send from");
    l->state = state;
    l->size = size;
    memcpy((uint8_t *)state + at, list->data, list->ends[list->count]);
    for (uint32_t i = 0; i < list->count; i++) {
        const uint8_t *data = list->data + list->ends[i];
        uint32_t length = (uint32_t)(list->ends[i + 1] - list->ends[i]);
        if (length > fal_sender_limit(data, mtu) || length > FAL_LIVE_LONGEST)
            length = 0;
        l->state->list[i] = (struct entry){(uint32_t)(at + list->ends[i]), length};
        if (length > l->longest_length) {
            l->longest = (uint8_t *)state + at + list->ends[i];
            l->longest_length = length;
        }
    }
    return 0;
}

int fal_live_sink(uint32_t ifindex, struct fal_error *err) {
    const struct bpf_insn program[] = {SET(R0, XDP_DROP), EXIT};
    int drop = load(BPF_PROG_TYPE_XDP, program, sizeof program);
    int link = drop < 0 ? -1 : fal_ebpf_attach(drop, ifindex, XDP_FLAGS_DRV_MODE);
    if (link < 0)
        fal_fail(err, errno, "the kernel refuses a program that drops: %s", strerror(errno));
    if (drop >= 0)
        close(drop); /* the link holds it */
    return link;
}

/* Each test run makes the program known to the kernel's table of XDP programs (the dispatcher), and
 * unknown again: 20 ms, unless it is known already.  So it is attached where it costs nobody
 * anything: to the loopback device of a network namespace of its own, which goes with its last
 * descriptor. */
static int make_known(struct fal_live *l) {
    int own = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (own < 0 || unshare(CLONE_NEWNET) < 0) {
        if (own >= 0)
            close(own);
        return -1;
    }
    l->space = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    l->known = fal_ebpf_attach(l->xdp, LOOPBACK, XDP_FLAGS_SKB_MODE);
    int why = errno;
    if (setns(own, CLONE_NEWNET) < 0)
        abort(); /* not where our caller believes to be */
    close(own);
    errno = why;
    return l->space < 0 || l->known < 0 ? -1 : 0;
}

static int open_programs(struct fal_live *l, uint32_t ifindex, uint32_t count,
                         struct fal_error *err) {
    l->xdp = load_xdp(l, ifindex, count);
    if (l->xdp < 0)
        return failed(err);
    l->trace = load_trace(l);
    if (l->trace < 0)
        return failed(err);
    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.raw_tracepoint.name = (uintptr_t) "xdp_devmap_xmit";
    attr.raw_tracepoint.prog_fd = (uint32_t)l->trace;
    l->link = (int)fal_ebpf(BPF_RAW_TRACEPOINT_OPEN, &attr);
    return l->link < 0 || make_known(l) < 0 ? failed(err) : 0;
}

struct fal_live *fal_live_open(uint32_t ifindex, uint32_t mtu, const struct fal_sender_list *list,
                               struct fal_error *err) {
    struct fal_live *l = calloc(1, sizeof *l);
    if (!l) {
        fal_fail(err, ENOMEM, "no memory to send from");
        return NULL;
    }
    l->map = l->xdp = l->trace = l->link = l->known = l->space = -1;
    l->longest = list->data; /* where all are too long, any will do */
    l->longest_length = FAL_MIN_SEND;
    if (make_map(l, mtu, list, err) < 0 || open_programs(l, ifindex, list->count, err) < 0) {
        fal_live_close(l);
        return NULL;
    }
    return l;
}

void fal_live_close(struct fal_live *l) {
    const int fds[] = {l->known, l->space, l->link, l->trace, l->xdp, l->map};
    for (unsigned i = 0; i < sizeof fds / sizeof *fds; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    if (l->state)
        munmap(l->state, l->size);
    free(l);
}

/* ---- sending ----------------------------------------------------------------------------------- */

int fal_live_send(struct fal_live *l, uint32_t most, struct fal_sender_counts *counts) {
    struct state *s = l->state;
    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.test.prog_fd = (uint32_t)l->xdp;
    attr.test.data_in = (uintptr_t)l->longest;
    attr.test.data_size_in = l->longest_length;
    attr.test.repeat = most;
    attr.test.flags = LIVE_FRAMES;
    s->redirected = s->handed = s->bytes = s->handed_bytes = 0;
    s->sent = s->sent_bytes = s->too_long = s->error = 0;
    long result = fal_ebpf(BPF_PROG_TEST_RUN, &attr);
    uint64_t lost = s->redirected - s->sent;
    counts->sent += s->sent;
    counts->sent_bytes += s->sent_bytes;
    counts->too_long += s->too_long;
    if (s->handed != s->redirected || (int32_t)s->error == -ENXIO)
        counts->unwanted += lost;
    else
        counts->refused += lost;
    return result < 0 && errno != EINTR ? -1 : 0;
}
