/* What DPDK's sides of the fan-out race share: EAL, the port, the hash, and the race itself.  A file says
 * how packets get to the workers (fan_out, take), then ends with this one's main.
 *
 * Compiled with NET_RING the port is a net_ring, into which the workers put the buffers that they have
 * read; else it is net_null, and buffers come from a mempool and go back to it.  With CRC the hash is
 * rte_hash_crc of the sorted endpoints; else it is the same as FAL's.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef BENCH_FANOUT_DPDK_H
#define BENCH_FANOUT_DPDK_H

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_eth_ring.h>
#include <rte_ethdev.h>
#include <rte_ether.h>
#include <rte_hash_crc.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_ip.h>
#include <rte_mbuf.h>
#include <rte_ring.h>

#include "fanout_race.h"
#include "flow.h"

#define LOOK_AHEAD 4
#define CACHE      512 /* buffers that each core keeps of the mempool */

static struct rte_mempool *pool;
static struct rte_ring *back; /* into the net_ring; NULL: buffers go to the pool */
static struct race race;
static uint16_t port;
static uint32_t burst, pauses;

static const uint8_t *bytes_of(const struct rte_mbuf *m) {
    return rte_pktmbuf_mtod(m, const uint8_t *);
}

/* ---- the hash -------------------------------------------------------------------------------- */

#ifdef CRC
static inline uint64_t load64(const uint8_t *at) {
    uint64_t v;
    memcpy(&v, at, sizeof v);
    return v;
}

static inline uint32_t hash_ends(uint64_t a, uint64_t b, uint32_t kind) {
    uint32_t hash = rte_hash_crc_8byte(a < b ? a : b, kind);
    return rte_hash_crc_8byte(a < b ? b : a, hash);
}

static inline uint64_t crc_of_address(const uint8_t *address, uint64_t of_port) {
    uint32_t hash = rte_hash_crc_8byte(load64(address), 0);
    return rte_hash_crc_8byte(load64(address + 8), hash) | of_port << 32;
}

static inline uint32_t ports_at(const uint8_t *at, const uint8_t *end, uint32_t protocol) {
    uint32_t ports;
    if ((protocol != IPPROTO_TCP && protocol != IPPROTO_UDP) || at + sizeof ports > end)
        return 0;
    memcpy(&ports, at, sizeof ports);
    return ports;
}

/* Of both directions of a flow the same: ends are sorted.  No ports of fragments. */
static inline uint32_t hash_of(const struct rte_mbuf *m) {
    const uint8_t *data = bytes_of(m), *end = data + m->data_len, *ip = data + RTE_ETHER_HDR_LEN;
    uint16_t type = ((const struct rte_ether_hdr *)data)->ether_type;
    if (type == RTE_BE16(RTE_ETHER_TYPE_VLAN)) {
        type = ((const struct rte_vlan_hdr *)ip)->eth_proto;
        ip += RTE_VLAN_HLEN;
    }
    if (likely(type == RTE_BE16(RTE_ETHER_TYPE_IPV4)) && ip + sizeof(struct rte_ipv4_hdr) <= end) {
        const struct rte_ipv4_hdr *header = (const struct rte_ipv4_hdr *)ip;
        uint64_t addresses = load64(ip + 12);
        uint32_t ports = 0;
        if (likely(!(header->fragment_offset & RTE_BE16(0x3fff))))
            ports = ports_at(ip + rte_ipv4_hdr_len(header), end, header->next_proto_id);
        return hash_ends((addresses & 0xffffffff) | (uint64_t)(ports & 0xffff) << 32,
                         addresses >> 32 | (uint64_t)(ports >> 16) << 32, header->next_proto_id);
    }
    if (type == RTE_BE16(RTE_ETHER_TYPE_IPV6) && ip + sizeof(struct rte_ipv6_hdr) <= end) {
        uint32_t ports = ports_at(ip + sizeof(struct rte_ipv6_hdr), end, ip[6]);
        return hash_ends(crc_of_address(ip + 8, ports & 0xffff),
                         crc_of_address(ip + 24, ports >> 16), ip[6]);
    }
    return 0;
}
#else
static inline uint32_t hash_of(const struct rte_mbuf *m) {
    struct fal_flow flow;
    fal_flow(bytes_of(m), m->data_len, FAL_HASH_SEED, FAL_HASH_FLOW, &flow);
    return flow.hash;
}
#endif

/* ---- buffers and packets --------------------------------------------------------------------- */

/* Gets a burst, and asks for the first of its packets. */
static inline uint32_t receive(struct rte_mbuf **packet) {
    uint32_t n = rte_eth_rx_burst(port, 0, packet, (uint16_t)burst);
    for (uint32_t i = 0; i < LOOK_AHEAD && i < n; i++)
        rte_prefetch0(bytes_of(packet[i]));
    return n;
}

static inline uint32_t number_of(const uint8_t *data) {
    uint16_t number;
    memcpy(&number, data + PACKET_SIZE - sizeof number, sizeof number);
    return number;
}

