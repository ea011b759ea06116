/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE /* SCHED_RESET_ON_FORK, gettid(), sem_clockwait(), pthread_setname_np() */
#include "loop/realtime.h"

#include <sched.h>
#include <time.h>
#include <unistd.h>

#include "flow/dp.h"

#define NS_PER_MS 1000000ull
#define NS_PER_S 1000000000ull
#define LATE_NS (PRL_LATE_MS * NS_PER_MS)
/* The watcher looks as often at the least: what is due may have come nearer since it looked. */
#define LOOK_NS (10 * NS_PER_MS)
/* It calls nothing that needs more. */
#define STACK_BYTES 65536

/* A refusal leaves the thread as it is: it is asked for again when the thread is late again, or has spent its next window. */
static void set_class(const struct dp_realtime *realtime, int policy, int priority)
{
    const struct sched_param own = {.sched_priority = priority};

    sched_setscheduler(realtime->thread, policy, &own);
}

static void set_first(const struct dp_realtime *realtime)
{
    set_class(realtime, realtime->policy, realtime->priority);
}

/* For the thread itself: the class of one that is in time, or has had its share. */
static void set_ordinary(const struct dp_realtime *realtime)
{
    set_class(realtime, (realtime->bulk.on ? SCHED_BATCH : SCHED_OTHER) | SCHED_RESET_ON_FORK, 0);
}

/* ---- the watcher ---- */

static bool has_ended(struct dp_realtime *realtime, uint64_t wait_ns)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    wait_ns += (uint64_t)until.tv_nsec;
    until.tv_sec += (time_t)(wait_ns / NS_PER_S);
    until.tv_nsec = (long)(wait_ns % NS_PER_S);
    return sem_clockwait(&realtime->end, CLOCK_MONOTONIC, &until) == 0;
}

/* The state first: whoever gives the thread another class meanwhile finds it, and gives this one. */
static void raise_class(struct dp_realtime *realtime)
{
    enum dp_class was = DP_CLASS_ORDINARY;

    if (atomic_compare_exchange_strong(&realtime->state, &was, DP_CLASS_RAISED) || was == DP_CLASS_RAISED)
        set_first(realtime);
}

static void *watch(void *context)
{
    struct dp_realtime *realtime = context;
    uint64_t wait_ns = 0;

    while (!has_ended(realtime, wait_ns)) {
        uint64_t now_ns = dp_clock_ns(realtime->dp), late_ns = atomic_load(&realtime->due_ns) + LATE_NS;
        bool is_late = now_ns >= late_ns;

        if (is_late)
            raise_class(realtime);
        wait_ns = is_late ? LATE_NS : late_ns - now_ns;
        if (wait_ns > LOOK_NS)
            wait_ns = LOOK_NS;
    }
    return NULL;
}

static int start_watcher(struct dp_realtime *realtime)
{
    const struct sched_param own = {.sched_priority = realtime->priority};
    pthread_attr_t kind;
    int err;

    pthread_attr_init(&kind);
    pthread_attr_setinheritsched(&kind, PTHREAD_EXPLICIT_SCHED);
    pthread_attr_setschedpolicy(&kind, realtime->policy & ~SCHED_RESET_ON_FORK);
    pthread_attr_setschedparam(&kind, &own);
    pthread_attr_setstacksize(&kind, STACK_BYTES);
    err = pthread_create(&realtime->watcher, &kind, watch, realtime);
    pthread_attr_destroy(&kind);
    if (!err)
        pthread_setname_np(realtime->watcher, "lateness"); /* else it is called as the datapath's is */
    return err;
}

/* ---- the datapath's thread ---- */

void dp_realtime_begin(struct prl_dp *dp, struct dp_realtime *realtime)
{
    struct sched_param own = {0};
    int policy = sched_getscheduler(0);

    *realtime = (struct dp_realtime){.dp = dp, .policy = policy, .thread = gettid()};
    if (policy < 0 || sched_getparam(0, &own) || !own.sched_priority)
        return;
    realtime->priority = own.sched_priority;
    atomic_store(&realtime->due_ns, dp_clock_ns(dp));
    sem_init(&realtime->end, 0, 0);
    if (start_watcher(realtime) == 0) {
        set_ordinary(realtime);
    } else {
        sem_destroy(&realtime->end);
        realtime->priority = 0;
    }
}

void dp_realtime_end(struct dp_realtime *realtime)
{
    if (realtime->priority == 0)
        return;
    sem_post(&realtime->end);
    pthread_join(realtime->watcher, NULL);
    sem_destroy(&realtime->end);
}

static bool is_ordinary(struct dp_realtime *realtime)
{
    return atomic_load(&realtime->state) == DP_CLASS_ORDINARY;
}

/* Unless it is raised just then. */
static void lay_down(struct dp_realtime *realtime)
{
    set_ordinary(realtime);
    if (!is_ordinary(realtime))
        set_first(realtime);
}

void dp_realtime_pass(struct dp_realtime *realtime, uint64_t due_ns)
{
    struct prl_dp *dp = realtime->dp;
    bool was_spent = realtime->share.spent;
    uint64_t now_ns;

    if (realtime->priority == 0)
        return;
    now_ns = dp_clock_ns(dp);
    atomic_store(&realtime->due_ns, due_ns > now_ns ? due_ns : now_ns);
    if (prl_bulk_take(&realtime->bulk, now_ns, dp->link.rx_total + dp->link.tx_total) && is_ordinary(realtime))
        lay_down(realtime);
    if (is_ordinary(realtime))
        return;
    if (!realtime->raised_until_ns) {
        realtime->raised_until_ns = now_ns + PRL_RAISED_MS * NS_PER_MS;
        dp->counters.realtime_raised++;
    }
    dp->counters.realtime_spent += prl_share_take(&realtime->share, dp->now_ns, now_ns);
    if (now_ns >= realtime->raised_until_ns) {
        realtime->raised_until_ns = 0;
        realtime->share = (struct prl_share){0};
        atomic_store(&realtime->state, DP_CLASS_ORDINARY);
        lay_down(realtime);
    } else if (realtime->share.spent != was_spent) {
        atomic_store(&realtime->state, was_spent ? DP_CLASS_RAISED : DP_CLASS_SPENT);
        if (was_spent)
            set_first(realtime);
        else
            set_ordinary(realtime);
    }
}
