/* The list of devices, and what is asked of a device by its name.
 * SPDX-License-Identifier: BSD-3-Clause */
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control.h"
#include "handle.h"

/* An entry for a fal-poller that runs.  It is ours to free: libpcap may have another malloc. */
static pcap_if_t *entry_of(const char *name) {
    static const char prefix[] = "fal:";
    pcap_if_t *entry = calloc(1, sizeof *entry);
    char *full = entry ? malloc(sizeof prefix + strlen(name)) : NULL;
    if (!full) {
        free(entry);
        return NULL;
    }
    stpcpy(stpcpy(full, prefix), name);
    entry->name = full;
    entry->description = (char *)(uintptr_t) "served by fal-poller, with fan-out";
    entry->flags = PCAP_IF_UP | PCAP_IF_RUNNING | PCAP_IF_CONNECTION_STATUS_CONNECTED;
    return entry;
}

static int is_ours(const pcap_if_t *entry) {
    return !strncmp(entry->name, "fal:", 4);
}

/* Behind libpcap's own: the first is what a program takes that was told none. */
int pcap_findalldevs(pcap_if_t **list, char *errbuf) {
    char names[FAL_MAX_DEVICES * 8][FAL_NAME_SIZE];
    int result = fal_pcap_real.pcap_findalldevs(list, errbuf);
    if (result < 0)
        return result;
    int n = fal_control_names(names, sizeof names / sizeof *names);
    pcap_if_t **last = list;
    while (*last)
        last = &(*last)->next;
    for (int i = 0; i < n; i++)
        if ((*last = entry_of(names[i])))
            last = &(*last)->next;
    return result;
}

void pcap_freealldevs(pcap_if_t *list) {
    pcap_if_t **place = &list;
    while (*place) {
        pcap_if_t *entry = *place;
        if (is_ours(entry)) {
            *place = entry->next;
            free(entry->name);
            free(entry);
        } else {
            place = &entry->next;
        }
    }
    fal_pcap_real.pcap_freealldevs(list);
}

/* Of a name without an interface, and of several, it is nothing, as of "any". */
int pcap_lookupnet(const char *device, bpf_u_int32 *net, bpf_u_int32 *mask, char *errbuf) {
    struct fal_pcap_name name;
    struct fal_error err;
    if (fal_pcap_name_parse(device, "", &name, &err) < 0 || name.engine == FAL_PCAP_KERNEL)
        return fal_pcap_real.pcap_lookupnet(device, net, mask, errbuf);
    if (name.devices == 1 && if_nametoindex(name.device[0].name))
        return fal_pcap_real.pcap_lookupnet(name.device[0].name, net, mask, errbuf);
    *net = *mask = 0;
    return 0;
}
