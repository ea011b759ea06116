/* SPDX-License-Identifier: BSD-2-Clause */
#include "node/announce.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "flow/dp.h"
#include "node/claim.h"
#include "tcp/packet.h"

struct dp_announce {
    uint32_t left;     /* fast claims that are left */
    uint32_t services; /* that are claimed */
    uint32_t slow;     /* services taken over from a node that has not said that it knows */
    /* Of the take-over, which may not have ended yet: that the other one knows can be said in a later one alone. */
    uint64_t slow_epoch;
    uint64_t next_ns;
    struct prl_dp_neighbour neighbour[PRL_DP_NEIGHBOURS_MAX];
    uint32_t neighbours;
    uint64_t foreign_seen[PRL_ADDRS_MAX], defend_next_ns[PRL_ADDRS_MAX], alarm_next_ns[PRL_ADDRS_MAX];
};

int dp_announce_open(struct prl_dp *dp)
{
    dp->announce = calloc(1, sizeof(*dp->announce));
    return dp->announce ? 0 : -ENOMEM;
}

void dp_announce_close(struct prl_dp *dp)
{
    free(dp->announce);
}

static bool send_frame(struct prl_dp *dp, const uint8_t *frame, uint32_t bytes, uint32_t lif)
{
    return dp->io->send_frame(dp->host, lif, frame, bytes) == 0;
}

/* To all, and to each neighbour that may have missed that, or not believe it. Returns the frames sent. */
static uint32_t send_to_all(struct prl_dp *dp, uint8_t *frame, uint32_t bytes, uint32_t lif, bool is_v4)
{
    uint32_t sent = send_frame(dp, frame, bytes, lif);

    for (uint32_t i = 0; i < dp->announce->neighbours; i++) {
        const struct prl_dp_neighbour *neighbour = &dp->announce->neighbour[i];

        if (neighbour->lif != lif || prl_addr_is_v4(neighbour->addr) != is_v4)
            continue;
        memcpy(frame, neighbour->mac, ETH_ALEN);
        sent += send_frame(dp, frame, bytes, lif);
    }
    return sent;
}

/* Says that `address` is here: with a trailer it is a claim, without one the address is defended. */
static uint32_t tell(struct prl_dp *dp, const struct prl_dp_address *address, const struct prl_trailer *trailer)
{
    uint8_t frame[PRL_CRAFT_MAX];
    uint32_t lif = address->lif, sent = 0;
    const uint8_t *mac = dp->config.lif[lif].mac;

    if (prl_addr_is_v4(address->addr)) {
        sent += send_to_all(dp, frame, prl_packet_claim_arp(address->addr, mac, false, trailer, frame), lif, true);
        sent += send_to_all(dp, frame, prl_packet_claim_arp(address->addr, mac, true, trailer, frame), lif, true);
    } else {
        sent += send_to_all(dp, frame, prl_packet_claim_na(address->addr, mac, trailer, frame), lif, false);
    }
    return sent;
}

