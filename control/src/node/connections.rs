//! The table of connections, and whether the machine has the memory for it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use fastpath::connections::{Connections, Sizes};
use flowtable::flow::Capacity;

use super::RunError;
use super::start::random_key;
use crate::config::{DaemonConfig, Diagnostic, Diagnostics, daemon};

/// Bytes of an IPv4 entry.
const ENTRY_V4: u64 = 65;
/// Bytes of an IPv6 entry.
const ENTRY_V6: u64 = 129;

/// Refuses tables that are larger than the machine's memory: the process would be ended while it makes them.
pub(super) fn check_memory(path: &Path, wanted: &daemon::Connections) -> Result<(), RunError> {
    let Some(memory) = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| kilobytes(&text, "MemTotal:"))
    else {
        return Ok(());
    };
    let finding = too_large(path, wanted, memory);
    finding.map_or(Ok(()), |finding| {
        Err(RunError::Config(Diagnostics(vec![finding])))
    })
}

/// Bytes that the tables of connections take: IPv4's, and IPv6's.
pub(super) fn bytes(wanted: &daemon::Connections) -> (u64, u64) {
    let v4 = u64::from(wanted.entries) * ENTRY_V4;
    (v4, u64::from(wanted.entries_v6) * ENTRY_V6)
}

fn too_large(path: &Path, wanted: &daemon::Connections, memory: u64) -> Option<Diagnostic> {
    let (v4, v6) = bytes(wanted);
    if v4 + v6 <= memory {
        return None;
    }
    let message = format!(
        "{}: connections need {} MiB (`connections.entries: {}` {} MiB, `connections.entriesV6: {}` {} MiB), \
         and this machine has {} MiB",
        path.display(),
        (v4 + v6) >> 20,
        wanted.entries,
        v4 >> 20,
        wanted.entries_v6,
        v6 >> 20,
        memory >> 20,
    );
    Some(Diagnostic::error(message).help("lower them; their memory is taken at start"))
}

/// A line of `/proc/meminfo`, such as `MemTotal:`, in bytes.
pub(super) fn kilobytes(meminfo: &str, field: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(field))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

/// The table of connections, with room for those of `ports` ports.
pub(super) fn connections(
    config: &DaemonConfig,
    ports: usize,
) -> Result<Arc<Connections>, RunError> {
    let capacity = |entries: u32| {
        let capacity = Capacity::new(entries as usize);
        capacity.map_err(|error| RunError::System {
            what: "make the table of connections",
            source: std::io::Error::other(error),
        })
    };
    let sizes = Sizes {
        v4: capacity(config.connections.entries)?,
        v6: capacity(config.connections.entries_v6)?,
        ports: u16::try_from(ports).unwrap_or(u16::MAX),
        share_percent: config.connections.per_endpoint_percent,
    };
    let ([a, b], [c, d]) = (random_key()?, random_key()?);
    let connections = Connections::new(&sizes, [a, b, c, d]);
    tracing::info!(
        "connections: {} IPv4 and {} IPv6 entries, {} MiB",
        config.connections.entries,
        config.connections.entries_v6,
        connections.memory_bytes() >> 20
    );
    Ok(Arc::new(connections))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(entries: u32, entries_v6: u32) -> daemon::Connections {
        daemon::Connections {
            entries,
            entries_v6,
            ..daemon::Connections::default()
        }
    }

    #[test]
    fn what_is_larger_than_the_memory_is_refused() {
        let (path, gib) = (Path::new("caracal.yaml"), 1 << 30);
        assert_eq!(too_large(path, &wanted(1 << 20, 1 << 18), gib), None);
        for (entries, entries_v6) in [(1 << 24, 1 << 18), (1 << 20, 1 << 23), (1 << 30, 1 << 30)] {
            let finding = too_large(path, &wanted(entries, entries_v6), gib).unwrap();
            let said = finding.render(false);
            for word in [
                "connections.entries: ",
                "connections.entriesV6: ",
                "1024 MiB",
            ] {
                assert!(said.contains(word), "{said}");
            }
        }
    }

    #[test]
    fn entries_take_what_is_reckoned() {
        let capacity = Capacity::new(1 << 16).unwrap();
        let sizes = Sizes {
            v4: capacity,
            v6: capacity,
            ports: 8,
            share_percent: 25,
        };
        let taken = Connections::new(&sizes, [1, 2, 3, 4]).memory_bytes() as u64;
        let reckoned = (ENTRY_V4 + ENTRY_V6) << 16;
        assert!(
            taken.abs_diff(reckoned) < reckoned / 100,
            "{taken} against {reckoned}"
        );
    }

    #[test]
    fn the_machines_memory_is_read() {
        let total = |text| kilobytes(text, "MemTotal:");
        assert_eq!(
            total("MemTotal:        2048 kB\nMemFree: 1 kB\n"),
            Some(2 << 20)
        );
        assert_eq!(total("MemFree: 1 kB\n"), None);
    }
}
