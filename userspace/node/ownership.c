/* SPDX-License-Identifier: BSD-2-Clause */
#include "flow/dp.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define LAN_MAGIC 0x50524c48u /* "PRLH" */
#define LAN_TAG_BYTES 16
#define LAN_HEARTBEAT 1
#define LAN_RENOUNCE 2
#define LAN_TELLS 0x80
#define LAN_OWNS 0x40
#define LAN_SERVICE 0x0f
_Static_assert(PRL_SERVICES_MAX == LAN_SERVICE + 1, "four bits tell the service");

/* LAN heartbeat, in network order. Each tells of one service, in turn, whether its sender owns it, and in which term; a
 * node from before that sends and reads zeros there. The tag is the front of HMAC-SHA256 over everything before it. */
struct lan_message {
    uint32_t magic;
    uint8_t type;
    uint8_t node_index;
    uint8_t role; /* LAN_TELLS, LAN_OWNS, the service */
    uint8_t term; /* low 8 bits */
    uint64_t epoch;
    uint64_t counter; /* sender's CLOCK_BOOTTIME: only ever grows (replays are refused) */
    uint8_t tag[LAN_TAG_BYTES];
};

/* For whoever traces (probes.h): what is done, and how long the other node has not been heard on the link. */
static void trace_step(const struct prl_dp *dp, const char *step, uint32_t services)
{
    PRL_PROBE3(ownership, step, services, dp_clock_ns(dp) - dp->owner.last_heard_ns);
}

/* ---- LAN heartbeats (L3): they trigger or veto, and never renew a lease ---- */

static void lan_tag(const struct prl_dp *dp, const struct lan_message *message, uint8_t tag[LAN_TAG_BYTES])
{
    uint8_t whole[EVP_MAX_MD_SIZE];
    unsigned int bytes = sizeof(whole);

    memset(whole, 0, sizeof(whole));
    HMAC(EVP_sha256(), dp->lan_key, sizeof(dp->lan_key), (const uint8_t *)message,
         offsetof(struct lan_message, tag), whole, &bytes);
    memcpy(tag, whole, LAN_TAG_BYTES);
}

/* An owner that is silent does not know whether it is one. */
static void lan_tell(struct prl_dp *dp, struct lan_message *message)
{
    uint32_t service = dp->lan_service++ % dp->config.owner.services;
    bool owns = dp->owner.state[service] == PRL_OWNER_OWNER && !(dp->owner.silent_mask & 1u << service);

    message->role = (uint8_t)(LAN_TELLS | (owns ? LAN_OWNS : 0) | service);
    message->term = (uint8_t)dp->node->terms[service];
}

static void lan_send(struct prl_dp *dp, uint8_t type)
{
    struct lan_message message = {
        .magic = htonl(LAN_MAGIC),
        .type = type,
        .node_index = (uint8_t)dp->config.node_index,
        .epoch = htobe64(dp->epoch),
        .counter = htobe64(dp_clock_ns(dp)),
    };

    if (!dp->lan_key_known)
        return;
    if (dp->config.owner.services)
        lan_tell(dp, &message);
    lan_tag(dp, &message, message.tag);
    if (dp->io->lan_send(dp->host, &message, sizeof(message)) == sizeof(message))
        dp->counters.lan_tx++;
}

static void fence(struct prl_dp *dp, uint32_t service)
{
    struct prl_event event = {.kind = PRL_EVENT_FENCED, .service = service};

    trace_step(dp, "fenced", 1u << service);
    dp_owner_set(dp, service, PRL_OWNER_FENCED);
    dp_primary_fence_service(dp, service);
    dp_event(dp, &event, NULL, 0);
}

/* The claim of a new owner may not have come, or have come before this machine went on after a pause. */
static void lan_judge(struct prl_dp *dp, const struct lan_message *message)
{
    const uint8_t both = LAN_TELLS | LAN_OWNS;
    uint32_t service = message->role & LAN_SERVICE;
    enum prl_rival rival;

    if ((message->role & both) != both)
        return;
    rival = prl_owner_rival(&dp->owner, service, (uint8_t)dp->node->terms[service], message->term);
    if (rival == PRL_RIVAL_NEWER)
        fence(dp, service);
    else if (rival == PRL_RIVAL_OLDER && dp->claims_mask & 1u << service)
        dp->claims_next_ns = 0; /* it is told at once */
}

