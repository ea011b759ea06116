/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Inside the datapath: the structure that its files share. Everything here runs under dp->lock.
 *
 *     loop/loop.c  the loop: what a packet goes through, from top to bottom
 *     flow/table.c    the flow table, setting up and forgetting flows
 *     node/setup.c    setting up in two steps: what happens while a session stands still
 *     path/primary.c  the primary's packets and what its state machine asks for
 *     path/shadow.c  the shadows' input and output
 *     path/sign.c     the headers of signed flows (RFC 2385)
 *     path/udp.c      room in a UDP socket, what it dropped
 *     node/switchover.c  a service moves by word over the link
 *     loop/wait.c    what the loop waits for, polling instead of sleeping
 *     node/ownership.c    lease, LAN heartbeats, claims, take-over
 *     api/control.c  events, link calls, status
 */
#ifndef PRL_FLOW_DP_H
#define PRL_FLOW_DP_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "core/handle.h"
#include "tcp/serial.h"
#include "api/datapath.h"
#include "io/link.h"
#include "io/gro.h"
#include "io/io.h"
#include "tcp/packet.h"
#include "io/probes.h"
#include "flow/siphash.h"
#include "flow/slab.h"
#include "io/tap.h"
#include "io/umem.h"

#define DP_LIST_END 0xffffffffu
/* struct prl_hold.frame of held output: a buffer's number with this bit; otherwise a UMEM packet. */
#define DP_FRAME_IS_BUFFER (1ull << 63)
/* The last eighth of frames, entries and buffers is for flows that hold no more than so many packets (R4: when the
 * memory of all is short, the flow that took it loses packets, not the others). */
#define DP_RESERVE_SHARE 8
#define DP_FAIR_PACKETS 64
#define DP_FAIR_BUFFERS 8
/* Work of one pass over one source, frames or messages (R4: bounded per wake-up; heartbeats go between two passes). */
#define DP_BATCH 256
/* Polling gives the CPU away after every look. Absences that are longer than the first of these count; beyond an eighth of
 * the time, and the sum, the CPU is wanted by others, and polling only waits for it. Then prld sleeps until there is work,
 * which wakes it at once, and tries again to poll after a while. */
#define DP_CROWDED_NS 100000ull
#define DP_CROWDED_SHARE 8
#define DP_CROWDED_SUM_NS 2000000ull
#define DP_CROWDED_RETRY_NS 100000000ull
/* After so many looks that found a single held segment, the next ones expect no second. */
#define DP_SINGLES 16
/* Bytes of event bodies that wait for Python. */
#define DP_EVENT_BODIES_MAX (32u << 20)
/* A socket that has gone is noticed within this time. Of more flows than DP_SCAN_FLOWS only a share is looked at each time, an eighth
 * at the least, for asking that many sockets takes CPU: one of 1,000 is noticed within 0.8 s, one of 10,000 within 1.6 s. */
#define DP_ENDED_SCAN_NS 200000000ull
#define DP_SCAN_FLOWS 256u
#define DP_SCAN_SHARES 8u
/* Flows that something happened to are looked at so often. */
#define DP_TICK_NS 5000000ull
/* Slots of one step of that look, one step a tick, so that no tick takes long: 100,000 flows in 16 s. */
#define DP_SCAN_SLOTS 256
/* Of the look for flows that went astray: so many slots a tick. */
#define DP_STRAY_SLOTS 8192
/* A shadow with unread bytes is looked at so often: nothing tells of a read that does not open the window. */
#define DP_UNREAD_SAMPLE_NS 20000000ull
/* Held output that went missing on its way here is held again after this time. */
#define DP_HOLD_REPAIR_MS 50u
/* Packets fed to shadows between two looks at their sockets. */
#define DP_FED_MAX 1024
/* Busy flows compare their hashes every so many packets; more than any flow may have outstanding. */
#define DP_COMPARE_EVERY 4096u
/* Quiet for so long, a flow's sockets can be compared, too. */
#define DP_COMPARE_QUIET_NS 20000000ull
/* The socket is looked at so often, every tick, before two sides count as different: while a reader that has the socket's
 * lock is off the CPU, the kernel gives it nothing (the backlog, net/core/sock.c). */
