/* Classic BPF: what pcap expressions are compiled to, and what picks a member of a cbpf group.
 *
 * All of the language as BSD has it, which is what libpcap makes: nothing of what Linux adds to it
 * (loads at negative offsets), since tags and protocols are in a frame's bytes here.  Pure: checks
 * and runs, and keeps nothing.  Programs come from anybody: one that passed the check can be
 * run on any bytes, reads none but these, and ends within as many steps as it has instructions.
 *
 * Plain enough for cffi to take verbatim.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_BPF_H
#define FAL_BPF_H

#include "error.h"

/* Whether a program may be run: 0, or -1 and *err (EINVAL), which says where and why not. */
int fal_bpf_check(const struct fal_bpf_insn *program, uint32_t count, struct fal_error *err);

/* Runs a checked program on a packet, of which the first `caplen` bytes lie at `data` (NULL
 * will do for none), and which had `len` bytes on the wire.  Returns its verdict: for a filter 0 is
 * no match.  A load beyond caplen ends it with 0, and so does a division by zero. */
uint32_t fal_bpf_run(const struct fal_bpf_insn *program, const uint8_t *data, uint32_t len,
                     uint32_t caplen);

#endif