void dp_owner_lan(struct prl_dp *dp)
{
    for (uint32_t i = 0; i < DP_BATCH; i++) {
        struct lan_message message;
        uint8_t tag[LAN_TAG_BYTES];
        ssize_t got = dp->io->lan_receive(dp->host, &message, sizeof(message));

        if (got < 0)
            return; /* nothing more, or an ICMP error: the other node's prld is not there */
        if (got != sizeof(message) || !dp->lan_key_known || ntohl(message.magic) != LAN_MAGIC ||
            message.node_index == dp->config.node_index || be64toh(message.epoch) != dp->epoch) {
            dp->counters.lan_refused++;
            continue;
        }
        lan_tag(dp, &message, tag);
        if (CRYPTO_memcmp(tag, message.tag, sizeof(tag)) != 0 ||
            be64toh(message.counter) <= dp->lan_counter_seen) {
            dp->counters.lan_refused++;
            continue;
        }
        dp->lan_counter_seen = be64toh(message.counter);
        dp->counters.lan_rx++;
        lan_judge(dp, &message);
        if (message.type == LAN_RENOUNCE)
            dp_owner_do(dp, prl_owner_lan_renounced(&dp->owner, dp->now_ns));
        else
            dp_owner_do(dp, prl_owner_lan_heard(&dp->owner, dp->lan_counter_seen, dp->now_ns));
    }
}

/* ---- claims, defence, questions (L6, L7) ---- */

static bool send_frame(struct prl_dp *dp, const uint8_t *frame, uint32_t bytes, uint32_t lif)
{
    return dp->io->send_frame(dp->host, lif, frame, bytes) == 0;
}

/* To all, and to each neighbour that may have missed that, or not believe it. Returns the frames sent. */
static uint32_t send_to_all(struct prl_dp *dp, uint8_t *frame, uint32_t bytes, uint32_t lif, bool is_v4)
{
    uint32_t sent = send_frame(dp, frame, bytes, lif);

    for (uint32_t i = 0; i < dp->neighbours; i++) {
        const struct prl_dp_neighbour *neighbour = &dp->neighbour[i];

        if (neighbour->lif != lif || prl_addr_is_v4(neighbour->addr) != is_v4)
            continue;
        memcpy(frame, neighbour->mac, ETH_ALEN);
        sent += send_frame(dp, frame, bytes, lif);
    }
    return sent;
}

/* Says that `address` is here: with our token it is a claim, without one (NULL) the address is defended. */
static uint32_t announce(struct prl_dp *dp, const struct prl_dp_address *address, const uint8_t *token)
{
    uint8_t frame[PRL_CRAFT_MAX];
    uint32_t lif = address->lif, sent = 0;
    const uint8_t *mac = dp->config.lif[lif].mac;

    if (prl_addr_is_v4(address->addr)) {
        sent += send_to_all(dp, frame, prl_packet_claim_arp(address->addr, mac, false, token, frame), lif, true);
        sent += send_to_all(dp, frame, prl_packet_claim_arp(address->addr, mac, true, token, frame), lif, true);
    } else {
        sent += send_to_all(dp, frame, prl_packet_claim_na(address->addr, mac, token, frame), lif, false);
    }
    return sent;
}

static bool input_arrived(const struct prl_dp *dp)
{
    bool any = false;

    for (uint32_t i = 0; i < dp->flows_top; i++) {
        const struct dp_flow *flow = &dp->flows[i];

        if (!flow->used || !(dp->claims_mask & 1u << flow->service) ||
            !(flow->kernel->flags & (PRL_FLOW_OPEN | PRL_FLOW_RELAY)))
            continue;
        if (flow->kernel->in_passed + flow->kernel->in_redirected == 0)
            return false;
        any = true;
    }
    return any;
}

/* An owner that has not taken its service over tells the peers where it is, and silences nobody: by the time at which a
 * claim of its arrives, the other node may have replaced it. */
