/* Classic BPF, as pcap expressions are compiled to, for an XDP program.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_XDP_FILTER_H
#define FAL_XDP_FILTER_H

#include <linux/bpf.h>

#include "../error.h"

/* The register that holds the XDP program's context; the code leaves it as it is. */
#define FAL_XDP_CONTEXT 6

/* Translates a checked program to code that runs first in an XDP program: where the packet matches
 * it goes on after the last instruction of the result, else `miss` instructions further.  A load
 * beyond the packet is no match; one at a constant offset not even beyond its first piece.  Returns
 * the code (to be freed; of *size instructions), or NULL and *err: ENOMEM, E2BIG there is too much
 * of it. */
struct bpf_insn *fal_xdp_filter(const struct fal_bpf_insn *program, uint32_t count, uint32_t miss,
                                uint32_t *size, struct fal_error *err);

#endif
