//! IP sets, member by member.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;

use super::parse::{self, Refusal};
use super::proto::IpSetType;
use crate::config::decode::digits;
use crate::policy::model::{IpPort, IpSet};
use crate::policy::rule::Protocol;

/// A set, and what of it is not understood.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Set {
    pub(super) value: Arc<IpSet>,
    /// Members that are none of its kind. A set with any is no set that a rule can ask.
    pub(super) bad: BTreeSet<String>,
}

impl Set {
    /// A set of a kind, without members.
    pub(super) fn new(kind: i32) -> Result<Self, Refusal> {
        let value = match IpSetType::try_from(kind) {
            Ok(IpSetType::Ip | IpSetType::Net) => IpSet::Nets(BTreeSet::new()),
            Ok(IpSetType::IpAndPort) => IpSet::IpPorts(BTreeSet::new()),
            Err(_) => return Err(format!("a set of the unknown kind {kind}")),
        };
        Ok(Self {
            value: Arc::new(value),
            bad: BTreeSet::new(),
        })
    }

    /// Adds members; those that are there stay.
    pub(super) fn add(&mut self, members: &[String]) {
        let set = Arc::make_mut(&mut self.value);
        for text in members {
            if !change(set, text, BTreeSet::insert, BTreeSet::insert) {
                self.bad.insert(text.clone());
            }
        }
    }

    /// Removes members; those that are not there are no matter.
    pub(super) fn remove(&mut self, members: &[String]) {
        let set = Arc::make_mut(&mut self.value);
        for text in members {
            if !change(
                set,
                text,
                |nets, net| nets.remove(&net),
                |ports, port| ports.remove(&port),
            ) {
                self.bad.remove(text);
            }
        }
    }
}

/// Does something with a member. False: it is none of the set's kind.
fn change(
    set: &mut IpSet,
    text: &str,
    net: impl FnOnce(&mut BTreeSet<IpNet>, IpNet) -> bool,
    port: impl FnOnce(&mut BTreeSet<IpPort>, IpPort) -> bool,
) -> bool {
    match set {
        IpSet::Nets(nets) => {
            let member = parse::net(text);
            member.map(|member| net(nets, member.trunc())).is_ok()
        }
        IpSet::IpPorts(ports) => {
            let member = ip_port(text);
            member.map(|member| port(ports, member)).is_some()
        }
    }
}

/// `10.0.0.1,tcp:80`, also with `/32`.
fn ip_port(text: &str) -> Option<IpPort> {
    let (address, port) = text.split_once(',')?;
    let net = parse::net(address).ok()?;
    let (protocol, port) = port.split_once(':')?;
    let protocol = Protocol::by_name(protocol).or_else(|| digits(protocol).map(Protocol))?;
    (net.prefix_len() == net.max_prefix_len()).then_some(IpPort {
        address: net.addr(),
        protocol,
        port: digits(port)?,
    })
}
