/* The pcap backend: a capture file, pcap or pcapng, replayed.
 *
 * libpcap reads it, and is loaded when a file is opened: the core links libc alone, and building
 * needs no header of it.  What we call is declared here.  Each packet is copied into the pool and
 * keeps the file's time; one that is longer than a frame is cut, and marked so.
 *
 * A round is one reading of the file.  Flat out (rate 0) nothing is lost: the poller asks for no
 * more than every ring has room for.  At a pace a packet is due at a time, and what then finds no
 * frame or no room is lost, as at a NIC.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "../backend.h"

#define LIBRARY   "libpcap.so.0.8" /* Debian's SONAME of libpcap 1 */
#define ETHERNET  1                /* DLT_EN10MB */
#define NANO      1                /* PCAP_TSTAMP_PRECISION_NANO */
#define END       (-2)             /* of pcap_next_ex: the file is at its end */
#define TEXT_SIZE 256              /* PCAP_ERRBUF_SIZE */
#define SECOND    1000000000ull

struct pcap_pkthdr {
    struct timeval ts; /* tv_usec: nanoseconds, as we open it */
    uint32_t caplen;
    uint32_t len;
};

struct libpcap {
    void *handle;
    void *(*open)(const char *path, unsigned precision, char *text);
    int (*link_type)(void *file);
    const char *(*link_name)(int type);
    int (*next)(void *file, struct pcap_pkthdr **header, const uint8_t **data);
    char *(*error)(void *file);
    void (*close)(void *file);
};

struct pcap {
    struct fal_pool pool;
    struct libpcap lib;
    void *file;
    char *path;
    char text[TEXT_SIZE]; /* why the file cannot be read on */
    uint64_t rate;        /* FAL_RATE_MAX, FAL_RATE_CAPTURE, or packets a second */
    uint64_t left;        /* rounds after this one; UINT64_MAX: for ever */
    uint64_t read, count; /* packets read in all; how many there may be */
    uint64_t in_round;    /* packets of this round */
    uint64_t lost;        /* no frame was free when they were due */
    int timer;            /* readable when the next packet is due; -1: flat out */
    int over;             /* an errno; ENODATA: the end */

    const uint8_t *next; /* the packet that waits; NULL: none is read yet */
    struct pcap_pkthdr header;
    uint64_t due;      /* of it, CLOCK_MONOTONIC */
    uint64_t start;    /* of the replay, at FAL_RATE_CAPTURE of this round; 0: not begun */
    uint64_t first_ts; /* of this round's first packet */
    uint32_t free;     /* of `frame`: what the poller has handed over */
    uint32_t frame[2 * FAL_BURST];
};

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

/* ---- libpcap --------------------------------------------------------------------------------- */

static int load(struct libpcap *lib, struct fal_error *err) {
    const struct {
        const char *name;
        void *function; /* where its address goes: dlsym gives it as a void * (POSIX) */
    } wanted[] = {
        {"pcap_open_offline_with_tstamp_precision", &lib->open},
        {"pcap_datalink", &lib->link_type},
        {"pcap_datalink_val_to_name", &lib->link_name},
        {"pcap_next_ex", &lib->next},
        {"pcap_geterr", &lib->error},
        {"pcap_close", &lib->close},
    };
    lib->handle = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!lib->handle)
        return fal_fail(err, ENOENT,
                        "no libpcap to read capture files with: install it (apt-get install "
                        "libpcap0.8); %s",
                        dlerror());
    for (unsigned i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        void *address = dlsym(lib->handle, wanted[i].name);
        if (!address)
            return fal_fail(err, ENOSYS, "this libpcap has no %s: version 1.5.1 or later is needed",
                            wanted[i].name);
        memcpy(wanted[i].function, &address, sizeof address);
    }
    return 0;
}

static int open_file(struct pcap *b, struct fal_error *err) {
    b->file = b->lib.open(b->path, NANO, b->text);
    b->in_round = 0;
    if (!b->file) /* libpcap names the file where it cannot be opened, but not where it is none */
        return fal_fail(err, EINVAL, "cannot read %s as a capture file: %s", b->path, b->text);
    int type = b->lib.link_type(b->file);
    const char *name = b->lib.link_name(type);
    if (type != ETHERNET)
        return fal_fail(err, EINVAL, "%s is a capture of link type %s (%d), not Ethernet", b->path,
                        name ? name : "unknown", type);
    return 0;
}

/* ---- pace ------------------------------------------------------------------------------------ */

static uint64_t stamp_of(const struct pcap_pkthdr *header) {
    return (uint64_t)header->ts.tv_sec * SECOND + (uint64_t)header->ts.tv_usec;
}

/* When the packet that was just read is due.  A round begins when the last packet of the one before
 * was due; a packet whose time lies before its round's first is due at once. */
static void set_due(struct pcap *b) {
    uint64_t ts = stamp_of(&b->header);
    if (!b->start)
        b->start = b->due = now_ns();
    if (b->rate != FAL_RATE_CAPTURE) {
        uint64_t i = b->read - 1;
        b->due = b->start + i / b->rate * SECOND + i % b->rate * SECOND / b->rate;
        return;
    }
    if (b->in_round == 1) {
        b->start = b->due;
        b->first_ts = ts;
    }
    b->due = b->start + (ts > b->first_ts ? ts - b->first_ts : 0);
}

