/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Left out of the kernel: fragments, ICMP, UDP, VLANs, signatures, IPv6, the mark gate's refusals, timestamps. A socket has
 * no congestion window and no timer of its own: the world sends again.
 */
#include "machine.h"

#include <errno.h>
#include <linux/virtio_net.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include "flow/dp.h"
#include "io/gro.h"
#include "io/tap.h"
#include "loop/loop.h"
#include "loop/open.h"
#include "node/lan.h"
#include "path/mirror.h"
#include "path/reinject.h"
#include "tcp/serial.h"
#include "machine_calls.h"

#define STACK_BYTES (512u << 10)
#define MSS 1400u /* a segment of more was several on the wire */
#define SETTLE_NS 300000000ull
#define KEEP_BACK_MAX_NS 60000000u
#define GAP_NS 100000000ull
#define HEADERS_BYTES (sizeof(struct virtio_net_hdr) + 14)

struct frame {
    struct frame *next;
    struct prl_meta meta;
    uint32_t number; /* of one that waits for its verdict */
    uint32_t mirrored; /* number on the cable; 0: it has none */
    bool is_whole; /* prld is given all of it, and not the headers alone */
    bool passes;
    uint32_t bytes;
    uint8_t data[];
};

struct sim_frames {
    struct frame *head, *tail;
    uint32_t count;
};

struct pass {
    ucontext_t world, stopped;
    int result;
    uint8_t stack[STACK_BYTES];
};

__attribute__((format(printf, 2, 3))) static void wrong(struct prl_host *host, const char *format, ...)
{
    va_list args;

    if (host->wrong[0])
        return;
    va_start(args, format);
    vsnprintf(host->wrong, sizeof(host->wrong), format, args);
    va_end(args);
}

static uint32_t draw(struct prl_host *host)
{
    host->random ^= host->random << 13;
    host->random ^= host->random >> 7;
    host->random ^= host->random << 17;
    return (uint32_t)(host->random >> 16);
}

/* What it sends reaches the LAN. */
static bool is_on_wire(const struct prl_host *host)
{
    return !host->lan_cut && !host->lan_mute && !host->asleep;
}

static bool happens(struct prl_host *host, uint32_t chance)
{
    return chance && draw(host) < chance;
}

static uint64_t near(uint64_t reference, uint32_t low)
{
    return reference + (uint64_t)(int64_t)(int32_t)(low - (uint32_t)reference);
}

/* ---- bytes ---- */

static uint8_t byte_at(uint32_t offset)
{
    return (uint8_t)(offset * 0x9e3779b1u >> 21);
}

static void fill(uint8_t *data, uint32_t offset, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i++)
        data[i] = byte_at(offset + i);
}

static bool is_good(const uint8_t *data, uint32_t offset, uint32_t bytes)
{
    return !bytes || (data[0] == byte_at(offset) && data[bytes / 2] == byte_at(offset + bytes / 2) &&
                      data[bytes - 1] == byte_at(offset + bytes - 1));
}

static void queue_free(struct sim_frames *queue)
{
    while (queue->head) {
        struct frame *frame = queue->head;

        queue->head = frame->next;
        free(frame);
    }
    *queue = (struct sim_frames){0};
}

static void queue_append(struct sim_frames *queue, struct frame *frame)
{
    frame->next = NULL;
    if (queue->tail)
        queue->tail->next = frame;
    else
        queue->head = frame;
    queue->tail = frame;
    queue->count++;
}

static struct frame *queue_put(struct sim_frames *queue, uint32_t bytes)
{
    struct frame *frame = calloc(1, sizeof(*frame) + bytes);

    frame->bytes = bytes;
    queue_append(queue, frame);
    return frame;
}

/* The frame with this number, out of its place; NULL: there is none. */
static struct frame *queue_pick(struct sim_frames *queue, uint32_t number)
{
    struct frame *before = NULL, *frame = queue->head;

    for (; frame && frame->number != number; frame = frame->next)
        before = frame;
    if (!frame)
        return NULL;
    if (before)
        before->next = frame->next;
    else
        queue->head = frame->next;
    if (queue->tail == frame)
        queue->tail = before;
    queue->count--;
    return frame;
}

static struct frame *queue_take(struct sim_frames *queue)
{
    struct frame *frame = queue->head;

    if (frame) {
        queue->head = frame->next;
        if (!queue->head)
            queue->tail = NULL;
        queue->count--;
    }
    return frame;
}

static void address_of(uint32_t service, uint8_t addr[16])
{
    const uint8_t first[16] = {[10] = 0xff, [11] = 0xff, [12] = 192, [14] = 2, [15] = 100};

    memcpy(addr, first, sizeof(first));
    addr[15] = (uint8_t)(first[15] + service);
}

void sim_key(const struct prl_host *host, uint32_t session, struct prl_flow_key *key)
{
    const uint8_t remote[16] = {[10] = 0xff, [11] = 0xff, [12] = 192, [14] = 2, [15] = 1};

    memset(key, 0, sizeof(*key));
    memcpy(key->remote, remote, sizeof(remote));
    address_of(host->service_of[session], key->local);
    key->local_port = htons(7000);
    key->remote_port = htons((uint16_t)(SIM_PORT + session));
    key->proto = IPPROTO_TCP;
}

/* A whole segment from the Ethernet header on, its checksum left to the NIC. Returns its bytes. */
static uint32_t build(const struct prl_host *host, uint8_t *out, uint32_t session, bool from_peer, uint32_t seq,
                      uint32_t bytes, uint32_t ack, uint32_t window, uint32_t flags)
{
    struct prl_flow_key key;
    struct prl_packet packet;
    uint8_t header[PRL_CRAFT_MAX];
    struct prl_craft craft = {.key = &key, .from_peer = from_peer, .seq = seq, .ack = ack};
    uint32_t header_bytes;

    sim_key(host, session, &key);
    craft.window = (uint16_t)(window < 65535 ? window : 65535);
    craft.tcp_flags =
        (uint8_t)(PRL_TCP_ACK | (flags & SIM_FIN ? PRL_TCP_FIN : 0) | (flags & SIM_RST ? PRL_TCP_RST : 0));
    header_bytes = prl_packet_craft(&craft, header);
    memset(out, 0x02, 12);
    out[12] = 0x08;
    out[13] = 0x00;
    memcpy(out + 14, header, header_bytes);
    fill(out + 14 + header_bytes, seq, bytes);
    prl_packet_parse(out + 14, header_bytes, header_bytes, false, &packet);
    packet.l3_bytes += bytes;
    packet.payload_bytes = bytes;
    prl_packet_set_length(out + 14, &packet);
    prl_packet_set_partial(out + 14, &packet);
    return 14 + header_bytes + bytes;
}

/* The number of the session that a packet belongs to, or SIM_SESSIONS_MAX. */
static uint32_t session_of(const struct prl_host *host, const uint8_t *l3, const struct prl_packet *packet,
                           bool incoming)
{
    struct prl_flow_key key, own;
    uint32_t number;

    if (!incoming)
        prl_packet_key(l3, packet, false, 0, &key);
    else if (prl_packet_flow_key(l3, packet, 0, &key))
        return SIM_SESSIONS_MAX;
    number = (uint32_t)ntohs(key.remote_port) - SIM_PORT;
    if (number >= SIM_SESSIONS_MAX)
        return SIM_SESSIONS_MAX;
    sim_key(host, number, &own);
    return memcmp(&key, &own, sizeof(key)) == 0 ? number : SIM_SESSIONS_MAX;
}

/* ---- the state of the programs' tables ---- */

static struct prl_flow *flow_of(struct prl_host *host, uint32_t session)
{
    int32_t slot = host->slot_of[session];

    return slot < 0 ? NULL : &host->flow[slot];
}

static struct sim_sock *sock_of(struct prl_host *host, uint32_t session)
{
    int32_t fd = host->sock_of[session];

    return fd < 0 ? NULL : &host->sock[fd];
}

bool sim_works(const struct prl_host *host)
{
    return host->clock_ns - host->node.heartbeat_ns <= host->node.stale_ns;
}

/* bpf/birth.h; what is captured is asked before */
bool sim_is_newborn(const struct prl_host *host, uint32_t session)
{
    return host->newborn_until_ns[session] > host->clock_ns && !host->node.bypassed && sim_works(host);
}

static uint64_t edge_of(const struct sim_sock *sock)
{
    return sock->read + SIM_BUFFER_BYTES;
}

static uint32_t state_of(const struct sim_sock *sock)
{
    if (!sock->lives)
        return 0;
    if (sock->fin)
        return sock->peer_fin ? TCP_LAST_ACK : sock->snd_una == sock->snd_nxt ? TCP_FIN_WAIT2 : TCP_FIN_WAIT1;
    return sock->peer_fin ? TCP_CLOSE_WAIT : TCP_ESTABLISHED;
}

