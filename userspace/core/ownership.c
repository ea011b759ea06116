/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/ownership.h"

#include <string.h>

static uint32_t mask_of(const struct prl_owner *owner, uint8_t state)
{
    uint32_t mask = 0;

    for (uint32_t i = 0; i < owner->config.services; i++)
        if (owner->state[i] == state)
            mask |= 1u << i;
    return mask;
}

static bool is_primary(const struct prl_owner *owner)
{
    return mask_of(owner, PRL_OWNER_OWNER) != 0;
}

/* What this node may take by itself. */
static uint32_t takeable(const struct prl_owner *owner)
{
    return mask_of(owner, PRL_OWNER_STANDBY) & ~owner->given_mask;
}

/* Who is on the LAN has heard somebody within this time, for it asks every lease_ms. */
static uint64_t presence_ns(const struct prl_owner *owner)
{
    return 2 * owner->config.lease_ns;
}

static bool has_shadows(const struct prl_owner *owner)
{
    return takeable(owner) != 0 && !owner->shadows_void;
}

/* Silent for `silent_ns` since `heard_ns`; the clock does not run backwards, but a caller's events may. */
static bool is_silent(uint64_t heard_ns, uint64_t now_ns, uint64_t silent_ns)
{
    return now_ns >= heard_ns && now_ns - heard_ns >= silent_ns;
}

/* ---- what the other node's kernel answers (L3a) ---- */

static uint64_t later(uint64_t one_ns, uint64_t other_ns)
{
    return one_ns > other_ns ? one_ns : other_ns;
}

static uint64_t newest_answer_ns(const struct prl_owner *owner)
{
    return later(owner->probes.answered_ns[0], owner->probes.answered_ns[1]);
}

/* Its kernel runs. */
static bool is_answering(const struct prl_owner *owner, uint64_t now_ns)
{
    uint64_t newest_ns = newest_answer_ns(owner);

    return newest_ns && !is_silent(newest_ns, now_ns, owner->config.dead_ns);
}

/* By each path it answered until just now, and has left PRL_OWNER_UNANSWERED probes unanswered; nothing else came either. A path
 * that was silent before says nothing, and with one alone it may be that path. */
static bool is_dead(const struct prl_owner *owner, uint64_t now_ns)
{
    const struct prl_owner_probes *probes = &owner->probes;
    uint64_t newest_ns = newest_answer_ns(owner), dead_ns = owner->config.dead_ns;

    if (!probes->mutual || !is_silent(newest_ns, now_ns, dead_ns) ||
        !is_silent(owner->last_heard_ns, now_ns, dead_ns) || !is_silent(owner->last_lan_ns, now_ns, dead_ns))
        return false;
    for (uint32_t path = 0; path < PRL_OWNER_PATHS; path++)
        if (is_silent(probes->answered_ns[path], newest_ns, owner->config.suspect_ns) ||
            probes->unanswered[path] < PRL_OWNER_UNANSWERED)
            return false;
    return true;
}

/* What an owner may say ends by its kernel's clock (prl_owner_speak_by_ns): answers neither shorten nor prolong that. */
static bool ends_by_time(const struct prl_owner *owner)
{
    return owner->config.arbiter.answer_ns || owner->config.witnessed;
}

/* How long that may last by this node's clock, from when the owner was last heard: both clocks may be wrong by 1 %, in
 * opposite directions (L2). */
static uint64_t speech_ns(const struct prl_owner *owner)
{
    return owner->config.suspect_ns + owner->config.suspect_ns / 32;
}

/* The silence after which the other node may be replaced, which depends on what it is silent in spite of. */
static uint64_t limit_ns(const struct prl_owner *owner)
{
    return owner->probes.mutual || owner->probes.confirmed_ns ? owner->config.dead_ns : owner->config.suspect_ns;
}

uint64_t prl_owner_pass_age_ns(const struct prl_owner *owner, uint64_t now_ns)
{
    return newest_answer_ns(owner) && now_ns > owner->probes.pass_ns ? now_ns - owner->probes.pass_ns : 0;
}

/* How long the other node may take, once it has said HELLO, to begin the epoch as well: its process does that, whose turn may be
 * late. Nothing is protected, and no lease lasts, before it has. */
static uint64_t begin_ns(const struct prl_owner *owner)
{
    return later(owner->config.suspect_ns, PRL_OWNER_BEGIN_NS);
}

/* Nothing comes by the link. A datapath that has had no pass since would have sent nothing, so that the link may be well; one that
 * has passes all the time would, as soon as one of them ends. */
static bool is_link_silent(const struct prl_owner *owner, uint64_t now_ns)
{
    uint64_t suspect_ns = owner->config.suspect_ns, age_ns = prl_owner_pass_age_ns(owner, now_ns);

    if (!is_silent(owner->last_heard_ns, now_ns, owner->peer_sent_ns ? suspect_ns : begin_ns(owner)))
        return is_dead(owner, now_ns);
    if (!is_answering(owner, now_ns) || age_ns >= owner->config.hung_ns)
        return true;
    return owner->probes.ran_ns && is_silent(owner->probes.ran_ns, now_ns, suspect_ns) && age_ns < suspect_ns / 2;
}

/* As standby: the host lives, and its datapath is late. If it has closed the link, it will not be back soon. */
static bool is_spared(const struct prl_owner *owner, uint64_t now_ns)
{
    uint64_t age_ns = prl_owner_pass_age_ns(owner, now_ns);

    if (!is_answering(owner, now_ns))
        return false;
    if (owner->link != PRL_LINK_DOWN)
        return age_ns < owner->config.hung_ns;
    return age_ns < owner->config.suspect_ns || !is_silent(owner->alone_ns, now_ns, owner->config.dead_ns);
}

void prl_owner_init(struct prl_owner *owner, const struct prl_owner_config *config, uint64_t now_ns)
{
    memset(owner, 0, sizeof(*owner));
    owner->config = *config;
    if (owner->config.services > PRL_SERVICES_MAX)
        owner->config.services = PRL_SERVICES_MAX;
    owner->last_tick_ns = now_ns;
    owner->last_heard_ns = now_ns;
    owner->shadows_void = 1; /* there are none yet */
    owner->lease_by_ns = UINT64_MAX;
    owner->arbiter.config = config->arbiter;
}

void prl_owner_set_state(struct prl_owner *owner, uint32_t service, uint8_t state)
{
    if (service < owner->config.services)
        owner->state[service] = state;
}

