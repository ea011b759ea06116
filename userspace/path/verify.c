/* SPDX-License-Identifier: BSD-2-Clause */
#include "path/verify.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>

#include "flow/dp.h"
#include "flow/lend.h"
#include "flow/send.h"
#include "flow/wake.h"
#include "path/compare.h"
#include "path/reinject.h"
#include "path/shadow.h"
#include "tcp/serial.h"

/* Packets fed to shadows between two looks at their sockets. */
#define DP_FED_MAX 1024
/* The socket is looked at so often, every tick, before two sides count as different: while a reader that has the socket's
 * lock is off the CPU, the kernel gives it nothing (the backlog, net/core/sock.c). */
#define DP_COMPARE_TRIES 200u
/* Flows of which nothing is acknowledged before their socket was looked at, that are looked at in each pass; others have to wait
 * for the next tick. */
#define DP_UNSEEN_MAX PRL_SAMPLE_MAX
/* What cannot be fed again is not waited for with the last entries: what fills the holes in front of it needs some. */
#define DP_BARE_RESERVE 8u
_Static_assert(DP_COMPARE_TRIES <= UINT8_MAX, "dp_shadow.tries");
/* What is kept is gone through so often to find how far it reaches: each time fills at least one hole, and a peer that sends its
 * stream the wrong way round makes as many as it has segments. */
#define DP_REACH_LOOKS 16u
/* A kept packet is fed again after this time, then after twice as long, so often: 1.3 s in all. A reader that does not
 * come to run leaves no room, and what is kept is not lost: it is fed before the shadow is taken over, too. */
#define DP_KEPT_WAIT_NS 20000000ull
#define DP_KEPT_TRIES 5

/* A packet that a shadow was just fed; its bytes are still in the link's buffer, or (data NULL) nowhere here. Or a comparison
 * with its socket. */
struct fed {
    uint32_t slot;
    uint32_t bytes; /* 0: nothing was fed, the primary's numbers are to be found */
    uint32_t tcp_end; /* a FIN counts one */
    uint32_t seq; /* of the message */
    const uint8_t *data;
    uint16_t lif;
    struct prl_packet packet;
};

struct dp_verify {
    struct fed fed[DP_FED_MAX];
    uint32_t count;
    uint32_t
        unseen[DP_UNSEEN_MAX]; /* slots; what is there for another flow by now is taken out at the next look */
    uint32_t unseen_count;
};

int dp_verify_open(struct prl_dp *dp)
{
    dp->verify = calloc(1, sizeof(*dp->verify));
    return dp->verify ? 0 : -ENOMEM;
}

void dp_verify_close(struct prl_dp *dp)
{
    free(dp->verify);
}

/* ---- R8 ---- */

static bool covered(const struct dp_flow *flow, uint32_t tcp_end)
{
    return prl_serial_le(tcp_end, flow->kernel->sock.rcv_nxt);
}

static bool has_kept(const struct dp_flow *flow)
{
    const struct dp_unfed *unfed = dp_shadow_of(flow)->unfed;

    return unfed && unfed->kept.head;
}

/* It cannot be fed again. */
static bool is_bare(const struct prl_hold *hold)
{
    return !dp_hold_has_bytes(hold);
}

/* The socket, as it was just looked at, has all that is in front of it. */
static bool is_next(const struct dp_flow *flow, const struct prl_hold *hold)
{
    return prl_serial_le(hold->tcp_seq, flow->kernel->sock.rcv_nxt);
}

static bool has_bare(const struct dp_flow *flow)
{
    const struct dp_unfed *unfed = dp_shadow_of(flow)->unfed;

    return unfed && unfed->bare;
}

static void let_go(struct prl_dp *dp, struct dp_flow *flow, struct prl_hold *hold)
{
    dp_shadow_of(flow)->unfed->bare -= is_bare(hold);
    dp_hold_free(dp, hold);
}

static void push_kept(struct prl_dp *dp, struct dp_flow *flow, struct prl_hold *hold, const struct fed *fed)
{
    struct dp_unfed *unfed = dp_shadow_lend(dp, flow);

    hold->seq = fed->seq;
    hold->tcp_end = fed->tcp_end;
    unfed->bare += is_bare(hold);
    prl_chain_push(&unfed->kept, hold);
    dp->counters.kept_packets++;
}