#define DP_COMPARE_TRIES 200u
/* A kept packet is fed again after this time, then after twice as long, so often: 1.3 s in all. A reader that does not
 * come to run leaves no room, and what is kept is not lost: it is fed before the shadow is taken over, too. */
#define DP_KEPT_WAIT_NS 20000000ull
#define DP_KEPT_TRIES 5
/* A flow that has moved here is given to the stack when no input has come for so long. */
#define DP_RELAY_QUIET_NS 20000000ull
/* Different congestion controls of the shadows' applications; a kernel has some twenty. Further ones are refused. */
#define DP_CONGESTIONS_MAX 64
/* Tries to push appended bytes out of a shadow (FACT: TCP_NODELAY pushes what TSO deferral kept back). */
#define DP_PUSH_TRIES 16

/* Where two sides compared equal (R12a). */
struct dp_compare {
    uint64_t hash; /* running, over all packets up to now */
    uint32_t sent_in, sent_out; /* primary: numbers of the last COMPARE */
};

/* What a shadow has only while packets of it wait here. */
struct dp_unfed {
    struct prl_chain kept; /* acknowledged packets that its kernel does not have yet (R8) */
    struct prl_chain waiting; /* relaying: came here before something in front of it was relayed */
    uint32_t kept_tries;
    uint32_t pad;
};

/* What a flow is lent while packets of it wait. */
union dp_busy {
    struct prl_queues queues;
    struct dp_unfed unfed;
};

/* What only a shadow needs. */
struct dp_shadow {
    struct dp_unfed *unfed; /* of dp->busy; NULL: nothing waits */
    uint64_t check_hash[2]; /* R12a: at the last two multiples of DP_COMPARE_EVERY */
    uint32_t check_seq[2];
    uint32_t rcv_nxt, snd_una, in_seq; /* what is still to be found in its socket */
    uint32_t out_hash;   /* of what is appended to it, when that is wanted */
    uint32_t in_end;     /* behind the newest payload that was replicated */
    uint32_t relay_next; /* relaying: input up to here has been fed */
    uint8_t tries;       /* 0: nothing to be found */
    uint8_t congestion; /* the application's congestion control, set again at take-over: one of dp->congestion */
    bool in_end_known;
};

/* What is kept of struct prl_flow_spec, under the same names; the key is in struct prl_flow. */
struct dp_spec {
    uint32_t handle, generation;
    int fd; /* the datapath's own duplicate, or -1 */
    uint16_t mss;
    bool timestamps, hash_output;
};

/* One for each flow that there may be, in pages of their own: every byte counts (T7), and every cache line that a packet
 * needs (T6): the first one, that of the core's numbers, that of its counters, and the last one. */
struct dp_flow {
    bool used, secondary, dirty;
    bool relaying; /* moved here: input is captured and fed in order, without being replicated */
    bool has_peer_ts;
    bool edge_known; /* kernel->edge_limit is valid */
    bool key_changed; /* the stack signs with another key than ours: the flow needs a new snapshot */
    bool awake; /* in dp->awake: time may bring it something (dp_flows_tick) */
    struct dp_spec spec;
    struct prl_flow *kernel; /* of `slot`; kernel->key is the flow's */
    struct prl_md5_key *md5; /* NULL: it is not signed */
    uint32_t slot;
    uint32_t next_by_handle, next_by_key, next_awake, next_dirty;
    uint8_t service;
    union { /* by `secondary` */
        struct prl_primary primary;
        struct {
            struct prl_secondary secondary_core;
            struct dp_shadow shadow;
        };
    };
    struct dp_compare compare;
    uint64_t last_input_ns; /* primary: released; shadow: fed; relaying: captured */
    uint64_t orphan_cookie; /* the socket's, once spec.fd is -1 */
    /* last seen in the peer's segments, for crafted ones */
    uint32_t peer_tsval, peer_tsecr;
    uint32_t peer_tcp_end; /* the newest byte that it sent ends here */
    uint16_t peer_window;
    uint8_t peer_mac[6]; /* next hop towards the peer */
    uint32_t hold_missing_since_ms; /* CLOCK_BOOTTIME, the low 32 bits, never 0; 0: nothing is missing */
    uint32_t udp_lost_before; /* datagrams that the socket had dropped when the flow was set up */
    uint32_t former_handle; /* as a shadow: frames that were captured before have it still; 0 = none */
} __attribute__((aligned(64)));

