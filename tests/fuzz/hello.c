/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * HELLO as C has it: versions, and elements in any number and order. The input makes a HELLO, and says at the end what is
 * changed of it; what the datapath takes of it (loop/loop.c, take_message()) and gives to Python must be what was put in.
 */
#include "wire/wire.h"

#include <errno.h>
#include <stdbool.h>

#include "fuzz.h"

#define ELEMENTS_MAX 24

struct element {
    uint16_t type;
    uint8_t mandatory;
    uint32_t bytes;
    size_t at; /* of its value */
};

/* The version that two nodes of these ranges speak is one that both know, the highest; 0 only when there is none. */
static void versions(uint8_t min, uint8_t max)
{
    uint8_t common = prl_wire_common_version(min, max);
    uint8_t best = 0;

    for (unsigned int one = PRL_WIRE_VERSION_MIN; one <= PRL_WIRE_VERSION; one++)
        if (one >= min && one <= max)
            best = (uint8_t)one;
    assert(common == best);
}

static void judge(const uint8_t *hello, size_t bytes, const struct element *element, uint32_t elements,
                  bool skippable)
{
    struct prl_msg msg;
    struct prl_tlv tlv;
    size_t at = 0;
    int err = prl_wire_decode(hello, bytes, &msg);

    if (!skippable) {
        assert(err == -EPROTO || err == -ENOTSUP);
        return;
    }
    assert(err == 0 && msg.type == PRL_MSG_HELLO && !msg.data_bytes);
    versions(msg.version_min, msg.version_max);
    for (uint32_t i = 0; i < elements; i++) {
        assert(prl_tlv_next(msg.tlvs, msg.tlvs_bytes, &at, &tlv) == 1);
        assert(tlv.type == element[i].type && tlv.mandatory == element[i].mandatory);
        assert(tlv.bytes == element[i].bytes && tlv.value == msg.tlvs + element[i].at);
        fuzz_touch(tlv.value, tlv.bytes);
    }
    assert(prl_tlv_next(msg.tlvs, msg.tlvs_bytes, &at, &tlv) == 0);
}

/* A message of the link's own never carries a packet, payload or snapshot. */
static bool may_skip(const struct element *element)
{
    switch (element->type) {
    case PRL_TLV_PACKET:
    case PRL_TLV_PAYLOAD:
    case PRL_TLV_SNAPSHOT:
    case PRL_TLV_ELIDED:
    case PRL_TLV_MOMENT:
        return false;
    default:
        return prl_tlv_is_known(element->type, PRL_WIRE_VERSION_MIN) || !element->mandatory;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static uint8_t tlvs[PRL_WIRE_MAX], value[4096], hello[PRL_WIRE_MAX];
    struct fuzz_input input = {data, bytes};
    struct prl_msg msg = {.type = PRL_MSG_HELLO}, got;
    struct element element[ELEMENTS_MAX];
    uint32_t elements = 0;
    bool skippable = true;
    size_t end = 0;
    uint8_t *exact;
    int length;

    msg.version_min = (uint8_t)fuzz_number(&input, 1);
    msg.version_max = (uint8_t)fuzz_number(&input, 1);
    msg.node_index = (uint8_t)fuzz_number(&input, 1);
    versions(msg.version_min, msg.version_max);
    while (elements < ELEMENTS_MAX && input.left > 4) {
        struct element *one = &element[elements];

        one->type = (uint16_t)fuzz_number(&input, 1);
        one->type |= (uint16_t)(one->type & 0x80 ? 0x7f00 : 0); /* types that nobody has, too */
        one->mandatory = fuzz_number(&input, 1) & 1;
        one->bytes = (uint32_t)fuzz_number(&input, 2) % sizeof(value);
        one->bytes = one->bytes > input.left ? (uint32_t)input.left : one->bytes;
        fuzz_take(&input, value, one->bytes);
        one->at = end + PRL_TLV_HEADER;
        if (prl_tlv_put(tlvs, sizeof(tlvs) - PRL_WIRE_PREFIX_MAX, &end, one->type, one->mandatory, value,
                        one->bytes))
            break;
        skippable &= may_skip(one);
        elements++;
    }
    length = prl_wire_encode(&msg, tlvs, end, hello, sizeof(hello));
    assert(length > 0 && msg.version == PRL_WIRE_VERSION_MIN);
    exact = fuzz_exact(hello, (size_t)length);
    judge(exact, (size_t)length, element, elements, skippable);
    if (input.left) { /* one byte of it is another: whatever comes of it lies inside */
        exact[fuzz_number(&input, 2) % (size_t)length] ^= (uint8_t)fuzz_number(&input, 1);
        if (prl_wire_decode(exact, (size_t)length, &got) == 0) {
            struct prl_tlv tlv;
            size_t at = 0;
            int more;

            while ((more = prl_tlv_next(got.tlvs, got.tlvs_bytes, &at, &tlv)) > 0)
                fuzz_touch(tlv.value, tlv.bytes);
            assert(more == 0);
        }
    }
    free(exact);
    return 0;
}
