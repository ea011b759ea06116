/* SPDX-License-Identifier: BSD-2-Clause */
#include "flow/flow.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "flow/dp.h"
#include "flow/udp.h"
#include "tcp/serial.h"

_Static_assert(offsetof(struct prl_primary, counters) == 64,
               "what a packet changes of the core is one cache line");
_Static_assert(sizeof(struct dp_flow) == 320, "five cache lines");

void dp_flow_become_primary(struct dp_flow *flow)
{
    flow->secondary = false;
    memset(&flow->as_primary, 0, sizeof(flow->as_primary));
}

void dp_flow_set_flags(struct dp_flow *flow)
{
    uint32_t flags = 0;

    if (flow->secondary) {
        switch (dp_secondary_of(flow)->state) {
        case PRL_SECONDARY_ACTIVE:
            flags = PRL_FLOW_SECONDARY | PRL_FLOW_ACTIVE;
            break;
        case PRL_SECONDARY_TAKING: /* silent until its turn; of a session that was moved here nothing is lost meanwhile */
            flags = flow->relaying ? PRL_FLOW_RELAY : PRL_FLOW_SECONDARY | PRL_FLOW_ACTIVE;
            break;
        case PRL_SECONDARY_SUSPENDED:
        case PRL_SECONDARY_VOID:
            flags = PRL_FLOW_SECONDARY | PRL_FLOW_VOID;
            break;
        case PRL_SECONDARY_OWNER:
            flags = PRL_FLOW_OPEN | (flow->relaying ? PRL_FLOW_RELAY : 0);
            break;
        default:
            break;
        }
    } else {
        switch (dp_primary_of(flow)->state) {
        case PRL_PRIMARY_SETUP:
        case PRL_PRIMARY_VOIDING:
        case PRL_PRIMARY_MOVED:
        case PRL_PRIMARY_ALONE:
            flags = PRL_FLOW_SETUP;
            break;
        case PRL_PRIMARY_ACTIVE:
            flags = PRL_FLOW_SETUP | PRL_FLOW_ACTIVE;
            break;
        case PRL_PRIMARY_OPEN:
            flags = PRL_FLOW_OPEN | (flow->relaying ? PRL_FLOW_RELAY : 0);
            break;
        default:
            break;
        }
        /* From the freeze on: a window that grew behind the snapshot is none that the shadow has (R10). */
        if (flags & PRL_FLOW_SETUP && flow->kernel->key.proto == IPPROTO_TCP && flow->edge_known)
            flags |= PRL_FLOW_CLAMP;
    }
    if (flow->md5)
        flags |= PRL_FLOW_MD5;
    __atomic_store_n(&flow->kernel->flags, flags, __ATOMIC_RELEASE);
}

void dp_flow_sample(struct prl_dp *dp, struct dp_flow *flow)
{
    if (flow->kernel->key.proto == IPPROTO_TCP)
        dp->io->sample(dp->host, &flow->slot, 1);
    else
        dp_udp_sample(dp, flow);
}

void dp_flow_note_peer(struct dp_flow *flow, const struct prl_packet *packet)
{
    if (packet->proto != IPPROTO_TCP)
        return;
    flow->peer_window = packet->window;
    if (packet->payload_bytes) /* a retransmission does not move it back */
        flow->peer_tcp_end = prl_serial_max(flow->peer_tcp_end ? flow->peer_tcp_end : packet->seq,
                                            packet->seq + packet->payload_bytes);
    if (packet->has_timestamps) {
        flow->has_peer_ts = true;
        flow->peer_tsval = packet->tsval;
        flow->peer_tsecr = packet->tsecr;
    }
}

bool dp_flow_has_packet(const struct dp_flow *flow, const uint8_t *l3, const struct prl_packet *packet,
                        uint16_t lif, uint16_t packet_flags)
{
    struct prl_flow_key key;

    if (prl_packet_is_icmp(packet) != !!(packet_flags & PRL_PACKET_ICMP) ||
        prl_packet_flow_key(l3, packet, lif, &key))
        return false;
    key.vlans = flow->kernel->key.vlans;
    if (prl_key_is_unconnected(&flow->kernel->key)) { /* anybody may have sent it */
        memset(key.remote, 0, sizeof(key.remote));
        key.remote_port = 0;
    }
    return memcmp(&key, &flow->kernel->key, sizeof(key)) == 0;
}

void dp_flow_forget_key(struct dp_flow *flow)
{
    if (!flow->md5)
        return;
    explicit_bzero(flow->md5, sizeof(*flow->md5));
    free(flow->md5);
    flow->md5 = NULL;
}

int dp_flow_set_key(struct dp_flow *flow, const struct prl_md5_key *key)
{
    dp_flow_forget_key(flow);
    if (!key->bytes)
        return 0;
    flow->md5 = malloc(sizeof(*flow->md5));
    if (!flow->md5)
        return -ENOMEM;
    *flow->md5 = *key;
    return 0;
}
