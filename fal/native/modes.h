/* The words that name a fan-out: one table for all engines, and nothing else knows them.
 *
 * Plain enough for cffi to take verbatim (declarations and integer constants only).
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_MODES_H
#define FAL_MODES_H

#include "error.h"

#define FAL_NOT_SUPPORTED 0xffffffff /* in place of a mode */

struct fal_word {
    const char *word;
    struct fal_fanout fanout; /* a mode and what it hashes, or what a flag adds to that */
    const char *about;        /* who gets a packet; why it is not supported; what a flag does */
};

/* The i-th word for a mode, or for a flag; NULL: there are no more. */
const struct fal_word *fal_mode_word(uint32_t i);
const struct fal_word *fal_flag_word(uint32_t i);

/* MODE, or MODE and flags: "hash", "hash+rollover", "LB|defrag", in any order and case.  0; -1 and
 * *err: EINVAL no such word, or one said twice; EOPNOTSUPP the word is known and cannot be had. */
int fal_fanout_parse(const char *text, struct fal_fanout *out, struct fal_error *err);

/* The one way to write it, FAL_NAME_SIZE bytes at most: what is equal reads the same. */
void fal_fanout_text(const struct fal_fanout *fanout, char *text);

#endif
