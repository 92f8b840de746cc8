/* What a pcap program calls a device: which engine it asks for, and which devices.
 *
 * Plain enough for cffi to take verbatim (declarations and integer constants only).
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_PCAP_NAMES_H
#define FAL_PCAP_NAMES_H

#include "../error.h"

#define FAL_PCAP_NAME_SIZE 256

enum fal_pcap_engine {
    FAL_PCAP_FAL,     /* "fal:NAME", "fal:NAME^NAME…": served by a fal-poller each */
    FAL_PCAP_TPACKET, /* "tpacket:DEVICE": the kernel's packet socket, asked for by name */
    FAL_PCAP_KERNEL,  /* a plain name: whatever libpcap makes of it */
    FAL_PCAP_PFRING,  /* "pfring:DEVICE" */
    FAL_PCAP_ZC,      /* "zc:…", which PF_RING takes whole */
    FAL_PCAP_PFQ,     /* "pfq:DEVICE", "pfq:DEVICE^DEVICE…" */
};

struct fal_pcap_device {
    char name[FAL_PCAP_NAME_SIZE]; /* what to open: "eth0" */
    char key[FAL_PCAP_NAME_SIZE];  /* what configuration calls it: of a virtual device "eth0:1" */
};

struct fal_pcap_name {
    uint32_t engine;  /* enum fal_pcap_engine */
    uint32_t devices; /* 1 .. FAL_MAX_DEVICES */
    struct fal_pcap_device device[FAL_MAX_DEVICES];
};

/* The engine of a word as it stands before the colon, or in PCAP_DRIVER; -1: there is none. */
int fal_pcap_engine_of(const char *word);

/* 0: this library has the engine; -1 and *err EOPNOTSUPP: what is missing. */
int fal_pcap_engine_check(uint32_t engine, struct fal_error *err);

/* text: as the program says it; NULL: "any", as in libpcap.  driver: the engine of plain names, a
 * word of fal_pcap_engine_of; "": the kernel's.  A prefix wins over it.
 *
 * DEVICE:NUMBER is a virtual device: the same device once more, with settings of its own.  A plain
 * name is one only where DEVICE is a network interface: others may end so, too ("nflog:5").
 * 0; -1 and *err: EINVAL an empty name, or too many; ENAMETOOLONG. */
int fal_pcap_name_parse(const char *text, const char *driver, struct fal_pcap_name *out,
                        struct fal_error *err);

#endif