void prl_owner_give(struct prl_owner *owner, uint32_t service)
{
    prl_owner_set_state(owner, service, PRL_OWNER_STANDBY);
    if (service < owner->config.services)
        owner->given_mask |= 1u << service;
}

void prl_owner_has_shadow(struct prl_owner *owner, uint32_t service)
{
    owner->taken_mask &= ~(1u << service);
}

void prl_owner_given_is_taken(struct prl_owner *owner, uint32_t service)
{
    if (service < owner->config.services)
        owner->given_mask &= ~(1u << service);
}

bool prl_owner_owns_any(const struct prl_owner *owner)
{
    return is_primary(owner);
}

bool prl_owner_never_opens(const struct prl_owner *owner)
{
    const struct prl_arbiter_config *arbiter = &owner->config.arbiter;

    return owner->config.policy_stop || (arbiter->answer_ns && !arbiter->leases);
}

uint64_t prl_owner_speak_by_ns(const struct prl_owner *owner)
{
    uint64_t replaceable_ns = prl_owner_replaceable_ns(owner);
    uint64_t present_ns = owner->last_frame_ns + presence_ns(owner);

    if (prl_arbiter_is_won(&owner->arbiter))
        return 0;
    if (prl_arbiter_rules(&owner->arbiter))
        return owner->word_ns + owner->config.suspect_ns;
    if (!owner->config.witnessed || !replaceable_ns)
        return 0;
    return replaceable_ns > present_ns ? replaceable_ns : present_ns;
}

uint64_t prl_owner_takeover_until_ns(const struct prl_owner *owner)
{
    if (!owner->echoed_own_ns || owner->shadows_void || owner->expired)
        return 0;
    if (prl_owner_never_opens(owner))
        return UINT64_MAX; /* L5, L12: while this node may take over, the primary does not open, so the shadows stay good */
    uint64_t until_ns = owner->lease_own_ns + owner->config.takeover_ns;

    return until_ns < owner->lease_by_ns ? until_ns : owner->lease_by_ns;
}

uint64_t prl_owner_open_at_ns(const struct prl_owner *owner)
{
    if (prl_owner_never_opens(owner))
        return UINT64_MAX;
    uint64_t echo_ns = later(owner->last_echo_sent_ns, owner->probes.renewed_ns);

    return echo_ns ? echo_ns + owner->config.hold_ns : 0;
}

/* A connection that this side has drawn a conclusion from is not used again: a new epoch follows. */
static uint32_t drop_link(const struct prl_owner *owner)
{
    return owner->link == PRL_LINK_DOWN ? 0 : PRL_OWNER_DO_DROP_LINK;
}

static uint32_t fail_flows(struct prl_owner *owner)
{
    if (owner->flows_failed || !is_primary(owner))
        return 0;
    owner->flows_failed = 1;
    return PRL_OWNER_DO_FAIL_FLOWS;
}

static uint32_t fall_silent(struct prl_owner *owner, uint8_t why, uint64_t now_ns)
{
    uint32_t mask = mask_of(owner, PRL_OWNER_OWNER);

    if (why == PRL_SILENCE_STOP)
        mask &= ~owner->taken_mask; /* those are ours, for the other node does not take over what it lost */
    if (owner->silence != PRL_SILENCE_NOT || mask == 0)
        return 0;
    owner->unheard = (why == PRL_SILENCE_NO_LAN || why == PRL_SILENCE_ARBITER) &&
                     (owner->proof_by_ns != 0 || owner->flows_failed != 2);
    owner->silence = why;
    owner->silent_mask = why == PRL_SILENCE_STOP ? mask : UINT32_MAX;
    owner->silent_ns = now_ns;
    owner->silences++;
    return PRL_OWNER_DO_SILENCE;
}

static uint32_t speak(struct prl_owner *owner, uint64_t now_ns)
{
    owner->proof_by_ns = 0;
    if (owner->silence == PRL_SILENCE_NOT)
        return 0;
    owner->silence = PRL_SILENCE_NOT;
    owner->unheard = 0;
    owner->silent_mask = 0;
    if (owner->alone_ns)
        owner->alone_ns = now_ns;
    return PRL_OWNER_DO_SPEAK;
}

static uint32_t void_shadows(struct prl_owner *owner)
{
    if (!has_shadows(owner))
        return 0;
    owner->shadows_void = 1;
    owner->contends = 0;
    return PRL_OWNER_DO_VOID_SHADOWS | drop_link(owner);
}

/* The primary lives, and may have gone on alone: the shadows are void, and it need not wait for that. */
static uint32_t renounce(struct prl_owner *owner)
{
    owner->renounced = 1;
    prl_arbiter_renounced(&owner->arbiter);
    return void_shadows(owner) | PRL_OWNER_DO_RENOUNCE_LAN;
}

/* L4, L5: the shadows may have missed something from now on, for all that this node can know. If the primary was heard after
 * the lease's end, they are not even good for one that is confirmed dead: before it died, it may have gone on alone. */
static uint32_t expire(struct prl_owner *owner)
{
    if (owner->expired || !has_shadows(owner))
        return 0;
    owner->expired = 1;
    return owner->outlived ? renounce(owner) : PRL_OWNER_DO_EXPIRE | drop_link(owner);
}

static uint32_t take(struct prl_owner *owner, uint32_t mask, uint64_t first_by_ns, uint64_t now_ns)
{
    owner->take_mask = mask;
    owner->given_mask &= ~mask;
    owner->first_by_ns = first_by_ns == UINT64_MAX ? 0 : first_by_ns;
    owner->taken_ns = now_ns;
    /* L6: who took over by the lease may be the one that is cut off. Before the other may open, the LAN was heard. */
    owner->proof_by_ns = owner->first_by_ns;
    owner->taken_mask |= mask;
    for (uint32_t i = 0; i < owner->config.services; i++)
        if (mask & (1u << i))
            owner->state[i] = PRL_OWNER_OWNER;
    owner->takeovers++;
    return PRL_OWNER_DO_TAKEOVER;
}

uint32_t prl_owner_too_late(struct prl_owner *owner)
{
    for (uint32_t i = 0; i < owner->config.services; i++)
        if (owner->take_mask & (1u << i))
            owner->state[i] = PRL_OWNER_STANDBY;
    owner->take_mask = 0;
    owner->takeovers--;
    owner->proof_by_ns = 0;
    return expire(owner);
}

