//! Takes updates, compiles them into tables and owns the process and the node.
#![deny(unsafe_code, clippy::print_stdout, clippy::print_stderr)]

pub mod api;
pub mod calico;
mod capture;
pub mod cli;
pub mod compile;
pub mod config;
pub mod demo;
pub mod desired;
pub mod diff;
pub mod felix;
pub mod flows;
pub mod http;
pub mod keep;
pub mod kubernetes;
mod metrics;
pub mod netlink;
pub mod nft;
pub mod node;
mod observe;
pub mod offload;
pub mod policy;
pub mod replay;
pub mod services;
pub mod trace;
mod words;
pub mod xdp;
