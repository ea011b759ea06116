/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The threads of a pair of datapaths, as they are shipped, against calls of the control plane, under the thread sanitizer:
 * each node's loop runs in a thread of its own, on the simulator's machine, while others ask, set up, move, drop the link
 * and end. The machines are the simulator's; what a kernel does to them by itself, a thread does under the node's lock.
 *
 *     races CALLS [unlocked]        ends when each caller has made so many calls; `unlocked`: and one looks without the lock
 */
#include "../sim/machine.c"
#include "loop/lock.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#define NODES 2u
#define SESSIONS 4u
#define SERVICES 2u
#define CALLERS 2u
#define LINK_ROOM 65536u
#define BEAT_MAX 256u
#define MS_NS 1000000ull

struct machine {
    struct prl_host *host;
    pthread_mutex_t sleep;
    pthread_cond_t wake_up;
    bool woken;
    uint8_t beat[BEAT_MAX]; /* under the node's lock, as all of the host's */
    uint32_t beat_bytes;
    bool is_asking;
};

static struct machine machine[NODES];
static struct prl_io table;
static uint32_t calls;
static _Atomic uint32_t callers_left;
static _Atomic uint64_t passes, events, protected_sessions;

static uint64_t clock_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- what the machines tell ---- */

void sim_wire(uint32_t index, uint32_t session, uint64_t seq, uint32_t bytes, uint32_t flags, uint64_t ack,
              uint64_t edge)
{
    (void)index, (void)session, (void)seq, (void)bytes, (void)flags, (void)ack, (void)edge;
}

void sim_stack(uint32_t index, uint32_t session, uint64_t seq, uint32_t bytes, uint32_t flags, uint64_t ack,
               int way)
{
    (void)index, (void)session, (void)seq, (void)bytes, (void)flags, (void)ack, (void)way;
}

void sim_claims(uint32_t index, uint32_t service, const uint8_t *trailer)
{
    (void)index, (void)service, (void)trailer;
}

void sim_mirror(uint32_t index, uint32_t session, uint64_t seq, uint32_t bytes, uint64_t ack, uint32_t flags,
                uint32_t number)
{
    (void)index;
    (void)session;
    (void)seq;
    (void)bytes;
    (void)ack;
    (void)flags;
    (void)number;
}

void sim_asks(uint32_t index)
{
    machine[index].is_asking = true;
}

void sim_datagram(uint32_t index, uint32_t path, const uint8_t *bytes, uint32_t count)
{
    if (path != PRL_PROBE_LAN)
        return;
    machine[index].beat_bytes = count < BEAT_MAX ? count : BEAT_MAX;
    memcpy(machine[index].beat, bytes, machine[index].beat_bytes);
}

/* ---- what is called without the lock ---- */

static uint64_t real_now_ns(struct prl_host *host)
{
    (void)host;
    return clock_ns();
}

static int sleep_until_woken(struct prl_host *host, bool sleeps)
{
    struct machine *own = &machine[host->index];
    struct timespec until;

    atomic_fetch_add(&passes, 1);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += (long)MS_NS;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&own->sleep);
    if (sleeps && !own->woken)
        pthread_cond_timedwait(&own->wake_up, &own->sleep, &until);
    own->woken = false;
    pthread_mutex_unlock(&own->sleep);
    return PRL_READY_ALL;
}

static void wake(struct prl_host *host)
{
    struct machine *own = &machine[host->index];

    pthread_mutex_lock(&own->sleep);
    own->woken = true;
    pthread_cond_signal(&own->wake_up);
    pthread_mutex_unlock(&own->sleep);
}

/* ---- the threads ---- */

static void *loop(void *of)
{
    struct machine *own = of;

    if (prl_dp_run(own->host->dp) < 0)
        abort();
    return NULL;
}

