//! Connections from one run of the daemon to the next: a file that an orderly stop leaves and the next start reads once.
//!
//! [`mod@format`] is what stands in it, [`mod@file`] how it is written and whom it is taken from. Which ends of then are which of now is told by the
//! compiler (`compile::places`), and all of it is done by `node::keep` ([ADR 22](../../../docs/adr/0022-connections-outlive-a-restart.md)).

pub mod file;
pub mod format;