static const uint8_t *token_of(const struct prl_dp *dp, uint32_t service)
{
    if (dp->claims_slow_mask & 1u << service)
        return dp->claims_token;
    return dp->owner.taken_mask & 1u << service ? dp->own_token : NULL;
}

/* Fast at first; then slowly, for as long as the old owner has not said on the link that it knows: it may come back to
 * the LAN at any time. When it has said so before, until the peers have heard it. */
static void claims_tick(struct prl_dp *dp)
{
    if (!dp->claims_mask || dp->now_ns < dp->claims_next_ns)
        return;
    if (dp->link_up && dp->owner.peer_sent_ns) { /* its LEASE in this epoch: it has read our HELLO */
        dp->claims_slow_mask = 0;
        if (input_arrived(dp))
            dp->claims_left = 0;
    }
    if (!dp->claims_left && (dp->claims_mask &= dp->claims_slow_mask) == 0)
        return;
    for (uint32_t i = 0; i < dp->config.addresses; i++) {
        const struct prl_dp_address *address = &dp->config.address[i];

        if (dp->claims_mask & 1u << address->service && dp->owner.state[address->service] == PRL_OWNER_OWNER)
            dp->counters.claims_sent += announce(dp, address, token_of(dp, address->service));
    }
    dp->claims_next_ns = dp->now_ns + PRL_CLAIM_SLOW_NS;
    if (dp->claims_left) {
        dp->claims_left--;
        dp->claims_next_ns = dp->now_ns + PRL_DP_CLAIM_INTERVAL_MS * 1000000ull;
    }
}

static void start_claims(struct prl_dp *dp, uint32_t mask)
{
    dp->claims_mask |= mask;
    dp->claims_left = PRL_DP_CLAIM_BURSTS;
    dp->claims_next_ns = 0;
    claims_tick(dp);
}

static const uint8_t *own_address(const struct prl_dp *dp, bool is_v4)
{
    static const uint8_t none[16];
    const uint8_t *own = dp->config.own_addr[!is_v4];

    return memcmp(own, none, sizeof(none)) ? own : NULL;
}

/* From which address the neighbour can be asked; NULL: not at all. Of other routing instances this node knows no address
 * of its own; the LAN speaks for all. */
static const uint8_t *asks_from(const struct prl_dp *dp, const struct prl_dp_neighbour *neighbour)
{
    return neighbour->lif == 0 ? own_address(dp, prl_addr_is_v4(neighbour->addr)) : NULL;
}

/* Each neighbour on the LAN is asked for its own address, from ours: who answers hears us, and we hear the LAN. A node that
 * knows none asks all nodes, and so does one that got no answer: those that it knows may all be gone. */
static void ask(struct prl_dp *dp)
{
    const uint8_t *own = own_address(dp, false), *mac = dp->config.lif[0].mac;
    uint8_t frame[PRL_CRAFT_MAX];
    uint32_t asked = 0;

    for (uint32_t i = 0; i < dp->neighbours; i++) {
        const struct prl_dp_neighbour *neighbour = &dp->neighbour[i];
        const uint8_t *from = asks_from(dp, neighbour);

        if (from)
            asked += send_frame(dp, frame, prl_packet_ask(from, mac, neighbour->addr, neighbour->mac, frame), 0);
    }
    if (own && (!asked || prl_owner_is_deaf(&dp->owner)))
        asked += send_frame(dp, frame, prl_packet_ask_all(own, mac, frame), 0);
    dp->counters.asks_sent += asked;
}

/* Somebody without the token says that one of our addresses is his (L7): never silent for that; the neighbours are told
 * again that it is here, and the control plane that it happened. */
