/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The datapath as a whole, as it is shipped: two of it behind the table of io.h, on the simulator's machines. The input says
 * what happens: frames of peers and of strangers, output, what of the link's bytes comes when, time, what the control plane
 * asks for, a prld that dies; and what the other node sends that no prld would: messages of any kind about flows that there
 * are, bytes that are no message, LAN heartbeats that somebody has changed.
 *
 * Whatever it is: the loop goes on; every frame, entry and buffer stays in one place (sim_audit()), and is given back at the
 * end; no descriptor is closed twice; the own stack and the wire get whole packets of sessions alone. While a flow is
 * active and nothing has come from the other node since it is, the own stack gets nothing of it, and the wire no byte beyond the
 * snapshot (I1, I3). As long as nobody has lied, each byte is the one that peer or application sent.
 */
#include "../sim/machine.c"
#include "fuzz.h"

#define NODES 2u
#define SESSIONS 3u
#define SERVICES 2u
#define STEPS_MAX 600u
#define ROUNDS_MAX 8u
#define LINK_ROOM 65536u
#define QUEUE_BYTES 32768u
#define MESSAGE_MAX 8192u
#define RAW_MAX 256u
#define FRAME_MAX (14 + 60 + MSS)
#define MS_NS 1000000ull

static struct prl_host *node[NODES];
static struct fuzz_input *input;
static bool lied;  /* something came that no node and no peer of the pair's would send */
static bool silent_lan; /* nobody answers, no heartbeat comes */
static bool mirrors; /* the carrier is "mirror"; else frames are captured */
static uint64_t since[NODES][SESSIONS];    /* the snapshot's end of output … */
static bool unanswered[NODES][SESSIONS]; /* … from which on nothing has come from the other node */
static uint8_t beat[NODES][RAW_MAX];
static uint32_t beat_bytes[NODES];
static uint8_t claim[NODES][SIM_TRAILER_BYTES];
static uint8_t claimed[NODES]; /* 1 and the service */

static void broken(uint32_t index, const char *words)
{
    fprintf(stderr, "node %u: %s\n", index, words);
    abort();
}

static uint8_t octet(void)
{
    return (uint8_t)fuzz_number(input, 1);
}

/* So that what is nearly right comes far. */
static bool likely(void)
{
    return octet() >= 0x20;
}

/* Other bytes in so many places. */
static void change(uint8_t *at, uint32_t bytes, uint32_t places)
{
    while (places--) {
        uint32_t place = octet() % bytes;

        at[place] = octet();
    }
}

static bool is_active(uint32_t index, uint32_t session)
{
    struct sim_flow flow;

    sim_flow(node[index], session, &flow);
    return flow.used && !flow.secondary && flow.state == PRL_PRIMARY_ACTIVE;
}

/* ---- what the machines tell ---- */

void sim_wire(uint32_t index, uint32_t session, uint64_t seq, uint32_t bytes, uint32_t flags, uint64_t ack,
              uint64_t edge)
{
    (void)flags;
    (void)ack;
    (void)edge;
    if (bytes && unanswered[index][session] && is_active(index, session) && node[index]->dp &&
        !node[index]->node.bypassed && seq + bytes > since[index][session])
        broken(index, "I3: output left that the other node has not acknowledged");
}

void sim_stack(uint32_t index, uint32_t session, uint64_t seq, uint32_t bytes, uint32_t flags, uint64_t ack,
               int way)
{
    (void)seq;
    (void)bytes;
    (void)flags;
    (void)ack;
    if (way == SIM_REINJECTED && unanswered[index][session] && is_active(index, session))
        broken(index, "I1: input came to the own stack that the other node has not acknowledged");
}

void sim_claims(uint32_t index, uint32_t service, const uint8_t *trailer)
{
    if (trailer[0]) /* else it is a defence */
        memcpy(claim[index], trailer, sizeof(claim[index]));
    claimed[index] = (uint8_t)(1 + service);
}

void sim_asks(uint32_t index)
{
    if (!silent_lan)
        sim_answered(node[index]);
}

