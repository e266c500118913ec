//! The conversations, and what must hold of each.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::cancel::Cancel;
use super::error::Result;
use super::lab::Lab;
use super::pairs::Pair;
use super::peer::{Failure, Route, neighbour, ping, tcp, udp};
use super::plan::{End, Node};
use super::report::{Figures, Outcome, Status, What};
use super::scenario::{Carriage, Family, Scenario};
use super::wire::{Seen, Wire};

/// What all checks of a step share.
#[derive(Debug)]
pub struct Bench<'a> {
    /// Where they run.
    pub lab: &'a Lab,
    /// The watcher of the underlay.
    pub wire: &'a Wire,
    /// Name of the step.
    pub step: String,
    /// What is set up.
    pub scenario: Scenario,
    /// Bytes of each TCP transfer, each way.
    pub bytes: u64,
    /// natOutgoing is on.
    pub nat_outgoing: bool,
    /// Raised when the user wants to stop.
    pub cancel: &'a Cancel,
}

impl Bench<'_> {
    /// Where a conversation runs.
    pub fn route(&self, pair: &Pair, family: Family) -> Route {
        Route {
            from: self.lab.netns(pair.from),
            to: self.lab.netns(pair.to),
            address: pair.to.address(family, self.scenario),
        }
    }

    /// An outcome of this step that belongs to no conversation.
    pub fn outcome(&self, what: What, result: Result<Figures, Failure>) -> Outcome {
        let (status, reason, figures) = match result {
            Ok(figures) => (Status::Pass, None, figures),
            Err(why) => (Status::Fail, Some(why), Figures::default()),
        };
        Outcome {
            step: self.step.clone(),
            mode: self.scenario.mode,
            family: None,
            pair: None,
            from: None,
            to: None,
            what,
            status,
            reason,
            figures,
        }
    }

    /// An outcome of a conversation.
    pub fn pair_outcome(
        &self,
        pair: &Pair,
        family: Family,
        what: What,
        result: Result<Figures, Failure>,
    ) -> Outcome {
        Outcome {
            family: Some(family),
            pair: Some(pair.name.to_owned()),
            from: Some(pair.from.label()),
            to: Some(pair.to.label()),
            ..self.outcome(what, result)
        }
    }

    /// All that must hold of one conversation. After a ping without answer the rest is not tried.
    ///
    /// # Errors
    /// When the user wants to stop.
    pub fn converse(&self, pair: &Pair, family: Family) -> Result<Vec<Outcome>> {
        let route = self.route(pair, family);
        let mut outcomes = Vec::new();
        let mut add = |what, result: Result<Figures, Failure>| {
            let held = result.is_ok();
            outcomes.push(self.pair_outcome(pair, family, what, result));
            held
        };
        // The pod whose gateway is looked at: the client, or the server that a host talks to.
        let pod = match (pair.from, pair.to) {
            (End::Pod(_), _) => self.lab.netns(pair.from),
            (_, _) => self.lab.netns(pair.to),
        };
        let shell = self.lab.shell();
        let forgotten = neighbour::forget(shell, &pod, family);
        self.wire
            .reset(pair.to == End::Outside || pair.from == End::Outside);

        let pinged = ping::run(&route, ping::Patience::NORMAL, self.cancel);
        self.cancel.check()?;
        let answered = pinged.is_ok();
        add(What::Ping, pinged.map(ping_figures));
        let resolved = forgotten.and_then(|()| neighbour::verify(shell, &pod, family));
        add(What::Neighbour, resolved.map(|()| Figures::default()));
        if answered {
            let sizes = udp::sizes(self.scenario.pod_mtu(), route.address);
            let echoed = udp::run(&route, &sizes, udp::Patience::NORMAL, self.cancel);
            self.cancel.check()?;
            let transferred = tcp::run(&route, tcp::Amount::Bytes(self.bytes), self.cancel);
            self.cancel.check()?;
            let seen = [
                echoed.as_ref().ok().map(|echoes| echoes.source),
                transferred.as_ref().ok().map(|transfer| transfer.source),
            ];
            add(What::Udp, echoed.map(udp_figures));
            add(What::Tcp, transferred.map(tcp_figures));
            if let Some(source) = pair.source(family, self.scenario, self.nat_outgoing) {
                add(What::Source, judge_source(source, &seen));
            }
            let expected = pair.expected(self.scenario.carriage(family), self.nat_outgoing);
            add(What::Wire, judge_wire(expected, self.wire.seen(family)));
        }
        Ok(outcomes)
    }

    /// Checks that nothing gets through for any of `pairs`, all at a time.
    ///
    /// # Errors
    /// When the user wants to stop.
    pub fn blocked(&self, pairs: &[Pair], families: &[Family]) -> Result<Vec<Outcome>> {
        let outcomes = thread::scope(|scope| {
            let workers: Vec<_> = families
                .iter()
                .flat_map(|family| pairs.iter().map(move |pair| (pair, *family)))
                .map(|(pair, family)| {
                    scope.spawn(move || {
                        let result = self.nothing_passes(&self.route(pair, family));
                        self.pair_outcome(pair, family, What::Blocked, result)
                    })
                })
                .collect();
            workers
                .into_iter()
                .map(|worker| {
                    let joined = worker.join();
                    joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .collect()
        });
        self.cancel.check()?;
        Ok(outcomes)
    }

    /// Checks that a server at this port can be reached by TCP.
    ///
    /// # Errors
    /// When the user wants to stop.
    pub fn opens(&self, pair: &Pair, port: u16, families: &[Family]) -> Result<Vec<Outcome>> {
        let one = |family: &Family| {
            let route = self.route(pair, *family);
            let result = tcp::connects_to(&route, port).map(|()| Figures {
                connections: Some(1),
                ..Figures::default()
            });
            self.pair_outcome(pair, *family, What::Connections, result)
        };
        let outcomes = families.iter().map(one).collect();
        self.cancel.check()?;
        Ok(outcomes)
    }

    fn nothing_passes(&self, route: &Route) -> Result<Figures, Failure> {
        let limit = Duration::from_millis(600);
        let started = Instant::now();
        let patience = ping::Patience {
            first: limit,
            each: limit,
            count: 0,
            tries: 1,
        };
        let once = udp::Patience {
            tries: 2,
            each: limit / 2,
        };
        let mut passed = Vec::new();
        if ping::run(route, patience, self.cancel).is_ok() {
            passed.push("ping");
        }
        if udp::run(route, &[64], once, self.cancel).is_ok() {
            passed.push("udp");
        }
        if tcp::connects(route, limit).is_ok() {
            passed.push("tcp");
        }
        if passed.is_empty() {
            return Ok(took(started));
        }
        Err(format!("{} still gets through", passed.join(", ")))
    }

    /// Checks a conversation in short. After a restart begun at `restart` the first ping also says how long it took
    /// until traffic flowed again.
    ///
    /// # Errors
    /// When the user wants to stop.
    pub fn flows(
        &self,
        pair: &Pair,
        family: Family,
        restart: Option<Instant>,
    ) -> Result<Vec<Outcome>> {
        let route = self.route(pair, family);
        let mut outcomes = Vec::new();
        let before = restart.map(|restart| restart.elapsed());
        let pinged = ping::run(&route, ping::Patience::NORMAL, self.cancel);
        self.cancel.check()?;
        let answered = pinged.is_ok();
        let figures = pinged.map(|pings| Figures {
            back_after_ms: before.map(|before| millis(before + pings.first_answer)),
            ..ping_figures(pings)
        });
        outcomes.push(self.pair_outcome(pair, family, What::Ping, figures));
        if answered {
            let sizes = udp::sizes(self.scenario.pod_mtu(), route.address);
            let echoed = udp::run(&route, &sizes, udp::Patience::NORMAL, self.cancel);
            outcomes.push(self.pair_outcome(pair, family, What::Udp, echoed.map(udp_figures)));
            let bytes = self.bytes.min(1 << 20);
            let transferred = tcp::run(&route, tcp::Amount::Bytes(bytes), self.cancel);
            outcomes.push(self.pair_outcome(pair, family, What::Tcp, transferred.map(tcp_figures)));
            self.cancel.check()?;
        }
        Ok(outcomes)
    }
}

/// The time since `started`, as a figure.
pub fn took(started: Instant) -> Figures {
    Figures {
        took_ms: Some(millis(started.elapsed())),
        ..Figures::default()
    }
}

/// A time in milliseconds, to three digits.
pub fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// The figures of a series of pings.
pub fn ping_figures(pings: ping::Pings) -> Figures {
    Figures {
        rtt_ms: Some(millis(pings.rtt)),
        first_answer_ms: Some(millis(pings.first_answer)),
        answers: Some(pings.count + 1),
        ..Figures::default()
    }
}

/// The figures of a series of datagrams.
pub fn udp_figures(echoes: udp::Echoes) -> Figures {
    Figures {
        answers: Some(echoes.sizes.len() as u32),
        sizes_bytes: Some(echoes.sizes),
        lost: Some(echoes.lost),
        ..Figures::default()
    }
}

/// The figures of one transfer.
pub fn tcp_figures(transfer: tcp::Transfer) -> Figures {
    let rate = |way: tcp::Way| (way.mbit_per_s() * 10.0).round() / 10.0;
    Figures {
        bytes: Some(transfer.up.bytes),
        up_mbit_s: Some(rate(transfer.up)),
        down_mbit_s: Some(rate(transfer.down)),
        sha256: Some(transfer.sha256),
        ..Figures::default()
    }
}

/// The server must have seen the same source each time that it saw one.
///
/// # Errors
/// The other source that it saw, or that it saw none.
pub fn judge_source(source: IpAddr, seen: &[Option<IpAddr>]) -> Result<Figures, Failure> {
    if let Some(other) = seen.iter().flatten().find(|seen| **seen != source) {
        return Err(format!("the server saw {other}, not {source}"));
    }
    if seen.iter().all(Option::is_none) {
        return Err("the server saw nothing".to_owned());
    }
    Ok(Figures {
        source: Some(source),
        ..Figures::default()
    })
}

fn judge_wire(expected: [&[Carriage]; 2], seen: [Seen; 2]) -> Result<Figures, Failure> {
    let mut forms = Vec::new();
    for (node, (allowed, seen)) in Node::ALL.iter().zip(expected.iter().zip(seen)) {
        let name = node.name();
        let all = [Carriage::Plain, Carriage::Vxlan, Carriage::Ipip];
        let wrong = all
            .iter()
            .any(|form| !allowed.contains(form) && seen.of(*form) > 0);
        let missing = !allowed.is_empty() && !allowed.iter().any(|form| seen.of(*form) > 0);
        if wrong || missing {
            let wanted = match allowed {
                [] => "nothing".to_owned(),
                [one] => format!("{one} packets only"),
                [one, two, ..] => format!("{one} or {two} packets only"),
            };
            let got = seen.describe();
            return Err(format!("{name} sent {got} into the underlay, not {wanted}"));
        }
        for form in allowed.iter().filter(|form| seen.of(**form) > 0) {
            let form = form.to_string();
            if !forms.contains(&form) {
                forms.push(form);
            }
        }
    }
    let wire = if forms.is_empty() {
        "none".to_owned()
    } else {
        forms.join("+")
    };
    Ok(Figures {
        wire: Some(wire),
        ..Figures::default()
    })
}

#[cfg(test)]
mod tests {
    use super::super::pairs::PAIRS;
    use super::*;

    fn seen(plain: u32, vxlan: u32, ipip: u32) -> Seen {
        Seen { plain, vxlan, ipip }
    }

    #[test]
    fn the_wire_must_show_the_form_of_the_mode() {
        let across = PAIRS[1].expected(Carriage::Vxlan, false);
        let verdict = |one, two| judge_wire(across, [one, two]).map(|f| f.wire);
        assert_eq!(
            verdict(seen(0, 9, 0), seen(0, 9, 0)),
            Ok(Some("vxlan".to_owned()))
        );
        assert!(verdict(seen(1, 9, 0), seen(0, 9, 0)).is_err());
        assert!(verdict(seen(0, 9, 0), seen(0, 0, 0)).is_err());
        assert!(verdict(seen(0, 9, 0), seen(0, 0, 3)).is_err());
    }

    #[test]
    fn traffic_within_a_node_must_not_show() {
        let local = PAIRS[0].expected(Carriage::Vxlan, true);
        assert!(judge_wire(local, [seen(0, 0, 0); 2]).is_ok());
        assert!(judge_wire(local, [seen(0, 0, 0), seen(1, 0, 0)]).is_err());
    }

    #[test]
    fn a_remote_pod_may_answer_a_host_in_two_forms() {
        let to_remote = PAIRS[4].expected(Carriage::Ipip, false);
        for answer in [seen(2, 0, 0), seen(0, 0, 2)] {
            assert!(judge_wire(to_remote, [seen(0, 0, 2), answer]).is_ok());
        }
        assert!(judge_wire(to_remote, [seen(2, 0, 0), seen(0, 0, 2)]).is_err());
        assert!(judge_wire(to_remote, [seen(0, 0, 2), seen(0, 2, 0)]).is_err());
    }

    #[test]
    fn the_server_must_see_one_source() {
        let (pod, node): (IpAddr, IpAddr) = ([10, 244, 1, 2].into(), [172, 30, 1, 11].into());
        assert!(judge_source(node, &[Some(node), None]).is_ok());
        assert!(judge_source(node, &[Some(node), Some(pod)]).is_err());
        assert!(judge_source(node, &[None, None]).is_err());
    }
}
