/* SPDX-License-Identifier: BSD-2-Clause */
/* Messages to the other node. One that finds no room is the end of the connection, for what follows would contradict it
 * (a lost NACK would be covered by the next ACK). 0, or -ENOTCONN, -ENOBUFS. */
#ifndef PRL_FLOW_SEND_H
#define PRL_FLOW_SEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "wire/wire.h"

struct prl_dp;

/* The part of the transmit ring, one in so many, that packets and snapshots leave to all else: a link that has more to carry
 * than it can still says LEASE, ACK and VOID. */
#define DP_LINK_RESERVE_SHARE 64

/* Whether there is room for a packet or a piece of a snapshot with so many bytes. */
bool dp_has_bulk_room(const struct prl_dp *dp, uint32_t bytes);
/* Anything before both HELLOs would end the connection at the other side: it is as good as down until then. */
bool dp_may_send(const struct prl_dp *dp, const struct prl_msg *msg);
/* Queues a message. The pieces are frames or buffers of held packets, and stay where they are until they have left
 * (prl_link_refer): whoever frees such memory settles the link first. */
int dp_put(struct prl_dp *dp, struct prl_msg *msg, const struct iovec *piece, uint32_t pieces);
/* Queues a message without TLVs; one with them. */
int dp_send(struct prl_dp *dp, struct prl_msg *msg);
int dp_send_tlvs(struct prl_dp *dp, struct prl_msg *msg, const uint8_t *tlvs, size_t tlvs_bytes);

#endif /* PRL_FLOW_SEND_H */
