/* Segments: the arena, cursor pages, and the status as they are mapped into a process.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_ARENA_H
#define FAL_ARENA_H

#include "error.h"

enum fal_hugepages { FAL_HUGEPAGES_OFF = 0, FAL_HUGEPAGES_TRY = 1, FAL_HUGEPAGES_ON = 2 };

/* A mapped segment, and the descriptor under which other processes may map it. */
struct fal_segment {
    uint8_t *address;
    uint64_t size;      /* bytes */
    uint64_t page_size; /* bytes: of the pages that really lie under it */
    int32_t fd;
    int32_t node; /* of an arena: the NUMA node that its memory lies on; -1: unknown */
};

/* Size of an arena with that many frames and descriptor slots, and where its parts lie.
 * page_size is 2 MiB or 4096; the size is a multiple of 2 MiB either way, and as many frames as fit
 * into the rest of it are added. */
void fal_arena_plan(uint64_t frames, uint64_t frame_size, uint64_t ring_slots, uint64_t page_size,
                    struct fal_arena *plan);

/* The value of vm.nr_hugepages with which a segment of `size` bytes would fit into huge pages now.
 */
uint64_t fal_hugepages_needed(uint64_t size);

/* Makes an arena as planned: a memfd, mapped read-write here, populated, then sealed so that nobody
 * else can ever write to it or resize it.  segment->fd is a read-only reopening of it.
 * ENOMEM where pages are short; with FAL_HUGEPAGES_TRY ordinary pages are taken then.
 * node: the NUMA node that it should lie on (another one is taken where that is full); -1: any. */
int fal_arena_create(uint64_t frames, uint64_t frame_size, uint64_t ring_slots, uint32_t hugepages,
                     int32_t node, struct fal_segment *segment, struct fal_error *err);

/* Makes a cursor page: mapped read-only here; segment->fd is for the worker to map read-write. */
int fal_cursor_page_create(struct fal_segment *segment, struct fal_error *err);

/* Makes a transmit area, likewise. */
int fal_transmit_area_create(struct fal_segment *segment, struct fal_error *err);

/* Maps `size` bytes of fd (whose file must be at least so large). */
int fal_segment_map(int fd, uint64_t size, uint32_t writable, struct fal_segment *segment,
                    struct fal_error *err);

void fal_segment_free(struct fal_segment *segment);

/* From now on a page of `segment` that was pulled away (a file shortened by another process) is
 * replaced by a page of zeros when it is touched, instead of killing this process by SIGBUS. */
int fal_segment_guard(const struct fal_segment *segment, struct fal_error *err);

/* Copies a poller's part of a status out (its sockets' totals are left out), all of one moment.  0,
 * or -1 where its writer died (or is stopped) in the middle of writing: then the copy is what it
 * left. */
int fal_status_copy(const struct fal_poller_status *from, struct fal_poller_status *to);

#endif
