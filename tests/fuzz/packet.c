/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A packet as bytes (packet.h): what is parsed lies inside what there is, whatever length the headers claim; sums do not
 * depend on how the packet is cut into pieces; what is written is read back; what prl makes itself is a packet.
 */
#include "tcp/packet.h"
#include "wire/wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>

#include "fuzz.h"

static void inside(const struct prl_packet *packet, uint32_t have, uint32_t total)
{
    assert(packet->version == 4 || packet->version == 6);
    assert(packet->l2_bytes + packet->l3_bytes <= total);
    assert(packet->l4_offset >= (packet->version == 4 ? 20 : 40));
    assert(packet->data_offset >= packet->l4_offset && packet->l2_bytes + packet->data_offset <= have);
    assert(packet->data_offset + packet->payload_bytes == packet->l3_bytes);
    if (packet->proto == IPPROTO_TCP) {
        assert(packet->data_offset - packet->l4_offset >= 20 && packet->data_offset - packet->l4_offset <= 60);
        assert(!packet->stamps_offset || packet->stamps_offset + 8 <= packet->data_offset);
        assert(!packet->md5_offset || packet->md5_offset + PRL_MD5_DIGEST_BYTES <= packet->data_offset);
        assert(packet->has_timestamps == (packet->stamps_offset != 0));
    } else {
        assert(!packet->stamps_offset && !packet->md5_offset && !packet->has_timestamps);
        assert(packet->data_offset - packet->l4_offset == (packet->proto == IPPROTO_UDP ? 8 : 0));
    }
}

