/* One error contract for all of the native code: an errno and one clear line (what, why, what to
 * do). Functions that can fail take a `struct fal_error *` and return -1 or NULL after filling it
 * in. SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_ERROR_H
#define FAL_ERROR_H

#include "layout_check.h"

/* Fills in *err (code: an errno value > 0, text: printf style) and returns -1.  err may be NULL. */
__attribute__((format(printf, 3, 4))) int fal_fail(struct fal_error *err, int code,
                                                   const char *format, ...);

#endif
