/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The link's stream without TLS. The transport reads and writes as little as the input says, and refuses when it says so. In
 * the one mode messages go from one link to another, put or referred to, flushed now and then: they arrive whole, unchanged
 * and in order. In the other the other node sends what the input has: which messages are found in it does not depend on
 * how it was cut, and nothing is read that has not come.
 */
#include "io/link.h"

#include <errno.h>
#include <sanitizer/asan_interface.h>
#include <stdbool.h>

#include "fuzz.h"

#define TX_BYTES 8192u /* small, so that the ring is full and wraps */
#define PIPE_BYTES (1u << 20)
#define DATA_MAX 3000u
#define EXPECTED_MAX 256u
#define STEPS_MAX 512u

struct wire {
    uint8_t bytes[PIPE_BYTES];
    size_t from, to;
    struct fuzz_input *input; /* how much at once; NULL: all */
};

struct expected {
    uint8_t type;
    uint32_t handle, data_bytes, data_sum;
};

static struct wire wire;
static struct prl_link sender, receiver;
static uint8_t data_of[PIPE_BYTES]; /* what is referred to must stay */

static size_t portion(struct fuzz_input *input, size_t most)
{
    uint8_t word = 0;

    if (!input || !input->left)
        return most;
    fuzz_take(input, &word, 1);
    if (word < 0x80) /* that many bytes, or refused */
        return word < most ? word : most;
    return (size_t)(word - 0x7f) * most / 0x80;
}

static ssize_t wire_read(void *state, void *buf, size_t bytes)
{
    struct wire *from = state;
    size_t have = from->to - from->from;
    size_t got = portion(from->input, have < bytes ? have : bytes);

    ASAN_POISON_MEMORY_REGION(buf, bytes); /* what has not come is nobody's */
    ASAN_UNPOISON_MEMORY_REGION(buf, got);
    if (!got)
        return -EAGAIN;
    memcpy(buf, from->bytes + from->from, got);
    from->from += got;
    return (ssize_t)got;
}

static ssize_t wire_writev(void *state, const struct iovec *piece, int pieces)
{
    struct wire *to = state;
    size_t all = 0, left;

    assert(pieces > 0 && pieces <= (int)PRL_LINK_PIECES_MAX);
    for (int i = 0; i < pieces; i++) {
        assert(piece[i].iov_len);
        all += piece[i].iov_len;
    }
    left = portion(to->input, all);
    all = left;
    if (!left || to->to + left > PIPE_BYTES)
        return -EAGAIN;
    for (int i = 0; i < pieces && left; i++) {
        size_t part = piece[i].iov_len < left ? piece[i].iov_len : left;

        memcpy(to->bytes + to->to, piece[i].iov_base, part);
        to->to += part;
        left -= part;
    }
    return (ssize_t)all;
}

static void wire_close(void *state)
{
    struct wire *closed = state;

    closed->from = closed->to = 0;
}

static const struct prl_transport transport = {.read = wire_read, .writev = wire_writev, .close = wire_close};

static uint32_t sum_of(const uint8_t *bytes, uint32_t count)
{
    uint32_t sum = 0;

    for (uint32_t i = 0; i < count; i++)
        sum = sum * 31 + bytes[i];
    return sum;
}

static void begin(struct fuzz_input *input)
{
    if (!receiver.rx) {
        assert(prl_link_init(&sender, TX_BYTES) == 0 && prl_link_init(&receiver, TX_BYTES) == 0);
        for (size_t i = 0; i < sizeof(data_of); i++)
            data_of[i] = (uint8_t)(i * 167 >> 4);
    }
    wire.from = wire.to = 0;
    wire.input = input;
    ASAN_UNPOISON_MEMORY_REGION(receiver.rx, PRL_LINK_RX_BYTES);
    prl_link_attach(&sender, &transport, &wire, 0);
    prl_link_attach(&receiver, &transport, &wire, 0);
}

static void end(void)
{
    prl_link_detach(&sender);
    prl_link_detach(&receiver);
}

/* ---- from one to the other ---- */

static struct expected expected[EXPECTED_MAX];
static uint32_t sent, arrived;

