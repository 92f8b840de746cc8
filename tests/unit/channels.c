/* The paper's functions about channels, each in each way; prints what they come to.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <pcap/fanout.h>
#include <string.h>

static char errbuf[PCAP_ERRBUF_SIZE];

static int said(int result) {
    if (result < 0)
        printf("%d %s\n", result, errbuf);
    else
        printf("%d\n", result);
    strcpy(errbuf, "-");
    return result;
}

static void print(const cpu_set_t *cpus) {
    for (int i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, cpus))
            printf("CPU %d\n", i);
}

int main(void) {
    cpu_set_t cpus, found;
    CPU_ZERO(&cpus);
    CPU_SET(0, &cpus);
    CPU_SET(100, &cpus);
    said(pcap_irq_lookup("eth1", 1, PCAP_COMBINED_CHANNELS, errbuf));
    said(pcap_irq_lookup("eth1", 1, PCAP_RX_CHANNELS, errbuf));
    said(pcap_irq_lookup("eth1", 1, PCAP_TX_CHANNELS, errbuf));
    said(pcap_irq_lookup("eth1", -1, PCAP_TX_CHANNELS, errbuf));
    said(pcap_irq_lookup("eth1", 1, PCAP_OTHER_CHANNELS, errbuf));
    said(pcap_irq_lookup("eth1", 2, PCAP_TX_CHANNELS, NULL));

    said(pcap_channel_setaffinity("eth1", 0, &cpus)); /* as in the paper */
    said(pcap_channel_getaffinity("eth1", 0, &found));
    print(&found);
    said(pcap_irq_getaffinity(44, &found, errbuf)); /* by which channel 0 sends */
    print(&found);
    errno = 0;
    said(pcap_channel_setaffinity("", 0, &cpus));
    printf("%s\n", errno == ENODEV ? "ENODEV" : strerror(errno));

    CPU_ZERO(&cpus);
    CPU_SET(2, &cpus);
    said(pcap_channel_setaffinity("eth1", 0, PCAP_TX_CHANNELS, &cpus, errbuf)); /* as in its code */
    said(pcap_channel_getaffinity("eth1", 0, PCAP_RX_CHANNELS, &found, errbuf));
    print(&found);
    said(pcap_channel_getaffinity("eth1", 0, PCAP_COMBINED_CHANNELS, &found, errbuf));
    print(&found);
    said(pcap_channel_setaffinity("eth1", 2, PCAP_TX_CHANNELS, &cpus, errbuf));

    int (*function)(const char *, int, const cpu_set_t *) = pcap_channel_setaffinity;
    said(function("eth1", 1, &cpus));
    said(pcap_irq_getaffinity(44, &found, errbuf));
    print(&found);
    CPU_SET(3, &cpus);
    said(pcap_irq_setaffinity(44, &cpus, errbuf));
    said(pcap_irq_setaffinity(45, &cpus, errbuf));
}