/* A packet that a shadow was just fed; its bytes are still in the link's buffer. Or a comparison with its socket. */
struct dp_fed {
    uint32_t slot;
    uint32_t bytes; /* 0: nothing was fed, the primary's numbers are to be found */
    uint32_t tcp_seq, tcp_end; /* a FIN counts one */
    const uint8_t *data;
    uint16_t lif;
};

/* loop/wait.c; of the loop alone, but for link_events. */
struct dp_wait {
    uint32_t link_events, output_events; /* what is watched for now */
    uint64_t poll_until_ns;              /* the end of adaptive polling */
    uint64_t crowded_until_ns;           /* no polling before */
    uint64_t away_ns, back_ns;           /* absences that are not made up for yet; the end of the last one */
};

struct dp_event {
    struct dp_event *next;
    struct prl_event event;
    uint8_t body[];
};

struct prl_dp {
    struct prl_dp_config config;
    const struct prl_io *io; /* the machine, and what it asks to be called with */
    struct prl_host *host;
    struct prl_node *node; /* the programs', shared */
    pthread_mutex_t lock;
    _Atomic uint32_t waiting; /* callers that want the lock */
    _Atomic bool stop;
    int event_fd;
    uint64_t now_ns; /* CLOCK_BOOTTIME, read once a pass */
    struct dp_wait wait;

    struct prl_umem *umem;
    uint16_t port_lif[PRL_LIFS_MAX * PRL_QUEUES_MAX];
    uint32_t ports;
    struct prl_received received[DP_BATCH];
    uint32_t output_singles; /* looks at the hold TAP, one after the other, that found one segment and no more */
    bool output_again; /* there may be more than the last look took */

    uint8_t *buffers; /* PRL_DP_OUTPUT_BUFFERS of PRL_TAP_BUFFER_BYTES */
    uint32_t buffer_bytes[PRL_DP_OUTPUT_BUFFERS];
    uint32_t buffer_free[PRL_DP_OUTPUT_BUFFERS];
    uint32_t buffers_free;

    struct prl_pool holds;
    struct prl_slab busy; /* union dp_busy: as many as holds, one of which each flow that has one holds */
    char congestion[DP_CONGESTIONS_MAX][16]; /* names of which shadows keep the number; [0] is none */
    uint32_t congestions;
    struct dp_flow *flows;
    uint32_t *by_handle, *by_key; /* buckets */
    uint32_t *by_former, *next_by_former; /* likewise, and chains: flows whose handle as a shadow was another */
    struct prl_siphash_key hash_key; /* addresses, ports and handles are chosen by others */
    uint32_t buckets;
    uint32_t *slots_free;
    uint32_t slots_free_count;
    uint32_t flows_top; /* slots below this have been used */
    uint32_t last_handle; /* that this node has allocated */
    uint32_t dirty; /* flows that owe an ACK */
    uint32_t awake; /* flows that dp_flows_tick() looks at; all others cost nothing until something happens */
    uint32_t scan_next; /* slot at which the look at all flows goes on */
    uint32_t scans;     /* such looks up to now: which share of the flows is looked at */
    uint64_t tick_ns; /* when dp_flows_tick() has something to do next */