void sim_datagram(uint32_t index, uint32_t path, const uint8_t *bytes, uint32_t count)
{
    if (path != PRL_PROBE_LAN)
        return;
    beat_bytes[index] = count < RAW_MAX ? count : RAW_MAX;
    memcpy(beat[index], bytes, beat_bytes[index]);
}

/* Of five frames on the cable one is lost. */
void sim_mirror(uint32_t index, uint32_t session, uint64_t seq, uint32_t bytes, uint64_t ack, uint32_t flags,
                uint32_t number)
{
    if (number % 5)
        sim_cable(node[!index], session, seq, bytes, ack, flags, number);
}

/* ---- what must hold ---- */

static void check(void)
{
    for (uint32_t i = 0; i < NODES; i++) {
        const char *words = node[i]->dp ? sim_audit(node[i]) : "";
        char *wrong_words = node[i]->wrong;
        bool is_of_bytes = strstr(wrong_words, "are not") || strstr(wrong_words, "is not");

        if (words[0])
            broken(i, words);
        if (wrong_words[0] && strncmp(wrong_words, "I3", 2) != 0 && !(lied && is_of_bytes))
            broken(i, wrong_words); /* who acknowledges what, the simulator's checker knows */
        wrong_words[0] = 0;
    }
}

/* ---- a pair ---- */

static void configure(uint32_t index, struct prl_dp_config *config)
{
    static const uint8_t mapped[16] = {[10] = 0xff, [11] = 0xff, [12] = 192, [14] = 2};

    *config = (struct prl_dp_config){.node_index = index, .flows_max = SIM_FLOWS_MAX, .lan_fd = -1};
    config->owner = (struct prl_owner_config){.lease_ns = 20 * MS_NS,
                                              .suspect_ns = 60 * MS_NS,
                                              .late_ns = 30 * MS_NS,
                                              .takeover_ns = 100 * MS_NS,
                                              .hold_ns = 150 * MS_NS,
                                              .services = SERVICES};
    config->limits = (struct prl_primary_limits){.packets_max = 16,
                                                 .bytes_max = 20000,
                                                 .answer_ns = 50 * MS_NS,
                                                 .setup_ns = 100 * MS_NS,
                                                 .retries_max = 3,
                                                 .retry_ns = 20 * MS_NS};
    config->move = (struct prl_move_config){
        .drain_ns = 200 * MS_NS, .quiet_ns = 5 * MS_NS, .relay_ns = 100 * MS_NS, .probe_ns = 100 * MS_NS};
    config->lifs = 1;
    config->lif[0] = (struct prl_dp_lif){.ifindex = 1, .queues = 1, .mac = {2, 2, 2, 2, 2, 2}};
    memcpy(config->own_addr[0], mapped, sizeof(mapped));
    config->own_addr[0][15] = (uint8_t)(10 + index);
    config->addresses = SERVICES;
    for (uint32_t i = 0; i < SERVICES; i++) {
        config->address[i].service = i;
        memcpy(config->address[i].addr, mapped, sizeof(mapped));
        config->address[i].addr[15] = (uint8_t)(100 + i);
    }
}

static void start(uint32_t index)
{
    struct prl_dp_neighbour neighbour = {.addr = {[10] = 0xff, [11] = 0xff, [12] = 192, [14] = 2, [15] = 1},
                                         .mac = {2, 2, 2, 2, 2, 2}};
    struct prl_dp_config config;
    char error[PRL_ERROR_BYTES] = "";

    configure(index, &config);
    if (sim_start(node[index], &config, error))
        broken(index, error);
    prl_dp_neighbours(node[index]->dp, &neighbour, 1);
}

static void lose_link(uint32_t index)
{
    if (node[1 - index]->link_attached)
        node[1 - index]->link_ended = 1;
}

