/* Any bytes as a program and a packet: what passes the check reads nothing beyond, and ends.
 * Input: how many instructions (1 byte), these (8 bytes each), the packet.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <stdlib.h>
#include <string.h>

#include "bpf.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fal_error err = {0};
    size_t count = size ? data[0] : 0, length = count * sizeof(struct fal_bpf_insn);
    if (size < 1 + length)
        return -1;
    struct fal_bpf_insn *program = malloc(length);
    uint8_t *packet = malloc(size - 1 - length); /* of that size exactly: ASan knows the end */
    if (count)
        memcpy(program, data + 1, length);
    if (size > 1 + length)
        memcpy(packet, data + 1 + length, size - 1 - length);
    if (fal_bpf_check(program, (uint32_t)count, &err) == 0) {
        uint32_t caplen = (uint32_t)(size - 1 - length);
        /* the memory that a program begins with is the same each time */
        CHECK(fal_bpf_run(program, packet, caplen, caplen) ==
              fal_bpf_run(program, packet, caplen, caplen));
    } else {
        CHECK(err.code > 0 && memchr(err.text, 0, sizeof err.text) && err.text[0]);
    }
    free(packet);
    free(program);
    return 0;
}