/* Of what follows, behind a hole, the one that came before, that one's entry is enough. */
static void keep_bare(struct prl_dp *dp, struct dp_flow *flow, const struct fed *fed)
{
    const struct prl_pool *pool = &dp->held.pool;
    const struct dp_unfed *unfed = dp_shadow_of(flow)->unfed;
    struct prl_hold *last = unfed ? unfed->kept.tail : NULL, *hold = NULL;

    if (last && is_bare(last) && last->tcp_end == fed->packet.seq && !is_next(flow, last)) {
        last->tcp_end = fed->tcp_end;
        dp->counters.kept_packets++;
        return;
    }
    if (pool->capacity - pool->used > DP_BARE_RESERVE)
        hold = dp_hold_input(dp, PRL_FRAME_NONE, 0, fed->bytes, fed->lif, &fed->packet);
    if (hold)
        push_kept(dp, flow, hold, fed);
    else
        dp_shadow_give_up(dp, flow, PRL_REASON_NO_MEMORY);
}

static void keep(struct prl_dp *dp, struct dp_flow *flow, const struct fed *fed)
{
    const struct dp_unfed *unfed = dp_shadow_of(flow)->unfed;
    uint32_t kept_bytes = unfed ? unfed->kept.bytes : 0;
    struct prl_hold *hold = NULL;
    uint32_t packet = PRL_FRAME_NONE;

    if (kept_bytes + fed->bytes <= dp->config.limits.bytes_max)
        packet = prl_umem_copy(dp->umem, fed->data, fed->bytes);
    if (packet != PRL_FRAME_NONE)
        hold = dp_hold_input(dp, packet, 0, fed->bytes, fed->lif, &fed->packet);
    if (!hold) {
        if (packet != PRL_FRAME_NONE)
            prl_umem_free_packet(dp->umem, packet);
        dp_shadow_give_up(dp, flow, PRL_REASON_NO_MEMORY); /* it could not be repaired if it were lost */
        return;
    }
    push_kept(dp, flow, hold, fed);
}

/* What came before the message `seq` is acknowledged. */
static void acknowledge_before(struct prl_dp *dp, struct dp_flow *flow, uint32_t seq)
{
    struct prl_msg msg = {
        .type = PRL_MSG_ACK,
        .handle = flow->spec.handle,
        .seq = seq - 1,
        .space = dp_secondary_of(flow)->announced_edge,
    };
    struct dp_unfed *unfed = dp_shadow_of(flow)->unfed;

    if (seq == PRL_SEQ_FIRST || (unfed->acked && !prl_serial_lt(unfed->acked, msg.seq)))
        return;
    unfed->acked = msg.seq;
    dp_send(dp, &msg);
}

/* Of what is kept and cannot be fed again, the first that only the shadow lacks; NULL: there is none. What is kept with its bytes
 * is no hole of the peer's: it is acknowledged, and the socket will have it. Behind a hole of the peer's anything may be acknowledged: the
 * peer does not hear of it as received before the hole is filled, and what fills it waits for this. */
static const struct prl_hold *first_lacking(const struct dp_flow *flow)
{
    const struct dp_unfed *unfed = dp_shadow_of(flow)->unfed;
    uint32_t reach = flow->kernel->sock.rcv_nxt, before, looks = 0;
    const struct prl_hold *lacking, *first;

    if (!has_bare(flow))
        return NULL;
    do {
        before = reach;
        lacking = first = NULL;
        for (const struct prl_hold *hold = unfed->kept.head; hold; hold = hold->next) {
            bool is_reached = prl_serial_le(hold->tcp_seq, reach);

            if (is_bare(hold)) {
                first = first ? first : hold;
                lacking = is_reached && !lacking ? hold : lacking;
            } else if (is_reached) {
                reach = prl_serial_max(reach, hold->tcp_end);
            }
        }
    } while (reach != before && ++looks < DP_REACH_LOOKS);
    /* Where it is not known how far it reaches, too little is acknowledged, not too much. */
    return reach == before ? lacking : first;
}

/* Of what cannot be fed again, forgets what the socket has, as it was just looked at, and acknowledges what came before that which it
 * lacks. */
