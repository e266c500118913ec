//! What the checks found, as lines for people and as JSON (schema `caracal.demo/v1`, see docs/demo.md).

use std::fmt::Write as _;
use std::net::IpAddr;

use serde::Serialize;

use super::scenario::{Family, Mode};
use crate::words::counted;

/// Version of the JSON document. It changes when a field changes its meaning or goes; new fields may come.
pub const SCHEMA: &str = "caracal.demo/v1";

/// What a check looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// The dataplane came up on both nodes.
    Start,
    /// The pod's gateway answered ARP or neighbour solicitations as Calico's does.
    Neighbour,
    /// ICMP echo.
    Ping,
    /// UDP echo.
    Udp,
    /// TCP transfer.
    Tcp,
    /// The client's address as the server saw it.
    Source,
    /// The form of the packets on the underlay.
    Wire,
    /// Several TCP connections at once.
    Connections,
    /// A client is told at once that nobody serves there.
    Refused,
    /// An ICMP error about a TTL that ended on the way, heard by the client.
    Expired,
    /// A TCP transfer over a path with a smaller MTU.
    Mtu,
    /// Connections from before a change go on.
    Kept,
    /// More connections than ports for them.
    Exhausted,
    /// Many UDP flows of one pod.
    Flood,
    /// No traffic gets through.
    Blocked,
    /// The daemon names the rule that denied.
    Named,
    /// A trace says what a staged policy would do.
    Staged,
    /// A pod that sends from another's address gets nothing through.
    Spoofed,
    /// The dataplane ended in order.
    Stop,
}

impl What {
    fn label(self, family: Option<Family>) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Neighbour if family == Some(Family::Ipv6) => "ndp",
            Self::Neighbour => "arp",
            Self::Ping => "ping",
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Source => "seen as",
            Self::Wire => "wire",
            Self::Connections => "connections",
            Self::Refused => "refused",
            Self::Expired => "expired at",
            Self::Mtu => "path mtu",
            Self::Kept => "kept",
            Self::Exhausted => "exhausted",
            Self::Flood => "flood",
            Self::Blocked => "blocked",
            Self::Named => "named",
            Self::Staged => "staged",
            Self::Spoofed => "spoofed",
            Self::Stop => "stop",
        }
    }
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It held.
    Pass,
    /// It did not.
    Fail,
    /// It could not be tried here; the reason says why.
    Skipped,
}

/// Figures of a check; those that do not apply are absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(default)]
pub struct Figures {
    /// Median round trip, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<f64>,
    /// From the first request to the first answer, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_answer_ms: Option<f64>,
    /// From the start of the daemons' processes to the first answer, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub back_after_ms: Option<f64>,
    /// Requests sent and answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers: Option<u32>,
    /// Payload sizes echoed, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sizes_bytes: Option<Vec<usize>>,
    /// Datagrams sent again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<u32>,
    /// Payload of the transfer, bytes, each way (from client to server, when it goes by time).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Payload rate from client to server, Mbit/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up_mbit_s: Option<f64>,
    /// Payload rate from server to client, Mbit/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down_mbit_s: Option<f64>,
    /// SHA-256 of the client's bytes, equal at both ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Who sent what was seen: the client as the server saw it, or the sender of an ICMP error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// Connections that came about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Endpoints of the service that answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<u32>,
    /// Connections or packets that had to be refused, and were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<u32>,
    /// Connections that made room for newer ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evicted: Option<u32>,
    /// UDP flows begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flows: Option<u32>,
    /// Changes of the node's routes meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<u32>,
    /// MTU of the path, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// What crossed the underlay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wire: Option<String>,
    /// Time the step took, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<f64>,
}

impl Figures {
    fn text(&self, what: What) -> String {
        let rounded = |value: Option<f64>| value.unwrap_or_default();
        let by = self.endpoints.map_or(String::new(), |endpoints| {
            format!(", by {}", counted(endpoints.into(), "endpoint"))
        });
        match what {
            What::Neighbour => super::plan::GATEWAY_MAC.to_owned(),
            What::Ping => {
                let back = self.back_after_ms.map_or(String::new(), |ms| {
                    format!(" (back {ms:.0} ms after the restart)")
                });
                format!("{:.3} ms{back}", rounded(self.rtt_ms))
            }
            What::Udp => {
                let sizes = self.sizes_bytes.as_deref().unwrap_or_default();
                let most = sizes.iter().max().copied().unwrap_or_default();
                let lost = self.lost.filter(|lost| *lost > 0);
                let lost = lost.map_or(String::new(), |lost| format!(" ({lost} sent again)"));
                format!("up to {most} B{lost}{by}")
            }
            What::Tcp => {
                let changes = self.changes.map_or(String::new(), |changes| {
                    format!(", {} of routes", counted(changes.into(), "change"))
                });
                format!(
                    "{} MiB, sha256 equal, {:.0}/{:.0} Mbit/s{changes}",
                    self.bytes.unwrap_or_default() >> 20,
                    rounded(self.up_mbit_s),
                    rounded(self.down_mbit_s)
                )
            }
            What::Mtu => format!(
                "{}, {} MiB, sha256 equal",
                self.mtu.unwrap_or_default(),
                self.bytes.unwrap_or_default() >> 20
            ),
            What::Wire => self.wire.clone().unwrap_or_default(),
            What::Source | What::Expired => self.source.map_or(String::new(), |ip| ip.to_string()),
            What::Refused => match self.source {
                Some(ip) => format!("by {ip}"),
                None => format!("after {:.1} ms", rounded(self.took_ms)),
            },
            What::Connections => {
                let bytes = self.bytes.map_or(String::new(), |bytes| {
                    format!(", {} MiB, sha256 equal", bytes >> 20)
                });
                format!("{}{bytes}{by}", self.connections.unwrap_or_default())
            }
            What::Kept => self.connections.unwrap_or_default().to_string(),
            What::Exhausted => format!(
                "{} go on, {} refused",
                self.connections.unwrap_or_default(),
                self.refused.unwrap_or_default()
            ),
            What::Flood => format!(
                "{}, {} evicted",
                counted(self.flows.unwrap_or_default().into(), "flow"),
                self.evicted.unwrap_or_default()
            ),
            What::Spoofed => format!("{} dropped", self.refused.unwrap_or_default()),
            What::Start | What::Blocked | What::Named | What::Staged | What::Stop => self
                .took_ms
                .map_or(String::new(), |ms| format!("{ms:.0} ms")),
        }
    }
}

