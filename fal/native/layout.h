/* The layout of everything that two processes or two languages share, defined once.
 *
 * Plain enough for cffi to take verbatim and for numpy dtypes to be derived from it: fixed-width
 * integers, enums, integer constants.  C includes it through layout_check.h, which adds the static
 * asserts.  All integers are little endian (the host's); sizes and offsets are bytes; positions are
 * offsets, never pointers.  Each field names its only writer:
 *   [P] the polling thread   [C] the control thread of fal-poller   [W] the worker
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_LAYOUT_H
#define FAL_LAYOUT_H

#include <stdint.h>

#define FAL_LAYOUT_VERSION 1

/* ---- maxima ------------------------------------------------------------------------------- */

#define FAL_MAX_POLLERS  32  /* of one fal-poller */
#define FAL_MAX_SOCKETS  256 /* of one fal-poller */
#define FAL_MAX_GROUPS   64  /* numbered groups that live at one time */
#define FAL_MAX_GROUP_ID 65535
#define FAL_MAX_DEVICES  8  /* of one socket */
#define FAL_MAX_RINGS    64 /* of one socket: of all its devices' pollers */
#define FAL_MAX_QUEUES   64 /* receive queues of one device */
#define FAL_MAX_MEMBERS                                                                            \
    512 /* membership records: of sockets, and of memberships left but unread                      \
         */
#define FAL_GROUP_RECORDS 512 /* a socket in no group has a nameless group of its own */
#define FAL_NAME_SIZE     64
#define FAL_ERROR_TEXT    256

/* ---- sizes ([frames] unless said) --------------------------------------------------------- */

#define FAL_RX_RING            4096    /* R: an AF_XDP socket's receive ring, and its frames */
#define FAL_BURST              128     /* B: packets fetched at one time */
#define FAL_TX_FRAMES          1024    /* T: set aside for transmitting */
#define FAL_TX_SLOTS           256     /* of a socket's transmit area */
#define FAL_TX_SLOT_SIZE       4096    /* bytes */
#define FAL_TX_AREA            1052672 /* bytes: a page and the slots */
#define FAL_MIN_SEND           14      /* bytes: an Ethernet header */
#define FAL_DEFAULT_RING       4096    /* C: a socket's ring */
#define FAL_DEFAULT_RINGS      12      /* the default pool holds so many default rings */
#define FAL_MIN_RING           64
#define FAL_MAX_PIECES         32 /* of a packet: an empty ring has room for them, wherever it begins */
#define FAL_MAX_RING           1048576
#define FAL_DEFAULT_FRAME_SIZE 2048 /* bytes */

/* An errno value and one clear line (what, why, what to do); filled in by whoever failed. */
struct fal_error {
    int32_t code;
    char text[FAL_ERROR_TEXT];
};

/* ---- a fan-out: which member of a group gets a packet --------------------------------------
 *
 * Modes and flags have the kernel's numbers (PACKET_FANOUT_*). */

enum fal_mode {
    FAL_MODE_HASH = 0,
    FAL_MODE_LB = 1,
    FAL_MODE_CPU = 2,
    FAL_MODE_ROLLOVER = 3,
    FAL_MODE_RND = 4,
    FAL_MODE_QM = 5,
    FAL_MODE_CBPF = 6
};

#define FAL_FANOUT_ROLLOVER 0x1000 /* a full ring's packets go to another member */
#define FAL_FANOUT_DEFRAG   0x8000 /* all fragments of a datagram go where its first piece went */

/* What the hash is made of.  Without ADDRESSES and MACS it is made of the VLAN alone. */
#define FAL_HASH_ADDRESSES 1
#define FAL_HASH_PORTS     2 /* of TCP, UDP and SCTP */
#define FAL_HASH_PROTOCOL  4
#define FAL_HASH_VLAN      8   /* the outermost tag's id */
#define FAL_HASH_MACS      16  /* in place of addresses; of the frame itself, not of an inner one */
#define FAL_HASH_TCP       32  /* ports and protocol count with TCP alone */
#define FAL_HASH_INNER     64  /* all this of the packet inside a tunnel */
#define FAL_HASH_ICMP      128 /* ... of the packet that an ICMP error quotes */
#define FAL_HASH_FLOW      7   /* the default: ADDRESSES, PORTS, PROTOCOL */

