//! Policy: which rule decides about a packet.
//!
//! An endpoint has a [`Chain`] for each direction: tiers of policies, then profiles, in Calico's
//! semantics. Two inputs change at different paces, so they are two values: rules ([`Policy`], compiled by
//! a [`Compiler`]) and IP sets (a [`SetWriter`], read as [`Sets`]). Rules name sets by number; a packet is
//! classified by one chain under one snapshot of the sets, and both never change.
//!
//! Policies that stand next to each other are compiled together into segments, which chains share. The
//! first rule of a segment that matches is found by bit vectors: each field of the packet selects the
//! rules that it satisfies, and the intersection is what matches, whatever the number of rules.

mod address;
mod chain;
mod check;
mod compiler;
mod intervals;
mod matcher;
mod rule;
mod segment;
mod sets;
mod tree;
mod tuple;
mod verdict;

pub use address::Address;
pub use chain::Chain;
pub use compiler::{AclError, Compiler};
pub use rule::{
    Action, ChainSpec, Icmp, Net, Policy, PortRange, Rule, RuleId, SetId, Side, Tier, TierDefault,
};
pub use sets::{Member, Members, SetError, SetWriter, Sets};
pub use tuple::{Family, L4, Tuple};
pub use verdict::{Logs, Reason, Verdict};
