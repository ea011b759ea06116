/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <string.h>

#include "api/datapath.h"
#include "flow/dp.h"
#include "flow/send.h"
#include "loop/lock.h"
#include "loop/loop.h"
#include "node/claim.h"
#include "node/ownership.h"
#include "node/resync.h"
#include "path/mirror.h"

static int attach(struct prl_dp *dp, int fd, struct prl_tls *tls)
{
    int err = 0;

    dp_lock(dp);
    if (dp->link.fd >= 0) {
        err = -EBUSY;
    } else {
        dp->link_up = false;
        dp->hello_seen = false;
        dp->link_overflow = false;
        dp_loop_new_link(dp);
        err =
            tls ? dp->io->link_attach_tls(dp->host, &dp->link, tls) : dp->io->link_attach(dp->host, &dp->link, fd);
    }
    dp_unlock(dp);
    dp->io->wake(dp->host);
    return err;
}

int prl_dp_link_attach(struct prl_dp *dp, int fd)
{
    return attach(dp, fd, NULL);
}

int prl_dp_link_attach_tls(struct prl_dp *dp, struct prl_tls *tls)
{
    return attach(dp, -1, tls);
}

int prl_dp_link_hello(struct prl_dp *dp)
{
    int err = 0;

    dp_lock(dp);
    if (dp->link.fd < 0 || dp->link_up) {
        err = -ENOTCONN; /* no HELLO leaves, or none that is read: what the shadows may do does not change */
    } else {
        dp->now_ns = dp_clock_ns(dp);
        dp_owner_do(dp, prl_owner_hello(&dp->owner));
    }
    dp_unlock(dp);
    return err;
}

int prl_dp_link_up(struct prl_dp *dp, uint64_t epoch, uint64_t capabilities, const uint8_t lan_key[32],
                   const uint8_t own_token[16], const uint8_t peer_token[16])
{
    uint64_t former_epoch, former_capabilities;
    int err = 0;

    dp_lock(dp);
    former_epoch = dp->epoch, former_capabilities = dp->capabilities;
    if (dp->link.fd < 0 || dp->link_up)
        err = -ENOTCONN;
    if (!err) {
        dp->epoch = epoch, dp->capabilities = capabilities;
        err = dp_claim_set_keys(dp, lan_key, own_token, peer_token);
        if (err)
            dp->epoch = former_epoch, dp->capabilities = former_capabilities;
    }
    if (!err) {
        dp->now_ns = dp_clock_ns(dp);
        dp->link_up = true;
        dp->config.limits.nack_retry = !!(capabilities & PRL_CAP_NACK_RETRY);
        dp_owner_do(dp, prl_owner_link_up(&dp->owner, dp->now_ns));
        dp_resync_begin(dp);
    }
    dp_unlock(dp);
    dp->io->wake(dp->host);
    return err;
}

int prl_dp_mirror(struct prl_dp *dp)
{
    int err = 0;

    dp_lock(dp);
    if (!dp->link_up || !(dp->capabilities & PRL_CAP_MIRROR))
        err = -ENOTCONN;
    else
        dp_mirror_start(dp);
    dp_unlock(dp);
    return err;
}

int prl_dp_link_drop(struct prl_dp *dp, const char *why)
{
    dp_lock(dp);
    dp->now_ns = dp_clock_ns(dp);
    dp_link_lost(dp, why);
    dp_unlock(dp);
    dp->io->wake(dp->host);
    return 0;
}

uint64_t prl_dp_link_rtt_ns(struct prl_dp *dp)
{
    uint64_t rtt_ns;

    dp_lock(dp);
    rtt_ns = dp->rtt_ns;
    dp_unlock(dp);
    return rtt_ns;
}

int prl_dp_link_send(struct prl_dp *dp, const struct prl_msg *msg, const uint8_t *tlvs, size_t tlvs_bytes)
{
    struct prl_msg copy = *msg;
    bool is_left;
    int err;

    dp_lock(dp);
    if (!dp_may_send(dp, msg))
        err = -ENOTCONN;
    else if (msg->type == PRL_MSG_SETUP && !dp_has_bulk_room(dp, (uint32_t)tlvs_bytes))
        err = -ENOBUFS;
    else
        err = prl_link_put_tlvs(&dp->link, &copy, tlvs, tlvs_bytes);
    if (!err) {
        if (msg->type == PRL_MSG_SETUP)
            PRL_PROBE3(setup, "SETUP sent", msg->handle, msg->generation);
        if (msg->type == PRL_MSG_SETUP_DONE)
            PRL_PROBE3(setup, "SETUP_DONE sent", msg->handle, msg->generation);
        prl_link_flush(&dp->link); /* a dead connection is noticed by the loop */
    }
    is_left = prl_link_pending(&dp->link);
    dp_unlock(dp);
    if (is_left)
        dp->io->wake(dp->host);
    return err;
}