/* A node's cable, peers and applications, for a moment. */
static void live(uint32_t index, uint32_t moment, const uint8_t *arrived, uint32_t bytes, bool ended)
{
    struct machine *own = &machine[index];
    struct prl_host *host = own->host;

    dp_lock(host->dp);
    host->clock_ns = clock_ns();
    if (host->link_attached && bytes && host->link_in_bytes + bytes <= PRL_LINK_RX_BYTES)
        sim_link_arrives(host, arrived, bytes);
    if (host->link_attached && ended)
        host->link_ended = 1;
    if (own->is_asking)
        sim_answered(host);
    own->is_asking = false;
    for (uint32_t s = 0; s < SESSIONS; s++) {
        struct prl_flow *flow = flow_of(host, s);
        struct sim_sock *sock = sock_of(host, s);

        if (!sock || (flow && flow->flags & (PRL_FLOW_SECONDARY | PRL_FLOW_VOID)))
            continue;
        sock->read = sock->rcv_nxt;
        sim_frame(host, s, sock->rcv_nxt, 100, sock->snd_una, 0);
        if (moment % 4 == s && sock->snd_nxt - sock->snd_una < SIM_BUFFER_BYTES) {
            sock->snd_nxt += 200;
            sock->pushed = sock->snd_nxt;
            sim_output(host, s, sock->snd_nxt - 200, 200, 0);
        }
    }
    dp_unlock(host->dp);
    wake(host);
}

static void *world(void *nothing)
{
    static uint8_t crossing[LINK_ROOM];
    uint8_t beat[BEAT_MAX];

    (void)nothing;
    for (uint32_t moment = 0; atomic_load(&callers_left); moment++) {
        for (uint32_t i = 0; i < NODES; i++) {
            struct prl_host *host = machine[i].host, *other = machine[1 - i].host;
            uint32_t bytes, beat_bytes;
            bool ended;

            dp_lock(host->dp);
            bytes = host->link_out_bytes;
            if (bytes)
                memcpy(crossing, host->link_out, bytes);
            host->link_out_bytes = 0;
            host->link_room = LINK_ROOM;
            ended = host->link_closed;
            host->link_closed = 0;
            beat_bytes = machine[i].beat_bytes;
            memcpy(beat, machine[i].beat, beat_bytes);
            machine[i].beat_bytes = 0;
            dp_unlock(host->dp);
            if (beat_bytes) {
                dp_lock(other->dp);
                sim_datagram_arrives(other, PRL_PROBE_LAN, beat, beat_bytes);
                dp_unlock(other->dp);
            }
            live(1 - i, moment, crossing, bytes, ended);
        }
    }
    return NULL;
}

static void join_nodes(void)
{
    static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
    static const uint8_t key[32] = {1}, token[NODES][16] = {{2}, {3}};
    static uint64_t epoch;
    struct prl_dp *dp[NODES] = {machine[0].host->dp, machine[1].host->dp};

    pthread_mutex_lock(&one_at_a_time);
    if (prl_dp_link_attach(dp[0], 1) == 0) {
        if (prl_dp_link_attach(dp[1], 1) == 0) {
            epoch++;
            for (uint32_t i = 0; i < NODES; i++)
                prl_dp_link_hello(dp[i]);
            for (uint32_t i = 0; i < NODES; i++)
                prl_dp_link_up(dp[i], epoch, PRL_CAP_NACK_RETRY | PRL_CAP_RESYNC, key, token[i], token[1 - i]);
        } else {
            prl_dp_link_drop(dp[0], "the other node has a link yet");
        }
    }
    pthread_mutex_unlock(&one_at_a_time);
}

static void protect(uint32_t index, uint32_t session)
{
    struct prl_host *host = machine[index].host, *other = machine[1 - index].host;
    struct prl_flow_spec spec = {.mss = MSS};
    struct sim_sock copy;
    struct sim_flow flow;
    uint32_t space;

    dp_lock(host->dp);
    sim_key(host, session, &spec.key);
    spec.fd = host->sock_of[session];
    sim_flow(host, session, &flow);
    spec.handle = flow.used && !flow.secondary ? flow.handle : 0;
    dp_unlock(host->dp);
    if (spec.fd < 0 || prl_dp_primary_setup(host->dp, &spec) < 0)
        return;
    dp_lock(host->dp);
    copy = host->sock[spec.fd];
    dp_unlock(host->dp);
    copy.refs = copy.lives = 1;
    copy.pushed = copy.snd_nxt;
    dp_lock(other->dp);
    spec.fd = sim_socket(other, session);
    if (spec.fd >= 0) {
        other->sock[spec.fd] = copy;
        sim_bind(other, session, spec.fd);
    }
    dp_unlock(other->dp);
    spec.committed = (uint32_t)copy.snd_nxt;
    if (spec.fd < 0 || prl_dp_secondary_open(other->dp, &spec, &space) < 0)
        prl_dp_primary_fail(host->dp, spec.handle, PRL_REASON_RESTORE_FAILED);
    else if (prl_dp_primary_activate(host->dp, spec.handle, spec.generation, spec.committed, space) == 0)
        atomic_fetch_add(&protected_sessions, 1);
}

