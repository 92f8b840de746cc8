/* SPDX-License-Identifier: BSD-3-Clause */
#include "irq.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* ---- sets of CPUs ---------------------------------------------------------------------------- */

static int has(const struct fal_cpus *cpus, unsigned long cpu) {
    return cpu < FAL_MAX_CPUS && cpus->word[cpu / 64] >> cpu % 64 & 1;
}

int fal_cpus_parse(const char *text, struct fal_cpus *cpus, struct fal_error *err) {
    const char *p = text;
    *cpus = (struct fal_cpus){0};
    do {
        char *end = NULL;
        unsigned long first = isdigit((unsigned char)*p) ? strtoul(p, &end, 10) : FAL_MAX_CPUS;
        unsigned long last = first;
        if (end && *end == '-' && isdigit((unsigned char)end[1]))
            last = strtoul(end + 1, &end, 10);
        if (!end || (*end && *end != ',' && *end != '\n') || last >= FAL_MAX_CPUS || first > last)
            return fal_fail(err, EINVAL, "'%.64s' is no list of CPUs: write 0-3,8, at most %d",
                            text, FAL_MAX_CPUS - 1);
        for (; first <= last; first++)
            cpus->word[first / 64] |= 1ULL << first % 64;
        p = end + 1;
    } while (p[-1] == ',');
    return 0;
}

const char *fal_cpus_text(const struct fal_cpus *cpus, char *text) {
    char *p = text;
    *p = 0;
    for (unsigned long first = 0; first < FAL_MAX_CPUS; first++) {
        unsigned long last = first;
        if (!has(cpus, first))
            continue;
        while (has(cpus, last + 1))
            last++;
        p += sprintf(p, first == last ? "%s%lu" : "%s%lu-%lu", p == text ? "" : ",", first, last);
        first = last;
    }
    return text;
}

/* ---- which interrupts are whose -------------------------------------------------------------- */

/* What an interrupt is for, by the name that its driver gave it. */
struct action {
    unsigned int irq;
    unsigned int serves;       /* PCAP_RX_CHANNELS, PCAP_TX_CHANNELS, both; 0: no channel */
    unsigned int number;       /* from 0, or from what the driver begins with */
    char owner[FAL_NAME_SIZE]; /* what comes before: "i40e-eth0" */
};

struct actions {
    struct action *action;
    unsigned int count;
};

#define BOTH  (PCAP_RX_CHANNELS | PCAP_TX_CHANNELS)
#define HALF  16 /* of a row whose lower half sends, and whose upper half receives */
#define WHOLE 32 /* one for all channels */

/* What stands between owner and number. */
static const struct {
    const char *word;
    unsigned int serves;
} words[] = {
    {"-Tx-Rx-", BOTH},             /* ena */
    {"-TxRx-", BOTH},              /* bnxt, fbnic, hns3, i40e, iavf, ice, igb, igc, ixgbe, tg3 */
    {"-rxtx-", BOTH},              /* nfp, octeontx2, vmxnet3 */
    {"-fp-", BOTH},                /* bnx2x, qede */
    {"-q", BOTH},                  /* be2net */
    {"_q", BOTH},                  /* mana */
    {"_comp", BOTH},               /* mlx5 */
    {"mlx4-", BOTH},               /* mlx4 */
    {"-rx-", PCAP_RX_CHANNELS},    /* bnxt, e1000e, enic, igb, ixgbe, tg3, vmxnet3 */
    {"-tx-", PCAP_TX_CHANNELS},    /* the same, fbnic */
    {"-Rx", PCAP_RX_CHANNELS},     /* cxgb4 */
    {"-input.", PCAP_RX_CHANNELS}, /* virtio */
    {"-output.", PCAP_TX_CHANNELS},
    {"-virtqueues", WHOLE},
    {"-ntfy-blk", HALF}, /* gve */
    {"-ntfy-block.", HALF},
};