static void note_socket(struct prl_host *host, uint32_t session)
{
    struct prl_flow *flow = flow_of(host, session);
    const struct sim_sock *sock = sock_of(host, session);
    struct prl_sock_view *view;

    if (!flow)
        return;
    view = &flow->sock;
    if (!sock) {
        *view = (struct prl_sock_view){.stamp_ns = host->clock_ns};
        return;
    }
    *view = (struct prl_sock_view){
        .stamp_ns = host->clock_ns,
        .state = state_of(sock),
        .rcv_nxt = (uint32_t)sock->rcv_nxt,
        .rcv_wup = (uint32_t)sock->rcv_nxt,
        .rcv_wnd = happens(host, host->short_chance) ? 0 : (uint32_t)(edge_of(sock) - sock->rcv_nxt),
        .snd_una = (uint32_t)sock->snd_una,
        .snd_nxt = (uint32_t)sock->pushed,
        .write_seq = (uint32_t)sock->snd_nxt,
        .rmem_bytes = (uint32_t)(sock->rcv_nxt - sock->read),
        .rcvbuf_bytes = SIM_BUFFER_BYTES,
        .has_ooo = sock->holes > 0,
        .segs_in = sock->segs_in,
    };
}

/* prl_addr_fence() in bpf/parse.h */
static void fence(struct prl_host *host, struct prl_addr *addr)
{
    if (addr->state != PRL_ADDR_OWNER)
        return;
    host->node.fenced |= 1u << addr->service;
    addr->state = PRL_ADDR_FENCED;
}

static bool is_owned(const struct prl_host *host, const struct prl_addr *addr)
{
    return addr->state == PRL_ADDR_OWNER && !(host->node.fenced >> addr->service & 1);
}

/* Where arbiter or witnesses decide, time alone ends what a node may say (L6, L12). */
static bool is_out_of_word(const struct prl_host *host)
{
    return host->node.speak_by_ns && host->clock_ns > host->node.speak_by_ns;
}

/* may_speak() in bpf/egress.bpf.c */
static bool may_speak(struct prl_host *host, struct prl_addr *addr, bool is_word)
{
    uint32_t silent = host->node.silent | host->node.fenced | (is_word ? 0 : host->node.claiming);

    if (addr->state != PRL_ADDR_OWNER || silent >> addr->service & 1 || is_out_of_word(host))
        return false;
    if (addr->spoken == PRL_SPOKEN_FOR_GOOD)
        return true;
    if (!addr->first_by_ns || host->node.word_ns > addr->first_by_ns) {
        addr->spoken = PRL_SPOKEN_FOR_GOOD;
        return true;
    }
    if (host->clock_ns <= addr->first_by_ns) {
        addr->spoken = PRL_SPOKEN_IN_TIME;
        return true;
    }
    if (!addr->spoken) {
        host->late_first++;
        fence(host, addr);
    } else if (host->node.lan_first_ns && host->node.lan_first_ns <= addr->first_by_ns) {
        addr->spoken = PRL_SPOKEN_FOR_GOOD;
        return true;
    }
    return false;
}

/* Whether a take-over is not over the lease, or was proved within it: what may_speak() goes by. */
static bool is_in_time(const struct prl_host *host, const struct prl_addr *addr)
{
    uint64_t first_ns = host->node.lan_first_ns;

    return !addr->first_by_ns || addr->spoken == PRL_SPOKEN_FOR_GOOD || host->node.word_ns > addr->first_by_ns ||
           host->clock_ns <= addr->first_by_ns || (addr->spoken && first_ns && first_ns <= addr->first_by_ns);
}

bool sim_is_too_late(const struct prl_host *host, uint32_t service)
{
    const struct prl_addr *addr = &host->service[service].addr;

    return addr->state != PRL_ADDR_OWNER || !is_in_time(host, addr);
}

/* judge_word() in bpf/egress.bpf.c, which does not ask whether the datapath lives. */
bool sim_could_answer(const struct prl_host *host, uint32_t service)
{
    const struct prl_addr *addr = &host->service[service].addr;
    uint32_t silent = host->node.silent | host->node.fenced | host->node.claiming;

    return addr->state == PRL_ADDR_OWNER && is_on_wire(host) && !(silent >> service & 1) &&
           !is_out_of_word(host) && is_in_time(host, addr);
}

bool sim_could_speak(const struct prl_host *host, uint32_t service)
{
    return sim_could_answer(host, service) && (sim_works(host) || host->node.bypassed);
}

/* ---- output: bpf/egress.bpf.c ---- */

/* The segment leaves, with the newest ack and a window that the other side can take as well. */
static void emit(struct prl_host *host, uint32_t session, uint64_t seq, uint32_t bytes, uint32_t flags,
                 uint32_t ack, bool released)
{
    struct prl_flow *flow = flow_of(host, session);
    const struct sim_sock *sock = sock_of(host, session);
    uint32_t right, limit;

    if (!sock)
        return;
    right = (uint32_t)edge_of(sock);
    if (flow) {
        if (released && flow->last_valid & PRL_LAST_ACK && prl_serial_le(ack, flow->last_ack)) {
            ack = flow->last_ack;
            right = ack + flow->last_window;
        }
        if (!(flow->last_valid & PRL_LAST_ACK) || prl_serial_le(flow->last_ack, ack)) {
            flow->last_ack = ack;
            flow->last_window = right - ack;
        }
        flow->last_valid |= PRL_LAST_ACK;
        if (flow->flags & PRL_FLOW_CLAMP && !host->node.bypassed) {
            limit = flow->edge_limit;
            if (flow->last_valid & PRL_LAST_EDGE)
                limit = prl_serial_max(limit, flow->last_edge);
            limit = prl_serial_max(limit, ack);
            if (prl_serial_lt(limit, right)) {
                right = limit;
                flow->clamped = 1;
            }
        }
        if (!(flow->flags & PRL_FLOW_HELD) && sim_is_newborn(host, session))
            right = ack;
        flow->last_edge = flow->last_valid & PRL_LAST_EDGE ? prl_serial_max(flow->last_edge, right) : right;
        flow->last_valid |= PRL_LAST_EDGE;
    } else if (sim_is_newborn(host, session)) {
        right = ack;
    }
    if (is_on_wire(host))
        sim_wire(host->index, session, seq, bytes, flags, near(sock->rcv_nxt, ack), near(edge_of(sock), right));
}

static void hold(struct prl_host *host, struct prl_flow *flow, const struct sim_sock *sock, uint64_t seq,
                 uint32_t bytes, uint32_t flags)
{
    uint32_t generation = flow->generation + 1, low = (uint32_t)seq, end = low + bytes + (flags & SIM_FIN);
    bool in_stream = !(flags & SIM_RST), has_hole;
    struct frame *frame;

    if (flow->out_valid != generation) {
        flow->out_held = low;
        flow->last_valid &= ~PRL_LAST_HOLE;
        flow->out_valid = generation;
    }
    if (flow->flags & PRL_FLOW_ACTIVE) {
        flow->out_held = prl_serial_max(flow->out_held, flow->out_committed);
        if (prl_serial_lt(flow->out_hole, flow->out_committed))
            flow->last_valid &= ~PRL_LAST_HOLE;
    }
    has_hole = flow->last_valid & PRL_LAST_HOLE;
    if (in_stream && !has_hole && prl_serial_lt(flow->out_held, low)) {
        flow->out_hole = flow->out_held;
        flow->last_valid |= PRL_LAST_HOLE;
        has_hole = true;
    }
    if (in_stream && has_hole && prl_serial_lt(flow->out_hole, low))
        return;
    if (!host->dp || host->held->count >= host->frames_max) {
        host->dropped_held++;
        if (in_stream) {
            flow->out_hole = prl_serial_max(flow->out_held, low);
            flow->last_valid |= PRL_LAST_HOLE;
        }
        return;
    }
    frame = queue_put(host->held, (uint32_t)HEADERS_BYTES + 60 + bytes);
    frame->bytes = (uint32_t)sizeof(struct virtio_net_hdr) +
                   build(host, frame->data + sizeof(struct virtio_net_hdr), sock->session, false, low, bytes,
                         (uint32_t)sock->rcv_nxt, (uint32_t)(edge_of(sock) - sock->rcv_nxt), flags);
    if (in_stream && has_hole && prl_serial_lt(flow->out_hole, end))
        flow->last_valid &= ~PRL_LAST_HOLE;
    if (prl_serial_lt(flow->out_held, end))
        flow->out_held = end;
}

/* prl_view_store(): what leaves for the first time TCP counts into snd_nxt behind egress. */
static void note_leaving(struct prl_host *host, uint32_t session, uint64_t seq, uint64_t end)
{
    struct prl_flow *flow = flow_of(host, session);
    const struct sim_sock *sock = sock_of(host, session);

    note_socket(host, session);
    if (flow && sock && end == sock->pushed)
        flow->sock.snd_nxt = (uint32_t)seq;
}

