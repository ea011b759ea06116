/* SPDX-License-Identifier: BSD-2-Clause */
#include "flow/send.h"

#include <errno.h>

#include "flow/dp.h"

bool dp_has_bulk_room(const struct prl_dp *dp, uint32_t bytes)
{
    return prl_link_room(&dp->link, bytes + dp->link.tx_bytes / DP_LINK_RESERVE_SHARE);
}

bool dp_may_send(const struct prl_dp *dp, const struct prl_msg *msg)
{
    return dp->link_up || msg->type == PRL_MSG_HELLO;
}

/* A message that found no room leaves a hole in the stream. */
static int note_overflow(struct prl_dp *dp, int err)
{
    if (err == -ENOBUFS) {
        dp->counters.link_tx_full++;
        dp->link_overflow = true;
    }
    return err;
}

int dp_put(struct prl_dp *dp, struct prl_msg *msg, const struct iovec *piece, uint32_t pieces)
{
    return note_overflow(dp, dp->link_overflow ? -ENOBUFS : prl_link_refer(&dp->link, msg, piece, pieces));
}

int dp_send(struct prl_dp *dp, struct prl_msg *msg)
{
    if (!dp_may_send(dp, msg))
        return -ENOTCONN;
    return dp_put(dp, msg, NULL, 0);
}

int dp_send_tlvs(struct prl_dp *dp, struct prl_msg *msg, const uint8_t *tlvs, size_t tlvs_bytes)
{
    if (!dp_may_send(dp, msg))
        return -ENOTCONN;
    return note_overflow(dp, dp->link_overflow ? -ENOBUFS : prl_link_put_tlvs(&dp->link, msg, tlvs, tlvs_bytes));
}
