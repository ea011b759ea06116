/* SPDX-License-Identifier: BSD-2-Clause */
#include "node/service.h"

#include <errno.h>
#include <string.h>

#include "flow/send.h"
#include "node/announce.h"
#include "node/claim.h"
#include "path/primary.h"
#include "path/shadow.h"
#include "path/takeover.h"

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
static int set_entries(struct prl_dp *dp, uint32_t service, uint8_t state, uint64_t first_by_ns)
{
    bool is_heard = false;
    int err = 0;

    for (uint32_t i = 0; i < dp->config.addresses && state == PRL_ADDR_OWNER; i++) {
        struct prl_addr_key key = address_key(dp, &dp->config.address[i], dp->config.address[i].lif);
        struct prl_addr value;

        if (dp->config.address[i].service == service && dp->io->addr_get(dp->host, &key, &value) == 0)
            is_heard |= value.state == PRL_ADDR_OWNER || value.state == PRL_ADDR_LEAVING;
    }
    if (state == PRL_ADDR_OWNER && !is_heard) /* no program looks at claims: what is said here was said before */
        __atomic_fetch_and(&dp->node->fenced, ~(1u << service), __ATOMIC_SEQ_CST);
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
            err = dp->io->addr_set(dp->host, &key, &value);
            PRL_PROBE3(address, key.addr, value.state, service);
        }
    }
    return err;
}

int dp_service_set(struct prl_dp *dp, uint32_t service, uint8_t state)
{
    int err;

    if (service >= dp->config.owner.services)
        return -EINVAL;
    prl_owner_set_state(&dp->owner, service, state);
    if (state == PRL_OWNER_OWNER) /* whoever says so has asked the other node, or the LAN */
        prl_owner_frame(&dp->owner, dp->now_ns);
    if (state != PRL_OWNER_STANDBY)
        dp_shadow_void_suspended(dp, service);
    err = set_entries(dp, service, state, 0);
    if (!err && state == PRL_OWNER_OWNER) {
        dp_claims_start(dp, 1u << service);
        dp_takeover_again(dp);
    }
    return err;
}

int dp_service_leave(struct prl_dp *dp, uint32_t service)
{
    dp_term_give(dp, service);
    return set_entries(dp, service, PRL_ADDR_LEAVING, 0);
}

bool dp_service_is_claimed(struct prl_dp *dp, uint32_t service)
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

void dp_service_fence(struct prl_dp *dp, uint32_t service)
{
    struct prl_event event = {.kind = PRL_EVENT_FENCED, .service = service};

    dp_trace_step(dp, "fenced", 1u << service);
    dp_service_set(dp, service, PRL_OWNER_FENCED);
    dp_primary_fence_service(dp, service);
    dp_event(dp, &event, NULL, 0);
}

int dp_service_renounce(struct prl_dp *dp, uint32_t service)
{
    struct prl_msg msg = {.type = PRL_MSG_RENOUNCE, .service = service};
    int err;

    dp_term_give(dp, service);
    dp_service_set(dp, service, PRL_OWNER_STANDBY); /* silent first, then the word: never two speakers (I7) */
    prl_owner_give(&dp->owner, service); /* not taken back while the word may still be unread */
    dp_primary_fence_service(dp, service);
    err = dp_send(dp, &msg);
    prl_link_flush(&dp->link);
    return err;
}

int dp_service_take(struct prl_dp *dp, uint32_t service, uint64_t first_by_ns)
{
    return set_entries(dp, service, PRL_OWNER_OWNER, first_by_ns);
}

int dp_service_open(struct prl_dp *dp, uint32_t service)
{
    if (dp->config.adopted & 1u << service) /* goes on speaking: not silent for a moment (L9) */
        return dp_service_set(dp, service, PRL_OWNER_OWNER);
    return set_entries(dp, service, PRL_OWNER_NONE, 0); /* silent from the first moment (L9) */
}

int dp_service_entry(struct prl_dp *dp, const struct prl_dp_address *address, struct prl_addr *entry)
{
    struct prl_addr_key key = address_key(dp, address, address->lif);

    return dp->io->addr_get(dp->host, &key, entry);
}