/* prl_egress: a segment of the own stack's. */
static void egress(struct prl_host *host, uint32_t session, uint64_t seq, uint32_t bytes, uint32_t flags)
{
    struct prl_addr *addr = &host->service[host->service_of[session]].addr;
    struct prl_flow *flow = flow_of(host, session);
    const struct sim_sock *sock = sock_of(host, session);
    uint32_t end = (uint32_t)seq + bytes + (flags & SIM_FIN);
    bool speaks = may_speak(host, addr, false);

    if (!sock)
        return;
    if (flow && flow->flags & PRL_FLOW_SILENT) {
        note_leaving(host, session, seq, seq + bytes + (flags & SIM_FIN));
        return;
    }
    if (!speaks)
        return;
    if (!flow || !(flow->flags & PRL_FLOW_HELD)) {
        emit(host, session, seq, bytes, flags, (uint32_t)sock->rcv_nxt, false);
        return;
    }
    note_leaving(host, session, seq, seq + bytes + (flags & SIM_FIN));
    if (host->node.bypassed) {
        if (bytes || flags)
            sim_stack(host->index, session, seq, bytes, flags, 0, SIM_UNREPLICATED);
        emit(host, session, seq, bytes, flags, (uint32_t)sock->rcv_nxt, false);
    } else if (!sim_works(host)) {
        host->dropped_stale++;
    } else if (!bytes && !flags) {
        emit(host, session, seq, bytes, flags, (uint32_t)sock->rcv_nxt, false);
    } else if (!(flags & SIM_RST) && flow->flags & PRL_FLOW_ACTIVE && prl_serial_le(end, flow->out_committed)) {
        emit(host, session, seq, bytes, flags, (uint32_t)sock->rcv_nxt, false);
    } else if (!(flags & SIM_RST) && flow->out_valid == flow->generation + 1 &&
               prl_serial_le(end, flow->out_held)) {
        host->duplicates++;
    } else {
        hold(host, flow, sock, seq, bytes, flags);
    }
}

void sim_output(struct prl_host *host, uint32_t session, uint64_t seq, uint32_t bytes, uint32_t flags)
{
    egress(host, session, seq, bytes, flags);
}

void sim_acknowledge(struct prl_host *host, uint32_t session)
{
    const struct sim_sock *sock = sock_of(host, session);

    if (sock)
        egress(host, session, sock->pushed, 0, 0);
}

/* ---- input ---- */

static void fill_holes(struct sim_sock *sock)
{
    for (uint32_t i = 0; i < sock->holes;) {
        if (sock->hole_from[i] > sock->rcv_nxt) {
            i++;
            continue;
        }
        if (sock->hole_to[i] > sock->rcv_nxt)
            sock->rcv_nxt = sock->hole_to[i];
        sock->holes--;
        sock->hole_from[i] = sock->hole_from[sock->holes];
        sock->hole_to[i] = sock->hole_to[sock->holes];
        i = 0;
    }
}

static void keep_behind_hole(struct prl_host *host, struct sim_sock *sock, uint64_t seq, uint64_t end,
                             uint32_t flags)
{
    for (uint32_t i = 0; i < sock->holes; i++)
        if (sock->hole_from[i] <= seq && end <= sock->hole_to[i])
            return;
    if (flags & SIM_FIN || sock->holes == SIM_HOLES_MAX) {
        sim_stack(host->index, sock->session, seq, 0, flags, 0, SIM_LOST);
        return;
    }
    sock->hole_from[sock->holes] = seq;
    sock->hole_to[sock->holes++] = end;
}

/* tcp_v4_rcv(), in short; pure ACKs are not delayed (R19). */
static void deliver(struct prl_host *host, uint32_t session, uint64_t seq, uint32_t bytes, uint64_t ack,
                    uint32_t flags, enum sim_way way)
{
    struct sim_sock *sock = sock_of(host, session);
    uint64_t end = seq + bytes + (flags & SIM_FIN);
    bool is_old;

    if (!sock || !sock->lives)
        return;
    sim_stack(host->index, session, seq, bytes, flags, ack, way);
    if (ack > sock->pushed) {
        host->wrong_session = session;
        wrong(host, "I3: session %u: the peer acknowledges %llu, this socket has sent up to %llu", session,
              (unsigned long long)ack, (unsigned long long)sock->pushed);
        return;
    }
    sock->segs_in++;
    if (ack > sock->snd_una)
        sock->snd_una = ack;
    is_old = seq < sock->rcv_nxt;
    if (end > sock->rcv_nxt && seq <= sock->rcv_nxt) {
        sock->rcv_nxt = end;
        fill_holes(sock);
    } else if (seq > sock->rcv_nxt && end > seq) {
        keep_behind_hole(host, sock, seq, end, flags);
    }
    if (flags & SIM_FIN && sock->rcv_nxt >= end)
        sock->peer_fin = 1;
    if (bytes || flags & SIM_FIN || is_old || draw(host) % 10 == 0)
        egress(host, session, sock->pushed, 0, 0);
    else
        note_socket(host, session);
}

static void note_lan(struct prl_host *host, enum prl_watch evidence)
{
    if (host->node.watch != evidence)
        return;
    host->node.lan_seen_ns = host->clock_ns;
    if (!host->node.lan_first_ns)
        host->node.lan_first_ns = host->clock_ns;
}

void sim_answered(struct prl_host *host)
{
    note_lan(host, PRL_WATCH_FRAMES);
    note_lan(host, PRL_WATCH_ANSWERS);
}

static bool has_settled(struct prl_host *host)
{
    uint64_t since_ns = host->node.heartbeat_ns > host->woke_ns ? host->node.heartbeat_ns : host->woke_ns;

    if (host->stale_since_ns < since_ns)
        host->stale_since_ns = host->clock_ns;
    return host->clock_ns - host->stale_since_ns >= SETTLE_NS;
}

static void capture(struct prl_host *host, uint32_t session, uint64_t seq, uint32_t bytes, uint64_t ack,
                    uint32_t flags, uint32_t mirrored, bool is_whole)
{
    struct frame *frame;

    if (!host->dp || host->captured->count >= host->frames_max) {
        host->dropped_captured++;
        return;
    }
    frame = queue_put(host->captured, 14 + 60 + bytes);
    frame->mirrored = mirrored;
    frame->is_whole = is_whole;
    frame->meta.handle = host->handle_of[session];
    frame->meta.slot = (uint32_t)host->slot_of[session];
    frame->bytes =
        build(host, frame->data, session, true, (uint32_t)seq, bytes, (uint32_t)ack, SIM_BUFFER_BYTES, flags);
    if (mirrored)
        frame->data[ETH_ALEN] = PRL_MIRROR_MAC_0;
}

/* carry() in bpf/mirror.bpf.c */
static void mirror_or_carry(struct prl_host *host, uint32_t session, uint64_t seq, uint32_t bytes, uint64_t ack,
                            uint32_t flags)
{
    const struct prl_flow *flow = flow_of(host, session);
    bool is_full;

    if (!host->mirrors || !(flow->flags & PRL_FLOW_MIRRORS) || bytes + 40 <= PRL_MIRROR_COPY_BYTES) {
        capture(host, session, seq, bytes, ack, flags, 0, true);
        return;
    }
    host->mirror_newest += host->mirror_newest + 1 ? 1 : 2;
    is_full = happens(host, host->full_chance);
    if (!is_full)
        sim_mirror(host->index, session, seq, bytes, ack, flags, host->mirror_newest);
    capture(host, session, seq, bytes, ack, flags, host->mirror_newest, is_full);
}

void sim_cable(struct prl_host *host, uint32_t session, uint64_t seq, uint32_t bytes, uint64_t ack, uint32_t flags,
               uint32_t number)
{
    const uint32_t wanted = PRL_FLOW_SECONDARY | PRL_FLOW_ACTIVE;
    const struct prl_flow *flow = flow_of(host, session);

    if (host->mirrors && flow && (flow->flags & (wanted | PRL_FLOW_VOID)) == wanted && sim_works(host))
        capture(host, session, seq, bytes, ack, flags, number, false);
}

/* prl_classify: a frame of the peer's. */
void sim_frame(struct prl_host *host, uint32_t session, uint64_t seq, uint32_t bytes, uint64_t ack, uint32_t flags)
{
    const struct prl_addr *addr = &host->service[host->service_of[session]].addr;
    const struct prl_flow *flow = flow_of(host, session);
    uint32_t flow_flags = flow ? flow->flags : 0;
    bool is_captured = flow_flags & PRL_FLOW_CAPTURED;

    note_lan(host, PRL_WATCH_FRAMES);
    if (flow_flags & PRL_FLOW_SILENT) {
        host->dropped_shadow++;
    } else if (!is_owned(host, addr) && !(addr->state == PRL_ADDR_LEAVING && is_captured)) {
        host->dropped_silent++;
    } else if (!is_captured && (bytes || flags & SIM_FIN) && sim_is_newborn(host, session)) {
        host->dropped_newborn++;
    } else if (!is_captured) {
        deliver(host, session, seq, bytes, ack, flags, SIM_PASSED);
    } else if (host->node.bypassed) {
        deliver(host, session, seq, bytes, ack, flags, SIM_UNREPLICATED);
    } else if (sim_works(host)) {
        mirror_or_carry(host, session, seq, bytes, ack, flags);
    } else if (flow_flags & PRL_FLOW_OPEN && is_owned(host, addr)) {
        deliver(host, session, seq, bytes, ack, flags, SIM_PASSED);
    } else if (has_settled(host) && !host->node.policy_stop && host->clock_ns >= prl_open_at_ns(&host->node)) {
        host->node.bypassed = 1;
        host->bypasses++;
        deliver(host, session, seq, bytes, ack, flags, SIM_UNREPLICATED);
    } else {
        host->dropped_stale++;
    }
}

