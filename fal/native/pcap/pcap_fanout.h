/* pcap/fanout.h: what libfal-pcap adds to libpcap's interface.
 *
 *     pcap_t *p = pcap_open_live("fal:eth0", 65535, 1, 1000, errbuf);
 *     if (!p || pcap_fanout(p, 42, "hash") < 0) …
 *
 * The interface is that of N. Bonelli, F. Del Vigna, S. Giordano, G. Procissi, "Packet Fan-Out
 * Extension for the pcap Library".
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_PCAP_FANOUT_H
#define FAL_PCAP_FANOUT_H

#include <pcap/pcap.h>

#include "channels_api.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Joins a fan-out group: the handle then gets its share of the packets.  group: 0 to 65535; fanout:
 * a mode and flags as `fal modes` lists ("hash", "lb+rollover"), of which the kernel has some; NULL
 * or "": as the group is, "hash" for a new one.
 *
 * Before pcap_activate it is kept until then; after it, it is done at once.  It goes before what
 * configuration says: on devices of fal-poller's until the first read, on the kernel's until
 * activation.  Returns 0; PCAP_ERROR, and pcap_geterr tells: no such group or mode, the group has
 * another, "already in group N", a savefile. */
int pcap_fanout(pcap_t *p, int group, const char *fanout);

#ifdef __cplusplus
}
#endif
#endif
