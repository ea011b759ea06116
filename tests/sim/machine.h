/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The simulator's machine behind the datapath's table of functions (userspace/io/io.h): a clock that the world moves, one
 * logical interface, service addresses, sockets, both TAPs, the link's and the LAN's bytes. What the BPF programs do with a
 * packet is here in short; what the datapath does is the datapath. machine.c says what is left out.
 *
 * A session has a number; its service address is 192.0.2.100 plus the number of the service, its peer's port is SIM_PORT
 * plus its own. Streams are counted by 64-bit offsets, of which packets carry the lower 32 bits; a byte is a function of
 * its offset, so that what arrives can be checked.
 */
#ifndef SIM_MACHINE_H
#define SIM_MACHINE_H

#include "api/datapath.h"

enum sim_limit {
    SIM_SESSIONS_MAX = 8,
    SIM_SERVICES_MAX = 4,
    SIM_FLOWS_MAX = 32,
    SIM_SOCKS_MAX = 64,
    SIM_HOLES_MAX = 32,
    SIM_PORT = 40000,
    SIM_NEWS_MAX = 32,
    SIM_BUFFER_BYTES = 20000,
};

/* Bits of a segment. */
enum sim_flag { SIM_FIN = 1, SIM_RST = 2 };

/* How a segment came to a socket; LOST, UNSEEN: it did not, the kernel has dropped it; of UNSEEN prld has no bytes to feed again. */
enum sim_way { SIM_PASSED = 0, SIM_REINJECTED = 1, SIM_UNREPLICATED = 2, SIM_LOST = 3, SIM_UNSEEN = 4 };

/* A TCP socket, as far as it matters; its descriptor is its place in struct prl_host. */
struct sim_sock {
    uint32_t refs; /* descriptors of it: the application's, the datapath's */
    uint8_t lives; /* 0: nobody can reach it any more, or the place is free */
    uint8_t slow; /* its application reads nothing */
    uint8_t peer_fin, fin;
    int32_t slot; /* of the flow whose gate is on it; -1: none */
    uint32_t session;
    uint32_t segs_in, holes;
    uint64_t rcv_nxt, read;       /* up to here it has received, and its application read */
    uint64_t snd_una, snd_nxt;    /* a FIN counts one */
    uint64_t pushed;              /* up to here it has sent; behind that the peer's window keeps it back … */
    uint64_t kept_back_until_ns;  /* … until then */
    uint64_t told_edge;
    uint64_t progress_ns;
    uint64_t hole_from[SIM_HOLES_MAX], hole_to[SIM_HOLES_MAX]; /* received out of order */
};

/* What the world and the checker want to know of a session's flow here. */
struct sim_flow {
    uint8_t used, secondary, state, confirmed, relaying;
    uint8_t reason;
    uint32_t handle, generation;
    uint32_t in_held, out_held, waiting; /* packets: unacknowledged, unacknowledged, all */
};

struct sim_service {
    struct prl_addr addr;
    uint8_t used;
    uint32_t owned; /* how often it has become this node's */
};

struct sim_frames; /* a queue of frames */

struct prl_host {
    uint32_t index;
    uint64_t clock_ns;
    uint64_t stale_since_ns, woke_ns; /* bpf/settle.h */
    uint64_t takeover_cost_ns; /* what the take-over of one session takes of the clock */
    uint64_t spent_ns; /* of that, what the world does not know of yet */
    uint8_t lan_cut, asleep;
    uint8_t lan_deaf; /* nothing of the LAN's arrives; the world sees to that */
    uint8_t lan_mute; /* nothing reaches the LAN */
    struct prl_dp *dp; /* NULL: there is no prld */
    /* the kernel's, which outlives prld */
    struct prl_node node;
    struct prl_flow flow[SIM_FLOWS_MAX];
    int32_t slot_of[SIM_SESSIONS_MAX]; /* -1: no flow */
    uint32_t handle_of[SIM_SESSIONS_MAX];
    uint32_t service_of[SIM_SESSIONS_MAX];
    struct sim_service service[SIM_SERVICES_MAX];
    struct sim_sock sock[SIM_SOCKS_MAX];
    int32_t sock_of[SIM_SESSIONS_MAX]; /* the socket that a packet finds; -1: none */
    uint64_t newborn_until_ns[SIM_SESSIONS_MAX]; /* prl_newborns: the session waits to be protected */
    /* what waits for the datapath */
    struct sim_frames *captured, *held, *udp[PRL_PROBE_PATHS];
    uint32_t frames_max; /* of each of them */
    uint8_t
        keeps_input; /* the carrier is "kernel": input waits here for its verdict, `captured` is copies of it */
    uint8_t mirrors; /* the carrier is "mirror", which keeps_input as well */
    uint32_t mirror_newest; /* prl_mirror.newest */
    uint32_t full_chance; /* that the cable does not take a clone */
    struct sim_frames *kept, *settled; /* without a verdict; with one that has not been sent */
    uint32_t kept_number; /* of the newest */
    uint64_t timer_ns;
    struct prl_news news[SIM_NEWS_MAX];
    uint32_t news_count;
    uint8_t woken, watches_hold, watches_headers, watches_link, watches_link_room;
    /* the link, as far as it is in this machine */
    uint8_t link_attached, link_ended, link_closed;
    uint8_t *link_in, *link_out;
    uint32_t link_in_bytes, link_out_bytes, link_room;
    uint32_t link_queue_bytes; /* of the datapath's transmit queue */
    /* chance, of 2^32 */
    uint64_t random;
    uint32_t drop_chance, short_chance, keep_back_chance;
    uint32_t unheard_chance; /* TCP does not tell of a socket's end */
    uint32_t stall_after; /* calls of the datapath's, from now on, before it stops; 0: it does not */
    uint8_t stalled;
    uint32_t borrowed; /* hold entries that somebody else has */
    void *pass; /* the stopped pass */
    void *umem;
    uint64_t dropped_captured, dropped_held, dropped_stale, dropped_silent, dropped_shadow, dropped_injected,
        dropped_newborn;
    uint64_t bypasses, late_first, duplicates;
    char wrong[256]; /* what can never be; empty: all is well */
    uint32_t wrong_session;
};

