/* SPDX-License-Identifier: BSD-2-Clause */
#include "node/setup.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "flow/dp.h"
#include "flow/send.h"
#include "io/error.h"
#include "io/probes.h"
#include "node/enter.h"
#include "node/ownership.h"
#include "path/reinject.h"

#define TLV_ROOM (PRL_TLV_HEADER + 4) /* header and padding of one element */
/* How often a session that moves meanwhile is copied. A look at much that is unread moves it: the stack acknowledges then
 * what it had put off (net/ipv4/tcp.c, tcp_cleanup_rbuf). */
#define COPIES_MAX 3

/* Secondary: a socket that is ready; Python's. */
struct ready {
    bool used;
    uint8_t *queues; /* of its moment, as far as they have come, NULL before the first piece */
    uint32_t queues_bytes;
    uint64_t since_ns; /* when that came: the moment is as old at least */
    struct prl_flow_spec spec;
    struct prl_ready ready;
};

/* Primary: a moment that was sent. */
struct sent {
    uint32_t handle, generation; /* 0: free */
    uint32_t segs_in, committed;
};

struct dp_setups {
    struct ready ready[PRL_SETUPS_MAX];
    struct sent sent[PRL_SETUPS_MAX];
    uint8_t tlvs[PRL_WIRE_MAX + PRL_MOMENT_QUEUES_MAX + PRL_MOMENT_SLACK];
};

int dp_setups_open(struct prl_dp *dp)
{
    dp->setups = calloc(1, sizeof(*dp->setups));
    return dp->setups ? 0 : -ENOMEM;
}

void dp_setups_close(struct prl_dp *dp)
{
    for (uint32_t i = 0; dp->setups && i < PRL_SETUPS_MAX; i++)
        free(dp->setups->ready[i].queues);
    free(dp->setups);
}

/* ---- primary ---- */

/* A place for it: its own of an earlier attempt, a free one, or one whose flow waits no more. */
static struct sent *place_for(struct prl_dp *dp, uint32_t handle)
{
    struct sent *found = NULL;

    for (uint32_t i = 0; i < PRL_SETUPS_MAX; i++) {
        struct sent *sent = &dp->setups->sent[i];
        const struct dp_flow *flow = sent->generation ? dp_flow_by_handle(dp, sent->handle) : NULL;

        if (sent->generation && sent->handle == handle)
            return sent;
        if (!flow || flow->secondary || dp_primary_of(flow)->state != PRL_PRIMARY_SETUP ||
            flow->spec.generation != sent->generation)
            found = sent;
    }
    return found;
}

static uint8_t *queues_of(struct dp_setups *setups)
{
    return setups->tlvs + PRL_TLV_HEADER + PRL_MOMENT_FIELDS;
}

/* What goes of the queues with the moment itself; the rest are whole pieces. */
static uint32_t last_bytes(uint32_t queues_bytes)
{
    return queues_bytes ? (queues_bytes - 1) % PRL_MOMENT_PIECE + 1 : 0;
}

static bool fits(uint32_t queues_bytes, uint32_t application_bytes)
{
    return PRL_MOMENT_FIELDS + last_bytes(queues_bytes) + application_bytes + 2 * TLV_ROOM <=
           PRL_WIRE_MAX - PRL_WIRE_PREFIX_MAX;
}

/* Each is on its way while the next one is put: the other node copies meanwhile. */
static int send_pieces(struct prl_dp *dp, const struct dp_flow *flow, uint32_t queues_bytes)
{
    uint8_t *queues = queues_of(dp->setups);
    uint32_t last = last_bytes(queues_bytes);

    for (uint32_t at = 0; at < queues_bytes - last; at += PRL_MOMENT_PIECE) {
        struct prl_msg msg = {
            .type = PRL_MSG_SETUP,
            .handle = flow->spec.handle,
            .generation = flow->spec.generation,
            .bits = PRL_SETUP_QUEUES,
            .data_type = PRL_TLV_MOMENT,
            .data_bytes = PRL_MOMENT_PIECE,
        };
        struct iovec piece = {.iov_base = queues + at, .iov_len = PRL_MOMENT_PIECE};
        int err = dp_has_bulk_room(dp, PRL_MOMENT_PIECE) ? prl_link_put(&dp->link, &msg, &piece, 1) : -ENOBUFS;

        if (err)
            return err;
        prl_link_flush(&dp->link);
    }
    memmove(queues, queues + queues_bytes - last, last);
    return 0;
}

