/* SPDX-License-Identifier: BSD-2-Clause */
#include "tcp/packet.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <netinet/in.h>
#include <string.h>

#include "prl_headers.h"

#define IPV4_HEADER 20u
#define IPV6_HEADER 40u
#define TCP_HEADER 20u
#define UDP_HEADER 8u
#define TCP_OPTIONS_MAX 40
#define ICMP6_ECHO 128
#define ICMP6_ECHO_BYTES 8
#define ND_NS 135
#define ND_NA 136
#define ND_NA_BYTES 24
#define ND_OPT_SOURCE_LLADDR 1
#define ND_OPT_TARGET_LLADDR 2
#define ND_NA_OVERRIDE 0x20000000u

static const uint8_t v4_mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static uint16_t get16(const uint8_t *at)
{
    return (uint16_t)(at[0] << 8 | at[1]);
}

static uint32_t get32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static void put16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static void put32(uint8_t *at, uint32_t value)
{
    put16(at, (uint16_t)(value >> 16));
    put16(at + 2, (uint16_t)value);
}

bool prl_addr_is_v4(const uint8_t addr[16])
{
    return memcmp(addr, v4_mapped, sizeof(v4_mapped)) == 0;
}

bool prl_key_is_unconnected(const struct prl_flow_key *key)
{
    return key->proto == IPPROTO_UDP && key->remote_port == 0;
}

/* ---- parsing ---- */

/* `offset` is where the options begin, from the start of L3. */
static void parse_tcp_options(const uint8_t *option, uint32_t bytes, uint32_t offset, struct prl_packet *packet)
{
    uint32_t at = 0;

    for (uint32_t i = 0; i < TCP_OPTIONS_MAX && at < bytes; i++) {
        uint8_t kind = option[at];

        if (kind == 0)
            return;
        if (kind == 1) {
            at++;
            continue;
        }
        if (at + 2 > bytes || option[at + 1] < 2 || at + option[at + 1] > bytes)
            return; /* malformed options are the stack's to judge */
        if (kind == 8 && option[at + 1] == 10) {
            packet->has_timestamps = true;
            packet->tsval = get32(option + at + 2);
            packet->tsecr = get32(option + at + 6);
            packet->stamps_offset = (uint16_t)(offset + at + 2);
        }
        if (kind == PRL_MD5_OPTION_KIND && option[at + 1] == PRL_MD5_OPTION_LENGTH)
            packet->md5_offset = (uint16_t)(offset + at + 2);
        at += option[at + 1];
    }
}

static int parse_l4(const uint8_t *l3, uint32_t have, struct prl_packet *packet)
{
    const uint8_t *l4 = l3 + packet->l4_offset;
    uint32_t l4_bytes = packet->l3_bytes - packet->l4_offset;
    uint32_t header;

    if (packet->proto == IPPROTO_TCP) {
        if (l4_bytes < TCP_HEADER || packet->l4_offset + TCP_HEADER > have)
            return -EBADMSG;
        header = (uint32_t)(l4[12] >> 4) * 4;
        if (header < TCP_HEADER || header > l4_bytes || packet->l4_offset + header > have)
            return -EBADMSG;
        packet->seq = get32(l4 + 4);
        packet->ack = get32(l4 + 8);
        packet->tcp_flags = l4[13];
        packet->window = get16(l4 + 14);
        if (packet->tcp_flags & PRL_TCP_URG)
            packet->urgent = get16(l4 + 18);
        parse_tcp_options(l4 + TCP_HEADER, header - TCP_HEADER, packet->l4_offset + TCP_HEADER, packet);
    } else if (packet->proto == IPPROTO_UDP) {
        header = UDP_HEADER;
        if (l4_bytes < UDP_HEADER || packet->l4_offset + UDP_HEADER > have)
            return -EBADMSG;
    } else {
        header = 0; /* prl_packet_flow_key() looks into ICMP */
    }
    packet->data_offset = (uint16_t)(packet->l4_offset + header);
    packet->payload_bytes = l4_bytes - header;
    return 0;
}