/* "eth0-TxRx-0", "mlx5_comp0@pci:0000:3b:00.0": owner, word, number, and where the device is. */
static struct action parse(unsigned int irq, const char *name) {
    struct action a = {.irq = irq};
    size_t end = strcspn(name, "@"), digits = end;
    while (digits && isdigit((unsigned char)name[digits - 1]))
        digits--;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t size = strlen(words[i].word), owner = digits - size;
        if (size > digits || strncasecmp(name + owner, words[i].word, size) != 0 ||
            owner >= sizeof a.owner || (digits == end) != (words[i].serves == WHOLE))
            continue;
        memcpy(a.owner, name, owner);
        a.number = (unsigned int)strtoul(name + digits, NULL, 10);
        a.serves = words[i].serves;
        break;
    }
    return a;
}

static int add(struct actions *all, struct action action) {
    struct action *more = realloc(all->action, (all->count + 1) * sizeof *more);
    if (!more)
        return -1;
    all->action = more;
    all->action[all->count++] = action;
    return 0;
}

/* A line's names are its last words: "38: 0 7 PCI-MSIX-0000:00:03.0 1-edge eth0-rx-0, eth0-tx-0".
 * An interrupt that nobody has asked for ends with "1-edge". */
static int add_line(struct actions *all, unsigned int irq, char *line) {
    char *rest, *word = strtok_r(line, " \t\n", &rest);
    while (word) {
        char *next = strtok_r(NULL, " \t\n", &rest), *comma = strchr(word, ',');
        if (comma)
            *comma = 0;
        if ((comma || !next) && word[strspn(word, "0123456789")] != '-' &&
            add(all, parse(irq, word)) < 0)
            return -1;
        word = next;
    }
    return 0;
}

/* The interrupts that sysfs has in directory `msi`. */
static int read_actions(const char *root, int msi, struct actions *all, struct fal_error *err) {
    char path[PATH_MAX], *line = NULL;
    size_t size = 0;
    int failed = 0;
    snprintf(path, sizeof path, "%s/proc/interrupts", root);
    FILE *f = fopen(path, "re");
    if (!f)
        return fal_fail(err, errno, "cannot read %s: %s", path, strerror(errno));
    while (!failed && getline(&line, &size, f) > 0) {
        char *number = line + strspn(line, " "), *colon = strchr(number, ':');
        if (!colon || !isdigit((unsigned char)*number))
            continue;
        *colon = 0;
        if (faccessat(msi, number, F_OK, 0) == 0)
            failed = add_line(all, (unsigned int)strtoul(number, NULL, 10), colon + 1) < 0;
    }
    free(line);
    fclose(f);
    return failed ? fal_fail(err, ENOMEM, "no memory for the names of interrupts") : 0;
}

/* Opens sysfs's list of the device's interrupts. */
static int open_msi(const char *root, const char *device, struct fal_error *err) {
    char path[PATH_MAX], where[PATH_MAX] = "";
    if (!*device || strlen(device) >= IFNAMSIZ || strchr(device, '/') || *device == '.')
        return fal_fail(err, ENODEV, "no device %.64s (see: ip link)", device);
    snprintf(path, sizeof path, "%s/sys/class/net/%s", root, device);
    if (access(path, F_OK) < 0)
        return fal_fail(err, ENODEV, "no device %s in %s/sys/class/net", device, root);
    strcat(path, "/device");
    if (readlink(path, where, sizeof where - 1) < 0)
        return fal_fail(err, EOPNOTSUPP, "%s is no hardware: its channels have no interrupts",
                        device);
    /* a virtio device lies in the PCI device that has them; another's parent is a bridge */
    const char *slash = strrchr(where, '/');
    strcat(path, strncmp(slash ? slash + 1 : where, "virtio", 6) ? "/msi_irqs" : "/../msi_irqs");
    int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? fal_fail(err, EOPNOTSUPP, "%s has no message-signalled interrupts", device)
                  : fd;
}

/* Whether an owner is this device: "eth1" is neither "eth10" nor "veth1", but "i40e-eth1". */
static int is_of(const char *owner, const char *device) {
    size_t n = strlen(owner), size = strlen(device);
    return n >= size && !strcmp(owner + n - size, device) &&
           (n == size || owner[n - size - 1] == '-');
}

/* Whether a driver keeps these queues for itself: "i40e-0000:3b:00.0:fdir-TxRx-0". */
static int is_inner(const char *owner) {
    const char *colon = strrchr(owner, ':');
    return colon && isalpha((unsigned char)colon[1]);
}

