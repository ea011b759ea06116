/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Who may speak for a service address, who may open (section 6: L1–L6): lease, detection, evidence and roles, pure.
 *
 * Both nodes send LEASE every lease_ms and echo the newest one received. All times are the caller's
 * CLOCK_BOOTTIME in ns; the other node's are echoed, and compared with nothing but each other.
 *
 *     secondary may take over    until  (own send time that was echoed last) + takeover_ms
 *     primary may open           after  (time at which it last sent an echo) + hold_ms,   hold_ms > takeover_ms
 *
 * The clock of a machine that is paused as a whole may stand still, and with it the secondary's lease. So the lease ends by
 * the primary's clock, too: all that it sends, on link and LAN, says when, and how long that was after its newest echo.
 *
 * A LEASE that reached the primary is echoed by a message that leaves after it; so if the secondary can still take
 * over at T, the primary echoed at or after T - takeover_ms and does not open before T - takeover_ms + hold_ms > T.
 *
 *               owner's word / nobody answers      renounce(), void lease
 *     NONE ─────────────────────────────▶ OWNER ───────────────────────────▶ FENCED ─┐
 *       └──────── the other owns ───────▶ STANDBY ◀──── the other owns (HELLO) ──────┘
 *                                            └── takeover ──▶ OWNER
 *
 * An OWNER may be silent all the same (L6): it emits nothing and opens nothing, but its sessions live, until the other
 * node has said on the link that it did not take over, or nobody answers for the address on a LAN that answers.
 *
 * Who takes over by its lease hears the LAN at that moment, for its claim must reach the owner that may be alive, and for
 * long enough not to have missed that one's LAN heartbeats, if the lease lasts as long; an owner whose link does not answer must hear it, too, from the moment on at which it may be replaced.
 *
 * When the lease is over the shadows stay as they are, but they are expired: only a primary that is confirmed dead lets
 * them speak (L5). They are void at the next word of the other node: VOID, a LAN heartbeat, HELLO.
 *
 * With an arbiter (L12) the lease decides nothing, and evidence of the LAN permits nothing:
 *
 *     owner speaks         until  (own send time that was echoed last) + suspect_ms, or for as long as it has won
 *     secondary may speak  after  suspect_ms of silence, once it has won
 *
 * What the owner's echoed message was sent before, the secondary heard after. So the first ends before the second begins, and
 * of two that ask one wins. The kernel keeps the first by itself (speak_by_ns in struct prl_node).
 */
#ifndef PRL_CORE_OWNERSHIP_H
#define PRL_CORE_OWNERSHIP_H

#include "core/arbiter.h"

#define PRL_SERVICES_MAX 16
#define PRL_OWNER_PATHS 2 /* enum prl_probe_path */
/* Questions that a dead kernel has left unanswered on a path (L3a): one may be lost, and each shows that this node ran. */
#define PRL_OWNER_UNANSWERED 3
/* A path that has left so many unanswered is asked no more often than heartbeats go. */
#define PRL_OWNER_HURRY 16
/* Without the link, who owns a service asks its neighbours on the LAN so often whether they hear it: lease_ns while
 * something waits for the answer, this otherwise. */
#define PRL_OWNER_ASK_NS 100000000ull
/* An owner with a link and no LAN tries to hand over again after that, twice that, and so on, doubled so often: sessions that
 * have just come are protected in between. */
#define PRL_OWNER_HAND_OVER_NS 100000000ull
#define PRL_OWNER_HAND_OVER_DOUBLINGS 3
/* So long the other node's silence at the beginning of an epoch may only be its HELLO's. */
#define PRL_OWNER_BEGIN_NS 400000000ull

enum prl_owner_state { /* values as enum prl_addr_state */
                       PRL_OWNER_NONE = 0,
                       PRL_OWNER_STANDBY = 1,
                       PRL_OWNER_OWNER = 2,
                       PRL_OWNER_FENCED = 3,
};

/* Why an owner is silent (L6). */
enum prl_silence {
    PRL_SILENCE_NOT = 0,
    PRL_SILENCE_NO_LAN = 1, /* no link, and nobody on the LAN was heard when it counted */
    PRL_SILENCE_FROZEN = 2, /* it was stopped for so long that it may have been replaced */
    PRL_SILENCE_STOP = 3, /* no link, policy stop: the other node may take over at any time (L5) */
    PRL_SILENCE_ARBITER =
        4, /* the arbiter has not said that this node goes on alone, or that the other does (L12) */
};

enum prl_link_state {
    PRL_LINK_DOWN = 0,
    PRL_LINK_UP = 1,
    PRL_LINK_SUSPECT = 2, /* connected, but silent for longer than suspect_ms */
};

