/* Sleeping and waking: a worker with a ring in each of two pollers, and their bell.
 *
 * What it stands for: arm(), fal_receive(), fal_release_first(), fal_wait() and listen_for_end() in
 * client.c; submit(), ring_bells() and tick() in poller.c; the bell in ring.h.
 *
 * Memory is that of x86 (TSO): a store goes into a buffer of its core, and from there to memory at
 * any later time, while the core's own loads go on; a fence waits until the buffer is empty.
 * What is atomic here loads or stores at most one shared word, or is one system call.
 *
 * Claimed: the worker gets every packet.  A worker that sleeps for ever on a packet, or that is
 * given no edge after a receive that found nothing, is an invalid end state.  After a death it gets
 * all that was published before, then the end.
 *
 * Must fail, each by one definition: NO_POLLER_FENCE, NO_WORKER_FENCE, NO_SECOND_LOOK,
 * DRAINED_LATE, NO_ARM_ON_NOTHING, WOKEN_ALL_THE_SAME, END_BEFORE_PACKETS.
 * SPDX-License-Identifier: BSD-3-Clause */

#ifndef MOST
#define MOST 2
#endif
#define PACKETS(poller) (poller == 0 -> MOST : 1)
#ifndef BELLS
#define BELLS 1 /* 1: the pollers are of one fal-poller; 2: each of its own (two devices) */
#endif

/* How the worker waits: epoll for edges; select, and one packet at a time; fal_wait. */
mtype = { EDGE, LEVEL, BLOCK };

byte producer[2];                        /* fal_ring.producer, in memory */
byte seq[BELLS];                         /* fal_cursor_page.seq, in memory */
chan poller_stores[2] = [1] of { byte }; /* on their way to producer[] */
chan worker_stores = [2] of { bit, byte }; /* on their way to seq[] */

chan wake[BELLS] = [1] of { bit }; /* the wake sockets; full: EAGAIN */
bool again;                        /* the private eventfd */
bool dead;                         /* fal-poller: its connections hang up */
bool edge;                         /* not told yet to an epoll that waits for edges */

#define WOKEN         (dead || len(wake[0]) || len(wake[BELLS - 1]))
#define READABLE      (WOKEN || again)
#define EVENT(happen) happen; edge = true /* each is an edge, whatever was readable before */

active proctype memory() {
    bit bell;
    byte value;
end:
    do
    :: poller_stores[0]?producer[0]
    :: poller_stores[1]?producer[1]
    :: d_step { worker_stores?bell, value -> seq[bell] = value; bell = 0; value = 0 }
    od
}

/* ---- the pollers ---------------------------------------------------------------------------- */

bool short_of_memory; /* in send(), once */

inline ring_bells() {
#ifndef NO_POLLER_FENCE
    empty(poller_stores[me]); /* fal_bell_fence */
#endif
    atomic { /* fal_bell_wanted */
        served = false;
        wanted = (seq[me % BELLS] & 1) && seq[me % BELLS] != woken;
        woken = (wanted -> seq[me % BELLS] : woken)
    }
    if
    :: atomic { wanted && nfull(wake[me % BELLS]) -> EVENT(wake[me % BELLS]!1) }
    :: atomic { wanted && full(wake[me % BELLS]) -> skip } /* EAGAIN: readable already */
    :: atomic { wanted && !short_of_memory ->
            short_of_memory = true;
            served = true;
#ifndef WOKEN_ALL_THE_SAME
            woken = 0
#endif
        }
    :: !wanted
    fi
}

proctype poller(bit me) {
    byte submitted, woken;
    bool served, wanted;
    {
        do
        :: submitted < PACKETS(me) -> /* a burst: forward() */
            atomic { submitted++; poller_stores[me]!submitted; served = true }
            ring_bells()
        :: served -> ring_bells() /* tick() */
        :: submitted == PACKETS(me) && !served -> break
        od
    } unless { dead }
}

/* kill -9, at any time or never.  What a dying core has stored gets to memory. */
active proctype death() {
    if
    :: atomic { empty(poller_stores[0]) && empty(poller_stores[1]) -> EVENT(dead = true) }
    :: skip
    fi
}

/* ---- the worker ----------------------------------------------------------------------------- */

byte next[2], seen[2]; /* of fal_consumer */

inline look() { /* all_empty(): loads every producer index afresh */
    found = producer[0] != next[0];
    found = found || producer[1] != next[1]
}

inline drain() {
    atomic { do :: wake[0]?_ :: empty(wake[0]) -> break od }
#if BELLS == 2
    atomic { do :: wake[1]?_ :: empty(wake[1]) -> break od }
#endif
    again = false
}

inline set_seq(value) {
    atomic { mine = value; worker_stores!0, mine }
#if BELLS == 2
    worker_stores!1, mine
#endif
}

inline arm() {
#ifndef DRAINED_LATE
    drain();
#endif
    set_seq(mine + 1 + (mine & 1));
#ifdef DRAINED_LATE
    drain();
#endif
#ifndef NO_WORKER_FENCE
    empty(worker_stores);
#endif
#ifdef NO_SECOND_LOOK
    found = false;
#else
    look();
#endif
    if
    :: !found && !ended
    :: else ->
        set_seq(mine + 1);
        atomic { EVENT(again = true) }
    fi
}

/* got: how many packets of one ring, `most` at most; they are asked in turn, each once. */
inline fal_receive(most) {
    got = 0;
    do
    :: atomic { !got && asked < 2 ->
            asked++;
            if /* fal_consumer_peek */
            :: seen[turn] == next[turn] -> seen[turn] = producer[turn]
            :: else
            fi;
            got = (seen[turn] - next[turn] < most -> seen[turn] - next[turn] : most);
            next[turn] = next[turn] + got;
            turn = 1 - turn
        }
    :: else -> asked = 0; break
    od
}

inline arm_if_nothing() {
#ifdef NO_ARM_ON_NOTHING
    skip
#else
    if
    :: !got -> arm()
    :: else
    fi
#endif
}

active proctype worker() {
    byte mine, got, asked;
    bit turn;
    bool found, ended;
    arm(); /* fal_attach */
    atomic { run poller(0); run poller(1) }
    do
    :: next[0] == PACKETS(0) && next[1] == PACKETS(1) -> goto over
    :: else
        if
        :: HOW == EDGE ->
            atomic { ended || (edge && READABLE) -> edge = false }
            do
            :: fal_receive(MOST);
                arm_if_nothing();
                if
                :: got
                :: else -> break
                fi
            od
        :: HOW == LEVEL ->
            ended || READABLE;
            fal_receive(1);
            arm_if_nothing();
            look(); /* fal_release_first */
            if
            :: got && !found -> arm()
            :: else
            fi
        :: HOW == BLOCK -> /* fal_wait */
            look();
            if
            :: !found && !ended ->
                arm();
                look();
                if
                :: found
                :: else -> WOKEN
                fi
            :: else
            fi;
            fal_receive(MOST)
        fi;
        if
        :: !ended && dead -> /* listen_for_end */
            ended = true;
            arm()
        :: else
        fi;
        if
        :: ended ->
#ifdef END_BEFORE_PACKETS
            break
#else
            look(); /* what was published before the death comes before the end */
            if
            :: found
            :: else -> break
            fi
#endif
        :: else
        fi
    od;
    assert(next[0] == producer[0] && next[1] == producer[1]);
over:
    skip
}