/* judge_trailer() in bpf/classify.h */
static enum sim_judged judge_trailer(const struct prl_host *host, struct prl_addr *addr, uint32_t service,
                                     const uint8_t trailer[SIM_TRAILER_BYTES])
{
    static const uint8_t none[PRL_TOKEN_BYTES];
    const struct prl_node *node = &host->node;
    const struct prl_siphash_key key = {{node->claim_key[0], node->claim_key[1]}};
    const struct prl_claim *claim = (const void *)trailer;
    const struct prl_claim_token *token = (const void *)trailer;
    struct prl_claimed claimed = {
        .epoch = node->claim_epoch,
        .term = be64toh(claim->term),
        .number = be64toh(claim->number),
        .service = service,
        .claimant = node->claimant,
    };

    if (memcmp(node->claim_token, none, sizeof(none)) && token->length8 == sizeof(*token) / 8)
        return memcmp(node->claim_token, token->token, sizeof(none)) ? SIM_CLAIM_FOREIGN : SIM_CLAIM_GOOD;
    address_of(service, claimed.addr);
    if (claim->length8 != sizeof(*claim) / 8 || !(key.word[0] | key.word[1]) ||
        prl_siphash_claim(&key, &claimed) != be64toh(claim->mac))
        return SIM_CLAIM_FOREIGN;
    if (claimed.term <= node->terms[service])
        return SIM_CLAIM_REPLAYED;
    if (addr->state != PRL_ADDR_LEAVING && addr->claim_epoch == claimed.epoch &&
        claimed.number <= addr->claim_number)
        return SIM_CLAIM_REPLAYED;
    addr->claim_epoch = claimed.epoch;
    addr->claim_term = claimed.term;
    addr->claim_number = claimed.number;
    addr->claim_mac = be64toh(claim->mac);
    return SIM_CLAIM_GOOD;
}

/* judge_claim() in bpf/classify.h */
int sim_hear_claim(struct prl_host *host, uint32_t service, const uint8_t trailer[SIM_TRAILER_BYTES])
{
    struct prl_addr *addr = &host->service[service].addr;
    enum sim_judged judged;

    note_lan(host, PRL_WATCH_FRAMES);
    if (!is_owned(host, addr) && addr->state != PRL_ADDR_LEAVING)
        return SIM_CLAIM_FOREIGN;
    judged = judge_trailer(host, addr, service, trailer);
    if (judged != SIM_CLAIM_GOOD) {
        addr->foreign_claims++;
        return judged;
    }
    fence(host, addr);
    addr->fenced_by_ns = host->clock_ns;
    return judged;
}

/* ---- the table of functions ---- */

/* A call of the datapath's: here it may be stopped, as a thread is that loses the CPU. */
static void step(struct prl_host *host)
{
    struct pass *pass = host->pass;

    if (!host->stall_after || --host->stall_after)
        return;
    host->stalled = 1;
    swapcontext(&pass->stopped, &pass->world);
}

static uint64_t io_now_ns(struct prl_host *host)
{
    step(host);
    return host->clock_ns;
}

static int io_start(struct prl_host *host, struct prl_umem *umem, char *error)
{
    (void)error;
    host->umem = umem;
    return 0;
}

static void io_close(struct prl_host *host)
{
    queue_free(host->captured);
    queue_free(host->kept); /* what waits for its verdict goes with the socket */
    queue_free(host->settled);
    queue_free(host->held);
    for (uint32_t path = 0; path < PRL_PROBE_PATHS; path++)
        queue_free(host->udp[path]);
    host->umem = NULL;
}

static int io_wait(struct prl_host *host, bool sleeps)
{
    (void)host;
    (void)sleeps;
    return -ENOSYS; /* the world waits */
}

static void io_wake(struct prl_host *host)
{
    host->woken = 1;
}

static int io_watch(struct prl_host *host, enum prl_source source, uint32_t events)
{
    if (source == PRL_SOURCE_HEADERS) {
        host->watches_headers = !!(events & PRL_WATCH_READ);
    } else if (source == PRL_SOURCE_HOLD) {
        host->watches_hold = !!(events & PRL_WATCH_READ);
    } else {
        host->watches_link = !!(events & PRL_WATCH_READ);
        host->watches_link_room = !!(events & PRL_WATCH_WRITE);
    }
    return 0;
}

static int io_set_timer(struct prl_host *host, uint64_t at_ns)
{
    if (!host->timer_ns || at_ns < host->timer_ns)
        host->timer_ns = at_ns;
    return 0;
}

static void io_hurry(struct prl_host *host, bool on)
{
    (void)host;
    (void)on;
}

/* Its number, and what the mark says: the slot alone, whose flow may be another one by now. */
static void keep(struct prl_host *host, struct prl_received *received, struct frame *frame)
{
    host->kept_number += host->kept_number + 1 ? 1 : 2;
    frame->number = host->kept_number;
    queue_append(host->kept, frame);
    received->queued = frame->number;
    received->meta.handle = host->flow[frame->meta.slot].handle;
}

static uint32_t io_receive(struct prl_host *host, uint32_t port, struct prl_received *received, uint32_t capacity)
{
    uint32_t count = 0;
    struct frame *frame;

    (void)port;
    step(host);
    while (count < capacity && (frame = queue_take(host->captured))) {
        struct prl_received *one = &received[count];

        one->mirrored = frame->mirrored;
        one->is_cut = !frame->is_whole && frame->bytes > PRL_MIRROR_COPY_BYTES;
        one->packet = prl_umem_copy(host->umem, frame->data, one->is_cut ? PRL_MIRROR_COPY_BYTES : frame->bytes);
        one->bytes = frame->bytes;
        one->queued = 0;
        one->meta = frame->meta;
        if (one->packet == PRL_FRAME_NONE) {
            host->dropped_captured++;
            free(frame);
            continue;
        }
        count++;
        if (host->keeps_input)
            keep(host, one, frame);
        else
            free(frame);
    }
    return count;
}

static void io_refill(struct prl_host *host)
{
    (void)host;
}

static void io_count(struct prl_host *host, struct prl_io_counts *counts)
{
    (void)host;
    *counts = (struct prl_io_counts){0};
}

/* A large packet comes apart again as the stack's GSO would cut it. */
static void deliver_cut(struct prl_host *host, uint32_t session, const struct prl_packet *packet, uint32_t cut)
{
    const struct sim_sock *sock = sock_of(host, session);

    for (uint32_t at = 0, part = 0; at == 0 || at < packet->payload_bytes; at += part) {
        uint32_t left = packet->payload_bytes - at;

        part = cut - (cut ? at % cut : 0);
        part = part < left ? part : left;
        part = part < MSS ? part : MSS;
        bool is_last = part == left;

        deliver(host, session, near(sock->rcv_nxt, packet->seq + at), part, near(sock->snd_una, packet->ack),
                is_last && packet->tcp_flags & PRL_TCP_FIN ? SIM_FIN : 0, SIM_REINJECTED);
        if (!part)
            break;
    }
}

static int io_inject(struct prl_host *host, const struct iovec *piece, int pieces)
{
    struct virtio_net_hdr vnet;
    uint8_t whole[HEADERS_BYTES + PRL_GRO_BYTES_MAX + 1];
    uint32_t bytes = 0, session, cut;
    struct prl_packet packet;
    const uint8_t *l3 = whole + HEADERS_BYTES;
    const struct sim_sock *sock;

    step(host);
    for (int i = 0; i < pieces; i++) {
        memcpy(whole + bytes, piece[i].iov_base, piece[i].iov_len);
        bytes += (uint32_t)piece[i].iov_len;
    }
    memcpy(&vnet, whole, sizeof(vnet));
    bytes -= (uint32_t)HEADERS_BYTES;
    if (prl_packet_parse(l3, bytes, bytes, false, &packet)) {
        wrong(host, "a packet for the stack is malformed");
        return 0;
    }
    session = session_of(host, l3, &packet, true);
    if (session == SIM_SESSIONS_MAX) {
        wrong(host, "a packet for the stack belongs to no session");
        return 0;
    }
    sock = sock_of(host, session);
    if (!sock)
        return 0;
    if (packet.payload_bytes && happens(host, host->drop_chance)) {
        host->dropped_injected++;
        sim_stack(host->index, session, 0, 0, 0, 0, SIM_LOST);
        return 0;
    }
    if (!is_good(l3 + packet.data_offset, packet.seq, packet.payload_bytes))
        wrong(host, "session %u: the bytes for the stack at %u are not the peer's", session, packet.seq);
    cut = vnet.gso_type == VIRTIO_NET_HDR_GSO_NONE ? packet.payload_bytes : vnet.gso_size;
    deliver_cut(host, session, &packet, cut);
    return 0;
}