struct prl_owner_config {
    uint64_t lease_ns; /* interval of LEASE */
    uint64_t suspect_ns;
    uint64_t takeover_ns;
    uint64_t hold_ns;
    uint64_t late_ns; /* own tick later than this: the detector was not running (L3) */
    uint64_t probe_ns; /* interval of probes, half of it while one is unanswered (L3a); 0: none are sent */
    uint64_t dead_ns; /* a kernel that has not answered for so long is dead */
    uint64_t hung_ns; /* a datapath that has had no pass for so long counts as dead, though its kernel answers */
    uint32_t services;
    uint32_t policy_stop; /* 1: the primary never opens by itself (L5); agreed in HELLO */
    uint32_t witnessed; /* 1: of two nodes that are cut off from each other, one alone hears the LAN (L6) */
    struct prl_arbiter_config arbiter;
};

/* What is to be done; bits, so that one event can ask for several: SILENCE, SPEAK, FAIL_FLOWS and VOID_SHADOWS come
 * before OPEN_FLOWS, RENOUNCE_LAN and TAKEOVER; the caller answers DROP_LINK with link_down(). */
enum prl_owner_do {
    PRL_OWNER_DO_LEASE = 1 << 0, /* send LEASE now (and the LAN heartbeat) */
    PRL_OWNER_DO_TAKEOVER = 1 << 1, /* services in `take_mask` are ours from now on */
    PRL_OWNER_DO_RENOUNCE_LAN = 1 << 2, /* tell the other node over the LAN that it may open at once */
    PRL_OWNER_DO_FAIL_FLOWS = 1 << 3, /* as primary: replication is over, flows become VOIDING */
    PRL_OWNER_DO_OPEN_FLOWS = 1
        << 4, /* as primary: the other side's lease has ended, void_done() for VOIDING flows */
    PRL_OWNER_DO_VOID_SHADOWS = 1 << 5, /* as secondary: every shadow is void (lease over, or renounced) */
    PRL_OWNER_DO_DROP_LINK = 1 << 6, /* give the connection up; a new epoch follows */
    PRL_OWNER_DO_SILENCE = 1 << 7, /* emit nothing for any service; `silence` says why (L6) */
    PRL_OWNER_DO_SPEAK = 1 << 8, /* that is over */
    PRL_OWNER_DO_EXPIRE = 1 << 9, /* as secondary: the lease is over; only fencing lets the shadows speak (L5) */
    PRL_OWNER_DO_HAND_OVER = 1
        << 11, /* as owner: move what is ours to the other node, which may hear the LAN (L11) */
    PRL_OWNER_DO_PROBE = 1
        << 13, /* ask the other node's kernel by the paths in probe_mask: prl_owner_take_probe() */
    PRL_OWNER_DO_ASK = 1 << 10, /* ask the neighbours on the LAN; prl_owner_frame() when one is heard (L6) */
    PRL_OWNER_DO_ARBITRATE = 1 << 12, /* ask the arbiter, or tell it (`seizes`); prl_owner_arbitrated() (L12) */
};

/* What the other node's kernel answered to a probe (L3a). */
struct prl_answer {
    uint32_t path;
    bool leases; /* as good as an echo of the probe */
    uint64_t sent_ns; /* when the probe was sent */
    uint64_t at_ns; /* when it was answered, by the other's clock */
    uint64_t pass_ns; /* how long ago its datapath had its last pass then */
    uint64_t known_ns; /* the newest of its answers that it knows this node has had; 0 = none */
};

/* Of this epoch, 0 = never in it; times of answers are those at which they came. */
struct prl_owner_probes {
    bool on; /* both nodes can, and may */
    bool
        mutual; /* the other node knows that its kernel is heard, and for how short a time it may then be silent */
    uint32_t unanswered[PRL_OWNER_PATHS]; /* probes since the newest answer, but the last one */
    uint64_t sent_ns[PRL_OWNER_PATHS], answered_sent_ns[PRL_OWNER_PATHS], answered_ns[PRL_OWNER_PATHS];
    uint64_t at_ns; /* of the newest answer, by the other's clock */
    uint64_t pass_ns; /* when the other's datapath had its last pass, by the newest answer, in this node's clock */
    uint64_t ran_ns; /* since when it is known to have had one since anything came by the link; 0 = it has not */
    /* what this node's own kernel was asked */
    uint64_t renewed_ns; /* when it last renewed the other node's lease */
    uint64_t confirmed_ns; /* of its answers, the newest that the other is known to have had */
    uint64_t lan_probed_ns; /* when the other last asked by the LAN */
};

