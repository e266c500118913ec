//! Why packets are dropped. One enum feeds the counters, the CLI, the metrics and the replay's verdicts.

/// Declares [`DropReason`] with its names and explanations in one place.
macro_rules! drop_reasons {
    ($($variant:ident $name:literal $stage:literal $meaning:literal $advice:literal;)*) => {
        /// Why a packet was dropped. Each drop has exactly one reason, and each reason a counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $meaning] $variant,)*
        }

        impl DropReason {
            /// Every reason, in declaration order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The stable name, as in the CLI, the metrics and JSON.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The stage that gives this reason.
            pub const fn stage(self) -> &'static str {
                match self { $(Self::$variant => $stage,)* }
            }

            /// What it means, in one sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }

            /// What a person can do about it.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)* }
            }
        }
    };
}

drop_reasons! {
    EthTruncated "eth-truncated" "parse" "The frame is shorter than its Ethernet header."
        "Look at the sender; a capture on the port shows the frame.";
    EthNotForUs "eth-not-for-us" "parse" "The destination MAC address is not this port's."
        "Expected for frames that a switch floods; otherwise look for a stale neighbour entry at the sender.";
    EthVlan "eth-vlan" "parse" "The frame carries a VLAN tag; tagged frames are not forwarded."
        "Attach Caracal to the VLAN's parent only for untagged traffic, or remove the tag.";
    EthUnknownType "eth-unknown-type" "parse" "The EtherType is neither IPv4, IPv6 nor (from a pod) ARP."
        "Nothing: LLDP, STP and the like end at the pod's port.";
    EthSourceMac "eth-source-mac" "parse" "A pod sent from a MAC address that is not its own."
        "The pod spoofs its MAC address, or its WorkloadEndpoint names another one.";
    EthBroadcast "eth-broadcast" "parse" "A unicast IP packet came in a broadcast or multicast frame (RFC 1812 section 5.3.4)."
        "Look at the sender's neighbour table.";
    ArpMalformed "arp-malformed" "neighbour" "The ARP message is malformed or of a kind that is not handled (RFC 826)."
        "Look at the sender with a capture on the port.";
    ArpSpoofed "arp-spoofed" "neighbour" "A pod spoke ARP for an address or MAC address that is not its own."
        "The pod tries to take another's address; look at what runs in it.";
    ArpIgnored "arp-ignored" "neighbour" "An ARP message that needs no answer, as a pod's probe for its own address (RFC 5227)."
        "Nothing.";
    NdMalformed "nd-malformed" "neighbour" "A neighbour discovery message failed the checks of RFC 4861 section 7.1."
        "Look at the sender with a capture on the port.";
    NdSpoofed "nd-spoofed" "neighbour" "A pod spoke neighbour discovery for an address that is not its own."
        "The pod tries to take another's address; look at what runs in it.";
    NdRogueRouter "nd-rogue-router" "neighbour" "A pod sent a router advertisement or a redirect."
        "The pod tries to reconfigure others (as in CVE-2020-10749); look at what runs in it.";
    NdIgnored "nd-ignored" "neighbour" "A neighbour discovery or multicast listener message that needs no answer."
        "Nothing.";
    Ip4Malformed "ip4-malformed" "parse" "The IPv4 header is malformed: version, length or total length (RFC 1812 section 5.2.2)."
        "Look at the sender with a capture on the port.";
    Ip4Checksum "ip4-checksum" "parse" "The IPv4 header checksum is wrong."
        "A broken sender or a broken link.";
    Ip4Options "ip4-options" "parse" "A source route option, or options of a wrong length."
        "Nothing: source routes are refused (RFC 7126).";
    Ip4Fragment "ip4-fragment" "parse" "An impossible or tiny fragment (RFC 791, 1858, 3128)."
        "An attack, or a broken sender.";
    Ip6Malformed "ip6-malformed" "parse" "The IPv6 header is malformed (RFC 8200 section 3)."
        "Look at the sender with a capture on the port.";
    Ip6Extension "ip6-extension" "parse" "Extension headers that are malformed, too many, out of place, or a type 0 routing header (RFC 8200, 5095)."
        "An attack, or a broken sender.";
    Ip6Fragment "ip6-fragment" "parse" "A fragment that breaks RFC 7112 or RFC 8200 section 4.5."
        "An attack, or a broken sender.";
    MartianSource "martian-source" "parse" "The source address can not be one of a packet on a wire (RFC 1812 section 5.3.7)."
        "Look at the sender.";
    MartianDestination "martian-destination" "parse" "The destination address can not be reached through a router (RFC 1812 section 5.3.7)."
        "Look at the sender.";
    Multicast "multicast" "parse" "Multicast and broadcast are not forwarded."
        "Nothing, unless an application needs multicast between pods, which Calico does not offer either.";
    LinkLocal "link-local" "parse" "An IPv6 link-local source or destination is never forwarded (RFC 4291 section 2.5.6)."
        "Use the pod's or the host's own address.";
    SourceSpoofed "source-spoofed" "parse" "A pod sent from an address that is not one of its own."
        "The pod spoofs; or the WorkloadEndpoint misses an address or needs allowedSourcePrefixes.";
    SourceMisplaced "source-misplaced" "resolve" "The source address belongs behind another port than the one the packet came from."
        "A spoofed source on the underlay, or nodes that disagree about encapsulation: compare the pools' modes.";
    TunnelFromPod "tunnel-from-pod" "parse" "A pod sent VXLAN or IPIP."
        "Set allowVXLANPacketsFromWorkloads or allowIPIPPacketsFromWorkloads in FelixConfiguration if this is meant.";
    TunnelUnknownPeer "tunnel-unknown-peer" "decap" "VXLAN or IPIP came from an address that is no known node."
        "Add the node, or its address to externalNodesList; otherwise somebody probes the tunnel.";
    TunnelMalformed "tunnel-malformed" "decap" "The tunnel header or the packet in it is malformed, or the outer packet is a fragment."
        "Look at the peer with a capture on the uplink; a fragmented outer packet means the underlay's MTU is too small.";
    TunnelChecksum "tunnel-checksum" "decap" "The outer UDP checksum is wrong."
        "A broken peer or link.";
    TunnelVni "tunnel-vni" "decap" "The VXLAN network identifier is not ours."
        "Compare vxlanVNI on the nodes.";
    TunnelInnerMac "tunnel-inner-mac" "decap" "The inner Ethernet frame is not addressed to our tunnel's MAC address."
        "Compare the node's vxlanTunnelMACAddr with what its peers use.";
    TunnelInnerType "tunnel-inner-type" "decap" "The packet in the tunnel is not the kind that belongs there (a VLAN tag, ARP, another IP version)."
        "Look at the peer.";
    TunnelNested "tunnel-nested" "decap" "A tunnel packet inside a tunnel packet; only one is taken off."
        "An attack, or a node whose own address is routed into the tunnel.";
    TunnelSource "tunnel-source" "decap" "The inner source address does not belong to the node that sent it."
        "A compromised node, or nodes that disagree about a block: compare the BlockAffinity resources.";
    TunnelEcn "tunnel-ecn" "decap" "The outer header was marked congested and the inner can not carry the mark (RFC 6040 section 4.2)."
        "Nothing: the drop is the congestion signal.";
    TunnelLoop "tunnel-loop" "resolve" "A packet out of a tunnel would go into a tunnel again."
        "Nodes that disagree about where an address is: compare WorkloadEndpoints and BlockAffinity.";
    FragmentOverlap "fragment-overlap" "fragments" "Fragments of the datagram overlap or contradict each other; all of it is dropped (RFC 5722)."
        "An attack: nobody's stack makes such fragments.";
    FragmentNoFirst "fragment-no-first" "fragments" "A later fragment whose first fragment did not come in time, or was dropped."
        "Loss on the way, or an attack; the sender's path MTU discovery should make fragments rare.";
    FragmentTableFull "fragment-table-full" "fragments" "Too many fragmented datagrams, or fragments that wait for their first, at once."
        "A flood of fragments. Those of other endpoints have a share of their own.";
    FragmentQuota "fragment-quota" "fragments" "The sender has too many fragmented datagrams, or waiting fragments, at once."
        "Lower the sender's datagram size below its path's MTU.";
    CtInvalid "ct-invalid" "flow" "The packet belongs to no connection and can not start one: a stray reset or SYN-ACK, impossible flags (conntrack's INVALID)."
        "Expected after a restart and for late packets of closed connections; `disableConntrackInvalidCheck: true` lets them pass.";
    IcmpUnrelated "icmp-unrelated" "flow" "An ICMP error about a packet of no known connection, or by a pod about one of others."
        "Late errors, or somebody who forges them.";
    IcmpMalformed "icmp-malformed" "flow" "An ICMP error whose checksum, or that of the packet quoted in it, is wrong, or that quotes too little (RFC 5508 section 4.1)."
        "A broken router, or somebody who forges errors.";
    PolicyDeny "policy-deny" "policy" "Network policy denies the connection: a rule, a tier's default, or no rule of any profile."
        "`caracal policy show --endpoint` names the rules and what they decided; `caracal trace` shows which decides about a packet.";
    EndpointToHost "endpoint-to-host" "policy" "A pod's connection to its own host that policy allows, and defaultEndpointToHostAction does not."
        "Set defaultEndpointToHostAction: Accept in FelixConfiguration if pods may speak to their host, as Calico's operator does.";
    EndpointToHostRejected "endpoint-to-host-rejected" "policy" "The same under defaultEndpointToHostAction: Reject; the sender was told by ICMP."
        "Set defaultEndpointToHostAction: Accept in FelixConfiguration if pods may speak to their host.";
    FlowEnded "flow-ended" "flow" "The connection's endpoint was deleted, moved or given another address."
        "Expected once when pods go; the next packet starts a new connection, if it can.";
    FlowQuota "flow-quota" "flow" "The endpoint has as many connections as one may have, and none was found that goes for the new one: that nobody answered, or that is over."
        "`caracal flows --count` shows whose they are; raise `connections.perEndpointPercent` in caracal.yaml if it is meant.";
    FlowTableFull "flow-table-full" "flow" "No room for a new connection, and none to be evicted."
        "Raise `connections.entries` in caracal.yaml. Established connections go on.";
    NatNoAddress "nat-no-address" "flow" "natOutgoing applies, and the uplink has no address of the family."
        "Give the interface an address, or set natOutgoingAddress.";
    NatPortsExhausted "nat-ports-exhausted" "flow" "No free source port for a new connection to this destination in 128 probes, or in 8 behind others of its batch that found none."
        "Too many connections to one address and port: widen natPortRange, or use more destinations.";
    NatPortsQuota "nat-ports-quota" "flow" "The pod has three quarters of all source ports to this destination."
        "The rest is for other pods: use more destinations, or widen natPortRange.";
    NatAddressTaken "nat-address-taken" "flow" "natOutgoing applies, and another pod speaks to this destination by the same protocol, which has no ports to tell the answers by."
        "One pod of a node at a time, until its connection has been idle; for more use a pool without natOutgoing.";
    NatProtocol "nat-protocol" "flow" "natOutgoing applies, and answers could not be told from the host's: the host uses this protocol itself, which has no ports, or it is one that is never translated (IPIP, IGMP, UDP-Lite, DCCP, L2TP)."
        "Use a pool without natOutgoing, or a node whose host does not use the protocol.";
    ServiceNoBackend "service-no-endpoints" "service" "A pod spoke to a service that has no usable endpoint on this node or any."
        "`caracal services` shows it; are its pods ready, and does internalTrafficPolicy allow those of other nodes?";
    ServiceNoPort "service-no-port" "service" "A pod spoke to a service's cluster IP by a protocol or port that the service has not."
        "`caracal services` shows the ports; a cluster IP answers nothing else, no ping either.";
    ServiceLoop "service-loop" "service" "A pod spoke to an address that no service has, of a range that only services have: routers would send it back to a node."
        "`caracal services` shows those that there are; the ranges are BGPConfiguration's, `serviceLoopPrevention` says what becomes of it.";
    NoRoute "no-route" "resolve" "No route to the destination."
        "`caracal routes` shows the table; `ip route` what the kernel gives us.";
    Blackhole "blackhole" "resolve" "The destination lies in this node's own block, or in a blackhole route, and nobody has it."
        "The pod is gone or not there yet.";
    Unreachable "unreachable" "resolve" "The route says unreachable."
        "`ip route get` on the node shows the route.";
    Prohibited "prohibited" "resolve" "The route says prohibit."
        "`ip route get` on the node shows the route.";
    PortDown "port-down" "resolve" "The route's port is not served by Caracal or is down."
        "`caracal ports` shows the ports; add the interface to `uplinks` if packets are to leave by it.";
    SameInterface "same-interface" "resolve" "A packet from a pod would go back to the same pod's interface."
        "The pod sends to its own address by its gateway; look at its routing table.";
    NeighbourUnresolved "neighbour-unresolved" "resolve" "The next hop's MAC address did not become known in time."
        "Is the next hop up? `ip neigh` on the node shows what the kernel knows.";
    NeighbourQueueFull "neighbour-queue-full" "resolve" "Too many packets wait for next hops' MAC addresses."
        "A scan of an empty subnet does this; otherwise see neighbour-unresolved.";
    TtlExpired "ttl-expired" "resolve" "The TTL or hop limit reached zero."
        "traceroute does this on purpose; otherwise look for a routing loop.";
    MtuExceeded "mtu-exceeded" "resolve" "The packet is longer than the way's MTU and may not be fragmented."
        "The sender is told by ICMP; check that it hears it, and that the pods' MTU allows for the encapsulation.";
    SourceIsTunnel "source-is-tunnel" "resolve" "A packet of somebody else whose source is the tunnel's own end must not enter it (RFC 2003 section 3.2)."
        "Look at the routes to the nodes' addresses.";
    NoFrame "no-frame" "apply" "No free frame was left for a fragment."
        "Raise `frames` in caracal.yaml.";
    NoHeadroom "no-headroom" "apply" "No room in front of the packet for the encapsulation."
        "A bug or an odd driver; please report it with `caracal --version`.";
    TxRingFull "tx-ring-full" "egress" "The port's transmit ring was full."
        "The receiver is slower than the sender; expected under overload.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_kebab_case() {
        let names: HashSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
        for name in names {
            assert!(
                name.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{name}"
            );
        }
    }

    #[test]
    fn a_reason_indexes_its_counter() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
    }
}