/* The elements of the message, application bytes behind the moment; returns their length, or -errno. */
static int encode(struct dp_setups *setups, struct prl_moment *moment, const uint8_t *application, uint32_t bytes)
{
    uint32_t value = PRL_MOMENT_FIELDS + last_bytes(moment->unread_bytes + moment->unacked_bytes);
    uint8_t *fields = setups->tlvs + PRL_TLV_HEADER;
    size_t at = 0;
    int err;

    prl_moment_encode(moment, fields);
    prl_tlv_begin(setups->tlvs, PRL_TLV_MOMENT, true, value);
    at = PRL_TLV_HEADER + value;
    memset(setups->tlvs + at, 0, prl_wire_padding(value));
    at += prl_wire_padding(value);
    err = bytes ? prl_tlv_put(setups->tlvs, PRL_WIRE_MAX, &at, PRL_TLV_APPLICATION, 0, application, bytes) : 0;
    return err ? err : (int)at;
}

static int copy(struct prl_dp *dp, const struct dp_flow *flow, struct prl_moment *moment,
                struct prl_moment_counts *counts)
{
    bool may_be_long = dp->capabilities & PRL_CAP_LONG_MOMENT;
    const char *call;
    int err = -EAGAIN;

    for (int i = 0; i < COPIES_MAX && err == -EAGAIN; i++)
        err = dp->io->moment_copy(dp->host, flow->spec.fd, moment, queues_of(dp->setups),
                                  may_be_long ? PRL_MOMENT_QUEUES_MAX : PRL_MOMENT_PIECE, counts, &call);
    return err;
}

static int send_moment(struct prl_dp *dp, const struct dp_flow *flow, const struct prl_moment_spec *spec,
                       struct prl_moment_counts *counts, uint32_t *committed)
{
    struct prl_msg msg = {
        .type = PRL_MSG_SETUP,
        .handle = flow->spec.handle,
        .generation = flow->spec.generation,
        .bits = PRL_SETUP_LAST,
    };
    struct prl_moment moment;
    int tlvs_bytes, err;

    if (spec->at_rest)
        err = dp->io->moment_rest(dp->host, &flow->kernel->key, flow->spec.fd, &moment, counts);
    else
        err = copy(dp, flow, &moment, counts);
    if (!err && moment.state != PRL_TCP_ESTABLISHED)
        err = -ENOTSUP; /* the element does not tell it */
    if (!err && !fits(moment.unread_bytes + moment.unacked_bytes, spec->application_bytes))
        err = -ENOTSUP;
    if (!err)
        err = send_pieces(dp, flow, moment.unread_bytes + moment.unacked_bytes);
    if (err)
        return err;
    moment.in_bytes = prl_stream_at(moment.in_bytes, spec->in_offset);
    moment.out_bytes = prl_stream_at(moment.out_bytes, spec->out_offset);
    *committed = moment.snd_seq;
    tlvs_bytes = encode(dp->setups, &moment, spec->application, spec->application_bytes);
    if (tlvs_bytes < 0)
        return tlvs_bytes;
    err = dp_has_bulk_room(dp, (uint32_t)tlvs_bytes)
              ? prl_link_put_tlvs(&dp->link, &msg, dp->setups->tlvs, (size_t)tlvs_bytes)
              : -ENOBUFS;
    if (!err) {
        PRL_PROBE3(setup, "SETUP sent", msg.handle, msg.generation);
        dp->io->hurry(dp->host, true); /* until the answer; Python lets the program go on meanwhile */
        prl_link_flush(&dp->link); /* a dead connection is noticed by the loop */
    }
    return err;
}

int dp_setup_send_moment(struct prl_dp *dp, const struct prl_moment_spec *spec, struct prl_moment_counts *counts,
                         uint32_t *committed)
{
    struct dp_flow *flow = dp_flow_by_handle(dp, spec->handle);
    struct sent *sent = place_for(dp, spec->handle);
    int err;

    if (!flow || flow->secondary || flow->spec.generation != spec->generation ||
        dp_primary_of(flow)->state != PRL_PRIMARY_SETUP)
        err = -ESTALE;
    else if (!dp->link_up)
        err = -ENOTCONN;
    else
        err = sent ? send_moment(dp, flow, spec, counts, committed) : -ENOTSUP;
    if (!err) {
        dp->counters.moments_sent++;
        *sent = (struct sent){spec->handle, spec->generation, counts->segs_in, *committed};
    }
    return err;
}

/* Nothing has moved since the copy, and nothing passes; a straggler, or what stands behind a hole, would be missing in the shadow. */
static bool is_complete(struct prl_dp *dp, struct dp_flow *flow, const struct sent *sent)
{
    uint32_t segs_in = 0;

    dp_flow_sample(dp, flow);
    return !dp_owner_is_bypassed(dp) && dp->io->moment_segs_in(dp->host, flow->spec.fd, &segs_in) == 0 &&
           segs_in == sent->segs_in && !(flow->kernel->sock.stamp_ns && flow->kernel->sock.has_ooo);
}

