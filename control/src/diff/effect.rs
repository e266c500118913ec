//! What other policy would say of connections that there are: the verdict that the first packet of each would get, by the
//! classifier that pollers ask, with the policy in force and with the candidate's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use fastpath::policy::{End, Judgement, Policies};
use fastpath::reason::DropReason;

use super::places::Places;
use crate::api::report::{Flow, FlowDirection};
use crate::compile::{PolicyCompiler, PolicyError, PortRole};
use crate::desired::{Desired, Endpoint, Route, Way};
use crate::flows::{DENIED, has_identifier, protocol_number};
use crate::policy::packet::{Packet, State};
use crate::policy::rule::Protocol;
use crate::trace::explain;

/// Policy that follows from resources, compiled as the daemon compiles it.
#[derive(Debug)]
pub struct Judge {
    desired: Desired,
    policy: PolicyCompiler,
    policies: Policies,
}

/// What a judge says.
type Said = Result<Option<String>, String>;

impl Judge {
    /// Compiles.
    ///
    /// # Errors
    /// What does not fit: the daemon would refuse it, too.
    pub fn new(desired: Desired, places: &Places) -> Result<Self, PolicyError> {
        let mut policy = PolicyCompiler::default();
        policy.update(&desired.policy, &desired.node_name)?;
        let policies = policy.policies(&places.ports, &|ifindex| places.addresses(ifindex));
        Ok(Self {
            desired,
            policy,
            policies,
        })
    }

    /// Endpoints of the node.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.desired.endpoints
    }

    /// Whether the first packet of a connection would be let through, and by what that is decided. None: its ends are not known.
    fn judge(&self, flow: &Flow, packet: &Packet, places: &Places) -> Option<Said> {
        let from = self.end(&flow.original, flow.src, places)?;
        let from = match from {
            // As pollers see it: what the kernel forwards comes by the host's port, too.
            End::Host if !flow.from_host => End::Elsewhere,
            end => end,
        };
        let to = self.end(&flow.reply, packet.dst, places)?;
        let (judgement, _) = explain(&self.policies, packet, from, to);
        let words = |by| self.policy.reason(by).map(|reason| reason.to_string());
        Some(match judgement {
            Judgement::Allow {
                source,
                destination,
            } => Ok(words(destination).or_else(|| words(source))),
            Judgement::Deny {
                reason: DropReason::PolicyDeny,
                by,
            } => Err(words(by).unwrap_or_else(|| "no endpoint is known there".to_owned())),
            Judgement::Deny { reason, .. } => Err(reason.meaning().to_owned()),
        })
    }

    /// Where packets of a direction come in. None: at what is gone.
    fn end(&self, direction: &FlowDirection, address: IpAddr, places: &Places) -> Option<End> {
        let Some(name) = &direction.port else {
            let is_tunnel = direction.node.is_some();
            // Nothing came back of what is denied: where it would go is where its address is.
            return match direction.origin.as_str() {
                _ if is_tunnel => Some(End::Elsewhere),
                UNKNOWN => Some(self.towards(address, places)),
                _ => None,
            };
        };
        let id = places.ports.by_name(name)?;
        Some(match places.ports.get(id)?.role {
            PortRole::Pod => End::Pod(id),
            PortRole::Uplink => End::Uplink(id),
            PortRole::Host(_) => End::Host,
        })
    }

    /// Where an address is by the resources' routes. What is in none is beyond the first uplink.
    fn towards(&self, address: IpAddr, places: &Places) -> End {
        let has = |endpoint: &&Endpoint| endpoint.addresses().any(|it| it == address);
        let endpoint = self.desired.endpoints.iter().find(has);
        if let Some(id) = endpoint.and_then(|it| places.ports.by_name(&it.interface)) {
            return End::Pod(id);
        }
        let node = self.desired.local_node();
        if node.is_some_and(|node| node.all_addresses().any(|own| own == address)) {
            return End::Host;
        }
        let routes = self.desired.routes.iter();
        let route = routes
            .filter(|route| route.dst.contains(&address))
            .max_by_key(|route| route.dst.prefix_len());
        let way = route.and_then(Route::way);
        match (way, places.uplink()) {
            (Some(Way::Vxlan | Way::Ipip), _) | (_, None) => End::Elsewhere,
            (_, Some(uplink)) => End::Uplink(uplink),
        }
    }
}

/// How the daemon names a place that it does not know.
const UNKNOWN: &str = "unknown";

/// Connections that would be judged otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turned {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub example: Option<Example>,
    /// How many by what decides, in words.
    pub by: BTreeMap<String, u64>,
}

