//! Takes updates, compiles them into tables and owns the process and the node.
#![deny(unsafe_code)]

pub mod desired;