/* A take-over would save no session of the services without a good shadow (their set-up may have been under way), and if the
 * primary lives after all, it ends every one: suspicion takes twice as long, or half of what the lease leaves. */
static uint32_t worth_taking(const struct prl_owner *owner, uint64_t now_ns)
{
    const struct prl_owner_config *config = &owner->config;
    uint64_t left_ns = (config->takeover_ns - config->suspect_ns) / 2;

    if (is_silent(owner->last_heard_ns, now_ns, 2 * config->suspect_ns) ||
        now_ns + left_ns >= prl_owner_takeover_until_ns(owner))
        return takeable(owner);
    return takeable(owner) & owner->good_mask;
}

/* L3: until just now this node heard nothing on the LAN, and so no heartbeat of an owner that lives. The last tick of the
 * lease does not wait for one. */
static bool was_deaf(const struct prl_owner *owner, uint64_t now_ns)
{
    return owner->can_ask && owner->last_lan_ns && !is_silent(owner->deaf_ns, now_ns, presence_ns(owner)) &&
           now_ns + owner->config.lease_ns < prl_owner_takeover_until_ns(owner);
}

/* L6: its claim would be heard, as far as it knows. Where a kernel is dead so soon, what was heard before it fell silent may be
 * from before this node was cut off. */
static bool is_present(const struct prl_owner *owner, uint64_t now_ns)
{
    uint64_t word_ns = later(later(owner->last_heard_ns, owner->last_lan_ns), newest_answer_ns(owner));

    if (!owner->can_ask)
        return true;
    if (is_silent(owner->last_frame_ns, now_ns, presence_ns(owner)))
        return false;
    return !is_dead(owner, now_ns) || owner->last_frame_ns > word_ns;
}

/* A witness counts that was heard when all of the silence was over: the LAN may have parted since it answered before, and an owner
 * that is on its side speaks. What is left is the moment between its answer and the claim. */
static bool was_witnessed(const struct prl_owner *owner, uint64_t lan_ns)
{
    return is_silent(owner->last_heard_ns, owner->last_frame_ns, speech_ns(owner)) &&
           (!lan_ns || is_silent(lan_ns, owner->last_frame_ns, owner->config.suspect_ns));
}

/* L3, as secondary: link and LAN are silent and the lease lasts: take over. The lease is over: never. */
static uint32_t decide_as_secondary(struct prl_owner *owner, uint64_t now_ns)
{
    bool is_witnessed = owner->config.witnessed, is_soon = is_dead(owner, now_ns) && !is_witnessed;
    uint64_t suspect_ns = is_soon ? owner->config.dead_ns : owner->config.suspect_ns;
    /* An owner that its witness answered just now speaks yet, and the LAN may have parted since it was last heard there. */
    uint64_t lan_ns = is_witnessed ? later(owner->last_lan_ns, owner->probes.answered_ns[0]) : owner->last_lan_ns;
    uint32_t mask;

    if (owner->link == PRL_LINK_UP || !has_shadows(owner))
        return 0;
    if (now_ns >= prl_owner_takeover_until_ns(owner))
        return expire(owner);
    if (!is_silent(owner->last_heard_ns, now_ns, suspect_ns))
        return 0;
    if ((lan_ns && !is_silent(lan_ns, now_ns, suspect_ns)) || was_deaf(owner, now_ns))
        return 0; /* its next LAN heartbeat makes us renounce, the lack of one makes us take over */
    if (is_spared(owner, now_ns))
        return 0;
    if (owner->silent_mask == UINT32_MAX || !is_present(owner, now_ns))
        return 0; /* L6: the one that is cut off is this node, and its claim would reach nobody */
    mask = worth_taking(owner, now_ns);
    if (!mask)
        return 0;
    if (prl_arbiter_rules(&owner->arbiter) && !prl_arbiter_is_won(&owner->arbiter)) {
        owner->contends = 1;
        return 0;
    }
    if (is_witnessed && !was_witnessed(owner, lan_ns))
        return 0;
    if (ends_by_time(owner) && !is_silent(owner->last_heard_ns, now_ns, speech_ns(owner)))
        return 0; /* until then the owner may speak; an arbiter was asked sooner (L3a) */
    return take(owner, mask, prl_owner_takeover_until_ns(owner), now_ns) | drop_link(owner);
}

static uint32_t open_flows(struct prl_owner *owner)
{
    owner->flows_failed = 2;
    return PRL_OWNER_DO_OPEN_FLOWS | drop_link(owner);
}

/* L2, L6, as primary: once the other side cannot take over any more, and the LAN has been heard since, what is VOIDING
 * may open. Had it been taken over while the LAN was there, the claim would have fenced us. */
static uint32_t decide_as_primary(struct prl_owner *owner, uint64_t now_ns)
{
    uint64_t open_at_ns = prl_owner_open_at_ns(owner);

    if (owner->link == PRL_LINK_UP || owner->flows_failed != 1 || !is_primary(owner))
        return 0;
    if (owner->silence != PRL_SILENCE_NOT)
        return 0;
    if (prl_arbiter_is_won(&owner->arbiter))
        return open_flows(owner);
    if (prl_arbiter_rules(&owner->arbiter) || prl_owner_never_opens(owner) || now_ns < open_at_ns)
        return 0;
    if (owner->last_frame_ns < open_at_ns || owner->last_frame_ns < owner->alone_ns)
        return 0;
    return open_flows(owner);
}

uint64_t prl_owner_replaceable_ns(const struct prl_owner *owner)
{
    uint32_t old_mask =
        mask_of(owner, PRL_OWNER_OWNER) & ~owner->taken_mask; /* nobody has shadows of the others */
    uint64_t echoed_ns = owner->echoed_own_ns ? owner->echoed_own_ns : owner->former_echoed_ns;

    if (!old_mask || !echoed_ns || owner->flows_failed == 2)
        return 0;
    if (!owner->probes.confirmed_ns || ends_by_time(owner))
        return echoed_ns + owner->config.suspect_ns;
    return later(echoed_ns, owner->probes.confirmed_ns) + owner->config.dead_ns;
}

/* The other node's LAN heartbeats have stopped: one of the two is not on the LAN. */
static bool has_lost_lan_heartbeats(const struct prl_owner *owner, uint64_t now_ns)
{
    return owner->last_lan_ns && is_silent(owner->last_lan_ns, now_ns, owner->config.suspect_ns);
}

