/* SPDX-License-Identifier: BSD-3-Clause */
#include "bpf.h"

#include <errno.h>
#include <linux/filter.h> /* BPF_LD, BPF_JEQ, … */
#include <stdbool.h>
#include <string.h>

/* ---- whether a program may be run ------------------------------------------------------------------- */

/* What is wrong with the instruction, of which `left` more follow. */
static const char *fault_of(const struct fal_bpf_insn *i, uint32_t left) {
    switch (i->code) {
    case BPF_LD | BPF_W | BPF_ABS:
    case BPF_LD | BPF_H | BPF_ABS:
    case BPF_LD | BPF_B | BPF_ABS:
    case BPF_LDX | BPF_B | BPF_MSH:
        return i->k > INT32_MAX ? "loads at a negative offset, which is for the kernel alone"
                                : NULL;
    case BPF_LD | BPF_MEM:
    case BPF_LDX | BPF_MEM:
    case BPF_ST:
    case BPF_STX:
        return i->k < BPF_MEMWORDS ? NULL : "is outside of the memory";
    case BPF_ALU | BPF_DIV | BPF_K:
    case BPF_ALU | BPF_MOD | BPF_K:
        return i->k ? NULL : "divides by zero";
    case BPF_ALU | BPF_LSH | BPF_K:
    case BPF_ALU | BPF_RSH | BPF_K:
        return i->k < 32 ? NULL : "shifts by more than 31 bits";
    case BPF_JMP | BPF_JA:
        return i->k < left ? NULL : "jumps out of the program, or backwards";
    case BPF_JMP | BPF_JEQ | BPF_K:
    case BPF_JMP | BPF_JEQ | BPF_X:
    case BPF_JMP | BPF_JGT | BPF_K:
    case BPF_JMP | BPF_JGT | BPF_X:
    case BPF_JMP | BPF_JGE | BPF_K:
    case BPF_JMP | BPF_JGE | BPF_X:
    case BPF_JMP | BPF_JSET | BPF_K:
    case BPF_JMP | BPF_JSET | BPF_X:
        return i->jt < left && i->jf < left ? NULL : "jumps out of the program, or backwards";
    case BPF_LD | BPF_W | BPF_IND:
    case BPF_LD | BPF_H | BPF_IND:
    case BPF_LD | BPF_B | BPF_IND:
    case BPF_LD | BPF_W | BPF_LEN:
    case BPF_LDX | BPF_W | BPF_LEN:
    case BPF_LD | BPF_IMM:
    case BPF_LDX | BPF_IMM:
    case BPF_ALU | BPF_ADD | BPF_K:
    case BPF_ALU | BPF_ADD | BPF_X:
    case BPF_ALU | BPF_SUB | BPF_K:
    case BPF_ALU | BPF_SUB | BPF_X:
    case BPF_ALU | BPF_MUL | BPF_K:
    case BPF_ALU | BPF_MUL | BPF_X:
    case BPF_ALU | BPF_OR | BPF_K:
    case BPF_ALU | BPF_OR | BPF_X:
    case BPF_ALU | BPF_AND | BPF_K:
    case BPF_ALU | BPF_AND | BPF_X:
    case BPF_ALU | BPF_XOR | BPF_K:
    case BPF_ALU | BPF_XOR | BPF_X:
    case BPF_ALU | BPF_DIV | BPF_X:
    case BPF_ALU | BPF_MOD | BPF_X:
    case BPF_ALU | BPF_LSH | BPF_X:
    case BPF_ALU | BPF_RSH | BPF_X:
    case BPF_ALU | BPF_NEG:
    case BPF_MISC | BPF_TAX:
    case BPF_MISC | BPF_TXA:
    case BPF_RET | BPF_K:
    case BPF_RET | BPF_A:
        return NULL;
    default:
        return "is none of classic BPF";
    }
}

/* Jumps go forward, by their very encoding: so there are no loops, and whatever does not jump runs
 * towards the last instruction, which must be a return. */
int fal_bpf_check(const struct fal_bpf_insn *program, uint32_t count, struct fal_error *err) {
    if (count == 0 || count > FAL_BPF_MAX)
        return fal_fail(err, EINVAL, "a BPF program has 1 to %d instructions, not %u", FAL_BPF_MAX,
                        count);
    for (uint32_t i = 0; i < count; i++) {
        const char *fault = fault_of(&program[i], count - 1 - i);
        if (!fault && i == count - 1 && BPF_CLASS(program[i].code) != BPF_RET)
            fault = "is the last and no return";
        if (fault)
            return fal_fail(err, EINVAL, "BPF program: instruction %u %s", i, fault);
    }
    return 0;
}

/* ---- running --------------------------------------------------------------------------------- */

/* The big-endian number of `size` bytes at `offset`; false: it is not wholly there. */
static inline bool load(const uint8_t *data, uint32_t caplen, uint64_t offset, uint32_t size,
                        uint32_t *to) {
    if (offset + size > caplen)
        return false;
    uint32_t word;
    uint16_t half;
    switch (size) {
    case 4:
        memcpy(&word, data + offset, 4);
        *to = __builtin_bswap32(word);
        break;
    case 2:
        memcpy(&half, data + offset, 2);
        *to = __builtin_bswap16(half);
        break;
    default:
        *to = data[offset];
    }
    return true;
}

