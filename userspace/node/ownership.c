/* SPDX-License-Identifier: BSD-2-Clause */
#include "node/ownership.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/ownership.h"
#include "core/switchover.h"
#include "flow/dp.h"
#include "flow/send.h"
#include "io/error.h"
#include "node/announce.h"
#include "node/claim.h"
#include "node/lan.h"
#include "node/move.h"
#include "node/probe.h"
#include "node/resync.h"
#include "node/service.h"
#include "path/mirror.h"
#include "path/primary.h"
#include "path/shadow.h"
#include "path/takeover.h"

/* The claim of a new owner may not have come, or have come before this machine went on after a pause. */
static void judge_rival(struct prl_dp *dp, const struct dp_lan_heard *heard)
{
    uint8_t term = (uint8_t)dp->node->terms[heard->service];
    enum prl_rival rival = prl_owner_rival(&dp->owner, heard->service, term, heard->term);
    int8_t ahead = (int8_t)(heard->term - term);

    /* Who was replaced is told by HELLO, which goes by the term of its own ownership until then. */
    if (heard->service < dp->config.owner.services && ahead > 0 &&
        dp->owner.state[heard->service] == PRL_OWNER_STANDBY)
        dp_term_raise(dp, heard->service, dp->node->terms[heard->service] + (uint64_t)ahead);
    if (rival == PRL_RIVAL_NEWER)
        dp_service_fence(dp, heard->service);
    else if (rival == PRL_RIVAL_OLDER)
        dp_claims_repeat(dp, heard->service);
}

static void hear_word(struct prl_dp *dp, uint32_t service, bool owned, bool fenced)
{
    struct prl_word word = {.service = service, .owned = owned, .fenced = fenced};
    uint32_t todo;

    word.moves = dp->moves[service].state != PRL_MOVE_IDLE;
    todo = prl_owner_word(&dp->owner, &word, dp->now_ns);
    if (!todo)
        return;
    dp_owner_do(dp, todo & ~(uint32_t)PRL_OWNER_DO_DROP_LINK);
    dp_link_lost(dp, "neither node owned a service");
}

static void hear_answer(struct prl_dp *dp, const struct prl_answer *answer)
{
    const struct dp_probe_said *said = dp_probe_said(dp);

    dp_owner_do(dp, prl_owner_answer(&dp->owner, answer, dp->now_ns));
    for (uint32_t service = 0; service < dp->config.owner.services && answer->at_ns == dp->owner.probes.at_ns;
         service++)
        hear_word(dp, service, said->owned >> service & 1, said->fenced >> service & 1);
}

static void hear_lan(struct prl_dp *dp)
{
    for (uint32_t i = 0; i < DP_BATCH; i++) {
        struct dp_lan_heard heard;
        int got = dp_lan_next(dp, &heard);

        if (got < 0)
            return; /* nothing more, or an ICMP error: the other node's prld is not there */
        if (got == 0)
            continue;
        if (heard.answer.sent_ns) {
            hear_answer(dp, &heard.answer);
            continue;
        }
        /* A kernel that answers tells more, and sooner. */
        if (heard.tells && !dp->owner.probes.at_ns && heard.service < dp->config.owner.services)
            hear_word(dp, heard.service, heard.owns, false);
        if (heard.owns)
            judge_rival(dp, &heard);
        if (heard.renounces)
            dp_owner_do(dp, prl_owner_lan_renounced(&dp->owner, dp->now_ns));
        else
            dp_owner_do(dp, prl_owner_lan_heard(&dp->owner, heard.sent_ns, dp->now_ns));
    }
}

void dp_owner_keep_closed(struct prl_dp *dp)
{
    dp->node->policy_stop = dp->owner.config.policy_stop || dp->owner.config.arbiter.answer_ns;
}

/* L6, L12: kept by the kernel, also while this thread does not run. */
static void set_speak_by(struct prl_dp *dp)
{
    __atomic_store_n(&dp->node->speak_by_ns, prl_owner_speak_by_ns(&dp->owner), __ATOMIC_RELEASE);
}