    struct prl_link link;
    bool link_up; /* HELLO agreed; false: only HELLO is read */
    bool hello_seen;
    bool link_again; /* more messages are here than the last pass took */
    bool link_overflow; /* a message found no room: the stream has a hole, the connection is given up */
    uint64_t epoch, capabilities, rtt_ns, rtt_min_ns;
    uint64_t lease_came_ns; /* when the newest LEASE did, which the next one echoes */
    uint8_t lan_key[32], own_token[PRL_TOKEN_BYTES], peer_token[PRL_TOKEN_BYTES];
    bool lan_key_known;
    uint64_t lan_counter_seen;
    uint32_t lan_service; /* of which the next LAN heartbeat tells */

    struct prl_owner owner;
    struct prl_move moves[PRL_SERVICES_MAX];
    uint32_t claims_left, claims_mask; /* fast ones that are left; services that are claimed */
    uint32_t claims_slow_mask; /* services taken over from a node that has not said that it knows */
    uint8_t claims_token[PRL_TOKEN_BYTES]; /* the one that it knows */
    uint64_t claims_next_ns;
    bool proof_awaited; /* the kernel is to be told when owner.proof_by_ns is met */
    struct prl_dp_neighbour neighbour[PRL_DP_NEIGHBOURS_MAX];
    uint32_t neighbours;
    uint64_t foreign_seen[PRL_ADDRS_MAX], defend_next_ns[PRL_ADDRS_MAX], alarm_next_ns[PRL_ADDRS_MAX];
    uint64_t next_scan_ns;
    uint64_t strays_seen; /* of prl_node.strays, when the look for them began (path/stray.c) */
    uint32_t stray_next;  /* slot at which it goes on */

    struct prl_gro gro;
    struct prl_chain released; /* reinjected, freed once the gathered packet is written */
    struct dp_fed fed[DP_FED_MAX];
    uint32_t fed_count;
    uint32_t
        compare_due[PRL_SAMPLE_MAX]; /* slots of quiet flows whose numbers go to the other side in this tick */
    uint32_t compare_due_count;

    struct dp_setups *setups;
    struct dp_event *events_head, *events_tail;
    uint32_t events, events_body_bytes;
    struct prl_dp_counters counters;
    struct prl_hold_times held_in, held_out;
};

/* A datapath on a machine, which it takes over, also on failure: NULL and words in error[PRL_ERROR_BYTES]. */
struct prl_dp *dp_open(const struct prl_dp_config *config, const struct prl_io *io, struct prl_host *host,
                       char *error);
/* One turn of the loop: a pass over what is ready (enum prl_io_ready), then what there is to wait for. Whether to look for
 * more rather than to sleep, or -errno. */
int dp_turn(struct prl_dp *dp, uint32_t ready);
static inline uint64_t dp_clock_ns(const struct prl_dp *dp)
{
    return dp->io->now_ns(dp->host);
}
void dp_lock(struct prl_dp *dp);
void dp_unlock(struct prl_dp *dp);
/* Writes what reinjection has gathered (gro.h): before the flow's flags change, its bytes go, or the lock does. */
void dp_flush_input(struct prl_dp *dp);

/* loop/wait.c. Under the lock: what there is to wait for, until next_ns (CLOCK_BOOTTIME) at the latest. 0 or -errno. */
int dp_wait_prepare(struct prl_dp *dp, uint64_t next_ns);
/* Whether to look for work again rather than to sleep. */
bool dp_polls_on(struct prl_dp *dp, bool worked);
/* Lets others have the CPU, and notes how long they kept it. */
void dp_give_way(struct prl_dp *dp);