static void see(struct prl_dp *dp, struct dp_flow *flow)
{
    struct dp_shadow *shadow = dp_shadow_of(flow);
    const struct prl_hold *lacking;
    struct prl_chain left = {0};
    struct prl_hold *hold;

    while (has_kept(flow)) {
        hold = prl_chain_pop(&shadow->unfed->kept);
        if (is_bare(hold) && covered(flow, hold->tcp_end))
            let_go(dp, flow, hold);
        else
            prl_chain_push(&left, hold);
    }
    if (shadow->unfed) {
        shadow->unfed->kept = left;
        shadow->unfed->kept_tries = left.head ? shadow->unfed->kept_tries : 0;
    }
    lacking = first_lacking(flow);
    shadow->unseen = lacking != NULL;
    if (lacking)
        acknowledge_before(dp, flow, lacking->seq);
    else
        dp_shadow_owes(dp, flow);
    dp_shadow_settle(dp, flow);
}

static void differs(struct prl_dp *dp, struct dp_flow *flow)
{
    dp->counters.differences++;
    dp_shadow_give_up(dp, flow, PRL_REASON_DIVERGED);
}

/* The shadow's socket, as it was just looked at, must come to the primary's numbers, unless newer packets have come in
 * between. */
static void find_in_view(struct prl_dp *dp, struct dp_flow *flow)
{
    struct dp_shadow *shadow = dp_shadow_of(flow);
    const struct prl_sock_view *view = &flow->kernel->sock;

    if (shadow->tries == 0 || dp_secondary_of(flow)->in_next - 1 != shadow->in_seq) {
        shadow->tries = 0;
        return;
    }
    if (!dp_compare_is_possible(view->state) ||
        (view->rcv_nxt == shadow->rcv_nxt && view->snd_una == shadow->snd_una)) {
        shadow->tries = 0;
        dp->counters.compared++;
    } else if (--shadow->tries == 0) {
        differs(dp, flow);
    }
}

/* The place for one more; its bytes, if any, stay where they are until dp_verify_flush(). */
static struct fed *next_fed(struct prl_dp *dp)
{
    if (dp->verify->count == DP_FED_MAX)
        dp_verify_flush(dp);
    return &dp->verify->fed[dp->verify->count++];
}

static void await_look(struct prl_dp *dp, struct dp_flow *flow)
{
    struct dp_verify *verify = dp->verify;

    if (dp_shadow_of(flow)->unseen)
        return;
    dp_shadow_of(flow)->unseen = true;
    if (verify->unseen_count < DP_UNSEEN_MAX)
        verify->unseen[verify->unseen_count++] = flow->slot;
}

void dp_verify_fed(struct prl_dp *dp, struct dp_flow *flow, uint32_t seq, const uint8_t *data, uint16_t lif,
                   const struct prl_packet *packet)
{
    uint32_t length = packet->payload_bytes + (packet->tcp_flags & PRL_TCP_FIN ? 1 : 0);

    if (packet->proto != IPPROTO_TCP || length == 0)
        return; /* an ACK that is lost is covered by the next one */
    *next_fed(dp) = (struct fed){
        .slot = flow->slot,
        .bytes = packet->l3_bytes,
        .tcp_end = packet->seq + length,
        .seq = seq,
        .data = data,
        .lif = lif,
        .packet = *packet,
    };
    if (!data || has_bare(flow))
        await_look(dp, flow);
}

static bool is_unseen(const struct dp_flow *flow)
{
    return flow->used && flow->secondary && dp_shadow_of(flow)->unseen &&
           dp_secondary_of(flow)->state == PRL_SECONDARY_ACTIVE;
}

/* A shadow that has acknowledged what it was fed was looked at then, as its segment was stolen; rcv_nxt never goes back. */
static bool wants_look(const struct dp_flow *flow, const struct fed *fed)
{
    return fed->bytes == 0 || !flow->kernel->sock.stamp_ns || !covered(flow, fed->tcp_end);
}

