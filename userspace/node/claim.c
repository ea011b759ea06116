/* SPDX-License-Identifier: BSD-2-Clause */
#include "node/claim.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>

#include "flow/dp.h"
#include "flow/siphash.h"
#include "node/lan.h"
#include "node/probe.h"

/* What the claims of a node are known by to the other one. */
struct claim_key {
    bool macs; /* PRL_CAP_CLAIM_MAC: by MACs, else by the token */
    uint64_t epoch; /* 0: there is none yet */
    struct prl_siphash_key key;
    uint8_t token[PRL_TOKEN_BYTES];
};

struct dp_claim {
    struct claim_key now, kept;
    uint64_t given_term[PRL_SERVICES_MAX];
};

int dp_claim_open(struct prl_dp *dp)
{
    dp->claim = calloc(1, sizeof(*dp->claim));
    return dp->claim ? 0 : -ENOMEM;
}

void dp_claim_close(struct prl_dp *dp)
{
    if (dp->claim)
        OPENSSL_cleanse(dp->claim, sizeof(*dp->claim));
    free(dp->claim);
}

/* A key for one purpose: of what both nodes said in HELLO, and of what only this connection has. */
static void derive(const uint8_t agreed[32], const uint8_t secret[PRL_LINK_SECRET_BYTES], const char *purpose,
                   uint8_t key[32])
{
    uint8_t whole[EVP_MAX_MD_SIZE], text[PRL_LINK_SECRET_BYTES + 32];
    unsigned int bytes = sizeof(whole);

    memset(text, 0, sizeof(text));
    memset(whole, 0, sizeof(whole));
    memcpy(text, secret, PRL_LINK_SECRET_BYTES);
    strncpy((char *)text + PRL_LINK_SECRET_BYTES, purpose, sizeof(text) - PRL_LINK_SECRET_BYTES - 1);
    HMAC(EVP_sha256(), agreed, 32, text, sizeof(text), whole, &bytes);
    memcpy(key, whole, 32);
    OPENSSL_cleanse(text, sizeof(text));
    OPENSSL_cleanse(whole, sizeof(whole));
}

/* What XDP knows the other node's claims by. Without a key it obeys none, so that it never takes half of one for it. */
static void tell_kernel(struct prl_dp *dp, const struct claim_key *others)
{
    struct prl_node *node = dp->node;

    for (uint32_t i = 0; i < 2; i++)
        __atomic_store_n(&node->claim_key[i], 0, __ATOMIC_SEQ_CST);
    memset(node->claim_token, 0, sizeof(node->claim_token));
    node->claimant = 1 - dp->config.node_index;
    __atomic_store_n(&node->claim_epoch, others->epoch, __ATOMIC_SEQ_CST);
    if (!others->macs)
        memcpy(node->claim_token, others->token, sizeof(node->claim_token));
    for (uint32_t i = 0; i < 2 && others->macs; i++)
        __atomic_store_n(&node->claim_key[i], others->key.word[i], __ATOMIC_SEQ_CST);
}

int dp_claim_set_keys(struct prl_dp *dp, const uint8_t agreed[32], const uint8_t own_token[PRL_TOKEN_BYTES],
                      const uint8_t peer_token[PRL_TOKEN_BYTES])
{
    struct claim_key others = {.macs = dp->capabilities & PRL_CAP_CLAIM_MAC, .epoch = dp->epoch};
    uint8_t secret[PRL_LINK_SECRET_BYTES] = {0}, key[32];
    int err = prl_link_secret(&dp->link, secret);

    if (err && err != -ENOTSUP) /* of a link in clear HELLO is all that there is */
        return err;
    if (others.macs) {
        derive(agreed, secret, "prl heartbeats", key);
        dp_lan_set_key(dp, key);
        derive(agreed, secret, "prl claims", key);
        memcpy(&others.key, key, sizeof(others.key));
        OPENSSL_cleanse(key, sizeof(key));
    } else {
        dp_lan_set_key(dp, agreed);
    }
    if (dp->capabilities & PRL_CAP_KERNEL_ANSWERS && dp->config.owner.probe_ns) {
        derive(agreed, secret, "prl probes", key);
        dp_probe_set_key(dp, key);
        OPENSSL_cleanse(key, sizeof(key));
    } else {
        dp_probe_set_key(dp, NULL);
    }
    OPENSSL_cleanse(secret, sizeof(secret));
    dp->claim->now = others;
    memcpy(dp->claim->now.token, own_token, PRL_TOKEN_BYTES);
    memcpy(others.token, peer_token, PRL_TOKEN_BYTES);
    tell_kernel(dp, &others);
    return 0;
}

void dp_claim_keep_keys(struct prl_dp *dp)
{
    dp->claim->kept = dp->claim->now;
}

void dp_claim_trailer(const struct prl_dp *dp, const struct prl_dp_address *address, bool kept,
                      struct prl_trailer *trailer)
{
    const struct claim_key *key = kept ? &dp->claim->kept : &dp->claim->now;
    struct prl_claimed claimed = {
        .epoch = key->epoch,
        .term = dp->node->terms[address->service],
        .number = dp->now_ns,
        .service = address->service,
        .claimant = dp->config.node_index,
    };

    trailer->bytes = 0;
    if (!key->epoch)
        return;
    memcpy(claimed.addr, address->addr, sizeof(claimed.addr));
    if (key->macs)
        prl_packet_trailer(&claimed, prl_siphash_claim(&key->key, &claimed), trailer);
    else
        prl_packet_trailer_token(key->token, trailer);
}

void dp_claim_verify(struct prl_dp *dp, const struct prl_dp_address *address, const struct prl_addr *entry)
{
    const struct prl_siphash_key key = {{dp->node->claim_key[0], dp->node->claim_key[1]}};
    struct prl_claimed claimed = {
        .epoch = entry->claim_epoch,
        .term = entry->claim_term,
        .number = entry->claim_number,
        .service = address->service,
        .claimant = dp->node->claimant,
    };

    memcpy(claimed.addr, address->addr, sizeof(claimed.addr));
    if (entry->claim_epoch && entry->claim_epoch == dp->node->claim_epoch &&
        prl_siphash_claim(&key, &claimed) != entry->claim_mac)
        dp_alarm(
            dp,
            "a claim that was obeyed is not the other node's: somebody has written to prl's tables in the kernel");
}

void dp_term_raise(struct prl_dp *dp, uint32_t service, uint64_t term)
{
    if (term > dp->node->terms[service])
        __atomic_store_n(&dp->node->terms[service], term, __ATOMIC_RELEASE);
}

void dp_terms_take_back(struct prl_dp *dp)
{
    for (uint32_t service = 0; service < dp->config.owner.services; service++)
        if (dp->owner.state[service] == PRL_OWNER_OWNER)
            dp_term_raise(dp, service, dp->node->terms[service] + 2);
}

void dp_term_give(struct prl_dp *dp, uint32_t service)
{
    dp->claim->given_term[service] = dp->node->terms[service] + 1;
}

void dp_term_is_taken(struct prl_dp *dp, uint32_t service)
{
    if (service < PRL_SERVICES_MAX)
        dp_term_raise(dp, service, dp->claim->given_term[service]);
    prl_owner_given_is_taken(&dp->owner, service);
}
