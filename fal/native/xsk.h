/* AF_XDP's sockets, their memory (UMEM) and their rings: a pure engine, which the af_xdp backend and
 * `fal gen` use.
 *
 * A socket has up to four rings, in memory that the kernel shares with us:
 *
 *     fill    we produce the addresses of empty frames         the kernel consumes
 *     rx      the kernel produces descriptors of full frames   we consume
 *     tx      we produce descriptors of frames to send         the kernel consumes
 *     done    the kernel produces addresses of frames sent     we consume (UMEM completion ring)
 *
 * Barriers (the kernel's protocol): fill, tx: slots, then store-release of the producer.  rx, done:
 * load-acquire of the producer, then slots and frames; all reads, then store-release of the
 * consumer.
 *
 * An address is that of a frame in the UMEM, in bytes.  In a received one the offset of the packet
 * is added, or, with frames that are no power of two, lies in the upper 16 bits.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_XSK_H
#define FAL_XSK_H

#include <linux/if_xdp.h>
#include <stdbool.h>
#include <stddef.h>

#include "error.h"

struct fal_xsk_ring {
    uint32_t *producer;
    uint32_t *consumer;
    uint32_t *flags;
    void *slots;
    uint32_t next; /* ours: the producer index of fill and tx, the consumer index of rx and done */
    uint32_t mask;
    void *map;
    size_t map_size;
};

struct fal_xsk {
    int fd; /* -1: none */
    struct fal_xsk_ring fill, rx, tx, done;
};

/* Entries of each ring, powers of two; 0: none.  The kernel demands fill and done. */
struct fal_xsk_entries {
    uint32_t fill, rx, tx, done;
};
#define FAL_XSK_UNUSED 64 /* entries of a ring that is demanded, but not used */

struct fal_xsk_umem {
    uint8_t *frames;     /* at a page's begin */
    uint32_t frame_size; /* 2048 to 4096 bytes, whole cache lines */
    uint32_t frame_count;
};

/* Frames of other sizes than powers of two (unaligned chunks) may lie across two pages: not for zero
 * copy, to which these need not be neighbours. */
static inline bool fal_xsk_unaligned(uint32_t frame_size) {
    return (frame_size & (frame_size - 1)) != 0;
}

/* Where in the UMEM a received packet begins, and in which frame: sizes are whole cache lines, so
 * that 32 bits are enough, whose division is quick. */
static inline uint64_t fal_xsk_begin(uint64_t address) {
    return (address & XSK_UNALIGNED_BUF_ADDR_MASK) + (address >> XSK_UNALIGNED_BUF_OFFSET_SHIFT);
}

static inline uint32_t fal_xsk_frame(uint64_t address, uint32_t frame_size) {
    return (uint32_t)((address & XSK_UNALIGNED_BUF_ADDR_MASK) >> 6) / (frame_size >> 6);
}

/* Makes a socket with its rings, not yet bound; -1 and errno, and what was made is for close. */
int fal_xsk_make(struct fal_xsk *x, const struct fal_xsk_entries *entries);
/* Takes memory for the socket's frames: pins it, for which a limit of locked memory may have to be
 * raised as far as it goes. */
int fal_xsk_register(const struct fal_xsk *x, const struct fal_xsk_umem *umem,
                     struct fal_error *err);
/* Binds it to a queue; flags: XDP_COPY, …, with XDP_SHARED_UMEM `other` is the socket whose memory
 * it shares.  A socket that was just closed may still have the queue: it waits up to a second.
 * -1 and errno. */
int fal_xsk_bind(const struct fal_xsk *x, uint32_t ifindex, uint32_t queue, uint16_t flags,
                 int other);
/* Says why one could not be made or bound, by errno. */
int fal_xsk_failed(const char *device, uint32_t queue, struct fal_error *err);
void fal_xsk_close(struct fal_xsk *x); /* may be called again */

/* Puts frames into tx, where there must be room: they begin where their frames do. */
void fal_xsk_send(struct fal_xsk *x, uint32_t frame_size, const uint32_t *frame,
                  const uint32_t *length, uint32_t n);
/* Has the kernel send what is in tx.  0: it has all, or goes on by itself; else an errno: EAGAIN:
 * no room now; EBUSY: one frame was lost, and there may be more to send. */
int fal_xsk_kick(const struct fal_xsk *x);
/* The index in tx up to which the kernel has taken frames. */
uint32_t fal_xsk_taken(const struct fal_xsk *x);
/* Takes back at most `max` frames that were sent. */
uint32_t fal_xsk_sent(struct fal_xsk *x, uint32_t frame_size, uint32_t *frame, uint32_t max);

#endif