static void join(void)
{
    static const uint8_t key[32] = {1}, token[NODES][16] = {{2}, {3}};
    static uint64_t epoch;

    if (!node[0]->dp || !node[1]->dp || prl_dp_link_attach(node[0]->dp, 1))
        return;
    if (prl_dp_link_attach(node[1]->dp, 1)) {
        prl_dp_link_drop(node[0]->dp, "the other node has a link yet");
        return;
    }
    epoch++;
    for (uint32_t i = 0; i < NODES; i++) {
        node[i]->link_room = LINK_ROOM;
        prl_dp_link_hello(node[i]->dp);
    }
    for (uint32_t i = 0; i < NODES; i++)
        prl_dp_link_up(node[i]->dp, epoch, PRL_CAP_RESYNC | (mirrors ? PRL_CAP_MIRROR : PRL_CAP_NACK_RETRY), key,
                       token[i], token[1 - i]);
    for (uint32_t i = 0; mirrors && i < NODES; i++)
        prl_dp_mirror(node[i]->dp);
}

static void begin(void)
{
    lied = silent_lan = false;
    mirrors = input->left && (input->at[input->left - 1] & 7) == 7; /* so that older inputs mean what they did */
    memset(unanswered, 0, sizeof(unanswered));
    memset(beat_bytes, 0, sizeof(beat_bytes));
    memset(claimed, 0, sizeof(claimed));
    for (uint32_t i = 0; i < NODES; i++) {
        node[i] = sim_boot(i, 1 + i);
        node[i]->clock_ns = 1000000 * MS_NS;
        node[i]->link_queue_bytes = QUEUE_BYTES;
        node[i]->keeps_input = node[i]->mirrors = mirrors;
        for (uint32_t s = 0; s < SESSIONS; s++)
            node[i]->service_of[s] = s % SERVICES;
        start(i);
        for (uint32_t service = 0; service < SERVICES; service++)
            prl_dp_service_set(node[i]->dp, service, service == i ? PRL_OWNER_OWNER : PRL_OWNER_STANDBY);
    }
    for (uint32_t s = 0; s < SESSIONS; s++) {
        struct prl_host *host = node[s % SERVICES];
        int fd = sim_socket(host, s);
        struct sim_sock *sock = &host->sock[fd];

        sock->rcv_nxt = sock->read = (1ull << 33) - 3000 * s;
        sock->snd_una = sock->snd_nxt = sock->pushed = (1ull << 32) + 5000 * s;
        sim_bind(host, s, fd);
    }
    join();
}

static void finish(void)
{
    for (uint32_t i = 0; i < NODES; i++)
        sim_power_off(node[i]);
}

/* ---- what happens ---- */

static bool is_shadow(struct prl_host *host, uint32_t session)
{
    const struct prl_flow *flow = flow_of(host, session);

    return flow && flow->flags & (PRL_FLOW_SECONDARY | PRL_FLOW_VOID);
}

static void end_session(struct prl_host *host, uint32_t session)
{
    struct sim_flow flow;

    sim_flow(host, session, &flow);
    if (flow.used)
        prl_dp_flow_close(host->dp, flow.handle);
    sim_bind(host, session, -1);
}

/* What the control plane does with an event, as far as it goes without the other node's. */
static void take_events(struct prl_host *host)
{
    static uint8_t body[PRL_WIRE_MAX];
    struct prl_event event;
    uint32_t own;

    while (prl_dp_event(host->dp, &event, body, sizeof(body))) {
        fuzz_touch(body, event.body_bytes);
        if (event.kind == PRL_EVENT_TAKEN_FLOW)
            prl_dp_flow_adopt(host->dp, event.handle, &own);
        if (event.kind == PRL_EVENT_PROBE)
            prl_dp_switchover_resolve(host->dp, event.service, octet() & 1, 0);
        if (event.kind == PRL_EVENT_MOVE_ASKED)
            prl_dp_switchover_asked(host->dp, event.service, event.bits & PRL_MOVE_FORCED, event.value,
                                    octet() & 1);
        if (event.kind == PRL_EVENT_MOVE && event.state == PRL_MOVE_DONE)
            for (uint32_t s = 0; s < SESSIONS; s++)
                if (host->service_of[s] == event.service && octet() & 1)
                    end_session(host, s);
        if (event.kind == PRL_EVENT_PRIMARY && event.state == PRL_PRIMARY_GONE)
            prl_dp_flow_close(host->dp, event.handle);
    }
}

