/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is done with a packet of a known flow: the bytes that pollers would make of it (fastpath/src/stage/apply.rs, encap/src/outer.rs),
 * and the same for a super-frame, which stays whole.
 */
#ifndef CARACAL_ACT_H
#define CARACAL_ACT_H

#include "packet.h"

/* <linux/bpf.h> since 6.3. */
#define DECAP_L3_IPV4 (1ull << 7)
#define DECAP_L3_IPV6 (1ull << 8)

#define ETHERNET_LEN 14
#define IPIP_LEN (ETHERNET_LEN + 20)
#define VXLAN_LEN (ETHERNET_LEN + 20 + 8 + 8 + ETHERNET_LEN)

#define ROOM_FOR_IPIP (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4)
#define ROOM_FOR_VXLAN                                                                                       \
	(BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |             \
	 BPF_F_ADJ_ROOM_ENCAP_L2(ETHERNET_LEN) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH)

/* What became of a packet. */
enum {
	/* It is as it came: for the pollers. */
	UNTOUCHED,
	DONE,
	/* It is neither as it came nor as it should be: to be dropped. */
	SPOILT,
};

/* Notes the first segment that may end the connection, or begin another. */
static __always_inline void note_closing(struct flow *flow, const struct packet *p)
{
	if (flow->is_closing)
		return;
	*(volatile __u64 *)&flow->closing_at = p->seq | (__u64)p->ack << 32;
	*(volatile __u64 *)&flow->closing =
		(p->len - p->headers) | (__u64)p->window << 32 | (__u64)p->tcp_flags << 48 | CLOSING;
	*(volatile __u8 *)&flow->is_closing = 1;
}

/* Whether the flow's action is right for this packet. */
static __always_inline int is_for(struct flow *flow, struct packet *p, const struct __sk_buff *skb)
{
	const __u32 segment = skb->gso_size;
	const int is_tunnelled = p->l3 > ETHERNET_LEN;

	if (p->ttl <= 1)
		return 0;
	p->packets = 1;
	if (segment) {
		/* A datagram's own bytes are not told from the next one's behind a tunnel's headers; and nothing is behind a super-frame. */
		if ((p->is_udp && is_tunnelled) || skb->len != p->l3 + p->len || p->headers + segment > flow->mtu)
			return 0;
		p->packets = skb->gso_segs;
		if (!p->packets)
			p->packets = (p->len - p->headers + segment - 1) / segment;
	} else if (p->len > flow->mtu) {
		return 0;
	}
	/* Pods are where tunnels end. */
	if (is_tunnelled && flow->kind != KIND_ETHERNET)
		return 0;
	if ((flow->kind == KIND_IPIP && p->is6) || p->len > 0xffff - (VXLAN_LEN - ETHERNET_LEN))
		return 0;
	if (!p->is_udp) {
		if (flow->is_closing)
			return 0;
		if (p->tcp_flags & (TCP_FIN | TCP_SYN | TCP_RST)) {
			note_closing(flow, p);
			return 0;
		}
		if (!(p->tcp_flags & TCP_ACK))
			return 0;
	}
	return 1;
}

/* Cuts off what is behind the packet, takes the tunnel's headers away, and makes room for others. `p->l3` is where the IP header is then. */
static __always_inline int make_room(struct __sk_buff *skb, const struct flow *flow, struct packet *p)
{
	const __u32 end = p->l3 + p->len;
	const __s32 tunnel = p->l3 - ETHERNET_LEN;
	int failed = UNTOUCHED;

	if (skb->len > end) {
		if (bpf_skb_change_tail(skb, end, 0))
			return UNTOUCHED;
		failed = tunnel ? SPOILT : UNTOUCHED;
	}
	if (tunnel) {
		const __u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | (p->is6 ? DECAP_L3_IPV6 : DECAP_L3_IPV4);

		if (bpf_skb_adjust_room(skb, -tunnel, BPF_ADJ_ROOM_MAC, flags))
			return failed;
		p->l3 = ETHERNET_LEN;
	}
	if (flow->kind == KIND_VXLAN) {
		if (bpf_skb_adjust_room(skb, VXLAN_LEN - ETHERNET_LEN, BPF_ADJ_ROOM_MAC, ROOM_FOR_VXLAN))
			return failed;
		p->l3 = VXLAN_LEN;
	} else if (flow->kind == KIND_IPIP) {
		if (bpf_skb_adjust_room(skb, IPIP_LEN - ETHERNET_LEN, BPF_ADJ_ROOM_MAC, ROOM_FOR_IPIP))
			return failed;
		p->l3 = IPIP_LEN;
	}
	return DONE;
}

