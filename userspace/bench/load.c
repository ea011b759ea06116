/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The load of `prlctl bench`, both ends, cheap enough not to be what is measured:
 *
 *     prl-load client     commands on standard input, one line each, one JSON line of answer each
 *     prl-load server FD  sockets and commands by SCM_RIGHTS on FD (a SOCK_SEQPACKET socket)
 *
 * The client's lines (A is an IPv4 or IPv6 address):
 *
 *     connect A PORT COUNT [FROM]  so many connections more, from that address of this host's if one is named
 *     first A PORT ROUNDS FILE   so many connections, one after the other, each with one request at once: an int64 each,
 *                                ns from connect() to the answer; reset then
 *     ping ROUNDS FILE           64-byte ping-pong on the first connection; three int32 a round: ns there and back, there,
 *                                back (one clock for all namespaces)
 *     send MS BYTES              bulk on the first connection, for MS milliseconds or BYTES (0: no limit), to the last ACK
 *     burst BYTES                one send() of so many bytes, to the last ACK
 *     take MS                    bulk the other way: reads for MS milliseconds what the server writes
 *     open RATE MS COUNT FILE    open loop over the first COUNT connections: a request of 64 bytes each 1/RATE s, due
 *                                whether or not the last one was answered; two int64 a request: ns on CLOCK_BOOTTIME when
 *                                it was due, ns until it was answered (-1: never)
 *     pace RATE MS COUNT         a message of 64 bytes each 1/RATE s, on the first COUNT connections in turn; no answers
 *     absorb MS                  reads for MS milliseconds what the servers of all connections write
 *     segments A MS FILE         listens on all interfaces for MS milliseconds: a row of three int64 for each TCP segment
 *                                from A: ns on CLOCK_BOOTTIME, its destination port, the last byte of its source MAC
 *     udp A PORT PACKETS BURST   64-byte datagrams, BURST of them a millisecond
 *     quit
 *
 * The server's messages are struct order; see there.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/if_ether.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MESSAGE_BYTES 64
#define CHUNK_BYTES (128 << 10)
#define CONNECTIONS_MAX 131072
#define REQUESTS_MAX (1 << 22)
#define EVENTS_MAX 256
#define NS_PER_MS 1000000ll
#define NS_PER_S 1000000000ll
#define ANSWER_WAIT_MS 3000 /* for the last requests of an open loop, and the last ACK of a bulk */
#define LINE_MAX_BYTES 512
#define WORDS_MAX 6

static uint8_t chunk[CHUNK_BYTES];

static int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_BOOTTIME, &now);
    return now.tv_sec * NS_PER_S + now.tv_nsec;
}

static void die(const char *what)
{
    printf("{\"error\": \"%s: %s\"}\n", what, strerror(errno));
    fflush(stdout);
    exit(1);
}

static void set_int(int fd, int level, int name, int value)
{
    if (setsockopt(fd, level, name, &value, sizeof(value)) < 0)
        die("setsockopt");
}

static void set_blocking(int fd, bool blocking)
{
    int flags = fcntl(fd, F_GETFL);

    if (fcntl(fd, F_SETFL, blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK) < 0)
        die("fcntl");
}

/* ---- client ---- */

static int connection[CONNECTIONS_MAX];
static uint32_t connections;

static socklen_t address_of(const char *text, uint16_t port, struct sockaddr_storage *out)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)out;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;

    memset(out, 0, sizeof(*out));
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        return sizeof(*v4);
    }
    errno = EINVAL;
    if (inet_pton(AF_INET6, text, &v6->sin6_addr) != 1)
        die("address");
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    return sizeof(*v6);
}