static struct sent *sent_of(struct prl_dp *dp, uint32_t handle, uint32_t generation)
{
    for (uint32_t i = 0; i < PRL_SETUPS_MAX; i++) {
        struct sent *sent = &dp->setups->sent[i];

        if (sent->generation && sent->handle == handle && sent->generation == generation)
            return sent;
    }
    return NULL;
}

void dp_setup_done(struct prl_dp *dp, struct dp_flow *flow, const struct prl_msg *msg)
{
    uint64_t active_ns = 0;
    struct sent *sent = sent_of(dp, msg->handle, msg->generation);

    if (sent && msg->reason == PRL_REASON_OK && dp_primary_of(flow)->state == PRL_PRIMARY_SETUP &&
        flow->spec.generation == msg->generation) {
        if (is_complete(dp, flow, sent)) {
            dp_primary_activate(dp, flow, sent->committed, msg->space);
            active_ns = dp_clock_ns(dp);
        } else {
            dp->counters.moments_late++; /* Python says why, and lets it go on */
        }
    }
    if (sent)
        sent->generation = 0;
    dp->io->hurry(dp->host, false);
    dp_message_event(dp, msg, active_ns);
}

/* ---- secondary ---- */

static struct ready *ready_of(struct prl_dp *dp, uint32_t handle, uint32_t generation)
{
    for (uint32_t i = 0; i < PRL_SETUPS_MAX; i++) {
        struct ready *ready = &dp->setups->ready[i];

        if (ready->used && ready->spec.handle == handle && ready->spec.generation == generation)
            return ready;
    }
    return NULL;
}

/* The key as well. */
static void forget(struct prl_dp *dp, struct ready *ready)
{
    bool others = false;

    free(ready->queues);
    explicit_bzero(ready, sizeof(*ready));
    for (uint32_t i = 0; i < PRL_SETUPS_MAX && !others; i++)
        others = dp->setups->ready[i].used;
    dp->io->hurry(dp->host, others);
}

int dp_setup_prepare(struct prl_dp *dp, const struct prl_flow_spec *spec, const struct prl_ready *ready)
{
    int err = -ENOSPC;

    for (uint32_t i = 0; i < PRL_SETUPS_MAX && err; i++)
        if (!dp->setups->ready[i].used) {
            dp->setups->ready[i] = (struct ready){.used = true, .spec = *spec, .ready = *ready};
            dp->io->hurry(dp->host, true); /* the moment is going to come */
            PRL_PROBE3(setup, "socket prepared", spec->handle, spec->generation);
            err = 0;
        }
    return err;
}

int dp_setup_unprepare(struct prl_dp *dp, uint32_t handle, uint32_t generation)
{
    struct ready *ready = ready_of(dp, handle, generation);

    if (ready) {
        forget(dp, ready);
        dp->counters.prepared_dropped++;
    }
    return ready ? 0 : -ENOENT;
}

/* Says why not, to the primary and to Python, which has the socket. */
static void refuse(struct prl_dp *dp, const struct prl_msg *msg, uint8_t reason, const char *words, bool was_ready)
{
    struct prl_msg answer = {
        .type = PRL_MSG_SETUP_DONE,
        .handle = msg->handle,
        .generation = msg->generation,
        .reason = reason,
    };
    struct prl_event event = {
        .kind = PRL_EVENT_RESTORED,
        .handle = msg->handle,
        .generation = msg->generation,
        .reason = reason,
    };
    size_t at = 0, bytes = strlen(words);
    uint8_t text[PRL_ERROR_BYTES + TLV_ROOM];

    dp->counters.moments_refused++;
    PRL_PROBE3(setup, "SETUP_DONE sent", msg->handle, msg->generation);
    if (prl_tlv_put(text, sizeof(text), &at, PRL_TLV_TEXT, 0, words, (uint32_t)bytes) == 0 &&
        prl_link_put_tlvs(&dp->link, &answer, text, at) == -ENOBUFS)
        dp->counters.link_tx_full++; /* the primary's deadline opens the flow */
    if (was_ready)
        dp_event(dp, &event, (const uint8_t *)words, (uint32_t)bytes);
}

/* Behind what has come of the queues. */
static int add(struct ready *ready, const uint8_t *queues, uint32_t bytes, uint64_t now_ns)
{
    if (bytes > PRL_MOMENT_QUEUES_MAX - ready->queues_bytes)
        return -EMSGSIZE;
    if (!ready->queues)
        ready->queues = malloc(PRL_MOMENT_QUEUES_MAX);
    if (!ready->queues)
        return -ENOMEM;
    if (!ready->queues_bytes)
        ready->since_ns = now_ns;
    memcpy(ready->queues + ready->queues_bytes, queues, bytes);
    ready->queues_bytes += bytes;
    return 0;
}

