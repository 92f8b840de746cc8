/* The channels of a device, as in ethtool -l: its hardware queues, counted by what they do.
 *
 * Plain enough for cffi to take verbatim.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef PCAP_CHANNELS_H
#define PCAP_CHANNELS_H

struct pcap_channels {
    unsigned int rx_count;       /* that only receive */
    unsigned int tx_count;       /* that only send */
    unsigned int other_count;    /* for anything else: the link, the management of the device */
    unsigned int combined_count; /* that do both */
};

/* Which of them: a mask. */
#define PCAP_RX_CHANNELS       1
#define PCAP_TX_CHANNELS       2
#define PCAP_COMBINED_CHANNELS 4
#define PCAP_OTHER_CHANNELS    8
#define PCAP_ALL_CHANNELS      15

#endif