/*
 * Updates the transport's checksum by what changes (RFC 1624), be it complete, or to be completed by whoever sends the packet. Zero in UDP
 * stays zero: there is none.
 */
static __always_inline int update_checksum(struct __sk_buff *skb, const struct packet *p, __s64 addresses, __be32 from, __be32 to)
{
	const __u32 at = p->l3 + (p->is6 ? 40 : 20) + (p->is_udp ? 6 : 16);
	const __u64 flags = p->is_udp ? BPF_F_MARK_MANGLED_0 : 0;

	if (bpf_l4_csum_replace(skb, at, 0, addresses, BPF_F_PSEUDO_HDR | flags))
		return 0;
	return !bpf_l4_csum_replace(skb, at, from, to, sizeof(to) | flags);
}

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static __always_inline int forward4(struct __sk_buff *skb, const struct flow *flow, const struct packet *p, const struct key4 *key)
{
	const int is_translated = flow->set & IS_TRANSLATED;
	struct ends4 to = flow->to4;
	struct iphdr *ip;
	__u64 sum;

	if (is_translated) {
		const __s64 change = bpf_csum_diff((void *)&key->ends, sizeof(to), (void *)&to, sizeof(to), 0);

		if (!update_checksum(skb, p, change, key->ports, flow->to_ports))
			return 0;
	}
	ip = (void *)(long)skb->data + p->l3;
	if ((void *)(ip + 1) + 4 > (void *)(long)skb->data_end)
		return 0;
	/* As words lie in memory; that of TTL and protocol is one less in its first byte. */
	sum = (__u16)~ip->check + (__u64)(__u16)~bpf_htons(0x0100);
	if (is_translated) {
		sum += (__u64)(__u32)~key->ends.src + (__u32)~key->ends.dst + to.src + to.dst;
		ip->saddr = to.src;
		ip->daddr = to.dst;
		*(__be32 *)(ip + 1) = flow->to_ports;
	}
	ip->check = ~fold(sum);
	ip->ttl = p->ttl - 1;
	return 1;
}

static __always_inline int forward6(struct __sk_buff *skb, const struct flow *flow, const struct packet *p, const struct key6 *key)
{
	const int is_translated = flow->set & IS_TRANSLATED;
	struct ends6 to = flow->to6;
	__u64 *words;

	/* Where a NIC summed the whole packet the sum must stay right; no checksum of the header makes up for what changes there. */
	if (flow->way == WAY_POD)
		bpf_csum_update(skb, ~(__u32)bpf_htons(0x0001));
	if (is_translated) {
		const __s64 change = bpf_csum_diff((void *)&key->ends, sizeof(to), (void *)&to, sizeof(to), 0);

		if (!update_checksum(skb, p, change, key->ports, flow->to_ports))
			return 0;
		if (flow->way == WAY_POD)
			bpf_csum_update(skb, change);
	}
	words = (void *)(long)skb->data + p->l3;
	if ((void *)words + 44 > (void *)(long)skb->data_end)
		return 0;
	if (is_translated) {
		words[1] = to.src[0];
		words[2] = to.src[1];
		words[3] = to.dst[0];
		words[4] = to.dst[1];
		*(__be32 *)(words + 5) = flow->to_ports;
	}
	((__u8 *)words)[7] = p->ttl - 1;
	return 1;
}

