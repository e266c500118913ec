// SPDX-License-Identifier: Apache-2.0
/*
 * The endpoints' program, for the host side of pods' veths and the dataplane's end of the host port:
 * everything goes to the dataplane, and nothing goes past it.
 *
 * One loaded program serves all endpoints: a device has a slot, a slot has `queues_per_endpoint` places
 * in the socket map. A device without a slot, a queue without a place and a place without a socket all
 * get `no_socket_action`: XDP_DROP closes the pod while no poller serves it, XDP_PASS leaves it to the kernel.
 */
#include "caracal.h"

enum class {
	TAKEN,
	NO_SOCKET,
	UNKNOWN_DEVICE,
	CLASSES,
};

COUNTERS(CLASSES);

/* Set by the loader before the program is loaded; constant afterwards. */
volatile const __u32 queues_per_endpoint = 1;
volatile const __u32 no_socket_action = XDP_DROP;
/* The places of `direct`, a power of two, less one. */
volatile const __u32 direct_mask = 0;

/* Interface index to slot. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u32);
} slots SEC(".maps");

/*
 * The same again, at the index's low bits: the interface index in the upper half, slot + 1 in the lower. An array is
 * read in place where a hash is called, which takes longer than the rest of this program. Of devices that meet at a
 * place one is in it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} direct SEC(".maps");

/* slot * queues_per_endpoint + receive queue. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

/* A device's slot + 1, or 0 where it has none. */
static __always_inline __u32 slot_of(__u32 device)
{
	const __u32 place = device & direct_mask, *slot;
	const volatile __u64 *entry = bpf_map_lookup_elem(&direct, &place);

	if (entry) {
		const __u64 both = *entry;

		if (both >> 32 == device)
			return both;
	}
	slot = bpf_map_lookup_elem(&slots, &device);
	return slot ? *slot + 1 : 0;
}

SEC("xdp")
int caracal_pod(struct xdp_md *ctx)
{
	const __u32 device = ctx->ingress_ifindex, queue = ctx->rx_queue_index;
	const __u32 slot = slot_of(device);
	int verdict;

	if (!slot) {
		COUNT(UNKNOWN_DEVICE);
		return no_socket_action;
	}
	/* Beyond its own places a queue would reach another endpoint's socket. */
	if (queue >= queues_per_endpoint) {
		COUNT(NO_SOCKET);
		return no_socket_action;
	}
	verdict = bpf_redirect_map(&xsks, (slot - 1) * queues_per_endpoint + queue, no_socket_action);
	COUNT(verdict == XDP_REDIRECT ? TAKEN : NO_SOCKET);
	return verdict;
}

char LICENSE[] SEC("license") = "Apache-2.0";