struct fal_fanout {
    uint32_t mode;  /* enum fal_mode */
    uint32_t flags; /* FAL_FANOUT_… */
    uint32_t hash;  /* FAL_HASH_…, of the hash in the descriptors, whatever the mode */
};

/* ---- an instruction of classic BPF (the kernel's sock_filter, libpcap's bpf_insn) ---------- */

#define FAL_BPF_MAX 4096 /* instructions of one program; of all that a fal-poller's groups have */

struct fal_bpf_insn {
    uint16_t code;
    uint8_t jt;
    uint8_t jf;
    uint32_t k;
};

/* ---- a descriptor: one packet, or one piece of it -----------------------------------------
 *
 * A packet that is longer than a frame is a chain: its pieces in order, one behind the other, all
 * alike but for offset, caplen, FIRST and MORE.  It never crosses the ring's end: where it would,
 * SKIP entries fill the ring up, and it begins anew in slot 0. */

#define FAL_DESC_MORE      1 /* another piece of this packet follows */
#define FAL_DESC_FIRST     2 /* the packet's first piece */
#define FAL_DESC_VLAN      4 /* vlan_tci holds the outermost VLAN tag, which also is in the bytes */
#define FAL_DESC_8021AD    8 /* that tag is 802.1ad's (0x88a8) */
#define FAL_DESC_OUTGOING  16 /* sent by this host */
#define FAL_DESC_CSUM_PART 32 /* the L4 checksum is not filled in yet */
#define FAL_DESC_HW_TIME   64 /* ts_ns was taken by the NIC: kept free, no backend sets it yet */
#define FAL_DESC_TRUNCATED 128
#define FAL_DESC_SKIP      256 /* no packet: fills the ring up to its end */

struct fal_desc {
    uint64_t ts_ns;    /* [P] nanoseconds since 1970 UTC */
    uint64_t offset;   /* [P] of the first byte, from the start of the frames */
    uint32_t len;      /* [P] of the whole packet, on the wire */
    uint32_t hash;     /* [P] the flow's */
    uint16_t caplen;   /* [P] bytes that lie at offset */
    uint16_t flags;    /* [P] FAL_DESC_… */
    uint16_t vlan_tci; /* [P] priority, DEI and id of the outermost tag, host order */
    uint16_t queue;    /* [P] the NIC's */
};

/* ---- the arena: one per poller, a sealed memfd, workers map it read-only -------------------
 *
 *   0            struct fal_arena
 *   rings_offset descriptor rings, each: struct fal_ring, then `capacity` struct fal_desc
 *   frames_offset  frame 0, frame 1, …  (frame_size apart)
 */

#define FAL_ARENA_MAGIC 0x4c4146 /* "FAL" */

struct fal_arena {
    uint32_t magic;         /* [C] */
    uint32_t version;       /* [C] FAL_LAYOUT_VERSION, written last; 0: not ready */
    uint64_t size;          /* [C] of the whole segment */
    uint64_t page_size;     /* [C] of the pages that really lie under it */
    uint64_t rings_offset;  /* [C] */
    uint64_t rings_size;    /* [C] */
    uint64_t frames_offset; /* [C] */
    uint64_t frame_size;    /* [C] the stride */
    uint64_t frames;        /* [C] */
    uint64_t pad[8];
    uint64_t transmit_seq; /* [P] odd: the poller sleeps, and wants to be woken by who transmits */
};

/* A ring's head.  Each index has a pair of cache lines for itself (the prefetcher fetches pairs).
 * It is free running: the slot is index & (capacity - 1). */
struct fal_ring {
    uint32_t producer; /* [P] */
    uint32_t pad0[31];
    uint32_t transmitted; /* [P] slots of the socket's transmit area before it are free again */
    uint32_t pad1[31];
};

/* ---- the cursor page: one per socket and fal-poller, all that a worker can write ------------ */

#define FAL_CURSOR_PAGE 4096

struct fal_cursor {
    uint32_t consumer; /* [W] free running, of the ring in the poller with this cursor's index */
    uint32_t pad[15];
};

struct fal_cursor_page {
    uint64_t seq;    /* [W] odd: armed, a wake is wanted */
    uint32_t reader; /* [W] pid of the one process that reads; 0: none yet */
    uint32_t pad0[13];
    struct fal_cursor cursor[FAL_MAX_POLLERS];
    uint8_t pad1[1984];
};