void dp_owner_datagrams(struct prl_dp *dp)
{
    struct prl_answer answer;
    int got = 0;

    hear_lan(dp);
    for (uint32_t i = 0; i < DP_BATCH && got >= 0; i++) {
        got = dp_probe_next(dp, &answer);
        if (got > 0)
            hear_answer(dp, &answer);
    }
}

int dp_owner_open(struct prl_dp *dp, char *error)
{
    dp->config.owner.witnessed = dp->config.witnesses > 0;
    prl_owner_init(&dp->owner, &dp->config.owner, dp_clock_ns(dp));
    prl_owner_neighbours(&dp->owner, dp_neighbours_set(dp, NULL, 0));
    memcpy(dp->node->witness, dp->config.witness, sizeof(dp->node->witness));
    __atomic_store_n(&dp->node->witnesses, dp->config.witnesses, __ATOMIC_RELEASE);
    dp_owner_keep_closed(dp);
    set_speak_by(dp);
    for (uint32_t service = 0; service < dp->config.owner.services; service++) {
        int err = dp_service_open(dp, service);

        if (err) {
            snprintf(error, PRL_ERROR_BYTES, "address table: %s", strerror(-err));
            return err;
        }
    }
    dp->node->silent = dp->node->claiming = 0; /* of the prld before, whose addresses are silent by now */
    return 0;
}

/* Where there is somebody to be asked, the answers count: a frame that comes in does not tell whether ours get out. */
static uint32_t evidence(const struct prl_dp *dp)
{
    return dp->owner.can_ask ? PRL_WATCH_ANSWERS : PRL_WATCH_FRAMES;
}

static void take_over(struct prl_dp *dp, uint32_t mask)
{
    uint64_t decided_ns = dp_clock_ns(dp);
    uint64_t first_by_ns = dp->owner.first_by_ns;

    if (first_by_ns &&
        decided_ns >= first_by_ns) { /* we were stopped since the decision: the lease is over (L2) */
        dp_alarm(dp, "take-over: the lease ended before it was in force");
        dp_owner_do(dp, prl_owner_too_late(&dp->owner));
        return;
    }
    __atomic_store_n(&dp->node->lan_first_ns, 0, __ATOMIC_RELEASE);
    __atomic_store_n(&dp->node->watch, evidence(dp), __ATOMIC_RELEASE);
    dp->proof_awaited = first_by_ns != 0;
    __atomic_fetch_or(&dp->node->claiming, mask,
                      __ATOMIC_SEQ_CST); /* this thread may be stopped before it claims */
    for (uint32_t service = 0; service < dp->config.owner.services; service++) {
        /* The first emission is held to the lease in tc (L2), unless the operator vouched or the owner renounced. */
        if (mask & 1u << service) /* the operator's word, while it was in doubt */
            dp_move_do(dp, service, prl_move_resolve(&dp->moves[service], &dp->config.move, false, dp->now_ns));
        if (mask & 1u << service) /* claims and heartbeats say so from now on */
            dp_term_raise(dp, service, dp->node->terms[service] + 1);
        if (mask & 1u << service && dp_service_take(dp, service, first_by_ns))
            dp_alarm(dp, "take-over: the address table cannot be written");
    }
    dp_claims_taken_over(dp, mask);
    __atomic_fetch_and(&dp->node->claiming, ~mask, __ATOMIC_SEQ_CST);
    dp_trace_step(dp, "claimed", mask);
    dp_neighbours_ask(dp);
    dp_takeover_decide(dp, mask);
    for (uint32_t service = 0; service < dp->config.owner.services; service++) {
        struct prl_event event = {
            .kind = PRL_EVENT_TAKEOVER,
            .service = service,
            .value = decided_ns,
            .value2 = dp_clock_ns(dp),
        };

        if (mask & 1u << service)
            dp_event(dp, &event, NULL, 0);
    }
    dp_takeover_begin(dp, mask);
}