bool prl_owner_may_take(const struct prl_owner *owner, uint64_t now_ns)
{
    uint64_t word_ns = later(owner->last_heard_ns, newest_answer_ns(owner));

    return has_shadows(owner) && (owner->link != PRL_LINK_UP || is_silent(word_ns, now_ns, limit_ns(owner) / 2));
}

/* The same, where its kernel is heard on the LAN as well, and so sooner (L3a). */
static bool has_lost_lan(const struct prl_owner *owner, uint64_t now_ns)
{
    uint64_t lan_ns = later(owner->probes.lan_probed_ns, owner->probes.answered_ns[0]);

    return has_lost_lan_heartbeats(owner, now_ns) ||
           (lan_ns && is_silent(later(lan_ns, owner->last_lan_ns), now_ns, owner->config.lease_ns));
}

void prl_owner_good(struct prl_owner *owner, uint32_t mask)
{
    owner->good_mask = mask;
}

void prl_owner_carrier(struct prl_owner *owner, bool has)
{
    owner->is_unplugged = !has;
}

/* L6, L11: the LAN is watched in good time before somebody takes over on a link that does not answer, and when the other
 * node is not heard there. */
static void watch(struct prl_owner *owner, uint64_t now_ns)
{
    uint64_t replaceable_ns = prl_owner_replaceable_ns(owner);
    bool is_soon = owner->probes.confirmed_ns && !ends_by_time(owner);
    uint64_t watched_ns = is_soon ? owner->config.dead_ns / 4 : owner->config.suspect_ns / 2;
    bool may_take = prl_owner_may_take(owner, now_ns);
    bool may_lose = replaceable_ns && now_ns + watched_ns >= replaceable_ns;

    owner->is_urgent = may_take || may_lose;
    if (!owner->is_urgent && !has_lost_lan(owner, now_ns))
        owner->unsure_ns = 0;
    else if (owner->unsure_ns == 0)
        owner->unsure_ns = now_ns;
}

bool prl_owner_hears_lan(const struct prl_owner *owner, uint64_t now_ns)
{
    return !owner->is_unplugged && (!has_lost_lan_heartbeats(owner, now_ns) ||
                                    !is_silent(owner->last_frame_ns, now_ns, owner->config.hold_ns));
}

/* L11: nobody on the LAN hears this owner, or there is no carrier, but the other node hears it on the link. */
static bool is_cut_off(const struct prl_owner *owner, uint64_t now_ns)
{
    if (owner->link != PRL_LINK_UP || owner->silence != PRL_SILENCE_NOT || !is_primary(owner))
        return false;
    return owner->is_unplugged ||
           (owner->unsure_ns && is_silent(owner->unsure_ns, now_ns, owner->config.hold_ns) &&
            !prl_owner_hears_lan(owner, now_ns));
}

static uint32_t hand_over(struct prl_owner *owner, uint64_t now_ns)
{
    uint8_t tries = owner->hand_over_tries;

    if (!is_cut_off(owner, now_ns)) {
        owner->hand_over_tries = 0;
        return 0;
    }
    if (!is_silent(owner->last_hand_over_ns, now_ns, PRL_OWNER_HAND_OVER_NS << (tries ? tries - 1 : 0)))
        return 0;
    owner->last_hand_over_ns = now_ns;
    owner->hand_overs += tries == 0;
    owner->hand_over_tries += tries <= PRL_OWNER_HAND_OVER_DOUBLINGS;
    return PRL_OWNER_DO_HAND_OVER;
}

/* L12: without the arbiter's word an owner is silent before the other node may have it. In a new epoch the kernel keeps it
 * silent until the first echo, which is not worth a word. */
static uint32_t judge_word(struct prl_owner *owner, uint64_t now_ns)
{
    uint64_t speak_by_ns = prl_owner_speak_by_ns(owner);

    if (!speak_by_ns || now_ns < speak_by_ns)
        return 0;
    if (owner->link == PRL_LINK_UP && !is_silent(owner->up_ns, now_ns, owner->config.suspect_ns))
        return 0;
    return fall_silent(owner, PRL_SILENCE_ARBITER, now_ns);
}

/* L6: an owner whose link does not answer, and that does not hear the LAN either, may be the one that is cut off, and be
 * replaced without noticing: while the lease of the other side may last; only by fencing, later. */
static uint32_t judge_presence(struct prl_owner *owner, uint64_t now_ns)
{
    uint64_t replaceable_ns = prl_owner_replaceable_ns(owner);
    uint64_t heard_ns = owner->last_frame_ns > owner->unsure_ns ? owner->last_frame_ns : owner->unsure_ns;

    if (prl_arbiter_rules(&owner->arbiter))
        return judge_word(owner, now_ns);
    if (owner->silence != PRL_SILENCE_NOT || !is_primary(owner))
        return 0;
    if (replaceable_ns && now_ns >= replaceable_ns && is_silent(heard_ns, now_ns, presence_ns(owner)))
        return fall_silent(owner, PRL_SILENCE_NO_LAN, now_ns);
    if (owner->link == PRL_LINK_UP)
        return 0;
    if (owner->alone_ns > heard_ns)
        heard_ns = owner->alone_ns;
    if ((owner->proof_by_ns && now_ns >= owner->proof_by_ns) || is_silent(heard_ns, now_ns, owner->config.hold_ns))
        return fall_silent(owner, PRL_SILENCE_NO_LAN, now_ns);
    return 0;
}

/* Where the configuration has the lease decide, unless the arbiter is for the other node: from now on it does. */
static uint32_t leave_to_lease(struct prl_owner *owner, uint64_t now_ns)
{
    if (prl_arbiter_rules(&owner->arbiter) || owner->silence != PRL_SILENCE_ARBITER)
        return 0;
    return speak(owner, now_ns);
}

/* L12: who would speak without the other node asks first. The epoch ends with the question: the answer is for good. */
static uint32_t arbitrate(struct prl_owner *owner, uint64_t now_ns)
{
    bool would_speak = is_primary(owner) || owner->contends;

    if (owner->link == PRL_LINK_UP || !would_speak || !prl_arbiter_ask(&owner->arbiter, now_ns))
        return 0;
    return leave_to_lease(owner, now_ns) | PRL_OWNER_DO_ARBITRATE | drop_link(owner);
}

