// SPDX-License-Identifier: Apache-2.0
/*
 * The flows' programs (tcx, ingress), for the host side of pods' veths and for uplinks that carry no XDP: packets of a flow that
 * the dataplane has decided are treated here, in the kernel. All others go to the pollers: a pod's all of them, an uplink's as far as they are
 * ours (classify.h); the rest of an uplink's is the host's.
 *
 * Only plain packets are treated here (packet.h), and only those that change nothing in a connection's state. Whatever is unusual
 * is the pollers'.
 *
 * What is attached to pods is the gate, and its link is pinned. When the process that loaded it is gone, the kernel empties `progs`,
 * and the gate is closed (or open, as configured). So no flow outlives who decided it.
 */
#include "act.h"
#include "classify.h"
#include "punt.h"

/* <linux/bpf.h> since 6.6. */
#define NEXT (-1)
#define DROP 2
/* No verdict yet. */
#define NONE (-2)

/* What became of packets. */
enum {
	HIT,
	PUNTED,
	LEFT_TO_HOST,
	NO_PUNT,
	LIMITED,
	SPOILT_PACKETS,
	LOST_WHILE_AWAY,
	GATE_CLOSED,
	COUNTED,
};

COUNTERS(COUNTED);

/* Set by the loader before the programs are loaded; constant afterwards: what becomes of a pod's packets while no poller serves it. */
volatile const __s32 unserved_action = DROP;

/* The program behind the gate. The last descriptor's end empties it. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} progs SEC(".maps");

/* What is read of any packet: IPv4 with options and ports. Of one out of a tunnel: what is in front of IPv6, and TCP. */
#define PLAIN_LEN (14 + 60 + 8)
#define TUNNEL_LEN (VXLAN_LEN + 40 + 20)
/* What classify.h looks at of the others, of which there are few: an ICMP error with what it quotes, behind it options of any length. */
#define ICMP_LEN (14 + 60 + 8 + 60 + 8)
#define LONGEST_LEN (14 + 40 + 8 + 8 + 40 + 2048 + 4)

/*
 * Treats a packet of a flow that is known, of which there are at the most `room` bytes behind what is in front of its IP header. NONE: it
 * is none, or not to be treated here.
 */
static __always_inline int treat(struct __sk_buff *skb, struct packet *p, __u32 room, __u32 from, int is6, __be32 peer)
{
	const void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct flow *flow;
	struct key4 key4;
	struct key6 key6;
	__u64 check, first, last;
	__u32 out;
	__u8 way;
	int done;

	if (is6) {
		if (!read6(p, data + p->l3, end, room, &key6))
			return NONE;
		key6.from = p->is_udp ? from | FROM_UDP : from;
		flow = bpf_map_lookup_elem(&flows6, &key6);
	} else {
		if (!read4(p, data + p->l3, end, room, &key4))
			return NONE;
		key4.from = p->is_udp ? from | FROM_UDP : from;
		flow = bpf_map_lookup_elem(&flows4, &key4);
	}
	if (!flow)
		return NONE;
	if ((flow->set & HAS_PEER) && flow->peer != peer)
		return NONE;
	if (flow->set & HAS_MAC) {
		const __u8 *mac = data + 6;

		if (data + 14 > end || !is_mac(mac, *(__u32 *)flow->mac, *(__u16 *)(flow->mac + 4)))
			return NONE;
	}
	if (!is_for(flow, p, skb))
		return NONE;
	done = is6 ? act(skb, flow, p, 0, &key6) : act(skb, flow, p, &key4, 0);
	if (done == UNTOUCHED)
		return NONE;
	out = flow->out;
	way = flow->way;
	barrier();
	first = *(volatile __u64 *)&flow->check;
	last = *(volatile __u64 *)&flow->check_again;
	check = is6 ? check6(&key6) : check4(&key4);
	if (done == SPOILT || first != check || last != check) {
		COUNT(SPOILT_PACKETS);
		return DROP;
	}
	COUNT(HIT);
	return send(skb, out, way);
}

