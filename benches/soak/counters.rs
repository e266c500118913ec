//! What the daemon counts, as `caracal` says it.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use benches::process;
use benches::rounds::Result;
use serde_json::Value;

/// How long the daemon may take to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where a daemon is asked.
pub(crate) struct Counters {
    caracal: PathBuf,
    socket: PathBuf,
}

/// Sums since the daemon's start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    /// Packets of pod A that the poller took.
    pub(crate) a_rx: u64,
    /// Packets of pod A for which its ring had no place.
    pub(crate) a_lost: u64,
    /// Packets of pod B, of the outside and of the host for which their rings had no place.
    pub(crate) others_lost: u64,
    /// Packets of pod B and of the outside that the dataplane dropped.
    pub(crate) others_dropped: u64,
    /// Connections made, those that went for newer ones, and packets dropped for pod A's share and for want of room.
    pub(crate) made: u64,
    pub(crate) evicted: u64,
    pub(crate) over_share: u64,
    pub(crate) no_room: u64,
}

impl Sums {
    /// Adds those of another time.
    pub(crate) fn add(&mut self, other: &Self) {
        self.a_rx += other.a_rx;
        self.a_lost += other.a_lost;
        self.others_lost += other.others_lost;
        self.others_dropped += other.others_dropped;
        self.made += other.made;
        self.evicted += other.evicted;
        self.over_share += other.over_share;
        self.no_room += other.no_room;
    }

    /// What came since `before`.
    pub(crate) const fn since(&self, before: &Self) -> Self {
        Self {
            a_rx: self.a_rx - before.a_rx,
            a_lost: self.a_lost - before.a_lost,
            others_lost: self.others_lost - before.others_lost,
            others_dropped: self.others_dropped - before.others_dropped,
            made: self.made - before.made,
            evicted: self.evicted - before.evicted,
            over_share: self.over_share - before.over_share,
            no_room: self.no_room - before.no_room,
        }
    }
}

impl Counters {
    /// Those of the daemon at `socket`, as soon as it serves both pods.
    pub(crate) fn of(socket: PathBuf) -> Result<Self> {
        let counters = Self {
            caracal: process::caracal()?,
            socket,
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let up = counters.ask(&["ports", "-o", "json"]).is_ok_and(|ports| {
                let is_up = |name| {
                    each(&ports["ports"]).any(|port| port["name"] == name && port["up"] == true)
                };
                is_up("na") && is_up("nb") && is_up("n1")
            });
            if up {
                return Ok(counters);
            }
            if Instant::now() > deadline {
                return Err("the daemon does not serve the pods".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// All of them now.
    pub(crate) fn now(&self) -> Result<Sums> {
        let status = self.ask(&["status", "-o", "json"])?;
        let drops = self.ask(&["drops", "-o", "json"])?;
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let mut sums = Sums {
            made: number(&status["connections"]["made"]),
            evicted: number(&status["connections"]["evicted"]),
            ..Sums::default()
        };
        for port in each(&status["ports"]) {
            let lost = ["rx_dropped", "rx_ring_full"].map(|key| number(&port["xsk"][key]));
            let lost: u64 = lost.iter().sum();
            if port["name"] == "na" {
                sums.a_rx += number(&port["rx_packets"]);
                sums.a_lost += lost;
            } else {
                sums.others_lost += lost;
            }
        }
        for drop in each(&drops["drops"]) {
            let count = number(&drop["count"]);
            match drop["reason"].as_str() {
                Some("flow-quota") => sums.over_share += count,
                Some("flow-table-full") => sums.no_room += count,
                _ => {}
            }
            if drop["port"] == "nb" || drop["port"] == "n1" {
                sums.others_dropped += count;
            }
        }
        Ok(sums)
    }

    /// Forgets all connections of pod A.
    pub(crate) fn forget_a(&self) -> Result<()> {
        self.ask(&["flows", "--flush", "--match", "endpoint na", "-o", "json"])
            .map(drop)
    }

    fn ask(&self, words: &[&str]) -> Result<Value> {
        let output = Command::new(&self.caracal)
            .args(words)
            .arg("--socket")
            .arg(&self.socket)
            .output()?;
        // A daemon that is degraded, as with a full table, is an answer too, with an exit code of its own.
        serde_json::from_slice(&output.stdout).map_err(|_| {
            let said = String::from_utf8_lossy(&output.stderr);
            format!("caracal {}: {}", words.join(" "), said.trim()).into()
        })
    }
}

fn each(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}