static int parse_ipv4(const uint8_t *l3, uint32_t have, uint32_t total, struct prl_packet *packet)
{
    uint32_t header;

    if (have < IPV4_HEADER)
        return -EBADMSG;
    header = (uint32_t)(l3[0] & 15) * 4;
    packet->l3_bytes = get16(l3 + 2);
    if (header < IPV4_HEADER || header > have || packet->l3_bytes < header || packet->l3_bytes > total)
        return -EBADMSG;
    if (get16(l3 + 6) & 0x3fff) /* a fragment: classify never redirects one */
        return -EBADMSG;
    packet->proto = l3[9];
    packet->l4_offset = (uint16_t)header;
    return parse_l4(l3, have, packet);
}

/* Of a fragment header's offset and flags, what must be zero: of a packet that is whole (RFC 6946), or begins here. */
#define FRAGMENT_WHOLE 0xfff9
#define FRAGMENT_FIRST 0xfff8

/* Moves `at` from the first extension header behind the upper-layer header's start, `next` to its protocol: the headers
 * that prl_walk_extensions() in bpf/parse.h takes for a flow's. 0 or -EBADMSG. */
static int step_over_extensions(const uint8_t *l3, uint32_t have, uint16_t fragment, uint8_t *next, uint32_t *at)
{
    for (uint32_t i = 0; i < PRL_EXTENSIONS_MAX; i++) {
        uint32_t bytes;

        if (!prl_is_extension(*next))
            return 0;
        if (*at + 8 > have)
            return -EBADMSG;
        if (*next == IPPROTO_FRAGMENT && get16(l3 + *at + 2) & fragment)
            return -EBADMSG;
        bytes = prl_extension_bytes(*next, l3[*at + 1]);
        *next = l3[*at];
        *at += bytes;
        if (*at > have)
            return -EBADMSG;
    }
    return prl_is_extension(*next) ? -EBADMSG : 0;
}

static int parse_ipv6(const uint8_t *l3, uint32_t have, uint32_t total, struct prl_packet *packet)
{
    uint32_t at = IPV6_HEADER;
    uint8_t next;

    if (have < IPV6_HEADER)
        return -EBADMSG;
    packet->l3_bytes = IPV6_HEADER + get16(l3 + 4);
    if (packet->l3_bytes > total)
        return -EBADMSG;
    next = l3[6];
    if (step_over_extensions(l3, have < packet->l3_bytes ? have : packet->l3_bytes, FRAGMENT_WHOLE, &next, &at))
        return -EBADMSG;
    packet->proto = next;
    packet->l4_offset = (uint16_t)at;
    return parse_l4(l3, have, packet);
}

int prl_packet_parse(const uint8_t *bytes, uint32_t have, uint32_t total, bool ethernet, struct prl_packet *packet)
{
    memset(packet, 0, sizeof(*packet));
    if (have > total)
        return -EBADMSG;
    if (ethernet) {
        uint32_t at = 2 * ETH_ALEN;
        uint32_t vids = 0;

        while (at + 2 <= have && (get16(bytes + at) == ETH_P_8021Q || get16(bytes + at) == ETH_P_8021AD)) {
            if (vids == PRL_VLANS_MAX || at + 4 > have)
                return -EBADMSG;
            packet->vlans = packet->vlans << 12 | (get16(bytes + at + 2) & 0xfff);
            at += 4;
            vids++;
        }
        if (at + 2 > have)
            return -EBADMSG;
        packet->l2_bytes = (uint16_t)(at + 2);
    }
    if (packet->l2_bytes >= have)
        return -EBADMSG;
    bytes += packet->l2_bytes;
    have -= packet->l2_bytes;
    total -= packet->l2_bytes;
    packet->version = bytes[0] >> 4;
    if (packet->version == 4)
        return parse_ipv4(bytes, have, total, packet);
    if (packet->version == 6)
        return parse_ipv6(bytes, have, total, packet);
    return -EBADMSG;
}

static bool has_ports(const struct prl_packet *packet)
{
    return packet->proto == IPPROTO_TCP || packet->proto == IPPROTO_UDP;
}

void prl_packet_key(const uint8_t *l3, const struct prl_packet *packet, bool incoming, uint16_t lif,
                    struct prl_flow_key *key)
{
    uint8_t *source = incoming ? key->remote : key->local;
    uint8_t *target = incoming ? key->local : key->remote;
    __be16 ports[2];

