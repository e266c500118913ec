//! Tests that stand beside the crates: golden captures, third-party captures, and a naive oracle of forwarding.
//!
//! Everything here is slow and simple on purpose: it judges code that is neither.
#![forbid(unsafe_code)]

pub mod build;
pub mod choices;
pub mod fixtures;
pub mod fuzz;
pub mod judge;
pub mod oracle;
pub mod rig;
pub mod show;
pub mod stories;
pub mod world;
