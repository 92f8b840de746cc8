/* How many channels a device has, asked of its driver and set there (ioctl SIOCETHTOOL).
 *
 * Plain enough for cffi to take verbatim.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_PCAP_ETHTOOL_H
#define FAL_PCAP_ETHTOOL_H

#include "channels.h"
#include "error.h"

/* 0, or -1 and *err: ENODEV no such device, EOPNOTSUPP its driver counts no channels. */
int fal_channels_get(const char *device, struct pcap_channels *channels, struct fal_error *err);

/* Sets those counts that `which` (PCAP_…_CHANNELS, a mask) names, in one request, if any is another
 * now.  Returns 1 if they were changed, 0 if they were so already, or -1 and *err: as above, and
 * EINVAL there can be none, or not so many; EPERM; what else the driver says. */
int fal_channels_set(const char *device, const struct pcap_channels *channels, unsigned int which,
                     struct fal_error *err);

/* The kind that receives: PCAP_COMBINED_CHANNELS where the device can have some, else
 * PCAP_RX_CHANNELS; or -1 and *err, as above. */
int fal_channels_receiving(const char *device, struct fal_error *err);

#endif
