/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The way to the pollers: all that is not repeated here goes out of the punt device, whose other end has their sockets.
 *
 * The frame's destination says what it was and where it came in: byte 0 what it was, byte 1 zero, then the index of the
 * device it came in by, in network order. (fastpath/src/io/xsk makes a frame of it again.)
 */
#ifndef CARACAL_PUNT_H
#define CARACAL_PUNT_H

#include "flow.h"

/* What the destination was. */
enum {
	TO_US,
	TO_BROADCAST,
	TO_GROUP4,
	TO_GROUP6,
	TO_OTHERS,
};

/* <linux/if_packet.h>. */
#define PACKET_HOST 0

/* Set by the loader before the programs are loaded; constant afterwards. */

/* How long one packet of a device uses its share of the punt up, in nanoseconds; 0: as many as come. */
volatile const __u64 punt_interval = 10000;
/* How far in advance it may, in nanoseconds: less than a queue of the punt holds. */
volatile const __u64 punt_burst = 1024ull * 10000;

/* The queues of the punt device. */
volatile const __u32 punt_queues = 1;

/*
 * By a pod's device: until when its share is used up, in nanoseconds. One pod's flood must not fill the queue that
 * the others' packets wait in. The loader makes the entries.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u64);
} punters SEC(".maps");

/* Whether a device may have as many packets more sent to the pollers. */
static __always_inline int may_punt(__u32 device, __u32 packets)
{
	volatile __u64 *used_until = bpf_map_lookup_elem(&punters, &device);
	__u64 now, until;

	if (!punt_interval || !used_until)
		return 1;
	now = bpf_ktime_get_ns();
	until = *used_until;
	if (until < now)
		until = now;
	if (until - now > punt_burst)
		return 0;
	/* Two at once may count as one: it is a share, and not a debt. */
	*used_until = until + punt_interval * packets;
	return 1;
}

static __always_inline int is_mac(const void *mac, __u32 first, __u16 last)
{
	return *(__u32 *)mac == first && *(__u16 *)(mac + 4) == last;
}

/* What a frame's destination is. `is_pod`: it came from a pod, which knows us by an address that need not be the device's. */
static __always_inline __u8 kind_of(struct __sk_buff *skb, int is_pod)
{
	const void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	const struct ethhdr *eth = data;
	const struct iphdr *ip = data + sizeof(*eth);
	const struct ipv6hdr *ip6 = data + sizeof(*eth);
	const __u8 *mac = data;

	if ((void *)(eth + 1) > end || (is_pod && skb->vlan_present))
		return TO_OTHERS;
	if (skb->pkt_type == PACKET_HOST || (is_pod && is_mac(mac, 0xeeeeeeee, 0xeeee)))
		return TO_US;
	if (is_mac(mac, 0xffffffff, 0xffff))
		return TO_BROADCAST;
	if (eth->h_proto == bpf_htons(ETH_P_IP) && (void *)(ip + 1) <= end) {
		const __u32 group = bpf_ntohl(ip->daddr);

		if (mac[0] == 0x01 && mac[1] == 0x00 && mac[2] == 0x5e &&
		    mac[3] == ((group >> 16) & 0x7f) && mac[4] == ((group >> 8) & 0xff) && mac[5] == (group & 0xff))
			return TO_GROUP4;
	}
	if (eth->h_proto == bpf_htons(ETH_P_IPV6) && (void *)(ip6 + 1) <= end) {
		if (mac[0] == 0x33 && mac[1] == 0x33 && *(__u32 *)(mac + 2) == ip6->daddr.s6_addr32[3])
			return TO_GROUP6;
	}
	return TO_OTHERS;
}

/*
 * Sends a frame to the pollers by `device`, marked as what it is. Nothing else of it has been changed. The first queue is the uplinks';
 * pods share the others, so that a pod that floods is in the way of few.
 *
 * But a packet of a local socket that remembers a queue comes out of that one, if there is one of that number: so the kernel chooses
 * (sk_tx_queue_get). Sockets remember queues of devices that have several: of their pod's, if it has, and of an uplink that their flow left by.
 * Who serves a queue must not conclude from it whose a frame is.
 */
static __always_inline int send_to_pollers(struct __sk_buff *skb, __u32 device, __u8 kind, int is_pod)
{
	const __u32 from = skb->ifindex;
	const __u8 tag[6] = { kind, 0, from >> 24, from >> 16, from >> 8, from };

	if (bpf_skb_store_bytes(skb, 0, tag, sizeof(tag), 0))
		return -1;
	/* One more than the queue: none is 0. */
	skb->queue_mapping = is_pod && punt_queues > 1 ? 2 + from % (punt_queues - 1) : 1;
	return bpf_redirect(device, 0);
}

#endif