static void turn_of(uint32_t index)
{
    struct prl_host *host = node[index];

    if (!host->dp)
        return;
    if (turn(host) < 0)
        broken(index, "the loop has ended");
    take_events(host);
    if (host->link_closed) {
        host->link_closed = 0;
        host->link_out_bytes = 0;
        lose_link(index);
    }
}

/* So much of what a node has sent comes to the other one. */
static void carry(uint32_t from, uint32_t most)
{
    struct prl_host *sender = node[from], *other = node[1 - from];
    uint32_t bytes = sender->link_out_bytes < most ? sender->link_out_bytes : most;

    if (other->link_attached && bytes && other->link_in_bytes + bytes <= PRL_LINK_RX_BYTES) {
        sim_link_arrives(other, sender->link_out, bytes);
        memset(unanswered[1 - from], 0, sizeof(unanswered[0]));
    }
    sender->link_out_bytes -= bytes;
    if (sender->link_out)
        memmove(sender->link_out, sender->link_out + bytes, sender->link_out_bytes);
    sender->link_room = LINK_ROOM - sender->link_out_bytes;
}

static void pass_time(uint64_t by_ns)
{
    for (uint32_t i = 0; i < NODES; i++)
        node[i]->clock_ns += by_ns;
}

static void run(uint32_t rounds)
{
    for (uint32_t i = 0; i < rounds; i++) {
        for (uint32_t n = 0; n < NODES; n++)
            turn_of(n);
        for (uint32_t n = 0; n < NODES; n++)
            carry(n, LINK_ROOM);
        pass_time(MS_NS / 4);
    }
}

static void protect(uint32_t index, uint32_t session, bool in_full)
{
    struct prl_host *host = node[index], *other = node[1 - index];
    struct sim_sock *sock = sock_of(host, session), copy;
    struct prl_flow_spec spec = {.mss = MSS};
    struct sim_flow flow;
    uint32_t space;
    int fd;

    if (!host->dp || !other->dp || !sock || sock->fin || sock->peer_fin || sock->holes)
        return;
    sim_flow(host, session, &flow);
    spec.handle = flow.used ? flow.handle : 0;
    spec.fd = host->sock_of[session];
    sim_key(host, session, &spec.key);
    if (prl_dp_primary_setup(host->dp, &spec) < 0 || !in_full)
        return;
    copy = *sock;
    fd = sim_socket(other, session);
    if (fd < 0) {
        prl_dp_primary_fail(host->dp, spec.handle, PRL_REASON_RESTORE_FAILED);
        return;
    }
    copy.refs = 1;
    copy.lives = 1;
    copy.pushed = copy.snd_nxt;
    other->sock[fd] = copy;
    sim_bind(other, session, fd);
    spec.fd = fd;
    spec.committed = (uint32_t)copy.snd_nxt;
    if (prl_dp_secondary_open(other->dp, &spec, &space) < 0) {
        sim_bind(other, session, -1);
        prl_dp_primary_fail(host->dp, spec.handle, PRL_REASON_RESTORE_FAILED);
    } else if (prl_dp_primary_activate(host->dp, spec.handle, spec.generation, spec.committed, space) == 0) {
        since[index][session] = copy.snd_nxt;
        unanswered[index][session] = true;
    }
}

/* A segment of the peer's; it acknowledges nothing that was not sent. */
static void peer_sends(uint32_t index, uint32_t session)
{
    const struct sim_sock *sock = sock_of(node[index], session);
    int8_t ahead = (int8_t)octet();
    uint32_t bytes = octet() * 6u, flags = octet();
    uint64_t unacked;

    if (!sock)
        return;
    unacked = sock->pushed - sock->snd_una;
    sim_frame(node[index], session,
              sock->rcv_nxt + (uint64_t)(int64_t)(ahead > -64 && ahead < 64 ? 0 : ahead * 20),
              bytes < MSS ? bytes : MSS, sock->snd_una + (flags & 4 ? unacked : 0), flags >= 0xf0 ? SIM_FIN : 0);
}