/* As `treat`, of a packet without a tunnel. */
static __always_inline int treat_plain(struct __sk_buff *skb)
{
	const void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	const struct ethhdr *eth = data;
	struct packet p = { .l3 = ETHERNET_LEN };

	if ((void *)(eth + 1) > end)
		return NONE;
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		return treat(skb, &p, skb->len - ETHERNET_LEN, skb->ifindex, 0, 0);
	if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		return treat(skb, &p, skb->len - ETHERNET_LEN, skb->ifindex, 1, 0);
	return NONE;
}

/* The gate, on a pod's device: the program behind it has the packet, if somebody is there who answers for it. */
SEC("classifier")
int caracal_gate(struct __sk_buff *skb)
{
	bpf_tail_call(skb, &progs, 0);
	COUNT(GATE_CLOSED);
	return unserved_action;
}

/* Behind the gate: everything is a flow's that is known, or the pollers'. */
SEC("classifier")
int caracal_flow_pod(struct __sk_buff *skb)
{
	const __u32 zero = 0;
	const struct config *now = bpf_map_lookup_elem(&config, &zero);
	__u32 packets;
	__u8 kind;
	int verdict;

	if (!now)
		return unserved_action;
	pull(skb, PLAIN_LEN);
	kind = kind_of(skb, 1);
	if (kind == TO_US && !now->is_paused) {
		verdict = treat_plain(skb);
		if (verdict != NONE)
			return verdict;
	}
	if (!now->punt) {
		COUNT(NO_PUNT);
		return unserved_action;
	}
	/* So many come out of the punt. Who captures wants to see all that a pod sends, and has it so while flows are not treated either. */
	packets = skb->gso_segs;
	if (!now->is_paused && !may_punt(skb->ifindex, packets ? packets : 1)) {
		COUNT(LIMITED);
		return DROP;
	}
	COUNT(PUNTED);
	verdict = send_to_pollers(skb, now->punt, kind, 1);
	return verdict < 0 ? DROP : verdict;
}

/* What an outer packet is. */
enum {
	NOT_OURS,
	/* It came by a tunnel to an address of ours, and is not to be opened here. */
	UNUSUAL,
	OPENED4,
	OPENED6,
};

/* Looks at the outer headers, as decapsulation does it (fastpath/src/stage/decap/ordinary.rs). */
static __always_inline int open(struct __sk_buff *skb, const struct config *now, struct packet *p, __u32 *room, __be32 *peer)
{
	const void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	const struct ethhdr *eth = data;
	const struct iphdr *ip = data + ETHERNET_LEN;
	const struct udphdr *udp = (void *)(ip + 1);
	const __be32 *vxlan = (void *)(udp + 1);
	const struct ethhdr *inner = (void *)(vxlan + 2);
	__u32 len;
	__u8 to[4];

	if ((void *)(udp + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP))
		return NOT_OURS;
	if (ip->protocol != IPPROTO_IPIP && (ip->protocol != IPPROTO_UDP || !is_vxlan(udp, end)))
		return NOT_OURS;
	/* What comes to another address of ours is no tunnel to who decides: nothing is opened that was not judged as one. */
	if (!now->tunnel || ip->daddr != now->tunnel) {
		__builtin_memcpy(to, &ip->daddr, sizeof(to));
		return bpf_map_lookup_elem(&local4, to) ? UNUSUAL : NOT_OURS;
	}

	/* Inner ECN stays as it is under Not-ECT and ECT(0) (RFC 6040 section 4.2). */
	if (*(__u8 *)ip != 0x45 || (ip->frag_off & IPV4_FRAGMENT) || (ip->tos & 1) || !is_header_right(ip))
		return UNUSUAL;
	len = bpf_ntohs(ip->tot_len);
	if (ETHERNET_LEN + len > skb->len)
		return UNUSUAL;
	*peer = ip->saddr;
	if (ip->protocol == IPPROTO_IPIP) {
		if (!now->takes_ipip || len < IPIP_LEN - ETHERNET_LEN)
			return UNUSUAL;
		p->l3 = IPIP_LEN;
		*room = len - (IPIP_LEN - ETHERNET_LEN);
		return OPENED4;
	}
	if (!now->takes_vxlan || (void *)(inner + 1) > end)
		return UNUSUAL;
	/* RFC 7348 section 5: its checksum may be left unlooked at. The inner one is the receiver's to judge: the kernel takes it for unchecked. */
	if (bpf_ntohs(udp->len) + sizeof(*ip) != len)
		return UNUSUAL;
	if ((vxlan[0] & bpf_htonl(0xff000000)) != bpf_htonl(0x08000000) || (vxlan[1] & bpf_htonl(0xffffff00)) != now->vni)
		return UNUSUAL;
	if (!is_mac(inner, *(__u32 *)now->mac, *(__u16 *)(now->mac + 4)))
		return UNUSUAL;
	if (len < VXLAN_LEN - ETHERNET_LEN)
		return UNUSUAL;
	p->l3 = VXLAN_LEN;
	*room = len - (VXLAN_LEN - ETHERNET_LEN);
	if (inner->h_proto == bpf_htons(ETH_P_IP))
		return OPENED4;
	return inner->h_proto == bpf_htons(ETH_P_IPV6) ? OPENED6 : UNUSUAL;
}

