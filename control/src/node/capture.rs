//! Copies of packets, for those who capture.

use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime};

use fastpath::port::PortId;
use fastpath::reason::DropReason;
use fastpath::tap::{self, Copied, Wanted};
use flowtable::Tick;
use serde_json::Value;

use super::Node;
use crate::api::report::{CapturedPacket, Moment};
use crate::api::{ApiError, CaptureParams, ErrorCode};
use crate::capture::{Head, Kept, Meant, Packet};
use crate::flows::{Filter, Test};

/// Who captures asks again within this time.
const FOLLOWED: Duration = Duration::from_secs(3);

/// Who captures, and what was captured for them.
#[derive(Debug, Default)]
pub(super) struct Capture {
    kept: Kept,
    /// What is captured, each until then unless it is asked for again.
    wanted: Vec<(Wanted, Instant)>,
}

impl Capture {
    /// Asks for packets, until a while after now.
    fn want(&mut self, wanted: Wanted, now: Instant) {
        self.wanted.retain(|(other, _)| *other != wanted);
        self.wanted.push((wanted, now + FOLLOWED));
    }

    /// What all of them want together.
    fn all(&self) -> Option<Wanted> {
        let mut all = self.wanted.iter().map(|(wanted, _)| *wanted);
        let first = all.next()?;
        Some(all.fold(first, |sum, next| Wanted {
            drops_only: sum.drops_only && next.drops_only,
            port: sum.port.filter(|port| next.port == Some(*port)),
        }))
    }
}

impl Node {
    /// Takes the copies that pollers made, while their numbers mean what they meant.
    pub(super) fn take_copies(&mut self, now: Instant) {
        if self.capture.wanted.is_empty() {
            return;
        }
        let copies = self.pollers.copies();
        if let Some(tick) = self.pollers.now().filter(|_| !copies.is_empty()) {
            let now = (tick, SystemTime::now());
            for copied in &copies {
                let packet = self.packet(copied, now);
                self.capture.kept.push(packet);
            }
        }
        let before = self.capture.wanted.len();
        self.capture.wanted.retain(|(_, until)| *until > now);
        if self.capture.wanted.len() != before {
            self.pollers.set_captured(self.capture.all());
            self.show_all();
        }
        if self.capture.wanted.is_empty() {
            self.capture.kept.clear();
        }
    }

    /// Has all packets come to the pollers, who copy them, or established flows be the kernel's again.
    fn show_all(&mut self) {
        // What is dropped by policy comes to the pollers anyway.
        let is_captured = self.capture.all().is_some_and(|all| !all.drops_only);
        if let Some(offload) = &mut self.offload {
            offload.pause(is_captured);
        }
    }

    /// The packets that are asked for.
    pub(super) fn captured(&mut self, params: &CaptureParams) -> Result<Value, ApiError> {
        let bad = |message| ApiError::new(ErrorCode::BadParams, message);
        let name = params.interface.as_deref();
        let port = name
            .map(|name| {
                let port = self.compiler.ports().by_name(name);
                port.ok_or_else(|| {
                    bad(format!(
                        "no port is called {name:?}: `caracal ports` has them"
                    ))
                })
            })
            .transpose()?;
        let filter = self.filter(params.filter.as_deref())?;
        let of_connections =
            |test: &Test<_>| matches!(test, Test::State(_) | Test::Snat | Test::Dnat);
        if filter
            .as_ref()
            .is_some_and(|filter: &Filter<_>| filter.has(&of_connections))
        {
            let message =
                "match: `state`, `snat` and `dnat` are of connections, and a packet has none";
            return Err(bad(message.to_owned()));
        }
        let now = Instant::now();
        if self.capture.wanted.is_empty() {
            // Copies that were made when the last capture had ended.
            self.pollers.copies();
        }
        self.capture.want(
            Wanted {
                drops_only: params.drops,
                port,
            },
            now,
        );
        self.pollers.set_captured(self.capture.all());
        self.show_all();
        self.take_copies(now);
        let meant = Meant {
            drops: params.drops,
            port,
            filter,
        };
        let mut answer = self.capture.kept.answer(params.after, &meant);
        for counters in self.pollers.counters() {
            answer.lost += counters.copies_lost.get();
        }
        super::answer::value(&answer)
    }

    /// A copy in words.
    fn packet(&self, copied: &Copied, (tick, now): (Tick, SystemTime)) -> Packet {
        let age = tick.since(copied.at);
        let time = now.checked_sub(age).unwrap_or(now);
        let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH);
        let mut report = CapturedPacket {
            time: since_1970.map_or(0, |time| time.as_nanos() as u64),
            port: self.name_of_port(copied.port),
            length: copied.len,
            bytes: hexadecimal(copied.bytes()),
            generation: copied.generation,
            ..CapturedPacket::default()
        };
        match copied.moment {
            tap::Moment::In => {}
            tap::Moment::Out => report.moment = Moment::Out,
            tap::Moment::Dropped { reason, by } => {
                report.moment = Moment::Dropped;
                report.reason = Some(reason.name().to_owned());
                report.stage = Some(reason.stage().to_owned());
                // Of other reasons it means nothing.
                if reason == DropReason::PolicyDeny {
                    let decided = self.compiler.policy().decided(by);
                    report.rule = decided.map(|(reason, _)| reason.to_string());
                }
            }
        }
        Packet {
            at: copied.port,
            head: Head::of(copied.bytes()),
            report,
        }
    }

    /// The interface of a port; of one that is gone its number.
    fn name_of_port(&self, port: PortId) -> String {
        let spec = self.compiler.ports().get(port);
        spec.map_or_else(|| format!("port {}", port.0), |spec| spec.name.clone())
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pollers_capture_what_all_want_together() {
        let now = Instant::now();
        let wanted = |drops_only, port: Option<u16>| Wanted {
            drops_only,
            port: port.map(PortId),
        };
        let mut capture = Capture::default();
        assert_eq!(capture.all(), None);
        capture.want(wanted(true, Some(3)), now);
        capture.want(wanted(true, Some(3)), now);
        assert_eq!(capture.wanted.len(), 1);
        assert_eq!(capture.all(), Some(wanted(true, Some(3))));
        capture.want(wanted(false, Some(3)), now);
        assert_eq!(capture.all(), Some(wanted(false, Some(3))));
        capture.want(wanted(true, None), now);
        assert_eq!(capture.all(), Some(wanted(false, None)));
        assert_eq!(hexadecimal(&[0, 0xab]), "00ab");
    }
}
