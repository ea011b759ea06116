/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Who may speak for a service address, who may open (section 6: L1–L5): lease, detection and roles, pure.
 *
 * Both nodes send LEASE every lease_ms and echo the newest one received. All times are the caller's
 * CLOCK_BOOTTIME in ns; the other node's times are only ever echoed, never compared.
 *
 *     secondary may take over    until  (own send time that was echoed last) + takeover_ms
 *     primary may open           after  (time at which it last sent an echo) + hold_ms,   hold_ms > takeover_ms
 *
 * A LEASE that reached the primary is echoed by a message that leaves after it; so if the secondary can still take
 * over at T, the primary echoed at or after T - takeover_ms and does not open before T - takeover_ms + hold_ms > T.
 *
 *               owner's word / nobody answers      renounce(), void lease
 *     NONE ─────────────────────────────▶ OWNER ───────────────────────────▶ FENCED ─┐
 *       └──────── the other owns ───────▶ STANDBY ◀──── the other owns (HELLO) ──────┘
 *                                            └── takeover ──▶ OWNER
 */
#ifndef PRL_CORE_OWNERSHIP_H
#define PRL_CORE_OWNERSHIP_H

#ifndef PRL_CFFI
#include <stdbool.h>
#include <stdint.h>
#endif

#define PRL_SERVICES_MAX 16

enum prl_owner_state { /* values as enum prl_addr_state */
                       PRL_OWNER_NONE = 0,
                       PRL_OWNER_STANDBY = 1,
                       PRL_OWNER_OWNER = 2,
                       PRL_OWNER_FENCED = 3,
};

enum prl_link_state {
    PRL_LINK_DOWN = 0,
    PRL_LINK_UP = 1,
    PRL_LINK_SUSPECT = 2, /* connected, but silent for longer than suspect_ms */
};

struct prl_owner_config {
    uint64_t lease_ns;    /* interval of LEASE */
    uint64_t suspect_ns;
    uint64_t takeover_ns;
    uint64_t hold_ns;
    uint64_t late_ns;     /* own tick later than this: the detector was not running (L3) */
    uint32_t services;
    uint32_t policy_stop; /* 1: the primary never opens by itself (L5) */
};

/* What is to be done; bits, so that one event can ask for several: FAIL_FLOWS and VOID_SHADOWS come before
 * OPEN_FLOWS, RENOUNCE_LAN and TAKEOVER; the caller answers DROP_LINK with link_down(). */
enum prl_owner_do {
    PRL_OWNER_DO_LEASE = 1 << 0,     /* send LEASE now (and the LAN heartbeat) */
    PRL_OWNER_DO_TAKEOVER = 1 << 1,  /* services in `take_mask` are ours from now on */
    PRL_OWNER_DO_RENOUNCE_LAN = 1 << 2, /* tell the other node over the LAN that it may open at once */
    PRL_OWNER_DO_FAIL_FLOWS = 1 << 3,/* as primary: replication is over, flows become VOIDING */
    PRL_OWNER_DO_OPEN_FLOWS = 1
        << 4,/* as primary: the other side's lease has ended, void_done() for VOIDING flows */
    PRL_OWNER_DO_VOID_SHADOWS = 1 << 5, /* as secondary: every shadow is void (lease over, or renounced) */
    PRL_OWNER_DO_DROP_LINK = 1 << 6, /* give the connection up; a new epoch follows */
};

struct prl_owner {
    struct prl_owner_config config;
    uint8_t state[PRL_SERVICES_MAX]; /* enum prl_owner_state */
    uint8_t link; /* enum prl_link_state */
    uint8_t flows_failed; /* 1: FAIL_FLOWS was asked for since the link was last up; 2: OPEN_FLOWS too */
    uint8_t renounced;
    uint8_t shadows_void;
    uint32_t busy; /* own tick was late: the next LEASE says so */
    uint64_t last_tick_ns;
    uint64_t last_lease_sent_ns;
    uint64_t last_heard_ns;     /* any link message */
    uint64_t last_lan_ns;       /* any authentic LAN heartbeat; 0 = never */
    uint64_t peer_sent_ns;      /* newest sent_ns of the other's, to be echoed */
    uint64_t echoed_own_ns;     /* newest own sent_ns that came back in this epoch; 0 = none */
    uint64_t last_echo_sent_ns; /* when an echo (of anything) last left, in any epoch; 0 = never */
    uint32_t take_mask;
    uint32_t given_mask; /* renounced over the link and not known to be taken: not ours to take back */
    uint64_t first_by_ns; /* of the last take-over: the first emission must come before; 0 = any time (L2) */
    uint64_t takeovers, late_ticks, suspects;
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

/* Events; each returns enum prl_owner_do bits. */
uint32_t prl_owner_link_up(struct prl_owner *owner, uint64_t now_ns);   /* new epoch: no lease yet (L10) */
/* Our HELLO is about to leave: what the old epoch allowed is over, before the other side can rely on the new one. */
uint32_t prl_owner_hello(struct prl_owner *owner);
/* The take-over that DO_TAKEOVER asked for came too late (first_by_ns): the services are not ours after all. */
uint32_t prl_owner_too_late(struct prl_owner *owner);
uint32_t prl_owner_link_down(struct prl_owner *owner, uint64_t now_ns); /* connection lost */
uint32_t prl_owner_heard(struct prl_owner *owner, uint64_t now_ns); /* any message but LEASE */
uint32_t prl_owner_lease(struct prl_owner *owner, uint64_t sent_ns, uint64_t echo_ns, uint32_t flags,
                         uint64_t now_ns);
uint32_t prl_owner_lan_heard(struct prl_owner *owner, uint64_t now_ns);
/* The secondary gave its shadows up; the caller has checked that this was said in the current epoch. */
uint32_t prl_owner_lan_renounced(struct prl_owner *owner, uint64_t now_ns);
uint32_t prl_owner_tick(struct prl_owner *owner, uint64_t now_ns);
/* The numbers of the LEASE that DO_LEASE asks for; records what was sent. */
void prl_owner_take_lease(struct prl_owner *owner, uint64_t now_ns, struct prl_lease_out *out);

/* The primary gave the service over the link: take it at once, but not beyond the lease, so that the primary knows
 * when a word that was lost cannot be acted on any more. */
uint32_t prl_owner_renounced(struct prl_owner *owner, uint32_t service, uint64_t now_ns);
/* The user's `takeover`: 0 in *refused and DO_TAKEOVER, or the reason (PRL_REFUSED_*). `fenced`: the operator
 * vouches that the other node is dead (L5). */
enum prl_refused {
    PRL_REFUSED_NOT = 0,
    PRL_REFUSED_OWNER = 1, /* already the owner */
    PRL_REFUSED_LEASE_OVER = 2, /* the lease has ended: only --fenced */
    PRL_REFUSED_NO_LINK_YET = 3,
};
uint32_t prl_owner_request(struct prl_owner *owner, uint32_t service, int fenced, uint64_t now_ns,
                           uint8_t *refused);
/* Until when a take-over is allowed; 0 = not at all. And from when the primary may open (the time that the
 * kernel's open_at_ns gets). */
uint64_t prl_owner_takeover_until_ns(const struct prl_owner *owner);
uint64_t prl_owner_open_at_ns(const struct prl_owner *owner);

#endif /* PRL_CORE_OWNERSHIP_H */
