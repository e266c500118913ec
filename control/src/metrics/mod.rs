//! What Prometheus is told: the numbers of `caracal … -o json`, under names of their own.
//!
//! One [`list`] says which member of the JSON a metric is ([`gather`]), so that the two cannot differ; [`page`] writes
//! them in the format that the client names.

mod gather;
mod list;
mod page;
#[cfg(test)]
mod strict;
#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::api::report::{DropCount, Status};

pub(crate) use page::{Format, Page};

/// All that metrics are made of. A metric's [`from`](list::Metric::from) is a path into this as JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    /// As `caracal status -o json`.
    pub(crate) status: Status,
    /// As `caracal drops -o json`.
    pub(crate) drops: Dropped,
    /// What rules have decided, if that is wanted.
    pub(crate) rules: Vec<RuleUse>,
}

/// The part of `caracal drops -o json` that status has not.
#[derive(Debug, Serialize)]
pub(crate) struct Dropped {
    /// By reason and port of entry.
    pub(crate) drops: Vec<DropCount>,
}

/// What one rule has decided, as `caracal policy show -o json` counts it.
#[derive(Debug, Serialize)]
pub(crate) struct RuleUse {
    /// The policy's tier; a profile has none.
    pub(crate) tier: Option<String>,
    /// The policy or the profile, with its kind.
    pub(crate) policy: String,
    /// `ingress` or `egress`.
    pub(crate) direction: &'static str,
    /// Its number among the rules of its direction, from 1.
    pub(crate) rule: usize,
    /// What it does.
    pub(crate) action: &'static str,
    /// First packets that it decided about.
    pub(crate) connections: u64,
    /// All packets of these connections.
    pub(crate) packets: u64,
}
