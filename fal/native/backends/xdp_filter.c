/* Each instruction of classic BPF becomes one to eleven of those that XDP programs consist of.  What
 * the kernel's verifier must be shown, the interpreter in bpf.c does by itself:
 *
 *     a load      its end is compared with the packet's, each time anew
 *     registers   set at the start, also the memory that is used: nothing is read unwritten
 *     dead code   what no jump leads to is left out
 *
 * Numbers have 32 bits in both, but here lie in registers of 64, whose upper half stays zero.
 * SPDX-License-Identifier: BSD-3-Clause */
#include "xdp_filter.h"

#include <errno.h>
#include <linux/filter.h> /* of both languages, whose classes are BPF_LD, BPF_ALU, … */
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#define OFFSETS  0x7fff /* no packet is longer, and it fits into an instruction's 16 bits */
#define MOST     11     /* instructions that one becomes, at most */
#define PROLOGUE 32     /* and so many before them */
#define LENGTH   (-72)  /* where on the stack the packet's length lies; the memory is above */
#define LOADED   (-80)  /* and what a helper has loaded */

/* Numbers from newer kernels than the oldest headers that this is built with. */
#define HELPER_XDP_GET_BUFF_LEN 188 /* Linux 5.18 */
#define HELPER_XDP_LOAD_BYTES   189

enum { A = 0, T1, T2, T3, T4, CONTEXT = FAL_XDP_CONTEXT, DATA = 7, END = 8, X = 9, STACK = 10 };

/* Jumps to other instructions of the program hold its number until all places are known. */
enum target { NONE, MATCH, MISS, INSN };

struct jump {
    enum target to;
    uint32_t insn;
};

struct code {
    struct bpf_insn *insn;
    struct jump *jump; /* of each: where it jumps to */
    uint32_t size;
    uint32_t *place; /* of each instruction of the program */
};

static void emit(struct code *c, unsigned op, unsigned dst, unsigned src, int16_t off, int32_t k) {
    c->insn[c->size++] = (struct bpf_insn){
        .code = (uint8_t)op, .dst_reg = dst & 15, .src_reg = src & 15, .off = off, .imm = k};
}

static void jump(struct code *c, unsigned op, unsigned dst, unsigned src, int32_t k, enum target to,
                 uint32_t insn) {
    c->jump[c->size] = (struct jump){to, insn};
    emit(c, op, dst, src, 0, k);
}

static void move(struct code *c, unsigned dst, unsigned src) {
    emit(c, BPF_ALU | BPF_MOV | BPF_X, dst, src, 0, 0);
}

static void set(struct code *c, unsigned dst, uint32_t k) {
    emit(c, BPF_ALU | BPF_MOV | BPF_K, dst, 0, 0, (int32_t)k);
}

static int16_t memory(uint32_t k) {
    return (int16_t)(-4 * (int)(k + 1));
}

/* The number of `size` at that address, in host order. */
static void fetch(struct code *c, unsigned to, unsigned at, unsigned size, int16_t offset) {
    emit(c, BPF_LDX | BPF_MEM | size, to, at, offset, 0);
    if (size != BPF_B)
        emit(c, BPF_ALU | BPF_END | BPF_TO_BE, to, 0, 0, size == BPF_H ? 16 : 32);
}

static uint32_t bytes(unsigned size) {
    return size == BPF_W ? 4 : size == BPF_H ? 2 : 1;
}

static void load(struct code *c, unsigned to, unsigned size, uint32_t k) {
    if (k > OFFSETS - 4) { /* never there; but to the verifier what follows must seem in reach */
        jump(c, BPF_JMP32 | BPF_JGE | BPF_K, A, 0, 0, MISS, 0);
        return;
    }
    emit(c, BPF_ALU64 | BPF_MOV | BPF_X, T1, DATA, 0, 0);
    emit(c, BPF_ALU64 | BPF_ADD | BPF_K, T1, 0, 0, (int32_t)(k + bytes(size)));
    jump(c, BPF_JMP | BPF_JGT | BPF_X, T1, END, 0, MISS, 0);
    fetch(c, to, DATA, size, (int16_t)k);
}

/* To a packet's address the kernel lets one with CAP_PERFMON alone add what is not constant: so this
 * is left to a helper, which clobbers T1 to T4, and A. */
