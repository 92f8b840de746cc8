/* What configuration asks of a device's channels and interrupts, done.
 *
 * Plain enough for cffi to take verbatim.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_PCAP_TUNE_H
#define FAL_PCAP_TUNE_H

#include "config.h"

/* For a device that is about to be opened, by its own name ("eth0"): channels first, then the CPUs
 * that serve them.  Once a process for each device; what is so already is let be, and what is
 * changed is told to syslog.  root: as in irq.h.  0, or -1 and *err: as ethtool.h and irq.h have
 * it, where it was asked for in front; then the next call tries again.  Any thread may call it. */
int fal_pcap_tune(const char *root, const struct fal_pcap_config *c, const char *device,
                  struct fal_error *err);

#endif
