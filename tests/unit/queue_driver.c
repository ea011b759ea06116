/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Drives the queue of waiting packets for test_queue.py, with the queue's own file included: its netlink socket is one end of a
 * pair. Standard input has packet numbers, negative ones for those that are dropped, and 0 where the queue is flushed. Told is,
 * for each message that the kernel would get, a line of the same numbers.
 */
#define _GNU_SOURCE /* as queue.c, which comes later */
#include <assert.h>
#include <inttypes.h>

#include "io/queue.c"

int prl_queue_rules_enter(uint16_t number, uint32_t mark, char *error)
{
    (void)number;
    (void)mark;
    (void)error;
    return -1;
}

static void tell(int fd)
{
    struct verdict verdict[VERDICTS];
    ssize_t got;

    while ((got = recv(fd, verdict, sizeof(verdict), MSG_DONTWAIT)) > 0) {
        uint32_t count = (uint32_t)got / sizeof(verdict[0]);

        for (uint32_t i = 0; i < count; i++) {
            int64_t number = ntohl(verdict[i].verdict.id);

            printf("%" PRId64 " ", ntohl(verdict[i].verdict.verdict) == NF_ACCEPT ? number : -number);
        }
        printf("\n");
    }
}

int main(void)
{
    struct prl_queue queue = {.in_order = true};
    int64_t number;
    int pair[2];

    assert(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
    queue.fd = pair[0];
    queue.settled = calloc(PRL_QUEUE_PACKETS_MAX, sizeof(*queue.settled));
    assert(queue.settled);
    prepare_verdicts(&queue);
    while (scanf("%" SCNd64, &number) == 1) {
        if (number)
            prl_queue_settle(&queue, (uint32_t)llabs(number), number > 0);
        else
            prl_queue_flush(&queue);
        tell(pair[1]);
    }
    assert(!queue.settled_count && !queue.refused);
    free(queue.settled);
    return 0;
}
