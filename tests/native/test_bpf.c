/* Classic BPF: what is refused, what a program computes at its edges, and that a program that
 * passed does no harm whatever it does.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <linux/filter.h>
#include <string.h>

#include "bpf.h"
#include "check.h"

#define INSN(code, k)                                                                              \
    (struct fal_bpf_insn) {                                                                        \
        (uint16_t)(code), 0, 0, (k)                                                                \
    }
#define JUMP(code, k, jt, jf)                                                                      \
    (struct fal_bpf_insn) {                                                                        \
        (uint16_t)(code), (jt), (jf), (k)                                                          \
    }
#define RETURN(k)             INSN(BPF_RET | BPF_K, k)
#define RUN(len, caplen, ...) run((struct fal_bpf_insn[]){__VA_ARGS__}, len, caplen)
#define FAULT(where, word, ...)                                                                    \
    faulty((struct fal_bpf_insn[]){__VA_ARGS__},                                                   \
           sizeof((struct fal_bpf_insn[]){__VA_ARGS__}) / sizeof(struct fal_bpf_insn), where,      \
           word)

static const uint8_t bytes[] = {0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf5};

static uint32_t rnd(void) {
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 32);
}

/* On a copy of just so many bytes, so that ASan sees one too many. */
static uint32_t run_on(const struct fal_bpf_insn *program, const uint8_t *data, uint32_t len,
                       uint32_t caplen) {
    uint8_t *copy = caplen ? malloc(caplen) : NULL;
    if (copy)
        memcpy(copy, data, caplen);
    uint32_t verdict = fal_bpf_run(program, copy, len, caplen);
    free(copy);
    return verdict;
}

static uint32_t run(const struct fal_bpf_insn *program, uint32_t len, uint32_t caplen) {
    return run_on(program, bytes, len, caplen);
}

static void faulty(const struct fal_bpf_insn *program, uint32_t count, uint32_t where,
                   const char *word) {
    struct fal_error err;
    char said[64];
    snprintf(said, sizeof said, "instruction %u ", where);
    if (!word) {
        CHECK(fal_bpf_check(program, count, NULL) == 0);
        return;
    }
    CHECK(fal_bpf_check(program, count, &err) == -1 && err.code == EINVAL);
    CHECK(strstr(err.text, word) && (strstr(err.text, said) || strstr(err.text, "4096")));
}

static void test_faults(void) {
    faulty(NULL, 0, 0, "4096");
    FAULT(0, NULL, RETURN(1));
    FAULT(0, "return", INSN(BPF_LD | BPF_IMM, 1));
    FAULT(1, "return", RETURN(1), INSN(BPF_MISC | BPF_TAX, 0));
    for (uint32_t code = 0; code <= UINT16_MAX; code++) { /* 49 instructions there are */
        static uint32_t known;
        struct fal_bpf_insn program[] = {INSN(code, 1), RETURN(0), RETURN(0)};
        known += fal_bpf_check(program, 3, NULL) == 0;
        CHECK(code < UINT16_MAX || known == 49);
    }
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t code = (uint32_t[]){BPF_LD | BPF_MEM, BPF_LDX | BPF_MEM, BPF_ST, BPF_STX}[i];
        FAULT(0, NULL, INSN(code, 15), RETURN(0));
        FAULT(0, "memory", INSN(code, 16), RETURN(0));
        FAULT(0, "memory", INSN(code, UINT32_MAX), RETURN(0));
    }
    FAULT(0, "divides", INSN(BPF_ALU | BPF_DIV | BPF_K, 0), RETURN(0));
    FAULT(0, "divides", INSN(BPF_ALU | BPF_MOD | BPF_K, 0), RETURN(0));
    FAULT(0, "shifts", INSN(BPF_ALU | BPF_LSH | BPF_K, 32), RETURN(0));
    FAULT(0, "shifts", INSN(BPF_ALU | BPF_RSH | BPF_K, 32), RETURN(0));
    FAULT(0, "negative", INSN(BPF_LD | BPF_W | BPF_ABS, 0xfffff000), RETURN(0));
    FAULT(0, "negative", INSN(BPF_LDX | BPF_B | BPF_MSH, 1u << 31), RETURN(0));
    /* jumps: the last place they may go to, one beyond, far beyond, round the corner */
    FAULT(0, NULL, INSN(BPF_JMP | BPF_JA, 1), RETURN(0), RETURN(0));
    FAULT(0, "jumps", INSN(BPF_JMP | BPF_JA, 2), RETURN(0), RETURN(0));
    FAULT(0, "jumps", INSN(BPF_JMP | BPF_JA, UINT32_MAX), RETURN(0));
    FAULT(0, "jumps", INSN(BPF_JMP | BPF_JA, 0));
    for (uint32_t op = BPF_JEQ; op <= BPF_JSET; op += 0x10) {
        FAULT(0, NULL, JUMP(BPF_JMP | op | BPF_X, 0, 1, 0), RETURN(0), RETURN(0));
        FAULT(0, "jumps", JUMP(BPF_JMP | op | BPF_K, 0, 2, 0), RETURN(0), RETURN(0));
        FAULT(0, "jumps", JUMP(BPF_JMP | op | BPF_K, 0, 0, 2), RETURN(0), RETURN(0));
        FAULT(0, "jumps", JUMP(BPF_JMP | op | BPF_K, 0, 0, 255), RETURN(0), RETURN(0));
    }

    static struct fal_bpf_insn longest[FAL_BPF_MAX + 1];
    for (uint32_t i = 0; i <= FAL_BPF_MAX; i++)
        longest[i] = RETURN(i);
    faulty(longest, FAL_BPF_MAX, 0, NULL);
    faulty(longest, FAL_BPF_MAX + 1, 0, "4096");
}

