/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One flow, its primary, its secondary, and what the peer sees of them: I1-I3, I5-I7 (SPEC section 2), for every
 * interleaving within the bounds below. It follows docs/protocol.md and userspace/core/{primary,secondary,ownership}.c.
 *
 *     Peer ──input──▶ Primary ══ p2s ══▶ Secondary         World: time, faults, the LAN, HELLO
 *          ◀─output──         ◀═ s2p ══
 *
 * How it is abstracted
 *   pause, delay, cut   Any process may stand still, and any message wait, while the others and the time go on.
 *                       A cut that lasts is a connection that one side gives up: what was on its way is lost.
 *   deadlines           R6, suspicion and silence on the LAN may come at any moment: no value of them is relied on.
 *   lease               Only its order counts: TAKEOVER < HOLD ticks. A LEASE carries what is left of the right to
 *                       take over, counted from the secondary's own sending (L2); the primary echoes it.
 *   packets             Input is numbered 1.. as it came from the peer; each side's L4 is the set of what it got.
 *                       Output is numbered 1..; it goes out in order, so that a count is enough.
 *   termination         Everything is bounded, so each run ends; `settled` says what the end must look like (I5).
 *
 * Bounds and faults (-D); 0 means that it does not happen.
 */
#ifndef IN
#define IN 2 /* packets of the peer's */
#endif
#ifndef OUT
#define OUT 1 /* segments of the application's */
#endif
#ifndef GENERATIONS
#define GENERATIONS 1 /* snapshots */
#endif
#ifndef LEASES
#define LEASES 0 /* LEASE messages of the secondary's in an epoch */
#endif
#ifndef EPOCHS
#define EPOCHS 1 /* connections */
#endif
#ifndef LOSSES
#define LOSSES 0 /* connections that one side gives up */
#endif
#ifndef CRASHES
#define CRASHES 0 /* 1: the primary's power, or its prld alone; 2: the secondary; 3: any of them, once */
#endif
#ifndef REFUSALS
#define REFUSALS 0 /* 1: the secondary may refuse for want of space; 2: also for another reason (it is void then) */
#endif
#ifndef STUCK
#define STUCK 0 /* 1: the secondary forgets an acknowledgement of the flow, and is well otherwise */
#endif
#ifndef WORD
#define WORD 0 /* 1: the primary renounces over the link; 2: or moves by plan, drained */
#endif
#ifndef ISOLATED
#define ISOLATED 0 /* 1: the primary's LAN may be cut, and come back */
#endif
#ifndef FENCING
#define FENCING 0 /* 1: beyond the lease the secondary may have the primary fenced */
#endif
#ifndef ARBITER
#define ARBITER 0 /* 1: a store says who goes on alone (L12); the LAN is parted, and claims do not get over */
#endif
#ifndef RESYNC
#define RESYNC 0 /* 1: after a flap what has missed nothing goes on without a snapshot (L10) */
#endif
#ifndef TAKEOVER
#define TAKEOVER 2
#endif
#ifdef MUTANT_SHORT_HOLD
#define HOLD (TAKEOVER - 1)
#else
#define HOLD (TAKEOVER + 1)
#endif
#define SPEAK 2 /* ticks for which the owner may speak after its word was said */
#define LINK 10 /* messages on the link; asserted to be enough */

mtype = { SETUP, SETUP_DONE, SETUP_REFUSED, REPLICATE, ACK, NACK_SPACE, NACK, OUTPUT, OUTPUT_ACK, OUTPUT_NACK,
          VOID, VOID_ACK, LEASE, COMMIT, REFUSED, RELAY, POSITION, POSITION_END, ERROR, WORD_SAID, WORD_HEARD }
mtype = { RUNS, KERNEL, DEAD }                                /* a node; KERNEL: its prld was killed */
mtype = { P_SETUP, P_ACTIVE, P_VOIDING, P_OPEN, P_GONE, P_MOVED, P_ALONE } /* enum prl_primary_state */
mtype = { S_GONE, S_ACTIVE, S_VOID, S_OWNER, S_SUSPENDED }    /* enum prl_secondary_state */

/* message, number or generation, packet (REPLICATE), end (OUTPUT, OUTPUT_ACK) or what is left of the lease. POSITION, which
 * is RESYNC for one flow, has two numbers in each: PAIR(generation, next input), PAIR(newest refused, next output). */
#define PAIR(high, low) (((high) << 4) | (low))
#define HIGH(pair) ((pair) >> 4)
#define LOW(pair) ((pair) & 15)
chan p2s = [LINK] of { mtype, byte, byte };
chan s2p = [LINK] of { mtype, byte, byte };

/* the primary */
mtype p_node = RUNS, ps = P_OPEN;
bool p_fenced;              /* in its kernel: nothing of the address leaves it */
bool p_up = true;           /* its view of the link */
bool p_cut, p_silent;       /* its LAN is cut; it emits nothing until it has word (L6) */
bool p_void_sent;           /* in this epoch, for this generation */
byte p_may_speak, p_words;  /* ARBITER: ticks of its word that are left, messages of it in this epoch */
bool p_won;                 /* and has been told so */
bool p_by_word;             /* by the other's word: the store is yet to be told */
bool p_says_hello;          /* since its HELLO, until the epoch begins */
bool p_kept, p_awaits;      /* it may go on with its shadow (L10); it is yet to hear in this epoch whether it does */
bool p_draining;            /* a planned move: what is new waits */
byte p_epoch = 1, p_gen, p_hold; /* p_hold: ticks until it may open by itself */
byte in_next, out_next;
chan in_held = [IN + 1] of { byte };  /* numbers are consecutive, the last one is in_next - 1 */
chan in_pending = [IN + 1] of { byte };
chan relayed = [IN + 1] of { byte };  /* P_MOVED: copies of what the new owner was sent */
chan out_held = [OUT + 1] of { byte };
chan out_pending = [OUT + 1] of { byte };
byte p_l4, p_last;          /* input that the primary's L4 got, and the newest of it */
byte snap_l4[GENERATIONS + 1], snap_out[GENERATIONS + 1];