static void load_indirect(struct code *c, unsigned size, uint32_t k) {
    if (k > OFFSETS - 4) {
        jump(c, BPF_JMP32 | BPF_JGE | BPF_K, A, 0, 0, MISS, 0);
        return;
    }
    emit(c, BPF_ALU64 | BPF_MOV | BPF_X, T1, CONTEXT, 0, 0);
    move(c, T2, X);
    emit(c, BPF_ALU64 | BPF_ADD | BPF_K, T2, 0, 0, (int32_t)k);
    jump(c, BPF_JMP | BPF_JGT | BPF_K, T2, 0, OFFSETS, MISS, 0);
    emit(c, BPF_ALU64 | BPF_MOV | BPF_X, T3, STACK, 0, 0);
    emit(c, BPF_ALU64 | BPF_ADD | BPF_K, T3, 0, 0, LOADED);
    set(c, T4, bytes(size));
    emit(c, BPF_JMP | BPF_CALL, 0, 0, 0, HELPER_XDP_LOAD_BYTES);
    jump(c, BPF_JMP | BPF_JNE | BPF_K, A, 0, 0, MISS, 0);
    fetch(c, A, STACK, size, LOADED);
}

static void alu(struct code *c, const struct fal_bpf_insn *i) {
    unsigned op = BPF_OP(i->code);
    if (op == BPF_NEG) {
        emit(c, BPF_ALU | BPF_NEG, A, 0, 0, 0);
    } else if (BPF_SRC(i->code) == BPF_K) {
        emit(c, BPF_ALU | op | BPF_K, A, 0, 0, (int32_t)i->k);
    } else if (op == BPF_LSH || op == BPF_RSH) { /* by 32 and more: nothing is left */
        emit(c, BPF_JMP | BPF_JGT | BPF_K, X, 0, 2, 31);
        emit(c, BPF_ALU | op | BPF_X, A, X, 0, 0);
        emit(c, BPF_JMP | BPF_JA, 0, 0, 1, 0);
        set(c, A, 0);
    } else {
        if (op == BPF_DIV || op == BPF_MOD)
            jump(c, BPF_JMP | BPF_JEQ | BPF_K, X, 0, 0, MISS, 0);
        emit(c, BPF_ALU | op | BPF_X, A, X, 0, 0);
    }
}

/* Instruction number n of the program. */
static void translate(struct code *c, const struct fal_bpf_insn *i, uint32_t n) {
    const uint32_t k = i->k;
    switch (BPF_CLASS(i->code)) {
    case BPF_LD:
    case BPF_LDX: {
        unsigned to = BPF_CLASS(i->code) == BPF_LD ? A : X;
        switch (BPF_MODE(i->code)) {
        case BPF_ABS:
            load(c, A, BPF_SIZE(i->code), k);
            break;
        case BPF_IND:
            load_indirect(c, BPF_SIZE(i->code), k);
            break;
        case BPF_MSH:
            load(c, X, BPF_B, k);
            emit(c, BPF_ALU | BPF_AND | BPF_K, X, 0, 0, 15);
            emit(c, BPF_ALU | BPF_LSH | BPF_K, X, 0, 0, 2);
            break;
        case BPF_LEN:
            emit(c, BPF_LDX | BPF_MEM | BPF_W, to, STACK, LENGTH, 0);
            break;
        case BPF_MEM:
            emit(c, BPF_LDX | BPF_MEM | BPF_W, to, STACK, memory(k), 0);
            break;
        default:
            set(c, to, k);
        }
        break;
    }
    case BPF_ST:
        emit(c, BPF_STX | BPF_MEM | BPF_W, STACK, A, memory(k), 0);
        break;
    case BPF_STX:
        emit(c, BPF_STX | BPF_MEM | BPF_W, STACK, X, memory(k), 0);
        break;
    case BPF_ALU:
        alu(c, i);
        break;
    case BPF_JMP:
        if (BPF_OP(i->code) == BPF_JA) {
            jump(c, BPF_JMP | BPF_JA, 0, 0, 0, INSN, n + 1 + k);
        } else {
            unsigned op = BPF_JMP32 | BPF_OP(i->code) | BPF_SRC(i->code);
            bool with_x = BPF_SRC(i->code) == BPF_X;
            jump(c, op, A, with_x ? X : 0, with_x ? 0 : (int32_t)k, INSN, n + 1 + i->jt);
            jump(c, BPF_JMP | BPF_JA, 0, 0, 0, INSN, n + 1 + i->jf);
        }
        break;
    case BPF_RET:
        if (BPF_RVAL(i->code) == BPF_A) {
            jump(c, BPF_JMP | BPF_JEQ | BPF_K, A, 0, 0, MISS, 0);
            jump(c, BPF_JMP | BPF_JA, 0, 0, 0, MATCH, 0);
        } else {
            jump(c, BPF_JMP | BPF_JA, 0, 0, 0, k ? MATCH : MISS, 0);
        }
        break;
    case BPF_MISC:
        if (BPF_MISCOP(i->code) == BPF_TAX)
            move(c, X, A);
        else
            move(c, A, X);
    }
}

