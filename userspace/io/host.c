/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE /* SCHED_BATCH */
#include "io/host.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "io/kernel_sessions.h"
#include "io/kernel_sockets.h"
#include "io/kernel_tables.h"
#include "io/kernel_xdp.h"
#include "io/queue.h"
#include "io/xsk.h"

#define NS_PER_S 1000000000ull
/* Sources that one wait tells of. */
#define WAIT_EVENTS 8
/* The least slice that the scheduler takes; its own is some milliseconds. */
#define SLICE_NS 100000ull

/* epoll_event.data; the rings of AF_XDP are looked at in every pass, so all of them are one source. */
enum source {
    SOURCE_LINK,
    SOURCE_HOLD,
    SOURCE_WAKE,
    SOURCE_TIMER,
    SOURCE_UDP,
    SOURCE_NEWS,
    SOURCE_PORT,
    SOURCE_QUEUE,
    SOURCE_HEADERS,
};

/* Of what waits in the queue of headers: numbers are each queue's own. */
#define QUEUED_HEADERS (1ull << 32)

struct prl_host {
    struct prl_dp_lif lif[PRL_LIFS_MAX];
    uint32_t lifs;
    struct prl_kernel *kernel;
    int inject_fd, hold_fd, link_fd;
    int udp_fd[PRL_PROBE_PATHS]; /* -1: none */
    int raw_fd; /* AF_PACKET, for claims */
    int epoll_fd, timer_fd, wake_fd;
    uint64_t timer_ns; /* what timer_fd is set to; 0: it is not */
    int thread;        /* that waits, and so runs the loop; 0: none yet */
    bool is_hurried;
    struct prl_xsk *xsk; /* one of the two carries input (docs/carriers.md), the other is NULL */
    struct prl_queue *queue;
    struct prl_queue *headers; /* carrier "mirror": of what payload goes by the cable; else NULL */
    bool queue_ready, headers_ready; /* there may be something in it */
    bool headers_watched;
};

static uint64_t now_ns(struct prl_host *host)
{
    struct timespec now;

    (void)host;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/* ---- waiting ---- */

static int control(struct prl_host *host, int operation, int fd, uint32_t events, enum source source)
{
    struct epoll_event event = {.events = events, .data = {.u32 = source}};

    return epoll_ctl(host->epoll_fd, operation, fd, &event) < 0 ? -errno : 0;
}

static int open_waiting(struct prl_host *host)
{
    int err;

    host->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    host->timer_fd = timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK | TFD_CLOEXEC);
    host->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    err = host->epoll_fd < 0 || host->timer_fd < 0 || host->wake_fd < 0 ? -errno : 0;
    if (!err)
        err = control(host, EPOLL_CTL_ADD, host->wake_fd, EPOLLIN, SOURCE_WAKE);
    if (!err)
        err = control(host, EPOLL_CTL_ADD, host->timer_fd, EPOLLIN, SOURCE_TIMER);
    if (!err)
        err = control(host, EPOLL_CTL_ADD, host->hold_fd, 0, SOURCE_HOLD);
    if (!err && host->udp_fd[PRL_PROBE_LAN] >= 0)
        err = control(host, EPOLL_CTL_ADD, host->udp_fd[PRL_PROBE_LAN], EPOLLIN, SOURCE_UDP);
    if (!err && prl_kernel_sessions_fd(host->kernel) >= 0)
        err = control(host, EPOLL_CTL_ADD, prl_kernel_sessions_fd(host->kernel), EPOLLIN, SOURCE_NEWS);
    return err;
}

static int watch_headers(struct prl_host *host, uint32_t events)
{
    host->headers_watched = events & PRL_WATCH_READ;
    if (!host->headers)
        return 0;
    return control(host, EPOLL_CTL_MOD, prl_queue_fd(host->headers), host->headers_watched ? EPOLLIN : 0,
                   SOURCE_HEADERS);
}

static int watch(struct prl_host *host, enum prl_source source, uint32_t events)
{
    bool is_link = source == PRL_SOURCE_LINK;
    uint32_t wanted = (events & PRL_WATCH_READ ? EPOLLIN : 0u) | (events & PRL_WATCH_WRITE ? EPOLLOUT : 0u);

    if (source == PRL_SOURCE_HEADERS)
        return watch_headers(host, events);
    return control(host, EPOLL_CTL_MOD, is_link ? host->link_fd : host->hold_fd, wanted,
                   is_link ? SOURCE_LINK : SOURCE_HOLD);
}