/* flow/table.c */
int dp_flows_init(struct prl_dp *dp);
void dp_flows_destroy(struct prl_dp *dp);
struct dp_flow *dp_flow_by_handle(struct prl_dp *dp, uint32_t handle);
/* The flow that a frame was captured for; it may have been renamed since. NULL: it was forgotten. */
struct dp_flow *dp_flow_of_frame(struct prl_dp *dp, const struct prl_meta *meta);
/* The flow that had this handle as a shadow, and has moved here. */
struct dp_flow *dp_flow_by_former(struct prl_dp *dp, uint32_t handle);
struct dp_flow *dp_flow_by_key(struct prl_dp *dp, const struct prl_flow_key *key);
void dp_flow_forget(struct prl_dp *dp, struct dp_flow *flow);
void dp_flow_set_flags(struct dp_flow *flow);
/* Right edge that the flow's own socket takes now (R10). */
uint32_t dp_flow_own_edge(const struct dp_flow *flow);
void dp_flow_sample(struct prl_dp *dp, struct dp_flow *flow);
void dp_flow_note_peer(struct dp_flow *flow, const struct prl_packet *packet);
/* Whether a packet of the link's, from L3 on, is the flow's. */
bool dp_flow_has_packet(const struct dp_flow *flow, const uint8_t *l3, const struct prl_packet *packet,
                        uint16_t lif, uint16_t packet_flags);
/* What packets that wait need: lent before one does, taken back once none waits any more. */
void dp_primary_lend(struct prl_dp *dp, struct dp_flow *flow);
void dp_primary_settle(struct prl_dp *dp, struct dp_flow *flow);
struct dp_unfed *dp_shadow_lend(struct prl_dp *dp, struct dp_flow *flow);
void dp_shadow_settle(struct prl_dp *dp, struct dp_flow *flow);
/* Something happened to the flow: dp_flows_tick() looks at it until it is quiet again. */
void dp_flow_wake(struct prl_dp *dp, struct dp_flow *flow);
/* Deadlines, lost holds, ended sessions, grown space: everything that time brings. */
/* path/stray.c: gives up flows that went astray. Whether there is more to look at. */
bool dp_stray_look(struct prl_dp *dp);
void dp_flows_tick(struct prl_dp *dp);

uint32_t dp_service_of(const struct prl_dp *dp, const struct prl_flow_key *key); /* or PRL_SLOT_NONE */
/* The shadow is ready: what prl_dp_primary_activate() does. */
void dp_primary_activate(struct prl_dp *dp, struct dp_flow *flow, uint32_t committed, uint32_t peer_edge);
/* What prl_dp_secondary_open() does. */
int dp_secondary_enter(struct prl_dp *dp, const struct prl_flow_spec *spec, uint32_t *space);

/* node/setup.c */
int dp_setups_init(struct prl_dp *dp);
void dp_setups_destroy(struct prl_dp *dp);
void dp_setup_moment(struct prl_dp *dp, const struct prl_msg *msg); /* secondary: SETUP with a moment */
void dp_setup_done(struct prl_dp *dp, struct dp_flow *flow, const struct prl_msg *msg); /* primary: the answer */

/* path/primary.c */
void dp_input(struct prl_dp *dp, uint16_t lif, const struct prl_received *received);
bool dp_output(struct prl_dp *dp); /* one held segment from the TAP; false when there is none */
void dp_apply(struct prl_dp *dp, struct dp_flow *flow, struct prl_actions *actions);
void dp_primary_message(struct prl_dp *dp, const struct prl_msg *msg);
void dp_primary_drain(struct prl_dp *dp, struct dp_flow *flow);
void dp_primary_fail_all(struct prl_dp *dp, uint8_t reason);
void dp_primary_open_all(struct prl_dp *dp);
void dp_primary_fence_service(struct prl_dp *dp, uint32_t service);