struct prl_host *sim_boot(uint32_t index, uint64_t seed);
void sim_power_off(struct prl_host *host);
/* A prld starts, a prld has died: what it left in the kernel stays. NULL: config.addresses etc. are set by this. */
int sim_start(struct prl_host *host, struct prl_dp_config *config, char *error);
void sim_kill(struct prl_host *host);
/* One turn of the datapath's loop, with what is ready; a pass that was stopped goes on. Returns dp_turn()'s word, or
 * SIM_STOPPED. */
enum sim_turned { SIM_STOPPED = 2 };
int sim_turn(struct prl_host *host);
int sim_resume(struct prl_host *host);
bool sim_has_work(const struct prl_host *host); /* a wait would end now, the timer aside */

/* ---- from outside ---- */
void sim_key(const struct prl_host *host, uint32_t session, struct prl_flow_key *key);
void sim_frame(struct prl_host *host, uint32_t session, uint64_t seq, uint32_t bytes, uint64_t ack,
               uint32_t flags);
/* prl_mirrored: a frame came by the cable. */
void sim_cable(struct prl_host *host, uint32_t session, uint64_t seq, uint32_t bytes, uint64_t ack, uint32_t flags,
               uint32_t number);
void sim_answered(struct prl_host *host); /* by a neighbour that was asked for its own address */
/* What was said behind an ARP message that names a service's address (prl_abi.h); zeros: nothing. */
#define SIM_TRAILER_BYTES 32 /* sizeof(struct prl_claim) */
enum sim_judged { SIM_CLAIM_FOREIGN, SIM_CLAIM_REPLAYED, SIM_CLAIM_GOOD };
int sim_hear_claim(struct prl_host *host, uint32_t service, const uint8_t trailer[SIM_TRAILER_BYTES]);
void sim_datagram_arrives(struct prl_host *host, uint32_t path, const uint8_t *bytes, uint32_t count);
/* bpf/answer.bpf.c: makes a question that came by `path` its answer; false: it is none, and goes up. A question that is
 * answered with nothing has no bytes left. */
bool sim_answer(struct prl_host *host, uint32_t path, uint8_t *bytes, uint32_t *count);
void sim_link_arrives(struct prl_host *host, const uint8_t *bytes, uint32_t count);

/* ---- the host's own ---- */
int sim_socket(struct prl_host *host, uint32_t session); /* a descriptor, or -1 */
void sim_bind(struct prl_host *host, uint32_t session, int fd); /* packets find this one from now on; -1: none */
void sim_release(struct prl_host *host, int fd);
void sim_output(struct prl_host *host, uint32_t session, uint64_t seq, uint32_t bytes, uint32_t flags);
void sim_acknowledge(struct prl_host *host, uint32_t session);
bool sim_could_speak(const struct prl_host *host, uint32_t service);
bool sim_could_answer(const struct prl_host *host, uint32_t service); /* who asks for the address */
bool sim_is_too_late(const struct prl_host *host, uint32_t service);
bool sim_works(const struct prl_host *host);
bool sim_is_newborn(const struct prl_host *host, uint32_t session); /* it waits to be protected */

/* ---- a look inside ---- */
void sim_flow(const struct prl_host *host, uint32_t session, struct sim_flow *found);
/* Up to where a flow's socket here has input, or will have it from what prld keeps for it. */
uint64_t sim_reach(const struct prl_host *host, uint32_t session);
uint64_t sim_states(const struct prl_host *host); /* another number when a flow's or a move's state is another */
struct prl_owner *sim_owner(const struct prl_host *host);
uint64_t
sim_lan_counter(const struct prl_host *host); /* the newest LAN heartbeat in this epoch: when it was sent */
struct prl_move *sim_move(const struct prl_host *host, uint32_t service);
/* Sequence numbers of a flow that was just opened begin at `base`, on either side. */
void sim_number(const struct prl_host *host, uint32_t session, uint32_t base);
/* When the flows that are awake have their next tick. */
uint64_t sim_tick_ns(const struct prl_host *host);
/* The next packet of two frames lies in two places. */
void sim_scatter(struct prl_host *host);
/* Takes all that waits in a queue, and returns how many it were. */
uint32_t sim_drain(struct sim_frames *queue);
/* Somebody else has all but so many hold entries. */
void sim_leave_holds(struct prl_host *host, uint32_t entries);
/* Every frame, entry and buffer is in one place: empty, or what is wrong. */
const char *sim_audit(const struct prl_host *host);

#endif /* SIM_MACHINE_H */