uint32_t prl_owner_arbitrated(struct prl_owner *owner, uint32_t round, uint8_t state, uint64_t now_ns)
{
    uint32_t todo;

    if (!prl_arbiter_answer(&owner->arbiter, round, state))
        return 0;
    if (state == PRL_ARBITER_LOST)
        return fall_silent(owner, PRL_SILENCE_ARBITER, now_ns) | void_shadows(owner);
    if (!prl_arbiter_is_won(&owner->arbiter))
        return leave_to_lease(owner, now_ns);
    todo = speak(owner, now_ns);
    todo |= decide_as_primary(owner, now_ns);
    return todo | decide_as_secondary(owner, now_ns);
}

/* This node may speak, by another word than the arbiter's. */
static uint32_t seize(struct prl_owner *owner, bool by_word)
{
    return prl_arbiter_seize(&owner->arbiter, by_word) ? PRL_OWNER_DO_ARBITRATE : 0;
}

/* The link is lost, or silent. */
static uint32_t alone(struct prl_owner *owner, uint64_t now_ns)
{
    uint32_t todo = fail_flows(owner);

    if (owner->alone_ns == 0)
        owner->alone_ns = now_ns;
    if (todo && owner->config.policy_stop)
        todo |= fall_silent(owner, PRL_SILENCE_STOP, now_ns);
    return todo;
}

/* L3a: this owner was late, but its kernel was not: the other node has had an answer of it since it could last have replaced it,
 * and heard the link then. */
static bool is_vouched_for(const struct prl_owner *owner, uint64_t now_ns)
{
    return owner->link == PRL_LINK_UP && owner->probes.confirmed_ns && now_ns < prl_owner_replaceable_ns(owner) &&
           !is_silent(owner->last_tick_ns, now_ns, owner->config.hung_ns);
}

/* L3: this detector was not running. What it did not hear meanwhile proves nothing, and it may have missed that
 * it was replaced: suspicion and the wait before opening start anew; the lease, which is the other's, does not. An
 * owner that was stopped for so long that it may have been replaced waits for word (L6): without a link nobody
 * replaces it that soon. */
static uint32_t notice_lateness(struct prl_owner *owner, uint64_t now_ns)
{
    uint64_t replaced_ns = owner->link == PRL_LINK_DOWN ? owner->config.hold_ns : owner->config.suspect_ns;
    uint32_t todo = 0;

    if (!is_silent(owner->last_tick_ns, now_ns, owner->config.late_ns))
        return 0;
    if (is_silent(owner->last_tick_ns, now_ns, replaced_ns) && !prl_arbiter_is_won(&owner->arbiter) &&
        !is_vouched_for(owner, now_ns)) {
        todo = fall_silent(owner, PRL_SILENCE_FROZEN, now_ns);
        owner->silent_ns = now_ns; /* of one that was silent before as well: what was said meanwhile is no word */
    }
    owner->last_tick_ns = now_ns;
    owner->late_ticks++;
    owner->busy = 1;
    owner->last_heard_ns = now_ns;
    memset(owner->ownerless_ns, 0, sizeof(owner->ownerless_ns));
    for (uint32_t path = 0; path < PRL_OWNER_PATHS; path++)
        owner->probes.unanswered[path] = 0;
    if (owner->last_lan_ns)
        owner->last_lan_ns = now_ns;
    if (owner->last_echo_sent_ns)
        owner->last_echo_sent_ns = now_ns;
    if (owner->alone_ns)
        owner->alone_ns = now_ns;
    if (owner->unsure_ns)
        owner->unsure_ns = now_ns;
    return todo;
}

uint32_t prl_owner_hello(struct prl_owner *owner)
{
    uint32_t todo = void_shadows(owner) & ~(uint32_t)PRL_OWNER_DO_DROP_LINK;

    owner->says_hello = 1;
    prl_arbiter_hello(&owner->arbiter);
    if (owner->echoed_own_ns) /* until the other has read it, it may take over as before */
        owner->former_echoed_ns = owner->echoed_own_ns;
    owner->echoed_own_ns = owner->lease_own_ns = owner->newest_sent_ns = 0;
    owner->lease_by_ns = UINT64_MAX;
    owner->expired = 0;
    owner->outlived = 0;
    return todo;
}

uint32_t prl_owner_link_up(struct prl_owner *owner, uint64_t now_ns)
{
    uint32_t todo = owner->link == PRL_LINK_DOWN ? 0 : prl_owner_link_down(owner, now_ns);

    owner->says_hello = 0;
    /* What was shadowed in the old epoch was failed by the primary: void to all but RESYNC (L10). */
    todo |= void_shadows(owner) & ~(uint32_t)PRL_OWNER_DO_DROP_LINK;
    owner->link = PRL_LINK_UP;
    owner->flows_failed = 0;
    owner->renounced = 0;
    owner->given_mask = 0; /* what was not read in the old epoch never will be */
    owner->shadows_void = 0;
    owner->expired = 0;
    owner->taken_mask = 0;
    owner->alone_ns = 0;
    todo |= speak(owner, now_ns); /* HELLO has settled who owns what */
    prl_arbiter_link_up(&owner->arbiter);
    owner->contends = 0;
    owner->up_ns = now_ns;
    memset(owner->ownerless_ns, 0, sizeof(owner->ownerless_ns));
    owner->last_heard_ns = now_ns;
    owner->peer_sent_ns = 0;
    owner->echoed_own_ns = owner->lease_own_ns = owner->former_echoed_ns = owner->newest_sent_ns = 0;
    owner->lease_by_ns = UINT64_MAX;
    owner->outlived = 0;
    /* last_echo_sent_ns stays: the other side may still believe in the old epoch, and its lease. */
    return todo | PRL_OWNER_DO_LEASE;
}

uint32_t prl_owner_link_down(struct prl_owner *owner, uint64_t now_ns)
{
    uint32_t todo = notice_lateness(owner, now_ns);

    owner->link = PRL_LINK_DOWN;
    owner->peer_sent_ns = 0;
    todo |= alone(owner, now_ns);
    todo |= decide_as_secondary(owner, now_ns);
    return todo | arbitrate(owner, now_ns);
}

uint32_t prl_owner_heard(struct prl_owner *owner, uint64_t now_ns)
{
    if (owner->link == PRL_LINK_DOWN)
        return 0;
    owner->last_heard_ns = now_ns;
    owner->probes.ran_ns = 0;
    if (owner->link == PRL_LINK_SUSPECT) {
        owner->link = PRL_LINK_UP;
        owner->false_suspects++;
        owner->flows_failed = 0; /* VOID was sent in this epoch: each flow opens on its own VOID_ACK */
        owner->alone_ns = 0;
    }
    return 0;
}

