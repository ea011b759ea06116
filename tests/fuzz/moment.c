/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The state of a connection (moment.h), with a kernel whose every answer is the input's: whatever the other node says the
 * moment is, and however the socket moves while it is copied, nothing is written beyond the queues' room, and an error of a
 * call is an error of the whole. Repair mode is left exactly when it was entered and the call says so.
 */
#include "tcp/moment.h"

#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "fuzz.h"

#define QUEUES_MAX (1 << 20)
#define CALLS_MAX 4096 /* no call of moment.c's loops without end */

static const uint8_t states[] = {PRL_TCP_ESTABLISHED, PRL_TCP_FIN_WAIT1, PRL_TCP_FIN_WAIT2, PRL_TCP_CLOSE_WAIT};
static struct fuzz_input kernel;
static uint32_t calls;
static bool in_repair, has_failed;

/* Whether this call fails, with errno; one in eight. What the input does not say succeeds. */
static bool fails(void)
{
    uint8_t word = (uint8_t)fuzz_number(&kernel, 1);

    assert(++calls < CALLS_MAX);
    if (word < 0xe0)
        return false;
    errno = word & 1 ? EINVAL : word & 2 ? EAGAIN : EPERM;
    has_failed = true;
    return true;
}

static int fuzz_getsockopt(int fd, int level, int option, void *value, socklen_t *bytes)
{
    (void)fd;
    if (fails())
        return -1;
    if (level == IPPROTO_TCP && option == TCP_REPAIR_WINDOW) {
        if (*bytes != 24) { /* as long as this kernel's structure, and no other */
            errno = EINVAL;
            return -1;
        }
    }
    fuzz_take(&kernel, value, *bytes);
    if (level == IPPROTO_TCP && option == TCP_INFO && kernel.left & 1)
        ((struct tcp_info *)value)->tcpi_state = states[kernel.left >> 1 & 3];
    return 0;
}

static int fuzz_setsockopt(int fd, int level, int option, const void *value, socklen_t bytes)
{
    int number;

    (void)fd;
    fuzz_touch(value, bytes);
    if (level == IPPROTO_TCP && option == TCP_REPAIR) {
        memcpy(&number, value, sizeof(number));
        assert(number == 1 || number == -1);
        if (number == 1 && fails())
            return -1;
        in_repair = number == 1;
        return 0;
    }
    return fails() ? -1 : 0;
}

static int fuzz_ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    int *found;

    (void)fd;
    va_start(arguments, request);
    found = va_arg(arguments, int *);
    va_end(arguments);
    if (fails())
        return -1;
    *found = (int)fuzz_number(&kernel, 4);
    if (kernel.left & 2)
        *found &= 0xffff; /* mostly what queues are */
    return 0;
}

static ssize_t fuzz_recv(int fd, void *into, size_t bytes, int flags)
{
    size_t got = bytes;

    (void)fd;
    assert(flags & MSG_PEEK && flags & MSG_DONTWAIT);
    memset(into, 0x5a, bytes); /* all of it may be written to */
    if (fails())
        return -1;
    if (fuzz_number(&kernel, 1) & 1)
        got = (size_t)fuzz_number(&kernel, 3) % (bytes + 1);
    return (ssize_t)got;
}

static ssize_t fuzz_send(int fd, const void *data, size_t bytes, int flags)
{
    (void)fd;
    (void)flags;
    fuzz_touch(data, bytes);
    assert(bytes);
    if (fails())
        return -1;
    if (fuzz_number(&kernel, 1) & 1)
        return (ssize_t)(fuzz_number(&kernel, 3) % (bytes + 1));
    return (ssize_t)bytes;
}

static int fuzz_connect(int fd, const struct sockaddr *remote, socklen_t bytes)
{
    (void)fd;
    fuzz_touch(remote, bytes);
    return fails() ? -1 : 0;
}

#define getsockopt fuzz_getsockopt
#define setsockopt fuzz_setsockopt
#define ioctl fuzz_ioctl
#define recv fuzz_recv
#define send fuzz_send
#define connect fuzz_connect
#include "../../userspace/tcp/moment.c"

static void copy_one(void)
{
    uint32_t queues_max = (uint32_t)fuzz_number(&kernel, 4) % QUEUES_MAX;
    uint8_t *queues = malloc(queues_max + PRL_MOMENT_SLACK);
    const char *call = "";
    struct prl_moment_counts counts;
    struct prl_moment moment, again;
    uint8_t fields[PRL_MOMENT_FIELDS];
    int err;

    assert(queues);
    err = prl_moment_copy(3, &moment, queues, queues_max, &counts, &call);
    assert(err <= 0 && !in_repair);
    assert(!err || call || err == -EAGAIN || err == -ENOTSUP || err == -EBUSY || err == -EMSGSIZE);
    if (err == 0) {
        assert(!call && moment.unread_bytes <= queues_max);
        assert(moment.unacked_bytes <= queues_max - moment.unread_bytes);
        fuzz_touch(queues, moment.unread_bytes + moment.unacked_bytes);
        prl_moment_encode(&moment, fields);
        /* As the other node reads it: the queues' bytes stand behind. */
        uint8_t *value = malloc(sizeof(fields) + moment.unread_bytes + moment.unacked_bytes);
        assert(value);
        memcpy(value, fields, sizeof(fields));
        memcpy(value + sizeof(fields), queues, moment.unread_bytes + moment.unacked_bytes);
        uint32_t all = (uint32_t)sizeof(fields) + moment.unread_bytes + moment.unacked_bytes;
        assert(prl_moment_decode(value, all, 0, &again) == 0);
        again.state = moment.state;
        assert(!memcmp(&again, &moment, sizeof(again)));
        free(value);
    }
    free(queues);
}

static void restore_one(const uint8_t *value, uint32_t bytes)
{
    struct prl_ready ready = {.remote_bytes = PRL_REMOTE_MAX};
    const char *call = NULL;
    struct prl_moment_counts counts;
    struct prl_moment moment;
    uint8_t *exact;
    int err;

    ready.negotiated = (uint32_t)fuzz_number(&kernel, 1);
    ready.rcvbuf_bytes = (uint32_t)fuzz_number(&kernel, 4);
    ready.sndbuf_bytes = (uint32_t)fuzz_number(&kernel, 4);
    exact = fuzz_exact(value, bytes);
    if (prl_moment_decode(exact, bytes, 0, &moment) == 0) {
        in_repair = true;
        moment.state = states[kernel.left >> 2 & 3];
        err = prl_moment_restore(3, &ready, kernel.left & 15, kernel.left >> 4 & 15, &moment,
                                 exact + PRL_MOMENT_FIELDS, fuzz_number(&kernel, 8), &counts, &call);
        assert(err <= 0 && (err == 0) == !in_repair && (err == 0 || call));
    }
    free(exact);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct fuzz_input input = {data, bytes};
    uint8_t how = (uint8_t)fuzz_number(&input, 1);
    uint32_t kernels = (uint32_t)fuzz_number(&input, 2);
    int err;

    kernel = (struct fuzz_input){input.at, kernels < input.left ? kernels : input.left};
    input.at += kernel.left;
    input.left -= kernel.left;
    calls = 0;
    in_repair = has_failed = false;
    if (how % 3 == 0) {
        restore_one(input.at, (uint32_t)input.left);
    } else if (how % 3 == 1) {
        copy_one();
    } else {
        err = prl_moment_keep_ahead(3, (uint32_t)fuzz_number(&kernel, 4), (uint32_t)fuzz_number(&kernel, 4));
        assert(err <= 1 && !in_repair);
    }
    return 0;
}