static int set_timer(struct prl_host *host, uint64_t at_ns)
{
    struct itimerspec when = {
        .it_value = {.tv_sec = (time_t)(at_ns / NS_PER_S), .tv_nsec = (long)(at_ns % NS_PER_S)},
    };

    if (host->timer_ns && at_ns >= host->timer_ns)
        return 0;
    if (timerfd_settime(host->timer_fd, TFD_TIMER_ABSTIME, &when, NULL) < 0)
        return -errno;
    host->timer_ns = at_ns;
    return 0;
}

/* A count that is of no interest; what is not there has been read before. */
static int drain(int fd)
{
    uint64_t count;

    return read(fd, &count, sizeof(count)) < 0 && errno != EAGAIN && errno != EINTR ? -errno : 0;
}

static int wait_for_work(struct prl_host *host, bool sleeps)
{
    struct epoll_event event[WAIT_EVENTS];
    int count, ready = 0, err = 0;

    if (!host->thread)
        host->thread = (int)syscall(SYS_gettid);
    count = epoll_wait(host->epoll_fd, event, WAIT_EVENTS, sleeps ? -1 : 0);
    if (count < 0)
        return errno == EINTR ? 0 : -errno;
    for (int i = 0; i < count && !err; i++) {
        switch ((enum source)event[i].data.u32) {
        case SOURCE_WAKE:
            err = drain(host->wake_fd);
            break;
        case SOURCE_TIMER:
            host->timer_ns = 0;
            err = drain(host->timer_fd);
            break;
        case SOURCE_LINK: /* an error is found by reading */
            ready |= event[i].events & ~(uint32_t)EPOLLOUT ? PRL_READY_LINK : 0;
            break;
        case SOURCE_HOLD:
            ready |= PRL_READY_HOLD;
            break;
        case SOURCE_UDP:
            ready |= PRL_READY_UDP;
            break;
        case SOURCE_QUEUE:
            host->queue_ready = true;
            break;
        case SOURCE_HEADERS:
            host->headers_ready = true;
            break;
        case SOURCE_NEWS: /* looked at in every pass, as the rings of AF_XDP */
        case SOURCE_PORT:
            break;
        }
    }
    return err ? err : ready;
}