static void note_sent(struct prl_owner *owner, uint64_t sent_ns)
{
    if (sent_ns > owner->newest_sent_ns)
        owner->newest_sent_ns = sent_ns;
}

/* The lease by the other node's clock, when it sent `sent_ns`: our clock may have stood still. What is heard was sent
 * before now_ns, so that the lease is never shortened while both clocks run. */
static void age_lease(struct prl_owner *owner, uint64_t sent_ns, uint64_t now_ns)
{
    uint64_t takeover_ns = owner->config.takeover_ns, gone_ns, by_ns;

    if (!owner->echoed_own_ns || sent_ns <= owner->echo_at_ns)
        return;
    gone_ns = sent_ns - owner->echo_at_ns;
    by_ns = gone_ns < takeover_ns ? now_ns + takeover_ns - gone_ns : now_ns;
    if (by_ns < owner->lease_by_ns)
        owner->lease_by_ns = by_ns;
}

/* What was sent then was sent after the lease had ended. */
static bool is_beyond_lease(const struct prl_owner *owner, uint64_t sent_ns)
{
    return owner->echoed_own_ns && !prl_owner_never_opens(owner) &&
           sent_ns >= owner->echo_at_ns + owner->config.takeover_ns;
}

/* The other had what this node sent at `own_ns`, when it sent something at `sent_ns` of its clock. */
static void renew(struct prl_owner *owner, uint64_t own_ns, uint64_t sent_ns)
{
    if (own_ns <= owner->lease_own_ns)
        return;
    owner->lease_own_ns = own_ns;
    owner->echo_at_ns = sent_ns;
    owner->lease_by_ns = UINT64_MAX;
    owner->outlived = is_beyond_lease(owner, owner->newest_sent_ns); /* what came may have waited for long */
}

uint32_t prl_owner_lease(struct prl_owner *owner, uint64_t sent_ns, uint64_t echo_ns, uint32_t flags,
                         uint64_t now_ns)
{
    uint32_t todo = prl_owner_heard(owner, now_ns);

    (void)flags; /* PRL_LEASE_BUSY explains a silence that has just ended: being heard is all that counts */
    if (owner->link == PRL_LINK_DOWN)
        return todo;
    if (sent_ns > owner->peer_sent_ns)
        owner->peer_sent_ns = sent_ns;
    note_sent(owner, sent_ns);
    /* Only what was really sent can have been echoed. */
    if (echo_ns > owner->echoed_own_ns && echo_ns <= owner->last_lease_sent_ns) {
        owner->echoed_own_ns = owner->word_ns = echo_ns;
        prl_arbiter_together(&owner->arbiter);
        renew(owner, echo_ns, sent_ns);
    }
    age_lease(owner, owner->newest_sent_ns, now_ns);
    /* The other has read, before this LEASE of ours, that it was taken: its word is as good as the LAN's. */
    if (owner->echoed_own_ns > owner->taken_ns)
        owner->proof_by_ns = 0;
    /* L6: who takes over leaves the link. So when it sent this, after ours of after we fell silent, it had not. */
    if (owner->silence != PRL_SILENCE_NOT && owner->echoed_own_ns > owner->silent_ns)
        todo |= speak(owner, now_ns);
    return todo;
}

uint32_t prl_owner_lan_heard(struct prl_owner *owner, uint64_t sent_ns, uint64_t now_ns)
{
    uint64_t overtaken_ns = 2 * owner->config.lease_ns;
    uint32_t todo = notice_lateness(owner, now_ns);

    owner->last_lan_ns = now_ns;
    note_sent(owner, sent_ns);
    age_lease(owner, sent_ns, now_ns);
    if (!has_shadows(owner)) {
        /* It has won, and nothing to go on with: the owner may, and is told until it has heard. */
        bool is_idle = owner->link == PRL_LINK_DOWN && prl_arbiter_is_won(&owner->arbiter) && takeable(owner);

        return is_idle ? todo | renounce(owner) : todo;
    }
    /* With the link up its messages may only be late, behind much data: the lease has aged, so that nothing is taken over.
     * The shadows stay until the link is lost, or a newer lease shows that the primary has not gone on alone. */
    if (owner->link == PRL_LINK_UP) {
        owner->outlived |= is_beyond_lease(owner, sent_ns);
        return todo;
    }
    /* A heartbeat that was on its way when the primary died proves nothing. One of after the lease does, whatever our
     * clock says: since then the primary may have gone on alone. */
    if (!is_beyond_lease(owner, sent_ns) && !is_silent(owner->last_heard_ns, now_ns, overtaken_ns))
        return todo;
    return todo | renounce(owner);
}

void prl_owner_probes(struct prl_owner *owner, bool on)
{
    uint64_t renewed_ns =
        owner->probes.renewed_ns; /* as last_echo_sent_ns: the other may believe in the old epoch yet */

    memset(&owner->probes, 0, sizeof(owner->probes));
    owner->probes.on = on && owner->config.probe_ns;
    owner->probes.renewed_ns = renewed_ns;
}

uint64_t prl_owner_take_probe(struct prl_owner *owner, uint32_t path, uint64_t now_ns)
{
    struct prl_owner_probes *probes = &owner->probes;

    if (probes->sent_ns[path] > probes->answered_sent_ns[path])
        probes->unanswered[path]++;
    probes->sent_ns[path] = now_ns;
    return probes->at_ns;
}

void prl_owner_asked(struct prl_owner *owner, uint64_t renewed_ns, uint64_t confirmed_ns, uint64_t lan_probed_ns)
{
    struct prl_owner_probes *probes = &owner->probes;

    probes->renewed_ns = later(probes->renewed_ns, renewed_ns);
    if (!probes->on)
        return;
    probes->confirmed_ns = later(probes->confirmed_ns, confirmed_ns);
    probes->lan_probed_ns = later(probes->lan_probed_ns, lan_probed_ns);
}

bool prl_owner_leases(const struct prl_owner *owner)
{
    return owner->link == PRL_LINK_UP && is_primary(owner) && owner->flows_failed == 0;
}