static void test_loads(void) {
    for (uint32_t caplen = 0; caplen <= sizeof bytes; caplen++) { /* as far as the bytes go */
        for (uint32_t k = 0; k < 10; k++) {
            uint32_t word = 0, half = 0;
            for (uint32_t i = 0; i < 4; i++)
                word = word << 8 | (k + i < caplen ? bytes[k + i] : 0);
            half = word >> 16;
            uint32_t w = k + 4 <= caplen ? word : 0, h = k + 2 <= caplen ? half : 0;
            uint32_t b = k < caplen ? bytes[k] : 0;
            CHECK(RUN(100, caplen, INSN(BPF_LD | BPF_W | BPF_ABS, k), INSN(BPF_RET | BPF_A, 0)) ==
                  w);
            CHECK(RUN(100, caplen, INSN(BPF_LD | BPF_H | BPF_ABS, k), INSN(BPF_RET | BPF_A, 0)) ==
                  h);
            CHECK(RUN(100, caplen, INSN(BPF_LD | BPF_B | BPF_ABS, k), INSN(BPF_RET | BPF_A, 0)) ==
                  b);
            CHECK(RUN(100, caplen, INSN(BPF_LDX | BPF_IMM, k), INSN(BPF_LD | BPF_W | BPF_IND, 0),
                      INSN(BPF_RET | BPF_A, 0)) == w);
            CHECK(RUN(100, caplen, INSN(BPF_LDX | BPF_IMM, k), INSN(BPF_LD | BPF_H | BPF_IND, 0),
                      INSN(BPF_RET | BPF_A, 0)) == h);
            CHECK(RUN(100, caplen, INSN(BPF_LDX | BPF_IMM, k), INSN(BPF_LD | BPF_B | BPF_IND, 0),
                      INSN(BPF_RET | BPF_A, 0)) == b);
            CHECK(RUN(100, caplen, INSN(BPF_LDX | BPF_B | BPF_MSH, k), INSN(BPF_MISC | BPF_TXA, 0),
                      INSN(BPF_RET | BPF_A, 0)) == (b & 15) * 4);
        }
    }
    /* offsets that would wrap round to the packet; a load that failed ends it all */
    for (uint32_t x = UINT32_MAX - 4; x >= UINT32_MAX - 4; x++) {
        CHECK(RUN(8, 8, INSN(BPF_LDX | BPF_IMM, x), INSN(BPF_LD | BPF_B | BPF_IND, 5), RETURN(7)) ==
              0);
        CHECK(RUN(8, 8, INSN(BPF_LDX | BPF_IMM, 5), INSN(BPF_LD | BPF_W | BPF_IND, x), RETURN(7)) ==
              0);
    }
    CHECK(RUN(8, 8, INSN(BPF_LD | BPF_W | BPF_ABS, INT32_MAX), RETURN(7)) == 0);
    CHECK(RUN(1514, 8, INSN(BPF_LD | BPF_W | BPF_LEN, 0), INSN(BPF_RET | BPF_A, 0)) == 1514);
    CHECK(RUN(1514, 8, INSN(BPF_LDX | BPF_W | BPF_LEN, 0), INSN(BPF_MISC | BPF_TXA, 0),
              INSN(BPF_RET | BPF_A, 0)) == 1514);
    CHECK(RUN(0, 0, INSN(BPF_LD | BPF_MEM, 3), INSN(BPF_RET | BPF_A, 0)) == 0); /* never stored */
}

