/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE /* memfd_create() */
#include "prl_client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "json.h"

#define MESSAGE_MAX (64u << 10)
#define FDS_MAX 4 /* that a message from prld may bring */
#define INLINE_MAX (32u << 10) /* application data in the message itself; more is in a memfd */
#define CONNECT_TRIES 100
#define CONNECT_RETRY_MS 20
#define DEFAULT_PATH "/run/prl/prld.sock"

struct kept {
    struct kept *next;
    struct prl_client_event event;
};

struct prl_client {
    int fd;
    int lost; /* latched -errno: no more will come */
    uint32_t last_request;
    uint32_t under_way;
    struct kept *first, **last;
    uint32_t kept;
    char message[MESSAGE_MAX];
};

/* What a message says, before it is known what it is. */
struct members {
    struct prl_json_value event, id, ok, error, code, handle, state, reason;
    struct prl_json_value out_bytes, in_bytes, monotonic_ns, unread, becomes, streams, renew, generation;
    struct prl_json_value local, remote, application, application_bytes;
};

/* ---- the connection ---- */

static int connect_to(int fd, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);

    if (!length || length >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    memcpy(address.sun_path, path, length);
    for (int tries = 0; tries < CONNECT_TRIES; tries++) {
        if (!connect(fd, (struct sockaddr *)&address, sizeof(address)))
            return 0;
        if (errno != EAGAIN && errno != EINTR)
            return -errno;
        poll(NULL, 0, CONNECT_RETRY_MS); /* its backlog is full (unix(7)) */
    }
    return -EAGAIN;
}

int prl_client_open(struct prl_client **client, const char *path)
{
    struct prl_client *made;
    int error;

    *client = NULL;
    if (!path || !*path)
        path = getenv("PRL_SOCKET");
    if (!path || !*path)
        path = DEFAULT_PATH;
    made = malloc(sizeof(*made));
    if (!made)
        return -ENOMEM;
    memset(made, 0, offsetof(struct prl_client, message));
    made->last = &made->first;
    made->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (made->fd < 0) {
        error = -errno;
        free(made);
        return error;
    }
    error = connect_to(made->fd, path);
    if (error) {
        prl_client_close(made);
        return error;
    }
    *client = made;
    return 0;
}

/* Takes the first event that was set aside; with `request`, the answer to that one. */
static bool take_kept(struct prl_client *client, uint32_t request, struct prl_client_event *event)
{
    struct kept **at = &client->first, *kept;

    while (request && *at && ((*at)->event.kind != PRL_CLIENT_ANSWER || (*at)->event.request != request))
        at = &(*at)->next;
    kept = *at;
    if (!kept)
        return false;
    *event = kept->event;
    *at = kept->next;
    if (!*at)
        client->last = at;
    client->kept--;
    free(kept);
    return true;
}

void prl_client_close(struct prl_client *client)
{
    struct prl_client_event event;

    if (!client)
        return;
    while (take_kept(client, 0, &event))
        prl_client_release(&event);
    close(client->fd);
    free(client);
}

int prl_client_fd(const struct prl_client *client)
{
    return client->fd;
}

void prl_client_release(struct prl_client_event *event)
{
    if (event->fd >= 0)
        close(event->fd);
    free(event->application);
    *event = (struct prl_client_event){.fd = -1};
}

/* ---- requests ---- */

