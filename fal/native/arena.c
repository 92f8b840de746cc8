/* SPDX-License-Identifier: BSD-3-Clause */
#include "arena.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <linux/mempolicy.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "ring.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define PAGE      4096ull
#define HUGE_PAGE (2ull << 20)

static uint64_t round_up(uint64_t n, uint64_t to) {
    return (n + to - 1) / to * to;
}

void fal_arena_plan(uint64_t frames, uint64_t frame_size, uint64_t ring_slots, uint64_t page_size,
                    struct fal_arena *plan) {
    memset(plan, 0, sizeof *plan);
    plan->page_size = page_size;
    plan->rings_offset = PAGE;
    plan->rings_size = ring_slots * sizeof(struct fal_desc);
    /* A UMEM begins on a page. */
    plan->frames_offset = round_up(plan->rings_offset + plan->rings_size, PAGE);
    plan->frame_size = frame_size;
    plan->size = round_up(plan->frames_offset + frames * frame_size, HUGE_PAGE);
    plan->frames = (plan->size - plan->frames_offset) / frame_size;
}

static uint64_t hugepages(const char *which) {
    char path[96];
    unsigned long long n = 0;
    snprintf(path, sizeof path, "/sys/kernel/mm/hugepages/hugepages-2048kB/%s_hugepages", which);
    FILE *f = fopen(path, "re");
    if (f) {
        if (fscanf(f, "%llu", &n) != 1)
            n = 0;
        fclose(f);
    }
    return n;
}

uint64_t fal_hugepages_needed(uint64_t size) {
    uint64_t in_use = hugepages("nr") - hugepages("free") + hugepages("resv");
    return in_use + (size + HUGE_PAGE - 1) / HUGE_PAGE;
}

/* Bytes that ordinary pages can still be had for: more would bring the OOM killer, not an error. */
static uint64_t available(void) {
    unsigned long long kib = UINT64_MAX >> 10;
    char line[128];
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu", &kib) == 1)
            break;
    if (f)
        fclose(f);
    return kib << 10;
}

/* A preference, no more: without NUMA, or on a node that is full, memory is where it can be had. */
static void prefer(void *address, uint64_t size, int32_t node) {
    unsigned long mask = 1ul << (node & 63);
    if (node >= 0 && node < 64)
        syscall(SYS_mbind, address, size, MPOL_PREFERRED, &mask, 65, 0);
}

static int32_t node_of(void *address) {
    int node;
    long failed = syscall(SYS_get_mempolicy, &node, NULL, 0, address, MPOL_F_NODE | MPOL_F_ADDR);
    return failed ? -1 : node;
}

/* A memfd of size bytes, mapped here and populated: a shortage shows now, not as a SIGBUS later. */
static int create(const char *name, uint64_t size, unsigned flags, int32_t node,
                  struct fal_segment *s) {
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);
    if (fd < 0)
        return -1;
    void *address = MAP_FAILED;
    if (ftruncate(fd, (off_t)size) == 0)
        address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (address != MAP_FAILED)
        prefer(address, size, node);
    if (address != MAP_FAILED && madvise(address, size, MADV_POPULATE_WRITE) == 0) {
        *s = (struct fal_segment){.address = address, .size = size, .fd = fd};
        s->page_size = flags & MFD_HUGETLB ? HUGE_PAGE : PAGE;
        s->node = node_of(address);
        return 0;
    }
    int error = errno;
    if (address != MAP_FAILED)
        munmap(address, size);
    close(fd);
    errno = error;
    return -1;
}

/* Seals the segment and exchanges its descriptor for a read-only one; then tries to break in. */
static int seal(struct fal_segment *s, struct fal_error *err) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", s->fd);
    if (fchmod(s->fd, 0400) < 0 ||
        fcntl(s->fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) <
            0)
        return fal_fail(err, errno, "cannot seal the arena: %s (Linux 5.1 or later is needed)",
                        strerror(errno));
    void *again = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
    if (again != MAP_FAILED || errno != EPERM) {
        if (again != MAP_FAILED)
            munmap(again, PAGE);
        return fal_fail(err, EPERM,
                        "the arena's seal does not hold on this kernel: workers could "
                        "write to it, so it is not handed out");
    }
    int read_only = open(path, O_RDONLY | O_CLOEXEC);
    if (read_only < 0)
        return fal_fail(err, errno, "cannot open %s read-only: %s (is /proc mounted?)", path,
                        strerror(errno));
    close(s->fd);
    s->fd = read_only;
    return 0;
}

int fal_arena_create(uint64_t frames, uint64_t frame_size, uint64_t ring_slots, uint32_t pages,
                     int32_t node, struct fal_segment *s, struct fal_error *err) {
    struct fal_arena plan;
    int made = -1;
    if (pages != FAL_HUGEPAGES_OFF) {
        fal_arena_plan(frames, frame_size, ring_slots, HUGE_PAGE, &plan);
        made = create("fal-arena", plan.size, MFD_HUGETLB | MFD_HUGE_2MB, node, s);
        if (made < 0 && pages == FAL_HUGEPAGES_ON)
            return fal_fail(err, ENOMEM,
                            "no memory: %llu huge pages of 2 MiB are wanted, fewer are free "
                            "(reserve them: sysctl vm.nr_hugepages=%llu; or --hugepages try)",
                            (unsigned long long)(plan.size / HUGE_PAGE),
                            (unsigned long long)fal_hugepages_needed(plan.size));
    }
    if (made < 0) {
        fal_arena_plan(frames, frame_size, ring_slots, PAGE, &plan);
        if (plan.size < available())
            made = create("fal-arena", plan.size, 0, node, s);
        else
            errno = ENOMEM;
    }
    if (made < 0)
        return fal_fail(err, errno, "no memory for the arena of %llu MiB: %s (try fewer --frames)",
                        (unsigned long long)(plan.size >> 20), strerror(errno));
    struct fal_arena *arena = (struct fal_arena *)s->address;
    *arena = plan;
    arena->magic = FAL_ARENA_MAGIC;
    fal_store_release(&arena->version, FAL_LAYOUT_VERSION);
    if (seal(s, err) < 0) {
        fal_segment_free(s);
        return -1;
    }
    return 0;
}