static void io_settle(struct prl_host *host, uint64_t queued, bool passes)
{
    struct frame *frame = queue_pick(host->kept, (uint32_t)queued);

    if (!frame) {
        wrong(host, "a verdict about packet %u, which does not wait", (uint32_t)queued);
        return;
    }
    frame->passes = passes;
    queue_append(host->settled, frame);
}

/* A shadow's stack drops what cannot be fed again. */
static bool is_bare(struct prl_host *host, uint32_t session, const struct frame *frame)
{
    return frame->mirrored && flow_of(host, session) && flow_of(host, session)->flags & PRL_FLOW_SECONDARY;
}

/* A packet goes on to the stack as it came, and may get lost there as one that was injected. */
static void pass_on(struct prl_host *host, const struct frame *frame)
{
    struct prl_packet packet;
    const struct sim_sock *sock;
    uint32_t session = SIM_SESSIONS_MAX;

    if (prl_packet_parse(frame->data, frame->bytes, frame->bytes, true, &packet) == 0)
        session = session_of(host, frame->data + packet.l2_bytes, &packet, true);
    if (session == SIM_SESSIONS_MAX || !(sock = sock_of(host, session)))
        return;
    if (packet.payload_bytes && happens(host, host->drop_chance)) {
        host->dropped_injected++;
        sim_stack(host->index, session, 0, 0, 0, 0, is_bare(host, session, frame) ? SIM_UNSEEN : SIM_LOST);
        return;
    }
    deliver_cut(host, session, &packet, packet.payload_bytes);
}

static void io_settle_all(struct prl_host *host)
{
    struct frame *frame;

    step(host);
    while ((frame = queue_take(host->settled))) {
        if (frame->passes)
            pass_on(host, frame);
        free(frame);
    }
}

static int io_hold_read(struct prl_host *host, uint8_t *buffer, uint32_t capacity)
{
    struct frame *frame = queue_take(host->held);
    int bytes = 0;

    step(host);
    if (frame && frame->bytes <= capacity) {
        memcpy(buffer, frame->data, frame->bytes);
        bytes = (int)frame->bytes;
    }
    free(frame);
    return bytes;
}

static int io_hold_write(struct prl_host *host, const uint8_t *buffer, uint32_t bytes)
{
    const uint8_t *l3 = buffer + HEADERS_BYTES;
    struct prl_packet packet;
    struct prl_addr *addr;
    struct sim_sock *sock;
    uint32_t session;

    step(host);
    bytes -= (uint32_t)HEADERS_BYTES;
    if (prl_packet_parse(l3, bytes, bytes, false, &packet) ||
        (session = session_of(host, l3, &packet, false)) == SIM_SESSIONS_MAX) {
        wrong(host, "a segment for the wire is malformed");
        return 0;
    }
    addr = &host->service[host->service_of[session]].addr;
    sock = sock_of(host, session);
    if (!sock || !may_speak(host, addr, false))
        return 0;
    if (!is_good(l3 + packet.data_offset, packet.seq, packet.payload_bytes))
        wrong(host, "session %u: the bytes for the wire at %u are not the application's", session, packet.seq);
    emit(host, session, near(sock->snd_una, packet.seq), packet.payload_bytes,
         (packet.tcp_flags & PRL_TCP_FIN ? SIM_FIN : 0) | (packet.tcp_flags & PRL_TCP_RST ? SIM_RST : 0),
         packet.ack, true);
    return 0;
}

/* ARP alone: a claim (or a defence), or a question for a neighbour's own address. */
static int io_send_frame(struct prl_host *host, uint32_t lif, const uint8_t *frame, uint32_t bytes)
{
    uint32_t service = (uint32_t)frame[31] - 100;
    uint8_t trailer[SIM_TRAILER_BYTES];

    (void)lif;
    step(host);
    if (frame[31] < 100) { /* from the node's own address */
        if (is_on_wire(host))
            sim_asks(host->index);
    } else if (service < SIM_SERVICES_MAX && frame[0] == 0xff && frame[21] == 1) { /* to all, as a request */
        if (!may_speak(host, &host->service[service].addr, true))
            return 0;
        memset(trailer, 0, sizeof(trailer));
        memcpy(trailer, frame + 42, bytes - 42);
        sim_claims(host->index, service, trailer);
    }
    return 0;
}

static ssize_t link_read(void *state, void *buf, size_t bytes)
{
    struct prl_host *host = state;
    uint32_t take = host->link_in_bytes < bytes ? host->link_in_bytes : (uint32_t)bytes;

    step(host);
    if (!take)
        return host->link_ended ? 0 : -EAGAIN;
    memcpy(buf, host->link_in, take);
    host->link_in_bytes -= take;
    memmove(host->link_in, host->link_in + take, host->link_in_bytes);
    return take;
}

static ssize_t link_writev(void *state, const struct iovec *piece, int pieces)
{
    struct prl_host *host = state;
    uint32_t sent = 0;

    step(host);
    for (int i = 0; i < pieces && host->link_room; i++) {
        uint32_t take = piece[i].iov_len < host->link_room ? (uint32_t)piece[i].iov_len : host->link_room;

        host->link_out = realloc(host->link_out, host->link_out_bytes + take);
        memcpy(host->link_out + host->link_out_bytes, piece[i].iov_base, take);
        host->link_out_bytes += take;
        host->link_room -= take;
        sent += take;
    }
    return sent ? (ssize_t)sent : -EAGAIN;
}

static void link_close(void *state)
{
    struct prl_host *host = state;

    host->link_attached = 0;
    host->link_closed = 1;
}

static const struct prl_transport transport = {.read = link_read, .writev = link_writev, .close = link_close};

static int io_link_attach(struct prl_host *host, struct prl_link *link, int fd)
{
    host->link_attached = 1;
    host->link_ended = host->link_closed = host->watches_link = host->watches_link_room = 0;
    host->link_in_bytes = host->link_out_bytes = 0;
    prl_link_attach(link, &transport, host, fd);
    return 0;
}

static void io_link_detach(struct prl_host *host, struct prl_link *link)
{
    (void)host;
    prl_link_detach(link);
}

static int io_udp_open(struct prl_host *host, uint32_t path, int fd)
{
    (void)host;
    (void)path;
    (void)fd;
    return 0;
}

static ssize_t io_udp_send(struct prl_host *host, uint32_t path, const void *bytes, size_t count)
{
    step(host);
    if (path != PRL_PROBE_LAN || is_on_wire(host))
        sim_datagram(host->index, path, bytes, (uint32_t)count);
    return (ssize_t)count;
}

static ssize_t io_udp_receive(struct prl_host *host, uint32_t path, void *bytes, size_t capacity)
{
    struct frame *frame = queue_take(host->udp[path]);
    ssize_t got = -EAGAIN;

    step(host);
    if (frame) {
        memcpy(bytes, frame->data, frame->bytes < capacity ? frame->bytes : capacity);
        got = frame->bytes;
    }
    free(frame);
    return got;
}

static struct prl_node *io_node(struct prl_host *host)
{
    return &host->node;
}

static struct prl_flow *io_flow(struct prl_host *host, uint32_t slot)
{
    return &host->flow[slot];
}

static uint32_t number_of(const struct prl_flow_key *key)
{
    return (uint32_t)ntohs(key->remote_port) - SIM_PORT;
}

static int io_flow_add(struct prl_host *host, const struct prl_flow_key *key, uint32_t handle, uint32_t slot)
{
    if (host->slot_of[number_of(key)] >= 0)
        return -EEXIST;
    host->flow[slot].key = *key;
    host->slot_of[number_of(key)] = (int32_t)slot;
    host->handle_of[number_of(key)] = handle;
    return 0;
}

static int io_flow_rename(struct prl_host *host, const struct prl_flow_key *key, uint32_t handle, uint32_t slot)
{
    host->flow[slot].handle = handle;
    host->handle_of[number_of(key)] = handle;
    return 0;
}

static int io_flow_del(struct prl_host *host, const struct prl_flow_key *key)
{
    host->slot_of[number_of(key)] = -1;
    return 0;
}

static struct sim_service *service_at(struct prl_host *host, const struct prl_addr_key *key)
{
    uint32_t service = (uint32_t)key->addr[15] - 100;

    return service < SIM_SERVICES_MAX ? &host->service[service] : NULL;
}

static int io_addr_set(struct prl_host *host, const struct prl_addr_key *key, const struct prl_addr *value)
{
    struct sim_service *service = service_at(host, key);

    step(host);
    if (!service)
        return -ENODEV;
    if (value->state == PRL_ADDR_OWNER && service->addr.state != PRL_ADDR_OWNER &&
        service->addr.state != PRL_ADDR_LEAVING)
        service->owned++;
    service->addr = *value;
    service->used = 1;
    return 0;
}

static int io_addr_get(struct prl_host *host, const struct prl_addr_key *key, struct prl_addr *value)
{
    struct sim_service *service = service_at(host, key);

    if (!service || !service->used)
        return -ENOENT;
    *value = service->addr;
    return 0;
}