void dp_verify_flush(struct prl_dp *dp)
{
    struct dp_verify *verify = dp->verify;
    uint32_t slots[PRL_SAMPLE_MAX], count = 0;

    dp_reinject_flush(dp);
    for (uint32_t i = 0; i < verify->count; i++) {
        const struct fed *fed = &verify->fed[i];

        if (wants_look(&dp->flows[fed->slot], fed) && (count == 0 || slots[count - 1] != fed->slot))
            slots[count++] = fed->slot;
        if (count == PRL_SAMPLE_MAX || (count && i + 1 == verify->count)) {
            dp->io->sample(dp->host, slots, count);
            count = 0;
        }
    }
    for (uint32_t i = 0; i < verify->count; i++) {
        struct dp_flow *flow = &dp->flows[verify->fed[i].slot];

        if (!flow->used || !flow->secondary || dp_secondary_of(flow)->state != PRL_SECONDARY_ACTIVE)
            continue;
        dp_shadow_check(dp, flow);
        if (dp_secondary_of(flow)->state != PRL_SECONDARY_ACTIVE)
            continue;
        if (verify->fed[i].bytes == 0) {
            find_in_view(dp, flow);
            if (dp_shadow_of(flow)->tries)
                dp_flow_wake(dp, flow);
        } else if (!covered(flow, verify->fed[i].tcp_end)) {
            (verify->fed[i].data ? keep : keep_bare)(dp, flow, &verify->fed[i]);
        }
    }
    for (uint32_t i = 0; i < verify->count; i++) {
        bool is_seen = i && verify->fed[i].slot == verify->fed[i - 1].slot; /* a bulk's packets come in a row */

        if (!is_seen && is_unseen(&dp->flows[verify->fed[i].slot]))
            see(dp, &dp->flows[verify->fed[i].slot]);
    }
    verify->count = 0;
}

void dp_verify_look(struct prl_dp *dp)
{
    struct dp_verify *verify = dp->verify;
    uint32_t left = 0;

    if (!verify->unseen_count)
        return;
    if (verify->count) {
        dp_verify_flush(dp);
    } else {
        dp->io->sample(dp->host, verify->unseen, verify->unseen_count);
        for (uint32_t i = 0; i < verify->unseen_count; i++)
            if (is_unseen(&dp->flows[verify->unseen[i]]))
                see(dp, &dp->flows[verify->unseen[i]]);
    }
    for (uint32_t i = 0; i < verify->unseen_count; i++)
        if (is_unseen(&dp->flows[verify->unseen[i]]))
            verify->unseen[left++] = verify->unseen[i];
    verify->unseen_count = left;
}

bool dp_verify_waits(const struct prl_dp *dp)
{
    return dp->verify->unseen_count;
}

static void feed_kept(struct prl_dp *dp, struct dp_flow *flow, const struct prl_hold *hold)
{
    struct iovec piece[PRL_PACKET_PIECES_MAX];
    uint32_t pieces = dp_hold_pieces(dp, hold, piece);

    dp_reinject(dp, flow, piece, pieces, dp_hold_packet(&dp->held, hold), hold->lif);
    dp_reinject_flush(dp);
    dp->counters.refed_packets++;
}

bool dp_verify_lacks(struct prl_dp *dp, struct dp_flow *flow)
{
    if (!has_kept(flow))
        return false;
    dp_flow_sample(dp, flow);
    for (const struct prl_hold *hold = dp_shadow_of(flow)->unfed->kept.head; hold; hold = hold->next)
        if (!is_bare(hold) && !covered(flow, hold->tcp_end) &&
            prl_serial_le(hold->tcp_seq, flow->kernel->sock.rcv_nxt))
            return true;
    return false;
}

/* The former owner's stack has acknowledged it, so that the peer will not send it again, and the session would wait for ever. */
static void lose(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_event event = {.kind = PRL_EVENT_HOLE, .handle = flow->spec.handle};

    dp->counters.holes++;
    dp_event(dp, &event, NULL, 0);
    dp_verify_forget(dp, flow);
}

/* Feeds again what is next in line and missing, and what follows it without a hole. What lies behind a hole waits: the
 * peer fills the hole. */
static void check_kept(struct prl_dp *dp, struct dp_flow *flow)
{
    struct dp_unfed *unfed = dp_shadow_of(flow)->unfed;
    uint64_t wait_ns = DP_KEPT_WAIT_NS << unfed->kept_tries;
    struct prl_chain left = {0};
    bool fed_again = false, is_owner = dp_secondary_of(flow)->state == PRL_SECONDARY_OWNER;
    struct prl_hold *hold;
    uint32_t next, tries;

    dp_flow_sample(dp, flow);
    next = flow->kernel->sock.rcv_nxt;
    while ((hold = prl_chain_pop(&unfed->kept))) {
        if (covered(flow, hold->tcp_end)) {
            let_go(dp, flow, hold);
            unfed->kept_tries = 0;
            continue;
        }
        if (prl_serial_le(hold->tcp_seq, next) && dp->now_ns - hold->arrived_ns >= wait_ns) {
            if (!is_bare(hold)) {
                feed_kept(dp, flow, hold);
                next = prl_serial_max(next, hold->tcp_end);
            }
            hold->arrived_ns = dp->now_ns;
            fed_again = true;
        }
        prl_chain_push(&left, hold);
    }
    unfed->kept = left;
    if (fed_again && !(is_owner && flow->kernel->sock.rmem_bytes)) /* a session's reader may take its time */
        unfed->kept_tries++;
    tries = unfed->kept_tries;
    if (dp_shadow_of(flow)->unseen)
        see(dp, flow); /* it may give `unfed` back */
    if (tries <= DP_KEPT_TRIES)
        dp_shadow_settle(dp, flow);
    else if (is_owner)
        lose(dp, flow);
    else
        dp_shadow_give_up(dp, flow, PRL_REASON_DIVERGED);
}