    memset(key, 0, sizeof(*key));
    if (packet->version == 4) {
        memcpy(source, v4_mapped, sizeof(v4_mapped));
        memcpy(target, v4_mapped, sizeof(v4_mapped));
        memcpy(source + 12, l3 + 12, 4);
        memcpy(target + 12, l3 + 16, 4);
    } else {
        memcpy(source, l3 + 8, 16);
        memcpy(target, l3 + 24, 16);
    }
    key->vlans = packet->vlans;
    key->lif = lif;
    key->proto = packet->proto;
    if (!has_ports(packet))
        return;
    memcpy(ports, l3 + packet->l4_offset, sizeof(ports));
    key->remote_port = ports[incoming ? 0 : 1];
    key->local_port = ports[incoming ? 1 : 0];
}

bool prl_packet_is_icmp(const struct prl_packet *packet)
{
    return packet->proto == (packet->version == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
}

/* The head of a packet that an ICMP error quotes, cut off anywhere behind its ports: 0, and its protocol and where its ports
 * are, or -EBADMSG. */
static int quoted_ports(const uint8_t *l3, uint32_t have, uint8_t version, uint8_t *proto, uint32_t *at)
{
    int err = 0;

    if (version == 4) {
        if (have < IPV4_HEADER || l3[0] >> 4 != 4 || (l3[0] & 15) < 5 || (get16(l3 + 6) & 0x1fff))
            return -EBADMSG;
        *proto = l3[9];
        *at = (uint32_t)(l3[0] & 15) * 4;
    } else {
        if (have < IPV6_HEADER || l3[0] >> 4 != 6)
            return -EBADMSG;
        *proto = l3[6];
        *at = IPV6_HEADER;
        err =
            step_over_extensions(l3, have, FRAGMENT_FIRST, proto, at); /* as IPv4 above: a long datagram is cut */
    }
    if (err || (*proto != IPPROTO_TCP && *proto != IPPROTO_UDP) || *at + 4 > have)
        return -EBADMSG;
    return 0;
}

int prl_packet_flow_key(const uint8_t *l3, const struct prl_packet *packet, uint16_t lif, struct prl_flow_key *key)
{
    const uint8_t *quoted = l3 + packet->l4_offset + PRL_ICMP_HEADER_BYTES;
    uint32_t bytes = packet->l3_bytes - packet->l4_offset, at = 0;
    struct prl_packet inner = {.version = packet->version, .vlans = packet->vlans};
    struct prl_flow_key outer;

    prl_packet_key(l3, packet, true, lif, key);
    if (has_ports(packet))
        return 0;
    if (!prl_packet_is_icmp(packet) || bytes < PRL_ICMP_HEADER_BYTES ||
        !prl_is_icmp_error(packet->version == 6, l3[packet->l4_offset]) ||
        quoted_ports(quoted, bytes - PRL_ICMP_HEADER_BYTES, packet->version, &inner.proto, &at))
        return -EBADMSG;
    outer = *key;
    inner.l4_offset = (uint16_t)at;
    prl_packet_key(quoted, &inner, false, lif, key);
    return memcmp(outer.local, key->local, sizeof(outer.local)) ? -EBADMSG : 0;
}

/* ---- checksums (RFC 1071) ---- */

static uint64_t add_carry(uint64_t sum, uint64_t word)
{
    sum += word;
    return sum + (sum < word);
}

/* Four words at a time: their sum, and the sum of their high halves, which has room for any packet and tells how often
 * the first one wrapped. */
typedef uint64_t lanes __attribute__((vector_size(32)));
typedef uint64_t unaligned_lanes __attribute__((vector_size(32), aligned(1), may_alias));
#define LANES_BYTES ((uint32_t)sizeof(lanes))
#define SUM_LONG_BYTES 1024u

static inline __attribute__((always_inline)) uint64_t sum_lanes_inline(const uint8_t *at, uint32_t count)
{
    lanes all[2] = {{0}, {0}}, high[2] = {{0}, {0}};
    uint64_t sum_all, sum_high;

    for (; count >= 2; count -= 2, at += 2 * sizeof(lanes)) {
        const unaligned_lanes *words = (const unaligned_lanes *)at;

        all[0] += words[0];
        all[1] += words[1];
        high[0] += words[0] >> 32;
        high[1] += words[1] >> 32;
    }
    if (count) {
        lanes words = *(const unaligned_lanes *)at;

        all[0] += words;
        high[0] += words >> 32;
    }
    all[0] += all[1];
    high[0] += high[1];
    sum_all = all[0][0] + all[0][1] + all[0][2] + all[0][3];
    sum_high = high[0][0] + high[0][1] + high[0][2] + high[0][3];
    return add_carry(sum_all - (sum_high << 32), sum_high << 32 | sum_high >> 32);
}

#ifdef __x86_64__ /* five times as fast, where the CPU can */
__attribute__((target("avx2"))) static uint64_t sum_lanes_avx2(const uint8_t *at, uint32_t count)
{
    return sum_lanes_inline(at, count);
}
#endif

static uint64_t sum_lanes(const uint8_t *at, uint32_t count)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2"))
        return sum_lanes_avx2(at, count);
#endif
    return sum_lanes_inline(at, count);
}