static __always_inline int may_be_tunnelled(struct __sk_buff *skb)
{
	const void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	const struct ethhdr *eth = data;
	const struct iphdr *ip = data + ETHERNET_LEN;

	return (void *)(ip + 1) <= end && eth->h_proto == bpf_htons(ETH_P_IP) &&
	       (ip->protocol == IPPROTO_UDP || ip->protocol == IPPROTO_IPIP);
}

/* As `treat`, of a packet that may have come by a tunnel. */
static __always_inline int treat_outer(struct __sk_buff *skb, const struct config *now)
{
	struct packet p = { };
	__be32 peer = 0;
	__u32 room = 0;

	switch (open(skb, now, &p, &room, &peer)) {
	case OPENED4:
		return treat(skb, &p, room, FROM_TUNNEL, 0, peer);
	case OPENED6:
		return treat(skb, &p, room, FROM_TUNNEL, 1, peer);
	case NOT_OURS:
		return treat_plain(skb);
	default:
		return NONE;
	}
}

/* Whether classify.h looks deeper into a packet than into its ports. */
static __always_inline __u32 len_to_classify(struct __sk_buff *skb)
{
	const void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	const struct ethhdr *eth = data;
	const struct iphdr *ip = data + ETHERNET_LEN;
	const struct ipv6hdr *ip6 = data + ETHERNET_LEN;

	if (data + ETHERNET_LEN + sizeof(*ip) > end)
		return 0;
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		return ip->protocol == IPPROTO_ICMP ? ICMP_LEN : 0;
	if (eth->h_proto != bpf_htons(ETH_P_IPV6) || (void *)(ip6 + 1) > end)
		return 0;
	switch (ip6->nexthdr) {
	case PROTOCOL_ICMP6:
	case PROTOCOL_FRAGMENT:
	case PROTOCOL_DESTINATION_OPTIONS:
		return LONGEST_LEN;
	default:
		return 0;
	}
}

/* On an uplink: what is ours is a flow's that is known, or the pollers'; the rest is the host's. */
SEC("classifier")
int caracal_flow_nic(struct __sk_buff *skb)
{
	const __u32 zero = 0;
	const struct config *now = bpf_map_lookup_elem(&config, &zero);
	const void *data, *end;
	enum class class;
	__u32 deeper;
	int verdict;

	if (!now || skb->vlan_present)
		goto host;
	pull(skb, PLAIN_LEN);
	if (skb->pkt_type == PACKET_HOST && !now->is_paused) {
		if (may_be_tunnelled(skb))
			pull(skb, TUNNEL_LEN);
		verdict = treat_outer(skb, now);
		if (verdict != NONE)
			return verdict;
	}
	deeper = len_to_classify(skb);
	if (deeper)
		pull(skb, deeper);
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	class = classify(data, end);
	if (class == PASSED)
		goto host;
	if (class == NAT_REPLY && is_away() && would_be_refused(data, end)) {
		COUNT(LOST_WHILE_AWAY);
		return DROP;
	}
	if (!now->punt) {
		COUNT(NO_PUNT);
		return NEXT;
	}
	COUNT(PUNTED);
	verdict = send_to_pollers(skb, now->punt, kind_of(skb, 0), 0);
	return verdict < 0 ? DROP : verdict;
host:
	COUNT(LEFT_TO_HOST);
	return NEXT;
}

/* No helper used here is for GPL programs only. */
char LICENSE[] SEC("license") = "Apache-2.0";
