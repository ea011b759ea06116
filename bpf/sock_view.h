/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#ifndef PRL_SOCK_VIEW_H
#define PRL_SOCK_VIEW_H

#include "kernel_types.h"
#include "maps.h"

/*
 * Copies what prl wants to know of a TCP socket into shared memory. stamp_ns is zero while the copy is under way;
 * a reader takes the view when the stamp is the same before and after. The kernel counts a segment into snd_nxt
 * after egress has seen it (net/ipv4/tcp_output.c, tcp_event_new_data_sent).
 */
static __always_inline void prl_view_store(struct prl_sock_view *view, struct tcp_sock *tcp, __u64 now_ns)
{
    struct sock *sk = (struct sock *)tcp;

    PRL_WRITE(view->stamp_ns, 0);
    view->state = sk->__sk_common.skc_state;
    view->rcv_nxt = tcp->rcv_nxt;
    view->rcv_wup = tcp->rcv_wup;
    view->rcv_wnd = tcp->rcv_wnd;
    view->snd_una = tcp->snd_una;
    view->snd_nxt = tcp->snd_nxt;
    view->write_seq = tcp->write_seq;
    view->rmem_bytes = (__u32)sk->sk_backlog.rmem_alloc.counter;
    view->rcvbuf_bytes = (__u32)sk->sk_rcvbuf;
    view->drops = (__u32)sk->sk_drops.counter;
    view->has_ooo = tcp->out_of_order_queue.rb_node != 0;
    view->segs_in = tcp->segs_in;
    PRL_WRITE(view->stamp_ns, now_ns);
}

#endif /* PRL_SOCK_VIEW_H */
