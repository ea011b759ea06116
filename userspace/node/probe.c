/* SPDX-License-Identifier: BSD-2-Clause */
#include "node/probe.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#include "flow/dp.h"
#include "flow/siphash.h"

struct dp_probe {
    struct prl_siphash_key key;
    bool key_known;
    struct dp_probe_said said;
    uint64_t said_ns; /* the other's clock */
};

/* Without a key it answers nothing, so that it never takes half of one for it. */
static void silence_kernel(struct prl_node *node)
{
    for (uint32_t i = 0; i < 2; i++)
        __atomic_store_n(&node->probe_key[i], 0, __ATOMIC_SEQ_CST);
}

int dp_probe_open(struct prl_dp *dp)
{
    silence_kernel(dp->node); /* the passes that it would tell of are no more those of the prld before */
    dp->probe = calloc(1, sizeof(*dp->probe));
    return dp->probe ? 0 : -ENOMEM;
}

void dp_probe_close(struct prl_dp *dp)
{
    if (dp->probe)
        OPENSSL_cleanse(dp->probe, sizeof(*dp->probe));
    free(dp->probe);
}

void dp_probe_set_key(struct prl_dp *dp, const uint8_t key[32])
{
    struct prl_node *node = dp->node;

    memset(dp->probe, 0, sizeof(*dp->probe));
    silence_kernel(node);
    for (uint32_t i = 0; i < PRL_PROBE_PATHS; i++) /* the other machine may have booted: its clock began anew */
        __atomic_store_n(&node->probe_seen[i], 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&node->confirmed_ns, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&node->lan_probed_ns, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&node->probe_epoch, dp->epoch, __ATOMIC_SEQ_CST);
    prl_owner_probes(&dp->owner, key != NULL);
    if (!key)
        return;
    memcpy(&dp->probe->key, key, sizeof(dp->probe->key));
    dp->probe->key_known = true;
    for (uint32_t i = 0; i < 2; i++)
        __atomic_store_n(&node->probe_key[i], dp->probe->key.word[i], __ATOMIC_SEQ_CST);
}

void dp_probe_ask(struct prl_dp *dp, uint32_t path)
{
    uint64_t now_ns = dp_clock_ns(dp), confirms_ns;
    struct prl_probe probe = {
        .magic = htonl(PRL_PROBE_MAGIC),
        .type = PRL_PROBE_ASKS,
        .path = (uint8_t)path,
        .asker = (uint8_t)dp->config.node_index,
        .epoch = htobe64(dp->epoch),
        .number = htobe64(now_ns),
    };

    if (!dp->probe->key_known)
        return;
    confirms_ns = prl_owner_take_probe(&dp->owner, path, now_ns);
    probe.confirms = htobe64(confirms_ns);
    probe.flags = dp->owner.link == PRL_LINK_UP ? PRL_PROBE_LINKED : 0;
    probe.mac = prl_siphash_probe(&dp->probe->key, &probe);
    if (dp->io->udp_send(dp->host, path, &probe, sizeof(probe)) == sizeof(probe))
        dp->counters.probes_sent++;
}

bool dp_probe_read(struct prl_dp *dp, uint32_t path, const void *bytes, size_t count, struct prl_answer *answer)
{
    struct dp_probe *state = dp->probe;
    struct prl_probe probe;

    memset(answer, 0, sizeof(*answer));
    if (count != sizeof(probe))
        return false;
    memcpy(&probe, bytes, sizeof(probe));
    if (ntohl(probe.magic) != PRL_PROBE_MAGIC)
        return false;
    if (!state->key_known || probe.type != PRL_PROBE_ANSWERS || probe.path != path ||
        probe.asker != dp->config.node_index || be64toh(probe.epoch) != dp->epoch ||
        prl_siphash_probe(&state->key, &probe) != probe.mac) {
        dp->counters.answers_refused++;
        return true;
    }
    dp->counters.answers_received++;
    *answer = (struct prl_answer){
        .path = path,
        .sent_ns = be64toh(probe.number),
        .at_ns = be64toh(probe.at_ns),
        .pass_ns = be64toh(probe.pass_ns),
        .known_ns = be64toh(probe.known_ns),
        .leases = probe.flags & PRL_PROBE_LEASES,
    };
    if (answer->at_ns > state->said_ns) {
        state->said_ns = answer->at_ns;
        state->said.owned = ntohs(probe.owned);
        state->said.fenced = ntohs(probe.fenced);
        state->said.silent = ntohs(probe.silent);
        memcpy(state->said.term, probe.term, sizeof(state->said.term));
    }
    return true;
}

int dp_probe_next(struct prl_dp *dp, struct prl_answer *answer)
{
    uint8_t bytes[sizeof(struct prl_probe)];
    ssize_t got = dp->io->udp_receive(dp->host, PRL_PROBE_LINK, bytes, sizeof(bytes));

    if (got < 0)
        return (int)got;
    if (!dp_probe_read(dp, PRL_PROBE_LINK, bytes, (size_t)got, answer))
        dp->counters.answers_refused++;
    return answer->sent_ns != 0;
}

void dp_probe_asked(struct prl_dp *dp)
{
    const struct prl_node *node = dp->node;

    prl_owner_asked(&dp->owner, __atomic_load_n(&node->answered_ns, __ATOMIC_ACQUIRE),
                    __atomic_load_n(&node->confirmed_ns, __ATOMIC_ACQUIRE),
                    __atomic_load_n(&node->lan_probed_ns, __ATOMIC_ACQUIRE));
}

void dp_probe_tell(struct prl_dp *dp)
{
    uint32_t owned = 0;

    for (uint32_t service = 0; service < dp->config.owner.services; service++)
        owned |= dp->owner.state[service] == PRL_OWNER_OWNER ? 1u << service : 0;
    __atomic_store_n(&dp->node->owned, owned, __ATOMIC_RELEASE);
    __atomic_store_n(&dp->node->leases, prl_owner_leases(&dp->owner), __ATOMIC_RELEASE);
}

const struct dp_probe_said *dp_probe_said(const struct prl_dp *dp)
{
    return &dp->probe->said;
}