static void do_connect(const char *text, uint16_t port, uint32_t count, const char *from)
{
    struct sockaddr_storage to, own = {0};
    socklen_t bytes = address_of(text, port, &to), own_bytes = from ? address_of(from, 0, &own) : 0;

    errno = ENOBUFS;
    if (count > CONNECTIONS_MAX - connections)
        die("connect");
    for (uint32_t i = 0; i < count; i++) {
        int fd = socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (fd < 0)
            die("connect");
        if (from) {
            /* A port may serve once for each address over there. */
            set_int(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
            if (bind(fd, (struct sockaddr *)&own, own_bytes) < 0)
                die("bind");
        }
        if (connect(fd, (struct sockaddr *)&to, bytes) < 0)
            die("connect");
        set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
        connection[connections++] = fd;
    }
    printf("{\"connections\": %u}\n", connections);
}

static void send_all(int fd, const void *data, size_t bytes)
{
    const uint8_t *at = data;

    while (bytes) {
        ssize_t sent = send(fd, at, bytes, MSG_NOSIGNAL);

        if (sent < 0)
            die("send");
        at += sent;
        bytes -= (size_t)sent;
    }
}

static void receive_all(int fd, void *data, size_t bytes)
{
    ssize_t got = recv(fd, data, bytes, MSG_WAITALL);

    if (got != (ssize_t)bytes) {
        errno = got < 0 ? errno : ECONNRESET;
        die("receive");
    }
}

static FILE *open_file(const char *path)
{
    FILE *file = fopen(path, "wb");

    if (!file)
        die(path);
    return file;
}

static void do_ping(uint32_t rounds, const char *path)
{
    FILE *file = open_file(path);
    int fd = connection[0];

    set_blocking(fd, true);
    for (uint32_t i = 0; i < rounds; i++) {
        int64_t message[MESSAGE_BYTES / sizeof(int64_t)] = {0};
        int64_t begun = now_ns(), ended;
        int32_t legs[3];

        send_all(fd, message, sizeof(message));
        receive_all(fd, message, sizeof(message));
        ended = now_ns();
        legs[0] = (int32_t)(ended - begun);
        legs[1] = (int32_t)(message[1] - begun); /* the server's clock on arrival */
        legs[2] = (int32_t)(ended - message[1]);
        fwrite(legs, sizeof(legs), 1, file);
    }
    fclose(file);
    printf("{\"rounds\": %u}\n", rounds);
}

static void do_first(const char *text, uint16_t port, uint32_t rounds, const char *path)
{
    const struct linger at_once = {.l_onoff = 1}; /* none of them is left, here or there */
    struct sockaddr_storage to;
    socklen_t bytes = address_of(text, port, &to);
    FILE *file = open_file(path);

    for (uint32_t i = 0; i < rounds; i++) {
        uint8_t message[MESSAGE_BYTES] = {0};
        int64_t begun = now_ns(), took;
        int fd = socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (fd < 0 || connect(fd, (struct sockaddr *)&to, bytes) < 0)
            die("connect");
        set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
        send_all(fd, message, sizeof(message));
        receive_all(fd, message, sizeof(message));
        took = now_ns() - begun;
        fwrite(&took, sizeof(took), 1, file);
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
        close(fd);
    }
    fclose(file);
    printf("{\"rounds\": %u}\n", rounds);
}

/* Waits until all is acknowledged; returns what is not. The time between two looks grows to 100 µs. */
static int drain(int fd)
{
    const int64_t until = now_ns() + ANSWER_WAIT_MS * NS_PER_MS;
    struct timespec nap = {.tv_nsec = 20000};
    int left = 0;

    while (ioctl(fd, SIOCOUTQ, &left) == 0 && left && now_ns() < until)
        nanosleep(&nap, NULL);
    return left;
}

static void do_send(int64_t ms, uint64_t bytes_max)
{
    const int64_t begun = now_ns(), until = begun + ms * NS_PER_MS;
    struct tcp_info before = {0}, after = {0};
    socklen_t length = sizeof(before);
    uint64_t bytes = 0;
    int fd = connection[0], left;

    getsockopt(fd, IPPROTO_TCP, TCP_INFO, &before, &length);
    set_blocking(fd, true);
    while (now_ns() < until && (!bytes_max || bytes < bytes_max)) {
        ssize_t sent = send(fd, chunk, CHUNK_BYTES, MSG_NOSIGNAL);

        if (sent < 0)
            die("send");
        bytes += (uint64_t)sent;
    }
    left = drain(fd);
    getsockopt(fd, IPPROTO_TCP, TCP_INFO, &after, &length);
    printf("{\"bytes\": %" PRIu64 ", \"ns\": %" PRId64 ", \"unacknowledged\": %d, \"retransmitted\": %u}\n", bytes,
           now_ns() - begun, left, after.tcpi_total_retrans - before.tcpi_total_retrans);
}

static void do_burst(uint32_t bytes)
{
    errno = EINVAL;
    if (bytes == 0 || bytes > CHUNK_BYTES)
        die("burst");
    send_all(connection[0], chunk, bytes);
    printf("{\"bytes\": %u, \"unacknowledged\": %d}\n", bytes, drain(connection[0]));
}

static void do_take(int64_t ms)
{
    const int64_t begun = now_ns(), until = begun + ms * NS_PER_MS;
    uint64_t bytes = 0;
    int fd = connection[0];

    set_blocking(fd, true);
    while (now_ns() < until) {
        ssize_t got = recv(fd, chunk, CHUNK_BYTES, 0);

        if (got <= 0)
            die("receive");
        bytes += (uint64_t)got;
    }
    printf("{\"bytes\": %" PRIu64 ", \"ns\": %" PRId64 "}\n", bytes, now_ns() - begun);
}

/* Requests of one connection that wait for their answers, oldest first: answers come in order. */
struct waiting {
    uint32_t head, tail; /* request numbers, linked by next_request[] */
    uint32_t received;   /* bytes of an answer that is not complete */
    uint32_t unsent;     /* bytes that found no room in the socket */
    bool failed;
};

struct request {
    int64_t due_ns, answered_ns;
};

static struct request *request;
static uint32_t *next_request;
static struct waiting waiting[CONNECTIONS_MAX];

static void push_out(uint32_t at)
{
    struct waiting *one = &waiting[at];

    while (one->unsent && !one->failed) {
        uint32_t bytes = one->unsent < CHUNK_BYTES ? one->unsent : CHUNK_BYTES;
        ssize_t sent = send(connection[at], chunk, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (sent <= 0) {
            one->failed = sent < 0 && errno != EAGAIN;
            return;
        }
        one->unsent -= (uint32_t)sent;
    }
}

static uint32_t take_answers(uint32_t at)
{
    struct waiting *one = &waiting[at];
    uint32_t answered = 0;
    ssize_t got = recv(connection[at], chunk, CHUNK_BYTES, MSG_DONTWAIT);

    if (got <= 0) {
        one->failed |= got == 0 || errno != EAGAIN;
        return 0;
    }
    one->received += (uint32_t)got;
    for (; one->received >= MESSAGE_BYTES && one->head; one->received -= MESSAGE_BYTES, answered++) {
        request[one->head].answered_ns = now_ns();
        one->head = next_request[one->head];
    }
    return answered;
}

static void ask(uint32_t number, uint32_t at)
{
    struct waiting *one = &waiting[at];

    next_request[number] = 0;
    if (one->head)
        next_request[one->tail] = number;
    else
        one->head = number;
    one->tail = number;
    one->unsent += MESSAGE_BYTES;
    push_out(at);
}

/* Prints what became of the requests: an epoll descriptor for the answers, a schedule for the questions. */
static void do_open(uint32_t rate, int64_t ms, uint32_t count, const char *path)
{
    const uint32_t total = (uint32_t)(rate * ms / 1000);
    const int64_t begun = now_ns(), give_up = begun + (ms + ANSWER_WAIT_MS) * NS_PER_MS;
    uint32_t asked = 0, answered = 0, failed = 0;
    struct epoll_event events[EVENTS_MAX];
    int poller = epoll_create1(EPOLL_CLOEXEC);
    FILE *file = open_file(path);

    errno = EINVAL;
    if (total == 0 || total >= REQUESTS_MAX || count == 0 || count > connections || count > CONNECTIONS_MAX)
        die("open");
    request = calloc(total + 1, sizeof(*request));
    next_request = calloc(total + 1, sizeof(*next_request));
    memset(waiting, 0, sizeof(waiting));
    memset(chunk, 0, MESSAGE_BYTES);
    for (uint32_t i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};

        set_blocking(connection[i], false);
        if (epoll_ctl(poller, EPOLL_CTL_ADD, connection[i], &event) < 0)
            die("epoll_ctl");
    }
    while (answered < total && now_ns() < give_up) {
        int64_t now = now_ns(), due = begun + (int64_t)asked * NS_PER_S / rate;
        struct timespec nap = {.tv_nsec = 100 * NS_PER_MS};
        int ready;

        for (; asked < total && due <= now; due = begun + (int64_t)asked * NS_PER_S / rate) {
            request[++asked].due_ns = due;
            ask(asked, (asked - 1) % count);
        }
        if (asked < total)
            nap.tv_nsec = due > now ? due - now : 0;
        nap.tv_sec = nap.tv_nsec / NS_PER_S;
        nap.tv_nsec %= NS_PER_S;
        ready = epoll_pwait2(poller, events, EVENTS_MAX, &nap, NULL);
        for (int i = 0; i < ready; i++) {
            uint32_t at = events[i].data.u32;

            if (waiting[at].failed) {
                epoll_ctl(poller, EPOLL_CTL_DEL, connection[at], NULL);
                continue;
            }
            answered += take_answers(at);
            push_out(at);
        }
    }
    for (uint32_t i = 0; i < count; i++)
        failed += waiting[i].failed;
    for (uint32_t i = 1; i <= total; i++) {
        int64_t pair[2] = {request[i].due_ns,
                           request[i].answered_ns ? request[i].answered_ns - request[i].due_ns : -1};

        fwrite(pair, sizeof(pair), 1, file);
    }
    fclose(file);
    close(poller);
    free(request);
    free(next_request);
    printf("{\"asked\": %u, \"answered\": %u, \"failed\": %u}\n", asked, answered, failed);
}

static void do_pace(uint32_t rate, int64_t ms, uint32_t count)
{
    const uint32_t total = (uint32_t)(rate * ms / 1000);
    const int64_t begun = now_ns();
    uint32_t refused = 0;

    errno = EINVAL;
    if (rate == 0 || count == 0 || count > connections || count > CONNECTIONS_MAX)
        die("pace");
    for (uint32_t i = 0; i < total; i++) {
        int64_t left = begun + (int64_t)i * NS_PER_S / rate - now_ns();
        struct timespec nap = {.tv_sec = left / NS_PER_S, .tv_nsec = left % NS_PER_S};

        if (left > 0)
            nanosleep(&nap, NULL);
        refused += send(connection[i % count], chunk, MESSAGE_BYTES, MSG_NOSIGNAL | MSG_DONTWAIT) < 0;
    }
    printf("{\"sent\": %u, \"refused\": %u, \"ns\": %" PRId64 "}\n", total - refused, refused, now_ns() - begun);
}

static void do_absorb(int64_t ms)
{
    const int64_t until = now_ns() + ms * NS_PER_MS;
    struct epoll_event events[EVENTS_MAX];
    int poller = epoll_create1(EPOLL_CLOEXEC);
    uint32_t ended = 0;
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < connections; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};

        if (epoll_ctl(poller, EPOLL_CTL_ADD, connection[i], &event) < 0)
            die("epoll_ctl");
    }
    for (int64_t left; (left = until - now_ns()) > 0;) {
        int ready = epoll_wait(poller, events, EVENTS_MAX, (int)(left / NS_PER_MS) + 1);

        for (int i = 0; i < ready; i++) {
            uint32_t at = events[i].data.u32;
            ssize_t got = recv(connection[at], chunk, CHUNK_BYTES, MSG_DONTWAIT);

            if (got > 0) {
                bytes += (uint64_t)got;
            } else if (got == 0 || errno != EAGAIN) {
                epoll_ctl(poller, EPOLL_CTL_DEL, connection[at], NULL);
                ended++;
            }
        }
    }
    close(poller);
    printf("{\"bytes\": %" PRIu64 ", \"ended\": %u}\n", bytes, ended);
}

