/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Drives the C client for test_c_client.py; built with sanitizers, and with the client's own file included, so that
 * messages reach its decoder without a socket.
 *
 *      judge: standard input has messages, each behind its length and a number of descriptors (32 bits each, host
 *             order); tells what each is taken for
 *      live:  connects to $PRL_SOCKET, asks, tells all events until prld is gone
 */
#define _GNU_SOURCE /* as prl_client.c, which comes later */
#include <assert.h>
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <sys/time.h>

#include "prl_client.c"

static int descriptors(void)
{
    DIR *folder = opendir("/proc/self/fd");
    int count = 0;

    assert(folder);
    while (readdir(folder))
        count++;
    closedir(folder);
    return count;
}

static void show(int result, const struct prl_client_event *event)
{
    printf("%d %d %u %d %d %llu %llu %u [%s] [%s] ", result, (int)event->kind, event->handle, event->code,
           (int)event->state, (unsigned long long)event->out_bytes, (unsigned long long)event->unread,
           event->generation, event->local, event->remote);
    for (const char *at = event->reason; *at; at++)
        printf("%02x", (unsigned char)*at);
    putchar(' ');
    for (size_t i = 0; i < event->application_bytes; i++)
        printf("%02x", event->application[i]);
    putchar('\n');
    fflush(stdout);
}

static void judge_one(struct prl_client *client, const char *exact, size_t bytes, int count)
{
    struct prl_client_event event = {.fd = -1};
    struct members members;
    int fds[FDS_MAX], result;

    /* First in a buffer of exactly its size: the address sanitizer sees any read beyond it. */
    result = read_members(exact, bytes, &members);
    assert(result == 0 || result == -EPROTO);
    for (int i = 0; i < count; i++)
        fds[i] = dup(0);
    memcpy(client->message, exact, bytes);
    client->under_way = 1;
    result = understand(client, bytes, fds, &count, false, &event);
    show(result, &event);
    for (int i = 0; i < count; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    prl_client_release(&event);
}

static int judge(void)
{
    struct prl_client *client = calloc(1, sizeof(*client));
    uint32_t head[2];
    int before = descriptors();

    assert(client);
    while (fread(head, sizeof(head), 1, stdin) == 1) {
        char *exact = malloc(head[0] ? head[0] : 1);

        assert(exact && head[0] <= MESSAGE_MAX && head[1] <= FDS_MAX);
        assert(fread(exact, 1, head[0], stdin) == head[0]);
        judge_one(client, exact, head[0], (int)head[1]);
        free(exact);
    }
    assert(descriptors() == before);
    free(client);
    return 0;
}

static void nothing(int number)
{
    (void)number;
}

static int live(void)
{
    struct itimerval often = {.it_interval.tv_usec = 500, .it_value.tv_usec = 500};
    struct sigaction action = {.sa_handler = nothing}; /* no SA_RESTART: every call meets EINTR */
    struct prl_client_event event;
    struct prl_client *client;
    uint32_t offer, protect, give_up;
    int before = descriptors(), result;

    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    assert(!prl_client_open(&client, NULL));
    assert(prl_client_offer(client, "bad\xff", NULL) == -EILSEQ);
    assert(prl_client_replicate(client, 0, client, PRL_CLIENT_APPLICATION_MAX + 1, 0, NULL) == -EMSGSIZE);
    assert(prl_client_replicate(client, -1, NULL, 0, 0, NULL) == -EBADF);
    assert(!prl_client_offer(client, "192.0.2.100:7000 \"\\\n", &offer));
    assert(!prl_client_replicate(client, 0, "state", 5, 0, &protect));
    assert(!prl_client_give_up(client, 9, 4, &give_up));
    result = prl_client_answer(client, protect, 5000, &event);
    show(result, &event);
    prl_client_release(&event);
    result = prl_client_answer(client, offer, 5000, &event); /* it came before */
    show(result, &event);
    prl_client_release(&event);
    prl_client_answer(client, give_up, 5000, &event);
    prl_client_release(&event);
    for (;;) {
        struct pollfd polled = {.fd = prl_client_fd(client), .events = POLLIN};

        while ((result = prl_client_next(client, &event)) == 1) {
            show(result, &event);
            prl_client_release(&event);
        }
        if (result < 0)
            break;
        poll(&polled, 1, -1);
    }
    show(result, &event);
    assert(prl_client_next(client, &event) == result);
    assert(prl_client_end(client, 1, NULL) == -EPIPE);
    prl_client_close(client);
    assert(descriptors() == before);
    return 0;
}

int main(int argc, char **argv)
{
    return argc > 1 && !strcmp(argv[1], "judge") ? judge() : live();
}