/* Jumps go forward only: one pass finds what can be reached. */
static void find_reached(const struct fal_bpf_insn *program, uint32_t count, bool *reached) {
    reached[0] = true;
    for (uint32_t n = 0; n < count; n++) {
        const struct fal_bpf_insn *i = &program[n];
        if (!reached[n] || BPF_CLASS(i->code) == BPF_RET)
            continue;
        if (BPF_CLASS(i->code) != BPF_JMP)
            reached[n + 1] = true;
        else if (BPF_OP(i->code) == BPF_JA)
            reached[n + 1 + i->k] = true;
        else
            reached[n + 1 + i->jt] = reached[n + 1 + i->jf] = true;
    }
}

static void begin(struct code *c, const struct fal_bpf_insn *program, uint32_t count,
                  const bool *reached) {
    bool length = false;
    uint32_t used = 0;
    for (uint32_t n = 0; n < count; n++) {
        unsigned class = BPF_CLASS(program[n].code), mode = BPF_MODE(program[n].code);
        bool loads = class == BPF_LD || class == BPF_LDX;
        length |= reached[n] && loads && mode == BPF_LEN;
        if (class == BPF_ST || class == BPF_STX || (loads && mode == BPF_MEM))
            used |= 1u << program[n].k;
    }
    if (length) {
        emit(c, BPF_ALU64 | BPF_MOV | BPF_X, T1, CONTEXT, 0, 0);
        emit(c, BPF_JMP | BPF_CALL, 0, 0, 0, HELPER_XDP_GET_BUFF_LEN);
        emit(c, BPF_STX | BPF_MEM | BPF_W, STACK, A, LENGTH, 0);
    }
    for (uint32_t k = 0; k < 16; k++)
        if (used >> k & 1)
            emit(c, BPF_ST | BPF_MEM | BPF_W, STACK, 0, memory(k), 0);
    emit(c, BPF_LDX | BPF_MEM | BPF_W, DATA, CONTEXT, offsetof(struct xdp_md, data), 0);
    emit(c, BPF_LDX | BPF_MEM | BPF_W, END, CONTEXT, offsetof(struct xdp_md, data_end), 0);
    set(c, A, 0);
    set(c, X, 0);
    /* Never, but dead code is refused, and a filter may match everything, or nothing. */
    jump(c, BPF_JMP | BPF_JNE | BPF_K, A, 0, 0, MATCH, 0);
    jump(c, BPF_JMP | BPF_JNE | BPF_K, A, 0, 0, MISS, 0);
}

/* Replaces what jumps hold by how far they go; false: further than they can. */
static bool settle(struct code *c, uint32_t miss) {
    for (uint32_t i = 0; i < c->size; i++) {
        uint32_t to;
        switch (c->jump[i].to) {
        case INSN:
            to = c->place[c->jump[i].insn];
            break;
        case MATCH:
            to = c->size;
            break;
        case MISS:
            to = c->size + miss;
            break;
        default:
            continue;
        }
        if (to - i - 1 > INT16_MAX)
            return false;
        c->insn[i].off = (int16_t)(to - i - 1);
    }
    return true;
}

struct bpf_insn *fal_xdp_filter(const struct fal_bpf_insn *program, uint32_t count, uint32_t miss,
                                uint32_t *size, struct fal_error *err) {
    bool *reached = calloc(count, sizeof *reached);
    size_t most = PROLOGUE + (size_t)count * MOST;
    struct code c = {.insn = calloc(most, sizeof *c.insn),
                     .jump = calloc(most, sizeof *c.jump),
                     .place = calloc(count, sizeof *c.place)};
    bool done = false;
    if (!reached || !c.insn || !c.jump || !c.place) {
        fal_fail(err, ENOMEM, "no memory for a filter");
    } else {
        find_reached(program, count, reached);
        begin(&c, program, count, reached);
        for (uint32_t n = 0; n < count; n++) {
            c.place[n] = c.size;
            if (reached[n])
                translate(&c, &program[n], n);
        }
        done = settle(&c, miss);
        if (!done)
            fal_fail(err, E2BIG, "too long a filter for an XDP program: %u instructions", count);
    }
    free(reached);
    free(c.jump);
    free(c.place);
    if (!done) {
        free(c.insn);
        return NULL;
    }
    *size = c.size;
    return c.insn;
}