static void defend(struct prl_dp *dp, uint32_t index, uint64_t foreign_claims)
{
    uint64_t more = foreign_claims - dp->foreign_seen[index];
    char text[INET6_ADDRSTRLEN], words[256];
    const uint8_t *addr = dp->config.address[index].addr;
    bool is_v4 = prl_addr_is_v4(addr);

    if (more == 0)
        return;
    if (dp->now_ns >= dp->alarm_next_ns[index]) {
        inet_ntop(is_v4 ? AF_INET : AF_INET6, is_v4 ? addr + 12 : addr, text, sizeof(text));
        snprintf(
            words, sizeof(words),
            "%s is claimed by somebody who is not the other node (%llu times): it is defended; find the machine "
            "that uses this address",
            text, (unsigned long long)more);
        dp_alarm(dp, words);
        dp->alarm_next_ns[index] = dp->now_ns + PRL_DP_ALARM_INTERVAL_MS * 1000000ull;
    }
    if (dp->now_ns < dp->defend_next_ns[index])
        return;
    dp->foreign_seen[index] = foreign_claims;
    dp->defend_next_ns[index] = dp->now_ns + PRL_DP_DEFEND_INTERVAL_MS * 1000000ull;
    if (announce(dp, &dp->config.address[index], NULL))
        dp->counters.defences++;
}

/* ---- roles ---- */

static struct prl_addr_key address_key(const struct prl_dp *dp, const struct prl_dp_address *address, uint32_t lif)
{
    struct prl_addr_key key = {.ifindex = dp->config.lif[lif].ifindex};

    memcpy(key.addr, address->addr, sizeof(key.addr));
    return key;
}

/* Whether a service of another routing instance has the same address there. */
static bool is_others(const struct prl_dp *dp, const struct prl_dp_address *address, uint32_t lif)
{
    for (uint32_t i = 0; i < dp->config.addresses; i++) {
        const struct prl_dp_address *other = &dp->config.address[i];

        if (other != address && other->lif == lif && memcmp(other->addr, address->addr, sizeof(other->addr)) == 0)
            return true;
    }
    return false;
}

/* The address table entries of one service: on every logical interface, lest it is heard by another way (I4). */
static int set_addresses(struct prl_dp *dp, uint32_t service, uint8_t state, uint64_t first_by_ns)
{
    int err = 0;

    for (uint32_t i = 0; i < dp->config.addresses && !err; i++) {
        const struct prl_dp_address *address = &dp->config.address[i];

        for (uint32_t lif = 0; lif < dp->config.lifs && !err && address->service == service; lif++) {
            struct prl_addr_key key = address_key(dp, address, lif);
            struct prl_addr value = {0};

            if (is_others(dp, address, lif))
                continue;
            dp->io->addr_get(dp->host, &key, &value);
            value.state = state;
            value.service = service;
            value.first_by_ns = first_by_ns;
            value.spoken = PRL_SPOKEN_NOT;
            if (state == PRL_ADDR_LEAVING)
                value.fenced_by_ns = 0; /* what comes now is the new owner's claim */
            memcpy(value.token, dp->peer_token, sizeof(value.token));
            err = dp->io->addr_set(dp->host, &key, &value);
            PRL_PROBE3(address, key.addr, value.state, service);
        }
    }
    return err;
}

/* A claim of the other node may still be on its way: it carries the token of the former life's epoch. */
static void keep_token(struct prl_dp *dp, uint32_t service)
{
    for (uint32_t i = 0; i < dp->config.addresses; i++) {
        const struct prl_dp_address *address = &dp->config.address[i];
        struct prl_addr_key key = address_key(dp, address, address->lif);
        struct prl_addr value;

        if (address->service == service && dp->io->addr_get(dp->host, &key, &value) == 0)
            memcpy(dp->peer_token, value.token, sizeof(dp->peer_token));
    }
}

/* The tokens of a new epoch; the roles stay. */
void dp_owner_set_tokens(struct prl_dp *dp)
{
    for (uint32_t i = 0; i < dp->config.addresses; i++) {
        for (uint32_t lif = 0; lif < dp->config.lifs; lif++) {
            struct prl_addr_key key = address_key(dp, &dp->config.address[i], lif);
            struct prl_addr value;

            if (is_others(dp, &dp->config.address[i], lif) || dp->io->addr_get(dp->host, &key, &value))
                continue;
            memcpy(value.token, dp->peer_token, sizeof(value.token));
            dp->io->addr_set(dp->host, &key, &value);
        }
    }
}