static int send_message(struct prl_client *client, struct prl_json_writer *writer, const int *fds, size_t count)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(2 * sizeof(int))];
    } control = {0};
    struct iovec piece = {.iov_base = writer->start, .iov_len = (size_t)(writer->at - writer->start)};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};

    if (count) {
        message.msg_control = control.room;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(&control.header), fds, count * sizeof(int));
    }
    while (sendmsg(client->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        if (errno != EINTR)
            return -errno;
    return 0;
}

/* Puts the operation and its number; the caller goes on with members. */
static void begin(struct prl_client *client, struct prl_json_writer *writer, const char *operation)
{
    prl_json_write(writer, client->message, sizeof(client->message));
    prl_json_put(writer, "{\"op\":");
    prl_json_put_string(writer, operation);
    prl_json_put(writer, ",\"id\":");
    prl_json_put_number(writer, client->last_request + 1);
}

/* The same, about a session or shadow. */
static void begin_of(struct prl_client *client, struct prl_json_writer *writer, const char *operation,
                     uint32_t handle)
{
    begin(client, writer, operation);
    prl_json_put(writer, ",\"handle\":");
    prl_json_put_number(writer, handle);
}

static int finish(struct prl_client *client, struct prl_json_writer *writer, const int *fds, size_t count,
                  uint32_t *request)
{
    int error;

    prl_json_put(writer, "}");
    if (writer->error)
        return writer->error;
    if (client->lost)
        return -EPIPE;
    if (client->under_way == PRL_CLIENT_REQUESTS_MAX)
        return -EBUSY;
    error = send_message(client, writer, fds, count);
    if (error)
        return error == -ECONNRESET || error == -ENOTCONN ? -EPIPE : error;
    client->last_request++;
    client->under_way++;
    if (request)
        *request = client->last_request;
    return 0;
}

/* A memfd with the data; or -errno. */
static int memory_with(const void *data, size_t bytes)
{
    int fd = memfd_create("prl-application", MFD_CLOEXEC);
    size_t at = 0;

    if (fd < 0)
        return -errno;
    while (at < bytes) {
        ssize_t put = pwrite(fd, (const char *)data + at, bytes - at, (off_t)at);

        if (put < 0 && errno != EINTR) {
            int error = -errno;

            close(fd);
            return error;
        }
        at += put > 0 ? (size_t)put : 0;
    }
    return fd;
}

/* The request so far, and the application's data behind it. `fd`: -1, or a socket to send along. */
static int finish_with(struct prl_client *client, struct prl_json_writer *writer, int fd, const void *data,
                       size_t bytes, uint32_t *request)
{
    int fds[2] = {fd, -1}, error;
    size_t count = fd >= 0;

    if (!data)
        bytes = 0;
    if (bytes > PRL_CLIENT_APPLICATION_MAX)
        return -EMSGSIZE;
    if (bytes <= INLINE_MAX) {
        prl_json_put(writer, ",\"application\":");
        prl_json_put_base64(writer, data, bytes);
        return finish(client, writer, fds, count, request);
    }
    prl_json_put(writer, ",\"application_bytes\":");
    prl_json_put_number(writer, bytes);
    fds[count] = memory_with(data, bytes);
    if (fds[count] < 0)
        return fds[count];
    error = finish(client, writer, fds, count + 1, request);
    close(fds[count]);
    return error;
}

int prl_client_replicate(struct prl_client *client, int fd, const void *application, size_t application_bytes,
                         unsigned int flags, uint32_t *request)
{
    struct prl_json_writer writer;

    if (fd < 0)
        return -EBADF;
    begin(client, &writer, "replicate");
    prl_json_put(&writer, flags & PRL_CLIENT_RENEW ? ",\"renew\":true" : "");
    return finish_with(client, &writer, fd, application, application_bytes, request);
}

int prl_client_renew(struct prl_client *client, uint32_t handle, const void *application, size_t application_bytes,
                     uint32_t *request)
{
    struct prl_json_writer writer;

    begin_of(client, &writer, "renew", handle);
    return finish_with(client, &writer, -1, application, application_bytes, request);
}

int prl_client_rejoin(struct prl_client *client, int fd, const char *streams, const void *application,
                      size_t application_bytes, unsigned int flags, uint32_t *request)
{
    struct prl_json_writer writer;

    if (fd < 0)
        return -EBADF;
    begin(client, &writer, "replicate");
    prl_json_put(&writer, flags & PRL_CLIENT_RENEW ? ",\"again\":true,\"renew\":true" : ",\"again\":true");
    if (*streams) {
        prl_json_put(&writer, ",\"streams\":");
        prl_json_put(&writer, streams);
    }
    return finish_with(client, &writer, fd, application, application_bytes, request);
}

int prl_client_offer(struct prl_client *client, const char *endpoint, uint32_t *request)
{
    struct prl_json_writer writer;

    begin(client, &writer, "offer");
    prl_json_put(&writer, ",\"endpoint\":");
    prl_json_put_string(&writer, endpoint);
    return finish(client, &writer, NULL, 0, request);
}

int prl_client_end(struct prl_client *client, uint32_t handle, uint32_t *request)
{
    struct prl_json_writer writer;

    begin_of(client, &writer, "close", handle);
    return finish(client, &writer, NULL, 0, request);
}

int prl_client_give_up(struct prl_client *client, uint32_t handle, uint32_t generation, uint32_t *request)
{
    struct prl_json_writer writer;

    begin_of(client, &writer, "close", handle);
    prl_json_put(&writer, ",\"generation\":");
    prl_json_put_number(&writer, generation);
    return finish(client, &writer, NULL, 0, request);
}

/* ---- what prld says ---- */

static int read_members(const char *text, size_t bytes, struct members *members)
{
    const struct {
        const char *name;
        struct prl_json_value *value;
    } known[] = {
        {"event", &members->event},
        {"id", &members->id},
        {"ok", &members->ok},
        {"error", &members->error},
        {"code", &members->code},
        {"handle", &members->handle},
        {"generation", &members->generation},
        {"becomes", &members->becomes},
        {"state", &members->state},
        {"reason", &members->reason},
        {"out_bytes", &members->out_bytes},
        {"in_bytes", &members->in_bytes},
        {"streams", &members->streams},
        {"renew", &members->renew},
        {"monotonic_ns", &members->monotonic_ns},
        {"unread", &members->unread},
        {"local", &members->local},
        {"remote", &members->remote},
        {"application", &members->application},
        {"application_bytes", &members->application_bytes},
    };
    struct prl_json_reader reader;
    struct prl_json_value value;
    char key[PRL_JSON_KEY_MAX];
    int more;

    memset(members, 0, sizeof(*members));
    prl_json_read(&reader, text, bytes);
    while ((more = prl_json_next(&reader, key, &value)) > 0)
        for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
            if (!strcmp(key, known[i].name))
                *known[i].value = value;
    return more;
}

static bool is_text(const struct prl_json_value *value, const char *text)
{
    char found[PRL_JSON_KEY_MAX];

    return value->type == PRL_JSON_STRING &&
           prl_json_string(value, found, sizeof(found)) == (ssize_t)strlen(text) && !strcmp(found, text);
}

static int number(const struct prl_json_value *value, uint64_t limit, uint64_t *out)
{
    if (value->type != PRL_JSON_INTEGER || value->negative || value->integer > limit)
        return -EPROTO;
    *out = value->integer;
    return 0;
}

/* A number that may be missing: then `out` stays. */
static int number_if(const struct prl_json_value *value, uint64_t limit, uint64_t *out)
{
    return value->type == PRL_JSON_NULL ? 0 : number(value, limit, out);
}

/* Text that may be cut; a member that is missing is empty. */
static int words(const struct prl_json_value *value, char *out, size_t size)
{
    out[0] = '\0';
    if (value->type == PRL_JSON_NULL)
        return 0;
    return value->type == PRL_JSON_STRING && prl_json_string(value, out, size) >= 0 ? 0 : -EPROTO;
}

static int handle_of(const struct members *members, struct prl_client_event *event)
{
    uint64_t handle = 0;
    int error = number(&members->handle, UINT32_MAX, &handle);

    event->handle = (uint32_t)handle;
    return error;
}

static int state_of(const struct members *members, struct prl_client_event *event)
{
    static const char *const names[] = {
        [PRL_CLIENT_SETUP] = "setup", [PRL_CLIENT_ACTIVE] = "active", [PRL_CLIENT_VOIDING] = "voiding",
        [PRL_CLIENT_OPEN] = "open",   [PRL_CLIENT_ENDED] = "ended",   [PRL_CLIENT_CLOSED] = "closed",
    };

    if (members->state.type != PRL_JSON_STRING)
        return -EPROTO;
    for (size_t i = PRL_CLIENT_SETUP; i < sizeof(names) / sizeof(*names); i++)
        if (is_text(&members->state, names[i]))
            event->state = (enum prl_client_state)i;
    return words(&members->reason, event->reason, sizeof(event->reason));
}

/* prld's own note: an array, as it is, to be given back one day. */
static int streams_of(const struct members *members, struct prl_client_event *event)
{
    const struct prl_json_value *value = &members->streams;

    if (value->type == PRL_JSON_NULL)
        return 0;
    if (value->type != PRL_JSON_ARRAY || value->bytes >= sizeof(event->streams))
        return -EPROTO;
    memcpy(event->streams, value->text, value->bytes);
    return 0;
}

static int answer_of(struct prl_client *client, const struct members *members, struct prl_client_event *event)
{
    uint64_t request, code = 1;

    event->kind = PRL_CLIENT_ANSWER;
    /* Without a number it refuses the connection, or what it did not understand: neither can go on. */
    if (number(&members->id, UINT32_MAX, &request) || members->ok.type != PRL_JSON_BOOL || !client->under_way)
        return -EPROTO;
    event->request = (uint32_t)request;
    client->under_way--;
    if (members->ok.yes) {
        if (members->handle.type == PRL_JSON_NULL)
            return 0;
        return handle_of(members, event) || state_of(members, event) || streams_of(members, event) ? -EPROTO : 0;
    }
    if (number(&members->code, INT32_MAX, &code) || words(&members->error, event->reason, sizeof(event->reason)))
        return -EPROTO;
    event->code = code ? (int)code : 1;
    return 0;
}

static int application_in_text(const struct prl_json_value *value, struct prl_client_event *event)
{
    ssize_t bytes;
    char *text;

    if (value->type == PRL_JSON_NULL)
        return 0;
    if (value->type != PRL_JSON_STRING)
        return -EPROTO;
    if (!value->bytes)
        return 0;
    text = malloc(value->bytes + 1);
    if (!text)
        return -ENOMEM;
    bytes = prl_json_string(value, text, value->bytes + 1);
    if (bytes >= 0)
        bytes = prl_base64_decode(text, (size_t)bytes);
    event->application = (uint8_t *)text;
    event->application_bytes = bytes < 0 ? 0 : (size_t)bytes;
    return bytes < 0 ? -EPROTO : 0;
}

static int application_in_memory(uint64_t bytes, int memory, struct prl_client_event *event)
{
    size_t at = 0;

    event->application = malloc(bytes ? bytes : 1);
    if (!event->application)
        return -ENOMEM;
    while (at < bytes) {
        ssize_t got = pread(memory, event->application + at, bytes - at, (off_t)at);

        if (got == 0 || (got < 0 && errno != EINTR))
            return -EPROTO; /* less than it says, or no memory at all */
        at += got > 0 ? (size_t)got : 0;
    }
    event->application_bytes = bytes;
    return 0;
}

/* `fds`: the socket and, if application data are in a memfd, that; the socket becomes the event's. */
static int shadow_of(const struct members *members, int *fds, const int *count, struct prl_client_event *event)
{
    bool in_memory = members->application_bytes.type != PRL_JSON_NULL;
    uint64_t bytes = 0, generation = 0;

    if (*count != 1 + in_memory || number_if(&members->application_bytes, PRL_CLIENT_APPLICATION_MAX, &bytes))
        return -EPROTO;
    event->kind = PRL_CLIENT_SHADOW;
    event->fd = fds[0];
    fds[0] = -1;
    if (members->local.type != PRL_JSON_STRING || members->remote.type != PRL_JSON_STRING ||
        handle_of(members, event) || words(&members->local, event->local, sizeof(event->local)) ||
        words(&members->remote, event->remote, sizeof(event->remote)) ||
        number_if(&members->generation, UINT32_MAX, &generation) ||
        number_if(&members->unread, UINT64_MAX, &event->unread) ||
        number_if(&members->in_bytes, UINT64_MAX, &event->in_bytes) ||
        number_if(&members->out_bytes, UINT64_MAX, &event->out_bytes))
        return -EPROTO;
    event->generation = (uint32_t)generation;
    event->renews = members->renew.yes;
    return in_memory ? application_in_memory(bytes, fds[1], event)
                     : application_in_text(&members->application, event);
}

static int taken_over_of(const struct members *members, struct prl_client_event *event)
{
    uint64_t becomes = 0;

    event->kind = PRL_CLIENT_TAKEN_OVER;
    if (handle_of(members, event) || number_if(&members->becomes, UINT32_MAX, &becomes) ||
        number(&members->out_bytes, UINT64_MAX, &event->out_bytes) || streams_of(members, event) ||
        number(&members->monotonic_ns, UINT64_MAX, &event->monotonic_ns))
        return -EPROTO;
    event->becomes = becomes ? (uint32_t)becomes : event->handle;
    return 0;
}

/*
 * A shadow for whose socket this process had no descriptor left: prld is to take it back. The request has number 0,
 * which is none of the application's.
 */
static int refuse_shadow(struct prl_client *client, const struct members *members)
{
    struct prl_client_event event = {.fd = -1};
    struct prl_json_writer writer;
    uint64_t generation = 0;

    if (handle_of(members, &event) || number_if(&members->generation, UINT32_MAX, &generation))
        return -EPROTO;
    prl_json_write(&writer, client->message, sizeof(client->message));
    prl_json_put(&writer, "{\"op\":\"close\",\"id\":0,\"handle\":");
    prl_json_put_number(&writer, event.handle);
    if (members->generation.type != PRL_JSON_NULL) {
        prl_json_put(&writer, ",\"generation\":");
        prl_json_put_number(&writer, generation);
    }
    prl_json_put(&writer, "}");
    return send_message(client, &writer, NULL, 0) ? -EMFILE : 0;
}

/*
 * 1: an event; 0: none, or a message of a later version; or -errno. `short_of`: not all descriptors of it could be
 * had. Takes descriptors that it keeps off the list.
 */
static int understand(struct prl_client *client, size_t bytes, int *fds, int *count, bool short_of,
                      struct prl_client_event *event)
{
    struct members members;
    int error = read_members(client->message, bytes, &members);

    if (error)
        return error;
    if (members.event.type == PRL_JSON_NULL) {
        if (members.id.type == PRL_JSON_INTEGER && !members.id.integer)
            return 0; /* to refuse_shadow() */
        error = answer_of(client, &members, event);
    } else if (is_text(&members.event, "shadow")) {
        if (short_of)
            return refuse_shadow(client, &members);
        error = shadow_of(&members, fds, count, event);
    } else if (is_text(&members.event, "state")) {
        event->kind = PRL_CLIENT_STATE;
        error = handle_of(&members, event) || state_of(&members, event) ? -EPROTO : 0;
    } else if (is_text(&members.event, "demoted")) {
        event->kind = PRL_CLIENT_DEMOTED;
        error = handle_of(&members, event);
    } else if (is_text(&members.event, "protectable")) {
        event->kind = PRL_CLIENT_PROTECTABLE;
        error = handle_of(&members, event);
    } else if (is_text(&members.event, "taken_over")) {
        error = taken_over_of(&members, event);
    } else if (is_text(&members.event, "void")) {
        event->kind = PRL_CLIENT_VOID;
        error = handle_of(&members, event) || words(&members.reason, event->reason, sizeof(event->reason))
                    ? -EPROTO
                    : 0;
    } else {
        return members.event.type == PRL_JSON_STRING ? 0 : -EPROTO;
    }
    return error ? error : 1;
}

/* Descriptors of a message; of more than there is room for, the kernel gives as many as fit. */
static int take_descriptors(struct msghdr *message, int fds[FDS_MAX])
{
    int count = 0;

    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
        size_t bytes = header->cmsg_len - CMSG_LEN(0);

        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t at = 0; at + sizeof(int) <= bytes && count < FDS_MAX; at += sizeof(int))
            memcpy(&fds[count++], CMSG_DATA(header) + at, sizeof(int));
    }
    return count;
}