static void ask(struct prl_dp *dp, uint32_t handle, uint32_t what)
{
    struct prl_dp_status status;
    struct prl_dp_figures figures;
    struct prl_flow_info info;
    uint32_t own;

    switch (what) {
    case 0:
        prl_dp_status(dp, &status);
        break;
    case 1:
        prl_dp_figures(dp, &figures);
        break;
    case 2:
        prl_dp_flow_info(dp, handle, &info);
        break;
    case 3:
        prl_dp_service_state(dp, handle % SERVICES);
        break;
    case 4:
        prl_dp_link_rtt_ns(dp);
        break;
    case 5:
        prl_dp_flow_has_hole(dp, handle);
        break;
    case 6:
        prl_dp_is_given(dp, handle % SERVICES);
        break;
    default:
        prl_dp_flow_adopt(dp, handle, &own);
        break;
    }
}

static void do_one(uint32_t index, uint32_t chance)
{
    struct prl_dp *dp = machine[index].host->dp;
    struct prl_dp_neighbour neighbour = {.addr = {[10] = 0xff, [11] = 0xff, [12] = 192, [14] = 2, [15] = 1}};
    struct prl_msg msg = {.type = PRL_MSG_OFFER};
    uint32_t handles[SESSIONS], count = prl_dp_flow_handles(dp, handles, SESSIONS);
    uint32_t handle = count ? handles[chance % (count < SESSIONS ? count : SESSIONS)] : 0;
    uint32_t service = (chance >> 8) % SERVICES;

    switch (chance % 24) {
    case 0:
        prl_dp_link_drop(dp, "asked for");
        break;
    case 1:
        prl_dp_flow_close(dp, handle);
        break;
    case 2:
        prl_dp_primary_fail(dp, handle, PRL_REASON_REQUESTED);
        break;
    case 3:
        prl_dp_secondary_void(dp, handle, PRL_REASON_REQUESTED);
        break;
    case 4:
        prl_dp_switchover(dp, service, chance >> 9 & 1);
        break;
    case 5:
        prl_dp_takeover(dp, service, 0);
        break;
    case 6:
        prl_dp_neighbours(dp, &neighbour, 1);
        break;
    case 7:
        prl_dp_policy(dp, 0);
        break;
    case 8:
        prl_dp_link_send(dp, &msg, NULL, 0);
        break;
    case 9:
        prl_dp_service_set(dp, service, service == index ? PRL_OWNER_OWNER : PRL_OWNER_STANDBY);
        break;
    case 10:
        prl_dp_unanswered(dp, clock_ns());
        break;
    case 11:
    case 12:
        join_nodes();
        break;
    case 13:
    case 14:
    case 15:
        protect(index, (chance >> 10) % SESSIONS);
        break;
    default:
        ask(dp, handle, (chance >> 12) % 8);
        break;
    }
}

static void *caller(void *number)
{
    uint32_t chance = 2654435761u * (1 + (uint32_t)(uintptr_t)number), index = (uint32_t)(uintptr_t)number % NODES;

    for (uint32_t i = 0; i < calls; i++) {
        chance ^= chance << 13;
        chance ^= chance >> 17;
        chance ^= chance << 5;
        do_one(index, chance);
    }
    atomic_fetch_sub(&callers_left, 1);
    return NULL;
}

/* One thread a node takes its events, as prld's event loop does. */
static void *listener(void *of)
{
    static _Thread_local uint8_t body[PRL_WIRE_MAX];
    struct machine *own = of;
    struct prl_event event;

    while (atomic_load(&callers_left)) {
        if (prl_dp_event(own->host->dp, &event, body, sizeof(body)))
            atomic_fetch_add(&events, 1);
        else
            sched_yield();
    }
    return NULL;
}

static void *look_without_lock(void *of)
{
    struct machine *own = of;
    volatile uint64_t seen = 0;

    while (atomic_load(&callers_left))
        seen = own->host->dp->now_ns;
    (void)seen;
    return NULL;
}