static int io_sample(struct prl_host *host, const uint32_t *slots, uint32_t count)
{
    step(host);
    for (uint32_t i = 0; i < count; i++)
        note_socket(host, number_of(&host->flow[slots[i]].key));
    return 0;
}

static int io_sock_dup(struct prl_host *host, int fd)
{
    if (fd < 0 || fd >= SIM_SOCKS_MAX || !host->sock[fd].refs)
        return -EBADF;
    host->sock[fd].refs++;
    return fd;
}

static void io_sock_close(struct prl_host *host, int fd)
{
    sim_release(host, fd);
}

static int io_sock_get(struct prl_host *host, int fd, int level, int option, void *value, uint32_t bytes)
{
    (void)host;
    (void)fd;
    (void)level;
    (void)option;
    (void)value;
    (void)bytes;
    return -ENOPROTOOPT;
}

static int io_sock_set(struct prl_host *host, int fd, int level, int option, const void *value, uint32_t bytes)
{
    (void)fd;
    (void)value;
    (void)bytes;
    if (level == IPPROTO_TCP && option == TCP_CONGESTION) { /* first of all that a session's take-over asks for */
        host->clock_ns += host->takeover_cost_ns;
        host->spent_ns += host->takeover_cost_ns;
    }
    return 0;
}

static int io_sock_unsent(struct prl_host *host, int fd)
{
    struct sim_sock *sock = &host->sock[fd];

    step(host);
    if (host->clock_ns >= sock->kept_back_until_ns)
        sock->pushed = sock->snd_nxt;
    return (int)(sock->snd_nxt - sock->pushed);
}

static ssize_t io_sock_send(struct prl_host *host, int fd, const uint8_t *bytes, size_t count, int flags)
{
    struct sim_sock *sock = &host->sock[fd];

    (void)flags;
    step(host);
    if (!sock->lives)
        return -EPIPE;
    if (!is_good(bytes, (uint32_t)sock->snd_nxt, (uint32_t)count))
        wrong(host, "session %u: the shadow's output is not the application's", sock->session);
    if (happens(host, host->keep_back_chance))
        sock->kept_back_until_ns = host->clock_ns + draw(host) % KEEP_BACK_MAX_NS;
    sock->snd_nxt += count;
    if (host->clock_ns >= sock->kept_back_until_ns)
        sock->pushed = sock->snd_nxt;
    return (ssize_t)count;
}

static int io_sock_end(struct prl_host *host, int fd)
{
    struct sim_sock *sock = &host->sock[fd];

    if (sock->fin)
        return 0;
    sock->fin = 1;
    sock->snd_nxt++;
    if (host->clock_ns >= sock->kept_back_until_ns)
        sock->pushed = sock->snd_nxt;
    return 0;
}

static int io_gate_attach(struct prl_host *host, int fd, uint32_t slot)
{
    host->sock[fd].slot = (int32_t)slot;
    return 0;
}

static int io_gate_detach(struct prl_host *host, int fd)
{
    host->sock[fd].slot = -1;
    return 0;
}

static int io_gate_cookie(struct prl_host *host, int fd, uint64_t *cookie)
{
    (void)host;
    *cookie = (uint64_t)fd + 1;
    return 0;
}

static int io_gate_forget(struct prl_host *host, uint64_t cookie)
{
    host->sock[cookie - 1].slot = -1;
    return 0;
}

static int io_await(struct prl_host *host, const struct prl_flow_key *endpoint, uint64_t wait_ns)
{
    (void)host;
    (void)endpoint;
    (void)wait_ns;
    return 0; /* the world says which sessions wait */
}

static bool io_newborn_end(struct prl_host *host, const struct prl_flow_key *key, struct prl_newborn *found)
{
    uint32_t session = (uint32_t)ntohs(key->remote_port) - SIM_PORT;
    bool has_waited = host->newborn_until_ns[session];

    *found = (struct prl_newborn){.until_ns = host->newborn_until_ns[session], .peer_mac = {2, 2, 2, 2, 2, 2}};
    host->newborn_until_ns[session] = 0;
    return has_waited;
}

static bool io_news(struct prl_host *host, struct prl_news *news)
{
    if (!host->news_count)
        return false;
    *news = host->news[0];
    memmove(host->news, host->news + 1, --host->news_count * sizeof(*news));
    return true;
}

static int io_moment_copy(struct prl_host *host, int fd, struct prl_moment *moment, uint8_t *queues,
                          uint32_t queues_max, struct prl_moment_counts *counts, const char **call)
{
    const struct sim_sock *sock = &host->sock[fd];

    step(host);
    *call = NULL;
    if (state_of(sock) != TCP_ESTABLISHED || sock->holes)
        return -ENOTSUP;
    *moment = (struct prl_moment){
        .state = PRL_TCP_ESTABLISHED,
        .rcv_seq = (uint32_t)sock->rcv_nxt,
        .snd_seq = (uint32_t)sock->snd_nxt,
        .unread_bytes = (uint32_t)(sock->rcv_nxt - sock->read),
        .unacked_bytes = (uint32_t)(sock->snd_nxt - sock->snd_una),
        .snd_wnd = SIM_BUFFER_BYTES,
        .rcv_wnd = (uint32_t)(edge_of(sock) - sock->rcv_nxt),
        .rcv_wup = (uint32_t)sock->rcv_nxt,
        .mss = MSS,
    };
    if (moment->unread_bytes + moment->unacked_bytes > queues_max)
        return -EMSGSIZE;
    fill(queues, (uint32_t)sock->read, moment->unread_bytes);
    fill(queues + moment->unread_bytes, (uint32_t)sock->snd_una, moment->unacked_bytes);
    *counts = (struct prl_moment_counts){.segs_in = sock->segs_in};
    return 0;
}

/* What is at rest has nothing in its queues, and may be copied while its program runs. */
static int io_moment_rest(struct prl_host *host, const struct prl_flow_key *key, int fd, struct prl_moment *moment,
                          struct prl_moment_counts *counts)
{
    const char *call;
    int err = io_moment_copy(host, fd, moment, NULL, 0, counts, &call);

    (void)key;
    return err == -EMSGSIZE ? -EBUSY : err;
}

static int io_moment_restore(struct prl_host *host, int fd, const struct prl_ready *ready, uint32_t snd_wscale,
                             uint32_t rcv_wscale, const struct prl_moment *moment, const uint8_t *queues,
                             uint64_t elapsed_ms, struct prl_moment_counts *counts, const char **call)
{
    struct sim_sock *sock = &host->sock[fd];

    (void)ready;
    (void)snd_wscale;
    (void)rcv_wscale;
    (void)elapsed_ms;
    (void)call;
    step(host);
    sock->rcv_nxt = near(sock->rcv_nxt, moment->rcv_seq);
    sock->read = sock->rcv_nxt - moment->unread_bytes;
    sock->snd_nxt = sock->pushed = near(sock->snd_nxt, moment->snd_seq);
    sock->snd_una = sock->snd_nxt - moment->unacked_bytes;
    if (!is_good(queues, (uint32_t)sock->read, moment->unread_bytes) ||
        !is_good(queues + moment->unread_bytes, (uint32_t)sock->snd_una, moment->unacked_bytes))
        wrong(host, "session %u: the queues of its moment are not its own", sock->session);
    sock->lives = 1;
    sim_bind(host, sock->session, fd);
    *counts = (struct prl_moment_counts){0};
    return 0;
}

static int io_moment_segs_in(struct prl_host *host, int fd, uint32_t *segs_in)
{
    *segs_in = host->sock[fd].segs_in;
    return 0;
}

static int io_moment_keep_ahead(struct prl_host *host, int fd, uint32_t seen, uint32_t elapsed_ms)
{
    (void)host;
    (void)fd;
    (void)seen;
    (void)elapsed_ms;
    return 0;
}

static const struct prl_io io = {
    .now_ns = io_now_ns,
    .start = io_start,
    .close = io_close,
    .wait = io_wait,
    .wake = io_wake,
    .watch = io_watch,
    .set_timer = io_set_timer,
    .hurry = io_hurry,
    .receive = io_receive,
    .refill = io_refill,
    .count = io_count,
    .settle = io_settle,
    .settle_all = io_settle_all,
    .inject = io_inject,
    .hold_read = io_hold_read,
    .hold_write = io_hold_write,
    .send_frame = io_send_frame,
    .link_attach = io_link_attach,
    .link_detach = io_link_detach,
    .udp_open = io_udp_open,
    .udp_send = io_udp_send,
    .udp_receive = io_udp_receive,
    .node = io_node,
    .flow = io_flow,
    .flow_add = io_flow_add,
    .flow_rename = io_flow_rename,
    .flow_del = io_flow_del,
    .addr_set = io_addr_set,
    .addr_get = io_addr_get,
    .sample = io_sample,
    .await = io_await,
    .newborn_end = io_newborn_end,
    .news = io_news,
    .sock_dup = io_sock_dup,
    .sock_close = io_sock_close,
    .sock_get = io_sock_get,
    .sock_set = io_sock_set,
    .sock_unsent = io_sock_unsent,
    .sock_send = io_sock_send,
    .sock_end = io_sock_end,
    .gate_attach = io_gate_attach,
    .gate_detach = io_gate_detach,
    .gate_cookie = io_gate_cookie,
    .gate_forget = io_gate_forget,
    .moment_copy = io_moment_copy,
    .moment_rest = io_moment_rest,
    .moment_restore = io_moment_restore,
    .moment_segs_in = io_moment_segs_in,
    .moment_keep_ahead = io_moment_keep_ahead,
};

