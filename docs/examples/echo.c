/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * An echo server whose sessions outlive its host: `echo 192.0.2.100:7000`, the same line on both nodes.
 *
 *      cc echo.c -I prl/c -L prl/c -lprl_client -o echo
 *
 * On the node that owns the address it accepts connections and has each protected. On the other node it gets their
 * shadows, reads the same input from them, and remembers the output that it would have sent, until the peer has
 * acknowledged it. When it is told that a session is its own, it goes on at exactly the byte that it is told. From
 * then on prld wants to protect the session again: it asks for what was read and is not sent yet, with which another
 * node can join in. One thread, one poll(); one line of JSON on standard output tells each thing that happens.
 */
#define _GNU_SOURCE /* accept4() */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "prl_client.h"

#define SESSIONS_MAX 256
#define HELD_MAX (512u << 10) /* output of a session that may still have to be sent; then reading stops */
#define READ_BYTES (64u << 10)
#define RECONNECT_MS 500

enum role {
    NOBODY, /* a free place */
    ASKED,  /* ours; prld is just protecting it: nothing is read or written meanwhile */
    OWNER,  /* ours, protected or not */
    SHADOW, /* the other node's: only read */
    DEAD,   /* its socket failed; prld is about to say why */
};

struct session {
    enum role role;
    int fd;
    uint32_t request, handle; /* handle 0: prld does not know it (any more) */
    unsigned int peer_port;
    bool input_ended;
    bool known; /* prld took it once: the next prld will, too */
    uint64_t in;          /* bytes read */
    uint64_t out;         /* bytes of output before held[0] */
    uint64_t done;        /* output before this one will never be asked for: sent by somebody */
    uint64_t out_start, acked_start; /* of a shadow: where it began, and what its socket had acknowledged then */
    size_t held_bytes;
    uint8_t *held; /* output from `out` on */
    char streams[PRL_CLIENT_STREAMS_MAX];
};

static struct session sessions[SESSIONS_MAX];
static struct prl_client *prl;
static volatile sig_atomic_t stopping;

static void tell(const char *event, const struct session *session, uint64_t count, const char *reason)
{
    /* reason is prld's own text for people: quotes are the one thing in it that JSON minds. */
    printf("{\"event\":\"%s\",\"peer\":%u,\"bytes\":%" PRIu64 ",\"reason\":\"", event,
           session ? session->peer_port : 0, count);
    for (; *reason; reason++)
        putchar(*reason == '"' || *reason == '\\' ? '\'' : *reason);
    puts("\"}");
    fflush(stdout);
}

/* ---- one session ---- */

static struct session *new_session(enum role role, int fd)
{
    struct sockaddr_in6 peer = {0}; /* sin_port and sin6_port are at the same place */
    socklen_t length = sizeof(peer);

    for (struct session *session = sessions; session < sessions + SESSIONS_MAX; session++) {
        if (session->role != NOBODY)
            continue;
        *session = (struct session){.role = role, .fd = fd, .held = malloc(HELD_MAX)};
        if (!session->held)
            break;
        if (!getpeername(fd, (struct sockaddr *)&peer, &length))
            session->peer_port = ntohs(peer.sin6_port);
        return session;
    }
    return NULL;
}

static struct session *find(uint32_t handle)
{
    for (struct session *session = sessions; session < sessions + SESSIONS_MAX; session++)
        if (session->role != NOBODY && session->handle == handle && handle)
            return session;
    return NULL;
}

static void forget(struct session *session)
{
    close(session->fd);
    free(session->held);
    *session = (struct session){.role = NOBODY};
}

/* The end is ours to decide: it is the end on both nodes. */
static void end(struct session *session, const char *why)
{
    tell("end", session, session->out, why);
    if (session->handle)
        prl_client_end(prl, session->handle, NULL);
    forget(session);
}

static uint64_t acknowledged(int fd)
{
    struct tcp_info info = {0};
    socklen_t length = sizeof(info);

    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) ? 0 : info.tcpi_bytes_acked;
}

static void drop_done(struct session *session)
{
    uint64_t count = session->done > session->out ? session->done - session->out : 0;

    if (count > session->held_bytes)
        count = session->held_bytes; /* the rest is dropped when we have read that far */
    session->held_bytes -= count;
    session->out += count;
    memmove(session->held, session->held + count, session->held_bytes);
}

static bool may_read(const struct session *session)
{
    bool is_read = session->role == OWNER || session->role == SHADOW;

    return is_read && !session->input_ended && session->held_bytes < HELD_MAX;
}

static bool may_write(const struct session *session)
{
    return session->role == OWNER && session->held_bytes > 0;
}

