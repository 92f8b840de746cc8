/* What all users of eBPF programs share: the system call, and how a program gets in and on a device.
 * Programs are assembled where they are used: neither a compiler for BPF nor a loader library is
 * needed.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_EBPF_H
#define FAL_EBPF_H

#include <linux/bpf.h>
#include <stdint.h>

/* As bpf(2): -1 and errno. */
long fal_ebpf(int command, union bpf_attr *attr);
/* Loads a program of that many instructions; flags: BPF_F_….  Its descriptor; -1 and errno. */
int fal_ebpf_load(uint32_t type, const char *name, const struct bpf_insn *program, uint32_t size,
                  uint32_t flags);
/* Attaches an XDP program by a bpf_link; flags: XDP_FLAGS_….  The link's descriptor, with the last
 * close of which the kernel takes it off again: also after kill -9.  -1 and errno. */
int fal_ebpf_attach(int program, uint32_t ifindex, uint32_t flags);

#endif