/* Leaves those of the device's channels.  Interrupts keep the name that the device had when it was
 * set up; then all that sysfs has are its own, unless several ports share one PCI function. */
static int choose(const char *device, struct actions *all, struct fal_error *err) {
    const char *owner = NULL;
    unsigned int n = 0, named = 0;
    for (unsigned int i = 0; i < all->count; i++)
        named |= all->action[i].serves && is_of(all->action[i].owner, device);
    for (unsigned int i = 0; i < all->count; i++) {
        struct action a = all->action[i];
        if (all->count == 1 && !a.serves)
            a.serves = WHOLE; /* a plain device's only one, named as it */
        if (!a.serves || (named ? !is_of(a.owner, device) : is_inner(a.owner)))
            continue;
        if (!named && n && strcmp(owner, a.owner) != 0)
            return fal_fail(err, ENOTUNIQ,
                            "%s shares its hardware with another port: set it down and up, so that "
                            "its interrupts are called by its name",
                            device);
        all->action[n] = a;
        owner = all->action[n++].owner;
    }
    all->count = n;
    return n ? 0
             : fal_fail(err, EOPNOTSUPP,
                        "no interrupt of %s is known to serve a channel (is it up?)", device);
}

static void deal_halves(struct actions *all) {
    unsigned int n = 0;
    for (unsigned int i = 0; i < all->count; i++)
        n += all->action[i].serves == HALF;
    for (struct action *a = all->action; a < all->action + all->count; a++)
        if (a->serves == HALF)
            a->serves = a->number < n / 2 ? PCAP_TX_CHANNELS : PCAP_RX_CHANNELS;
}

static int has_queue(const char *root, const char *device, unsigned int number) {
    char rx[PATH_MAX], tx[PATH_MAX];
    snprintf(rx, sizeof rx, "%s/sys/class/net/%s/queues/rx-%u", root, device, number);
    snprintf(tx, sizeof tx, "%s/sys/class/net/%s/queues/tx-%u", root, device, number);
    return access(rx, F_OK) == 0 || access(tx, F_OK) == 0;
}

/* The one that serves a channel so; NULL: none does.  Some drivers count from 1, or on from another
 * kind: channel 0 has the lowest number. */
static const struct action *find(const struct actions *all, unsigned int serves,
                                 unsigned int channel) {
    unsigned int lowest = UINT_MAX;
    for (unsigned int i = 0; i < all->count; i++)
        if (all->action[i].serves & serves && all->action[i].number < lowest)
            lowest = all->action[i].number;
    for (unsigned int i = 0; i < all->count; i++)
        if (all->action[i].serves & serves && all->action[i].number - lowest == channel)
            return &all->action[i];
    return NULL;
}

static int pick(const char *root, const char *device, const struct actions *all,
                unsigned int channel, unsigned int kinds, unsigned int *irqs) {
    static const unsigned int ways[FAL_CHANNEL_IRQS] = {PCAP_RX_CHANNELS, PCAP_TX_CHANNELS};
    int n = 0;
    if (all->action[0].serves == WHOLE) {
        *irqs = all->action[0].irq;
        return has_queue(root, device, channel);
    }
    for (int i = 0; i < FAL_CHANNEL_IRQS; i++) {
        const struct action *a = kinds & ways[i] ? find(all, ways[i], channel) : NULL;
        if (a && !(n && irqs[0] == a->irq))
            irqs[n++] = a->irq;
    }
    return n;
}

int fal_channel_irqs(const char *root, const char *device, unsigned int channel, unsigned int kinds,
                     unsigned int *irqs, struct fal_error *err) {
    struct actions all = {0};
    int n = -1;
    if (kinds & PCAP_COMBINED_CHANNELS)
        kinds |= BOTH;
    if (!(kinds & BOTH) || kinds & ~(unsigned)(BOTH | PCAP_COMBINED_CHANNELS))
        return fal_fail(err, EINVAL, "interrupts are known of rx, tx and combined channels only");
    int msi = open_msi(root, device, err);
    if (msi < 0)
        return -1;
    if (read_actions(root, msi, &all, err) == 0 && choose(device, &all, err) == 0) {
        deal_halves(&all);
        n = pick(root, device, &all, channel, kinds, irqs);
        if (n == 0)
            n = fal_fail(err, ENOENT, "%s has no%s channel %d that has an interrupt", device,
                         kinds & PCAP_COMBINED_CHANNELS ? ""
                         : kinds == PCAP_RX_CHANNELS    ? " receiving"
                                                        : " sending",
                         (int)channel);
    }
    free(all.action);
    close(msi);
    return n;
}