/* Reads the packet that comes next; false: there is none, and b->over says why. */
static bool read_next(struct pcap *b) {
    struct pcap_pkthdr *header;
    int result = END;
    while (!b->over) {
        if (b->count && b->read == b->count)
            b->over = ENODATA;
        else if ((result = b->lib.next(b->file, &header, &b->next)) == 1)
            break;
        else if (result != END) {
            strncpy(b->text, b->lib.error(b->file), sizeof b->text - 1);
            b->over = EBADMSG;
        } else if (b->left == 0 || b->in_round == 0) { /* in_round: an empty file has no end */
            b->over = ENODATA;
        } else {
            b->left -= b->left != UINT64_MAX;
            b->lib.close(b->file);
            if (open_file(b, NULL) < 0)
                b->over = EBADMSG;
        }
    }
    if (b->over) {
        b->next = NULL;
        return false;
    }
    b->header = *header;
    b->read++;
    b->in_round++;
    if (b->rate != FAL_RATE_MAX)
        set_due(b);
    return true;
}

/* ---- the backend ----------------------------------------------------------------------------- */

static int pcap_queues(const struct fal_backend_options *o, struct fal_error *err) {
    (void)o, (void)err;
    return 1;
}

static void pcap_close(void *backend) {
    struct pcap *b = backend;
    if (b->file)
        b->lib.close(b->file);
    if (b->lib.handle)
        dlclose(b->lib.handle);
    if (b->timer >= 0)
        close(b->timer);
    free(b->path);
    free(b);
}

static void *pcap_open(const struct fal_backend_options *o, const struct fal_pool *pools,
                       void **parts, struct fal_backend_facts *facts, struct fal_error *err) {
    struct pcap *b = calloc(1, sizeof *b);
    if (!b || !(b->path = strdup(o->device))) {
        fal_fail(err, ENOMEM, "no memory for the pcap backend");
        free(b);
        return NULL;
    }
    b->pool = *pools;
    b->rate = o->rate;
    b->left = o->loop ? o->loop - 1 : UINT64_MAX;
    b->count = o->count;
    b->timer = -1;
    if (load(&b->lib, err) < 0 || open_file(b, err) < 0) {
        pcap_close(b);
        return NULL;
    }
    if (b->rate != FAL_RATE_MAX &&
        (b->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)) < 0) {
        fal_fail(err, errno, "cannot make a timer: %s", strerror(errno));
        pcap_close(b);
        return NULL;
    }
    strcpy(facts->mode, "copy");
    facts->queue_count = 1;
    facts->lossless = b->rate == FAL_RATE_MAX;
    return *parts = b;
}

static void put(struct pcap *b, struct fal_desc *to, uint32_t frame) {
    uint32_t caplen = b->header.caplen;
    caplen = caplen < b->pool.frame_size ? caplen : b->pool.frame_size;
    *to = (struct fal_desc){
        .ts_ns = stamp_of(&b->header),
        .offset = (uint64_t)frame * b->pool.frame_size,
        .len = b->header.len,
        .caplen = (uint16_t)caplen,
        .flags = caplen < b->header.len ? FAL_DESC_TRUNCATED : 0,
    };
    memcpy(b->pool.frames + to->offset, b->next, caplen);
}

static int pcap_rx_burst(void *backend, struct fal_desc *packets, uint32_t *frame, uint16_t *cpu,
                         uint32_t max) {
    struct pcap *b = backend;
    uint64_t now = b->rate == FAL_RATE_MAX ? 0 : now_ns();
    uint32_t n = 0;
    memset(cpu, 0, max * sizeof *cpu); /* nobody knows */
    while (n < max && (b->next || read_next(b))) {
        if (b->rate != FAL_RATE_MAX && b->due > now)
            break;
        if (b->free) {
            frame[n] = b->frame[--b->free];
            put(b, &packets[n], frame[n]);
            n++;
        } else if (b->rate == FAL_RATE_MAX) {
            break;
        } else {
            b->lost++;
        }
        b->next = NULL;
    }
    if (n == 0 && b->over) {
        errno = b->over;
        return -1;
    }
    return (int)n;
}

static const char *pcap_why(void *backend) {
    return ((struct pcap *)backend)->text;
}

static uint32_t pcap_wants(void *backend) {
    const struct pcap *b = backend;
    return (uint32_t)(sizeof b->frame / sizeof *b->frame) - b->free;
}

static void pcap_refill(void *backend, const uint32_t *frame, uint32_t n) {
    struct pcap *b = backend;
    memcpy(b->frame + b->free, frame, n * sizeof *frame);
    b->free += n;
}

static uint32_t pcap_wait(void *backend, struct pollfd *fds, uint32_t max) {
    const struct pcap *b = backend;
    (void)max;
    if (b->timer < 0)
        return 0;
    const struct itimerspec due = {
        .it_value = {(time_t)(b->due / SECOND), (long)(b->due % SECOND)}};
    timerfd_settime(b->timer, TFD_TIMER_ABSTIME, &due, NULL);
    *fds = (struct pollfd){.fd = b->timer, .events = POLLIN};
    return 1;
}

static void pcap_stats(void *backend, struct fal_backend_stats *stats) {
    stats->if_dropped = ((struct pcap *)backend)->lost;
}

const struct fal_backend_ops fal_backend_pcap = {
    .name = "pcap",
    .queues = pcap_queues,
    .open = pcap_open,
    .rx_burst = pcap_rx_burst,
    .why = pcap_why,
    .wants = pcap_wants,
    .refill = pcap_refill,
    .wait = pcap_wait,
    .stats = pcap_stats,
    .close = pcap_close,
};