static uint64_t turned(uint64_t sum, uint32_t bytes)
{
    return bytes ? sum << 8 * bytes | sum >> (64 - 8 * bytes) : sum;
}

/* Sum of 64-bit words in native arithmetic, with end-around carry; folded, it is the sum of 16-bit words. */
static uint64_t sum_words(const uint8_t *bytes, size_t count)
{
    uint64_t sum = 0, word = 0;

    if (count >= LANES_BYTES) {
        sum = sum_lanes(bytes, (uint32_t)(count / LANES_BYTES));
        bytes += count / LANES_BYTES * LANES_BYTES;
        count %= LANES_BYTES;
    }
    for (; count >= sizeof(word); bytes += sizeof(word), count -= sizeof(word)) {
        memcpy(&word, bytes, sizeof(word));
        sum = add_carry(sum, word);
    }
    word = 0;
    memcpy(&word, bytes, count);
    return add_carry(sum, word);
}

/* A stretch that begins `offset` bytes behind the start of a word is summed as if it were aligned, and the sum turned by as
 * many bytes (RFC 1071, 2(B), for wider words). So is what is long, from where it is aligned in memory on: lanes that cross
 * cache lines take half as long again. */
static uint64_t sum_bytes(const uint8_t *bytes, size_t count, uint32_t offset)
{
    size_t head = count < SUM_LONG_BYTES ? 0 : -(uintptr_t)bytes % LANES_BYTES;
    uint64_t sum = sum_words(bytes + head, count - head);

    if (head)
        sum = add_carry(turned(sum, head % sizeof(sum)), sum_words(bytes, head));
    return turned(sum, offset % sizeof(sum));
}