/* the secondary */
mtype s_node = RUNS, ss = S_GONE;
bool s_owner;               /* of the address */
bool s_up = true, s_decided, s_confirmed, s_ack_due, s_out_ack_due;
bool s_gave_up;             /* prl_owner.expired or shadows_void: no take-over by the lease in this epoch any more */
byte s_epoch = 1, s_gen, s_lease, s_leases; /* s_lease: ticks for which it may take over */
byte s_in_next, s_accepted, s_out_next, s_out;
byte s_l4, s_last;
byte s_wait;                /* ARBITER: ticks for which the primary may speak yet */
bool s_won;
bool s_says;                /* it is yet to say in this epoch what its shadow has */
byte s_refused;             /* the newest number that was refused for want of space; 0: none */

/* peer and world */
byte arrived, made, dropped, refused; /* dropped: by the primary; the peer sends such a packet again (as a new one) */
byte peer_acked, peer_out;            /* what the peer learned: input that was acknowledged, output */
byte named;                           /* the record of the store: NOBODY, or who goes on alone */
byte epoch = 1, losses, lan_word;     /* lan_word: epoch in which the secondary said on the LAN that it renounced */
bool crashed, was_stuck, said_owner, p_hello, s_hello;
bool was_cut, opened_alone; /* opened_alone: without the secondary's word, so that the shadow may have missed something */
bool unprotected_move, word_said, word_heard, was_planned;
byte moved_in, moved_out;             /* what had to get over when the primary renounced */
#ifdef MUTANT_ACK_BEFORE_L4
byte s_backlog;
#endif

#define BIT(id) (1 << (id))
#define UPTO(id) ((1 << ((id) + 1)) - 1)
#define WITHIN(small, large) (((small) & ~(large)) == 0)

/* A failed assertion names its property. */
hidden byte I1, I2, I3, I5, I6, I7;
#define MUST(property, what) assert((what) || property)

#define HOLDS_SAME_INPUT (p_l4 == (s_l4 & UPTO(p_last)))
#define HOLDS_COMMITTED (WITHIN(peer_acked, s_l4) && peer_out <= s_out)
#define IS_REPLICATED (ps == P_ACTIVE || ps == P_VOIDING || ps == P_MOVED)
#if ARBITER
#ifdef MUTANT_KERNEL_SPEAKS_ON
#define P_HAS_WORD (p_won || p_may_speak > 0 || p_node == KERNEL)
#else
#define P_HAS_WORD (p_won || p_may_speak > 0)
#endif
#else
#define P_HAS_WORD true
#endif
#define P_SPEAKS (p_node != DEAD && !p_fenced && !p_silent && !p_cut && P_HAS_WORD)

#define NOBODY 0
#define PRIMARY 1
#define SECONDARY 2
#ifdef MUTANT_BOTH_WIN
#define MAY_CLAIM(other) true
#else
#define MAY_CLAIM(other) (named != (other))
#endif

inline put(link, kind, number, value) { assert(nfull(link)); link!kind, number, value }
inline drain(queue) { do :: queue?_ :: len(queue) == 0 -> break od }
inline empty_link(link) { do :: link?_, _, _ :: len(link) == 0 -> break od }

#define NOTHING_WAITS (len(in_held) + len(in_pending) + len(relayed) + len(out_held) + len(out_pending) == 0)

/* ---- the primary ---- */

inline p_feed(id) { /* reinjected; the stack acknowledges it to the peer */
    MUST(I2, id > p_last);
    p_l4 = p_l4 | BIT(id);
    p_last = id;
    peer_acked = peer_acked | BIT(id)
}

inline p_emit(end) { MUST(I2, end == peer_out + 1); peer_out = end }

inline p_feed_all(queue) { do :: queue?id -> p_feed(id) :: len(queue) == 0 -> break od; id = 0 }
inline p_emit_all(queue) { do :: queue?id -> p_emit(id) :: len(queue) == 0 -> break od; id = 0 }

inline p_flush() {
#ifdef MUTANT_FLUSH_ORDER
    p_feed_all(in_pending); p_feed_all(in_held);
#else
    p_feed_all(in_held); p_feed_all(relayed); p_feed_all(in_pending);
#endif
    p_emit_all(out_held); p_emit_all(out_pending)
}

inline p_open() { p_flush(); p_void_sent = false; p_kept = false; p_awaits = false; ps = P_OPEN }

#ifdef MUTANT_VOID_BEFORE_POSITION
#define MAY_SAY_VOID true
#else
#define MAY_SAY_VOID (!p_awaits) /* once it has said so in an epoch, it does not go on in it */
#endif

inline p_send_void() {
    if
    :: p_up && !p_void_sent && MAY_SAY_VOID -> put(p2s, VOID, p_gen, 0); p_void_sent = true
    :: else
    fi
}

/* It does not go on with the shadow that it had (L10). */
inline p_give_up() {
    p_kept = false; p_awaits = false;
    if :: ps == P_ALONE -> p_open() :: else fi
}

/* The lease is over, or the other side has renounced: the shadow is of use as long as nothing passes. */
inline p_open_or_keep() {
    if :: p_kept && NOTHING_WAITS -> ps = P_ALONE :: else -> p_open() fi
}

