//! Network policy in Calico's terms: the calculated model, what decides about a packet, and how YAML becomes it.
//!
//! The way of a policy: resources ([`resource`]) with their selectors ([`selector`]) → the calculated model
//! ([`model`], by [`mod@calculate`]), which is what Felix sends, too → a verdict ([`mod@evaluate`]), which names what
//! decided. The evaluator here goes through everything, in order, and is the judge of any faster one.

pub mod calculate;
pub mod describe;
pub mod evaluate;
pub mod legs;
pub(crate) mod matching;
pub mod model;
pub mod packet;
pub mod report;
pub mod resource;
pub mod rule;
pub mod selector;
mod settings;
mod shared;
pub(crate) mod show;
pub mod testing;
pub mod verdict;

pub use calculate::{Calculator, calculate};
pub use evaluate::evaluate;
pub use matching::rule_matches;
pub use model::Model;
pub use packet::Packet;
pub use verdict::Verdict;

#[cfg(test)]
mod tests;
