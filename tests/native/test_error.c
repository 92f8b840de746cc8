/* fal_fail(): the text is complete or cut with its end in place, and nobody needs to ask for it.
 * SPDX-License-Identifier: BSD-3-Clause */
#include "error.h"

#include <errno.h>
#include <string.h>

#include "check.h"

int main(void) {
    struct fal_error err = {0};

    CHECK(fal_fail(&err, EINVAL, "group %d: %s", 7, "no such mode") == -1);
    CHECK(err.code == EINVAL);
    CHECK(strcmp(err.text, "group 7: no such mode") == 0);

    char letters[2 * FAL_ERROR_TEXT];
    memset(letters, 'x', sizeof letters - 1);
    letters[sizeof letters - 1] = '\0';
    CHECK(fal_fail(&err, ENOMEM, "%s", letters) == -1);
    CHECK(err.code == ENOMEM);
    CHECK(strlen(err.text) == FAL_ERROR_TEXT - 1);
    CHECK(memcmp(err.text, letters, FAL_ERROR_TEXT - 1) == 0);

    CHECK(fal_fail(NULL, EPERM, "nobody listens to %s", "this") == -1);
    return 0;
}