static int receive(struct prl_client *client, struct prl_client_event *event)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(FDS_MAX * sizeof(int))];
    } control;
    struct iovec piece = {.iov_base = client->message, .iov_len = sizeof(client->message)};
    struct msghdr message = {
        .msg_iov = &piece,
        .msg_iovlen = 1,
        .msg_control = control.room,
        .msg_controllen = sizeof(control.room),
    };
    int fds[FDS_MAX], count, result;
    bool short_of;
    ssize_t got;

    do
        got = recvmsg(client->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return errno == EAGAIN ? -EAGAIN : -ECONNRESET;
    count = take_descriptors(&message, fds);
    short_of = message.msg_flags & MSG_CTRUNC && count < FDS_MAX; /* there was room, but no descriptor */
    if (message.msg_flags & MSG_TRUNC || (message.msg_flags & MSG_CTRUNC && !short_of))
        result = -EPROTO;
    else
        result = got ? understand(client, (size_t)got, fds, &count, short_of, event) : -ECONNRESET;
    for (int i = 0; i < count; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    if (result != 1)
        prl_client_release(event);
    return result;
}

/* As prl_client_next(), past the events that were set aside. */
static int next_new(struct prl_client *client, struct prl_client_event *event)
{
    int result = 0;

    while (!client->lost && result == 0) {
        *event = (struct prl_client_event){.fd = -1};
        result = receive(client, event);
        if (result == -EAGAIN)
            return 0;
        if (result < 0)
            client->lost = result;
    }
    return client->lost ? client->lost : result;
}

int prl_client_next(struct prl_client *client, struct prl_client_event *event)
{
    *event = (struct prl_client_event){.fd = -1};
    return take_kept(client, 0, event) ? 1 : next_new(client, event);
}

static int keep(struct prl_client *client, const struct prl_client_event *event)
{
    struct kept *kept = malloc(sizeof(*kept));

    if (!kept)
        return -ENOMEM;
    kept->next = NULL;
    kept->event = *event;
    *client->last = kept;
    client->last = &kept->next;
    client->kept++;
    return 0;
}

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Waits until there is something to read: 0, -ETIMEDOUT, or -errno. */
static int await_input(const struct prl_client *client, int64_t deadline_ms)
{
    struct pollfd polled = {.fd = client->fd, .events = POLLIN};

    for (;;) {
        int64_t left_ms = deadline_ms - now_ms();
        int ready = poll(&polled, 1, left_ms > 0 ? (int)left_ms : 0);

        if (ready > 0)
            return 0;
        if (ready < 0 && errno != EINTR)
            return -errno;
        if (left_ms <= 0)
            return -ETIMEDOUT;
    }
}

int prl_client_answer(struct prl_client *client, uint32_t request, int timeout_ms, struct prl_client_event *event)
{
    int64_t deadline_ms = now_ms() + (timeout_ms > 0 ? timeout_ms : 0);

    *event = (struct prl_client_event){.fd = -1};
    if (request && take_kept(client, request, event))
        return 0;
    for (;;) {
        int result;

        if (client->kept == PRL_CLIENT_KEPT_MAX)
            return -ENOBUFS;
        result = next_new(client, event);
        if (result < 0)
            return result;
        if (result > 0) {
            if (event->kind == PRL_CLIENT_ANSWER && event->request == request)
                return 0;
            result = keep(client, event);
            if (result) {
                prl_client_release(event);
                client->lost = result;
                return result;
            }
            continue;
        }
        result = await_input(client, deadline_ms);
        if (result)
            return result;
    }
}