/* path/shadow.c */
void dp_secondary_message(struct prl_dp *dp, const struct prl_msg *msg);
void dp_secondary_flush_acks(struct prl_dp *dp);
void dp_secondary_space(struct prl_dp *dp, struct dp_flow *flow); /* FLOWCTL when the space grew */
void dp_secondary_void(struct prl_dp *dp, struct dp_flow *flow, uint8_t reason);
/* Voids the shadow and tells the primary why (ERROR). */
void dp_secondary_give_up(struct prl_dp *dp, struct dp_flow *flow, uint8_t reason);
/* The address is not ours any more: a session that was taken over, and not protected since, has ended here. */
void dp_secondary_fence(struct prl_dp *dp, struct dp_flow *flow);
void dp_secondary_void_all(struct prl_dp *dp, uint8_t reason);
void dp_secondary_takeover(struct prl_dp *dp, struct dp_flow *flow);
/* Lets happen to a new shadow what had happened to the session (enum prl_replay). 0 or -EAGAIN. */
int dp_secondary_replay(struct prl_dp *dp, struct dp_flow *flow, const struct prl_flow_spec *spec);

void dp_secondary_feed(struct prl_dp *dp, struct dp_flow *flow, struct iovec *piece, uint32_t pieces,
                       const struct prl_packet *packet, uint16_t lif);

/* path/verify.c */
/* The packet counts for the running hash; both sides call this in the same order. */
void dp_verify_hash(struct dp_flow *flow, const struct iovec *piece, uint32_t pieces,
                    const struct prl_packet *packet);
void dp_verify_released(struct prl_dp *dp, struct dp_flow *flow, uint32_t seq); /* primary: seq is through */
void dp_verify_accepted(struct dp_flow *flow, uint32_t seq); /* secondary: seq is hashed */
void dp_verify_fed(struct prl_dp *dp, struct dp_flow *flow, const struct prl_msg *msg,
                   const struct prl_packet *packet);
void dp_verify_flush(struct prl_dp *dp); /* before the link's buffer moves: what is not in the sockets is kept */
void dp_verify_compare(struct prl_dp *dp, struct dp_flow *flow, const struct prl_msg *msg);
void dp_verify_tick(struct prl_dp *dp, struct dp_flow *flow);
void dp_verify_send_due(struct prl_dp *dp); /* after the ticks of all flows: what they found due */
bool dp_verify_is_due(const struct dp_flow *flow); /* dp_verify_tick() has something left to do */
void dp_verify_refeed(struct prl_dp *dp, struct dp_flow *flow); /* take-over: what its kernel does not have */
/* Whether input that the peer may have been told of is next in line, and in no socket yet: only kept here. */
bool dp_verify_lacks(struct prl_dp *dp, struct dp_flow *flow);
void dp_verify_forget(struct prl_dp *dp, struct dp_flow *flow);

/* path/sign.c */
/* The window that both sides take, for a segment with this ack and window (R10). */
uint16_t dp_sign_window(const struct dp_flow *flow, uint32_t ack, uint16_t window);
/* A held segment that is about to leave: newest ack, window and timestamps, signed. `frame` is as read from the TAP. */
void dp_sign_release(struct prl_dp *dp, struct dp_flow *flow, uint8_t *frame, uint32_t bytes);
/* The key of the flow for prl_packet_craft(), NULL when it is not signed. */
const struct prl_md5_key *dp_sign_key(const struct dp_flow *flow);
int dp_sign_set_key(struct dp_flow *flow,
                    const struct prl_md5_key *key); /* it may be that of none; 0 or -ENOMEM */
void dp_sign_forget_key(struct dp_flow *flow);

/* path/udp.c */
void dp_udp_open(const struct prl_dp *dp, struct dp_flow *flow); /* drops count from here on */
void dp_udp_sample(const struct prl_dp *dp, struct dp_flow *flow);
int dp_udp_mark(const struct prl_dp *dp, const struct dp_flow *flow,
                bool is_shadow); /* what a socket without a peer sends; 0 or -errno */
bool dp_udp_has_room(const struct prl_dp *dp, const struct dp_flow *flow,
                     uint32_t bytes); /* for a packet of so many bytes */
bool dp_udp_diverged(const struct prl_dp *dp,
                     const struct dp_flow *flow); /* the socket dropped what the other side's may have */
void dp_udp_check(struct prl_dp *dp, struct dp_flow *flow); /* a flow that diverged fails, its shadow is void */

