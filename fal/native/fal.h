/* libfal: an abstract active socket.  A worker opens one, attaches it to a device that a fal-poller
 * serves, joins a fan-out group, and receives its share of the packets, in place.
 *
 *     struct fal_error err;
 *     struct fal_batch batch;
 *     struct fal_socket *s = fal_open(0, &err);
 *     if (!s || fal_join(s, 42, "hash", &err) || fal_attach(s, "fal:eth0", &err) ||
 *         fal_start(s, &err))
 *         errx(1, "%s", err.text);
 *     while (fal_wait(s, -1, &err) >= 0)
 *         while (fal_receive(s, 64, &batch) > 0)
 *             for (uint32_t i = 0; i < batch.count; i++)
 *                 work(batch.frames + batch.packets[i].offset, batch.packets[i].caplen);
 *     fal_close(s);
 *
 * Compile with: cc worker.c $(pkg-config --cflags --libs PACKAGE/lib/pkgconfig/libfal.pc), where
 * PACKAGE is what this prints: python -c "import fal; print(*fal.__path__)"
 *
 * Functions that take a struct fal_error fill it in (an errno and one clear line) when they return
 * -1 or NULL; it may be NULL.  A socket is used by one thread at a time; each thread or process may
 * have its own.  After a fork one process reads: the first that does; the other gets EBUSY.
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef FAL_H
#define FAL_H

#include "layout.h"

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

struct fal_socket;

#define FAL_NO_SLOT 0xffffffff

/* Packets of one ring, oldest first.  They may be read until they are released.  Without a filter
 * they are consecutive and lie in the ring itself; with one, `packets` are copies of those that
 * match, and as long as the batch is out those between them are held, too.
 *
 * Where a packet may be longer than a frame (AF_XDP with a large MTU), it can come in pieces, each
 * with a descriptor of its own: FAL_DESC_FIRST is set in the first, FAL_DESC_MORE in all but the
 * last; `len` is the whole packet's in each, caplen the piece's.  A batch has whole packets only,
 * and filters see their first pieces. */
struct fal_batch {
    const struct fal_desc *packets;
    const uint8_t *frames; /* packet i begins at frames + packets[i].offset */
    uint32_t count;        /* descriptors */
    uint32_t whole;        /* packets: as many, unless some have several pieces */
    uint32_t slot;         /* of packets[0] in its ring; FAL_NO_SLOT: they are copies */
    uint32_t ring;         /* whose ring: 0 .. fal_rings() - 1 */
    uint32_t device;       /* which of those that were named in fal_attach, from 0 */
};

/* One ring and the frames that its packets lie in, as mapped (read-only) into this process. */
struct fal_view {
    const struct fal_desc *slots;
    const uint8_t *frames;
    uint64_t frames_size; /* bytes */
    uint32_t capacity;    /* slots */
};

struct fal_stats {
    uint64_t recv;     /* packets put into this socket's ring */
    uint64_t drop;     /* packets for this socket that found its ring full */
    uint64_t ifdrop;   /* packets lost at the interface, whosesoever they would have been */
    uint64_t filtered; /* of recv: given back unseen, since they did not match the filter */
};

/* A socket, attached to nothing.  ring: its capacity in packets, a power of two; 0: the default. */
struct fal_socket *fal_open(uint32_t ring, struct fal_error *err);
/* Leaves everything and frees it all; NULL is let pass.  Sends no message. */
void fal_close(struct fal_socket *s);

/* "fal:NAME", or "fal:NAME^NAME…" for several devices, at most FAL_MAX_DEVICES, each with rings and
 * groups of its own: NAME is the device, or what fal-poller --name says.  The socket is then
 * admitted: it has its ring, and gets packets from fal_start on.  ENOENT, ECONNREFUSED: no such
 * fal-poller runs; ENOSPC: its frames, sockets or groups are all taken; EINVAL: the group has
 * another mode; EISCONN: attached already.
 *
 * "tpacket:DEVICE", or DEVICE: a packet socket of the kernel's, whose groups are the kernel's, too
 * (packet(7), PACKET_FANOUT): they have one device each, are shared with all programs of the network
 * namespace, are joined in fal_start (so their errors come there: then close the socket), and are
 * never left.  ENODEV: no such device; EPERM; EOPNOTSUPP: not in the kernel's fan-out. */
int fal_attach(struct fal_socket *s, const char *device, struct fal_error *err);
int fal_detach(struct fal_socket *s, struct fal_error *err);
int fal_start(struct fal_socket *s, struct fal_error *err);