inline p_passed() {
#ifndef MUTANT_STAYS_ALONE
    if :: ps == P_ALONE -> p_open() :: else fi
#else
    skip
#endif
}

inline p_fail() {
    if
    :: ps == P_SETUP -> p_open() /* the shadow, if there is one, was never confirmed (L4) */
    :: ps == P_ACTIVE ->
       p_draining = false;
#ifdef MUTANT_OPEN_WITHOUT_VOID
       p_open()
#else
       ps = P_VOIDING; p_send_void()
#endif
    :: else
    fi
}

inline p_drop_all() {
    do :: in_held?id -> dropped = dropped | BIT(id) :: len(in_held) == 0 -> break od;
    do :: in_pending?id -> dropped = dropped | BIT(id) :: len(in_pending) == 0 -> break od;
    drain(relayed); /* copies: the new owner has them */
    drain(out_held); drain(out_pending); id = 0
}

inline p_fence() { p_fenced = true; p_drop_all(); ps = P_GONE }

inline p_drain() {
    do :: out_pending?id -> p_output(id) :: len(out_pending) == 0 -> break od;
    do :: in_pending?id -> p_replicate(id) :: len(in_pending) == 0 -> break od;
    id = 0
}

/* Silent first, then the word; what waits is relayed, and kept until the other side has spoken. */
inline p_commit() {
    word_said = true; p_draining = false;
    moved_in = p_l4; moved_out = peer_out + len(out_held);
    number = len(in_held);
    do :: number > 0 -> in_held?id; in_held!id; moved_in = moved_in | BIT(id); number-- :: else -> break od;
    id = 0;
#ifdef MUTANT_WORD_BEFORE_SILENCE
    put(p2s, COMMIT, 0, 0);
#else
    p_fenced = true; ps = P_MOVED;
    put(p2s, COMMIT, 0, 0);
    do :: in_pending?id -> p_relay(id) :: len(in_pending) == 0 -> break od;
    id = 0
#endif
}

inline p_relay(id) {
#ifndef MUTANT_NO_RELAY
    put(p2s, RELAY, 0, id);
#endif
    relayed!id
}

/* It was not taken: all that was kept is ours again. */
inline p_resume(is_void) {
    p_fenced = false;
    if
    :: is_void -> p_open()
    :: else ->
       ps = P_ACTIVE;
       if
       :: len(in_held) + len(out_held) > 0 -> p_fail() /* answers that came meanwhile are lost */
       :: else ->
          do :: relayed?id -> p_replicate(id) :: len(relayed) == 0 -> break od;
          p_drain()
       fi
    fi
}

/* Without the link and without the LAN it may be the one that is cut off (L6). It notices before the LAN is back. */
inline p_hear_lan() {
#ifndef MUTANT_NO_EVIDENCE
    if :: p_cut && !p_up && p_node == RUNS -> p_silent = true :: else fi
#else
    skip
#endif
}

inline p_link_down() {
    if :: p_up -> p_up = false; p_void_sent = false; empty_link(s2p) :: else fi;
    p_awaits = false;
#if RESYNC
    p_kept = p_kept || ps == P_ACTIVE;
#endif
    p_fail()
}

inline p_replicate(id) {
    put(p2s, REPLICATE, in_next, id);
    in_held!id;
    in_next++;
#ifdef MUTANT_ACKNOWLEDGED_BY_PROXY
    peer_acked = peer_acked | BIT(id);
#endif
#ifdef MUTANT_RELEASE_WITHOUT_ACK
    in_held?id; p_feed(id)
#endif
}

inline p_output(end) {
    put(p2s, OUTPUT, out_next, end);
    out_next++;
#ifdef MUTANT_OUTPUT_WITHOUT_COMMIT
    p_emit(end)
#else
    out_held!end
#endif
}

#define FIRST_HELD (in_next - len(in_held))
#define FIRST_OUT_HELD (out_next - len(out_held))

/* All that is held from the number `expected` on goes in front of what waits. */
inline p_again(held, pending, next, expected) {
    number = expected - (next - len(held)); value = len(held) - number; next = expected;
    do :: number > 0 -> held?id; held!id; number-- :: else -> break od;
    number = len(pending);
    do :: value > 0 -> held?id; pending!id; value-- :: else -> break od;
    do :: number > 0 -> pending?id; pending!id; number-- :: else -> break od;
    id = 0
}

#ifdef MUTANT_REFUSED_UNHEARD
#define FITS (p_awaits && !p_fenced)
#else
#define FITS (p_awaits && !p_fenced && HIGH(value) < FIRST_HELD) /* else a NACK was lost with the link */
#endif

/* What the shadow has of it is acknowledged soon; the rest is sent again, and then what came since. */
inline p_go_on() {
    assert(HIGH(number) == p_gen && FIRST_HELD <= LOW(number) && LOW(number) <= in_next &&
           FIRST_OUT_HELD <= LOW(value) && LOW(value) <= out_next);
    ps = P_ACTIVE; p_kept = false; p_awaits = false;
    put(p2s, SETUP_DONE, p_gen, 0);
    from_in = LOW(number); from_out = LOW(value);
    p_again(in_held, in_pending, in_next, from_in);
    p_again(out_held, out_pending, out_next, from_out);
    from_in = 0; from_out = 0;
    p_drain()
}

inline p_release_upto(number) {
    do
    :: len(in_held) > 0 && FIRST_HELD <= number -> in_held?id; p_feed(id)
    :: else -> break
    od;
    id = 0
}