struct prl_owner {
    struct prl_owner_config config;
    struct prl_owner_probes probes;
    uint32_t probe_mask;
    uint8_t state[PRL_SERVICES_MAX]; /* enum prl_owner_state */
    uint8_t link; /* enum prl_link_state */
    uint8_t flows_failed; /* 1: FAIL_FLOWS was asked for since the link was last up; 2: OPEN_FLOWS too */
    uint8_t renounced;
    uint8_t shadows_void;
    uint8_t expired; /* the lease ended in this epoch */
    uint8_t outlived; /* the other was heard after the lease's end by its clock, and no lease is newer */
    uint8_t silence; /* enum prl_silence */
    uint8_t can_ask; /* somebody on the LAN would answer: who is heard by nobody then is cut off */
    uint8_t is_unplugged; /* the LAN's interface has no carrier */
    uint8_t hand_over_tries; /* since it had the LAN, the first and those after a doubled wait */
    uint8_t is_urgent; /* the LAN is watched because somebody may soon take over */
    uint8_t unheard; /* silent, and nobody has heard it since the link was lost: the other node has the sessions */
    uint8_t says_hello; /* since our HELLO, until the epoch begins */
    uint8_t contends; /* as secondary it would take over, had it won (L12) */
    struct prl_arbiter arbiter;
    uint32_t silent_mask; /* the services that it holds for */
    uint32_t taken_mask; /* taken over since the link was last up, and not protected since */
    uint32_t good_mask; /* services that a session would go on of, if they were taken over now */
    uint32_t busy; /* own tick was late: the next LEASE says so */
    uint64_t last_tick_ns;
    uint64_t last_lease_sent_ns;
    uint64_t last_heard_ns; /* any link message */
    uint64_t last_lan_ns; /* any authentic LAN heartbeat; 0 = never */
    uint64_t peer_sent_ns; /* newest sent_ns of the other's, to be echoed */
    uint64_t echoed_own_ns; /* newest own sent_ns that came back in this epoch; 0 = none */
    uint64_t former_echoed_ns; /* the same of the epoch before, until the other has read our HELLO */
    uint64_t
        lease_own_ns; /* the same, or the newest own probe that was answered as one (L3a): the lease lasts from it on */
    uint64_t echo_at_ns; /* when the other sent what brought that, by its clock */
    uint64_t newest_sent_ns; /* the newest that it sent in this epoch, on link or LAN, likewise */
    uint64_t
        lease_by_ns; /* when the lease ends by the other's clock, in ours; UINT64_MAX = not before it does by ours */
    uint64_t last_echo_sent_ns; /* when an echo (of anything) last left, in any epoch; 0 = never */
    uint32_t take_mask;
    uint32_t given_mask; /* renounced over the link and not known to be taken: not ours to take back */
    uint64_t first_by_ns; /* of the last take-over: the first emission must come before; 0 = any time (L2) */
    uint64_t taken_ns; /* when that was */
    uint64_t proof_by_ns; /* the LAN must be heard after it and before this; 0 = it was, or need not (L6) */
    uint64_t alone_ns; /* since when there is no link */
    uint64_t
        unsure_ns; /* since when the LAN is watched because the link does not answer, or the other node not on it; 0 = both do */
    uint64_t last_frame_ns; /* newest frame from the LAN, while one is waited for (prl_owner_watches) */
    uint64_t present_ns; /* since when frames have come without a gap of suspect_ns */
    uint64_t last_ask_ns, last_hand_over_ns;
    uint64_t deaf_ns; /* when it last asked again because nothing had come since it asked before */
    uint64_t silent_ns; /* since when it is silent */
    uint64_t
        word_ns; /* newest own sent_ns that came back in any epoch: the other had not left before (L12); 0 = none */
    uint64_t up_ns; /* when the epoch began */
    uint64_t ownerless_ns[PRL_SERVICES_MAX]; /* since when neither node owns it, by their words; 0 = one does */
    uint64_t takeovers, late_ticks, suspects, silences, hand_overs;
    uint64_t false_suspects; /* of the suspects, those that were heard again before their link was given up */
};

struct prl_lease_out {
    uint64_t sent_ns, echo_ns;
    uint32_t flags;
    uint32_t pad;
};

void prl_owner_init(struct prl_owner *owner, const struct prl_owner_config *config, uint64_t now_ns);
void prl_owner_set_state(struct prl_owner *owner, uint32_t service, uint8_t state);

