/* layout.h for C: the same, and what must hold of it.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_LAYOUT_CHECK_H
#define FAL_LAYOUT_CHECK_H

#include <stddef.h>

#include "layout.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the layout is little endian");
_Static_assert(sizeof(struct fal_bpf_insn) == 8, "as the kernel and libpcap have it");
_Static_assert(sizeof(struct fal_desc) == 32, "two descriptors a cache line");
_Static_assert(sizeof(struct fal_ring) == 256, "each index alone on its pair of lines");
_Static_assert(offsetof(struct fal_arena, transmit_seq) == 128, "the poller's wake word, too");
_Static_assert(sizeof(struct fal_transmit) <= FAL_TX_SLOT_SIZE, "it lies before the slots");
_Static_assert(FAL_TX_AREA == (FAL_TX_SLOTS + 1) * FAL_TX_SLOT_SIZE, "one page, then the slots");
_Static_assert(sizeof(struct fal_cursor) == 64, "a consumer index alone on its line");
_Static_assert(offsetof(struct fal_cursor_page, cursor) == 64, "the wake word alone on its line");
_Static_assert(sizeof(struct fal_cursor_page) == FAL_CURSOR_PAGE, "one page");
_Static_assert(2 * FAL_MAX_PIECES - 1 <= FAL_MIN_RING,
               "an empty ring takes a chain: skipped slots, too");
_Static_assert((FAL_RX_RING & (FAL_RX_RING - 1)) == 0, "ring sizes are powers of two");
_Static_assert(FAL_BURST <= FAL_MIN_RING * 2, "a burst may not dwarf the smallest ring");
_Static_assert(sizeof(struct fal_poller_status) % 8 == 0, "no padding between pollers");

#endif
