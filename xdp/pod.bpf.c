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

/* Interface index to slot. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u32);
} slots SEC(".maps");

/* slot * queues_per_endpoint + receive queue. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

SEC("xdp")
int caracal_pod(struct xdp_md *ctx)
{
	const __u32 device = ctx->ingress_ifindex, queue = ctx->rx_queue_index;
	const __u32 *slot = bpf_map_lookup_elem(&slots, &device);
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
	verdict = bpf_redirect_map(&xsks, *slot * queues_per_endpoint + queue, no_socket_action);
	COUNT(verdict == XDP_REDIRECT ? TAKEN : NO_SOCKET);
	return verdict;
}

char LICENSE[] SEC("license") = "Apache-2.0";