/* Returns whether the session goes on. */
static bool read_input(struct session *session)
{
    size_t room = HELD_MAX - session->held_bytes;
    ssize_t got = recv(session->fd, session->held + session->held_bytes, room < READ_BYTES ? room : READ_BYTES,
                       MSG_DONTWAIT);

    if (got < 0)
        return errno == EAGAIN || errno == EINTR;
    session->input_ended = got == 0;
    session->in += (uint64_t)got;
    session->held_bytes += (size_t)got; /* an echo: the input is the output */
    /* The shadow's kernel knows what the peer has acknowledged. */
    if (session->role == SHADOW)
        session->done = session->out_start + acknowledged(session->fd) - session->acked_start;
    drop_done(session);
    return true;
}

static bool write_output(struct session *session)
{
    ssize_t sent = send(session->fd, session->held, session->held_bytes, MSG_DONTWAIT | MSG_NOSIGNAL);

    if (sent < 0)
        return errno == EAGAIN || errno == EINTR;
    session->done = session->out + (uint64_t)sent;
    drop_done(session);
    return true;
}

static void serve(struct session *session, short ready)
{
    bool goes_on = true;

    if (ready && may_read(session))
        goes_on = read_input(session);
    if (goes_on && ready && may_write(session))
        goes_on = write_output(session);
    if (!goes_on) {
        /* The socket of a demoted session, or of a void shadow, fails a moment before prld's word comes. */
        tell("broken", session, session->in, strerror(errno));
        session->role = DEAD;
        if (!session->handle)
            forget(session);
    }
}

static void end_if_done(struct session *session)
{
    if (session->role == OWNER && session->input_ended && !session->held_bytes) {
        shutdown(session->fd, SHUT_WR);
        end(session, "");
    }
}

/* ---- what prld says ---- */

static void protect(struct session *session)
{
    int error = -EPIPE;

    if (prl && session->handle)
        error = prl_client_renew(prl, session->handle, session->held, session->held_bytes, &session->request);
    else if (prl)
        error = prl_client_replicate(prl, session->fd, NULL, 0, PRL_CLIENT_RENEW, &session->request);
    session->role = error ? OWNER : ASKED;
    if (error)
        tell("unprotected", session, 0, strerror(-error));
}

static void on_answer(const struct prl_client_event *event)
{
    for (struct session *session = sessions; session < sessions + SESSIONS_MAX; session++) {
        if (session->role == NOBODY || session->request != event->request)
            continue;
        session->request = 0;
        session->known = !event->code;
        if (!event->code) {
            session->handle = event->handle;
            memcpy(session->streams, event->streams, sizeof(session->streams));
        }
        if (session->role == ASKED)
            session->role = OWNER;
        if (!event->code && event->state == PRL_CLIENT_ACTIVE)
            tell("protected", session, session->out, "");
        else
            tell("unprotected", session, session->out, event->reason);
        return;
    }
    if (event->code)
        fprintf(stderr, "echo: %s\n", event->reason);
}

static void on_shadow(struct prl_client_event *event)
{
    struct session *session = find(event->handle);

    if (session) /* a new snapshot of it: what was read from the old shadow is of no use */
        forget(session);
    session = new_session(SHADOW, event->fd);
    if (!session) {
        prl_client_give_up(prl, event->handle, event->generation, NULL);
        return;
    }
    event->fd = -1; /* ours now */
    session->handle = event->handle;
    session->acked_start = acknowledged(session->fd);
    session->in = event->in_bytes;
    session->out = session->out_start = session->done = event->out_bytes;
    if (event->application_bytes > HELD_MAX)
        event->application_bytes = 0; /* not from a program like this one */
    session->held_bytes = event->application_bytes;
    if (session->held_bytes)
        memcpy(session->held, event->application, session->held_bytes);
    tell("standby", session, session->in, "");
}

static void on_event(struct prl_client_event *event)
{
    struct session *session = event->kind == PRL_CLIENT_ANSWER ? NULL : find(event->handle);

    if (event->kind == PRL_CLIENT_ANSWER) {
        on_answer(event);
    } else if (event->kind == PRL_CLIENT_SHADOW) {
        on_shadow(event);
    } else if (!session) {
        return; /* one that we have ended ourselves */
    } else if (event->kind == PRL_CLIENT_TAKEN_OVER) {
        tell("taken_over", session, event->out_bytes, "");
        session->handle = event->becomes;
        session->known = true;
        memcpy(session->streams, event->streams, sizeof(session->streams));
        session->done = event->out_bytes;
        drop_done(session);
        session->role = OWNER;
    } else if (event->kind == PRL_CLIENT_PROTECTABLE) {
        if (session->role == OWNER)
            protect(session);
    } else if (event->kind == PRL_CLIENT_STATE) {
        tell("state", session, event->state, event->reason);
        if (event->state == PRL_CLIENT_ENDED || event->state == PRL_CLIENT_CLOSED)
            forget(session);
    } else { /* demoted, or void */
        tell(event->kind == PRL_CLIENT_VOID ? "void" : "demoted", session, session->in, event->reason);
        forget(session);
    }
}