/* The former owner was not told that they are here, or its peer, that they were received: they are sent again. */
static void drop_bare(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_chain left = {0};
    struct prl_hold *hold;

    dp_shadow_of(flow)->unseen = false;
    if (!has_bare(flow))
        return;
    while ((hold = prl_chain_pop(&dp_shadow_of(flow)->unfed->kept))) {
        if (is_bare(hold))
            let_go(dp, flow, hold);
        else
            prl_chain_push(&left, hold);
    }
    dp_shadow_of(flow)->unfed->kept = left;
    dp_shadow_settle(dp, flow);
}

/* What was fed just now may wait behind the application's lock on the socket: fed again, the peer would be told of it. */
bool dp_verify_refeed(struct prl_dp *dp, struct dp_flow *flow)
{
    dp_shadow_of(flow)->tries = 0;
    drop_bare(dp, flow);
    if (!has_kept(flow))
        return false;
    dp_shadow_of(flow)->unfed->kept_tries = 0;
    check_kept(dp, flow);
    if (has_kept(flow))
        dp_flow_wake(dp, flow);
    return true;
}

void dp_verify_forget(struct prl_dp *dp, struct dp_flow *flow)
{
    while (has_kept(flow))
        let_go(dp, flow, prl_chain_pop(&dp_shadow_of(flow)->unfed->kept));
    dp_shadow_settle(dp, flow);
}

/* ---- R12a ---- */

static void find_in_socket(struct prl_dp *dp, struct dp_flow *flow)
{
    if (dp_shadow_of(flow)->tries)
        dp_flow_sample(dp, flow);
    find_in_view(dp, flow);
}

void dp_verify_compare(struct prl_dp *dp, struct dp_flow *flow, const struct prl_msg *msg)
{
    struct dp_shadow *shadow = dp_shadow_of(flow);
    const struct prl_secondary *core = dp_secondary_of(flow);

    if (core->state != PRL_SECONDARY_ACTIVE)
        return;
    if (msg->compare_flags & PRL_COMPARE_SOCKET) {
        if (core->in_next - 1 != msg->seq || core->out_next - 1 != msg->out_seq)
            return; /* not the same moment */
        if (flow->compare.hash != msg->hash) {
            differs(dp, flow);
            return;
        }
        shadow->in_seq = msg->seq;
        shadow->rcv_nxt = msg->rcv_nxt;
        shadow->snd_una = msg->snd_una;
        shadow->tries = DP_COMPARE_TRIES;
        *next_fed(dp) = (struct fed){.slot = flow->slot};
        return;
    }
    for (int i = 0; i < 2; i++) {
        if (shadow->check_seq[i] != msg->seq || msg->seq == 0)
            continue;
        if (shadow->check_hash[i] != msg->hash)
            differs(dp, flow);
        else
            dp->counters.compared++;
    }
}

/* A shadow, or a session that was one: what it was fed is to be in its socket. */
static bool is_fed(const struct dp_flow *flow)
{
    return dp_secondary_of(flow)->state == PRL_SECONDARY_ACTIVE ||
           dp_secondary_of(flow)->state == PRL_SECONDARY_OWNER;
}

bool dp_verify_is_due(const struct dp_flow *flow)
{
    return is_fed(flow) && (has_kept(flow) || dp_shadow_of(flow)->tries);
}

void dp_verify_tick(struct prl_dp *dp, struct dp_flow *flow)
{
    if (!is_fed(flow))
        return;
    if (has_kept(flow))
        check_kept(dp, flow);
    if (dp_secondary_of(flow)->state == PRL_SECONDARY_ACTIVE)
        find_in_socket(dp, flow);
}