/* node/switchover.c */
void dp_switchover_do(struct prl_dp *dp, uint32_t service, uint32_t todo); /* enum prl_move_do */
void dp_switchover_message(struct prl_dp *dp, const struct prl_msg *msg);
void dp_switchover_pass(struct prl_dp *dp);
void dp_switchover_hand_over(struct prl_dp *dp);
void dp_switchover_link_down(struct prl_dp *dp);
bool dp_switchover_is_idle(const struct prl_dp *dp, uint32_t service);
void dp_switchover_disturbed(struct prl_dp *dp, uint32_t service); /* a session came that would not be moved */
void dp_switchover_relayed(struct prl_dp *dp,
                           struct dp_flow *flow); /* old owner: input of a flow that has moved */
/* New owner: input that came here directly; false when the entry was not taken. */
bool dp_switchover_direct(struct prl_dp *dp, struct dp_flow *flow, struct prl_hold *hold,
                          const struct prl_packet *packet);
void dp_switchover_settle(struct prl_dp *dp, struct dp_flow *flow);
void dp_switchover_forget(struct prl_dp *dp, struct dp_flow *flow);

/* node/ownership.c */
int dp_owner_leave(struct prl_dp *dp, uint32_t service); /* silent, input is still captured */
bool dp_owner_is_claimed(struct prl_dp *dp, uint32_t service); /* since dp_owner_leave() */
/* The kernel opened the flows of a datapath that hung: no flow becomes active before the next tick has noticed it (L4). */
bool dp_owner_is_bypassed(const struct prl_dp *dp);
int dp_owner_renounce(struct prl_dp *dp, uint32_t service); /* to a node that knows no SWITCHOVER */
int dp_owner_open(struct prl_dp *dp, char *error);
void dp_owner_do(struct prl_dp *dp, uint32_t todo);
void dp_owner_tick(struct prl_dp *dp);
void dp_owner_woke(struct prl_dp *dp); /* before the heartbeat is renewed (L6) */
void dp_owner_notice_fencing(struct prl_dp *dp);
void dp_owner_lan(struct prl_dp *dp);
void dp_owner_message(struct prl_dp *dp, const struct prl_msg *msg);
uint64_t dp_owner_next_ns(const struct prl_dp *dp);
void dp_owner_set_tokens(struct prl_dp *dp);
int dp_owner_set(struct prl_dp *dp, uint32_t service, uint8_t state);

/* api/control.c */
void dp_event(struct prl_dp *dp, const struct prl_event *event, const uint8_t *body, uint32_t bytes);
void dp_event_flow(struct prl_dp *dp, uint32_t kind, const struct dp_flow *flow, uint8_t state, uint8_t reason);
void dp_alarm(struct prl_dp *dp, const char *words);
void dp_message_event(struct prl_dp *dp, const struct prl_msg *msg, uint64_t value);
void dp_link_lost(struct prl_dp *dp, const char *why);
/* Queues a message; one that finds no room is the end of the connection, for what follows would contradict it (a lost
 * NACK would be covered by the next ACK). The pieces are frames or buffers of held packets, and stay where they are until
 * they have left (prl_link_refer): whoever frees such memory settles the link first. */
int dp_put(struct prl_dp *dp, struct prl_msg *msg, const struct iovec *piece, uint32_t pieces);
/* A packet is dropped: counted, and traced by the counter's name. */
#define DP_DROP(dp, counter, handle, bytes)        \
    do {                                           \
        (dp)->counters.counter++;                  \
        PRL_PROBE3(drop, #counter, handle, bytes); \
    } while (0)
/* Queues a message without TLVs. */
int dp_send(struct prl_dp *dp, struct prl_msg *msg);
int dp_send_tlvs(struct prl_dp *dp, struct prl_msg *msg, const uint8_t *tlvs, size_t tlvs_bytes);

#endif /* PRL_FLOW_DP_H */