inline p_commit_upto(number, end) {
    do
    :: len(out_held) > 0 && FIRST_OUT_HELD <= number -> out_held?id; assert(id <= end); p_emit(id)
    :: else -> break
    od;
    id = 0
}

inline p_receive(kind, number, value) {
    if
    :: kind == SETUP_DONE ->
       if
#ifdef MUTANT_STALE_SETUP_DONE
       :: ps == P_SETUP ->
#else
       :: ps == P_SETUP && number == p_gen ->
#endif
          ps = P_ACTIVE;
#ifndef MUTANT_NO_CONFIRM
          put(p2s, SETUP_DONE, p_gen, 0);
#endif
          p_drain()
       :: else
       fi
    :: kind == REFUSED -> if :: ps == P_MOVED -> p_resume(false) :: else fi
    :: kind == SETUP_REFUSED -> if :: ps == P_SETUP && number == p_gen -> p_fail() :: else fi
    :: kind == ACK -> if :: ps == P_ACTIVE -> p_release_upto(number) :: else fi
    :: kind == NACK_SPACE ->
       if
       :: ps == P_ACTIVE ->
          p_release_upto(number - 1);
#ifdef MUTANT_NACK_RELEASES
          p_release_upto(number)
#elif defined(MUTANT_LATER_ACK_RELEASES)
          skip /* it stays in the queue */
#else
          in_held?id; dropped = dropped | BIT(id); id = 0
#endif
       :: else
       fi
    :: kind == NACK -> if :: ps == P_ACTIVE -> p_release_upto(number - 1); p_fail() :: else fi
    :: kind == OUTPUT_ACK -> if :: ps == P_ACTIVE -> p_commit_upto(number, value) :: else fi
    :: kind == OUTPUT_NACK -> if :: ps == P_ACTIVE -> p_commit_upto(number - 1, value); p_fail() :: else fi
    :: kind == VOID_ACK -> if :: ps == P_VOIDING && number == p_gen -> p_open() :: else fi
    :: kind == LEASE -> p_hold = HOLD; put(p2s, LEASE, 0, value)
#if ARBITER
    :: kind == WORD_HEARD -> /* in this epoch: the pair is together again */
       if :: value > p_may_speak -> p_may_speak = value :: else fi;
       p_won = false;
       if :: named == PRIMARY -> named = NOBODY :: else fi
#endif
#if RESYNC
    :: kind == POSITION ->
       if
       :: FITS -> p_go_on()
       :: else -> put(p2s, VOID, HIGH(number), 0); if :: ps == P_ACTIVE -> p_fail() :: else -> p_give_up() fi
       fi
    :: kind == POSITION_END -> p_give_up(); if :: ps == P_VOIDING -> p_send_void() :: else fi
    :: kind == ERROR -> if :: ps == P_ACTIVE -> p_fail() :: else fi
#endif
    fi
}

#if defined(MUTANT_OPEN_WITHOUT_LEASE) || defined(MUTANT_OPENS_UNASKED)
#define P_LEASE_OVER true
#elif ARBITER
#define P_LEASE_OVER p_won
#else
#define P_LEASE_OVER (p_hold == 0)
#endif
#ifdef MUTANT_KERNEL_OPENS_AT_ONCE
#define KERNEL_LEASE_OVER true
#else
#define KERNEL_LEASE_OVER (p_hold == 0 && !ARBITER)
#endif

