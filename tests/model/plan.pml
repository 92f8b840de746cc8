/* Joining, moving and leaving: how a new plan gets to the poller, and what becomes of the frames.
 *
 * What it stands for: fal_device_publish() and fal_device_ring() in device.c; take_in_pending(),
 * fal_poller_adopt(), enter(), reclaim(), take_back(), abandon(), book_consumed(), deliver() and
 * submit() in poller.c; Control.open(), move() and close() in control.py; peek and release in
 * ring.h.  One poller stands for all: each has plans and rings of its own.
 *
 * Two sockets, two groups, rings of two slots, a pool of three frames.  A worker may be killed at
 * any time, also while it reads a frame; its ring is then used again.
 *
 * Claimed: the poller never works by a plan that was freed; a frame does not change while it lies
 * in a ring; at the end all are in the pool, none twice; every membership has as many packets
 * booked as consumed as were read of it, and delivered = consumed + abandoned.
 *
 * Must fail, each by one definition: NO_WAIT, USED_AGAIN_AT_ONCE, NOT_TAKEN_BACK, FREED_EARLY,
 * BOOKED_TO_THE_NEWEST.
 * SPDX-License-Identifier: BSD-3-Clause */

#define SLOTS   2
#define FRAMES  3
#define PACKETS 3
#define STEPS   3           /* of the control thread */
#define RECORDS (STEPS + 1) /* of memberships */
#define NONE    255

typedef plan_t { /* struct plan; group: NONE if the socket is not in it */
    bool alive;
    byte group[2];
    byte record[2];
};

typedef ring_t { /* in shared memory; record: whose packet it is, which nobody can see */
    byte producer, consumer;
    byte frame[SLOTS], packet[SLOTS], record[SLOTS];
};

typedef socket_t { /* struct socket_ring: the poller's own */
    byte next, submitted, reclaimed;
    byte frame[SLOTS];
    byte used, membership[RECORDS], left[RECORDS];
};

plan_t plan[2];
byte pending = NONE;
chan taken = [1] of { bit };
bool stop;

ring_t ring[2];
byte content[FRAMES]; /* number of the packet that lies there */
bool attached[2], killed[2];

socket_t sockets[2];
byte references[FRAMES];
bool pooled[FRAMES] = true;
byte delivered[RECORDS], consumed[RECORDS], abandoned[RECORDS]; /* the books */
byte was_read[RECORDS];                                         /* the truth */

/* ---- the poller ----------------------------------------------------------------------------- */

inline take_back(s, n) {
    do
    :: n > 0 ->
        n--;
        frame = sockets[s].frame[sockets[s].reclaimed % SLOTS];
        sockets[s].reclaimed++;
        assert(references[frame] > 0);
        references[frame]--;
#ifdef FREED_EARLY
        pooled[frame] = true;
#endif
        if
        :: references[frame] == 0 -> pooled[frame] = true
        :: else
        fi
    :: else -> break
    od
}

/* Oldest first: `left` packets of each membership but the present one. */
inline book_consumed(s, n) {
    k = n;
    do
    :: sockets[s].used > 1 ->
#ifdef BOOKED_TO_THE_NEWEST
        break
#endif
        i = (k < sockets[s].left[0] -> k : sockets[s].left[0]);
        consumed[sockets[s].membership[0]] = consumed[sockets[s].membership[0]] + i;
        sockets[s].left[0] = sockets[s].left[0] - i;
        k = k - i;
        if
        :: sockets[s].left[0] -> break
        :: else /* close_membership */
        fi;
        sockets[s].used--;
        i = 0;
        do
        :: i < sockets[s].used ->
            sockets[s].membership[i] = sockets[s].membership[i + 1];
            sockets[s].left[i] = sockets[s].left[i + 1];
            i++
        :: else -> break
        od
    :: else -> break
    od;
    i = sockets[s].membership[sockets[s].used - 1];
    consumed[i] = consumed[i] + k;
    i = 0;
    k = 0
}

inline reclaim(s) {
    d_step {
        assert(plan[now].alive);
        if
        :: plan[now].group[s] != NONE ->
            count = ring[s].consumer - sockets[s].reclaimed;
            assert(count <= sockets[s].submitted - sockets[s].reclaimed);
            book_consumed(s, count);
            take_back(s, count)
        :: else
        fi;
        frame = 0
    }
}

inline leave(s) { /* adopt(): a socket that is not in the new plan */
    if
    :: plan[now].group[s] != NONE && plan[next].group[s] == NONE ->
        count = sockets[s].submitted - sockets[s].reclaimed;
#ifndef NOT_TAKEN_BACK
        take_back(s, count);
#endif
        count = 0;
        i = 0;
        do
        :: i < sockets[s].used ->
            k = sockets[s].membership[i];
            abandoned[k] = delivered[k] - consumed[k];
            i++
        :: else -> break
        od;
        sockets[s].used = 0
    :: else
    fi
}

inline enter(s) {
    if
    :: plan[next].group[s] == NONE
    :: else ->
        if
        :: sockets[s].used &&
            sockets[s].membership[sockets[s].used - 1] == plan[next].record[s]
        :: else ->
            sockets[s].membership[sockets[s].used] = plan[next].record[s];
            sockets[s].used++;
            if
            :: sockets[s].used > 1 ->
                k = sockets[s].membership[sockets[s].used - 2];
                sockets[s].left[sockets[s].used - 2] = delivered[k] - consumed[k] - abandoned[k];
                book_consumed(s, 0)
            :: else
            fi
        fi
    fi
}

