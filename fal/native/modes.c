/* SPDX-License-Identifier: BSD-3-Clause */
#include "modes.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum {
    TWO = FAL_HASH_ADDRESSES,
    FOUR = TWO | FAL_HASH_PORTS,
    FIVE = FAL_HASH_FLOW,
    SIX = FIVE | FAL_HASH_VLAN,
    TCP_FIVE = FIVE | FAL_HASH_TCP,
    INNER = FAL_HASH_INNER,
    DEEPER = FAL_HASH_INNER | FAL_HASH_ICMP,
};

#define MODE(m)                                                                                    \
    { FAL_MODE_##m, 0, FIVE }
#define HASH(f)                                                                                    \
    { FAL_MODE_HASH, 0, f }
#define NOT_TO_BE                                                                                  \
    { FAL_NOT_SUPPORTED, 0, 0 }
#define COUNT(a) (sizeof(a) / sizeof *(a))

/* Of the words that come to the same, the first is the one that is written. */
static const struct fal_word modes[] = {
    {"hash", MODE(HASH), "the member of its flow: addresses, ports, protocol"},
    {"lb", MODE(LB), "each member in turn"},
    {"cpu", MODE(CPU), "the CPU that received it, modulo members"},
    {"rollover", MODE(ROLLOVER), "one member until its ring is 3/4 full, then the next"},
    {"rnd", MODE(RND), "a member drawn at random"},
    {"qm", MODE(QM), "the queue that received it, modulo members"},
    {"cbpf", MODE(CBPF), "what the group's BPF program returns, modulo members"},
    /* PF_RING */
    {"flow", HASH(SIX), "the member of its flow: addresses, ports, protocol, VLAN"},
    {"flow_2_tuple", HASH(TWO), "... addresses"},
    {"flow_4_tuple", HASH(FOUR), "... addresses, ports"},
    {"flow_5_tuple", HASH(FIVE), "... addresses, ports, protocol"},
    {"flow_tcp_5_tuple", HASH(TCP_FIVE), "... TCP: these; all else: addresses"},
    {"inner_flow", HASH(SIX | INNER), "as without inner_, of the packet inside a tunnel"},
    {"inner_flow_2_tuple", HASH(TWO | INNER), "..."},
    {"inner_flow_4_tuple", HASH(FOUR | INNER), "..."},
    {"inner_flow_5_tuple", HASH(FIVE | INNER), "..."},
    {"inner_flow_tcp_5_tuple", HASH(TCP_FIVE | INNER), "..."},
    {"round_robin", MODE(LB), "each member in turn"},
    /* PFQ */
    {"steer_rrobin", MODE(LB), "each member in turn"},
    {"steer_flow", HASH(FIVE), "the member of its flow"},
    {"steer_ip", HASH(TWO), "... by addresses"},
    {"steer_link", HASH(FAL_HASH_MACS), "... by MACs"},
    {"steer_vlan", HASH(FAL_HASH_VLAN), "... by VLAN"},
    {"data", NOT_TO_BE, "it hands the kernel a program and is no mode: see cbpf"},
    {"ebpf", NOT_TO_BE, "such programs run in the kernel, which does not steer here: see cbpf"},
};

static const struct fal_word flags[] = {
    {"defrag", {0, FAL_FANOUT_DEFRAG, 0}, "a datagram's fragments follow its first piece to come"},
    {"rollover", {0, FAL_FANOUT_ROLLOVER, 0}, "full: to a member whose ring is less than 3/4 full"},
    {"inner", {0, 0, FAL_HASH_INNER}, "hash the packet inside a tunnel"},
    {"icmp", {0, 0, FAL_HASH_ICMP}, "hash the packet that an ICMP error quotes"},
};

const struct fal_word *fal_mode_word(uint32_t i) {
    return i < COUNT(modes) ? &modes[i] : NULL;
}

const struct fal_word *fal_flag_word(uint32_t i) {
    return i < COUNT(flags) ? &flags[i] : NULL;
}

/* The entry for the first `length` bytes of text, in any case.  Not strncasecmp: that follows the
 * program's locale, and these words must not. */
static const struct fal_word *find(const struct fal_word *words, size_t count, const char *text,
                                   size_t length) {
    for (size_t i = 0; i < count; i++) {
        size_t k = 0;
        while (k < length && words[i].word[k] ==
                                 (text[k] >= 'A' && text[k] <= 'Z' ? text[k] - 'A' + 'a' : text[k]))
            k++;
        if (k == length && !words[i].word[k])
            return &words[i];
    }
    return NULL;
}

int fal_fanout_parse(const char *text, struct fal_fanout *out, struct fal_error *err) {
    size_t length = strcspn(text, "+|");
    const struct fal_word *mode = find(modes, COUNT(modes), text, length), *flag;
    if (!mode)
        return fal_fail(err, EINVAL,
                        "unknown fan-out mode '%.*s' (known: hash, lb, cpu, rollover, rnd, qm, cbpf"
                        " and more: see `fal modes`)",
                        length < 40 ? (int)length : 40, text);
    if (mode->fanout.mode == FAL_NOT_SUPPORTED)
        return fal_fail(err, EOPNOTSUPP, "fan-out mode '%s' is not supported: %s", mode->word,
                        mode->about);
    struct fal_fanout f = mode->fanout;
    for (text += length; *text; text += length) {
        length = strcspn(++text, "+|");
        flag = find(flags, COUNT(flags), text, length);
        if (!flag)
            return fal_fail(err, EINVAL,
                            "unknown fan-out flag '%.*s' (known: defrag, rollover, inner, icmp)",
                            length < 40 ? (int)length : 40, text);
        if ((f.flags & flag->fanout.flags) | (f.hash & flag->fanout.hash) ||
            (f.mode == FAL_MODE_ROLLOVER && flag->fanout.flags == FAL_FANOUT_ROLLOVER))
            return fal_fail(err, EINVAL, "fan-out flag '%s' is said twice (say it once)",
                            flag->word);
        f.flags |= flag->fanout.flags;
        f.hash |= flag->fanout.hash;
    }
    *out = f;
    return 0;
}

void fal_fanout_text(const struct fal_fanout *f, char *text) {
    size_t i = 0;
    while (i < COUNT(modes) && (modes[i].fanout.mode != f->mode ||
                                (modes[i].fanout.hash ^ f->hash) & ~(uint32_t)DEEPER))
        i++;
    int n = snprintf(text, FAL_NAME_SIZE, "%s", i < COUNT(modes) ? modes[i].word : "unknown");
    for (i = 0; i < COUNT(flags); i++)
        if ((flags[i].fanout.flags & f->flags) | (flags[i].fanout.hash & f->hash))
            n += snprintf(text + n, FAL_NAME_SIZE - (size_t)n, "+%s", flags[i].word);
}