/* L6: what the owner emits, and what it is told of the LAN. */
static void set_silence(struct prl_dp *dp)
{
    struct prl_event event = {.kind = PRL_EVENT_SILENT, .state = dp->owner.silence};

    if (dp->owner.silence == PRL_SILENCE_NOT && dp->node->word_ns < dp_clock_ns(dp))
        dp->node->word_ns = dp_clock_ns(dp); /* the proof of a take-over reaches farther */
    __atomic_store_n(&dp->node->silent, dp->owner.silent_mask, __ATOMIC_RELEASE);
    if (dp->owner.silence == PRL_SILENCE_NOT) /* what was claimed in silence was not heard */
        dp_claims_start(dp, UINT32_MAX);
    dp_event(dp, &event, NULL, 0);
}

void dp_owner_watch_lan(struct prl_dp *dp)
{
    uint32_t watch = prl_owner_watches(&dp->owner) ? evidence(dp) : PRL_WATCH_NOT;

    if (dp->proof_awaited && !dp->owner.proof_by_ns && dp->owner.silence == PRL_SILENCE_NOT) {
        dp->proof_awaited = false;
        dp->node->word_ns = dp->owner.first_by_ns + 1; /* may_speak() in egress.bpf.c */
    }
    if (watch && !dp->node->watch)
        __atomic_store_n(&dp->node->lan_first_ns, 0, __ATOMIC_RELEASE);
    __atomic_store_n(&dp->node->watch, watch, __ATOMIC_RELEASE);
    if (!watch)
        return;
    prl_owner_frame(&dp->owner, __atomic_load_n(&dp->node->lan_first_ns, __ATOMIC_ACQUIRE));
    prl_owner_frame(&dp->owner, __atomic_load_n(&dp->node->lan_seen_ns, __ATOMIC_ACQUIRE));
}

/* What was decided, in the order in which it is done; a LEASE is no decision. */
static void trace_decisions(const struct prl_dp *dp, uint32_t todo)
{
    static const struct {
        uint32_t bit;
        const char *step;
    } decisions[] = {
        {PRL_OWNER_DO_SILENCE, "silent"},
        {PRL_OWNER_DO_SPEAK, "speak again"},
        {PRL_OWNER_DO_FAIL_FLOWS, "give up replication"},
        {PRL_OWNER_DO_EXPIRE, "lease over"},
        {PRL_OWNER_DO_ASK, "ask the LAN"},
        {PRL_OWNER_DO_ARBITRATE, "ask the arbiter"},
        {PRL_OWNER_DO_HAND_OVER, "hand over"},
        {PRL_OWNER_DO_VOID_SHADOWS, "void the shadows"},
        {PRL_OWNER_DO_RENOUNCE_LAN, "renounce"},
        {PRL_OWNER_DO_OPEN_FLOWS, "open the flows"},
        {PRL_OWNER_DO_TAKEOVER, "take over"},
        {PRL_OWNER_DO_DROP_LINK, "drop the link"},
    };

    for (size_t i = 0; i < sizeof(decisions) / sizeof(decisions[0]); i++)
        if (todo & decisions[i].bit)
            dp_trace_step(dp, decisions[i].step, todo & PRL_OWNER_DO_TAKEOVER ? dp->owner.take_mask : 0);
}

/* With how long the echo has waited here: the other side's round trip is without that. */
static void send_lease(struct prl_dp *dp)
{
    struct prl_lease_out lease;
    uint8_t wait[PRL_TLV_HEADER + sizeof(uint64_t)];
    size_t wait_bytes = 0;

    prl_owner_take_lease(&dp->owner, dp_clock_ns(dp), &lease);
    struct prl_msg msg = {
        .type = PRL_MSG_LEASE,
        .sent_ns = lease.sent_ns,
        .echo_ns = lease.echo_ns,
        .lease_flags = lease.flags,
    };
    if (lease.echo_ns) {
        uint64_t wait_ns = htobe64(lease.sent_ns - dp->lease_came_ns);

        (void)prl_tlv_put(wait, sizeof(wait), &wait_bytes, PRL_TLV_ECHO_WAIT,
                          prl_tlv_is_mandatory(PRL_TLV_ECHO_WAIT), &wait_ns, sizeof(wait_ns));
    }
    dp_send_tlvs(dp, &msg, wait, wait_bytes);
}