/* The kernel's own time of arrival: CLOCK_REALTIME, turned into CLOCK_BOOTTIME. */
static int64_t arrival_ns(struct msghdr *message, int64_t offset_ns)
{
    for (struct cmsghdr *at = CMSG_FIRSTHDR(message); at; at = CMSG_NXTHDR(message, at)) {
        struct timespec stamp;

        if (at->cmsg_level != SOL_SOCKET || at->cmsg_type != SO_TIMESTAMPNS)
            continue;
        memcpy(&stamp, CMSG_DATA(at), sizeof(stamp));
        return stamp.tv_sec * NS_PER_S + stamp.tv_nsec - offset_ns;
    }
    return now_ns();
}

static void do_segments(const char *text, int64_t ms, const char *path)
{
    const int64_t until = now_ns() + ms * NS_PER_MS;
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_IP)), room = 64 << 20;
    struct timespec real;
    int64_t offset_ns;
    uint32_t from, rows = 0;
    FILE *file = open_file(path);

    errno = EINVAL;
    if (inet_pton(AF_INET, text, &from) != 1 || fd < 0)
        die("segments");
    clock_gettime(CLOCK_REALTIME, &real);
    offset_ns = real.tv_sec * NS_PER_S + real.tv_nsec - now_ns();
    set_int(fd, SOL_SOCKET, SO_TIMESTAMPNS, 1);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
    for (int64_t left; (left = until - now_ns()) > 0;) {
        struct pollfd set = {.fd = fd, .events = POLLIN};
        char control[128];
        uint8_t frame[128];
        struct iovec piece = {.iov_base = frame, .iov_len = sizeof(frame)};
        struct msghdr message = {
            .msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};

        if (poll(&set, 1, (int)(left / NS_PER_MS) + 1) <= 0)
            continue;
        if (recvmsg(fd, &message, MSG_DONTWAIT) < 54 || frame[23] != IPPROTO_TCP ||
            memcmp(frame + 26, &from, 4) != 0)
            continue;
        int64_t row[3] = {arrival_ns(&message, offset_ns), frame[36] << 8 | frame[37], frame[11]};
        fwrite(row, sizeof(row), 1, file);
        rows++;
    }
    fclose(file);
    close(fd);
    printf("{\"segments\": %u}\n", rows);
}

