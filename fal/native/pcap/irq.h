/* The interrupts of a device's channels, and the CPUs that serve them.
 *
 * Which interrupts are a device's is what sysfs says (msi_irqs); what each one is for is what its
 * driver calls it in /proc/interrupts ("eth0-TxRx-0").  A channel has one interrupt, or one for
 * receiving and one for sending, or shares one with all the others.  `root` is put before the paths
 * of /proc and /sys: "", but for tests.
 *
 * Plain enough for cffi to take verbatim.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_PCAP_IRQ_H
#define FAL_PCAP_IRQ_H

#include "channels.h"
#include "error.h"

#define FAL_MAX_CPUS     1024
#define FAL_CPUS_TEXT    4096 /* bytes: room for any list of them */
#define FAL_CHANNEL_IRQS 2

/* A set of CPUs as a cpu_set_t has it: CPU n is bit n % 64 of word n / 64. */
struct fal_cpus {
    uint64_t word[16];
};

/* "0-3,8", as the kernel writes it.  0, or -1 and *err (EINVAL). */
int fal_cpus_parse(const char *text, struct fal_cpus *cpus, struct fal_error *err);
/* The same the other way round, into FAL_CPUS_TEXT bytes; returns `text`. */
const char *fal_cpus_text(const struct fal_cpus *cpus, char *text);

/* The interrupts of channel 0, 1, … by which it receives (PCAP_RX_CHANNELS), sends
 * (PCAP_TX_CHANNELS), or does both (PCAP_COMBINED_CHANNELS, or both bits): `kinds`.  Fills in
 * irqs[FAL_CHANNEL_IRQS], the receiving one first, and returns how many; or -1 and *err: ENODEV no
 * such device, EOPNOTSUPP it is no hardware, or has none that are known, ENOENT none of this
 * channel, ENOTUNIQ they cannot be told from those of another port, EINVAL no such kinds. */
int fal_channel_irqs(const char *root, const char *device, unsigned int channel, unsigned int kinds,
                     unsigned int *irqs, struct fal_error *err);

/* 0, or -1 and *err: ENOENT no such interrupt. */
int fal_irq_getaffinity(const char *root, unsigned int irq, struct fal_cpus *cpus,
                        struct fal_error *err);
/* Sets it if it is another, and reads it back.  Returns 1 if it was changed, 0 if it was so already,
 * or -1 and *err: ENOENT; EINVAL none of these CPUs is online, ERANGE there are not so many; EACCES;
 * EIO the kernel has placed it for good; EBUSY somebody (irqbalance) set it to others at once. */
int fal_irq_setaffinity(const char *root, unsigned int irq, const struct fal_cpus *cpus,
                        struct fal_error *err);

/* The same for all interrupts of a channel: the CPUs of any of them; 1 if one was changed. */
int fal_channel_getaffinity(const char *root, const char *device, unsigned int channel,
                            unsigned int kinds, struct fal_cpus *cpus, struct fal_error *err);
int fal_channel_setaffinity(const char *root, const char *device, unsigned int channel,
                            unsigned int kinds, const struct fal_cpus *cpus, struct fal_error *err);

#endif