void dp_link_lost(struct prl_dp *dp, const char *why)
{
    struct prl_event event = {.kind = PRL_EVENT_LINK_DOWN, .reason = PRL_REASON_LINK_LOST};
    bool was_up = dp->link_up;

    if (dp->link.fd < 0)
        return;
    dp->io->link_detach(dp->host, &dp->link);
    dp->link_up = dp->link_again = dp->mirrors = false;
    dp_mirror_link_lost(dp);
    dp_event(dp, &event, (const uint8_t *)why, (uint32_t)strlen(why));
    if (was_up) {
        dp_move_link_down(dp);
        dp_owner_do(dp, prl_owner_link_down(&dp->owner, dp->now_ns));
    }
}

static void arbitrate(struct prl_dp *dp)
{
    struct prl_event event = {
        .kind = PRL_EVENT_ARBITRATE,
        .state = dp->owner.arbiter.seizes,
        .value = dp->owner.arbiter.round,
    };

    dp->owner.arbiter.seizes = 0;
    dp_event(dp, &event, NULL, 0);
}

static void ask_kernel(struct prl_dp *dp)
{
    for (uint32_t path = 0; path < PRL_OWNER_PATHS; path++)
        if (dp->owner.probe_mask & 1u << path)
            dp_probe_ask(dp, path);
}

void dp_owner_do(struct prl_dp *dp, uint32_t todo)
{
    trace_decisions(dp, todo);
    set_speak_by(dp);
    if (todo & ~(uint32_t)(PRL_OWNER_DO_PROBE | PRL_OWNER_DO_LEASE | PRL_OWNER_DO_ASK))
        dp_probe_tell(dp);
    if (todo & PRL_OWNER_DO_ARBITRATE)
        arbitrate(dp);
    if (todo & PRL_OWNER_DO_PROBE)
        ask_kernel(dp);
    if (todo & (PRL_OWNER_DO_SILENCE | PRL_OWNER_DO_SPEAK))
        set_silence(dp);
    if (todo & PRL_OWNER_DO_LEASE) {
        if (dp->link_up)
            send_lease(dp);
        dp_lan_send(dp, DP_LAN_HEARTBEAT);
    }
    if (todo & PRL_OWNER_DO_FAIL_FLOWS)
        dp_primary_fail_all(dp, PRL_REASON_LINK_LOST);
    if (todo & PRL_OWNER_DO_EXPIRE ||
        (todo & PRL_OWNER_DO_RENOUNCE_LAN && todo & PRL_OWNER_DO_VOID_SHADOWS)) { /* not when it is said again */
        struct prl_event event = {
            .kind = todo & PRL_OWNER_DO_EXPIRE ? PRL_EVENT_EXPIRED : PRL_EVENT_RENOUNCED,
        };

        dp_event(dp, &event, NULL, 0);
    }
    if (todo & PRL_OWNER_DO_ASK) {
        dp_owner_watch_lan(dp); /* an answer may be here before the question has left our hands: on veth it is */
        dp_neighbours_ask(dp);
    }
    if (todo & PRL_OWNER_DO_HAND_OVER)
        dp_move_hand_over(dp);
    if (todo & PRL_OWNER_DO_VOID_SHADOWS)
        dp_resync_suspend(dp);
    if (todo & PRL_OWNER_DO_RENOUNCE_LAN) /* only now: the shadows are void */
        dp_lan_send(dp, DP_LAN_RENOUNCE);
    if (todo & PRL_OWNER_DO_OPEN_FLOWS)
        dp_resync_alone(dp);
    if (todo & PRL_OWNER_DO_TAKEOVER)
        take_over(dp, dp->owner.take_mask);
    if (todo & PRL_OWNER_DO_DROP_LINK)
        dp_link_lost(dp, "the other node has been silent for too long");
}