/* This node renounces the service over the link: the other may act on that word at any time in this epoch, so that
 * it is not taken back before the other is known to have it (a snapshot of one of its sessions came). */
void prl_owner_give(struct prl_owner *owner, uint32_t service);
void prl_owner_given_is_taken(struct prl_owner *owner, uint32_t service);
/* The other node is about to have a shadow of the service: it may replace this one from now on, also where it was replaced. */
void prl_owner_has_shadow(struct prl_owner *owner, uint32_t service);

/* Events; each returns enum prl_owner_do bits. */
uint32_t prl_owner_link_up(struct prl_owner *owner, uint64_t now_ns); /* new epoch: no lease yet (L10) */
/* Our HELLO is about to leave: what the old epoch allowed is over, before the other side can rely on the new one. */
uint32_t prl_owner_hello(struct prl_owner *owner);
/* The take-over that DO_TAKEOVER asked for came too late (first_by_ns): the services are not ours after all. */
uint32_t prl_owner_too_late(struct prl_owner *owner);
uint32_t prl_owner_link_down(struct prl_owner *owner, uint64_t now_ns); /* connection lost */
uint32_t prl_owner_heard(struct prl_owner *owner, uint64_t now_ns); /* any message but LEASE */
uint32_t prl_owner_lease(struct prl_owner *owner, uint64_t sent_ns, uint64_t echo_ns, uint32_t flags,
                         uint64_t now_ns);
/* A LAN heartbeat that the other node sent at sent_ns of its clock, the one of LEASE. */
uint32_t prl_owner_lan_heard(struct prl_owner *owner, uint64_t sent_ns, uint64_t now_ns);
/* The other node's LAN heartbeat says that it owns a service, too, and in which term (the low 8 bits): the one that took
 * it over later is right. Of equal terms neither is known to be. */
enum prl_rival {
    PRL_RIVAL_NOT = 0,
    PRL_RIVAL_NEWER = 1, /* it has replaced this node, which is fenced */
    PRL_RIVAL_OLDER = 2, /* it does not know yet that it was replaced */
};
enum prl_rival prl_owner_rival(const struct prl_owner *owner, uint32_t service, uint8_t own_term, uint8_t term);
/* What the other node says of a service that this one does not own either: with the link up nobody would ever speak for it. One
 * that is `fenced` there, which only HELLO undoes, is taken over while the lease lasts; of any other HELLO decides: the link is
 * dropped. The word must be the same for suspect_ns, or hold_ns. */
struct prl_word {
    uint32_t service;
    bool owned, fenced;
    bool moves; /* a move of it is under way here, which knows better */
};
uint32_t prl_owner_word(struct prl_owner *owner, const struct prl_word *word, uint64_t now_ns);
/* The secondary gave its shadows up; the caller has checked that this was said in the current epoch. */
uint32_t prl_owner_lan_renounced(struct prl_owner *owner, uint64_t now_ns);
/* The arbiter's answer to a question of `round`: PRL_ARBITER_WON, LOST or UNREACHED (L12). */
uint32_t prl_owner_arbitrated(struct prl_owner *owner, uint32_t round, uint8_t state, uint64_t now_ns);
/* With an arbiter: until when this node may speak for what it owns; 0 = without limit (L12). */
uint64_t prl_owner_speak_by_ns(const struct prl_owner *owner);
/* Whether this node owns a service. */
bool prl_owner_owns_any(const struct prl_owner *owner);
/* Whether the primary never opens because time has passed: policy stop, or an arbiter that is awaited. */
bool prl_owner_never_opens(const struct prl_owner *owner);
uint32_t prl_owner_tick(struct prl_owner *owner, uint64_t now_ns);

/* ---- L3a (docs/kernel-answers.md) ---- */
/* Whether both nodes' kernels answer in the epoch that begins; before link_up(). */
void prl_owner_probes(struct prl_owner *owner, bool on);
/* A probe leaves by `path` at now_ns, which is its number; returns what it confirms. */
uint64_t prl_owner_take_probe(struct prl_owner *owner, uint32_t path, uint64_t now_ns);
uint32_t prl_owner_answer(struct prl_owner *owner, const struct prl_answer *answer, uint64_t now_ns);
/* What the own kernel has noted: members of struct prl_owner_probes. Before all that asks whether to open. */
void prl_owner_asked(struct prl_owner *owner, uint64_t renewed_ns, uint64_t confirmed_ns, uint64_t lan_probed_ns);
/* Whether the own kernel's answers may renew the other node's lease, as echoes do: nothing is opened meanwhile. */
bool prl_owner_leases(const struct prl_owner *owner);
/* How long ago the other's datapath had a pass, at least, as far as its kernel said; 0: it said nothing in this epoch. */
uint64_t prl_owner_pass_age_ns(const struct prl_owner *owner, uint64_t now_ns);