static uint16_t fold(uint64_t sum)
{
    sum = (sum >> 32) + (sum & 0xffffffff);
    sum = (sum >> 32) + (sum & 0xffffffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    return (uint16_t)((sum >> 16) + (sum & 0xffff));
}

uint16_t prl_internet_checksum(const void *at, uint32_t bytes)
{
    return (uint16_t)~fold(sum_bytes(at, bytes, 0));
}

static uint64_t pseudo_sum(const uint8_t *l3, uint8_t version, uint8_t proto, uint32_t l4_bytes)
{
    uint64_t sum = version == 4 ? sum_bytes(l3 + 12, 8, 0) : sum_bytes(l3 + 8, 32, 0);

    return add_carry(sum, (uint64_t)htons(proto) + htons((uint16_t)(l4_bytes >> 16)) + htons((uint16_t)l4_bytes));
}

static uint32_t checksum_offset(uint8_t proto)
{
    return proto == IPPROTO_TCP ? 16 : 6;
}

uint64_t prl_packet_payload_sum(const struct iovec *piece, uint32_t pieces, const struct prl_packet *packet)
{
    uint32_t skip = packet->data_offset, left = packet->payload_bytes, offset = 0;
    uint64_t sum = 0;

    for (uint32_t i = 0; i < pieces && left; i++) {
        const uint8_t *at = (const uint8_t *)piece[i].iov_base + skip;
        uint32_t bytes = (uint32_t)piece[i].iov_len - skip;

        skip = 0;
        bytes = bytes < left ? bytes : left;
        sum = add_carry(sum, sum_bytes(at, bytes, offset));
        left -= bytes;
        offset += bytes;
    }
    return sum;
}

enum prl_checksum prl_packet_checksum_by(const uint8_t *l3, const struct prl_packet *packet, uint64_t payload_sum)
{
    const uint8_t *l4 = l3 + packet->l4_offset;
    uint64_t sum = pseudo_sum(l3, packet->version, packet->proto, packet->l3_bytes - packet->l4_offset);
    uint16_t field;

    memcpy(&field, l4 + checksum_offset(packet->proto), sizeof(field));
    if (field == fold(sum))
        return PRL_CHECKSUM_PARTIAL;
    if (packet->proto == IPPROTO_UDP && field == 0 && packet->version == 4)
        return PRL_CHECKSUM_FULL; /* RFC 768: no checksum was made */
    sum = add_carry(sum, sum_bytes(l4, packet->data_offset - packet->l4_offset, 0)); /* an even number of bytes */
    return fold(add_carry(sum, payload_sum)) == 0xffff ? PRL_CHECKSUM_FULL : PRL_CHECKSUM_BAD;
}

enum prl_checksum prl_packet_checksum(const struct iovec *piece, uint32_t pieces, const struct prl_packet *packet)
{
    enum prl_checksum judged = prl_packet_checksum_by(piece[0].iov_base, packet, 0);

    if (judged == PRL_CHECKSUM_PARTIAL) /* whatever the payload is */
        return judged;
    return prl_packet_checksum_by(piece[0].iov_base, packet, prl_packet_payload_sum(piece, pieces, packet));
}

void prl_packet_set_length(uint8_t *l3, const struct prl_packet *packet)
{
    uint16_t sum;

    if (packet->version == 6) {
        put16(l3 + 4, (uint16_t)(packet->l3_bytes - IPV6_HEADER));
        return;
    }
    put16(l3 + 2, (uint16_t)packet->l3_bytes);
    put16(l3 + 10, 0);
    sum = prl_internet_checksum(l3, packet->l4_offset);
    memcpy(l3 + 10, &sum, sizeof(sum));
}

void prl_packet_set_ack(uint8_t *l3, const struct prl_packet *packet, uint32_t ack, uint16_t window)
{
    put32(l3 + packet->l4_offset + 8, ack);
    put16(l3 + packet->l4_offset + 14, window);
}

void prl_packet_set_stamps(uint8_t *l3, const struct prl_packet *packet, uint32_t tsval, uint32_t tsecr)
{
    put32(l3 + packet->stamps_offset, tsval);
    put32(l3 + packet->stamps_offset + 4, tsecr);
}

void prl_packet_set_partial(uint8_t *l3, const struct prl_packet *packet)
{
    uint16_t sum = fold(pseudo_sum(l3, packet->version, packet->proto, packet->l3_bytes - packet->l4_offset));

    memcpy(l3 + packet->l4_offset + checksum_offset(packet->proto), &sum, sizeof(sum));
}

/* ---- making ---- */

static uint32_t craft_l3(const struct prl_craft *craft, uint32_t l4_bytes, uint8_t *out)
{
    const uint8_t *source = craft->from_peer ? craft->key->remote : craft->key->local;
    const uint8_t *target = craft->from_peer ? craft->key->local : craft->key->remote;
    uint16_t sum;

    if (!prl_addr_is_v4(source)) {
        out[0] = 0x60;
        put16(out + 4, (uint16_t)l4_bytes);
        out[6] = IPPROTO_TCP;
        out[7] = 64;
        memcpy(out + 8, source, 16);
        memcpy(out + 24, target, 16);
        return IPV6_HEADER;
    }
    out[0] = 0x45;
    put16(out + 2, (uint16_t)(IPV4_HEADER + l4_bytes));
    put16(out + 6, 0x4000);
    out[8] = 64;
    out[9] = IPPROTO_TCP;
    memcpy(out + 12, source + 12, 4);
    memcpy(out + 16, target + 12, 4);
    sum = (uint16_t)~fold(sum_bytes(out, IPV4_HEADER, 0));
    memcpy(out + 10, &sum, sizeof(sum));
    return IPV4_HEADER;
}

/* The signature in front of the timestamps, as Linux has it. Returns the bytes of the options. */
static uint32_t craft_options(const struct prl_craft *craft, uint8_t *options)
{
    uint32_t bytes = 0;

    if (craft->md5 && craft->md5->bytes) {
        put32(options, 0x01010000 | PRL_MD5_OPTION_KIND << 8 | PRL_MD5_OPTION_LENGTH);
        bytes += PRL_MD5_OPTION_BYTES;
    }
    if (craft->has_timestamps) {
        put32(options + bytes, 0x0101080a);
        put32(options + bytes + 4, craft->tsval);
        put32(options + bytes + 8, craft->tsecr);
        bytes += 12;
    }
    return bytes;
}

uint32_t prl_packet_craft(const struct prl_craft *craft, uint8_t out[PRL_CRAFT_MAX])
{
    uint8_t options[TCP_OPTIONS_MAX] = {0};
    uint32_t l4_bytes = TCP_HEADER + craft_options(craft, options);
    struct prl_packet packet;
    uint32_t l3_header;
    uint8_t *l4;
    uint16_t sum;

    memset(out, 0, PRL_CRAFT_MAX);
    l3_header = craft_l3(craft, l4_bytes, out);
    l4 = out + l3_header;
    memcpy(l4, craft->from_peer ? &craft->key->remote_port : &craft->key->local_port, 2);
    memcpy(l4 + 2, craft->from_peer ? &craft->key->local_port : &craft->key->remote_port, 2);
    put32(l4 + 4, craft->seq);
    put32(l4 + 8, craft->ack);
    l4[12] = (uint8_t)(l4_bytes / 4 << 4);
    l4[13] = craft->tcp_flags;
    put16(l4 + 14, craft->window);
    memcpy(l4 + TCP_HEADER, options, l4_bytes - TCP_HEADER);
    if (craft->md5 && craft->md5->bytes &&
        prl_packet_parse(out, l3_header + l4_bytes, l3_header + l4_bytes, false, &packet) == 0)
        prl_md5sig_sign(out, &packet, craft->md5);
    sum = (uint16_t)~fold(add_carry(sum_bytes(l4, l4_bytes, 0),
                                    pseudo_sum(out, l3_header == IPV4_HEADER ? 4 : 6, IPPROTO_TCP, l4_bytes)));
    memcpy(l4 + 16, &sum, sizeof(sum));
    return l3_header + l4_bytes;
}

void prl_packet_trailer(const struct prl_claimed *claimed, uint64_t mac, struct prl_trailer *trailer)
{
    struct prl_claim claim = {
        .type = PRL_ND_OPT_CLAIM,
        .length8 = sizeof(claim) / 8,
        .magic = {'P', 'R'},
        .term = htobe64(claimed->term),
        .number = htobe64(claimed->number),
        .mac = htobe64(mac),
    };

    trailer->bytes = sizeof(claim);
    memcpy(trailer->data, &claim, sizeof(claim));
}

void prl_packet_trailer_token(const uint8_t token[PRL_TOKEN_BYTES], struct prl_trailer *trailer)
{
    struct prl_claim_token claim = {
        .type = PRL_ND_OPT_CLAIM,
        .length8 = sizeof(claim) / 8,
        .magic = {'P', 'R'},
    };

    memcpy(claim.token, token, PRL_TOKEN_BYTES);
    trailer->bytes = sizeof(claim);
    memcpy(trailer->data, &claim, sizeof(claim));
}

static uint32_t put_trailer(uint8_t *at, const struct prl_trailer *trailer)
{
    memcpy(at, trailer->data, trailer->bytes);
    return trailer->bytes;
}

/* ARP for IPv4 over Ethernet (RFC 826) from `addr` about `target`. */
static uint8_t *put_arp(uint8_t *out, const uint8_t addr[16], const uint8_t mac[6], bool reply,
                        const uint8_t target[16])
{
    uint8_t *arp = out + ETH_HLEN;

    memset(out, 0, PRL_CRAFT_MAX);
    memcpy(out + ETH_ALEN, mac, ETH_ALEN);
    put16(out + 12, ETH_P_ARP);
    put16(arp, 1);
    put16(arp + 2, ETH_P_IP);
    arp[4] = ETH_ALEN;
    arp[5] = 4;
    put16(arp + 6, reply ? 2 : 1);
    memcpy(arp + 8, mac, ETH_ALEN);
    memcpy(arp + 14, addr + 12, 4);
    memcpy(arp + 24, target + 12, 4);
    return arp;
}

/* Ethernet, IPv6 and the head of a neighbour discovery message with one link-layer address option; destination and
 * checksum are missing. */
static uint8_t *put_nd(uint8_t *out, uint8_t type, const uint8_t source[16], const uint8_t mac[6],
                       const uint8_t target[16])
{
    uint8_t *ip = out + ETH_HLEN;
    uint8_t *nd = ip + IPV6_HEADER;

    memset(out, 0, PRL_CRAFT_MAX);
    memcpy(out + ETH_ALEN, mac, ETH_ALEN);
    put16(out + 12, ETH_P_IPV6);
    ip[0] = 0x60;
    ip[6] = IPPROTO_ICMPV6;
    ip[7] = 255;
    memcpy(ip + 8, source, 16);
    nd[0] = type;
    memcpy(nd + 8, target, 16);
    nd[24] = type == ND_NA ? ND_OPT_TARGET_LLADDR : ND_OPT_SOURCE_LLADDR;
    nd[25] = 1;
    memcpy(nd + 26, mac, ETH_ALEN);
    return nd;
}

static uint32_t finish_nd(uint8_t *out, uint32_t l4_bytes)
{
    uint8_t *ip = out + ETH_HLEN;
    uint8_t *nd = ip + IPV6_HEADER;
    uint16_t sum;

    put16(ip + 4, (uint16_t)l4_bytes);
    sum = (uint16_t)~fold(add_carry(sum_bytes(nd, l4_bytes, 0), pseudo_sum(ip, 6, IPPROTO_ICMPV6, l4_bytes)));
    memcpy(nd + 2, &sum, sizeof(sum));
    return ETH_HLEN + IPV6_HEADER + l4_bytes;
}

uint32_t prl_packet_claim_arp(const uint8_t addr[16], const uint8_t mac[6], bool reply,
                              const struct prl_trailer *trailer, uint8_t out[PRL_CRAFT_MAX])
{
    uint8_t *arp = put_arp(out, addr, mac, reply, addr);

    memset(out, 0xff, ETH_ALEN);
    if (reply)
        memset(arp + 18, 0xff, ETH_ALEN);
    return ETH_HLEN + 28 + put_trailer(arp + 28, trailer);
}

/* The multicast group of everybody whose address ends as `target` does (RFC 4291, 2.7.1). */
static void to_solicited_node(uint8_t *out, const uint8_t target[16])
{
    static const uint8_t group[13] = {0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff};
    uint8_t *to = out + ETH_HLEN + 24;

    memcpy(to, group, sizeof(group));
    memcpy(to + sizeof(group), target + 13, 3);
    put16(out, 0x3333);
    memcpy(out + 2, to + 12, 4);
}

uint32_t prl_packet_ask(const uint8_t own[16], const uint8_t mac[6], const uint8_t target[16],
                        const uint8_t target_mac[6], uint8_t out[PRL_CRAFT_MAX])
{
    static const uint8_t everybody[ETH_ALEN] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

    if (prl_addr_is_v4(target)) {
        put_arp(out, own, mac, false, target);
        memcpy(out, target_mac ? target_mac : everybody, ETH_ALEN);
        return ETH_HLEN + 28;
    }
    put_nd(out, ND_NS, own, mac, target);
    if (target_mac) {
        memcpy(out, target_mac, ETH_ALEN);
        memcpy(out + ETH_HLEN + 24, target, 16);
    } else {
        to_solicited_node(out, target);
    }
    return finish_nd(out, ND_NA_BYTES + 8);
}

static void to_all_nodes(uint8_t *out)
{
    uint8_t *to = out + ETH_HLEN + 24;

    put16(out, 0x3333);
    out[5] = 1; /* ff02::1 (RFC 4861, 7.2.6) */
    to[0] = 0xff;
    to[1] = 0x02;
    to[15] = 1;
}

uint32_t prl_packet_ask_all(const uint8_t own[16], const uint8_t mac[6], uint8_t out[PRL_CRAFT_MAX])
{
    uint8_t *icmp = put_nd(out, ND_NS, own, mac, own);

    memset(icmp, 0, ND_NA_BYTES + 8);
    icmp[0] = ICMP6_ECHO;
    to_all_nodes(out);
    return finish_nd(out, ICMP6_ECHO_BYTES);
}

uint32_t prl_packet_claim_na(const uint8_t addr[16], const uint8_t mac[6], const struct prl_trailer *trailer,
                             uint8_t out[PRL_CRAFT_MAX])
{
    uint8_t *na = put_nd(out, ND_NA, addr, mac, addr);

    to_all_nodes(out);
    put32(na + 4, ND_NA_OVERRIDE);
    return finish_nd(out, ND_NA_BYTES + 8 + put_trailer(na + 32, trailer));
}