static void do_udp(const char *text, uint16_t port, uint32_t packets, uint32_t burst)
{
    struct sockaddr_storage to;
    socklen_t bytes = address_of(text, port, &to);
    int fd = socket(to.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int64_t begun = now_ns();
    uint32_t sent = 0;

    if (fd < 0 || connect(fd, (struct sockaddr *)&to, bytes) < 0)
        die("udp");
    for (uint32_t i = 0; i < packets; i++) {
        if (burst && i && i % burst == 0) {
            int64_t due = begun + (int64_t)(i / burst) * NS_PER_MS, now = now_ns();
            struct timespec nap = {.tv_nsec = due - now};

            if (due > now)
                nanosleep(&nap, NULL);
        }
        sent += send(fd, chunk, MESSAGE_BYTES, 0) > 0;
    }
    close(fd);
    printf("{\"sent\": %u, \"ns\": %" PRId64 "}\n", sent, now_ns() - begun);
}

/* A number on a command line or in an order; what is none is 0. */
static long long number(const char *text)
{
    char *end;
    long long value = strtoll(text, &end, 10);

    return *end || end == text ? 0 : value;
}

static uint32_t split(char *line, char **word)
{
    uint32_t words = 0;
    char *rest = NULL;

    for (char *at = strtok_r(line, " \n", &rest); at && words < WORDS_MAX; at = strtok_r(NULL, " \n", &rest))
        word[words++] = at;
    return words;
}

static bool obey_connected(char **word, uint32_t words)
{
    const char *name = word[0];

    if (words == 3 && strcmp(name, "ping") == 0)
        do_ping((uint32_t)number(word[1]), word[2]);
    else if (words == 3 && strcmp(name, "send") == 0)
        do_send(number(word[1]), (uint64_t)number(word[2]));
    else if (words == 4 && strcmp(name, "pace") == 0)
        do_pace((uint32_t)number(word[1]), number(word[2]), (uint32_t)number(word[3]));
    else if (words == 2 && strcmp(name, "absorb") == 0)
        do_absorb(number(word[1]));
    else if (words == 2 && strcmp(name, "burst") == 0)
        do_burst((uint32_t)number(word[1]));
    else if (words == 2 && strcmp(name, "take") == 0)
        do_take(number(word[1]));
    else if (words == 5 && strcmp(name, "open") == 0)
        do_open((uint32_t)number(word[1]), number(word[2]), (uint32_t)number(word[3]), word[4]);
    else
        return false;
    return true;
}

static int client(void)
{
    char line[LINE_MAX_BYTES], *word[WORDS_MAX];

    while (fgets(line, sizeof(line), stdin)) {
        uint32_t words = split(line, word);

        if ((words == 4 || words == 5) && strcmp(word[0], "connect") == 0)
            do_connect(word[1], (uint16_t)number(word[2]), (uint32_t)number(word[3]), words == 5 ? word[4] : NULL);
        else if (words == 5 && strcmp(word[0], "udp") == 0)
            do_udp(word[1], (uint16_t)number(word[2]), (uint32_t)number(word[3]), (uint32_t)number(word[4]));
        else if (words == 4 && strcmp(word[0], "segments") == 0)
            do_segments(word[1], number(word[2]), word[3]);
        else if (words == 5 && strcmp(word[0], "first") == 0)
            do_first(word[1], (uint16_t)number(word[2]), (uint32_t)number(word[3]), word[4]);
        else if (words == 1 && strcmp(word[0], "quit") == 0)
            return 0;
        else if (words == 0 || connections == 0 || !obey_connected(word, words))
            printf("{\"error\": \"what? (or not connected)\"}\n");
        fflush(stdout);
    }
    return 0;
}

/* ---- server ---- */

enum role {
    ECHO = 0,   /* sends back what comes */
    SINK = 1,   /* reads */
    SOURCE = 2, /* writes as much as it can */
    PUSH = 3,   /* writes a message every PUSH_MS */
};
#define PUSH_MS 100

/* A message on FD. ADD and ADD_SHADOW carry the socket; its number is the next one, from 0. */
struct order {
    uint32_t kind; /* enum order_kind */
    uint32_t role;
    uint32_t number;
    uint32_t pad;
    uint64_t value;
};

enum order_kind {
    ADD = 1,        /* a session of ours */
    ADD_SHADOW = 2, /* one that is only read */
    OWN = 3,        /* the shadow `number` is ours; value = bytes of output that the peer has or will get */
    COUNT = 4,      /* answered with struct count */
};

struct count {
    uint64_t sessions, in_bytes, out_bytes, ended;
};

struct session {
    int fd;
    uint32_t role;
    bool owned, blocked;
    uint64_t in_bytes, out_bytes;
};

static struct session *session;
static uint32_t sessions, sessions_room, ended;
static int server_poller;

static void watch(uint32_t number, uint32_t events, int how)
{
    struct epoll_event event = {.events = events, .data.u32 = number};

    epoll_ctl(server_poller, how, session[number].fd, &event);
}

/* Writes what is due: an echo owes as many bytes as came in, a source as many as the socket takes. */
static void write_due(uint32_t number, const uint8_t *data)
{
    struct session *one = &session[number];

    while (one->owned && one->fd >= 0) {
        uint64_t due = one->role == SOURCE ? CHUNK_BYTES : one->role == ECHO ? one->in_bytes - one->out_bytes : 0;
        ssize_t sent;

        if (due == 0)
            break;
        sent = send(one->fd, data, due < CHUNK_BYTES ? due : CHUNK_BYTES, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent <= 0) {
            if (!one->blocked)
                watch(number, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
            one->blocked = true;
            return;
        }
        one->out_bytes += (uint64_t)sent;
    }
    if (one->blocked)
        watch(number, EPOLLIN, EPOLL_CTL_MOD);
    one->blocked = false;
}

/* The time of arrival goes into each whole message (ping). */
static void stamp(uint8_t *data, ssize_t bytes)
{
    int64_t now = now_ns();

    for (ssize_t at = 0; bytes % MESSAGE_BYTES == 0 && at < bytes; at += MESSAGE_BYTES)
        memcpy(data + at + sizeof(now), &now, sizeof(now));
}

static void serve(uint32_t number)
{
    struct session *one = &session[number];
    ssize_t got = recv(one->fd, chunk, CHUNK_BYTES, MSG_DONTWAIT);

    if (got > 0) {
        one->in_bytes += (uint64_t)got;
        if (one->role == ECHO && one->owned && got <= 16 * MESSAGE_BYTES)
            stamp(chunk, got);
    } else if (got == 0 ||
               (errno != EAGAIN && errno != EPERM)) { /* EPERM: a snapshot is being taken (tcp_repair) */
        watch(number, 0, EPOLL_CTL_DEL);
        close(one->fd);
        one->fd = -1;
        ended++;
        return;
    }
    write_due(number, chunk);
}

static void add_session(int fd, uint32_t role, bool owned)
{
    if (sessions == sessions_room) {
        sessions_room = sessions_room ? 2 * sessions_room : 64;
        struct session *grown = realloc(session, sessions_room * sizeof(*session));

        if (!grown)
            die("realloc");
        session = grown;
    }
    session[sessions] = (struct session){.fd = fd, .role = role, .owned = owned};
    watch(sessions++, EPOLLIN, EPOLL_CTL_ADD);
    if (owned && role == SOURCE)
        write_due(sessions - 1, chunk);
}

/* One message of FD; false at its end. */
static bool take_order(int control_fd)
{
    char space[CMSG_SPACE(sizeof(int))];
    struct order order;
    struct iovec piece = {.iov_base = &order, .iov_len = sizeof(order)};
    struct msghdr message = {
        .msg_iov = &piece, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof(space)};
    ssize_t got = recvmsg(control_fd, &message, MSG_CMSG_CLOEXEC);
    struct cmsghdr *header = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    int fd = -1;

    if (got <= 0)
        return false;
    if (header && header->cmsg_type == SCM_RIGHTS)
        memcpy(&fd, CMSG_DATA(header), sizeof(fd));
    switch (order.kind) {
    case ADD:
    case ADD_SHADOW:
        add_session(fd, order.role, order.kind == ADD);
        break;
    case OWN:
        if (order.number < sessions) {
            session[order.number].owned = true;
            session[order.number].out_bytes = order.value;
            write_due(order.number, chunk);
        }
        break;
    case COUNT: {
        struct count count = {.sessions = sessions, .ended = ended};

        for (uint32_t i = 0; i < sessions; i++) {
            count.in_bytes += session[i].in_bytes;
            count.out_bytes += session[i].out_bytes;
        }
        if (send(control_fd, &count, sizeof(count), MSG_NOSIGNAL) < 0)
            return false;
        break;
    }
    default:
        return false;
    }
    return true;
}

/* Milliseconds until the next push; pushes when it is due. -1: nothing is ever pushed. */
static int push_due(int64_t *next_ns)
{
    int64_t now = now_ns();
    bool any = false;

    for (uint32_t i = 0; i < sessions; i++)
        any |= session[i].role == PUSH;
    if (!any)
        return -1;
    if (now >= *next_ns) {
        *next_ns = now + PUSH_MS * NS_PER_MS;
        for (uint32_t i = 0; i < sessions; i++)
            if (session[i].owned && session[i].fd >= 0 && session[i].role == PUSH &&
                send(session[i].fd, chunk, MESSAGE_BYTES, MSG_NOSIGNAL | MSG_DONTWAIT) > 0)
                session[i].out_bytes += MESSAGE_BYTES;
    }
    return (int)((*next_ns - now) / NS_PER_MS) + 1;
}

static int server(int control_fd)
{
    struct epoll_event events[EVENTS_MAX], control = {.events = EPOLLIN, .data.u32 = UINT32_MAX};
    int64_t next_push_ns = 0;

    server_poller = epoll_create1(EPOLL_CLOEXEC);
    if (server_poller < 0 || epoll_ctl(server_poller, EPOLL_CTL_ADD, control_fd, &control) < 0)
        die("epoll");
    for (;;) {
        int ready = epoll_wait(server_poller, events, EVENTS_MAX, push_due(&next_push_ns));

        for (int i = 0; i < ready; i++) {
            if (events[i].data.u32 == UINT32_MAX) {
                if (!take_order(control_fd))
                    return 0;
            } else if (session[events[i].data.u32].fd >= 0) {
                serve(events[i].data.u32);
            }
        }
    }
}

int main(int argc, char **argv)
{
    struct rlimit files;

    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    if (argc == 2 && strcmp(argv[1], "client") == 0)
        return client();
    if (argc == 3 && strcmp(argv[1], "server") == 0)
        return server((int)number(argv[2]));
    fprintf(stderr, "usage: prl-load client | server FD\n");
    return 2;
}