/* ---- life ---- */

struct prl_host *sim_boot(uint32_t index, uint64_t seed)
{
    struct prl_host *host = calloc(1, sizeof(*host));

    host->index = index;
    host->random = seed | 1;
    host->node.stale_ns = 200000000;
    host->captured = calloc(4 + PRL_PROBE_PATHS, sizeof(*host->captured));
    host->held = host->captured + 1;
    host->kept = host->captured + 2 + PRL_PROBE_PATHS;
    host->settled = host->kept + 1;
    for (uint32_t path = 0; path < PRL_PROBE_PATHS; path++)
        host->udp[path] = host->captured + 2 + path;
    host->frames_max = 256;
    host->wrong_session = SIM_SESSIONS_MAX;
    host->link_in = malloc(PRL_LINK_RX_BYTES);
    for (uint32_t i = 0; i < SIM_SESSIONS_MAX; i++)
        host->slot_of[i] = host->sock_of[i] = -1;
    return host;
}

void sim_power_off(struct prl_host *host)
{
    sim_kill(host);
    queue_free(host->captured);
    queue_free(host->kept);
    queue_free(host->settled);
    queue_free(host->held);
    for (uint32_t path = 0; path < PRL_PROBE_PATHS; path++)
        queue_free(host->udp[path]);
    free(host->captured);
    free(host->link_in);
    free(host->link_out);
    free(host->pass);
    free(host);
}

int sim_start(struct prl_host *host, struct prl_dp_config *config, char *error)
{
    for (uint32_t i = 0; i < SIM_FLOWS_MAX; i++) /* prl_kernel_forget() */
        if (host->flow[i].flags)
            host->flow[i].flags = PRL_FLOW_OPEN;
    for (uint32_t i = 0; i < SIM_SESSIONS_MAX; i++)
        host->slot_of[i] = -1;
    host->node.bypassed = 0;
    host->node.leases = 0; /* set_node() in userspace/io/kernel.c */
    host->node.hold_ns = config->owner.hold_ns;
    host->node.hung_ns = config->owner.hung_ns;
    host->timer_ns = 0;
    host->watches_hold = host->watches_headers = host->woken = host->stalled = 0;
    host->stall_after = host->borrowed = 0;
    host->dp = dp_open(config, &io, host, error);
    if (host->dp)
        host->dp->link.tx_bytes = host->link_queue_bytes;
    return host->dp ? 0 : -EIO;
}

void sim_kill(struct prl_host *host)
{
    if (!host->dp)
        return;
    prl_dp_close(host->dp);
    host->dp = NULL;
    host->stalled = 0;
    host->stall_after = 0;
    host->news_count = 0;
}

static bool has_datagrams(const struct prl_host *host)
{
    return host->udp[PRL_PROBE_LAN]->count || host->udp[PRL_PROBE_LINK]->count;
}

/* What waits for a look that its coming asks for. */
static bool has_frames(const struct prl_host *host)
{
    for (const struct frame *frame = host->captured->head; frame; frame = frame->next)
        if (frame->is_whole || host->watches_headers)
            return true;
    return false;
}

bool sim_has_work(const struct prl_host *host)
{
    return host->woken || host->news_count || has_frames(host) || has_datagrams(host) ||
           (host->held->count && host->watches_hold) ||
           ((host->link_in_bytes || host->link_ended) && host->link_attached && host->watches_link) ||
           (host->watches_link_room && host->link_room && host->link_attached);
}

static int turn(struct prl_host *host)
{
    uint32_t ready = 0;

    if ((host->link_in_bytes || host->link_ended) && host->link_attached && host->watches_link)
        ready |= PRL_READY_LINK;
    if (host->held->count && host->watches_hold)
        ready |= PRL_READY_HOLD;
    if (has_datagrams(host))
        ready |= PRL_READY_UDP;
    host->woken = 0;
    if (host->timer_ns <= host->clock_ns)
        host->timer_ns = 0;
    return dp_turn(host->dp, ready);
}

static void run_pass(uint32_t high, uint32_t low)
{
    struct prl_host *host = (struct prl_host *)((uintptr_t)high << 32 | low);
    struct pass *pass = host->pass;

    pass->result = turn(host);
    host->stall_after = 0;
    swapcontext(&pass->stopped, &pass->world);
}

int sim_turn(struct prl_host *host)
{
    struct pass *pass;

    if (!host->stall_after)
        return turn(host);
    if (!host->pass)
        host->pass = malloc(sizeof(*pass));
    pass = host->pass;
    getcontext(&pass->stopped);
    pass->stopped.uc_stack.ss_sp = pass->stack;
    pass->stopped.uc_stack.ss_size = sizeof(pass->stack);
    pass->stopped.uc_link = NULL;
    makecontext(&pass->stopped, (void (*)(void))run_pass, 2, (uint32_t)((uintptr_t)host >> 32),
                (uint32_t)(uintptr_t)host);
    swapcontext(&pass->world, &pass->stopped);
    return host->stalled ? SIM_STOPPED : pass->result;
}

int sim_resume(struct prl_host *host)
{
    struct pass *pass = host->pass;

    host->stalled = 0;
    swapcontext(&pass->world, &pass->stopped);
    return host->stalled ? SIM_STOPPED : pass->result;
}

void sim_datagram_arrives(struct prl_host *host, uint32_t path, const uint8_t *bytes, uint32_t count)
{
    struct frame *frame;

    if (path == PRL_PROBE_LAN)
        note_lan(host, PRL_WATCH_FRAMES);
    if (!host->dp || host->udp[path]->count >= host->frames_max)
        return;
    frame = queue_put(host->udp[path], count);
    memcpy(frame->data, bytes, count);
}

static bool renews_lease(struct prl_host *host, bool is_linked, uint64_t pass_ns)
{
    struct prl_node *node = &host->node;

    if (!is_linked || !node->leases || node->bypassed || pass_ns >= node->hung_ns)
        return false;
    node->answered_ns = host->clock_ns;
    return true;
}

bool sim_answer(struct prl_host *host, uint32_t path, uint8_t *bytes, uint32_t *count)
{
    struct prl_node *node = &host->node;
    const struct prl_siphash_key key = {{node->probe_key[0], node->probe_key[1]}};
    struct prl_probe probe;
    uint64_t confirms, pass_ns;

    if (*count != sizeof(probe))
        return false;
    memcpy(&probe, bytes, sizeof(probe));
    if (probe.magic != htonl(PRL_PROBE_MAGIC) || probe.type != PRL_PROBE_ASKS)
        return false;
    *count = 0;
    if (!(key.word[0] | key.word[1]) || be64toh(probe.epoch) != node->probe_epoch ||
        probe.asker != node->claimant || probe.path != path || prl_siphash_probe(&key, &probe) != probe.mac ||
        be64toh(probe.number) <= node->probe_seen[path])
        return true;
    node->probe_seen[path] = be64toh(probe.number);
    confirms = be64toh(probe.confirms);
    if (probe.flags & PRL_PROBE_LINKED && confirms > node->confirmed_ns && confirms <= host->clock_ns)
        node->confirmed_ns = confirms;
    if (path == PRL_PROBE_LAN)
        node->lan_probed_ns = host->clock_ns;
    pass_ns = host->clock_ns - node->heartbeat_ns;
    probe.type = PRL_PROBE_ANSWERS;
    probe.flags = renews_lease(host, probe.flags & PRL_PROBE_LINKED, pass_ns) ? PRL_PROBE_LEASES : 0;
    probe.at_ns = htobe64(host->clock_ns);
    probe.pass_ns = htobe64(pass_ns);
    probe.known_ns = htobe64(node->confirmed_ns);
    probe.owned = htons((uint16_t)node->owned);
    probe.fenced = htons((uint16_t)node->fenced);
    probe.silent = htons((uint16_t)node->silent);
    probe.mac = prl_siphash_probe(&key, &probe);
    memcpy(bytes, &probe, sizeof(probe));
    *count = sizeof(probe);
    return true;
}

void sim_link_arrives(struct prl_host *host, const uint8_t *bytes, uint32_t count)
{
    if (host->link_in_bytes + count > PRL_LINK_RX_BYTES) {
        wrong(host, "the link's bytes find no room");
        return;
    }
    memcpy(host->link_in + host->link_in_bytes, bytes, count);
    host->link_in_bytes += count;
}

/* ---- sockets ---- */

