/* What of libpcap's interface has nothing to do with who captures.
 * SPDX-License-Identifier: BSD-3-Clause */
#include "real.h"

#define DEFINE(type, name, parameters, arguments)                                                  \
    type name parameters {                                                                         \
        return fal_pcap_real.name arguments;                                                       \
    }

FAL_PCAP_FORWARDED(DEFINE)