static bool input_arrived(const struct prl_dp *dp)
{
    bool any = false;

    for (uint32_t i = 0; i < dp->flows_top; i++) {
        const struct dp_flow *flow = &dp->flows[i];

        if (!flow->used || !(dp->announce->services & 1u << flow->service) ||
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
static void make_trailer(const struct prl_dp *dp, const struct prl_dp_address *address,
                         struct prl_trailer *trailer)
{
    bool kept = dp->announce->slow & 1u << address->service;

    trailer->bytes = 0;
    if (kept || dp->owner.taken_mask & 1u << address->service)
        dp_claim_trailer(dp, address, kept, trailer);
}

/* Fast at first; then slowly, for as long as the old owner has not said on the link that it knows: it may come back to
 * the LAN at any time. When it has said so before, until the peers have heard it. */
void dp_claims_tick(struct prl_dp *dp)
{
    struct dp_announce *announce = dp->announce;

    if (!announce->services || dp->now_ns < announce->next_ns)
        return;
    /* Its LEASE in this epoch: it has read our HELLO. */
    if (dp->link_up && dp->owner.peer_sent_ns && !(announce->slow && dp->epoch == announce->slow_epoch)) {
        announce->slow = 0;
        if (input_arrived(dp))
            announce->left = 0;
    }
    if (!announce->left && (announce->services &= announce->slow) == 0)
        return;
    for (uint32_t i = 0; i < dp->config.addresses; i++) {
        const struct prl_dp_address *address = &dp->config.address[i];

        struct prl_trailer trailer;

        if (!(announce->services & 1u << address->service) || dp->owner.state[address->service] != PRL_OWNER_OWNER)
            continue;
        make_trailer(dp, address, &trailer);
        dp->counters.claims_sent += tell(dp, address, &trailer);
    }
    announce->next_ns = dp->now_ns + PRL_CLAIM_SLOW_NS;
    if (announce->left) {
        announce->left--;
        announce->next_ns = dp->now_ns + PRL_DP_CLAIM_INTERVAL_MS * 1000000ull;
    }
}

void dp_claims_start(struct prl_dp *dp, uint32_t services)
{
    struct dp_announce *announce = dp->announce;

    announce->services |= services;
    announce->left = PRL_DP_CLAIM_BURSTS;
    announce->next_ns = 0;
    dp_claims_tick(dp);
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

/* NULL: not known, so that all are asked for it. */
static const uint8_t *mac_of(const struct prl_dp *dp, const uint8_t addr[16])
{
    for (uint32_t i = 0; i < dp->announce->neighbours; i++) {
        const struct prl_dp_neighbour *neighbour = &dp->announce->neighbour[i];

        if (neighbour->lif == 0 && memcmp(neighbour->addr, addr, sizeof(neighbour->addr)) == 0)
            return neighbour->mac;
    }
    return NULL;
}

static uint32_t ask_witnesses(struct prl_dp *dp)
{
    uint8_t frame[PRL_CRAFT_MAX];
    uint32_t asked = 0;

    for (uint32_t i = 0; i < dp->config.witnesses; i++) {
        const uint8_t *witness = dp->config.witness[i];
        const uint8_t *from = own_address(dp, prl_addr_is_v4(witness));

        if (from)
            asked += send_frame(
                dp, frame, prl_packet_ask(from, dp->config.lif[0].mac, witness, mac_of(dp, witness), frame), 0);
    }
    return asked;
}

/* From ours: who answers hears us, and we hear the LAN. A node that knows none asks all nodes, and so does one that got no
 * answer: those that it knows may all be gone. Where there are witnesses, nobody else's answer counts. */
void dp_neighbours_ask(struct prl_dp *dp)
{
    const uint8_t *own = own_address(dp, false), *mac = dp->config.lif[0].mac;
    uint8_t frame[PRL_CRAFT_MAX];
    uint32_t asked = 0;

    if (dp->config.witnesses) {
        dp->counters.asks_sent += ask_witnesses(dp);
        return;
    }
    for (uint32_t i = 0; i < dp->announce->neighbours; i++) {
        const struct prl_dp_neighbour *neighbour = &dp->announce->neighbour[i];
        const uint8_t *from = asks_from(dp, neighbour);

        if (from)
            asked += send_frame(dp, frame, prl_packet_ask(from, mac, neighbour->addr, neighbour->mac, frame), 0);
    }
    if (own && (!asked || prl_owner_is_deaf(&dp->owner)))
        asked += send_frame(dp, frame, prl_packet_ask_all(own, mac, frame), 0);
    dp->counters.asks_sent += asked;
}

/* Never silent for that (L7): the neighbours are told again that it is here, and the control plane that it happened. */
void dp_address_defend(struct prl_dp *dp, uint32_t index, uint64_t foreign_claims)
{
    static const struct prl_trailer none;
    struct dp_announce *announce = dp->announce;
    uint64_t more = foreign_claims - announce->foreign_seen[index];
    char text[INET6_ADDRSTRLEN], words[256];
    const uint8_t *addr = dp->config.address[index].addr;
    bool is_v4 = prl_addr_is_v4(addr);

    if (more == 0)
        return;
    if (dp->now_ns >= announce->alarm_next_ns[index]) {
        inet_ntop(is_v4 ? AF_INET : AF_INET6, is_v4 ? addr + 12 : addr, text, sizeof(text));
        snprintf(
            words, sizeof(words),
            "%s is claimed by somebody who is not the other node (%llu times): it is defended; find the machine "
            "that uses this address",
            text, (unsigned long long)more);
        dp_alarm(dp, words);
        announce->alarm_next_ns[index] = dp->now_ns + PRL_DP_ALARM_INTERVAL_MS * 1000000ull;
    }
    if (dp->now_ns < announce->defend_next_ns[index])
        return;
    announce->foreign_seen[index] = foreign_claims;
    announce->defend_next_ns[index] = dp->now_ns + PRL_DP_DEFEND_INTERVAL_MS * 1000000ull;
    if (tell(dp, &dp->config.address[index], &none))
        dp->counters.defences++;
}

void dp_claims_taken_over(struct prl_dp *dp, uint32_t services)
{
    struct dp_announce *announce = dp->announce;

    announce->slow |= services;
    announce->slow_epoch = dp->epoch;
    dp_claim_keep_keys(dp);
    dp_claims_start(dp, services);
}

void dp_claims_repeat(struct prl_dp *dp, uint32_t service)
{
    if (dp->announce->services & 1u << service)
        dp->announce->next_ns = 0;
}

uint64_t dp_claims_next_ns(const struct prl_dp *dp)
{
    return dp->announce->services ? dp->announce->next_ns : UINT64_MAX;
}

bool dp_neighbours_set(struct prl_dp *dp, const struct prl_dp_neighbour *list, uint32_t count)
{
    struct dp_announce *announce = dp->announce;
    bool can_ask = dp->config.witnesses || own_address(dp, false);

    announce->neighbours = 0;
    for (uint32_t i = 0; i < count && announce->neighbours < PRL_DP_NEIGHBOURS_MAX; i++) {
        if (list[i].lif >= dp->config.lifs)
            continue;
        can_ask |= asks_from(dp, &list[i]) != NULL;
        announce->neighbour[announce->neighbours++] = list[i];
    }
    return can_ask;
}

uint32_t dp_neighbours_count(const struct prl_dp *dp)
{
    return dp->announce->neighbours;
}