active proctype Primary() {
    mtype kind; byte number, value, id, from_in, from_out;
end:do
    :: atomic { p_node == RUNS && ps == P_OPEN && p_up && !p_fenced && p_gen < GENERATIONS ->
        p_gen++; ps = P_SETUP;
        in_next = 1; out_next = 1;
        snap_l4[p_gen] = p_l4; snap_out[p_gen] = made;
        put(p2s, SETUP, p_gen, 0) }
    :: atomic { p_node == RUNS && p_up && len(s2p) > 0 ->
        s2p?kind, number, value;
        p_receive(kind, number, value); kind = 0; number = 0; value = 0 }
#ifdef MUTANT_NO_TIMEOUT
    :: atomic { p_node == RUNS && ps == P_SETUP -> p_fail() }
#else
    :: atomic { p_node == RUNS && (ps == P_SETUP || (ps == P_ACTIVE && (len(in_held) > 0 || len(out_held) > 0))) ->
        p_fail() } /* R6; the link's silence does the same */
#endif
    :: atomic { p_node == RUNS && ps == P_VOIDING && p_up && !p_void_sent && MAY_SAY_VOID -> p_send_void() }
#if ARBITER
    :: atomic { p_node == RUNS && p_up && p_words < LEASES -> p_words++; put(p2s, WORD_SAID, 0, SPEAK) }
    :: atomic { p_node == RUNS && p_by_word -> p_by_word = false; named = PRIMARY } /* late, maybe */
    :: atomic { p_node == RUNS && !p_up && named == NOBODY -> named = PRIMARY }
    :: atomic { p_node == RUNS && !p_up && !p_won && MAY_CLAIM(SECONDARY) && named != NOBODY -> p_won = true }
#endif
#if RESYNC
    :: atomic { p_node == RUNS && p_kept && (ps == P_VOIDING || ps == P_ALONE) -> p_give_up() } /* too late, or a request */
#endif
    /* The lease of the other side is over (L2); only a link that is down or suspect comes to this. */
#ifndef MUTANT_NEVER_BY_LEASE
#ifdef MUTANT_NO_EVIDENCE
    :: atomic { p_node == RUNS && ps == P_VOIDING && !p_up && P_LEASE_OVER ->
        opened_alone = true; p_open_or_keep() }
#else
    :: atomic { p_node == RUNS && ps == P_VOIDING && !p_up && P_LEASE_OVER && !p_silent && !p_cut ->
        opened_alone = true; p_open_or_keep() }
#endif
#endif
    /* In doubt: after the lease the other side has taken it, and answers probes, or never will. */
#if WORD
#ifdef MUTANT_SPEAKS_AGAIN_AT_ONCE
    :: atomic { p_node == RUNS && ps == P_MOVED && !p_up && !s_owner -> p_resume(true) }
#else
    :: atomic { p_node == RUNS && ps == P_MOVED && !p_up && P_LEASE_OVER && !p_cut && !s_owner -> p_resume(true) }
#endif
    :: atomic { p_node == RUNS && ps == P_ACTIVE && p_up && WORD > 1 && !p_draining && !word_said -> p_draining = true }
    :: atomic { p_node == RUNS && p_draining -> p_draining = false; p_drain() } /* too late, refused … */
    :: atomic { p_node == RUNS && ps == P_ACTIVE && p_up && p_draining &&
               len(in_held) + len(out_held) == 0 -> was_planned = true; p_commit() }
#endif
#if ARBITER
#ifdef MUTANT_WORD_AFTER_HELLO
#define NEEDS_WORD (IS_REPLICATED || !p_won && !p_fenced)
#else
#define NEEDS_WORD ((IS_REPLICATED || !p_won && !p_fenced) && !p_says_hello)
#endif
#else
#define NEEDS_WORD IS_REPLICATED
#endif
#ifdef MUTANT_STALE_LAN_WORD
    :: atomic { p_node == RUNS && ps != P_MOVED && NEEDS_WORD && lan_word != 0 ->
#else
    :: atomic { p_node == RUNS && ps != P_MOVED && NEEDS_WORD && lan_word == p_epoch && !p_cut ->
#endif
        p_link_down(); p_silent = false;
#if ARBITER
        p_won = true; p_by_word = true; /* the word of who cannot take over is as good as the store's */
#endif
        if :: ps == P_VOIDING -> p_open_or_keep() :: else fi }
    :: atomic { p_node == RUNS && p_up && (!s_up && !s_hello || losses < LOSSES) ->
        if :: s_up || s_hello -> losses++ :: else fi;
        p_link_down(); p_hear_lan() }
#if ISOLATED
    /* Nobody answers its probes, and they got out (L6). */
#ifdef MUTANT_SPEAKS_UNASKED
    :: atomic { p_node == RUNS && p_silent && !p_cut && !p_up -> p_silent = false }
#else
    :: atomic { p_node == RUNS && p_silent && !p_cut && !p_up && P_LEASE_OVER && (!s_owner || s_node == DEAD) ->
        p_silent = false }
#endif
#endif
    :: atomic { p_node == RUNS && p_hello ->
        p_hello = false; p_epoch = epoch; p_awaits = p_kept; p_words = 0; p_says_hello = false;
        if
        :: said_owner -> p_fence()
        :: !said_owner && ps == P_MOVED -> p_resume(true) /* its shadow is void: another epoch */
        :: else
        fi;
        p_up = true; p_silent = false }
#if WORD
    :: atomic { p_node == RUNS && ps == P_ACTIVE && p_up && !word_said -> p_commit() }
#endif
    /* prld was killed: the kernel opens when the lease has ended (L9). */
    :: atomic { p_node == KERNEL && !p_fenced && ps != P_OPEN && KERNEL_LEASE_OVER -> opened_alone = true; ps = P_OPEN }
    od
}

/* ---- the secondary ---- */

inline s_feed(id) { MUST(I2, id > s_last); s_l4 = s_l4 | BIT(id); s_last = id }

inline s_void() {
    if :: ss == S_ACTIVE || ss == S_SUSPENDED -> ss = S_VOID; s_ack_due = false; s_out_ack_due = false :: else fi
}

/* The primary may go on alone: void to all but the word that it misses nothing (L10). */
inline s_suspend() {
    if
    :: RESYNC && ss == S_ACTIVE && s_confirmed -> ss = S_SUSPENDED; s_ack_due = false; s_out_ack_due = false
    :: RESYNC && ss == S_SUSPENDED
    :: else -> s_void()
    fi
}

inline s_position() {
    s_says = false;
    if :: ss == S_SUSPENDED -> put(s2p, POSITION, PAIR(s_gen, s_in_next), PAIR(s_refused, s_out_next)) :: else fi;
    put(s2p, POSITION_END, 0, 0)
}

inline s_send_acks() {
    if :: s_ack_due -> put(s2p, ACK, s_accepted, 0); s_ack_due = false :: else fi;
    if :: s_out_ack_due -> put(s2p, OUTPUT_ACK, s_out_next - 1, s_out); s_out_ack_due = false :: else fi
}

inline s_link_down() { if :: s_up -> s_up = false; s_says = false; empty_link(p2s) :: else fi }

#ifdef MUTANT_NO_CONFIRM
#define S_USABLE (ss == S_ACTIVE)
#else
#ifdef MUTANT_TAKE_OVER_VOID
#define S_USABLE ((ss == S_ACTIVE || ss == S_VOID) && s_confirmed)
#elif defined(MUTANT_SUSPENDED_SPEAKS)
#define S_USABLE ((ss == S_ACTIVE || ss == S_SUSPENDED) && s_confirmed)
#else
#define S_USABLE (ss == S_ACTIVE && s_confirmed)
#endif
#endif

/* The address is ours from now on; `by_claim`: the first thing that leaves silences the old owner (L7). */
inline s_take_over(by_claim) {
    s_owner = true; s_decided = false;
    if :: (by_claim || ARBITER) && !S_USABLE -> unprotected_move = true :: else fi;
    if
#ifdef MUTANT_NO_CLAIM
    :: false -> skip
#else
    :: by_claim && p_node != DEAD && s_epoch == p_epoch && !p_cut ->
       p_fence()
#endif
    :: else
    fi;
    if
    :: S_USABLE ->
       MUST(I7, HOLDS_SAME_INPUT && HOLDS_COMMITTED || opened_alone && s_gave_up); /* it missed nothing, but beyond the lease (L5) */
       ss = S_OWNER
    :: else -> s_void()
    fi
}

inline s_receive(kind, number, value) {
    if
    :: kind == SETUP ->
       if
       :: ss != S_OWNER ->
          if
          :: ss = S_ACTIVE; s_gen = number; s_confirmed = false;
             s_in_next = 1; s_out_next = 1; s_accepted = 0;
             s_l4 = snap_l4[number]; s_out = snap_out[number]; s_last = 0; s_refused = 0;
             s_ack_due = false; s_out_ack_due = false;
             put(s2p, SETUP_DONE, number, 0)
#if REFUSALS
          :: put(s2p, SETUP_REFUSED, number, 0)
#endif
          fi
       :: else
       fi
    :: kind == SETUP_DONE ->
       if
       :: ss == S_ACTIVE && s_gen == number -> s_confirmed = true
#if RESYNC
       :: ss == S_SUSPENDED && s_gen == number -> ss = S_ACTIVE; s_ack_due = true; s_out_ack_due = true
#endif
       :: else
       fi
    :: kind == REPLICATE ->
       if
       :: ss != S_ACTIVE -> put(s2p, NACK, number, 0)
       :: ss == S_ACTIVE ->
          assert(number == s_in_next); /* the link keeps order, so a shadow never sees another number */
          s_confirmed = true; s_in_next++;
          if
          :: true ->
             s_accepted = number; s_ack_due = true;
#ifdef MUTANT_ACK_BEFORE_L4
             s_backlog = value
#else
             s_feed(value)
#endif
#if REFUSALS
          :: true -> s_send_acks(); refused = refused | BIT(value); put(s2p, NACK_SPACE, number, 0);
#if RESYNC
             s_refused = number;
#endif
#ifdef MUTANT_REFUSED_BUT_FED
             s_feed(value)
#endif
#endif
#if REFUSALS > 1
          :: true -> s_send_acks(); put(s2p, NACK, number, 0); s_void()
#endif
          fi
       fi
    :: kind == OUTPUT ->
       if
       :: ss != S_ACTIVE -> put(s2p, OUTPUT_NACK, number, s_out)
       :: ss == S_ACTIVE ->
          assert(number == s_out_next && value == s_out + 1);
          s_confirmed = true;
          if
          :: true ->
             s_out_next++; s_out = value; s_out_ack_due = true
#if REFUSALS > 1
          :: true -> s_send_acks(); put(s2p, OUTPUT_NACK, number, s_out); s_void()
#endif
          fi
       fi
    :: kind == VOID ->
       if
       :: ss == S_OWNER /* no word of ours may let the old primary open */
       :: else ->
#ifndef MUTANT_VOID_IGNORED
          if :: s_gen == number -> s_void() :: else fi;
#endif
          put(s2p, VOID_ACK, number, 0)
       fi
    :: kind == LEASE ->
#ifdef MUTANT_LEASE_FROM_RECEIPT
       s_lease = TAKEOVER;
#else
       if :: value > s_lease -> s_lease = value :: else fi;
#endif
#if ARBITER
       s_won = false;
       if :: named == SECONDARY -> named = NOBODY :: else fi
    :: kind == WORD_SAID -> s_wait = SPEAK; put(s2p, WORD_HEARD, 0, value)
#endif
    :: kind == COMMIT ->
       if
#ifdef MUTANT_WORD_WITHOUT_LEASE
       :: !s_owner && !s_gave_up ->
#else
       :: !s_owner && !s_gave_up && s_lease > 0 ->
#endif
          word_heard = true; s_word()
       :: else -> if :: !s_owner -> put(s2p, REFUSED, 0, 0) :: else fi
       fi
    :: kind == RELAY -> if :: ss == S_OWNER -> s_feed(value) :: else fi
    fi
}

/* Word over the link: the old owner was silent first, and knows by the claim that it was heard. */
inline s_word() {
    if
    :: S_USABLE -> MUST(I6, WITHIN(moved_in, s_l4 | refused) && moved_out <= s_out)
    :: else -> unprotected_move = true
    fi;
#ifdef MUTANT_WORD_BEFORE_SILENCE
    s_take_over(false) /* the claim is still on its way */
#else
    s_take_over(true)
#endif
}

#if ARBITER
#ifdef MUTANT_TAKES_AT_ONCE
#define S_LEASE_LASTS s_won
#else
#define S_LEASE_LASTS (s_won && s_wait == 0)
#endif
#define S_FRAME_PASSES true
#elif defined(MUTANT_TAKE_OVER_WITHOUT_LEASE)
#define S_LEASE_LASTS (LEASES > 0)
#define S_FRAME_PASSES true
#else
#define S_LEASE_LASTS (s_lease > 0)
#ifdef MUTANT_NO_DEADLINE
#define S_FRAME_PASSES true
#else
#define S_FRAME_PASSES (s_lease > 0)
#endif
#endif
/* In a pass of the datapath nothing comes between the decision and the take-over but a pause. */
#define S_FREE (s_node == RUNS && !s_decided)

active proctype Secondary() {
    mtype kind; byte number, value, id;
end:do
    :: atomic { S_FREE && s_up && len(p2s) > 0 ->
        p2s?kind, number, value;
        s_receive(kind, number, value); kind = 0; number = 0; value = 0 }
    :: atomic { S_FREE && s_up && (s_ack_due || s_out_ack_due) -> s_send_acks() }
#ifdef MUTANT_WORD_OVERTAKES
    :: atomic { S_FREE && s_up && !s_owner && s_lease > 0 && p2s??[COMMIT, 0, 0] -> word_heard = true; s_word() }
#endif
#if STUCK
    :: atomic { S_FREE && !was_stuck && (s_ack_due || s_out_ack_due) ->
        was_stuck = true; s_ack_due = false; s_out_ack_due = false }
#endif
#ifdef MUTANT_ACK_BEFORE_L4
    :: atomic { S_FREE && s_backlog -> s_feed(s_backlog); s_backlog = 0 }
#endif
    :: atomic { S_FREE && s_up && s_leases < LEASES -> s_leases++; put(s2p, LEASE, 0, TAKEOVER) }
#ifdef MUTANT_LEASE_BY_LAN
    :: atomic { S_FREE && !s_owner && s_lease && P_SPEAKS && p_node == RUNS -> s_lease = TAKEOVER }
#endif
    /* L3: link and LAN have been silent, the lease lasts: decided on the time at which the pass began … */
    :: atomic { S_FREE && !s_owner && !s_gave_up && S_LEASE_LASTS -> s_decided = true }
    /* … and the first frame is checked against the lease again, in tc (L2). */
    :: atomic { s_node == RUNS && s_decided ->
        if
        :: S_FRAME_PASSES -> s_take_over(!ARBITER)
        :: else -> s_decided = false; s_gave_up = true; s_suspend()
        fi;
        s_link_down() }
    /* The lease is over on a silent link: void. The other node is heard on the LAN: void, and say so there. */
    :: atomic { S_FREE && !s_owner && !s_gave_up && P_SPEAKS && p_node == RUNS && LOSSES &&
               (!s_up || losses < LOSSES) ->
        lan_word = s_epoch;
        if :: s_up -> losses++ :: else fi;
#ifndef MUTANT_LAN_WORD_WITHOUT_VOID
        s_gave_up = true; s_suspend();
#endif
        s_link_down() }
#if ARBITER
    :: atomic { S_FREE && !s_up && !s_hello && named == NOBODY -> named = SECONDARY }
    :: atomic { S_FREE && !s_up && !s_hello && !s_won && MAY_CLAIM(PRIMARY) && named != NOBODY -> s_won = true }
    :: atomic { S_FREE && !s_up && !s_owner && !s_gave_up && named == PRIMARY -> s_gave_up = true; s_suspend() }
    :: atomic { S_FREE && s_won && s_gave_up && !s_owner && lan_word != s_epoch -> lan_word = s_epoch } /* it does not need it */
#else
    :: atomic { S_FREE && !s_owner && !s_gave_up && s_lease == 0 && !s_up -> s_gave_up = true }
#endif
#if FENCING
    /* Expired is not void: a primary that is confirmed dead lets the shadow speak (L5). */
#ifdef MUTANT_FENCE_UNCONFIRMED
    :: atomic { S_FREE && !s_owner && s_gave_up && ss == S_ACTIVE && !s_up -> s_take_over(false) }
#else
    :: atomic { S_FREE && !s_owner && s_gave_up && ss == S_ACTIVE && !s_up && p_node == DEAD -> s_take_over(false) }
#endif
#endif
    :: atomic { S_FREE && s_up && (!p_up && !p_hello || losses < LOSSES) ->
        if :: p_up || p_hello -> losses++ :: else fi;
        s_link_down() }
#if RESYNC
    :: atomic { S_FREE && s_up && s_says -> s_position() }
    :: atomic { S_FREE && ss == S_SUSPENDED ->
        s_void();
        if :: s_up -> put(s2p, ERROR, 0, 0) :: else fi } /* nobody has said for long that it misses nothing */
#endif
    :: atomic { S_FREE && s_hello ->
        s_hello = false;
        if
        :: s_owner == said_owner ->
           s_up = true; s_epoch = epoch; s_gave_up = false; s_lease = 0; s_leases = 0;
#if ARBITER
           s_wait = SPEAK;
#endif
#ifndef MUTANT_SHADOW_OF_OLD_EPOCH
           s_suspend()
#endif
           ; s_says = RESYNC
        :: else /* it changed hands during HELLO: not this connection */
        fi }
    od
}

/* ---- peer and application ---- */

active proctype Peer() {
    byte id;
end:do
    :: atomic { arrived < IN && (P_SPEAKS || p_node == RUNS && ps == P_MOVED) ->
        arrived++; id = arrived;
        if
        :: ps == P_MOVED -> if :: p_up -> p_relay(id) :: else -> in_pending!id fi
        :: ps == P_OPEN -> p_feed(id)
        :: ps == P_ALONE && p_node == RUNS -> p_feed(id); p_passed()
        :: ps != P_OPEN && p_node == KERNEL -> dropped = dropped | BIT(id)
        :: ps == P_ACTIVE && !p_draining && p_node == RUNS -> p_replicate(id)
        :: (ps == P_SETUP || ps == P_VOIDING || ps == P_ACTIVE && p_draining) && p_node == RUNS ->
#ifdef MUTANT_NEWER_OVERTAKES
           if :: ps == P_VOIDING -> p_feed(id) :: else -> in_pending!id fi
#else
           in_pending!id
#endif
        fi;
        id = 0 }
    :: atomic { made < OUT && P_SPEAKS && (p_node == RUNS || ps == P_OPEN && peer_out == made) ->
        made++; id = made;
        if
        :: ps == P_OPEN -> p_emit(id)
        :: ps == P_ALONE -> p_emit(id); p_passed()
        :: ps == P_ACTIVE && !p_draining -> p_output(id)
        :: ps == P_SETUP || ps == P_VOIDING || ps == P_ACTIVE && p_draining -> out_pending!id
        fi;
        id = 0 }
    od
}

/* ---- time, faults, HELLO ---- */

#define OF(kind, link) (link??[kind, 0, 1] || link??[kind, 0, 2] || link??[kind, 0, 3])
#if ARBITER
#define UNDER_WAY(link) (OF(LEASE, link) || OF(WORD_SAID, link) || OF(WORD_HEARD, link))
#define AGES (kind == LEASE || kind == WORD_SAID || kind == WORD_HEARD)
#define WORD_LASTS (p_may_speak || s_wait)
#else
#define UNDER_WAY(link) OF(LEASE, link)
#define AGES (kind == LEASE)
#define WORD_LASTS false
#endif

inline age(link) {
    n = len(link);
    do
    :: n > 0 ->
       link?kind, number, value;
       if :: AGES && value -> value-- :: else fi;
       link!kind, number, value;
       n--
    :: else -> break
    od;
    kind = 0; number = 0; value = 0
}

/* How a run must end, when no more faults come. I1: what is still replicated is the same on both sides, in both
 * directions. I5: nothing waits, nothing but what was dropped on both sides is missing, and somebody serves the session.
 * Out of its reach: both nodes dead; an address that moved while this flow was not replicated (L1). */
#define SAME_AT_REST (ss == S_ACTIVE && s_l4 == p_l4 && s_out == peer_out)
#if ARBITER
#define S_SERVES s_owner
#else
#define S_SERVES (p_fenced || p_silent)
#endif
#define SERVED (S_SERVES -> ss == S_OWNER || s_node == DEAD || unprotected_move || p_node == KERNEL && word_said : \
    NOTHING_WAITS && (ps == P_OPEN || ps == P_ACTIVE || ps == P_ALONE) && (p_l4 | dropped) == UPTO(arrived) - 1 && \
    (p_won || p_up || !ARBITER) || p_node == KERNEL && ARBITER)