/* ---- the CPUs that serve them ---------------------------------------------------------------- */

static const char *affinity_path(const char *root, unsigned int irq, char *path) {
    snprintf(path, PATH_MAX, "%s/proc/irq/%u/smp_affinity_list", root, irq);
    return path;
}

int fal_irq_getaffinity(const char *root, unsigned int irq, struct fal_cpus *cpus,
                        struct fal_error *err) {
    char path[PATH_MAX], text[FAL_CPUS_TEXT] = "";
    int fd = open(affinity_path(root, irq, path), O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fal_fail(err, errno, "no interrupt %u: cannot open %s: %s", irq, path,
                        strerror(errno));
    ssize_t size = read(fd, text, sizeof text - 1);
    int error = errno;
    close(fd);
    if (size < 0)
        return fal_fail(err, error, "cannot read %s: %s", path, strerror(error));
    return fal_cpus_parse(text, cpus, err);
}

static int write_affinity(const char *root, unsigned int irq, const char *text,
                          struct fal_error *err) {
    char path[PATH_MAX];
    int fd = open(affinity_path(root, irq, path), O_WRONLY | O_TRUNC | O_CLOEXEC);
    int failed = fd < 0 || write(fd, text, strlen(text)) < 0;
    int error = errno;
    if (fd >= 0)
        close(fd);
    if (!failed)
        return 0;
    return fal_fail(err, error, "cannot have interrupt %u served by CPU %.64s: %s", irq, text,
                    error == EINVAL   ? "none of them is online"
                    : error == ERANGE ? "the machine has not so many"
                    : error == EIO    ? "its driver has the kernel place it"
                                      : strerror(error));
}

int fal_irq_setaffinity(const char *root, unsigned int irq, const struct fal_cpus *cpus,
                        struct fal_error *err) {
    struct fal_cpus now;
    char text[FAL_CPUS_TEXT];
    if (!*fal_cpus_text(cpus, text))
        return fal_fail(err, EINVAL, "no CPU is named that is to serve interrupt %u", irq);
    if (fal_irq_getaffinity(root, irq, &now, err) < 0)
        return -1;
    if (!memcmp(&now, cpus, sizeof now))
        return 0;
    if (write_affinity(root, irq, text, err) < 0 || fal_irq_getaffinity(root, irq, &now, err) < 0)
        return -1;
    if (memcmp(&now, cpus, sizeof now) != 0)
        return fal_fail(err, EBUSY, "interrupt %u went to other CPUs than %.64s (stop irqbalance)",
                        irq, text);
    return 1;
}

int fal_channel_getaffinity(const char *root, const char *device, unsigned int channel,
                            unsigned int kinds, struct fal_cpus *cpus, struct fal_error *err) {
    unsigned int irqs[FAL_CHANNEL_IRQS];
    int n = fal_channel_irqs(root, device, channel, kinds, irqs, err);
    *cpus = (struct fal_cpus){0};
    for (int i = 0; i < n; i++) {
        struct fal_cpus one;
        if (fal_irq_getaffinity(root, irqs[i], &one, err) < 0)
            return -1;
        for (int k = 0; k < FAL_MAX_CPUS / 64; k++)
            cpus->word[k] |= one.word[k];
    }
    return n < 0 ? -1 : 0;
}

int fal_channel_setaffinity(const char *root, const char *device, unsigned int channel,
                            unsigned int kinds, const struct fal_cpus *cpus,
                            struct fal_error *err) {
    unsigned int irqs[FAL_CHANNEL_IRQS];
    int n = fal_channel_irqs(root, device, channel, kinds, irqs, err), changed = 0;
    for (int i = 0; i < n; i++) {
        int one = fal_irq_setaffinity(root, irqs[i], cpus, err);
        if (one < 0)
            return -1;
        changed |= one;
    }
    return n < 0 ? -1 : changed;
}
