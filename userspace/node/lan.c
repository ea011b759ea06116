/* SPDX-License-Identifier: BSD-2-Clause */
#include "node/lan.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <stdlib.h>
#include <string.h>

#include "flow/dp.h"
#include "node/probe.h"

#define LAN_MAGIC 0x50524c48u /* "PRLH" */
#define LAN_TAG_BYTES 16
#define LAN_TELLS 0x80
#define LAN_OWNS 0x40
#define LAN_SERVICE 0x0f
_Static_assert(PRL_SERVICES_MAX == LAN_SERVICE + 1, "four bits tell the service");

/* LAN heartbeat, in network order. Each tells of one service, in turn, whether its sender owns it, and in which term; a
 * node from before that sends and reads zeros there. The tag is the front of HMAC-SHA256 over everything before it. */
struct lan_message {
    uint32_t magic;
    uint8_t type; /* enum dp_lan_type */
    uint8_t node_index;
    uint8_t role; /* LAN_TELLS, LAN_OWNS, the service */
    uint8_t term; /* low 8 bits */
    uint64_t epoch;
    uint64_t counter; /* sender's CLOCK_BOOTTIME: only ever grows (replays are refused) */
    uint8_t tag[LAN_TAG_BYTES];
};

struct dp_lan {
    uint8_t key[32];
    /* Made once: to look the algorithm up takes longer than the rest, some hundred times a second. */
    EVP_MAC_CTX *mac;
    bool key_known;
    uint64_t counter_seen;
    uint32_t service; /* of which the next heartbeat tells */
};

int dp_lan_open(struct prl_dp *dp)
{
    char digest[] = "SHA256";
    const OSSL_PARAM how[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_end(),
    };
    EVP_MAC *algorithm;

    dp->lan = calloc(1, sizeof(*dp->lan));
    if (!dp->lan)
        return -ENOMEM;
    algorithm = EVP_MAC_fetch(NULL, OSSL_MAC_NAME_HMAC, NULL);
    dp->lan->mac = algorithm ? EVP_MAC_CTX_new(algorithm) : NULL; /* which keeps it */
    EVP_MAC_free(algorithm);
    return dp->lan->mac && EVP_MAC_CTX_set_params(dp->lan->mac, how) ? 0 : -ENOMEM;
}

void dp_lan_close(struct prl_dp *dp)
{
    if (dp->lan)
        EVP_MAC_CTX_free(dp->lan->mac);
    free(dp->lan);
}

void dp_lan_set_key(struct prl_dp *dp, const uint8_t key[32])
{
    memcpy(dp->lan->key, key, sizeof(dp->lan->key));
    dp->lan->key_known = true;
    dp->lan->counter_seen = 0;
}

uint64_t dp_lan_counter(const struct prl_dp *dp)
{
    return dp->lan->counter_seen;
}

static bool lan_tag(const struct prl_dp *dp, const struct lan_message *message, uint8_t tag[LAN_TAG_BYTES])
{
    uint8_t whole[EVP_MAX_MD_SIZE];
    EVP_MAC_CTX *mac = dp->lan->mac;
    size_t bytes;

    if (!EVP_MAC_init(mac, dp->lan->key, sizeof(dp->lan->key), NULL) ||
        !EVP_MAC_update(mac, (const uint8_t *)message, offsetof(struct lan_message, tag)) ||
        !EVP_MAC_final(mac, whole, &bytes, sizeof(whole)))
        return false;
    memcpy(tag, whole, LAN_TAG_BYTES);
    return true;
}

/* An owner that is silent does not know whether it is one. */
static void lan_tell(struct prl_dp *dp, struct lan_message *message)
{
    uint32_t service = dp->lan->service++ % dp->config.owner.services;
    bool owns = dp->owner.state[service] == PRL_OWNER_OWNER && !(dp->owner.silent_mask & 1u << service);

    message->role = (uint8_t)(LAN_TELLS | (owns ? LAN_OWNS : 0) | service);
    message->term = (uint8_t)dp->node->terms[service];
}

void dp_lan_send(struct prl_dp *dp, enum dp_lan_type type)
{
    struct lan_message message = {
        .magic = htonl(LAN_MAGIC),
        .type = (uint8_t)type,
        .node_index = (uint8_t)dp->config.node_index,
        .epoch = htobe64(dp->epoch),
        .counter = htobe64(dp_clock_ns(dp)),
    };

    if (!dp->lan->key_known)
        return;
    if (dp->config.owner.services)
        lan_tell(dp, &message);
    if (lan_tag(dp, &message, message.tag) &&
        dp->io->udp_send(dp->host, PRL_PROBE_LAN, &message, sizeof(message)) == sizeof(message))
        dp->counters.lan_tx++;
}

int dp_lan_next(struct prl_dp *dp, struct dp_lan_heard *heard)
{
    struct dp_lan *lan = dp->lan;
    uint8_t bytes[sizeof(struct prl_probe)] = {0}, tag[LAN_TAG_BYTES];
    struct lan_message message;
    ssize_t got = dp->io->udp_receive(dp->host, PRL_PROBE_LAN, bytes, sizeof(bytes));

    _Static_assert(sizeof(message) < sizeof(bytes), "a probe is the longest of what comes");
    memset(heard, 0, sizeof(*heard));
    if (got < 0)
        return (int)got;
    if (dp_probe_read(dp, PRL_PROBE_LAN, bytes, (size_t)got, &heard->answer))
        return heard->answer.sent_ns != 0;
    memcpy(&message, bytes, sizeof(message));
    if (got != sizeof(message) || !lan->key_known || ntohl(message.magic) != LAN_MAGIC ||
        message.node_index == dp->config.node_index || be64toh(message.epoch) != dp->epoch) {
        dp->counters.lan_refused++;
        return 0;
    }
    if (!lan_tag(dp, &message, tag) || CRYPTO_memcmp(tag, message.tag, sizeof(tag)) != 0 ||
        be64toh(message.counter) <= lan->counter_seen) {
        dp->counters.lan_refused++;
        return 0;
    }
    lan->counter_seen = be64toh(message.counter);
    dp->counters.lan_rx++;
    *heard = (struct dp_lan_heard){
        .sent_ns = lan->counter_seen,
        .service = message.role & LAN_SERVICE,
        .term = message.term,
        .tells = message.role & LAN_TELLS,
        .owns = (message.role & (LAN_TELLS | LAN_OWNS)) == (LAN_TELLS | LAN_OWNS),
        .renounces = message.type == DP_LAN_RENOUNCE,
    };
    return 1;
}