uint32_t prl_owner_answer(struct prl_owner *owner, const struct prl_answer *answer, uint64_t now_ns)
{
    struct prl_owner_probes *probes = &owner->probes;
    uint32_t path = answer->path, todo = notice_lateness(owner, now_ns);
    uint64_t pass_ns = now_ns > answer->pass_ns ? now_ns - answer->pass_ns : 0;

    if (!probes->on || path >= PRL_OWNER_PATHS || answer->sent_ns > probes->sent_ns[path] ||
        answer->sent_ns <= probes->answered_sent_ns[path])
        return todo;
    probes->answered_sent_ns[path] = answer->sent_ns;
    probes->answered_ns[path] = now_ns;
    probes->unanswered[path] = 0;
    probes->mutual |= answer->known_ns != 0;
    if (path == 0 && !owner->config.witnessed) /* the LAN, in both directions */
        prl_owner_frame(owner, now_ns);
    if (answer->at_ns > probes->at_ns) {
        probes->at_ns = answer->at_ns;
        probes->pass_ns = pass_ns;
        if (!probes->ran_ns && pass_ns > owner->last_heard_ns + owner->config.lease_ns)
            probes->ran_ns = now_ns;
    }
    /* The lease is renewed while it lasts: whoever answers once it is over, may be about to open. */
    if (answer->leases && has_shadows(owner) && now_ns < prl_owner_takeover_until_ns(owner))
        renew(owner, answer->sent_ns, answer->at_ns);
    note_sent(owner, answer->at_ns);
    age_lease(owner, answer->at_ns, now_ns);
    if (!has_shadows(owner))
        return todo;
    if (owner->link == PRL_LINK_UP) {
        owner->outlived |= is_beyond_lease(owner, answer->at_ns);
        return todo;
    }
    /* As a LAN heartbeat: its datapath has had a pass since the link fell silent, and may go on alone. */
    if (!is_beyond_lease(owner, answer->at_ns) && pass_ns < owner->last_heard_ns + 2 * owner->config.lease_ns)
        return todo;
    return todo | renounce(owner);
}

enum prl_rival prl_owner_rival(const struct prl_owner *owner, uint32_t service, uint8_t own_term, uint8_t term)
{
    int8_t ahead = (int8_t)(term - own_term);

    if (service >= owner->config.services || owner->state[service] != PRL_OWNER_OWNER || ahead == 0)
        return PRL_RIVAL_NOT;
    return ahead > 0 ? PRL_RIVAL_NEWER : PRL_RIVAL_OLDER;
}

uint32_t prl_owner_word(struct prl_owner *owner, const struct prl_word *word, uint64_t now_ns)
{
    uint32_t service = word->service, mask;
    uint64_t until_ns = prl_owner_takeover_until_ns(owner);
    uint64_t *since_ns;
    uint8_t state;

    if (service >= owner->config.services)
        return 0;
    mask = 1u << service;
    since_ns = &owner->ownerless_ns[service];
    state = owner->state[service];
    if (word->owned || word->moves || owner->link != PRL_LINK_UP ||
        (state != PRL_OWNER_STANDBY && state != PRL_OWNER_FENCED)) {
        *since_ns = 0;
        return 0;
    }
    if (*since_ns == 0)
        *since_ns = now_ns;
    if (word->fenced && takeable(owner) & mask && has_shadows(owner) && now_ns < until_ns &&
        is_silent(*since_ns, now_ns, owner->config.suspect_ns) && prl_owner_hears_lan(owner, now_ns) &&
        (!prl_arbiter_rules(&owner->arbiter) || prl_arbiter_is_won(&owner->arbiter))) {
        *since_ns = 0;
        return take(owner, mask, until_ns, now_ns) | drop_link(owner);
    }
    if (!is_silent(*since_ns, now_ns, owner->config.hold_ns))
        return 0;
    *since_ns = 0;
    return drop_link(owner);
}

uint32_t prl_owner_lan_renounced(struct prl_owner *owner, uint64_t now_ns)
{
    uint32_t todo;

    if (!is_primary(owner) || (owner->flows_failed == 2 && owner->arbiter.state != PRL_ARBITER_LOST))
        return 0;
    /* L12: it may be in the next epoch by now, and have asked there. */
    if (owner->says_hello && prl_arbiter_rules(&owner->arbiter))
        return 0;
    todo = fail_flows(owner) | open_flows(owner) | seize(owner, true);
    /* L12: the other node lives, and may have won for what it owns itself: of that no shadow of ours may speak, and by the
     * arbiter's word, which is now ours as well, it might. */
    if (owner->arbiter.state == PRL_ARBITER_WON && has_shadows(owner))
        todo |= renounce(owner);
    return todo |
           speak(owner, now_ns); /* L6: word over the LAN of a node that has not taken over, and cannot now */
}

void prl_owner_neighbours(struct prl_owner *owner, bool can_ask)
{
    owner->can_ask = can_ask;
}

int prl_owner_watches(const struct prl_owner *owner)
{
    return owner->unsure_ns || (is_primary(owner) && (owner->link != PRL_LINK_UP || owner->proof_by_ns));
}

void prl_owner_frame(struct prl_owner *owner, uint64_t seen_ns)
{
    if (is_silent(owner->last_frame_ns, seen_ns, owner->config.suspect_ns))
        owner->present_ns = seen_ns;
    if (seen_ns > owner->last_frame_ns)
        owner->last_frame_ns = seen_ns;
    if (seen_ns >= owner->taken_ns && seen_ns <= owner->proof_by_ns)
        owner->proof_by_ns = 0;
}

bool prl_owner_is_deaf(const struct prl_owner *owner)
{
    return owner->deaf_ns && owner->deaf_ns == owner->last_ask_ns;
}

uint32_t prl_owner_woke(struct prl_owner *owner, uint64_t now_ns)
{
    return notice_lateness(owner, now_ns);
}

uint32_t prl_owner_unanswered(struct prl_owner *owner, uint64_t probed_ns, uint64_t now_ns)
{
    uint32_t todo;

    if (owner->silence == PRL_SILENCE_NOT || owner->silence == PRL_SILENCE_STOP || probed_ns < owner->silent_ns)
        return 0;
    if (prl_arbiter_rules(&owner->arbiter)) /* nobody answers in the part of a network that is left, either */
        return 0;
    if (owner->present_ns > probed_ns || owner->last_frame_ns < probed_ns ||
        is_silent(owner->last_frame_ns, now_ns, owner->config.suspect_ns))
        return 0;
    if (owner->flows_failed != 2 && now_ns < prl_owner_open_at_ns(owner))
        return 0;
    todo = speak(owner, now_ns);
    return todo | decide_as_primary(owner, now_ns);
}

void prl_owner_policy(struct prl_owner *owner, uint32_t policy_stop)
{
    owner->config.policy_stop = policy_stop;
}

