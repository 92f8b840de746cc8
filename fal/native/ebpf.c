/* SPDX-License-Identifier: BSD-3-Clause */
#include "ebpf.h"

#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

long fal_ebpf(int command, union bpf_attr *attr) {
    return syscall(SYS_bpf, command, attr, sizeof *attr);
}

int fal_ebpf_load(uint32_t type, const char *name, const struct bpf_insn *program, uint32_t size,
                  uint32_t flags) {
    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.prog_type = type;
    attr.expected_attach_type = type == BPF_PROG_TYPE_XDP ? BPF_XDP : 0;
    attr.prog_flags = flags;
    attr.insns = (uintptr_t)program;
    attr.insn_cnt = size;
    attr.license = (uintptr_t) "BSD-3-Clause"; /* none of the helpers is for the GPL alone */
    memcpy(attr.prog_name, name, strnlen(name, sizeof attr.prog_name - 1));
    return (int)fal_ebpf(BPF_PROG_LOAD, &attr);
}

int fal_ebpf_attach(int program, uint32_t ifindex, uint32_t flags) {
    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.link_create.prog_fd = (uint32_t)program;
    attr.link_create.target_ifindex = ifindex;
    attr.link_create.attach_type = BPF_XDP;
    attr.link_create.flags = flags;
    return (int)fal_ebpf(BPF_LINK_CREATE, &attr);
}