/* RFC 1071, as it stands there. */
static uint16_t checksum(uint32_t sum, const uint8_t *bytes, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        sum += i & 1 ? bytes[i] : (uint32_t)bytes[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

static uint16_t l4_sum(const uint8_t *l3, const struct prl_packet *packet, bool with_l4)
{
    uint32_t l4_bytes = packet->l3_bytes - packet->l4_offset;
    uint32_t ends = packet->version == 4 ? 12 : 8;
    uint32_t pseudo = (l4_bytes >> 16) + (l4_bytes & 0xffff) + packet->proto;

    pseudo = checksum(pseudo, l3 + ends, packet->version == 4 ? 8 : 32);
    return checksum(pseudo, l3 + packet->l4_offset, with_l4 ? l4_bytes : 0);
}

/* The packet in two pieces and in one. */
static void sums(uint8_t *l3, const struct prl_packet *packet, uint32_t cut)
{
    uint32_t at = packet->l4_offset + (packet->proto == IPPROTO_TCP ? 16 : 6);
    uint8_t *front, *back;
    struct iovec whole = {l3, packet->l3_bytes}, piece[2];
    uint16_t field = (uint16_t)(l3[at] << 8 | l3[at + 1]);
    enum prl_checksum judged = prl_packet_checksum(&whole, 1, packet);

    cut = packet->data_offset + cut % (packet->payload_bytes + 1);
    front = fuzz_exact(l3, cut);
    back = fuzz_exact(l3 + cut, packet->l3_bytes - cut);
    piece[0] = (struct iovec){front, cut};
    piece[1] = (struct iovec){back, packet->l3_bytes - cut};
    assert(prl_packet_checksum(piece, 2, packet) == judged);
    assert(prl_packet_payload_sum(piece, 2, packet) == prl_packet_payload_sum(&whole, 1, packet));
    if (judged == PRL_CHECKSUM_PARTIAL)
        assert(field == l4_sum(l3, packet, false));
    else if (judged == PRL_CHECKSUM_FULL)
        assert(l4_sum(l3, packet, true) == 0xffff || (packet->proto == IPPROTO_UDP && !field));
    else
        assert(l4_sum(l3, packet, true) != 0xffff);
    prl_packet_set_partial(front, packet);
    assert(prl_packet_checksum(piece, 2, packet) == PRL_CHECKSUM_PARTIAL);
    free(front);
    free(back);
}

static void rewrite(const uint8_t *bytes, uint32_t total, const struct prl_packet *packet, uint32_t word)
{
    uint8_t *copy = fuzz_exact(bytes, total), *l3 = copy + packet->l2_bytes;
    struct prl_packet again;

    prl_packet_set_length(l3, packet);
    prl_packet_set_ack(l3, packet, word, (uint16_t)(word >> 7));
    if (packet->stamps_offset)
        prl_packet_set_stamps(l3, packet, word, ~word);
    assert(prl_packet_parse(copy, total, total, packet->l2_bytes != 0, &again) == 0);
    assert(again.ack == word && again.window == (uint16_t)(word >> 7));
    if (packet->has_timestamps && again.stamps_offset == packet->stamps_offset)
        assert(again.tsval == word && again.tsecr == ~word);
    again.ack = packet->ack;
    again.window = packet->window;
    again.tsval = packet->tsval;
    again.tsecr = packet->tsecr;
    assert(!memcmp(&again, packet, sizeof(again)));
    free(copy);
}

/* Only a packet that lies there whole: the datapath asks for the key of no other. */
static void keys(const uint8_t *l3, const struct prl_packet *packet)
{
    struct prl_flow_key key, own;
    int err = prl_packet_flow_key(l3, packet, 3, &key);

    prl_packet_key(l3, packet, true, 3, &own);
    assert(err == 0 || err == -EBADMSG);
    assert(prl_addr_is_v4(own.local) == prl_addr_is_v4(own.remote) || packet->version == 6);
    if (err)
        return;
    assert(key.proto == IPPROTO_TCP || key.proto == IPPROTO_UDP);
    assert(!memcmp(key.local, own.local, sizeof(key.local)) && key.lif == 3 && key.vlans == packet->vlans);
    assert(prl_packet_is_icmp(packet) || !memcmp(&key, &own, sizeof(key)));
}

static void parse(const uint8_t *bytes, uint32_t have, uint32_t total, bool ethernet, uint32_t more)
{
    uint8_t *exact = fuzz_exact(bytes, have);
    struct prl_packet packet, whole;
    int err = prl_packet_parse(exact, have, total, ethernet, &packet);

    assert(err == 0 || err == -EBADMSG);
    if (err == 0) {
        inside(&packet, have, total);
        assert(have < total || packet.l2_bytes + packet.l3_bytes <= have);
    }
    free(exact);
    if (err)
        return;
    exact = fuzz_exact(bytes, total); /* what the first piece says is not taken back by the others */
    assert(prl_packet_parse(exact, total, total, ethernet, &whole) == 0);
    assert(!memcmp(&packet, &whole, sizeof(packet)));
    keys(exact + packet.l2_bytes, &packet);
    if (packet.proto == IPPROTO_TCP || packet.proto == IPPROTO_UDP)
        sums(exact + packet.l2_bytes, &packet, more);
    if (packet.proto == IPPROTO_TCP)
        rewrite(exact, total, &packet, more);
    free(exact);
}

static void craft(struct fuzz_input *input)
{
    struct prl_flow_key key = {.proto = IPPROTO_TCP}, found;
    struct prl_md5_key md5 = {0};
    struct prl_craft craft = {.key = &key, .md5 = &md5};
    uint8_t *out = malloc(PRL_CRAFT_MAX);
    struct prl_packet packet;
    struct iovec whole;
    uint32_t bytes;

    assert(out);
    fuzz_take(input, key.local, sizeof(key.local));
    fuzz_take(input, key.remote, sizeof(key.remote));
    if (fuzz_number(input, 1) & 1) {
        memcpy(key.local, "\0\0\0\0\0\0\0\0\0\0\xff\xff", 12);
        memcpy(key.remote, key.local, 12);
    } else {
        key.local[0] |= 1;
        key.remote[0] |= 1;
    }
    fuzz_take(input, &key.local_port, 4);
    craft.from_peer = fuzz_number(input, 1) & 1;
    craft.seq = (uint32_t)fuzz_number(input, 4);
    craft.ack = (uint32_t)fuzz_number(input, 4);
    craft.window = (uint16_t)fuzz_number(input, 2);
    craft.tcp_flags = (uint8_t)fuzz_number(input, 1);
    craft.has_timestamps = fuzz_number(input, 1) & 1;
    craft.tsval = (uint32_t)fuzz_number(input, 4);
    craft.tsecr = (uint32_t)fuzz_number(input, 4);
    md5.bytes = (uint32_t)fuzz_number(input, 1) % (PRL_MD5_KEY_MAX + 1);
    fuzz_take(input, md5.key, md5.bytes);
    bytes = prl_packet_craft(&craft, out);
    assert(bytes <= PRL_CRAFT_MAX && prl_packet_parse(out, bytes, bytes, false, &packet) == 0);
    whole = (struct iovec){out, bytes};
    prl_packet_key(out, &packet, craft.from_peer, 0, &found);
    assert(packet.l3_bytes == bytes && !packet.payload_bytes && !memcmp(&found, &key, sizeof(key)));
    assert(packet.seq == craft.seq && packet.ack == craft.ack && packet.window == craft.window);
    assert(packet.tcp_flags == craft.tcp_flags && packet.has_timestamps == craft.has_timestamps);
    assert(!craft.has_timestamps || (packet.tsval == craft.tsval && packet.tsecr == craft.tsecr));
    /* One in 65,536 looks like a partial one: full or left to the NIC, it is taken the same way. */
    assert(prl_packet_checksum(&whole, 1, &packet) != PRL_CHECKSUM_BAD);
    assert(prl_md5sig_check(out, &packet, &md5) == (md5.bytes != 0));
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct fuzz_input input = {data, bytes};
    uint8_t how = (uint8_t)fuzz_number(&input, 1);
    uint32_t more = (uint32_t)fuzz_number(&input, 4);

    if (how & 2) {
        craft(&input);
        return 0;
    }
    if (input.left > PRL_PACKET_MAX)
        return 0;
    for (uint32_t have = how & 4 ? 0 : (uint32_t)input.left; have < input.left; have++)
        parse(input.at, have, (uint32_t)input.left, how & 1, more);
    parse(input.at, (uint32_t)input.left, (uint32_t)input.left, how & 1, more);
    return 0;
}