int dp_owner_open(struct prl_dp *dp, char *error)
{
    prl_owner_init(&dp->owner, &dp->config.owner, dp_clock_ns(dp));
    dp->node->policy_stop = dp->config.owner.policy_stop;
    for (uint32_t service = 0; service < dp->config.owner.services; service++) {
        int err;

        if (dp->config.adopted & 1u << service) { /* goes on speaking: not silent for a moment (L9) */
            keep_token(dp, service);
            err = dp_owner_set(dp, service, PRL_OWNER_OWNER);
        } else {
            err = set_addresses(dp, service, PRL_OWNER_NONE, 0); /* silent from the first moment (L9) */
        }
        if (err) {
            snprintf(error, PRL_ERROR_BYTES, "address table: %s", strerror(-err));
            return err;
        }
    }
    dp->node->silent = dp->node->claiming = 0; /* of the prld before, whose addresses are silent by now */
    return 0;
}

int dp_owner_set(struct prl_dp *dp, uint32_t service, uint8_t state)
{
    int err;

    if (service >= dp->config.owner.services)
        return -EINVAL;
    prl_owner_set_state(&dp->owner, service, state);
    if (state == PRL_OWNER_OWNER) /* whoever says so has asked the other node, or the LAN */
        prl_owner_frame(&dp->owner, dp->now_ns);
    err = set_addresses(dp, service, state, 0);
    if (!err && state == PRL_OWNER_OWNER)
        start_claims(dp, 1u << service);
    return err;
}

int dp_owner_leave(struct prl_dp *dp, uint32_t service)
{
    return set_addresses(dp, service, PRL_ADDR_LEAVING, 0);
}

bool dp_owner_is_claimed(struct prl_dp *dp, uint32_t service)
{
    for (uint32_t i = 0; i < dp->config.addresses; i++) {
        for (uint32_t lif = 0; lif < dp->config.lifs && dp->config.address[i].service == service; lif++) {
            struct prl_addr_key key = address_key(dp, &dp->config.address[i], lif);
            struct prl_addr value;

            if (!is_others(dp, &dp->config.address[i], lif) && dp->io->addr_get(dp->host, &key, &value) == 0 &&
                value.fenced_by_ns)
                return true;
        }
    }
    return false;
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
            dp_switchover_do(dp, service,
                             prl_move_resolve(&dp->moves[service], &dp->config.move, false, dp->now_ns));
        if (mask & 1u << service && set_addresses(dp, service, PRL_OWNER_OWNER, first_by_ns))
            dp_alarm(dp, "take-over: the address table cannot be written");
    }
    dp->claims_slow_mask |= mask;
    memcpy(dp->claims_token, dp->own_token, sizeof(dp->claims_token));
    start_claims(dp, mask);
    __atomic_fetch_and(&dp->node->claiming, ~mask, __ATOMIC_SEQ_CST);
    trace_step(dp, "claimed", mask);
    ask(dp);
    for (uint32_t i = 0; i < dp->flows_top; i++) {
        struct dp_flow *flow = &dp->flows[i];

        if (flow->used && flow->secondary && mask & 1u << flow->service)
            dp_secondary_takeover(dp, flow);
    }
    for (uint32_t service = 0; service < dp->config.owner.services; service++) {
        if (mask & 1u << service)
            dp->node->terms[service]++; /* the next heartbeat says so; the control plane counts likewise */
        struct prl_event event = {
            .kind = PRL_EVENT_TAKEOVER,
            .service = service,
            .value = decided_ns,
            .value2 = dp_clock_ns(dp),
        };

        if (mask & 1u << service)
            dp_event(dp, &event, NULL, 0);
    }
    trace_step(dp, "taken over", mask);
}

/* L6: what the owner emits, and what it is told of the LAN. */
static void set_silence(struct prl_dp *dp)
{
    struct prl_event event = {.kind = PRL_EVENT_SILENT, .state = dp->owner.silence};

    if (dp->owner.silence == PRL_SILENCE_NOT && dp->node->word_ns < dp_clock_ns(dp))
        dp->node->word_ns = dp_clock_ns(dp); /* the proof of a take-over reaches farther */
    __atomic_store_n(&dp->node->silent, dp->owner.silent_mask, __ATOMIC_RELEASE);
    if (dp->owner.silence == PRL_SILENCE_NOT) /* what was claimed in silence was not heard */
        start_claims(dp, UINT32_MAX);
    dp_event(dp, &event, NULL, 0);
}