static void boot(uint32_t index)
{
    static const uint8_t mapped[16] = {[10] = 0xff, [11] = 0xff, [12] = 192, [14] = 2};
    struct prl_dp_config config = {.node_index = index, .flows_max = SIM_FLOWS_MAX, .lan_fd = -1, .lifs = 1};
    struct machine *own = &machine[index];
    char error[PRL_ERROR_BYTES] = "";

    config.owner = (struct prl_owner_config){.lease_ns = 20 * MS_NS,
                                             .suspect_ns = 60 * MS_NS,
                                             .late_ns = 30 * MS_NS,
                                             .takeover_ns = 100 * MS_NS,
                                             .hold_ns = 150 * MS_NS,
                                             .services = SERVICES};
    config.limits = (struct prl_primary_limits){.packets_max = 64,
                                                .bytes_max = 100000,
                                                .answer_ns = 50 * MS_NS,
                                                .setup_ns = 100 * MS_NS,
                                                .retries_max = 3,
                                                .retry_ns = 20 * MS_NS};
    config.move = (struct prl_move_config){
        .drain_ns = 200 * MS_NS, .quiet_ns = 5 * MS_NS, .relay_ns = 100 * MS_NS, .probe_ns = 100 * MS_NS};
    config.lif[0] = (struct prl_dp_lif){.ifindex = 1, .queues = 1, .mac = {2, 2, 2, 2, 2, 2}};
    config.addresses = SERVICES;
    for (uint32_t i = 0; i < SERVICES; i++) {
        config.address[i].service = i;
        memcpy(config.address[i].addr, mapped, sizeof(mapped));
        config.address[i].addr[15] = (uint8_t)(100 + i);
    }
    own->host = sim_boot(index, 1 + index);
    own->host->clock_ns = clock_ns();
    own->host->link_room = LINK_ROOM;
    for (uint32_t s = 0; s < SESSIONS; s++)
        own->host->service_of[s] = s % SERVICES;
    pthread_mutex_init(&own->sleep, NULL);
    pthread_cond_init(&own->wake_up, NULL);
    own->host->dp = dp_open(&config, &table, own->host, error);
    assert(own->host->dp);
    own->host->dp->link.tx_bytes = LINK_ROOM / 2;
    for (uint32_t service = 0; service < SERVICES; service++)
        prl_dp_service_set(own->host->dp, service, service == index ? PRL_OWNER_OWNER : PRL_OWNER_STANDBY);
    for (uint32_t s = index; s < SESSIONS; s += SERVICES) {
        int fd = sim_socket(own->host, s);

        own->host->sock[fd].snd_una = own->host->sock[fd].snd_nxt = own->host->sock[fd].pushed = 1u << 20;
        sim_bind(own->host, s, fd);
    }
}

int main(int count, char **word)
{
    pthread_t thread[3 * NODES + CALLERS * NODES + 1];
    uint32_t threads = 0;

    assert(count >= 2);
    calls = (uint32_t)atoi(word[1]);
    callers_left = CALLERS * NODES;
    table = io;
    table.now_ns = real_now_ns;
    table.wait = sleep_until_woken;
    table.wake = wake;
    for (uint32_t i = 0; i < NODES; i++)
        boot(i);
    join_nodes();
    for (uint32_t i = 0; i < NODES; i++)
        pthread_create(&thread[threads++], NULL, loop, &machine[i]);
    for (uint32_t i = 0; i < NODES; i++)
        pthread_create(&thread[threads++], NULL, listener, &machine[i]);
    if (count > 2)
        pthread_create(&thread[threads++], NULL, look_without_lock, &machine[0]);
    for (uintptr_t i = 0; i < CALLERS * NODES; i++)
        pthread_create(&thread[threads++], NULL, caller, (void *)i);
    world(NULL);
    for (uint32_t i = 0; i < NODES; i++)
        prl_dp_stop(machine[i].host->dp);
    for (uint32_t i = 0; i < threads; i++)
        pthread_join(thread[i], NULL);
    printf("passes %llu events %llu protected %llu\n", (unsigned long long)passes, (unsigned long long)events,
           (unsigned long long)protected_sessions);
    for (uint32_t i = 0; i < NODES; i++)
        sim_power_off(machine[i].host);
    return 0;
}
