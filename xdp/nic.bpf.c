// SPDX-License-Identifier: Apache-2.0
/*
 * The NIC's program: everything goes to the kernel, except what the maps say is ours (classify.h).
 *
 * It errs towards the kernel: whatever is short, malformed, VLAN-tagged, sent to a group MAC or not
 * IP passes, and so does all of it while no socket is bound to the queue.
 *
 * But for one thing, from an orderly stop until the next daemon has taken over the connections, and no longer than `away_until`
 * says: answers to connections that are kept. The host, which knows nothing of them, would reset them; so they are lost, and
 * sent again.
 */
#include "classify.h"

/* What becomes of packets, beside being taken for what they are. */
enum {
	NO_SOCKET = CLASSES,
	AWAY,
	COUNTED,
};

COUNTERS(COUNTED);

/* By receive queue. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

SEC("xdp")
int caracal_nic(struct xdp_md *ctx)
{
	const enum class class = classify((void *)(long)ctx->data, (void *)(long)ctx->data_end);
	int verdict;

	if (class == PASSED) {
		COUNT(PASSED);
		return XDP_PASS;
	}
	if (class == NAT_REPLY && is_away() &&
	    would_be_refused((void *)(long)ctx->data, (void *)(long)ctx->data_end)) {
		COUNT(AWAY);
		return XDP_DROP;
	}
	verdict = bpf_redirect_map(&xsks, ctx->rx_queue_index, XDP_PASS);
	COUNT(verdict == XDP_REDIRECT ? class : NO_SOCKET);
	return verdict;
}

/* No helper used here is for GPL programs only. */
char LICENSE[] SEC("license") = "Apache-2.0";
