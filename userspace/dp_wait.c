/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the loop sleeps on. Everything is registered once with epoll (7), so that a wait costs one look at what became
 * ready, not a walk over all sources before and after it.
 *
 * The deadline is a timer that stays: it is set anew only for an earlier one, and when it fires for one that has moved
 * on since, the pass finds nothing to do. A timeout given to each wait would program the CPU's timer before it and
 * again behind it, and where a hypervisor has to be asked that costs as much as the system call itself.
 */
#include "dp.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define NS_PER_S 1000000000ull

/* epoll_event.data; the rings of AF_XDP are looked at in every pass, so all of them are one source. */
enum source { SOURCE_WAKE, SOURCE_TIMER, SOURCE_LINK, SOURCE_OUTPUT, SOURCE_LAN, SOURCE_PORT };

static int watch(struct prl_dp *dp, int operation, int fd, uint32_t events, enum source source)
{
    struct epoll_event event = {.events = events, .data = {.u32 = source}};

    return epoll_ctl(dp->wait.epoll_fd, operation, fd, &event) < 0 ? -errno : 0;
}

int dp_wait_open(struct prl_dp *dp, char *error)
{
    struct dp_wait *wait = &dp->wait;
    int err;

    wait->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    wait->timer_fd = timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK | TFD_CLOEXEC);
    wait->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    err = wait->epoll_fd < 0 || wait->timer_fd < 0 || wait->wake_fd < 0 ? -errno : 0;
    if (!err)
        err = watch(dp, EPOLL_CTL_ADD, wait->wake_fd, EPOLLIN, SOURCE_WAKE);
    if (!err)
        err = watch(dp, EPOLL_CTL_ADD, wait->timer_fd, EPOLLIN, SOURCE_TIMER);
    if (!err)
        err = watch(dp, EPOLL_CTL_ADD, dp->config.hold_fd, 0, SOURCE_OUTPUT);
    if (!err && dp->config.lan_fd >= 0)
        err = dp_wait_lan(dp);
    for (uint32_t i = 0; !err && i < dp->ports; i++)
        err = watch(dp, EPOLL_CTL_ADD, prl_port_fd(dp->port[i]), EPOLLIN, SOURCE_PORT);
    if (err)
        snprintf(error, PRL_ERROR_BYTES, "epoll: %s", strerror(-err));
    return err;
}