/* The numbers of the LEASE that DO_LEASE asks for; records what was sent. */
void prl_owner_take_lease(struct prl_owner *owner, uint64_t now_ns, struct prl_lease_out *out);

/* From when the other node may have replaced this owner (L3): suspect_ns after it heard the newest message that it has
 * echoed, which was not before that was sent; where its kernel is known to be heard, dead_ns after that and its newest answer
 * that the other has confirmed (L3a). From then on an owner speaks only while it hears the LAN, for then the
 * other's claim would have reached it. 0: the other node has no lease. */
uint64_t prl_owner_replaceable_ns(const struct prl_owner *owner);
/* Whether this node is on the LAN, as far as it knows: what is moved here can be served (L11). */
bool prl_owner_hears_lan(const struct prl_owner *owner, uint64_t now_ns);
/* When prl_owner_tick() wants to be called at the latest. */
uint64_t prl_owner_next_ns(const struct prl_owner *owner);

/* As secondary: whether it may soon have to take over; and of which services there is a shadow that could go on, as long as
 * it may. Of the others every session would be lost, so that they have more time to be heard of (L3). */
bool prl_owner_may_take(const struct prl_owner *owner, uint64_t now_ns);
void prl_owner_good(struct prl_owner *owner, uint32_t mask);
/* Whether the LAN's interface has a carrier: without one an owner that has the link need not wait for answers (L11). */
void prl_owner_carrier(struct prl_owner *owner, bool has);
/* Whether somebody on the LAN would answer; at first there is nobody. */
void prl_owner_neighbours(struct prl_owner *owner, bool can_ask);
/* Whether frames from the LAN are evidence now (no link, one that does not answer, or a take-over that waits for proof); and the newest one. */
int prl_owner_watches(const struct prl_owner *owner);
void prl_owner_frame(struct prl_owner *owner, uint64_t seen_ns);
/* Whether the question before the one that is due now had no answer. */
bool prl_owner_is_deaf(const struct prl_owner *owner);
/* First in every pass, before anything can be emitted: it may have been stopped since the last one (L6). */
uint32_t prl_owner_woke(struct prl_owner *owner, uint64_t now_ns);
/* Nobody answered for our addresses to probes that were sent at `probed_ns` or later. It counts if the LAN has been heard
 * from then on without a gap, which shows that the probes got out. */
uint32_t prl_owner_unanswered(struct prl_owner *owner, uint64_t probed_ns, uint64_t now_ns);
/* What both nodes agreed in HELLO (L5): 1 = stop. Before link_up(). */
void prl_owner_policy(struct prl_owner *owner, uint32_t policy_stop);

/* The primary gave the service over the link: take it at once, but not beyond the lease, so that the primary knows
 * when a word that was lost cannot be acted on any more. */
uint32_t prl_owner_renounced(struct prl_owner *owner, uint32_t service, uint64_t now_ns);
/* The user's `takeover`: 0 in *refused and DO_TAKEOVER, or the reason (PRL_REFUSED_*). `fenced` says who vouches that
 * the other node is dead (L5); what the operator vouches for also lets a silent owner speak. */
enum prl_fenced {
    PRL_FENCED_NOT = 0,
    PRL_FENCED_BY_OPERATOR = 1,
    PRL_FENCED_BY_HOOK = 2, /* asked for at DO_EXPIRE; too late once the other node has been heard again */
};
enum prl_refused {
    PRL_REFUSED_NOT = 0,
    PRL_REFUSED_OWNER = 1, /* already the owner */
    PRL_REFUSED_LEASE_OVER = 2, /* the lease has ended: only --fenced */
    PRL_REFUSED_NO_LINK_YET = 3,
    PRL_REFUSED_HEARD = 4, /* the other node was heard while the fence hook ran: the shadows are void */
    PRL_REFUSED_ARBITER = 5, /* the arbiter decides who goes on: only --fenced */
};
uint32_t prl_owner_request(struct prl_owner *owner, uint32_t service, int fenced, uint64_t now_ns,
                           uint8_t *refused);
/* Until when a take-over is allowed; 0 = not at all. And from when the primary may open (the time that the
 * kernel's open_at_ns gets). */
uint64_t prl_owner_takeover_until_ns(const struct prl_owner *owner);
uint64_t prl_owner_open_at_ns(const struct prl_owner *owner);

#endif /* PRL_CORE_OWNERSHIP_H */