/* Reads packets and gives their buffers back. */
static inline void consume(struct rte_mbuf **packet, uint32_t n, struct account *came,
                           uint64_t *bits) {
    for (uint32_t i = 0; i < LOOK_AHEAD && i < n; i++)
        rte_prefetch0(bytes_of(packet[i]));
    for (uint32_t i = 0; i < n; i++) {
        if (i + LOOK_AHEAD < n)
            rte_prefetch0(bytes_of(packet[i + LOOK_AHEAD]));
        read_packet(bytes_of(packet[i]), came, bits);
    }
#ifdef NET_RING
    rte_ring_enqueue_bulk(back, (void *const *)packet, n, NULL); /* it has room for all */
#else
    rte_mempool_put_bulk(pool, (void *const *)packet, n);
#endif
}

/* ---- the race -------------------------------------------------------------------------------- */

static void prepare(void);
static struct account fan_out(void);
static void settle(void); /* again and again, until the workers have all packets */

static void fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, rte_strerror(rte_errno));
    exit(1);
}

static int second_core(void *unused) {
    (void)unused;
    work(&race, burst, pauses);
    return 0;
}

static struct rte_ring *make_ring(const char *name) {
    struct rte_ring *ring = rte_ring_create(name, PACKETS, SOCKET_ID_ANY,
                                            RING_F_SP_ENQ | RING_F_SC_DEQ | RING_F_EXACT_SZ);
    if (!ring)
        fail("rte_ring_create");
    return ring;
}

static void write_packet(struct rte_mempool *of, void *unused, void *object, unsigned number) {
    struct rte_mbuf *m = object;
    (void)of, (void)unused;
    make_packet(rte_pktmbuf_mtod(m, uint8_t *), (uint16_t)(number % PACKETS));
    m->data_len = PACKET_SIZE;
    m->pkt_len = PACKET_SIZE;
}

static void open_port(void) {
    struct rte_eth_conf conf = {0};
#ifdef NET_RING
    back = make_ring("back");
    int opened = rte_eth_from_ring(back);
    if (opened < 0)
        fail("rte_eth_from_ring");
    port = (uint16_t)opened;
#else
    char options[32];
    snprintf(options, sizeof options, "size=%d", PACKET_SIZE);
    if (rte_eal_hotplug_add("vdev", "net_null0", options) ||
        rte_eth_dev_get_port_by_name("net_null0", &port))
        fail("net_null");
#endif
    if (rte_eth_dev_configure(port, 1, 1, &conf) ||
        rte_eth_rx_queue_setup(port, 0, PACKETS, SOCKET_ID_ANY, NULL, pool) ||
        rte_eth_tx_queue_setup(port, 0, PACKETS, SOCKET_ID_ANY, NULL) || rte_eth_dev_start(port))
        fail("cannot start the port");
}

/* All packets lie in buffers; those of a net_ring wait in it. */
static void make_packets(void) {
    struct rte_mbuf *all[PACKETS];
    pool = rte_pktmbuf_pool_create("packets", PACKETS, CACHE, 0, RTE_MBUF_DEFAULT_BUF_SIZE,
                                   SOCKET_ID_ANY);
    if (!pool)
        fail("rte_pktmbuf_pool_create");
    open_port();
    rte_mempool_obj_iter(pool, write_packet, NULL);
    if (back) {
        if (rte_mempool_get_bulk(pool, (void **)all, PACKETS))
            fail("rte_mempool_get_bulk");
        rte_ring_enqueue_bulk(back, (void *const *)all, PACKETS, NULL);
    }
}

static void start_eal(const char *cpu, const char *second) {
    char line[256], *words[16];
    int n = 0;
    snprintf(line, sizeof line,
             "eal --lcores 0@%s,1@%s -m %d --no-pci --no-telemetry --log-level=error %s", cpu,
             second, MEGABYTES, huge_pages() ? "--in-memory" : "--no-huge --no-shconf");
    for (char *word = strtok(line, " "); word; word = strtok(NULL, " "))
        words[n++] = word;
    if (rte_eal_init(n, words) < 0)
        fail("rte_eal_init");
}

int main(int argc, char **argv) {
    if (argc != 4 && argc != 6) {
        fprintf(stderr, "usage: %s BURST PAUSES SECONDS [CPU CPU]\n", argv[0]);
        return 1;
    }
    start_eal(argc == 6 ? argv[4] : "0", argc == 6 ? argv[5] : "1");
    burst = (uint32_t)atoi(argv[1]);
    pauses = (uint32_t)atoi(argv[2]);
    double seconds = atof(argv[3]);
    make_packets();
    prepare();
    if (rte_eal_remote_launch(second_core, NULL, 1))
        fail("rte_eal_remote_launch");
    while (!__atomic_load_n(&race.ready, __ATOMIC_ACQUIRE))
        rte_pause();
    struct account out = {0};
    struct stretch begun = stretch_begin(), took;
    do {
        for (uint32_t i = 0; i < 1024; i++) {
            struct account some = fan_out();
            out.packets += some.packets;
            out.sum += some.sum;
        }
        took = stretch_end(begun);
    } while ((double)took.wall < seconds * 1e9);
    __atomic_store_n(&race.end, out.packets + 1, __ATOMIC_RELEASE);
    while (rte_eal_get_lcore_state(1) == RUNNING)
        settle();
    rte_eal_wait_lcore(1);
    return account(&race, out, took, pool->header_size + pool->elt_size + pool->trailer_size);
}

#endif