static void watch_lan(struct prl_dp *dp)
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
        {PRL_OWNER_DO_HAND_OVER, "hand over"},
        {PRL_OWNER_DO_VOID_SHADOWS, "void the shadows"},
        {PRL_OWNER_DO_RENOUNCE_LAN, "renounce"},
        {PRL_OWNER_DO_OPEN_FLOWS, "open the flows"},
        {PRL_OWNER_DO_TAKEOVER, "take over"},
        {PRL_OWNER_DO_DROP_LINK, "drop the link"},
    };

    for (size_t i = 0; i < sizeof(decisions) / sizeof(decisions[0]); i++)
        if (todo & decisions[i].bit)
            trace_step(dp, decisions[i].step, todo & PRL_OWNER_DO_TAKEOVER ? dp->owner.take_mask : 0);
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

void dp_owner_do(struct prl_dp *dp, uint32_t todo)
{
    trace_decisions(dp, todo);
    if (todo & (PRL_OWNER_DO_SILENCE | PRL_OWNER_DO_SPEAK))
        set_silence(dp);
    if (todo & PRL_OWNER_DO_LEASE) {
        if (dp->link_up)
            send_lease(dp);
        lan_send(dp, LAN_HEARTBEAT);
    }
    if (todo & PRL_OWNER_DO_FAIL_FLOWS)
        dp_primary_fail_all(dp, PRL_REASON_LINK_LOST);
    if (todo & (PRL_OWNER_DO_RENOUNCE_LAN | PRL_OWNER_DO_EXPIRE)) {
        struct prl_event event = {
            .kind = todo & PRL_OWNER_DO_EXPIRE ? PRL_EVENT_EXPIRED : PRL_EVENT_RENOUNCED,
        };

        dp_event(dp, &event, NULL, 0);
    }
    if (todo & PRL_OWNER_DO_ASK)
        ask(dp);
    if (todo & PRL_OWNER_DO_HAND_OVER)
        dp_switchover_hand_over(dp);
    if (todo & PRL_OWNER_DO_VOID_SHADOWS)
        dp_secondary_void_all(dp, PRL_REASON_LINK_LOST);
    if (todo & PRL_OWNER_DO_RENOUNCE_LAN) /* only now: the shadows are void */
        lan_send(dp, LAN_RENOUNCE);
    if (todo & PRL_OWNER_DO_OPEN_FLOWS)
        dp_primary_open_all(dp);
    if (todo & PRL_OWNER_DO_TAKEOVER)
        take_over(dp, dp->owner.take_mask);
    if (todo & PRL_OWNER_DO_DROP_LINK)
        dp_link_lost(dp, "the other node has been silent for too long");
}

/* A claim with our token fences in XDP; the state machine and the flows follow. One without it is answered. */
void dp_owner_notice_fencing(struct prl_dp *dp)
{
    for (uint32_t i = 0; i < dp->config.addresses; i++) {
        uint32_t service = dp->config.address[i].service;
        struct prl_addr_key key = address_key(dp, &dp->config.address[i], dp->config.address[i].lif);
        struct prl_addr value;

        if (dp->owner.state[service] != PRL_OWNER_OWNER || dp->io->addr_get(dp->host, &key, &value))
            continue;
        if (value.state != PRL_ADDR_FENCED) {
            if (!(dp->owner.silent_mask & 1u << service)) /* who is silent does not know whose it is */
                defend(dp, i, value.foreign_claims);
            continue;
        }
        fence(dp, service);
    }
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
    dp_owner_do(dp, prl_owner_woke(&dp->owner, dp->now_ns));
}

/* The services that a session of would go on here. */
static uint32_t good_services(const struct prl_dp *dp)
{
    uint32_t mask = 0;

    for (uint32_t i = 0; i < dp->flows_top; i++) {
        const struct dp_flow *flow = &dp->flows[i];

        if (flow->used && flow->secondary && flow->secondary_core.state == PRL_SECONDARY_ACTIVE &&
            flow->secondary_core.confirmed)
            mask |= 1u << flow->service;
    }
    return mask;
}