static void wake(struct prl_host *host)
{
    const uint64_t one = 1;

    while (write(host->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

/* struct sched_attr of sched_setattr(2), which older headers do not have, or not beside <sched.h>. */
struct attributes {
    uint32_t bytes, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t slice_ns, deadline_ns, period_ns;
};

/* A short slice is an early deadline to the scheduler (EEVDF, since Linux 6.12; before, nothing changes): woken, the thread
 * runs before those that have had the CPU for long. */
static void hurry(struct prl_host *host, bool on)
{
    struct attributes now = {.bytes = sizeof(now)};

    if (host->is_hurried == on || !host->thread)
        return;
    host->is_hurried = on;
    if (syscall(SYS_sched_getattr, host->thread, &now, sizeof(now), 0) < 0 ||
        (now.policy != SCHED_OTHER && now.policy != SCHED_BATCH))
        return; /* a real-time thread keeps what it was given */
    now.slice_ns = on ? SLICE_NS : 0;
    syscall(SYS_sched_setattr, host->thread, &now, 0); /* refused: then it waits its turn */
}

/* ---- frames ---- */

/* All interfaces' packets come by the one queue, or, since a flow mirrors, by the other, as port 0. A look costs a system call, unlike
 * one at a ring. What was captured before a flow mirrored comes first, also where one look does not take all of it. */
static uint32_t receive_queued(struct prl_host *host, struct prl_received *received, uint32_t capacity)
{
    uint32_t count = 0, whole;
    bool goes_on = false;

    if (host->queue_ready) {
        count = prl_queue_receive(host->queue, received, capacity);
        goes_on = prl_queue_goes_on(host->queue);
    }
    whole = count;
    if (!goes_on && (host->headers_ready || (host->headers && !host->headers_watched)) && count < capacity)
        count += prl_queue_receive(host->headers, received + count, capacity - count);
    for (uint32_t i = whole; i < count; i++)
        received[i].queued |= QUEUED_HEADERS;
    host->queue_ready = host->headers_ready = false; /* if there is more, the next wait says so */
    for (uint32_t i = 0; i < count; i++) {
        const struct prl_flow *flow = prl_kernel_flow(host->kernel, received[i].meta.slot);

        received[i].meta.handle = flow ? flow->handle : 0;
    }
    return count;
}

static uint32_t receive(struct prl_host *host, uint32_t port, struct prl_received *received, uint32_t capacity)
{
    if (host->queue)
        return port ? 0 : receive_queued(host, received, capacity);
    return prl_xsk_receive(host->xsk, port, received, capacity);
}

static void refill(struct prl_host *host)
{
    if (host->xsk)
        prl_xsk_refill(host->xsk);
}

static void count(struct prl_host *host, struct prl_io_counts *counts)
{
    struct prl_io_counts headers = {0};

    *counts = (struct prl_io_counts){0};
    if (host->headers)
        prl_queue_count(host->headers, &headers.not_received, &headers.verdicts_refused);
    if (host->queue)
        prl_queue_count(host->queue, &counts->not_received, &counts->verdicts_refused);
    else
        counts->not_received = prl_xsk_oversized(host->xsk);
    counts->not_received += headers.not_received;
    counts->verdicts_refused += headers.verdicts_refused;
}

static void settle(struct prl_host *host, uint64_t queued, bool passes)
{
    prl_queue_settle(queued & QUEUED_HEADERS ? host->headers : host->queue, (uint32_t)queued, passes);
}

static void settle_all(struct prl_host *host)
{
    if (host->queue)
        prl_queue_flush(host->queue);
    if (host->headers)
        prl_queue_flush(host->headers);
}

static int inject(struct prl_host *host, const struct iovec *piece, int pieces)
{
    return writev(host->inject_fd, piece, pieces) < 0 ? -errno : 0;
}

static int hold_read(struct prl_host *host, uint8_t *buffer, uint32_t capacity)
{
    ssize_t got = read(host->hold_fd, buffer, capacity);

    if (got < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    return (int)got;
}

static int hold_write(struct prl_host *host, const uint8_t *buffer, uint32_t bytes)
{
    return write(host->hold_fd, buffer, bytes) < 0 ? -errno : 0;
}

static int send_frame(struct prl_host *host, uint32_t lif, const uint8_t *frame, uint32_t bytes)
{
    struct sockaddr_ll to = {
        .sll_family = AF_PACKET,
        .sll_ifindex = (int)host->lif[lif].ifindex,
        .sll_halen = ETH_ALEN,
    };

    memcpy(to.sll_addr, frame, ETH_ALEN);
    return sendto(host->raw_fd, frame, bytes, MSG_DONTWAIT, (struct sockaddr *)&to, sizeof(to)) < 0 ? -errno : 0;
}

/* ---- link and LAN ---- */

static int watch_link(struct prl_host *host, struct prl_link *link)
{
    int err = control(host, EPOLL_CTL_ADD, link->fd, 0, SOURCE_LINK);

    host->link_fd = link->fd;
    if (err)
        prl_link_release(link);
    return err;
}

static int link_attach(struct prl_host *host, struct prl_link *link, int fd)
{
    prl_link_attach_tcp(link, fd);
    return watch_link(host, link);
}

static int link_attach_tls(struct prl_host *host, struct prl_link *link, struct prl_tls *tls)
{
    prl_link_attach_tls(link, tls);
    return watch_link(host, link);
}

static void link_detach(struct prl_host *host, struct prl_link *link)
{
    control(host, EPOLL_CTL_DEL, host->link_fd, 0, SOURCE_LINK);
    prl_link_detach(link);
}

static int udp_open(struct prl_host *host, uint32_t path, int fd)
{
    int err;

    if (host->udp_fd[path] >= 0)
        close(host->udp_fd[path]); /* epoll forgets it */
    host->udp_fd[path] = fd;
    err = control(host, EPOLL_CTL_ADD, fd, EPOLLIN, SOURCE_UDP);
    if (err) {
        close(fd);
        host->udp_fd[path] = -1;
    }
    return err;
}

static ssize_t udp_send(struct prl_host *host, uint32_t path, const void *bytes, size_t count)
{
    ssize_t sent = send(host->udp_fd[path], bytes, count, MSG_DONTWAIT | MSG_NOSIGNAL);

    return sent < 0 ? -errno : sent;
}

static ssize_t udp_receive(struct prl_host *host, uint32_t path, void *bytes, size_t capacity)
{
    ssize_t got = recv(host->udp_fd[path], bytes, capacity, MSG_DONTWAIT | MSG_TRUNC);

    return got < 0 ? -errno : got;
}

/* ---- the tables ---- */

static struct prl_node *node(struct prl_host *host)
{
    return prl_kernel_node(host->kernel);
}

static struct prl_flow *flow(struct prl_host *host, uint32_t slot)
{
    return prl_kernel_flow(host->kernel, slot);
}

static int flow_add(struct prl_host *host, const struct prl_flow_key *key, uint32_t handle, uint32_t slot)
{
    return prl_kernel_flow_add(host->kernel, key, handle, slot);
}

static int flow_rename(struct prl_host *host, const struct prl_flow_key *key, uint32_t handle, uint32_t slot)
{
    return prl_kernel_flow_rename(host->kernel, key, handle, slot);
}

static int flow_del(struct prl_host *host, const struct prl_flow_key *key)
{
    return prl_kernel_flow_del(host->kernel, key);
}

static int addr_set(struct prl_host *host, const struct prl_addr_key *key, const struct prl_addr *value)
{
    return prl_kernel_addr_set(host->kernel, key, value);
}

static int addr_get(struct prl_host *host, const struct prl_addr_key *key, struct prl_addr *value)
{
    return prl_kernel_addr_get(host->kernel, key, value);
}

static int sample(struct prl_host *host, const uint32_t *slots, uint32_t count)
{
    return prl_kernel_sample(host->kernel, slots, count);
}

static int await(struct prl_host *host, const struct prl_flow_key *endpoint, uint64_t wait_ns)
{
    return prl_kernel_await(host->kernel, endpoint, wait_ns);
}

static bool newborn_end(struct prl_host *host, const struct prl_flow_key *key, struct prl_newborn *found)
{
    return prl_kernel_newborn_end(host->kernel, key, found);
}

static bool news(struct prl_host *host, struct prl_news *news)
{
    return prl_kernel_sessions_news(host->kernel, news);
}

/* ---- sockets ---- */

static int sock_dup(struct prl_host *host, int fd)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

    (void)host;
    return copy < 0 ? -errno : copy;
}

static void sock_close(struct prl_host *host, int fd)
{
    (void)host;
    close(fd);
}

static int sock_get(struct prl_host *host, int fd, int level, int option, void *value, uint32_t bytes)
{
    socklen_t got = bytes;

    (void)host;
    if (getsockopt(fd, level, option, value, &got) < 0)
        return -errno;
    return got == bytes ? 0 : -ERANGE;
}

static int sock_set(struct prl_host *host, int fd, int level, int option, const void *value, uint32_t bytes)
{
    (void)host;
    return setsockopt(fd, level, option, value, bytes) < 0 ? -errno : 0;
}

static int sock_unsent(struct prl_host *host, int fd)
{
    int unsent = 0;

    (void)host;
    return ioctl(fd, SIOCOUTQNSD, &unsent) < 0 ? -errno : unsent;
}

static ssize_t sock_send(struct prl_host *host, int fd, const uint8_t *bytes, size_t count, int flags)
{
    ssize_t sent = send(fd, bytes, count, MSG_DONTWAIT | MSG_NOSIGNAL | flags);

    (void)host;
    return sent < 0 ? -errno : sent;
}

static int sock_end(struct prl_host *host, int fd)
{
    (void)host;
    return shutdown(fd, SHUT_WR) < 0 ? -errno : 0;
}

static int gate_attach(struct prl_host *host, int fd, uint32_t slot)
{
    return prl_kernel_gate_attach(host->kernel, fd, slot);
}

static int gate_detach(struct prl_host *host, int fd)
{
    return prl_kernel_gate_detach(host->kernel, fd);
}

static int gate_cookie(struct prl_host *host, int fd, uint64_t *cookie)
{
    (void)host;
    return prl_kernel_gate_cookie(fd, cookie);
}

static int gate_forget(struct prl_host *host, uint64_t cookie)
{
    return prl_kernel_gate_forget(host->kernel, cookie);
}

static int moment_copy(struct prl_host *host, int fd, struct prl_moment *moment, uint8_t *queues,
                       uint32_t queues_max, struct prl_moment_counts *counts, const char **call)
{
    (void)host;
    return prl_moment_copy(fd, moment, queues, queues_max, counts, call);
}

static int moment_rest(struct prl_host *host, const struct prl_flow_key *key, int fd, struct prl_moment *moment,
                       struct prl_moment_counts *counts)
{
    return prl_kernel_rest(host->kernel, key, fd, moment, counts);
}

static int moment_restore(struct prl_host *host, int fd, const struct prl_ready *ready, uint32_t snd_wscale,
                          uint32_t rcv_wscale, const struct prl_moment *moment, const uint8_t *queues,
                          uint64_t elapsed_ms, struct prl_moment_counts *counts, const char **call)
{
    (void)host;
    return prl_moment_restore(fd, ready, snd_wscale, rcv_wscale, moment, queues, elapsed_ms, counts, call);
}

static int moment_segs_in(struct prl_host *host, int fd, uint32_t *segs_in)
{
    (void)host;
    return prl_moment_segs_in(fd, segs_in);
}

static int moment_keep_ahead(struct prl_host *host, int fd, uint32_t seen, uint32_t elapsed_ms)
{
    (void)host;
    return prl_moment_keep_ahead(fd, seen, elapsed_ms);
}

/* ---- birth and death ---- */

/* Marks are set from now on, or, 0, no more. */
static void set_queue_marks(struct prl_host *host, uint32_t mark, uint32_t headers_mark)
{
    struct prl_mirror *mirror = prl_kernel_mirror(host->kernel);

    __atomic_store_n(&prl_kernel_node(host->kernel)->queue_mark, mark, __ATOMIC_RELEASE);
    if (mirror)
        __atomic_store_n(&mirror->queue_mark, headers_mark, __ATOMIC_RELEASE);
}

static int open_queue(struct prl_host *host, struct prl_umem *umem, uint32_t copy_bytes, enum source source,
                      struct prl_queue **queue, uint32_t *mark, char *error)
{
    int err;

    *queue = prl_queue_open(umem, copy_bytes, mark, error);
    if (!*queue)
        return -EIO;
    err = control(host, EPOLL_CTL_ADD, prl_queue_fd(*queue), EPOLLIN, source);
    if (err)
        snprintf(error, PRL_ERROR_BYTES, "epoll: %s", strerror(-err));
    return err;
}

static int start_queues(struct prl_host *host, struct prl_umem *umem, char *error)
{
    uint32_t mark = 0, headers_mark = 0;
    int err = open_queue(host, umem, PRL_QUEUE_WHOLE, SOURCE_QUEUE, &host->queue, &mark, error);

    if (!err && prl_kernel_mirror(host->kernel))
        err = open_queue(host, umem, PRL_MIRROR_COPY_BYTES, SOURCE_HEADERS, &host->headers, &headers_mark, error);
    if (!err && host->headers)
        err = watch_headers(host, 0); /* until that is said */
    if (!err)
        set_queue_marks(host, mark, headers_mark);
    return err;
}

static int start_rings(struct prl_host *host, struct prl_umem *umem, char *error)
{
    uint32_t queues = 0, port = 0;
    uint32_t fill = prl_umem_free_frames(umem) / 2; /* the other half can be held */
    int err = 0;

    for (uint32_t i = 0; i < host->lifs; i++)
        queues += host->lif[i].queues;
    host->xsk = prl_xsk_open(umem, error);
    if (!host->xsk)
        return -ENOMEM;
    for (uint32_t i = 0; i < host->lifs; i++) {
        const struct prl_dp_lif *lif = &host->lif[i];

        for (uint32_t queue = 0; queue < lif->queues; queue++, port++) {
            err = prl_xsk_add(host->xsk, lif->name, queue, fill / queues, error);
            if (err)
                return err;
            err = prl_kernel_xsk_set(host->kernel, i, queue, prl_xsk_fd(host->xsk, port));
            if (err) {
                snprintf(error, PRL_ERROR_BYTES, "AF_XDP map entry for %s queue %u: %s", lif->name, queue,
                         strerror(-err));
                return err;
            }
            err = control(host, EPOLL_CTL_ADD, prl_xsk_fd(host->xsk, port), EPOLLIN, SOURCE_PORT);
            if (err) {
                snprintf(error, PRL_ERROR_BYTES, "epoll: %s", strerror(-err));
                return err;
            }
        }
    }
    return 0;
}

static int start(struct prl_host *host, struct prl_umem *umem, char *error)
{
    if (prl_mode_is_queued(prl_kernel_mode(host->kernel)))
        return start_queues(host, umem, error);
    return start_rings(host, umem, error);
}

static void close_host(struct prl_host *host)
{
    const int fds[] = {host->inject_fd,
                       host->hold_fd,
                       host->raw_fd,
                       host->epoll_fd,
                       host->timer_fd,
                       host->wake_fd,
                       host->udp_fd[PRL_PROBE_LAN],
                       host->udp_fd[PRL_PROBE_LINK]};

    if (host->queue)
        set_queue_marks(host, 0, 0);
    prl_queue_close(host->headers);
    prl_queue_close(host->queue);
    prl_xsk_close(host->xsk);
    for (uint32_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    free(host);
}

static void close_descriptors(const struct prl_host_config *config)
{
    close(config->inject_fd);
    close(config->hold_fd);
    if (config->lan_fd >= 0)
        close(config->lan_fd);
}

struct prl_host *prl_host_open(const struct prl_host_config *config, struct prl_kernel *kernel, char *error)
{
    struct prl_host *host = calloc(1, sizeof(*host));
    const uint32_t mark = PRL_MARK_WORD;
    int err;

    if (!host) {
        snprintf(error, PRL_ERROR_BYTES, "no memory for the datapath");
        close_descriptors(config);
        return NULL;
    }
    memcpy(host->lif, config->lif, config->lifs * sizeof(*host->lif));
    host->lifs = config->lifs;
    host->kernel = kernel;
    host->inject_fd = config->inject_fd;
    host->hold_fd = config->hold_fd;
    host->udp_fd[PRL_PROBE_LAN] = config->lan_fd;
    host->udp_fd[PRL_PROBE_LINK] = -1;
    host->link_fd = host->epoll_fd = host->timer_fd = host->wake_fd = -1;
    host->raw_fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); /* protocol 0: sends only */
    err = host->raw_fd < 0 || setsockopt(host->raw_fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) ? -errno : 0;
    if (err)
        snprintf(error, PRL_ERROR_BYTES, "packet socket for address claims: %s", strerror(-err));
    else if ((err = open_waiting(host)))
        snprintf(error, PRL_ERROR_BYTES, "epoll: %s", strerror(-err));
    if (err) {
        close_host(host);
        return NULL;
    }
    return host;
}

const struct prl_io prl_host_io = {
    .now_ns = now_ns,
    .start = start,
    .close = close_host,
    .wait = wait_for_work,
    .wake = wake,
    .watch = watch,
    .set_timer = set_timer,
    .hurry = hurry,
    .receive = receive,
    .refill = refill,
    .count = count,
    .settle = settle,
    .settle_all = settle_all,
    .inject = inject,
    .hold_read = hold_read,
    .hold_write = hold_write,
    .send_frame = send_frame,
    .link_attach = link_attach,
    .link_attach_tls = link_attach_tls,
    .link_detach = link_detach,
    .udp_open = udp_open,
    .udp_send = udp_send,
    .udp_receive = udp_receive,
    .node = node,
    .flow = flow,
    .flow_add = flow_add,
    .flow_rename = flow_rename,
    .flow_del = flow_del,
    .addr_set = addr_set,
    .addr_get = addr_get,
    .sample = sample,
    .await = await,
    .newborn_end = newborn_end,
    .news = news,
    .sock_dup = sock_dup,
    .sock_close = sock_close,
    .sock_get = sock_get,
    .sock_set = sock_set,
    .sock_unsent = sock_unsent,
    .sock_send = sock_send,
    .sock_end = sock_end,
    .gate_attach = gate_attach,
    .gate_detach = gate_detach,
    .gate_cookie = gate_cookie,
    .gate_forget = gate_forget,
    .moment_copy = moment_copy,
    .moment_rest = moment_rest,
    .moment_restore = moment_restore,
    .moment_segs_in = moment_segs_in,
    .moment_keep_ahead = moment_keep_ahead,
};
