/* SPDX-License-Identifier: BSD-2-Clause */
/* What a datapath counts (dp->counters). */
#ifndef PRL_FLOW_COUNTERS_H
#define PRL_FLOW_COUNTERS_H

#ifndef PRL_CFFI
#include <stdint.h>

#include "io/probes.h"

/* A packet is dropped: counted, and traced by the counter's name. */
#define DP_DROP(dp, counter, handle, bytes)        \
    do {                                           \
        (dp)->counters.counter++;                  \
        PRL_PROBE3(drop, #counter, handle, bytes); \
    } while (0)
#endif

struct prl_dp_counters {
    uint64_t wakeups, rx_packets, rx_bytes, rx_bad_checksum, rx_malformed, rx_unknown_flow, rx_no_frame,
        rx_no_hold;
    uint64_t rx_uncut; /* datagrams of protected flows that came several in a packet */
    uint64_t reinjected_packets, reinjected_bytes, reinject_failed;
    uint64_t verdicts_refused; /* of input that waited in the kernel */
    uint64_t held_out_packets, held_out_bytes, released_out_packets, release_failed;
    uint64_t link_rx_bytes, link_tx_bytes, link_refused, link_tx_full;
    uint64_t link_records_sent, link_records_received, link_key_updates, link_forged,
        link_truncated; /* struct prl_link_tls */
    uint64_t link_elided_packets, link_elided_bytes; /* sent without L3 header; bytes saved by that (R15) */
    uint64_t probes_sent, answers_received, answers_refused; /* L3a */
    uint64_t lan_rx, lan_tx, lan_refused, claims_sent, crafted_acks, events_lost, append_short;
    uint64_t asks_sent, defences; /* L6: neighbours asked; L7: claims that were answered */
    uint64_t over_share; /* packets of flows that held much while the memory of all was short */
    uint64_t reinject_writes; /* gathered: one write for many packets */
    uint64_t link_writes;
    uint64_t polls_given_up; /* others wanted the CPU: no polling for a while */
    uint64_t realtime_raised; /* it was late, and came before all others for a while (loop/realtime.h) */
    uint64_t realtime_spent; /* windows of whose rest it did not, for it had taken its share of them */
    uint64_t kept_packets, refed_packets; /* R8: not yet in the shadow's socket when looked at; fed again */
    uint64_t holes; /* sessions that were reset: the new owner's kernel refused acknowledged input for good (R8) */
    uint64_t compared, differences; /* R12a */
    uint64_t signed_again; /* segments of ours whose header was brought up to date behind the stack's back */
    uint64_t foreign_signatures; /* of ours, made with another key than the one that the flow was set up with */
    uint64_t moments_sent, moments_late; /* R17: set-ups in two steps; something had come since the copy */
    uint64_t moments_restored, moments_refused, prepared_dropped; /* on the other node; dropped: no moment came */
    uint64_t resumed, resume_refused, opened_alone; /* L10: flows; opened: nothing was said of them in time */
    uint64_t suspended, suspended_void; /* L10: shadows; void: nobody was there in time to go on with them */
    uint64_t takeover_shares; /* passes that left turns of a take-over to the next (PRL_TAKEOVER_SHARE_NS) */
    uint64_t mirrored_packets; /* whose payload went by the cable (docs/mirror.md) … */
    uint64_t mirror_dropped; /* … or had gone, while they could not be sent at once */
    uint64_t mirror_fed; /* on the standby: joined with their frames, and fed … */
    uint64_t mirror_lost; /* … or refused, for these did not come */
    uint64_t mirror_unnamed; /* frames that no message named */
    uint64_t relayed_packets,
        relayed_late; /* R21: input from the old owner; for a flow that is not here any more */
};

#endif /* PRL_FLOW_COUNTERS_H */