int sim_socket(struct prl_host *host, uint32_t session)
{
    for (int fd = 0; fd < SIM_SOCKS_MAX; fd++)
        if (!host->sock[fd].refs) {
            host->sock[fd] = (struct sim_sock){.refs = 1, .lives = 1, .session = session, .slot = -1};
            return fd;
        }
    return -1;
}

/* bpf/sessions.bpf.c */
static void tell_end(struct prl_host *host, int32_t fd)
{
    int32_t slot = host->sock[fd].slot;

    if (slot < 0 || !host->dp || host->news_count == SIM_NEWS_MAX || happens(host, host->unheard_chance))
        return;
    host->news[host->news_count++] = (struct prl_news){
        .kind = PRL_NEWS_ENDED,
        .cookie = (uint64_t)fd + 1,
        .slot = (uint32_t)slot,
        .handle = host->handle_of[host->sock[fd].session],
    };
}

void sim_bind(struct prl_host *host, uint32_t session, int fd)
{
    int32_t before = host->sock_of[session];

    if (before >= 0 && before != fd) {
        host->sock[before].lives = 0;
        tell_end(host, before);
        host->sock_of[session] = -1;
        sim_release(host, before);
    }
    host->sock_of[session] = fd;
}

void sim_release(struct prl_host *host, int fd)
{
    if (fd < 0 || fd >= SIM_SOCKS_MAX || !host->sock[fd].refs) {
        wrong(host, "descriptor %d is closed once too often", fd);
        return;
    }
    host->sock[fd].refs--;
}

/* ---- a look inside ---- */

void sim_flow(const struct prl_host *host, uint32_t session, struct sim_flow *found)
{
    int32_t slot = host->slot_of[session];
    const struct dp_flow *flow = host->dp && slot >= 0 ? &host->dp->flows[slot] : NULL;
    const struct prl_queues *queues;

    memset(found, 0, sizeof(*found));
    if (!flow || !flow->used)
        return;
    found->used = 1;
    found->secondary = flow->secondary;
    found->relaying = flow->relaying;
    found->handle = flow->spec.handle;
    found->generation = flow->spec.generation;
    if (flow->secondary) {
        found->state = dp_secondary_of(flow)->state;
        found->reason = dp_secondary_of(flow)->reason;
        found->confirmed = dp_secondary_of(flow)->confirmed;
        return;
    }
    found->state = dp_primary_of(flow)->state;
    found->reason = dp_primary_of(flow)->reason;
    queues = dp_primary_of(flow)->queues;
    if (!queues)
        return;
    found->in_held = queues->in_held.count;
    found->out_held = queues->out_held.count;
    found->waiting = queues->in_held.count + queues->out_held.count + queues->in_pending.count +
                     queues->out_pending.count + queues->relayed.count;
}

uint64_t sim_states(const struct prl_host *host)
{
    const struct prl_dp *dp = host->dp;
    uint64_t states = 0;

    for (uint32_t i = 0; i < dp->flows_top; i++) {
        const struct dp_flow *flow = &dp->flows[i];
        uint32_t state = flow->secondary ? 16u + dp_secondary_of(flow)->state : dp_primary_of(flow)->state;

        states = (states ^ (flow->used ? flow->spec.handle ^ flow->spec.generation << 8 ^ state << 16 : 0)) *
                 0x9e3779b97f4a7c15ull;
    }
    for (uint32_t i = 0; i < dp->config.owner.services; i++)
        states = (states ^ dp->moves[i].state) * 0x9e3779b97f4a7c15ull;
    return states;
}

/* Of the chain of kept packets (R8), and of what the socket has behind a hole. */
uint64_t sim_reach(const struct prl_host *host, uint32_t session)
{
    const struct sim_sock *sock = &host->sock[host->sock_of[session]];
    const struct dp_flow *flow = &host->dp->flows[host->slot_of[session]];
    const struct dp_unfed *unfed = flow->secondary ? dp_shadow_of(flow)->unfed : NULL;
    uint64_t reach = sock->rcv_nxt, before;

    do {
        before = reach;
        for (uint32_t i = 0; i < sock->holes; i++)
            if (sock->hole_from[i] <= reach && reach < sock->hole_to[i])
                reach = sock->hole_to[i];
        for (const struct prl_hold *hold = unfed ? unfed->kept.head : NULL; hold; hold = hold->next)
            if (dp_hold_has_bytes(hold) && near(reach, hold->tcp_seq) <= reach &&
                reach < near(reach, hold->tcp_end))
                reach = near(reach, hold->tcp_end);
    } while (reach != before);
    return reach;
}

struct prl_owner *sim_owner(const struct prl_host *host)
{
    return host->dp ? &host->dp->owner : NULL;
}

uint64_t sim_lan_counter(const struct prl_host *host)
{
    return host->dp ? dp_lan_counter(host->dp) : 0;
}

struct prl_move *sim_move(const struct prl_host *host, uint32_t service)
{
    return host->dp ? &host->dp->moves[service] : NULL;
}

void sim_number(const struct prl_host *host, uint32_t session, uint32_t base)
{
    int32_t slot = host->slot_of[session];
    struct dp_flow *flow = slot >= 0 ? &host->dp->flows[slot] : NULL;

    if (!flow || !base)
        return;
    if (flow->secondary) {
        struct prl_secondary *secondary = dp_secondary_of(flow);

        secondary->in_next = secondary->out_next = base;
        secondary->in_accepted = base - 1;
    } else {
        struct prl_primary *primary = dp_primary_of(flow);

        primary->in_next = primary->out_next = base;
        primary->in_acked = primary->out_acked = base - 1;
    }
}

uint64_t sim_tick_ns(const struct prl_host *host)
{
    return host->dp->tick_ns;
}

void sim_scatter(struct prl_host *host)
{
    uint32_t first = prl_umem_copy(host->umem, (const uint8_t *)"", 1);
    uint32_t second = prl_umem_copy(host->umem, (const uint8_t *)"", 1);

    prl_umem_free_packet(host->umem, first);
    prl_umem_free_packet(host->umem, second);
}

uint32_t sim_drain(struct sim_frames *queue)
{
    uint32_t count = queue->count;

    queue_free(queue);
    return count;
}

void sim_leave_holds(struct prl_host *host, uint32_t entries)
{
    struct prl_pool *pool = &host->dp->held.pool;

    for (host->borrowed = 0; pool->capacity - pool->used > entries; host->borrowed++)
        prl_pool_get(pool);
}

const char *sim_audit(const struct prl_host *host)
{
    static char words[128];
    struct prl_dp *dp = host->dp;
    uint32_t waiting = dp_reinject_waiting(dp), buffers = 0, frames = 0, kept = 0, bare = 0;

    for (uint32_t i = 0; i < dp->flows_top; i++) {
        const struct dp_flow *flow = &dp->flows[i];
        const struct prl_queues *queues = flow->secondary ? NULL : dp_primary_of(flow)->queues;
        uint32_t of_flow = 0;

        if (!flow->used)
            continue;
        if (flow->peer_mac[0] == PRL_MIRROR_MAC_0)
            return "a number on the cable is taken for a peer's MAC address";
        if (flow->secondary) {
            const struct dp_unfed *unfed = dp_shadow_of(flow)->unfed;

            if (!unfed)
                continue;
            waiting += unfed->kept.count + unfed->waiting.count + unfed->unjoined.count;
            for (const struct prl_hold *hold = unfed->kept.head; hold; hold = hold->next)
                of_flow += !dp_hold_has_bytes(hold);
            if (unfed->bare != of_flow)
                return "packets that cannot be fed again are not as many as they are counted";
            bare += of_flow;
        } else if (queues) {
            waiting += queues->in_held.count + queues->in_pending.count + queues->relayed.count;
            buffers += queues->out_held.count + queues->out_pending.count;
        }
    }
    waiting += dp_mirror_count(dp);
    words[0] = 0;
    if (dp->held.pool.used != host->borrowed + waiting + buffers)
        snprintf(words, sizeof(words), "%u entries are in use, %u packets wait",
                 dp->held.pool.used - host->borrowed, waiting + buffers);
    else if (dp->held.buffers_free + buffers != PRL_DP_OUTPUT_BUFFERS)
        snprintf(words, sizeof(words), "%u buffers are free, %u are in use", dp->held.buffers_free, buffers);
    for (uint32_t i = 0; i < dp->held.pool.capacity; i++) {
        kept += dp->held.queued[i] != 0;
        bare += dp->held.queued[i] && !dp_hold_has_bytes(&dp->held.pool.slab[i]);
    }
    if (!words[0] && host->settled->count)
        snprintf(words, sizeof(words), "%u verdicts are not sent", host->settled->count);
    if (!words[0] && host->kept->count != kept)
        snprintf(words, sizeof(words), "%u packets wait in the kernel, %u of them are known here",
                 host->kept->count, kept);
    frames = PRL_DP_FRAMES - prl_umem_free_frames(dp->umem);
    if (!words[0] && (frames < waiting - bare || (waiting == bare && frames)))
        snprintf(words, sizeof(words), "%u frames are in use, %u packets wait", frames, waiting);
    return words;
}
