/* SPDX-License-Identifier: BSD-2-Clause */
/* What the control plane is told. */
#ifndef PRL_FLOW_EVENT_H
#define PRL_FLOW_EVENT_H

#ifndef PRL_CFFI
#include <stdint.h>
#endif

enum prl_event_kind {
    /* a link message for the control plane: type, handle, seq, generation …; body = TLVs. SETUP_DONE to a moment:
     * value = since when the flow is ACTIVE (ns), if it is already */
    PRL_EVENT_MESSAGE = 1,
    PRL_EVENT_LINK_DOWN = 2, /* reason; body = words */
    PRL_EVENT_PRIMARY = 3, /* handle, state = enum prl_primary_state, reason */
    PRL_EVENT_SECONDARY = 4, /* handle, state = enum prl_secondary_state, reason */
    PRL_EVENT_TAKEOVER = 5, /* service; value = decided (ns), value2 = first emission possible (ns) */
    PRL_EVENT_FENCED = 6, /* service: a claim with our token silenced us */
    PRL_EVENT_RENOUNCED = 7, /* as standby: shadows given up, primary told over the LAN */
    PRL_EVENT_ENDED = 8, /* handle: the flow's socket has gone (session over) */
    PRL_EVENT_ALARM = 9, /* body = words: foreign claim, table full, datapath limits */
    PRL_EVENT_TAKEN_FLOW =
        10, /* handle: shadow took over; value = out_bytes, seq = out_hash, value2 = when (ns) */
    PRL_EVENT_SILENT = 11, /* state = enum prl_silence: an owner fell silent (L6), or speaks again (NOT) */
    PRL_EVENT_EXPIRED = 12, /* as standby: the lease is over, only fencing lets the shadows speak (L5) */
    PRL_EVENT_MOVE = 13, /* service, state = enum prl_move_outcome, reason, seq = flows; value = silent since */
    PRL_EVENT_PROBE = 14, /* service: whether anybody answers for it decides; prl_dp_switchover_resolve() */
    /* handle, generation: a prepared socket is the shadow now (value = bytes_received, value2 = bytes_acked; body = TLVs, in
     * front of which seq bytes of its queues had come), or cannot be: reason; body = words */
    PRL_EVENT_RESTORED = 15,
    /* handle: it was taken over, and its kernel refuses input that the peer was told of: it cannot go on */
    PRL_EVENT_HOLE = 16,
    /* value = round; state = 1: this node goes on alone by another word, which the store is to be told; 0: it is asked (L12) */
    PRL_EVENT_ARBITRATE = 17,
    /* service, bits = PRL_MOVE_*, value = when: the other node asks for it; prl_dp_switchover_asked() */
    PRL_EVENT_MOVE_ASKED = 18,
    /* nothing that went by the cable has arrived for long: in this epoch no more does (docs/mirror.md) */
    PRL_EVENT_MIRROR_OFF = 19,
    PRL_EVENT_BORN = 20, /* sessions of service addresses are established since the last such event */
};

struct prl_event {
    enum prl_event_kind kind;
    uint32_t handle;
    uint32_t seq;
    uint32_t generation;
    uint32_t space;
    uint32_t service;
    uint8_t type; /* link message type */
    uint8_t state;
    uint8_t reason;
    uint8_t bits;
    uint8_t version_min, version_max, node_index, pad;
    uint64_t value, value2;
    uint32_t body_bytes;
    uint32_t pad2;
};

#endif /* PRL_FLOW_EVENT_H */
