/* What the pcap library's file and environment say: read once, asked for each device.
 *
 *     # a comment, as a line of its own
 *     caplen = 96
 *     group_DEVICE = 2
 *     fanout@GROUP = hash
 *     irq@DEVICE.CHANNEL = 0, 2-3
 *     > PFQ-Lang, which is the value of fanout
 *
 * The environment goes before the file, and what is said of a device or group before what is said
 * of none.  Plain enough for cffi to take verbatim (declarations and integer constants only).
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_PCAP_CONFIG_H
#define FAL_PCAP_CONFIG_H

#include "names.h"

enum fal_pcap_key {
    FAL_PCAP_GROUP,
    FAL_PCAP_FANOUT,
    FAL_PCAP_FILTER,
    FAL_PCAP_CAPLEN,
    FAL_PCAP_RX_SLOTS,
    FAL_PCAP_CHANNELS, /* to receive by: combined ones where the device has them, else rx */
    FAL_PCAP_RX_CHANNELS,
    FAL_PCAP_TX_CHANNELS,
    FAL_PCAP_COMBINED_CHANNELS,
    FAL_PCAP_OTHER_CHANNELS,
    FAL_PCAP_IRQ,
    FAL_PCAP_CONFIG, /* the file's path */
    FAL_PCAP_DRIVER,
    FAL_PCAP_PFQ_TX_SLOTS, /* this one and those below mean something to PFQ alone */
    FAL_PCAP_PFQ_TX_SYNC,
    FAL_PCAP_PFQ_TX_HW_QUEUE,
    FAL_PCAP_PFQ_TX_IDX_THREAD,
    FAL_PCAP_PFQ_VLAN,
};

/* One line or variable. */
struct fal_pcap_setting {
    uint32_t key;       /* enum fal_pcap_key */
    int32_t index;      /* GROUP of fanout@GROUP, CHANNEL of irq@DEVICE.CHANNEL; -1: none */
    uint32_t number;    /* the value, where it is one */
    const char *device; /* of which it is said; of a variable with all but letters and digits as
                         * "_", or exact; "": of none */
    const char *value;  /* as it is written; a list of CPUs without blanks: "0,2-4" */
    const char *source; /* the file's path, or the variable's name */
    uint32_t line;      /* from 1; 0: a variable */
    uint32_t column;    /* of the value, in bytes, from 1 */
};

/* What they come to for one device.  Strings last as long as the configuration. */
struct fal_pcap_settings {
    int32_t group;      /* -1: none */
    const char *fanout; /* "": as the group is, hash for a new one */
    const char *filter; /* the group's; "": none, or as it has */
    uint32_t caplen;    /* no packet is longer; 0: as the program says */
    uint32_t ring;      /* slots, a power of two; 0: the default */
    const struct fal_pcap_setting *from_group, *from_fanout, *from_filter, *from_caplen,
        *from_ring; /* NULL: nothing says so */
};

struct fal_pcap_config;

/* PCAP_CONFIG, else the first of /etc/pcap.conf and /root/.pcap.conf that exists, and the
 * environment, which is not believed in a set-id program.  NULL and *err, "FILE:LINE:COLUMN: what,
 * and what to do", or the variable's name in front. */
struct fal_pcap_config *fal_pcap_config_read(struct fal_error *err);
void fal_pcap_config_free(struct fal_pcap_config *c);

/* What holds for a device, by the key that fal_pcap_name_parse found ("eth0", virtual "eth0:1"),
 * with an engine of enum fal_pcap_engine.  0; -1 and *err: EINVAL no such fan-out mode, one without
 * a group, or what the engine would not do. */
int fal_pcap_config_for(const struct fal_pcap_config *c, const char *device, uint32_t engine,
                        struct fal_pcap_settings *out, struct fal_error *err);

/* The part of it that a group has: fills in group, fanout and filter for one that a program chose
 * itself. */
int fal_pcap_config_group(const struct fal_pcap_config *c, int32_t group, uint32_t engine,
                          struct fal_pcap_settings *out, struct fal_error *err);

/* PCAP_DRIVER: a word of fal_pcap_engine_of; "": not set. */
const char *fal_pcap_config_driver(const struct fal_pcap_config *c);

/* The i-th setting that holds; those of a file are not among them where a variable goes before
 * them.  NULL: there are no more. */
const struct fal_pcap_setting *fal_pcap_config_setting(const struct fal_pcap_config *c, uint32_t i);

/* -1 and *err EINVAL, where it is said in front, for who finds out only later what is wrong. */
int fal_pcap_setting_wrong(const struct fal_pcap_setting *s, const char *what,
                           struct fal_error *err);

/* Whether it is said of this very device. */
int fal_pcap_setting_names(const struct fal_pcap_setting *s, const char *device);

#endif
