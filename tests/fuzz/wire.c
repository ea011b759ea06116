/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Decoding of one message (wire.h). What is accepted lies within the input, and comes back when it is encoded again: the
 * fixed part field by field, the elements byte by byte.
 */
#include "wire/wire.h"

#include <errno.h>

#include "fuzz.h"

/* Every step stays inside and goes forward. Returns how the walk ended: 0, or -EPROTO. */
static int walk(const uint8_t *tlvs, size_t bytes)
{
    struct prl_tlv tlv;
    size_t at = 0, before = 0;
    int more;

    while ((more = prl_tlv_next(tlvs, bytes, &at, &tlv)) > 0) {
        assert(at >= before + PRL_TLV_HEADER && at <= bytes);
        assert(tlv.value == tlvs + before + PRL_TLV_HEADER);
        assert(tlv.bytes + prl_wire_padding(tlv.bytes) == at - before - PRL_TLV_HEADER);
        assert(tlv.type < PRL_TLV_MANDATORY);
        fuzz_touch(tlv.value, tlv.bytes);
        before = at;
    }
    assert(more == -EPROTO || (more == 0 && at == bytes));
    return more;
}

/* Two decoded messages say the same; their elements lie in different places. */
static void same(const struct prl_msg *a, const struct prl_msg *b)
{
    struct prl_msg one = *a, other = *b;

    assert(a->tlvs_bytes == b->tlvs_bytes && !memcmp(a->tlvs, b->tlvs, a->tlvs_bytes));
    assert(a->data - a->tlvs == b->data - b->tlvs);
    one.tlvs = other.tlvs = one.data = other.data = NULL;
    assert(!memcmp(&one, &other, sizeof(one)));
}

/* Its data alone, in the way that data goes out: prefix, data, padding. */
static void send_data(const struct prl_msg *msg)
{
    struct prl_msg again = *msg, got;
    uint8_t *out;
    int bytes;

    out = malloc(PRL_WIRE_PREFIX_MAX + (size_t)msg->data_bytes + 4);
    assert(out);
    bytes = prl_wire_encode_prefix(&again, out, PRL_WIRE_PREFIX_MAX);
    assert(bytes > 0 && bytes <= PRL_WIRE_PREFIX_MAX);
    if (msg->data_bytes)
        memcpy(out + bytes, msg->data, msg->data_bytes);
    memset(out + bytes + msg->data_bytes, 0, prl_wire_padding(msg->data_bytes));
    assert(again.length == (uint32_t)bytes + msg->data_bytes + prl_wire_padding(msg->data_bytes));
    assert(prl_wire_decode(out, again.length, &got) == 0);
    assert(got.data_type == msg->data_type && got.data_bytes == msg->data_bytes);
    assert(!msg->data_bytes || !memcmp(got.data, msg->data, msg->data_bytes));
    free(out);
}

static void accepted(const uint8_t *bytes, const struct prl_msg *msg)
{
    struct prl_msg again = *msg, got;
    uint8_t *out = malloc(msg->length);
    int done;

    assert(out && msg->tlvs + msg->tlvs_bytes == bytes + msg->length);
    assert(walk(msg->tlvs, msg->tlvs_bytes) == 0);
    if (msg->data) {
        assert(msg->data >= msg->tlvs && msg->data + msg->data_bytes <= msg->tlvs + msg->tlvs_bytes);
        fuzz_touch(msg->data, msg->data_bytes);
    }
    assert(prl_msg_name(msg->type) && prl_reason_text(msg->reason));
    done = prl_wire_encode(&again, msg->tlvs, msg->tlvs_bytes, out, msg->length);
    assert(done == (int)msg->length);
    assert(prl_wire_decode(out, (size_t)done, &got) == 0);
    same(msg, &got);
    assert(prl_wire_encode(&again, msg->tlvs, msg->tlvs_bytes, out, msg->length - 1) == -EMSGSIZE);
    if (msg->data_bytes)
        send_data(msg);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    uint8_t *exact = fuzz_exact(data, bytes);
    int64_t length = prl_wire_length(exact, bytes);
    struct prl_msg msg;
    int err;

    assert(length == 0 || length == -EPROTO || (length >= PRL_WIRE_HEADER && length <= PRL_WIRE_MAX));
    for (size_t have = 0; have < 8 && have < bytes; have++) { /* a judgement is not taken back when more comes */
        int64_t early = prl_wire_length(exact, have);

        assert(early == 0 || (early == -EPROTO && length == -EPROTO));
    }
    err = prl_wire_decode(exact, bytes, &msg);
    assert(err == 0 || err == -EPROTO || err == -ENOTSUP);
    assert(err == -EPROTO || length == (int64_t)bytes);
    if (err == 0)
        accepted(exact, &msg);
    walk(exact, bytes);
    free(exact);
    return 0;
}