/* What the classifier takes for a flow's, by addresses and ports alone, and is changed as the input says. */
static void stranger_sends(uint32_t index, uint32_t session)
{
    struct prl_host *host = node[index];
    const struct sim_sock *sock = sock_of(host, session);
    uint32_t changes = octet() % 8, bytes = octet(), whole;
    struct prl_packet packet;
    struct frame *frame;
    uint8_t data[FRAME_MAX];

    if (!host->dp || !sock || host->slot_of[session] < 0 || host->captured->count >= host->frames_max)
        return;
    whole = build(host, data, session, true, (uint32_t)sock->rcv_nxt, bytes, (uint32_t)sock->snd_una,
                  SIM_BUFFER_BYTES, 0);
    change(data, whole, changes);
    if (octet() & 1)
        whole = 14 + octet() % (whole - 13);
    if (prl_packet_parse(data + 14, whole - 14, whole - 14, false, &packet) == 0 &&
        session_of(host, data + 14, &packet, true) != session)
        return;
    lied = true;
    frame = queue_put(host->captured, whole);
    memcpy(frame->data, data, whole);
    frame->meta = (struct prl_meta){.handle = host->handle_of[session], .slot = (uint32_t)host->slot_of[session]};
    if (octet() == 1)
        frame->meta.slot = octet() % SIM_FLOWS_MAX;
    if (octet() == 1)
        frame->meta.handle = (uint32_t)fuzz_number(input, 4);
}

static void application_writes(uint32_t index, uint32_t session)
{
    struct sim_sock *sock = sock_of(node[index], session);
    uint32_t bytes = 1 + octet() * 5u, flags = octet() >= 0xf0 ? SIM_FIN : 0;

    if (!sock || sock->fin)
        return;
    if (octet() & 1) { /* again */
        sim_output(node[index], session, sock->snd_una, (uint32_t)(sock->snd_nxt - sock->snd_una) % MSS, 0);
        return;
    }
    if (sock->snd_nxt - sock->snd_una > SIM_BUFFER_BYTES)
        return;
    if (is_shadow(node[index], session))
        return;
    sock->fin = !!flags;
    sock->snd_nxt += bytes + !!flags;
    sock->pushed = sock->snd_nxt;
    sim_output(node[index], session, sock->snd_nxt - bytes - !!flags, bytes, flags);
}