static uint32_t alu(uint32_t op, uint32_t a, uint32_t x) {
    return RUN(0, 0, INSN(BPF_LD | BPF_IMM, a), INSN(BPF_LDX | BPF_IMM, x),
               INSN(BPF_ALU | op | BPF_X, 0), INSN(BPF_RET | BPF_A, 0));
}

static void test_arithmetic(void) {
    const uint32_t max = UINT32_MAX;
    CHECK(alu(BPF_ADD, max, 2) == 1 && alu(BPF_SUB, 1, 2) == max && alu(BPF_MUL, max, max) == 1);
    CHECK(alu(BPF_DIV, max, 2) == max / 2 && alu(BPF_MOD, max, 10) == 5);
    CHECK(alu(BPF_LSH, 1, 31) == 1u << 31 && alu(BPF_LSH, 1, 32) == 0 && alu(BPF_LSH, 1, max) == 0);
    CHECK(alu(BPF_RSH, max, 31) == 1 && alu(BPF_RSH, max, 32) == 0 && alu(BPF_RSH, 1, max) == 0);
    CHECK(alu(BPF_AND, 12, 10) == 8 && alu(BPF_OR, 12, 10) == 14 && alu(BPF_XOR, 12, 10) == 6);
    CHECK(RUN(0, 0, INSN(BPF_LD | BPF_IMM, 1), INSN(BPF_ALU | BPF_NEG, 0),
              INSN(BPF_RET | BPF_A, 0)) == max);
    for (uint32_t op = BPF_DIV; op <= BPF_MOD; op += BPF_MOD - BPF_DIV) /* by zero: the end */
        CHECK(RUN(0, 0, INSN(BPF_ALU | op | BPF_X, 0), RETURN(7)) == 0);
}

/* An instruction that may follow where `left` more do. */
static struct fal_bpf_insn random_insn(uint32_t left) {
    for (;;) {
        struct fal_bpf_insn i = {(uint16_t)(rnd() & 0xff), 0, 0, rnd()};
        uint32_t small = rnd() % 64;
        if (rnd() % 8)
            i.k = small;
        if (BPF_CLASS(i.code) == BPF_JMP) {
            i.k = BPF_OP(i.code) == BPF_JA ? i.k % (left + 1) : i.k;
            i.jt = (uint8_t)(small % (left + 1));
            i.jf = (uint8_t)(rnd() % 64 % (left + 1));
        }
        struct fal_bpf_insn padded[66] = {i};
        for (uint32_t k = 1; k < 66; k++)
            padded[k] = RETURN(0);
        if (fal_bpf_check(padded, left + 2 < 66 ? left + 2 : 66, NULL) == 0 &&
            (BPF_CLASS(i.code) != BPF_RET || rnd() % 8 == 0))
            return i;
    }
}

/* Programs of all kinds of nonsense: those that pass must be safe to run. */
static void test_random_programs(void) {
    struct fal_bpf_insn program[64];
    uint8_t data[128];
    for (uint32_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)rnd();
    for (uint32_t n = 0; n < 20000; n++) {
        uint32_t count = 1 + rnd() % 64;
        for (uint32_t i = 0; i + 1 < count; i++)
            program[i] = random_insn(count - 2 - i);
        program[count - 1] = INSN(BPF_RET | (rnd() & 1 ? BPF_A : BPF_K), rnd());
        CHECK(fal_bpf_check(program, count, NULL) == 0);
        for (uint32_t i = 0; i < 4; i++)
            run_on(program, data, rnd(), rnd() % sizeof data);
    }
    uint32_t accepted = 0;
    for (uint32_t n = 0; n < 300000; n++) { /* and noise */
        uint32_t count = 1 + rnd() % 4;
        for (uint32_t i = 0; i < count; i++)
            program[i] = (struct fal_bpf_insn){(uint16_t)(rnd() & 0xff), (uint8_t)(rnd() % 6),
                                               (uint8_t)(rnd() % 6), rnd() % 20};
        program[count - 1].code = BPF_RET | BPF_A;
        if (fal_bpf_check(program, count, NULL) == 0) {
            accepted++;
            run_on(program, data, rnd(), rnd() % 32);
        }
    }
    CHECK(accepted > 1000);
}

int main(void) {
    test_faults();
    test_loads();
    test_arithmetic();
    test_random_programs();
    return 0;
}
