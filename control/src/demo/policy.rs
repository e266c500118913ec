//! Policies that come and go while the daemons run, as files of their resources.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use super::cancel::Cancel;
use super::error::{DemoError, Result};
use super::lab::Lab;
use super::plan::{Node, POD_NAMESPACE, WEB};
use super::scenario::Family;
use super::topology::ETH;
use super::{ask, live, resources};
use crate::api::Method;
use crate::api::report::Drops;
use crate::trace::{Ask, Trace};

/// How a rule that denied in the kernel ends in the daemon's words.
pub(super) const IN_KERNEL: &str = ", in the kernel";
/// A port of the nodes that no policy closes: SSH's.
pub(super) const FAILSAFE_PORT: u16 = 22;

/// A policy about the pod `web`, or about what reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    /// Staged: would deny all.
    Staged,
    /// Only `db` may come in.
    OnlyDb,
    /// Nothing may go out.
    Silence,
    /// Of node 1's interface to the others: nothing that comes in there may reach it, or the node itself.
    Edge,
    /// Only TCP to this port may come in.
    OnlyPort(u16),
}

impl Policy {
    /// Its resource's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Staged => "staged-close-web",
            Self::OnlyDb => "only-db",
            Self::Silence => "silence-web",
            Self::Edge => "close-edge",
            Self::OnlyPort(_) => "only-port",
        }
    }

    /// How many resources its file holds.
    fn resources(self) -> isize {
        match self {
            Self::Staged | Self::OnlyDb | Self::Silence | Self::OnlyPort(_) => 1,
            Self::Edge => 2,
        }
    }

    fn text(self) -> String {
        let only_port;
        let (kind, types, rules) = match self {
            Self::Staged => (
                "StagedNetworkPolicy",
                "Ingress",
                "  ingress:\n    - action: Deny\n",
            ),
            Self::OnlyDb => (
                "NetworkPolicy",
                "Ingress",
                "  ingress:\n    - action: Allow\n      source: {selector: pod == 'db'}\n    - action: Deny\n",
            ),
            Self::Silence => ("NetworkPolicy", "Egress", "  egress: []\n"),
            Self::Edge => return self.edge(),
            Self::OnlyPort(port) => {
                only_port = format!(
                    "  ingress:\n    - action: Allow\n      protocol: TCP\n      destination: {{ports: [{port}]}}\n    - action: Deny\n"
                );
                ("NetworkPolicy", "Ingress", only_port.as_str())
            }
        };
        format!(
            "apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata:\n  name: {}\n  namespace: {POD_NAMESPACE}\n\
             spec:\n  selector: pod == '{}'\n  types: [{types}]\n{rules}",
            self.name(),
            WEB.name
        )
    }

    /// A host endpoint, and the policy that selects it.
    fn edge(self) -> String {
        let to_node = Family::ALL.map(|family| {
            let address = Node::One.address(family, false);
            format!("    - {{action: Deny, destination: {{nets: ['{address}']}}}}\n")
        });
        format!(
            "apiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {{name: edge, labels: {{at: edge}}}}\n\
             spec: {{node: {}, interfaceName: {ETH}}}\n---\n\
             apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: {}}}\n\
             spec:\n  selector: at == 'edge'\n  applyOnForward: true\n  types: [Ingress, Egress]\n  ingress:\n    \
             - {{action: Deny, destination: {{selector: pod == '{}'}}}}\n{}    - {{action: Allow}}\n  \
             egress:\n    - {{action: Allow}}\n",
            Node::One.name(),
            self.name(),
            WEB.name,
            to_node.concat()
        )
    }

    fn path(self, lab: &Lab, node: Node) -> PathBuf {
        let file = format!("policy-{}.yaml", self.name());
        resources::directory(lab, node).join(file)
    }

    /// Drops its file into both nodes' resources, and waits until it is in force.
    ///
    /// # Errors
    /// When a daemon does not take it.
    pub(super) fn apply(self, lab: &Lab, cancel: &Cancel) -> Result<()> {
        change(lab, cancel, self.resources(), |node| {
            fs::write(self.path(lab, node), self.text())
        })
    }

    /// Takes its file away, and waits until it is no longer in force.
    ///
    /// # Errors
    /// When a daemon does not follow.
    pub(super) fn withdraw(self, lab: &Lab, cancel: &Cancel) -> Result<()> {
        change(lab, cancel, -self.resources(), |node| {
            fs::remove_file(self.path(lab, node))
        })
    }
}

/// Changes the files of both nodes, whose resources become `more`, and waits until pollers and the kernel use them.
fn change(
    lab: &Lab,
    cancel: &Cancel,
    more: isize,
    act: impl Fn(Node) -> std::io::Result<()>,
) -> Result<()> {
    for node in Node::ALL {
        let before = ask::status(lab, node)?.datastore.resources;
        let wanted = before.saturating_add_signed(more);
        act(node).map_err(DemoError::io("changing a policy's file".to_owned()))?;
        live::wait(lab, node, cancel, "a policy", || {
            Ok(ask::status(lab, node)?.datastore.resources == wanted)
        })?;
    }
    Ok(())
}

/// What the daemon of `node` dropped so far.
///
/// # Errors
/// When it does not answer.
pub(super) fn drops(lab: &Lab, node: Node) -> Result<Drops> {
    ask::call(lab, node, Method::Drops)
}

/// What would become of a new TCP connection, as the daemon of `node` traces it.
///
/// # Errors
/// When it does not answer.
pub(super) fn trace(lab: &Lab, node: Node, from: IpAddr, to: IpAddr) -> Result<Trace> {
    let packet = Ask {
        from: from.to_string(),
        to: to.to_string(),
        protocol: "tcp".to_owned(),
        port: 80,
        source_port: 40_000,
    };
    ask::call(lab, node, Method::Trace(packet))
}