active proctype World() {
    mtype kind; byte n, number, value, id;
end:do
    :: d_step { s_lease || p_hold || WORD_LASTS || UNDER_WAY(p2s) || UNDER_WAY(s2p) ->
        if :: s_lease -> s_lease-- :: else fi;
        if :: p_hold -> p_hold-- :: else fi;
#if ARBITER
        if :: p_may_speak -> p_may_speak-- :: else fi;
        if :: s_wait -> s_wait-- :: else fi;
#endif
        age(p2s); age(s2p) }
#if ISOLATED
    :: atomic { !was_cut -> was_cut = true; p_cut = true; p_hear_lan() }
    :: atomic { p_cut ->
        p_cut = false;
        if :: p_up && s_owner && s_epoch == p_epoch -> p_fence() :: else fi } /* claims are still fast (L7) */
#endif
#if CRASHES & 1
    :: atomic { !crashed -> crashed = true; p_node = DEAD; p_up = false; p_hello = false; empty_link(s2p) }
    :: atomic { !crashed -> crashed = true; p_node = KERNEL; p_up = false; p_hello = false; empty_link(s2p); p_drop_all() }
#endif
#if CRASHES & 2
    :: atomic { !crashed -> crashed = true; s_node = DEAD; s_up = false; s_hello = false; s_decided = false; empty_link(p2s);
        s_void() }
#endif
    /* A new connection: both have said HELLO; each acts on it when it comes to it. */
    :: atomic { epoch < EPOCHS && !p_up && !s_up && !p_hello && !s_hello && p_node == RUNS && s_node == RUNS &&
               !s_decided ->
        empty_link(p2s); empty_link(s2p);
        epoch++; said_owner = s_owner; p_hello = true; s_hello = true
#if ARBITER
        ; p_says_hello = true
#ifndef MUTANT_WORD_OUTLIVES_HELLO
        ; if :: p_by_word -> p_won = false; p_by_word = false :: else fi
#endif
#ifndef MUTANT_WIN_OUTLIVES_HELLO
        ; if :: lan_word == s_epoch -> s_won = false :: else fi /* it has renounced what it had won */
#endif
#endif
#if !defined(MUTANT_HELLO_KEEPS_SHADOW) && !defined(MUTANT_SHADOW_OF_OLD_EPOCH)
        ; if :: !s_owner -> s_gave_up = true; s_suspend() :: else fi
#endif
        }
    :: timeout ->
        MUST(I5, p_node == DEAD || SERVED);
        /* A planned move loses nothing, what came to the old owner after it included. */
        MUST(I6, !(was_planned && word_heard && ss == S_OWNER && !losses && !crashed) ||
                 WITHIN(UPTO(arrived) - 1, s_l4 | dropped | refused));
        MUST(I1, p_node != RUNS || ps != P_ACTIVE || SAME_AT_REST);
        break
    od
}

/* Never a step of its own: it fires where an invariant is broken. */
active proctype Monitor() {
end:do
    :: IS_REPLICATED && !HOLDS_SAME_INPUT -> MUST(I1, false)
    :: IS_REPLICATED && !HOLDS_COMMITTED -> MUST(I3, false)
    :: s_owner && P_SPEAKS -> MUST(I7, false)
    od
}