/* What fal_join asks of the group, classic BPF that is copied: a filter, so that only packets which
 * it matches are for the group's members; the program of mode "cbpf", whose verdict modulo members
 * picks one.  The first member decides.  n instructions, at most FAL_BPF_MAX; 0: none, or as the
 * group has it, which is so until one is set, and after fal_leave.  EINVAL: it cannot be run. */
int fal_set_group_filter(struct fal_socket *s, const struct fal_bpf_insn *program, uint32_t n,
                         struct fal_error *err);
int fal_set_group_program(struct fal_socket *s, const struct fal_bpf_insn *program, uint32_t n,
                          struct fal_error *err);
/* group 0..65535; fanout as in `fal modes`; NULL: as the group is, "hash" for a new one.  Before
 * fal_attach it is kept until then.  EALREADY: in a group already; EINVAL: no such mode, or the
 * group has another, or another filter or program; EOPNOTSUPP: the mode cannot be had; ENOSPC: too
 * many instructions of all groups. */
int fal_join(struct fal_socket *s, int32_t group, const char *fanout, struct fal_error *err);
/* As fal_join, of one of the devices that were named in fal_attach, from 0: each may be in a group
 * of its own. */
int fal_join_device(struct fal_socket *s, uint32_t device, int32_t group, const char *fanout,
                    struct fal_error *err);
/* Out of its groups: the socket gets everything again.  EOPNOTSUPP: a group of the kernel's. */
int fal_leave(struct fal_socket *s, struct fal_error *err);

/* The socket's own filter, run by fal_receive and fal_wait: what does not match (verdict 0) is given
 * back unseen, also what lies in the ring now.  n instructions of classic BPF, at most FAL_BPF_MAX,
 * which are copied; 0: no filter.  -1 and *err: EINVAL it cannot be run, ENOMEM; then it is as it
 * was. */
int fal_setfilter(struct fal_socket *s, const struct fal_bpf_insn *program, uint32_t n,
                  struct fal_error *err);

/* Up to `max` packets without waiting (their pieces count; one that has more of them comes alone);
 * releases the batch before.  Returns batch->count; 0: nothing there; -1 and errno EBUSY: another
 * process reads this socket, ENOTCONN: not attached. */
int fal_receive(struct fal_socket *s, uint32_t max, struct fal_batch *batch);
/* Gives the batch back: its packets may be overwritten from now on. */
void fal_release(struct fal_socket *s);
/* Gives back the first n of the batch (the last of them whole); the others are received again. */
void fal_release_first(struct fal_socket *s, uint32_t n);
/* Copies the packet whose first piece is packets[i], in one piece and at most `size` bytes of it.
 * Returns how many were copied. */
uint32_t fal_copy(const struct fal_batch *batch, uint32_t i, void *to, uint32_t size);

/* Waits until there is something to receive.  timeout in milliseconds, -1: for ever.  1: there is;
 * 0: time is up; -1 and *err: ENODATA the source is over or fal-poller ended, ECONNRESET it died,
 * ENODEV its device is gone, EINTR a signal came.  What lies in the ring is received before any of
 * these but EINTR.  Like fal_receive, it releases the batch before. */
int fal_wait(struct fal_socket *s, int timeout, struct fal_error *err);
/* Makes the fal_wait that goes on now, or else the next, return -1 and EINTR, unless there is
 * something to receive.  For signal handlers, and other threads. */
void fal_interrupt(struct fal_socket *s);

/* Sends a frame, from its Ethernet header on, on the device; returns length.  It is copied, and the
 * poller's from then on (fal-poller counts what the device refuses).  -1 and *err: EAGAIN: too many
 * are waiting to be sent; EMSGSIZE: the device's MTU, or shorter than a header; EOPNOTSUPP: nothing
 * can be sent there; EBUSY: another process uses this socket. */
int fal_inject(struct fal_socket *s, const void *frame, uint32_t length, struct fal_error *err);

/* A descriptor for select, poll and epoll: readable when there is something to receive, or
 * fal-poller is gone (fal_wait with timeout 0 tells). It may be so once too often: then fal_receive
 * returns 0, after which the next packet is a new edge.  It is closed by fal_detach; -1: not
 * attached. */
int fal_fileno(struct fal_socket *s);

/* The present member number; -1: in no group, not started, or the kernel does not tell. */
int32_t fal_member(struct fal_socket *s);
int fal_stats(struct fal_socket *s, struct fal_stats *stats);

/* What is mapped of a ring; it stays so until fal_close or fal_detach and one fal_unpin for each
 * fal_pin. */
struct fal_mapping;
uint32_t fal_rings(struct fal_socket *s);
int fal_view(struct fal_socket *s, uint32_t ring, struct fal_view *view);
struct fal_mapping *fal_pin(struct fal_socket *s, uint32_t ring);
void fal_unpin(struct fal_mapping *mapping);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
#endif
