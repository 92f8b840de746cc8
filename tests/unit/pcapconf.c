/* What the pcap library's configuration holds, a line each, for tests that cannot ask in Python: in
 * a set-id program, as another user, where other files are.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <stdio.h>

#include "pcap/config.h"

int main(void) {
    struct fal_error err;
    struct fal_pcap_config *c = fal_pcap_config_read(&err);
    const struct fal_pcap_setting *s;
    if (!c) {
        puts(err.text);
        return 1;
    }
    for (uint32_t i = 0; (s = fal_pcap_config_setting(c, i)); i++)
        printf("%s = %s\n", s->source, s->value);
    fal_pcap_config_free(c);
    return 0;
}
