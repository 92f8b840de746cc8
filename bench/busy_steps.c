/* busy_steps: how many steps of work a microsecond has, by the CPU time of the fastest of 50 runs.
 * SPDX-License-Identifier: BSD-3-Clause */
#include "busy.h"

#define STEPS 1000000

int main(void) {
    uint8_t packet[1] = {1};
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < 50; i++) {
        struct stretch begun = stretch_begin();
        busy_work(packet, STEPS);
        uint64_t cpu = stretch_end(begun).cpu;
        best = cpu < best ? cpu : best;
    }
    printf("%.1f\n", STEPS * 1000.0 / (double)best);
    return 0;
}
