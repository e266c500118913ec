#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]
//! Bytes and headers: parsing, checking, building and rewriting. No I/O, no clock, no threads.
//!
//! Two halves with two shapes.
//! What runs for every packet ([`eth`], [`ipv4`], [`ipv6`], [`l4`], [`checksum`], [`vxlan`], [`ipip`], [`ecn`],
//! [`flow_hash`], [`nat`], [`outer`]) is small, inlined, allocates nothing and never panics, whatever the bytes.
//! What runs now and then ([`arp`], [`ndp`], [`icmp4`], [`icmp6`], [`fragment4`]) dissects and builds whole packets.
//!
//! Addresses are integers in host order (`u32`, `u128`), because tables are searched by arithmetic on them.

pub mod arp;
pub mod checksum;
pub mod ecn;
pub mod eth;
pub mod flow_hash;
pub mod fragment4;
pub mod icmp4;
pub mod icmp6;
pub mod ipip;
pub mod ipv4;
pub mod ipv6;
pub mod l4;
pub mod nat;
pub mod ndp;
pub mod outer;
pub mod vxlan;

mod bytes;
#[cfg(test)]
mod testing;