/* Fills length, identification, ECN and checksum of an outer IPv4 header. */
static __always_inline void patch_outer(struct iphdr *ip, const struct flow *flow, const struct packet *p, __u16 len, __u16 id, __u16 flags)
{
	ip->tos = p->ecn;
	ip->tot_len = bpf_htons(len);
	ip->id = bpf_htons(id);
	ip->frag_off |= bpf_htons(flags);
	ip->check = bpf_htons(~fold((__u64)flow->base_sum + len + id + flags + p->ecn));
}

/* Writes what is in front of the IP packet. */
static __always_inline int put_head(struct __sk_buff *skb, const struct flow *flow, const struct packet *p)
{
	const __be16 type = p->is6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	void *data = (void *)(long)skb->data;
	const void *end = (void *)(long)skb->data_end;
	__u64 *to = data;
	struct iphdr *outer = data + ETHERNET_LEN;

	if (flow->kind == KIND_VXLAN) {
		const __u16 len = p->len + (VXLAN_LEN - ETHERNET_LEN);
		struct udphdr *udp = (void *)(outer + 1);

		if (data + VXLAN_LEN > end)
			return 0;
		to[0] = flow->head[0];
		to[1] = flow->head[1];
		to[2] = flow->head[2];
		to[3] = flow->head[3];
		to[4] = flow->head[4];
		to[5] = flow->head[5];
		to[6] = flow->head[6];
		to[7] = flow->head[7];
		patch_outer(outer, flow, p, len, p->id + (flow->hash >> 16), 0);
		udp->source = bpf_htons(0xc000 | flow->hash >> 18);
		udp->len = bpf_htons(len - sizeof(*outer));
		*(__be16 *)(data + VXLAN_LEN - 2) = type;
	} else if (flow->kind == KIND_IPIP) {
		const __u16 id = p->may_fragment ? p->id + (flow->hash >> 16) : p->id;

		if (data + IPIP_LEN > end)
			return 0;
		to[0] = flow->head[0];
		to[1] = flow->head[1];
		to[2] = flow->head[2];
		to[3] = flow->head[3];
		*(__u16 *)(to + 4) = flow->head[4];
		patch_outer(outer, flow, p, p->len + (IPIP_LEN - ETHERNET_LEN), id, p->may_fragment ? 0 : 0x4000);
	} else {
		if (data + ETHERNET_LEN > end)
			return 0;
		to[0] = flow->head[0];
		*(__u32 *)(to + 1) = flow->head[1];
		*(__be16 *)(data + 12) = type;
	}
	return 1;
}

/* Counts a packet that goes. */
static __always_inline void note(struct flow *flow, const struct packet *p)
{
	__sync_fetch_and_add(&flow->packets, p->packets);
	__sync_fetch_and_add(&flow->bytes, p->len + (p->packets - 1) * p->headers);
	if (!p->is_udp) {
		const __u32 window = SEEN | p->window, before = flow->window;

		*(volatile __u64 *)&flow->seen = p->ack | (__u64)(p->seq + p->len - p->headers) << 32;
		if (window > before)
			*(volatile __u32 *)&flow->window = window;
	}
}

/* Sends a packet on its way. */
static __always_inline int send(struct __sk_buff *skb, __u32 out, __u8 way)
{
	if (way != WAY_POD)
		return bpf_redirect(out, 0);
	/* A device knows itself by another address than pods do: then the packet is not the host's, and the pod would not take it. */
	if (skb->pkt_type)
		bpf_skb_change_type(skb, 0);
	return bpf_redirect_peer(out, 0);
}

/* Everything for a packet that a flow's action is right for, but sending it. */
static __always_inline int act(struct __sk_buff *skb, struct flow *flow, struct packet *p, const struct key4 *key4, const struct key6 *key6)
{
	const int done = make_room(skb, flow, p);

	if (done != DONE)
		return done;
	if (key6 ? !forward6(skb, flow, p, key6) : !forward4(skb, flow, p, key4))
		return SPOILT;
	if (!put_head(skb, flow, p))
		return SPOILT;
	note(flow, p);
	return DONE;
}

#endif