/* How often the neighbours are asked: what waits for an answer waits no longer than a lease interval. */
static uint32_t ask(struct prl_owner *owner, uint64_t now_ns)
{
    bool waits =
        owner->flows_failed == 1 || owner->is_urgent || owner->proof_by_ns || owner->silence != PRL_SILENCE_NOT;

    if (!prl_owner_watches(owner) ||
        !is_silent(owner->last_ask_ns, now_ns, waits ? owner->config.lease_ns : PRL_OWNER_ASK_NS))
        return 0;
    if (owner->last_ask_ns >= owner->unsure_ns && owner->last_frame_ns < owner->last_ask_ns)
        owner->deaf_ns = now_ns;
    owner->last_ask_ns = now_ns;
    return PRL_OWNER_DO_ASK;
}

static uint64_t next_probe_ns(const struct prl_owner *owner, uint32_t path)
{
    const struct prl_owner_probes *probes = &owner->probes;
    uint64_t every_ns = owner->config.probe_ns;

    if (!probes->on)
        return UINT64_MAX;
    if (probes->sent_ns[path] > probes->answered_sent_ns[path])
        every_ns = probes->unanswered[path] < PRL_OWNER_HURRY ? every_ns / 2 : owner->config.lease_ns;
    return probes->sent_ns[path] + every_ns;
}

static uint32_t probe(struct prl_owner *owner, uint64_t now_ns)
{
    owner->probe_mask = 0;
    for (uint32_t path = 0; path < PRL_OWNER_PATHS; path++)
        if (now_ns >= next_probe_ns(owner, path))
            owner->probe_mask |= 1u << path;
    return owner->probe_mask ? PRL_OWNER_DO_PROBE : 0;
}

uint32_t prl_owner_tick(struct prl_owner *owner, uint64_t now_ns)
{
    const struct prl_owner_config *config = &owner->config;
    uint32_t todo = 0;

    todo |= notice_lateness(owner, now_ns);
    owner->last_tick_ns = now_ns;
    if (owner->link == PRL_LINK_UP && is_link_silent(owner, now_ns)) {
        owner->link = PRL_LINK_SUSPECT;
        owner->suspects++;
    }
    if (owner->link != PRL_LINK_UP) {
        todo |= alone(owner, now_ns);
        todo |= decide_as_secondary(owner, now_ns);
        todo |= decide_as_primary(owner, now_ns);
        todo |= arbitrate(owner, now_ns);
    }
    watch(owner, now_ns);
    todo |= judge_presence(owner, now_ns);
    todo |= hand_over(owner, now_ns);
    todo |= ask(owner, now_ns) | probe(owner, now_ns);
    if (owner->link == PRL_LINK_SUSPECT && is_silent(owner->last_heard_ns, now_ns, config->hold_ns))
        todo |= PRL_OWNER_DO_DROP_LINK;
    if (is_silent(owner->last_lease_sent_ns, now_ns, config->lease_ns)) {
        todo |= PRL_OWNER_DO_LEASE;
        if (owner->link == PRL_LINK_DOWN)
            owner->last_lease_sent_ns = now_ns; /* the LAN heartbeat alone: nobody takes its numbers */
    }
    return todo;
}

uint64_t prl_owner_next_ns(const struct prl_owner *owner)
{
    uint64_t next_ns = owner->last_lease_sent_ns + owner->config.lease_ns;
    uint64_t replaceable_ns = prl_owner_replaceable_ns(owner);

    if (replaceable_ns > owner->last_tick_ns && replaceable_ns < next_ns)
        next_ns = replaceable_ns;
    for (uint32_t path = 0; path < PRL_OWNER_PATHS; path++)
        if (next_probe_ns(owner, path) < next_ns)
            next_ns = next_probe_ns(owner, path);
    return next_ns;
}

void prl_owner_take_lease(struct prl_owner *owner, uint64_t now_ns, struct prl_lease_out *out)
{
    memset(out, 0, sizeof(*out));
    out->sent_ns = now_ns;
    out->flags = owner->busy;
    owner->busy = 0;
    owner->last_lease_sent_ns = now_ns;
    /* A suspect link gets no echo: who waits to open must not prolong what it waits for. */
    if (owner->link == PRL_LINK_UP && owner->peer_sent_ns) {
        out->echo_ns = owner->peer_sent_ns;
        owner->last_echo_sent_ns = now_ns;
    }
}

uint32_t prl_owner_renounced(struct prl_owner *owner, uint32_t service, uint64_t now_ns)
{
    uint64_t until_ns = prl_owner_takeover_until_ns(owner);

    if (service >= owner->config.services || owner->state[service] != PRL_OWNER_STANDBY || now_ns >= until_ns)
        return 0;
    return take(owner, 1u << service, until_ns, now_ns);
}

uint32_t prl_owner_request(struct prl_owner *owner, uint32_t service, int fenced, uint64_t now_ns,
                           uint8_t *refused)
{
    bool is_known = service < owner->config.services;
    uint8_t state = is_known ? owner->state[service] : PRL_OWNER_NONE;
    uint32_t todo;

    *refused = PRL_REFUSED_NOT;
    if (state == PRL_OWNER_OWNER && fenced == PRL_FENCED_BY_OPERATOR && owner->silence != PRL_SILENCE_NOT) {
        todo = speak(owner, now_ns) | fail_flows(owner) | seize(owner, false);
        return todo | open_flows(owner);
    }
    if (state == PRL_OWNER_OWNER)
        *refused = PRL_REFUSED_OWNER;
    else if (!is_known || (!fenced && (state != PRL_OWNER_STANDBY || !owner->echoed_own_ns)))
        *refused = PRL_REFUSED_NO_LINK_YET;
    else if (!fenced && (now_ns >= prl_owner_takeover_until_ns(owner) || owner->given_mask & 1u << service))
        *refused = PRL_REFUSED_LEASE_OVER;
    else if (!fenced && prl_arbiter_rules(&owner->arbiter) && !prl_arbiter_is_won(&owner->arbiter))
        *refused = PRL_REFUSED_ARBITER;
    else if (fenced == PRL_FENCED_BY_HOOK && (!owner->expired || !has_shadows(owner)))
        *refused = PRL_REFUSED_HEARD;
    if (*refused != PRL_REFUSED_NOT)
        return 0;
    todo = fenced ? seize(owner, false) : 0;
    todo |= take(owner, 1u << service, fenced ? 0 : prl_owner_takeover_until_ns(owner), now_ns);
    return todo | drop_link(owner);
}