/* ---- the transmit area: one per socket that sends, which a worker can write too -------------
 *
 *   0                   struct fal_transmit
 *   FAL_TX_SLOT_SIZE    slot 0, slot 1, … FAL_TX_SLOTS - 1, each the bytes of one frame
 */

struct fal_transmit {
    uint32_t producer; /* [W] free running */
    uint32_t pad[31];
    uint32_t length[FAL_TX_SLOTS]; /* [W] bytes in each slot */
};

/* ---- the status: POSIX shared memory, whoever may look reads -------------------------------
 *
 * The fixed part is written once, before `version`.  Each poller's part lies under its own sequence
 * number: odd while it is being written; a reader copies and tries again until it met the same even
 * number before and after.  All its counters count packets since the start. */

#define FAL_STATUS_MAGIC 0x53414c46 /* "FLAS" */

enum fal_drop {
    FAL_DROP_RING_FULL = 0, /* the member's ring had no room */
    FAL_DROP_NO_MEMBER = 1, /* the group had no started member */
    FAL_DROPS = 2
};

struct fal_queue_status {
    uint32_t id;
    uint32_t pad;
    uint64_t received;
};

/* received = filtered + delivered + sum(drops).  live: 0 a free record, 1 a living group, 2 ended,
 * but the last packets of a former member are unread. */
struct fal_group_status {
    uint32_t live;
    int32_t id; /* -1: the nameless group of one socket */
    struct fal_fanout fanout;
    uint32_t pad;
    uint64_t received;
    uint64_t filtered;
    uint64_t delivered;
    uint64_t drops[FAL_DROPS];
    uint64_t gone_delivered; /* of members that are gone: delivered = consumed + abandoned */
    uint64_t gone_consumed;
    uint64_t gone_abandoned;
};

/* One socket's membership of one group.  in_ring = delivered - consumed - abandoned.  A record with
 * socket = 0 is free. */
struct fal_member_status {
    uint32_t socket; /* number of the socket, from 1 */
    uint32_t group;  /* index of its group's record */
    int32_t number;  /* -1: admitted, not started; -2: left, but its last packets are unread */
    uint32_t pid;
    uint32_t ring; /* capacity */
    uint32_t pad;
    uint64_t delivered;
    uint64_t consumed;
    uint64_t abandoned; /* lay in its ring when it went, or broke the rules */
    uint64_t dropped;   /* for want of room in its ring */
};

/* One socket's totals, over all groups that it has been in. */
struct fal_socket_status {
    uint64_t delivered;
    uint64_t dropped;
};

struct fal_poller_status {
    uint64_t sequence;
    uint64_t received;
    uint64_t if_dropped; /* at the interface, before the poller saw them */
    uint64_t sent;
    uint64_t send_failed; /* no frame, or refused by the device */
    uint64_t frames_free;
    uint32_t cpu;
    int32_t node;    /* NUMA node of the arena; -1: unknown */
    uint32_t queues; /* records in use of the arrays below: none has more behind these */
    uint32_t groups;
    uint32_t members;
    uint32_t pad[3];
    uint64_t unparsed;       /* packets without IP addresses: steered by their MACs */
    uint64_t defrag_evicted; /* datagrams forgotten before their time: see defrag.h */
    struct fal_queue_status queue[FAL_MAX_QUEUES];
    struct fal_group_status group[FAL_GROUP_RECORDS];
    struct fal_member_status member[FAL_MAX_MEMBERS];
    struct fal_socket_status socket[FAL_MAX_SOCKETS]; /* by number - 1 */
};

struct fal_status {
    uint32_t magic;
    uint32_t version; /* FAL_LAYOUT_VERSION, written last; 0: not ready */
    uint32_t pid;
    uint32_t pollers;
    uint32_t queues;
    uint32_t zero_copy; /* 1: the NIC itself writes into the pool */
    uint32_t max_send;  /* bytes of a frame that can be sent; 0: none can be */
    uint32_t chains;    /* 1: a packet may be longer than a frame, and come in pieces */
    uint64_t hash_seed;
    uint64_t page_size;
    uint64_t frames;
    uint64_t frame_size;
    char name[FAL_NAME_SIZE];
    char device[FAL_NAME_SIZE];
    char backend[FAL_NAME_SIZE];
    char mode[FAL_NAME_SIZE];
    struct fal_poller_status poller[FAL_MAX_POLLERS];
};

#endif