/* What a worker can write to: it cannot be resized, and is mapped read-only here. */
static int create_workers(const char *name, uint64_t size, struct fal_segment *s,
                          struct fal_error *err) {
    struct fal_segment writable;
    if (create(name, size, 0, -1, &writable) < 0)
        return fal_fail(err, errno, "no memory for a worker's %s: %s", name, strerror(errno));
    munmap(writable.address, writable.size);
    if (fcntl(writable.fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0 ||
        fal_segment_map(writable.fd, size, 0, s, err) < 0) {
        close(writable.fd);
        return -1;
    }
    if (fal_segment_guard(s, err) < 0) {
        fal_segment_free(s);
        return -1;
    }
    return 0;
}

int fal_cursor_page_create(struct fal_segment *s, struct fal_error *err) {
    return create_workers("fal-cursor", FAL_CURSOR_PAGE, s, err);
}

int fal_transmit_area_create(struct fal_segment *s, struct fal_error *err) {
    return create_workers("fal-transmit", FAL_TX_AREA, s, err);
}

int fal_segment_map(int fd, uint64_t size, uint32_t writable, struct fal_segment *s,
                    struct fal_error *err) {
    struct stat file;
    if (fstat(fd, &file) < 0 || (uint64_t)file.st_size < size)
        return fal_fail(err, EINVAL, "the segment is smaller than it says");
    void *address = mmap(NULL, size, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, fd, 0);
    if (address == MAP_FAILED)
        return fal_fail(err, errno, "cannot map %llu bytes of shared memory: %s",
                        (unsigned long long)size, strerror(errno));
    *s = (struct fal_segment){.address = address, .size = size, .fd = fd};
    s->page_size = (uint64_t)file.st_blksize > PAGE ? (uint64_t)file.st_blksize : PAGE;
    return 0;
}

/* ---- pages that were pulled away ------------------------------------------------------------- */

#define GUARDED 1024 /* cursor pages and transmit areas of all sockets, and the status */

static struct { uintptr_t begin, end; /* begin = 0: free */ } guarded[GUARDED];
static pthread_mutex_t guard_lock = PTHREAD_MUTEX_INITIALIZER; /* for writers; the handler reads */

static void on_sigbus(int number, siginfo_t *info, void *context) {
    (void)context;
    int error = errno;
    uintptr_t at = (uintptr_t)info->si_addr;
    for (unsigned i = 0; i < GUARDED; i++) {
        uintptr_t begin = fal_load_acquire(&guarded[i].begin);
        if (begin && at >= begin && at < guarded[i].end &&
            mmap((void *)(at & ~(PAGE - 1)), PAGE, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED) {
            errno = error;
            return;
        }
    }
    signal(number, SIG_DFL); /* not ours: happens again on return, and kills */
}

int fal_segment_guard(const struct fal_segment *s, struct fal_error *err) {
    int done = -1;
    pthread_mutex_lock(&guard_lock);
    struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaction(SIGBUS, &action, NULL);
    for (unsigned i = 0; done < 0 && i < GUARDED; i++)
        if (!guarded[i].begin) {
            guarded[i].end = (uintptr_t)s->address + s->size;
            fal_store_release(&guarded[i].begin, (uintptr_t)s->address);
            done = 0;
        }
    pthread_mutex_unlock(&guard_lock);
    return done < 0 ? fal_fail(err, ENOMEM, "more than %d guarded segments", GUARDED) : 0;
}

void fal_segment_free(struct fal_segment *s) {
    if (!s->address)
        return;
    pthread_mutex_lock(&guard_lock);
    for (unsigned i = 0; i < GUARDED; i++)
        if (guarded[i].begin == (uintptr_t)s->address)
            fal_store_release(&guarded[i].begin, (uintptr_t)0);
    pthread_mutex_unlock(&guard_lock);
    munmap(s->address, s->size);
    if (s->fd >= 0)
        close(s->fd);
    *s = (struct fal_segment){.fd = -1};
}

/* ---- reading a status ------------------------------------------------------------------------ */

static size_t in_use(uint32_t records, uint32_t most) {
    return records < most ? records : most;
}

/* What is in use alone: a copy of everything takes longer than a burst, and would never be of one
 * moment while packets flow. */
int fal_status_copy(const struct fal_poller_status *from, struct fal_poller_status *to) {
    struct timespec nap = {.tv_nsec = 100000};
    for (int tries = 0;; tries++) {
        memset(to, 0, sizeof *to);
        uint64_t entered = fal_sequence_enter(&from->sequence);
        memcpy(to, from, offsetof(struct fal_poller_status, queue));
        memcpy(to->queue, from->queue, in_use(to->queues, FAL_MAX_QUEUES) * sizeof *to->queue);
        memcpy(to->group, from->group, in_use(to->groups, FAL_GROUP_RECORDS) * sizeof *to->group);
        memcpy(to->member, from->member, in_use(to->members, FAL_MAX_MEMBERS) * sizeof *to->member);
        if (fal_sequence_unchanged(&from->sequence, entered))
            return 0;
        if (tries == 1000)
            return -1;
        if (tries >= 100)
            nanosleep(&nap, NULL);
    }
}