static void arrive(void)
{
    struct prl_msg msg;
    int one;

    prl_link_receive(&receiver);
    while ((one = prl_link_next(&receiver, &msg)) > 0) {
        const struct expected *wanted = &expected[arrived++];

        assert(arrived <= sent);
        assert(msg.type == wanted->type && msg.handle == wanted->handle && msg.data_bytes == wanted->data_bytes);
        assert(sum_of(msg.data, msg.data_bytes) == wanted->data_sum);
    }
    assert(one == 0);
}

static void put(struct fuzz_input *input, bool refer)
{
    static const uint8_t types[] = {PRL_MSG_REPLICATE, PRL_MSG_ACK, PRL_MSG_OUTPUT, PRL_MSG_SETUP};
    struct prl_msg msg = {.type = types[fuzz_number(input, 1) % sizeof(types)], .handle = sent};
    uint32_t most = msg.type == PRL_MSG_ACK ? 0 : (uint32_t)fuzz_number(input, 2) % DATA_MAX + 1;
    uint32_t cut = (uint32_t)fuzz_number(input, 2) % (most + 1);
    const uint8_t *from = data_of + (size_t)sent * (DATA_MAX + 1);
    struct iovec piece[2] = {{(void *)(uintptr_t)from, cut}, {(void *)(uintptr_t)(from + cut), most - cut}};
    bool room;
    int err;

    if (sent == EXPECTED_MAX)
        return;
    msg.data_bytes = most;
    room = prl_link_room(&sender, most);
    err = (refer ? prl_link_refer : prl_link_put)(&sender, &msg, piece, most ? 2 : 0);
    assert(room ? err == 0 : err == -ENOBUFS);
    if (!err)
        expected[sent++] = (struct expected){msg.type, msg.handle, most, sum_of(from, most)};
}

static void exchange(struct fuzz_input *input)
{
    sent = arrived = 0;
    begin(input);
    for (uint32_t step = 0; step < STEPS_MAX && input->left; step++) {
        switch (fuzz_number(input, 1) % 6) {
        case 0:
            put(input, false);
            break;
        case 1:
        case 2:
            put(input, true);
            break;
        case 3:
            prl_link_settle(&sender);
            break;
        case 4:
            assert(prl_link_flush(&sender) == 0);
            break;
        default:
            arrive();
            break;
        }
    }
    wire.input = NULL;
    assert(prl_link_flush(&sender) == 0 && !prl_link_pending(&sender));
    arrive();
    assert(arrived == sent && !prl_link_unread(&receiver) && wire.from == wire.to);
    end();
}

/* ---- from anybody ---- */

struct found {
    uint32_t messages, sum;
    int last;
};

static struct found listen(const uint8_t *bytes, size_t count, struct fuzz_input *cuts)
{
    struct found found = {0};
    struct prl_msg msg;

    begin(cuts);
    memcpy(wire.bytes, bytes, count);
    wire.to = count;
    for (uint32_t idle = 0; idle < 2;) {
        if (!cuts || !cuts->left)
            wire.input = NULL;
        idle = prl_link_receive(&receiver) > 0 || wire.input ? 0 : idle + 1;
        while ((found.last = prl_link_next(&receiver, &msg)) > 0) {
            found.messages++;
            found.sum = found.sum * 31 + msg.type + sum_of(msg.tlvs, msg.tlvs_bytes);
            fuzz_touch(msg.data, msg.data_bytes);
        }
        assert(found.last == 0 || found.last == -EPROTO || found.last == -ENOTSUP);
        if (found.last)
            break;
    }
    end();
    return found;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct fuzz_input input = {data, bytes}, cuts;
    struct found whole, cut;
    size_t how;

    if (fuzz_number(&input, 1) & 1) {
        exchange(&input);
        return 0;
    }
    how = (size_t)fuzz_number(&input, 1);
    how = how < input.left ? how : input.left;
    cuts = (struct fuzz_input){input.at, how};
    input.at += how;
    input.left -= how;
    whole = listen(input.at, input.left, NULL);
    cut = listen(input.at, input.left, &cuts);
    assert(whole.messages == cut.messages && whole.sum == cut.sum && whole.last == cut.last);
    return 0;
}
