//! One JSON line for each packet that came in: what became of it.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;

use fastpath::batch::{Fate, Packet, flag};
use fastpath::counters::Counter;
use fastpath::policy::Decider;
use fastpath::port::PortId;
use fastpath::reason::DropReason;
use fastpath::stage::egress::Observe;
use flowtable::acl::RuleId;
use serde::Serialize;

/// Collects fates and writes them in the order in which packets came in.
pub(super) struct Verdicts {
    out: Option<Box<dyn Write>>,
    /// Ports' names by number.
    names: Vec<String>,
    /// How many packets each port has sent.
    sent: Arc<[Counter]>,
    /// Packets whose line is not written yet; the first has the tag `first`.
    waiting: VecDeque<Waiting>,
    first: u32,
    failure: Option<io::Error>,
    /// How many packets met each kind of fate, counted here beside the pipeline's own counters.
    pub(super) tally: Tally,
}

/// Packets by fate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) rx: u64,
    pub(super) tx: u64,
    pub(super) drop: u64,
    pub(super) punt: u64,
}

struct Waiting {
    port: PortId,
    index: u64,
    fate: Option<Sealed>,
    /// `Log` rules that it met.
    logged: Vec<RuleId>,
}

/// A final fate.
#[derive(Clone, Copy)]
enum Sealed {
    Transmit(PortId, u64),
    Punt,
    Drop(DropReason, Decider),
}

/// Puts what decided, or logged, into words.
type Why<'w> = &'w dyn Fn(Decider) -> Option<String>;

#[derive(Serialize)]
struct Line<'a> {
    port: &'a str,
    index: u64,
    fate: &'a str,
    out: Option<Out<'a>>,
    reason: Option<&'a str>,
    /// What denied it, if policy did.
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    /// `Log` rules that it met.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logged: Vec<String>,
}

#[derive(Serialize)]
struct Out<'a> {
    port: &'a str,
    index: u64,
}

impl Verdicts {
    pub(super) fn new(
        out: Option<Box<dyn Write>>,
        names: Vec<String>,
        sent: Arc<[Counter]>,
    ) -> Self {
        Self {
            out,
            names,
            sent,
            waiting: VecDeque::new(),
            first: 0,
            failure: None,
            tally: Tally::default(),
        }
    }

    /// A packet came in. Must be called in the order of tags.
    pub(super) fn expect(&mut self, port: PortId, index: u64) {
        self.tally.rx += 1;
        self.waiting.push_back(Waiting {
            port,
            index,
            fate: None,
            logged: Vec::new(),
        });
    }

    /// A packet met a `Log` rule.
    pub(super) fn log(&mut self, tag: u32, rule: RuleId) {
        let at = tag.wrapping_sub(self.first) as usize;
        if let Some(waiting) = self.waiting.get_mut(at) {
            waiting.logged.push(rule);
        }
    }

    /// Writes the lines of packets whose fates, and those of all before them, are known.
    pub(super) fn write(&mut self, why: Why<'_>) {
        while let Some(Waiting { fate: Some(_), .. }) = self.waiting.front() {
            self.write_first(why);
        }
    }

    /// Writes all that are left: packets that still wait for a neighbour.
    ///
    /// # Errors
    /// The first error of writing, if there was any.
    pub(super) fn finish(&mut self, why: Why<'_>) -> io::Result<()> {
        while !self.waiting.is_empty() {
            self.write_first(why);
        }
        if let Some(out) = &mut self.out {
            out.flush()?;
        }
        self.failure.take().map_or(Ok(()), Err)
    }

    fn write_first(&mut self, why: Why<'_>) {
        let Some(waiting) = self.waiting.pop_front() else {
            return;
        };
        self.first = self.first.wrapping_add(1);
        let Some(out) = &mut self.out else { return };
        let name = |port: PortId| {
            self.names
                .get(usize::from(port.0))
                .map_or("?", String::as_str)
        };
        let mut policy = None;
        let (fate, leaves, reason) = match waiting.fate {
            Some(Sealed::Transmit(port, index)) => {
                let port = name(port);
                ("transmit", Some(Out { port, index }), None)
            }
            Some(Sealed::Punt) => ("punt", None, None),
            Some(Sealed::Drop(reason, by)) => {
                policy = (reason == DropReason::PolicyDeny)
                    .then(|| why(by))
                    .flatten();
                ("drop", None, Some(reason.name()))
            }
            None => ("held", None, None),
        };
        let line = Line {
            port: name(waiting.port),
            index: waiting.index,
            fate,
            out: leaves,
            reason,
            policy,
            logged: waiting
                .logged
                .iter()
                .filter_map(|rule| why(Decider::rule(*rule)))
                .collect(),
        };
        let written = serde_json::to_writer(&mut *out, &line)
            .map_err(io::Error::from)
            .and_then(|()| out.write_all(b"\n"));
        if let Err(error) = written {
            self.failure.get_or_insert(error);
        }
    }
}

impl Observe for Verdicts {
    fn fate(&mut self, packet: &Packet) {
        if packet.has(flag::ORIGINATED) {
            return;
        }
        let sealed = match packet.fate {
            Fate::Transmit(port) => {
                self.tally.tx += 1;
                let sent = self.sent.get(usize::from(port.0)).map_or(0, Counter::get);
                Sealed::Transmit(port, sent.saturating_sub(1))
            }
            Fate::Punt => {
                self.tally.punt += 1;
                Sealed::Punt
            }
            Fate::Drop(reason) => {
                self.tally.drop += 1;
                Sealed::Drop(reason, packet.denied_by)
            }
            Fate::Held | Fate::Undecided => return,
        };
        let at = packet.tag.wrapping_sub(self.first) as usize;
        if let Some(waiting) = self.waiting.get_mut(at) {
            waiting.fate = Some(sealed);
        }
    }
}