/// One check and its result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Step of the demonstration, e.g. "vxlan", "cross-subnet/same", "interop-vxlan", "stopped", "snat", "services".
    pub step: String,
    /// Mode of the pools.
    pub mode: Mode,
    /// IP family, where the check has one.
    pub family: Option<Family>,
    /// Kind of conversation, e.g. "pod to pod, one node".
    pub pair: Option<String>,
    /// Its client, e.g. "node1/client".
    pub from: Option<String>,
    /// Its server.
    pub to: Option<String>,
    /// What was looked at.
    pub what: What,
    /// How it ended.
    pub status: Status,
    /// Why it failed or was skipped.
    pub reason: Option<String>,
    /// What was measured.
    pub figures: Figures,
}

/// Counts of the outcomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Checks that held.
    pub passed: usize,
    /// Checks that did not.
    pub failed: usize,
    /// Checks that could not be tried.
    pub skipped: usize,
}

/// The whole result.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Version of this program.
    pub version: &'static str,
    /// Release of the kernel.
    pub kernel: String,
    /// What forwarded on the nodes: "caracal", "kernel" or "none".
    pub dataplane: String,
    /// All checks that were tried held, and at least one was.
    pub ok: bool,
    /// Why the demonstration ended before its end.
    pub error: Option<String>,
    /// Where logs and configuration of the daemons were kept after a failure.
    pub logs: Option<String>,
    /// Time it took.
    pub seconds: f64,
    /// Counts.
    pub summary: Summary,
    /// Every check, in order.
    pub checks: Vec<Outcome>,
}

impl Report {
    /// An empty report.
    pub fn new(dataplane: &str) -> Self {
        Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or(String::new(), |release| release.trim().to_owned()),
            dataplane: dataplane.to_owned(),
            ok: false,
            error: None,
            logs: None,
            seconds: 0.0,
            summary: Summary::default(),
            checks: Vec::new(),
        }
    }

    /// Counts the outcomes and decides whether all is well.
    pub fn conclude(&mut self, seconds: f64) {
        let count = |status| self.checks.iter().filter(|c| c.status == status).count();
        self.summary = Summary {
            passed: count(Status::Pass),
            failed: count(Status::Fail),
            skipped: count(Status::Skipped),
        };
        self.seconds = seconds;
        self.ok = self.error.is_none() && self.summary.failed == 0 && self.summary.passed > 0;
    }

    /// The document, for machines.
    pub fn json(&self) -> String {
        // Plain data with string keys: it cannot fail.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The summary, for people.
    pub fn summary_text(&self) -> String {
        let Summary {
            passed,
            failed,
            skipped,
        } = self.summary;
        let mut text = String::new();
        if let Some(error) = &self.error {
            let _ = writeln!(text, "error: {error}");
        }
        let verdict = if self.ok { "PASS" } else { "FAIL" };
        let _ = write!(
            text,
            "{verdict}: {} passed, {failed} failed, {skipped} skipped, in {:.0} s",
            counted(passed as u64, "check"),
            self.seconds
        );
        if let Some(logs) = &self.logs {
            let _ = write!(text, "\nlogs and configuration of the daemons: {logs}");
        }
        text
    }
}

/// The line of one conversation: all that was looked at, with figures; then a line for each failure.
/// All outcomes have the same step, family and ends.
pub fn line(outcomes: &[Outcome]) -> String {
    let Some(first) = outcomes.first() else {
        return String::new();
    };
    let has = |status| outcomes.iter().any(|outcome| outcome.status == status);
    let verdict = if has(Status::Fail) {
        "FAIL"
    } else if has(Status::Pass) {
        "PASS"
    } else {
        "SKIP"
    };
    let mut text = format!("{verdict} {:<18}", first.step);
    if let Some(family) = first.family {
        let _ = write!(text, " {family}");
    }
    if let (Some(pair), Some(from), Some(to)) = (&first.pair, &first.from, &first.to) {
        let ends = format!("{from} -> {to}");
        let _ = write!(text, "  {pair:<21} {ends:<25}");
    }
    for outcome in outcomes.iter().filter(|o| o.status == Status::Pass) {
        let label = outcome.what.label(outcome.family);
        let _ = write!(text, "  {label} {}", outcome.figures.text(outcome.what));
    }
    for outcome in outcomes.iter().filter(|o| o.status != Status::Pass) {
        let word = if outcome.status == Status::Fail {
            "failed"
        } else {
            "skipped"
        };
        let label = outcome.what.label(outcome.family);
        let reason = outcome.reason.as_deref().unwrap_or_default();
        let _ = write!(text, "\n       {label} {word}: {reason}");
    }
    text.lines()
        .map(str::trim_end)
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests;