/* The shadow is there: from here on the flow's messages may come. */
static int restore(struct prl_dp *dp, struct ready *ready, const struct prl_msg *msg,
                   struct prl_moment_counts *counts, char *words)
{
    struct prl_msg answer = {.type = PRL_MSG_SETUP_DONE, .handle = msg->handle, .generation = msg->generation};
    struct prl_flow_spec spec = ready->spec;
    const char *call = "the moment";
    struct prl_moment moment;
    uint64_t now_ns = dp_clock_ns(dp), age_ns = ready->queues ? now_ns - ready->since_ns : 0;
    int err = prl_moment_decode(msg->data, msg->data_bytes, ready->queues_bytes, &moment);

    if (!err && ready->queues)
        err = add(ready, msg->data + PRL_MOMENT_FIELDS, msg->data_bytes - PRL_MOMENT_FIELDS, now_ns);
    if (!err)
        err = dp->io->moment_restore(dp->host, spec.fd, &ready->ready, spec.snd_wscale, spec.rcv_wscale, &moment,
                                     ready->queues ? ready->queues : msg->data + PRL_MOMENT_FIELDS,
                                     (age_ns + dp->rtt_ns) / 1000000, counts, &call);
    if (!err) {
        spec.committed = moment.snd_seq;
        spec.peer_window = moment.snd_wnd >> spec.snd_wscale & UINT16_MAX;
        call = "the flow's entry";
        err = dp_secondary_enter(dp, &spec, &answer.space);
    }
    if (err) {
        snprintf(words, PRL_ERROR_BYTES, "the shadow cannot be made: %s: %s", call, strerror(-err));
    } else if (dp_send(dp, &answer) == 0) {
        PRL_PROBE3(setup, "SETUP_DONE sent", msg->handle, msg->generation);
        prl_link_flush(&dp->link); /* before Python is woken, which would be in the way of who waits */
    }
    return err;
}

/* The other node's moment has come. `words` say why it cannot be; returns PRL_REASON_*. */
static uint8_t use(struct prl_dp *dp, struct ready *ready, const struct prl_msg *msg,
                   struct prl_moment_counts *counts, char *words)
{
    uint32_t service = dp_service_of(dp, &ready->spec.key);

    if (service == PRL_SLOT_NONE || dp->owner.state[service] != PRL_OWNER_STANDBY) {
        snprintf(words, PRL_ERROR_BYTES, "that node does not stand by for it any more");
        return PRL_REASON_NOT_ACTIVE;
    }
    dp_reinject_flush(dp); /* the flow that it replaces may have some */
    return restore(dp, ready, msg, counts, words) ? PRL_REASON_RESTORE_FAILED : PRL_REASON_OK;
}

void dp_setup_queues(struct prl_dp *dp, const struct prl_msg *msg)
{
    struct ready *ready = ready_of(dp, msg->handle, msg->generation);
    char words[PRL_ERROR_BYTES];
    int err = ready ? add(ready, msg->data, msg->data_bytes, dp_clock_ns(dp)) : 0; /* else the moment is refused */

    if (err) {
        snprintf(words, sizeof(words), "the shadow cannot be made: its queues: %s", strerror(-err));
        refuse(dp, msg, PRL_REASON_RESTORE_FAILED, words, true);
        forget(dp, ready);
    }
}

void dp_setup_moment(struct prl_dp *dp, const struct prl_msg *msg)
{
    struct prl_event event = {.kind = PRL_EVENT_RESTORED, .handle = msg->handle, .generation = msg->generation};
    struct ready *ready = ready_of(dp, msg->handle, msg->generation);
    struct prl_moment_counts counts = {0};
    char words[PRL_ERROR_BYTES] = "what was prepared for it is not there any more";
    uint32_t before = ready ? ready->queues_bytes : 0;
    uint8_t reason = ready ? use(dp, ready, msg, &counts, words) : PRL_REASON_NOT_ACTIVE;

    if (reason) {
        refuse(dp, msg, reason, words, ready != NULL);
    } else {
        dp->counters.moments_restored++;
        event.value = counts.bytes_received;
        event.value2 = counts.bytes_acked;
        event.seq = before; /* the rest of what the control plane is told of stands in the message */
        dp_event(dp, &event, msg->tlvs, msg->tlvs_bytes);
    }
    if (ready)
        forget(dp, ready);
}