/* A message that the other node might send if it were broken into. */
static void forge(uint32_t to)
{
    static const uint8_t usual[] = {PRL_MSG_REPLICATE, PRL_MSG_ACK, PRL_MSG_OUTPUT, PRL_MSG_OUTPUT_ACK};
    static uint8_t raw[MESSAGE_MAX + FRAME_MAX + 64];
    struct prl_host *host = node[to];
    uint32_t session = octet() % SESSIONS, kind = octet(), at;
    const struct sim_sock *sock = sock_of(host, session);
    int32_t slot = host->slot_of[session];
    struct dp_flow *flow;
    uint8_t frame[FRAME_MAX];
    struct prl_msg msg = {0};
    int head;

    if (!host->dp || !host->link_attached)
        return;
    lied = true;
    memset(unanswered[to], 0, sizeof(unanswered[0]));
    msg.type = kind & 0x80 ? kind % (PRL_MSG_COUNT + 1) : usual[kind % (sizeof(usual) / sizeof(usual[0]))];
    msg.handle = slot >= 0 && likely() ? host->handle_of[session] : (uint32_t)fuzz_number(input, 4);
    flow = slot >= 0 ? &host->dp->flows[slot] : NULL;
    if (flow && flow->used && likely()) {
        bool of_output = msg.type == PRL_MSG_OUTPUT || msg.type == PRL_MSG_OUTPUT_ACK;

        if (flow->secondary)
            msg.seq = of_output ? dp_secondary_of(flow)->out_next : dp_secondary_of(flow)->in_next;
        else
            msg.seq = (of_output ? dp_primary_of(flow)->out_next : dp_primary_of(flow)->in_next) - 1;
        msg.seq += likely() ? 0 : (uint32_t)(int8_t)octet();
    } else {
        msg.seq = (uint32_t)fuzz_number(input, 4);
    }
    msg.space = sock && likely() ? (uint32_t)edge_of(sock) : (uint32_t)fuzz_number(input, 4);
    msg.tcp_seq = sock && likely() ? (uint32_t)sock->snd_nxt : (uint32_t)fuzz_number(input, 4);
    msg.generation = flow && likely() ? flow->spec.generation : octet();
    msg.service = octet() % (SERVICES + 1);
    msg.reason = likely() ? PRL_REASON_OK : octet() % 32;
    msg.bits = octet() % 8;
    msg.phase = octet() % 8;
    msg.lif = likely() ? 0 : octet() % 4;
    msg.packet_flags = likely() ? 0 : (uint16_t)fuzz_number(input, 2);
    msg.sent_ns = host->clock_ns - octet() * MS_NS;
    msg.echo_ns = host->clock_ns - octet() * MS_NS;
    msg.rcv_nxt = sock ? (uint32_t)sock->rcv_nxt : 0;
    msg.snd_una = sock ? (uint32_t)sock->snd_una : 0;
    if (flow && flow->used && !flow->secondary && msg.type == PRL_MSG_RESYNC) {
        msg.seq++; /* what is expected next */
        msg.out_seq = dp_primary_of(flow)->out_next;
        msg.hash = flow->compare.hash;
    }
    msg.number = node[!to]->mirror_newest;
    if (sock && likely()) { /* a packet of the session's, or its output */
        uint32_t bytes = octet() * 5u;
        uint32_t whole = build(host, frame, session, true, (uint32_t)sock->rcv_nxt, bytes, (uint32_t)sock->snd_una,
                               SIM_BUFFER_BYTES, 0);

        change(frame + 14, whole - 14, octet() % 4);
        msg.data = frame + (msg.type == PRL_MSG_OUTPUT ? whole - bytes : 14);
        msg.data_bytes = msg.type == PRL_MSG_OUTPUT ? bytes : whole - 14;
        msg.whole_bytes = msg.data_bytes;
    }
    head = prl_wire_encode_prefix(&msg, raw, MESSAGE_MAX);
    if (head < 0)
        return;
    at = (uint32_t)head;
    if (msg.data_bytes) {
        memcpy(raw + at, msg.data, msg.data_bytes);
        at += msg.data_bytes;
        memset(raw + at, 0, prl_wire_padding(msg.data_bytes));
        at += prl_wire_padding(msg.data_bytes);
    }
    if (!likely())
        change(raw, at, octet() % 4);
    if (host->link_in_bytes + at <= PRL_LINK_RX_BYTES)
        sim_link_arrives(host, raw, at);
}

static void control(uint32_t index, uint32_t session)
{
    struct prl_dp *dp = node[index]->dp;
    uint32_t service = octet() % (SERVICES + 1), what = octet() % 16, own;
    struct prl_dp_status status;
    struct prl_flow_info info;
    struct sim_flow flow;

    if (!dp)
        return;
    sim_flow(node[index], session, &flow);
    switch (what) {
    case 0:
        prl_dp_takeover(dp, service, octet() % 3);
        break;
    case 1:
        prl_dp_renounce(dp, service);
        break;
    case 2:
        prl_dp_switchover(dp, service, octet() & 1);
        break;
    case 3:
        prl_dp_switchover_resolve(dp, service, octet() & 1, octet() & 1);
        break;
    case 4:
        prl_dp_service_set(dp, service, octet() % 5);
        break;
    case 5:
        prl_dp_unanswered(dp, node[index]->clock_ns - octet() * MS_NS);
        break;
    case 6:
        prl_dp_policy(dp, octet() & 1);
        break;
    case 7:
        prl_dp_primary_fail(dp, flow.handle, octet() % 32);
        break;
    case 8:
        prl_dp_secondary_void(dp, flow.handle, octet() % 32);
        break;
    case 9:
        prl_dp_flow_close(dp, flow.handle);
        break;
    case 10:
        prl_dp_flow_adopt(dp, flow.handle, &own);
        break;
    case 11:
        prl_dp_flow_orphan(dp, flow.handle);
        break;
    case 12:
        prl_dp_link_drop(dp, "asked for");
        break;
    case 13:
        prl_dp_flow_has_hole(dp, flow.handle);
        break;
    case 14:
        prl_dp_status(dp, &status);
        break;
    default:
        prl_dp_flow_info(dp, flow.handle, &info);
        break;
    }
}

