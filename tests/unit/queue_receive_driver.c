/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Drives what reads packets that wait in the kernel for test_queue.py, with the queue's own file included: its netlink socket is
 * one end of a pair. The arguments are the frames of the packet memory and how much of a packet the kernel is asked to copy. Standard
 * input has orders:
 *
 *     comes NUMBER BYTES MAC    the kernel tells of such a packet
 *     read                      a line: of each packet that was read its number, its bytes, and its number on the cable
 *     take COUNT, give COUNT    frames of the packet memory, for other packets
 *     free                      all packets that were read
 */
#define _GNU_SOURCE /* as queue.c, which comes later */
#include <assert.h>
#include <inttypes.h>

#include "io/queue.c"

#define FRAME_BYTES 4096u
#define MESSAGE_BYTES 70000u
#define PACKETS_MAX 64u
#define FRAMES_MAX 4096u

static uint8_t message[MESSAGE_BYTES];
static uint32_t used;

int prl_queue_rules_enter(uint16_t number, uint32_t mark, char *error)
{
    (void)number;
    (void)mark;
    (void)error;
    return -1;
}

static uint8_t pattern(uint32_t at)
{
    return (uint8_t)(at * 31 + at / 251);
}

static uint8_t *attribute(uint16_t type, uint32_t bytes)
{
    struct nlattr *head = (void *)(message + used);

    *head = (struct nlattr){.nla_type = type, .nla_len = (uint16_t)(NLA_HDRLEN + bytes)};
    used += NLA_ALIGN(head->nla_len);
    assert(used <= sizeof(message));
    return (uint8_t *)head + NLA_HDRLEN;
}

static void comes(int fd, uint32_t number, uint32_t bytes, const char *mac)
{
    struct nfqnl_msg_packet_hw *source;
    uint8_t *payload;

    memset(message, 0, sizeof(message));
    *(struct nlmsghdr *)(void *)message = (struct nlmsghdr){.nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET};
    used = NLMSG_SPACE(sizeof(struct nfgenmsg));
    ((struct nfqnl_msg_packet_hdr *)(void *)attribute(NFQA_PACKET_HDR, sizeof(struct nfqnl_msg_packet_hdr)))->packet_id =
        htonl(number);
    source = (void *)attribute(NFQA_HWADDR, sizeof(*source));
    source->hw_addrlen = htons(ETH_ALEN);
    assert(sscanf(mac, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx", &source->hw_addr[0], &source->hw_addr[1],
                  &source->hw_addr[2], &source->hw_addr[3], &source->hw_addr[4], &source->hw_addr[5]) == ETH_ALEN);
    payload = attribute(NFQA_PAYLOAD, bytes);
    for (uint32_t i = 0; i < bytes; i++)
        payload[i] = pattern(i);
    assert(send(fd, message, used, 0) == (ssize_t)used);
}

/* Every byte of it but the Ethernet header, which was written in front. */
static void check(struct prl_umem *umem, const struct prl_received *received)
{
    struct iovec piece[PRL_PACKET_PIECES_MAX];
    uint32_t pieces = prl_umem_pieces(umem, received->packet, piece), at = 0;

    for (uint32_t i = 0; i < pieces; i++)
        for (size_t j = 0; j < piece[i].iov_len; j++, at++)
            assert(at < ETH_HLEN || ((uint8_t *)piece[i].iov_base)[j] == pattern(at - ETH_HLEN));
    assert(at == received->bytes);
}

int main(int argc, char **argv)
{
    struct prl_received received[PACKETS_MAX];
    uint32_t packet[PACKETS_MAX], packets = 0, taken[FRAMES_MAX], takes = 0, number, bytes;
    char error[PRL_ERROR_BYTES], order[16], mac[32];
    struct prl_queue queue = {.in_order = true};
    int pair[2];

    assert(argc == 3 && socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
    queue.fd = pair[0];
    queue.umem = prl_umem_open((uint32_t)atoi(argv[1]), FRAME_BYTES, error);
    queue.copy_bytes = (uint32_t)atoi(argv[2]);
    queue.settled = calloc(PRL_QUEUE_PACKETS_MAX, sizeof(*queue.settled));
    assert(queue.umem && queue.settled);
    memset(queue.frame, 0xff, sizeof(queue.frame)); /* PRL_FRAME_NONE */
    while (scanf("%15s", order) == 1) {
        if (strcmp(order, "comes") == 0) {
            assert(scanf("%" SCNu32 " %" SCNu32 " %31s", &number, &bytes, mac) == 3);
            comes(pair[1], number, bytes, mac);
        } else if (strcmp(order, "read") == 0) {
            uint32_t count = prl_queue_receive(&queue, received, PACKETS_MAX - packets);

            for (uint32_t i = 0; i < count; i++) {
                check(queue.umem, &received[i]);
                printf("%" PRIu64 " %u %u ", received[i].queued, received[i].bytes - ETH_HLEN, received[i].mirrored);
                packet[packets++] = received[i].packet;
            }
            printf("\n");
        } else if (strcmp(order, "take") == 0) {
            assert(scanf("%" SCNu32, &number) == 1 && takes + number <= FRAMES_MAX);
            for (; number; number--)
                taken[takes++] = queue.umem->free[--queue.umem->free_count];
        } else if (strcmp(order, "give") == 0) {
            assert(scanf("%" SCNu32, &number) == 1 && takes >= number);
            for (; number; number--)
                queue.umem->free[queue.umem->free_count++] = taken[--takes];
        } else {
            assert(strcmp(order, "free") == 0);
            while (packets)
                prl_umem_free_packet(queue.umem, packet[--packets]);
        }
    }
    prl_umem_close(queue.umem);
    free(queue.settled);
    return 0;
}
