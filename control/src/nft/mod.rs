//! Host endpoints' policy on what the host itself sends and gets: one table of nftables, of ours alone.
//!
//! [`fn@render`] makes a [`Ruleset`] of the calculated model, [`Ruleset::change`] the script that makes the kernel's table
//! what it is, [`Nft`] has it run, and [`Keeper`] sees to it that it stays. `docs/adr/0018` says why.

mod base;
mod keeper;
mod matches;
mod names;
mod program;
mod render;
mod ruleset;
mod sets;

pub use keeper::{Condition, ENFORCED, Keeper, what_holds};
pub use program::{Nft, NftError};
pub use render::{Counters, Counting, KnownSets, MARK, Rendered, Unspeakable, View, render};
pub use ruleset::{Chain, Members, Ruleset, Set, TABLE};

#[cfg(test)]
mod tests;
