/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * SETUP: a snapshot that comes in pieces, or the moment of a prepared one, with the application's bytes behind it. The input
 * is what stands behind the header, so that nothing is lost on versions and lengths.
 */
#include "tcp/moment.h"
#include "wire/wire.h"

#include <errno.h>
#include <stdbool.h>

#include "fuzz.h"

/* What node/setup.c makes of it again: the fields and the queues behind them come back byte by byte, but for the two that
 * mean nothing. */
static void moment(const struct prl_msg *msg)
{
    uint8_t fields[PRL_MOMENT_FIELDS];
    uint8_t *exact = fuzz_exact(msg->data, msg->data_bytes); /* alone: what stands behind it is not its own */
    struct prl_moment found, again;
    int err = prl_moment_decode(exact, msg->data_bytes, 0, &found);

    assert(err == 0 || err == -EPROTO);
    assert(msg->data_bytes >= PRL_MOMENT_FIELDS || err);
    if (err == 0) {
        assert(found.mss && PRL_MOMENT_FIELDS + found.unread_bytes + found.unacked_bytes == msg->data_bytes);
        prl_moment_encode(&found, fields);
        assert(!memcmp(fields, exact, PRL_MOMENT_FIELDS - 2));
        memcpy(exact, fields, sizeof(fields));
        assert(prl_moment_decode(exact, msg->data_bytes, 0, &again) == 0);
        assert(!memcmp(&again, &found, sizeof(found)));
    }
    free(exact);
}

static void accepted(const struct prl_msg *msg)
{
    struct prl_tlv tlv;
    size_t at = 0;
    int more;

    assert(msg->data && msg->data_bytes);
    assert(msg->data_type == PRL_TLV_SNAPSHOT || msg->data_type == PRL_TLV_MOMENT);
    fuzz_touch(msg->data, msg->data_bytes);
    while ((more = prl_tlv_next(msg->tlvs, msg->tlvs_bytes, &at, &tlv)) > 0)
        if (tlv.type == PRL_TLV_APPLICATION)
            fuzz_touch(tlv.value, tlv.bytes);
    assert(more == 0);
    if (msg->data_type == PRL_TLV_MOMENT)
        moment(msg);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct prl_msg msg = {.type = PRL_MSG_SETUP}, got;
    struct fuzz_input input = {data, bytes};
    static uint8_t out[PRL_WIRE_MAX];
    uint8_t *exact;
    size_t rest;
    int length, err;

    msg.generation = (uint32_t)fuzz_number(&input, 4);
    msg.handle = (uint32_t)fuzz_number(&input, 4);
    msg.bits = (uint8_t)fuzz_number(&input, 1);
    rest = input.left & ~(size_t)3;
    length = prl_wire_encode(&msg, input.at, rest, out, sizeof(out));
    if (length < 0) {
        assert(length == -EMSGSIZE && rest > PRL_WIRE_MAX - PRL_WIRE_PREFIX_MAX);
        return 0;
    }
    exact = fuzz_exact(out, (size_t)length);
    err = prl_wire_decode(exact, (size_t)length, &got);
    assert(err == 0 || err == -EPROTO || err == -ENOTSUP);
    if (err == 0) {
        assert(got.generation == msg.generation && got.handle == msg.handle && got.bits == msg.bits);
        accepted(&got);
    }
    free(exact);
    return 0;
}
