//! What fuzzing runs: functions that take any bytes and panic when something is not as it must be.
//!
//! The programs in `fuzz/` hand them what a fuzzer comes up with; the test `fuzz` hands them what once failed
//! (`fuzz/regressions`), the seeds, and seeds changed at random. To add one: a function here, a row in [`TARGETS`], a program of that name.

mod felix;
mod headers;
mod kept;
mod mutate;
mod packets;
mod seeds;
mod text;

use std::path::{Path, PathBuf};

pub use mutate::Mutator;

/// Something that is fuzzed.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, that of its program.
    pub name: &'static str,
    /// Runs it.
    ///
    /// # Panics
    /// When something is not as it must be.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Everything that is fuzzed.
pub const TARGETS: [Target; 14] = [
    Target {
        name: "ethernet",
        run: headers::ethernet,
        seeds: seeds::frames,
    },
    Target {
        name: "ipv4",
        run: headers::ipv4,
        seeds: seeds::ipv4,
    },
    Target {
        name: "ipv6",
        run: headers::ipv6,
        seeds: seeds::ipv6,
    },
    Target {
        name: "icmp_errors4",
        run: headers::icmp_errors4,
        seeds: seeds::icmp_errors4,
    },
    Target {
        name: "icmp_errors6",
        run: headers::icmp_errors6,
        seeds: seeds::icmp_errors6,
    },
    Target {
        name: "pipeline",
        run: packets::pipeline,
        seeds: seeds::pipeline,
    },
    Target {
        name: "capture",
        run: packets::capture,
        seeds: seeds::captures,
    },
    Target {
        name: "resources",
        run: text::resources,
        seeds: seeds::resources,
    },
    Target {
        name: "selector",
        run: text::selector,
        seeds: seeds::selectors,
    },
    Target {
        name: "flow_filter",
        run: text::flow_filter,
        seeds: seeds::flow_filters,
    },
    Target {
        name: "protocol",
        run: text::protocol,
        seeds: seeds::requests,
    },
    Target {
        name: "http",
        run: text::http,
        seeds: seeds::http_requests,
    },
    Target {
        name: "felix",
        run: felix::messages,
        seeds: felix::seeds,
    },
    Target {
        name: "kept",
        run: kept::file,
        seeds: kept::seeds,
    },
];

/// Runs the target of this name.
///
/// # Panics
/// When there is none, and as the target does.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("a target of this name").run)(data);
}

/// The directory of the fuzzer's programs and of what once failed.
#[must_use]
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}