void dp_wait_close(struct prl_dp *dp)
{
    const int fds[] = {dp->wait.epoll_fd, dp->wait.timer_fd, dp->wait.wake_fd};

    for (uint32_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

/* struct sched_attr of sched_setattr(2), which older headers do not have, or not beside <sched.h>. */
struct attributes {
    uint32_t bytes, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t slice_ns, deadline_ns, period_ns;
};

void dp_wait_begin(struct prl_dp *dp)
{
    dp->wait.thread = (int)syscall(SYS_gettid);
}

void dp_wait_promptly(struct prl_dp *dp, bool on)
{
    struct attributes now = {.bytes = sizeof(now)};

    if (dp->wait.is_prompt == on || !dp->wait.thread)
        return;
    dp->wait.is_prompt = on;
    if (syscall(SYS_sched_getattr, dp->wait.thread, &now, sizeof(now), 0) < 0 || now.policy != SCHED_OTHER)
        return; /* a real-time thread keeps what it was given */
    now.slice_ns = on ? DP_SLICE_NS : 0;
    syscall(SYS_sched_setattr, dp->wait.thread, &now, 0); /* refused: then it waits its turn */
}

void dp_wake(struct prl_dp *dp)
{
    const uint64_t one = 1;

    while (write(dp->wait.wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

int dp_wait_link(struct prl_dp *dp, bool attached)
{
    dp->wait.link_events = 0;
    return watch(dp, attached ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, dp->link.fd, 0, SOURCE_LINK);
}

int dp_wait_lan(struct prl_dp *dp)
{
    return watch(dp, EPOLL_CTL_ADD, dp->config.lan_fd, EPOLLIN, SOURCE_LAN);
}

/* The link is read once both sides agree; held output while there is memory and room for it. */
static int choose_sources(struct prl_dp *dp)
{
    struct dp_wait *wait = &dp->wait;
    bool link_reads = !dp->hello_seen || dp->link_up;
    uint32_t link_events = (link_reads ? EPOLLIN : 0u) | (prl_link_pending(&dp->link) ? EPOLLOUT : 0u);
    uint32_t output_events = dp->buffers_free && prl_link_room(&dp->link, PRL_PACKET_MAX) ? EPOLLIN : 0u;
    int err = 0;

    if (dp->link.fd >= 0 && link_events != wait->link_events) {
        wait->link_events = link_events;
        err = watch(dp, EPOLL_CTL_MOD, dp->link.fd, link_events, SOURCE_LINK);
    }
    if (!err && output_events != wait->output_events) {
        wait->output_events = output_events;
        err = watch(dp, EPOLL_CTL_MOD, dp->config.hold_fd, output_events, SOURCE_OUTPUT);
    }
    return err;
}

int dp_wait_prepare(struct prl_dp *dp, uint64_t next_ns)
{
    struct dp_wait *wait = &dp->wait;

    if (!wait->timer_ns || next_ns < wait->timer_ns) {
        struct itimerspec when = {
            .it_value = {.tv_sec = (time_t)(next_ns / NS_PER_S), .tv_nsec = (long)(next_ns % NS_PER_S)},
        };

        if (timerfd_settime(wait->timer_fd, TFD_TIMER_ABSTIME, &when, NULL) < 0)
            return -errno;
        wait->timer_ns = next_ns;
    }
    return choose_sources(dp);
}

/* A count that is of no interest; what is not there has been read before. */
static int drain(int fd)
{
    uint64_t count;

    return read(fd, &count, sizeof(count)) < 0 && errno != EAGAIN && errno != EINTR ? -errno : 0;
}

int dp_wait(struct prl_dp *dp, bool sleeps)
{
    struct epoll_event event[DP_WAIT_EVENTS];
    int count = epoll_wait(dp->wait.epoll_fd, event, DP_WAIT_EVENTS, sleeps ? -1 : 0);
    int ready = 0, err = 0;

    if (count < 0)
        return errno == EINTR ? 0 : -errno;
    for (int i = 0; i < count && !err; i++) {
        switch ((enum source)event[i].data.u32) {
        case SOURCE_WAKE:
            err = drain(dp->wait.wake_fd);
            break;
        case SOURCE_TIMER:
            dp->wait.timer_ns = 0;
            err = drain(dp->wait.timer_fd);
            break;
        case SOURCE_LINK: /* an error is found by reading */
            ready |= event[i].events & ~(uint32_t)EPOLLOUT ? DP_READY_LINK : 0;
            break;
        case SOURCE_OUTPUT:
            ready |= DP_READY_OUTPUT;
            break;
        case SOURCE_LAN:
            ready |= DP_READY_LAN;
            break;
        case SOURCE_PORT:
            break;
        }
    }
    return err ? err : ready;
}

/* ---- polling ---- */

bool dp_polls_on(struct prl_dp *dp, bool worked)
{
    struct dp_wait *wait = &dp->wait;

    if (wait->away_ns >= DP_CROWDED_SUM_NS) {
        wait->away_ns = 0;
        wait->crowded_until_ns = dp->now_ns + DP_CROWDED_RETRY_NS;
        dp->counters.polls_given_up++;
    }
    if (dp->config.poll_mode == PRL_POLL_ADAPTIVE && worked)
        wait->poll_until_ns = dp->now_ns + dp->config.poll_ns;
    return dp->now_ns >= wait->crowded_until_ns &&
           (dp->config.poll_mode == PRL_POLL_BUSY || dp->now_ns < wait->poll_until_ns);
}

void dp_give_way(struct prl_dp *dp)
{
    struct dp_wait *wait = &dp->wait;
    uint64_t before_ns = dp_clock_ns(), back_ns, paid_ns = (before_ns - wait->back_ns) / DP_CROWDED_SHARE;

    sched_yield();
    back_ns = dp_clock_ns();
    wait->back_ns = back_ns;
    wait->away_ns -= wait->away_ns < paid_ns ? wait->away_ns : paid_ns;
    if (back_ns - before_ns > DP_CROWDED_NS)
        wait->away_ns += back_ns - before_ns;
}