impl Turned {
    fn add(&mut self, flow: &Flow, by: Option<String>) {
        self.count += 1;
        if let Some(by) = &by {
            *self.by.entry(by.clone()).or_default() += 1;
        }
        self.example.get_or_insert_with(|| Example {
            protocol: flow.protocol.clone(),
            src: (flow.src, flow.src_port),
            dst: (flow.dst, flow.dst_port),
            by,
        });
    }
}

/// One of several connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The protocol's name, or its number.
    pub protocol: String,
    /// The source's address, before it is translated, and port.
    pub src: (IpAddr, Option<u16>),
    /// The destination's.
    pub dst: (IpAddr, Option<u16>),
    /// What decides, in words; nothing where no policy is asked.
    pub by: Option<String>,
}

impl std::fmt::Display for Example {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end = |(address, port): (IpAddr, Option<u16>)| {
            port.map_or_else(
                || address.to_string(),
                |port| SocketAddr::new(address, port).to_string(),
            )
        };
        let (src, dst) = (end(self.src), end(self.dst));
        write!(f, "{src} -> {dst}/{}", self.protocol)
    }
}

/// What would become of connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// Those that are allowed, and would be denied.
    pub denied: Turned,
    /// Those that are denied, and would be allowed.
    pub allowed: Turned,
    /// Those that would be judged as they are.
    pub unchanged: u64,
    /// Those of endpoints that would be gone, or others: they end, whatever policy says.
    pub ending: u64,
    /// Those whose ends are not known.
    pub unknown: u64,
    /// Those that were being changed when they were looked at.
    pub busy: u64,
}

impl Effect {
    /// How many connections there are.
    pub const fn total(&self) -> u64 {
        let judged = self.denied.count + self.allowed.count + self.unchanged;
        judged + self.ending + self.unknown + self.busy
    }
}

/// Judges connections one by one.
#[derive(Debug)]
pub struct Comparison<'j> {
    /// With what is in force. None where that is in no file: then what is remembered of a connection tells.
    old: Option<&'j Judge>,
    new: &'j Judge,
    places: &'j Places,
    /// Interfaces of endpoints that would be gone, or others.
    gone: BTreeSet<&'j str>,
    /// What came out.
    pub effect: Effect,
}

impl<'j> Comparison<'j> {
    /// Of what is in force, if it is known, with the candidate.
    pub fn new(old: Option<&'j Judge>, new: &'j Judge, places: &'j Places) -> Self {
        let stays = |interface: &str, before: Option<&Endpoint>| {
            let mut endpoints = new.endpoints().iter();
            let now = endpoints.find(|it| it.interface == interface);
            now.is_some_and(|now| before.is_none_or(|before| before.identity() == now.identity()))
        };
        let gone: BTreeSet<&str> = match old {
            Some(old) => {
                let before = old.endpoints().iter();
                let gone = before.filter(|it| !stays(&it.interface, Some(it)));
                gone.map(|it| it.interface.as_str()).collect()
            }
            None => places.pods().filter(|it| !stays(it, None)).collect(),
        };
        Self {
            old,
            new,
            places,
            gone,
            effect: Effect::default(),
        }
    }

    /// Judges one more.
    pub fn add(&mut self, flow: &Flow) {
        let ports = [&flow.original.port, &flow.reply.port];
        if ports
            .into_iter()
            .flatten()
            .any(|it| self.gone.contains(it.as_str()))
        {
            self.effect.ending += 1;
            return;
        }
        let judged = packet(flow).and_then(|packet| {
            let new = self.new.judge(flow, &packet, self.places)?;
            let old = match self.old {
                Some(old) => old.judge(flow, &packet, self.places)?.is_ok(),
                None => flow.state != DENIED,
            };
            Some((old, new))
        });
        let effect = &mut self.effect;
        match judged {
            None => effect.unknown += 1,
            Some((true, Err(by))) => effect.denied.add(flow, Some(by)),
            Some((false, Ok(by))) => effect.allowed.add(flow, by),
            Some(_) => effect.unchanged += 1,
        }
    }
}

/// The first packet of a connection, as policy sees it: before its source is translated.
fn packet(flow: &Flow) -> Option<Packet> {
    let protocol = Protocol(protocol_number(&flow.protocol)?);
    let has_ports = protocol.has_ports() || protocol == Protocol::UDPLITE;
    let is_query = has_identifier(protocol.0);
    // A service's endpoint is what policy is about.
    let (dst, dst_port) = match &flow.dnat {
        Some(to) => (to.addr, to.port),
        None => (flow.dst, flow.dst_port),
    };
    Some(Packet {
        src: flow.src,
        dst,
        protocol,
        ports: flow.src_port.zip(dst_port).filter(|_| has_ports),
        icmp: flow.icmp_type.filter(|_| is_query).map(|kind| (kind, 0)),
        original_dst: None,
        state: State::New,
    })
}

#[cfg(test)]
mod tests;
