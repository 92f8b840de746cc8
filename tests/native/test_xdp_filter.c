/* Filters in XDP programs: the kernel takes them, and they decide as the interpreter does, over
 * random programs and packets (BPF_PROG_TEST_RUN; needs root).
 * SPDX-License-Identifier: BSD-3-Clause */
#include "backends/xdp_filter.h"

#include <errno.h>
#include <linux/filter.h>
#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bpf.h"
#include "check.h"

#define PROGRAMS 1500
#define LONGEST  80
#define HEADER   14 /* a test run wants that much of a packet */

static uint32_t rnd(void) {
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 32);
}

static long bpf(int command, union bpf_attr *attr) {
    return syscall(SYS_bpf, command, attr, sizeof *attr);
}

/* An XDP program that passes what matches, and drops the rest. */
static int load(const struct fal_bpf_insn *program, uint32_t count) {
    static char log[1 << 16];
    uint32_t size;
    struct fal_error err;
    struct bpf_insn *code = fal_xdp_filter(program, count, 2, &size, &err);
    CHECK(code);
    struct bpf_insn *all = calloc(size + 5, sizeof *all);
    all[0] = (struct bpf_insn){BPF_ALU64 | BPF_MOV | BPF_X, FAL_XDP_CONTEXT, 1, 0, 0};
    memcpy(all + 1, code, size * sizeof *all);
    for (int i = 0; i < 2; i++) {
        all[size + 1 + 2 * i] =
            (struct bpf_insn){BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, i ? XDP_DROP : XDP_PASS};
        all[size + 2 + 2 * i] = (struct bpf_insn){BPF_JMP | BPF_EXIT, 0, 0, 0, 0};
    }
    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.prog_type = BPF_PROG_TYPE_XDP;
    attr.insns = (uintptr_t)all;
    attr.insn_cnt = size + 5;
    attr.license = (uintptr_t) "BSD-3-Clause";
    attr.log_buf = (uintptr_t)log;
    attr.log_size = sizeof log;
    attr.log_level = 1;
    int fd = (int)bpf(BPF_PROG_LOAD, &attr);
    if (fd < 0) {
        for (uint32_t i = 0; i < count; i++)
            fprintf(stderr, "%u: {0x%x, %u, %u, 0x%x}\n", i, program[i].code, program[i].jt,
                    program[i].jf, program[i].k);
        fprintf(stderr, "%s\n%s\n", strerror(errno), log);
    }
    CHECK(fd >= 0);
    free(code);
    free(all);
    return fd;
}

static bool passes(int fd, uint8_t *packet, uint32_t size) {
    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.test.prog_fd = (uint32_t)fd;
    attr.test.data_in = (uintptr_t)packet;
    attr.test.data_size_in = size;
    attr.test.repeat = 1;
    CHECK(bpf(BPF_PROG_TEST_RUN, &attr) == 0);
    CHECK(attr.test.retval == XDP_PASS || attr.test.retval == XDP_DROP);
    return attr.test.retval == XDP_PASS;
}

static uint32_t constant(void) {
    return (uint32_t[]){rnd() % 8, rnd() % 100, rnd()}[rnd() % 3];
}

/* An instruction before `left` others: whatever passes the check. */
static struct fal_bpf_insn random_insn(uint32_t left) {
    for (;;) {
        struct fal_bpf_insn i = {(uint16_t)(rnd() & 0xff), 0, 0, constant()};
        if (BPF_CLASS(i.code) == BPF_RET && rnd() % 4)
            continue;
        if (BPF_CLASS(i.code) == BPF_JMP) {
            i.jt = (uint8_t)(rnd() % 12);
            i.jf = (uint8_t)(rnd() % 12);
            i.k = BPF_OP(i.code) == BPF_JA ? rnd() % 12 : i.k;
        }
        struct fal_bpf_insn both[LONGEST + 1] = {i};
        for (uint32_t k = 1; k <= left; k++)
            both[k] = (struct fal_bpf_insn){BPF_RET | BPF_K, 0, 0, 0};
        if (fal_bpf_check(both, left + 1, NULL) == 0)
            return i;
    }
}

int main(void) {
    struct fal_bpf_insn program[LONGEST];
    uint8_t packet[256];
    uint32_t passed = 0, all = 0;
    for (uint32_t n = 0; n < PROGRAMS; n++) {
        uint32_t count = 2 + rnd() % (LONGEST - 2);
        for (uint32_t i = 0; i < count - 1; i++)
            program[i] = random_insn(count - 1 - i);
        program[count - 1] = (struct fal_bpf_insn){BPF_RET | BPF_A, 0, 0, 0};
        int fd = load(program, count);
        for (uint32_t k = 0; k < 8; k++, all++) {
            uint32_t size = HEADER + rnd() % (sizeof packet - HEADER);
            for (uint32_t i = 0; i < size; i++)
                packet[i] = (uint8_t)(rnd() % 4 ? rnd() % 16 : rnd());
            bool match = fal_bpf_run(program, packet, size, size) != 0;
            CHECK(passes(fd, packet, size) == match);
            passed += match;
        }
        close(fd);
    }
    CHECK(passed > all / 20 && passed < all - all / 20);
    printf("%u of %u passed\n", passed, all);

    /* so long that no jump reaches its end */
    static struct fal_bpf_insn longest[FAL_BPF_MAX];
    for (uint32_t i = 0; i < FAL_BPF_MAX; i++)
        longest[i] = (struct fal_bpf_insn){BPF_LD | BPF_W | BPF_IND, 0, 0, 0};
    longest[FAL_BPF_MAX - 1].code = BPF_RET | BPF_A;
    struct fal_error err;
    uint32_t size;
    CHECK(!fal_xdp_filter(longest, FAL_BPF_MAX, 2, &size, &err) && err.code == E2BIG);
    return 0;
}