#define LOAD(size, offset)                                                                         \
    if (!load(data, caplen, offset, size, &a))                                                     \
        return 0;                                                                                  \
    break

#define JUMP(condition)                                                                            \
    i += (condition) ? i->jt : i->jf;                                                              \
    break

/* No offset wraps: sums of two 32-bit numbers are taken in 64 bits. */
uint32_t fal_bpf_run(const struct fal_bpf_insn *program, const uint8_t *data, uint32_t len,
                     uint32_t caplen) {
    uint32_t a = 0, x = 0, memory[BPF_MEMWORDS] = {0};
    for (const struct fal_bpf_insn *i = program;; i++) {
        const uint32_t k = i->k;
        switch (i->code) {
        case BPF_RET | BPF_K:
            return k;
        case BPF_RET | BPF_A:
            return a;

        case BPF_LD | BPF_W | BPF_ABS:
            LOAD(4, k);
        case BPF_LD | BPF_H | BPF_ABS:
            LOAD(2, k);
        case BPF_LD | BPF_B | BPF_ABS:
            LOAD(1, k);
        case BPF_LD | BPF_W | BPF_IND:
            LOAD(4, (uint64_t)x + k);
        case BPF_LD | BPF_H | BPF_IND:
            LOAD(2, (uint64_t)x + k);
        case BPF_LD | BPF_B | BPF_IND:
            LOAD(1, (uint64_t)x + k);
        case BPF_LDX | BPF_B | BPF_MSH: /* the length of an IPv4 header */
            if (k >= caplen)
                return 0;
            x = (data[k] & 0xfu) * 4;
            break;
        case BPF_LD | BPF_W | BPF_LEN:
            a = len;
            break;
        case BPF_LDX | BPF_W | BPF_LEN:
            x = len;
            break;
        case BPF_LD | BPF_IMM:
            a = k;
            break;
        case BPF_LDX | BPF_IMM:
            x = k;
            break;
        case BPF_LD | BPF_MEM:
            a = memory[k];
            break;
        case BPF_LDX | BPF_MEM:
            x = memory[k];
            break;
        case BPF_ST:
            memory[k] = a;
            break;
        case BPF_STX:
            memory[k] = x;
            break;

        case BPF_JMP | BPF_JA:
            i += k;
            break;
        case BPF_JMP | BPF_JEQ | BPF_K:
            JUMP(a == k);
        case BPF_JMP | BPF_JEQ | BPF_X:
            JUMP(a == x);
        case BPF_JMP | BPF_JGT | BPF_K:
            JUMP(a > k);
        case BPF_JMP | BPF_JGT | BPF_X:
            JUMP(a > x);
        case BPF_JMP | BPF_JGE | BPF_K:
            JUMP(a >= k);
        case BPF_JMP | BPF_JGE | BPF_X:
            JUMP(a >= x);
        case BPF_JMP | BPF_JSET | BPF_K:
            JUMP(a & k);
        case BPF_JMP | BPF_JSET | BPF_X:
            JUMP(a & x);

        case BPF_ALU | BPF_ADD | BPF_K:
            a += k;
            break;
        case BPF_ALU | BPF_ADD | BPF_X:
            a += x;
            break;
        case BPF_ALU | BPF_SUB | BPF_K:
            a -= k;
            break;
        case BPF_ALU | BPF_SUB | BPF_X:
            a -= x;
            break;
        case BPF_ALU | BPF_MUL | BPF_K:
            a *= k;
            break;
        case BPF_ALU | BPF_MUL | BPF_X:
            a *= x;
            break;
        case BPF_ALU | BPF_DIV | BPF_K:
            a /= k;
            break;
        case BPF_ALU | BPF_DIV | BPF_X:
            if (!x)
                return 0;
            a /= x;
            break;
        case BPF_ALU | BPF_MOD | BPF_K:
            a %= k;
            break;
        case BPF_ALU | BPF_MOD | BPF_X:
            if (!x)
                return 0;
            a %= x;
            break;
        case BPF_ALU | BPF_OR | BPF_K:
            a |= k;
            break;
        case BPF_ALU | BPF_OR | BPF_X:
            a |= x;
            break;
        case BPF_ALU | BPF_AND | BPF_K:
            a &= k;
            break;
        case BPF_ALU | BPF_AND | BPF_X:
            a &= x;
            break;
        case BPF_ALU | BPF_XOR | BPF_K:
            a ^= k;
            break;
        case BPF_ALU | BPF_XOR | BPF_X:
            a ^= x;
            break;
        case BPF_ALU | BPF_LSH | BPF_K:
            a <<= k;
            break;
        case BPF_ALU | BPF_LSH | BPF_X:
            a = x < 32 ? a << x : 0;
            break;
        case BPF_ALU | BPF_RSH | BPF_K:
            a >>= k;
            break;
        case BPF_ALU | BPF_RSH | BPF_X:
            a = x < 32 ? a >> x : 0;
            break;
        case BPF_ALU | BPF_NEG:
            a = -a;
            break;

        case BPF_MISC | BPF_TAX:
            x = a;
            break;
        case BPF_MISC | BPF_TXA:
            a = x;
            break;
        default: /* fal_bpf_check lets no other through */
            return 0;
        }
    }
}