void dp_owner_tick(struct prl_dp *dp)
{
    uint32_t todo;

    watch_lan(dp);
    prl_owner_good(&dp->owner, prl_owner_may_take(&dp->owner, dp->now_ns) ? good_services(dp) : 0);
    todo = prl_owner_tick(&dp->owner, dp->now_ns);
    notice_bypass(dp);
    dp_owner_do(dp, todo);
    watch_lan(dp);
    dp->node->open_at_ns = prl_owner_open_at_ns(&dp->owner);
    if (todo & PRL_OWNER_DO_LEASE)
        dp_owner_notice_fencing(dp);
    claims_tick(dp);
}

uint64_t dp_owner_next_ns(const struct prl_dp *dp)
{
    uint64_t next = prl_owner_next_ns(&dp->owner);

    if (dp->claims_mask && dp->claims_next_ns < next)
        next = dp->claims_next_ns;
    return next;
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

/* ---- the control plane's calls ---- */

int prl_dp_service_set(struct prl_dp *dp, uint32_t service, uint8_t state)
{
    int err;

    dp_lock(dp);
    err = dp_owner_set(dp, service, state);
    if (!err && state != PRL_OWNER_OWNER)
        dp_primary_fence_service(dp, service);
    dp_unlock(dp);
    return err;
}

int prl_dp_service_state(struct prl_dp *dp, uint32_t service)
{
    int state;

    if (service >= dp->config.owner.services)
        return -EINVAL;
    dp_lock(dp);
    dp_owner_notice_fencing(dp);
    state = dp->owner.state[service];
    dp_unlock(dp);
    return state;
}

int prl_dp_takeover(struct prl_dp *dp, uint32_t service, int fenced)
{
    uint8_t refused = PRL_REFUSED_NOT;

    dp_lock(dp);
    dp->now_ns = dp_clock_ns(dp);
    if (service < dp->config.owner.services)
        dp_owner_do(dp, prl_owner_request(&dp->owner, service, fenced, dp->now_ns, &refused));
    dp_unlock(dp);
    return service < dp->config.owner.services ? refused : -EINVAL;
}

int dp_owner_renounce(struct prl_dp *dp, uint32_t service)
{
    struct prl_msg msg = {.type = PRL_MSG_RENOUNCE, .service = service};
    int err;

    dp_owner_set(dp, service, PRL_OWNER_STANDBY); /* silent first, then the word: never two speakers (I7) */
    prl_owner_give(&dp->owner, service); /* not taken back while the word may still be unread */
    dp_primary_fence_service(dp, service);
    err = dp_send(dp, &msg);
    prl_link_flush(&dp->link);
    return err;
}

int prl_dp_unanswered(struct prl_dp *dp, uint64_t probed_ns)
{
    uint32_t todo;

    dp_lock(dp);
    dp->now_ns = dp_clock_ns(dp);
    dp_owner_notice_fencing(dp);
    watch_lan(dp);
    todo = prl_owner_unanswered(&dp->owner, probed_ns, dp->now_ns);
    dp_owner_do(dp, todo);
    dp_unlock(dp);
    return (todo & PRL_OWNER_DO_SPEAK) != 0;
}

void prl_dp_policy(struct prl_dp *dp, int stop)
{
    dp_lock(dp);
    prl_owner_policy(&dp->owner, (uint32_t)stop);
    dp->node->policy_stop = (uint32_t)stop;
    dp_unlock(dp);
}

int prl_dp_lan(struct prl_dp *dp, int fd)
{
    int err;

    dp_lock(dp);
    err = dp->io->lan_open(dp->host, fd);
    dp_unlock(dp);
    return err;
}

void prl_dp_neighbours(struct prl_dp *dp, const struct prl_dp_neighbour *list, uint32_t count)
{
    bool can_ask;

    dp_lock(dp);
    dp->neighbours = 0;
    can_ask = own_address(dp, false) != NULL;
    for (uint32_t i = 0; i < count && dp->neighbours < PRL_DP_NEIGHBOURS_MAX; i++) {
        if (list[i].lif >= dp->config.lifs)
            continue;
        can_ask |= asks_from(dp, &list[i]) != NULL;
        dp->neighbour[dp->neighbours++] = list[i];
    }
    prl_owner_neighbours(&dp->owner, can_ask);
    dp_unlock(dp);
}
