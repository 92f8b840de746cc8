/* A native test is a plain program: it returns 0, or dies with one line that says where and what.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_CHECK_H
#define FAL_CHECK_H

#include <stdio.h>
#include <stdlib.h>

/* Unlike assert() it cannot be compiled out. */
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#endif