void dp_owner_notice_fencing(struct prl_dp *dp)
{
    uint32_t fenced = 0;

    for (uint32_t i = 0; i < dp->config.addresses; i++) {
        uint32_t service = dp->config.address[i].service;
        struct prl_addr value;

        if (dp->owner.state[service] != PRL_OWNER_OWNER || dp_service_entry(dp, &dp->config.address[i], &value))
            continue;
        if (__atomic_load_n(&dp->node->fenced, __ATOMIC_ACQUIRE) >> service & 1) {
            fenced |= 1u << service;
            dp_claim_verify(dp, &dp->config.address[i], &value);
        } else if (!(dp->owner.silent_mask & 1u << service)) { /* who is silent does not know whose it is */
            dp_address_defend(dp, i, value.foreign_claims);
        }
    }
    for (uint32_t service = 0; service < dp->config.owner.services; service++)
        if (fenced >> service & 1)
            dp_service_fence(dp, service);
}

bool dp_owner_is_bypassed(const struct prl_dp *dp)
{
    return __atomic_load_n(&dp->node->bypassed, __ATOMIC_ACQUIRE);
}

/* We hung for so long that the kernel opened our flows (L9): what passed meanwhile is unreplicated, and the other
 * side's lease had ended before (open_at_ns), so nothing needs to be voided any more. */
static void notice_bypass(struct prl_dp *dp)
{
    if (!dp_owner_is_bypassed(dp))
        return;
    dp_primary_fail_all(dp, PRL_REASON_TIMEOUT);
    dp_primary_open_all(dp);
    __atomic_store_n(&dp->node->bypassed, 0, __ATOMIC_RELEASE);
    dp_alarm(dp, "the datapath hung: the kernel opened its flows, they are protected again one by one");
}

void dp_owner_woke(struct prl_dp *dp)
{
    dp_probe_asked(dp);
    dp_owner_do(dp, prl_owner_woke(&dp->owner, dp->now_ns));
}

/* The services that a session of would go on here. */
static uint32_t good_services(const struct prl_dp *dp)
{
    uint32_t mask = 0;

    for (uint32_t i = 0; i < dp->flows_top; i++) {
        const struct dp_flow *flow = &dp->flows[i];

        if (flow->used && flow->secondary && dp_secondary_of(flow)->state == PRL_SECONDARY_ACTIVE &&
            dp_secondary_of(flow)->confirmed)
            mask |= 1u << flow->service;
    }
    return mask;
}

void dp_owner_tick(struct prl_dp *dp)
{
    uint32_t todo;

    if (prl_owner_may_take(&dp->owner,
                           dp->now_ns)) /* this thread may have been stopped since it looked for them */
        dp_owner_datagrams(dp);
    dp_probe_asked(dp);
    dp_owner_watch_lan(dp);
    prl_owner_good(&dp->owner, prl_owner_may_take(&dp->owner, dp->now_ns) ? good_services(dp) : 0);
    todo = prl_owner_tick(&dp->owner, dp->now_ns);
    notice_bypass(dp);
    dp_owner_do(dp, todo);
    dp_owner_watch_lan(dp);
    dp_probe_tell(dp);
    dp->node->open_at_ns = prl_owner_open_at_ns(&dp->owner);
    set_speak_by(dp);
    if (todo & PRL_OWNER_DO_LEASE)
        dp_owner_notice_fencing(dp);
    dp_claims_tick(dp);
}

uint64_t dp_owner_next_ns(const struct prl_dp *dp)
{
    uint64_t next_ns = prl_owner_next_ns(&dp->owner), claims_ns = dp_claims_next_ns(dp);

    return claims_ns < next_ns ? claims_ns : next_ns;
}

void dp_owner_message(struct prl_dp *dp, const struct prl_msg *msg)
{
    if (msg->type == PRL_MSG_LEASE) {
        dp_owner_do(dp, prl_owner_lease(&dp->owner, msg->sent_ns, msg->echo_ns, msg->lease_flags, dp->now_ns));
        return;
    }
    dp_owner_do(dp, prl_owner_heard(&dp->owner, dp->now_ns));
    if (msg->type == PRL_MSG_RENOUNCE && msg->service < dp->config.owner.services)
        dp_owner_do(dp,
                    prl_owner_renounced(&dp->owner, msg->service, dp->now_ns)); /* of a node without SWITCHOVER */
}