static void lan(uint32_t from)
{
    struct prl_host *other = node[1 - from];
    uint32_t changes = octet() % 4;

    if (claimed[from] && octet() & 1) {
        change(claim[from], sizeof(claim[from]), changes);
        sim_hear_claim(other, claimed[from] - 1u, claim[from]);
        return;
    }
    if (!beat_bytes[from] || silent_lan)
        return;
    change(beat[from], beat_bytes[from], changes);
    sim_datagram_arrives(other, PRL_PROBE_LAN, beat[from],
                         changes == 3 ? octet() % (beat_bytes[from] + 1) : beat_bytes[from]);
}

static void read_all(uint32_t index, uint32_t session)
{
    struct sim_sock *sock = sock_of(node[index], session);

    if (!sock)
        return;
    sock->read = sock->rcv_nxt;
    sim_acknowledge(node[index], session);
}

static void raw_bytes(uint32_t to)
{
    uint8_t raw[RAW_MAX];
    uint32_t count = octet() % RAW_MAX;

    fuzz_take(input, raw, count);
    if (!node[to]->link_attached || node[to]->link_in_bytes + count > PRL_LINK_RX_BYTES)
        return;
    lied = true;
    memset(unanswered[to], 0, sizeof(unanswered[0]));
    sim_link_arrives(node[to], raw, count);
}

static void die(uint32_t index)
{
    struct prl_host *host = node[index];

    if (!host->dp) {
        start(index);
        return;
    }
    for (uint32_t s = 0; s < SESSIONS; s++)
        if (is_shadow(host, s))
            sim_bind(host, s, -1);
    memset(unanswered[index], 0, sizeof(unanswered[0]));
    sim_kill(host);
    host->link_attached = host->link_closed = 0;
    host->link_in_bytes = host->link_out_bytes = 0;
    lose_link(index);
}

static void one_step(void)
{
    uint32_t word = octet(), index = word & 1, session = (word >> 1) % 4 % SESSIONS;

    switch (octet() % 20) {
    case 0:
    case 1:
        run(1 + word % ROUNDS_MAX);
        break;
    case 2:
        turn_of(index);
        break;
    case 3:
        carry(index, octet() & 1 ? LINK_ROOM : octet() * 4u);
        break;
    case 4:
        pass_time(1000ull << word % 18);
        break;
    case 5:
    case 6:
        peer_sends(index, session);
        break;
    case 7:
        stranger_sends(index, session);
        break;
    case 8:
    case 9:
        application_writes(index, session);
        break;
    case 10:
    case 11:
        forge(index);
        break;
    case 12:
        raw_bytes(index);
        break;
    case 13:
        lan(index);
        break;
    case 14:
        control(index, session);
        break;
    case 15:
        protect(index, session, octet() < 0xf0);
        break;
    case 16:
        read_all(index, session);
        break;
    case 17:
        join();
        break;
    case 18:
        silent_lan = octet() & 1;
        break;
    default:
        if (octet() < 0x20)
            die(index);
        else
            run(2);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct fuzz_input given = {data, bytes};

    input = &given;
    begin();
    for (uint32_t s = 0; s < SESSIONS; s++)
        protect(s % SERVICES, s, true);
    for (uint32_t i = 0; i < STEPS_MAX && given.left; i++) {
        one_step();
        check();
    }
    run(ROUNDS_MAX);
    check();
    finish();
    return 0;
}