static void on_prld_gone(int error)
{
    fprintf(stderr, "echo: prld: %s; trying again\n", strerror(-error));
    prl_client_close(prl);
    prl = NULL;
    for (struct session *session = sessions; session < sessions + SESSIONS_MAX; session++) {
        session->handle = session->request = 0;
        if (session->role == SHADOW || session->role == DEAD)
            forget(session);
        else if (session->role == ASKED)
            session->role = OWNER; /* goes on, unprotected */
    }
}

/* A prld that started anew knows nobody: it is handed what lives, and asks for the state when it has use for it. */
static void rejoin(void)
{
    for (struct session *session = sessions; session < sessions + SESSIONS_MAX; session++)
        if (session->role == OWNER && session->known && !session->handle && !session->request &&
            prl_client_rejoin(prl, session->fd, session->streams, NULL, 0, PRL_CLIENT_RENEW, &session->request))
            return; /* -EBUSY: as soon as some are answered; -EPIPE: the reader will be told */
}

static void hear_prld(void)
{
    struct prl_client_event event;
    int result;

    while ((result = prl_client_next(prl, &event)) == 1) {
        on_event(&event);
        prl_client_release(&event);
    }
    if (result < 0)
        on_prld_gone(result);
}

static void connect_prld(const char *endpoint)
{
    int error = prl_client_open(&prl, NULL);

    if (!error)
        error = prl_client_offer(prl, endpoint, NULL);
    if (error && prl)
        on_prld_gone(error);
}

/* ---- listening ---- */

/* "192.0.2.100:7000" or "[2001:db8::100]:7000". Returns a listening socket, or -1. */
static int listen_on(const char *endpoint)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    const char *colon = strrchr(endpoint, ':');
    char address[INET6_ADDRSTRLEN + 2] = "";
    bool is_v6 = endpoint[0] == '[';
    int on = 1, fd, failed;

    if (!colon || (size_t)(colon - endpoint) >= sizeof(address))
        return -1;
    memcpy(address, endpoint + is_v6, (size_t)(colon - endpoint) - 2 * is_v6);
    v4.sin_port = v6.sin6_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
    if (inet_pton(is_v6 ? AF_INET6 : AF_INET, address, is_v6 ? (void *)&v6.sin6_addr : (void *)&v4.sin_addr) != 1)
        return -1;
    fd = socket(is_v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    /* The standby listens, too: it will own the address some day (FREEBIND: it may not have it yet). */
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    setsockopt(fd, is_v6 ? IPPROTO_IPV6 : IPPROTO_IP, is_v6 ? IPV6_FREEBIND : IP_FREEBIND, &on, sizeof(on));
    failed = is_v6 ? bind(fd, (struct sockaddr *)&v6, sizeof(v6)) : bind(fd, (struct sockaddr *)&v4, sizeof(v4));
    if (failed || listen(fd, SOMAXCONN)) {
        close(fd);
        return -1;
    }
    return fd;
}

static void accept_connection(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct session *session = fd < 0 ? NULL : new_session(ASKED, fd);

    if (session)
        protect(session);
    else if (fd >= 0)
        close(fd); /* SESSIONS_MAX */
}

static void stop(int number)
{
    stopping = number;
}

static void wait_and_serve(int listener)
{
    struct pollfd polled[SESSIONS_MAX + 2] = {{.fd = listener, .events = POLLIN}, {.fd = -1, .events = POLLIN}};
    struct pollfd *of_session = polled + 2;

    if (prl)
        polled[1].fd = prl_client_fd(prl);
    for (int i = 0; i < SESSIONS_MAX; i++) {
        int events = (may_read(&sessions[i]) ? POLLIN : 0) | (may_write(&sessions[i]) ? POLLOUT : 0);

        of_session[i] = (struct pollfd){.fd = events ? sessions[i].fd : -1, .events = (short)events};
    }
    if (poll(polled, SESSIONS_MAX + 2, prl ? -1 : RECONNECT_MS) < 0)
        return; /* EINTR */
    for (int i = 0; i < SESSIONS_MAX; i++)
        if (sessions[i].role != NOBODY && of_session[i].fd == sessions[i].fd)
            serve(&sessions[i], of_session[i].revents);
    if (polled[1].revents)
        hear_prld();
    for (int i = 0; i < SESSIONS_MAX; i++)
        end_if_done(&sessions[i]);
    if (polled[0].revents)
        accept_connection(listener);
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = stop};
    int listener = argc == 2 ? listen_on(argv[1]) : -1;

    if (listener < 0) {
        fprintf(stderr, "usage: echo ADDRESS:PORT (of a service address, and free)\n");
        return 2;
    }
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    connect_prld(argv[1]);
    tell("listening", NULL, 0, "");
    while (!stopping) {
        if (!prl)
            connect_prld(argv[1]);
        if (prl)
            rejoin();
        wait_and_serve(listener);
    }
    prl_client_close(prl); /* the death of the application: the other node goes on with its sessions */
    close(listener);
    return 0;
}