inline deliver(id) {
    atomic {
        assert(plan[now].alive);
        if /* whichever the mode picks */
        :: plan[now].group[0] == id -> member = 0
        :: plan[now].group[1] == id -> member = 1
        :: plan[now].group[0] != id && plan[now].group[1] != id -> member = NONE /* no_member */
        fi;
        if
        :: member != NONE && sockets[member].next - sockets[member].reclaimed < SLOTS ->
            i = sockets[member].next % SLOTS;
            sockets[member].frame[i] = mine;
            sockets[member].next++;
            references[mine]++;
            ring[member].frame[i] = mine;
            ring[member].packet[i] = packet;
            ring[member].record[i] = plan[now].record[member];
            i = 0
        :: else /* ring_full */
        fi;
        member = 0
    }
}

inline submit(s) {
    d_step {
        assert(plan[now].alive);
        if
        :: plan[now].group[s] != NONE ->
            k = sockets[s].membership[sockets[s].used - 1];
            delivered[k] = delivered[k] + sockets[s].next - sockets[s].submitted;
            k = 0;
            sockets[s].submitted = sockets[s].next;
            ring[s].producer = sockets[s].next
        :: else
        fi
    }
}

proctype poller() {
    byte now, next, packet, mine, member, frame, count, i, k;
    do
    :: pending != NONE -> /* take_in_pending */
        next = pending;
        reclaim(0);
        reclaim(1);
        d_step {
            leave(0);
            leave(1);
            enter(0);
            enter(1);
            now = next;
            next = 0;
            i = 0;
            k = 0;
            frame = 0
        }
        pending = NONE;
#ifndef NO_WAIT
        taken!1;
#endif
        skip
    :: d_step { packet < PACKETS && (pooled[0] || pooled[1] || pooled[2]) ->
            packet++;
            mine = (pooled[0] -> 0 : (pooled[1] -> 1 : 2));
            pooled[mine] = false;
            content[mine] = packet
        }
        reclaim(0);
        reclaim(1);
        deliver(0);
        deliver(1);
        submit(0);
        submit(1);
        d_step {
            if
            :: references[mine] == 0 -> pooled[mine] = true /* nobody wanted it */
            :: else
            fi;
            mine = 0
        }
    :: stop -> break
    od;
    assert(pooled[0] && pooled[1] && pooled[2]);
    i = 0;
    do
    :: i < RECORDS ->
        assert(consumed[i] == was_read[i]);
        assert(delivered[i] == consumed[i] + abandoned[i]);
        i++
    :: else -> break
    od
}

/* ---- the control thread --------------------------------------------------------------------- */

byte current, fresh; /* plan, record */

inline place(s, there) {
    plan[1 - current].group[s] = there;
    plan[1 - current].record[s] = fresh;
    fresh++
}

inline open(s) { /* fal_poller_ring, and its first membership */
    ring[s].producer = 0;
    ring[s].consumer = 0;
    sockets[s].next = 0;
    sockets[s].submitted = 0;
    sockets[s].reclaimed = 0;
    sockets[s].used = 0;
    killed[s] = false;
    place(s, 0)
}

inline publish() {
    pending = 1 - current;
#ifndef NO_WAIT
    taken?1;
#endif
    d_step {
        plan[current].alive = false; /* freed */
        current = 1 - current
    }
}

inline build() { /* from what there is */
    d_step {
        plan[1 - current].alive = true;
        plan[1 - current].group[0] = plan[current].group[0];
        plan[1 - current].group[1] = plan[current].group[1];
        plan[1 - current].record[0] = plan[current].record[0];
        plan[1 - current].record[1] = plan[current].record[1]
    }
}

init {
    byte steps, s;
    d_step {
        plan[0].alive = true;
        plan[0].group[0] = NONE;
        plan[0].group[1] = NONE
    }
    atomic { run poller(); run worker(0); run worker(1) }
    do
    :: steps < STEPS ->
        steps++;
        build();
        if
        :: s = 0
        :: s = 1
        fi;
        if
        :: plan[current].group[s] == NONE ->
            d_step { open(s) }
            publish();
            attached[s] = true
        :: plan[current].group[s] != NONE -> /* join or leave, though it may be dead already */
            d_step { place(s, 1 - plan[current].group[s]) }
            publish()
        :: killed[s] -> /* its connection is closed */
#ifdef USED_AGAIN_AT_ONCE
            d_step { open(s) }
            publish();
            attached[s] = true
#else
            plan[1 - current].group[s] = NONE;
            publish();
            killed[s] = false
#endif
        fi
    :: true -> break
    od;
    s = 0;
    do /* all go, one after the other */
    :: s < 2 && plan[current].group[s] != NONE ->
        killed[s];
        build();
        plan[1 - current].group[s] = NONE;
        publish();
        s++
    :: s < 2 && plan[current].group[s] == NONE -> s++
    :: else -> break
    od;
    stop = true
}

/* ---- a worker of each socket ---------------------------------------------------------------- */

inline unchanged() {
    assert(content[ring[me].frame[read % SLOTS]] == ring[me].packet[read % SLOTS])
}

proctype worker(bit me) {
    byte read;
end:
    do
    :: d_step { attached[me] -> attached[me] = false; read = 0 }
        do
        :: ring[me].producer != read -> /* peek */
            unchanged();
            if
            :: d_step { /* release */
                    unchanged();
                    was_read[ring[me].record[read % SLOTS]]++;
                    read++;
                    ring[me].consumer = read
                }
            :: true -> break
            fi
        :: true -> break
        od;
        killed[me] = true
    od
}
