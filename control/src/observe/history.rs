//! The last records, and which of them are meant.

use std::collections::VecDeque;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::api::report::{FlowEnd, FlowRecord, FlowVerdict, Observed};
use crate::api::{MAX_RECORDS, ObserveParams};
use crate::flows::protocol_number;

/// Records that are kept; some megabytes.
const KEPT: usize = 8192;

/// Unless said otherwise as many are shown.
const LAST: usize = 20;

/// The last records, by a number that counts up.
#[derive(Debug, Default)]
pub(crate) struct History {
    records: VecDeque<FlowRecord>,
    /// The number of the next record.
    next: u64,
}

impl History {
    /// Keeps a record, at the cost of the oldest when there are too many.
    pub(crate) fn push(&mut self, record: FlowRecord) {
        if self.records.len() == KEPT {
            self.records.pop_front();
        }
        self.records.push_back(record);
        self.next += 1;
    }

    /// The records that are asked for: those after a number, or the last.
    pub(crate) fn answer(&self, params: &ObserveParams, wanted: &Wanted) -> Observed {
        let Some(after) = params.after else {
            let last = params.last.unwrap_or(LAST).min(MAX_RECORDS);
            let meant = self.records.iter().rev().filter(|it| wanted.means(it));
            let mut records: Vec<_> = meant.take(last).cloned().collect();
            records.reverse();
            return Observed {
                records,
                next: self.next,
                ..Observed::default()
            };
        };
        let first = self.next - self.records.len() as u64;
        // A number from before the daemon was started again may be too high.
        let after = after.min(self.next);
        let start = after.max(first);
        let mut answer = Observed {
            next: self.next,
            missed: start - after,
            ..Observed::default()
        };
        let left = self.records.iter().skip((start - first) as usize);
        for (number, record) in (start..).zip(left) {
            if answer.records.len() == MAX_RECORDS {
                answer.next = number;
                answer.more = true;
                break;
            }
            if wanted.means(record) {
                answer.records.push(record.clone());
            }
        }
        answer
    }
}

/// Which records are meant. What is not said is not asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    verdict: Option<FlowVerdict>,
    pod: Option<String>,
    port: Option<u16>,
    protocol: Option<String>,
    net: Option<IpNet>,
}

impl Wanted {
    /// What parameters ask for.
    ///
    /// # Errors
    /// A protocol that there is not.
    pub(crate) fn new(params: &ObserveParams) -> Result<Self, String> {
        let protocol = params.protocol.as_deref().map(protocol).transpose()?;
        Ok(Self {
            verdict: params.verdict,
            pod: params.pod.clone(),
            port: params.port,
            protocol,
            net: params.net,
        })
    }

    fn means(&self, record: &FlowRecord) -> bool {
        let ends = [&record.src, &record.dst];
        let one = |is: &dyn Fn(&FlowEnd) -> bool| ends.into_iter().any(is);
        self.verdict.is_none_or(|verdict| verdict == record.verdict)
            && (self.protocol.as_ref()).is_none_or(|protocol| *protocol == record.protocol)
            && (self.port).is_none_or(|port| one(&|end| end.port == Some(port)))
            && (self.net).is_none_or(|net| one(&|end| net.contains(&end.addr)))
            && (self.pod.as_ref()).is_none_or(|pod| one(&|end| is_called(end, pod)))
    }
}

/// Whether an end is a pod of this name: `namespace/name`, or the name alone.
fn is_called(end: &FlowEnd, name: &str) -> bool {
    let Some(endpoint) = &end.endpoint else {
        return false;
    };
    endpoint == name || (endpoint.split_once('/')).is_some_and(|(_, pod)| pod == name)
}

/// A protocol as records name it.
///
/// # Errors
/// There is none of that name.
pub(crate) fn protocol(name: &str) -> Result<String, String> {
    let number = protocol_number(name).ok_or_else(|| {
        format!("unknown protocol {name:?}: tcp, udp, icmp, icmp6, sctp or a number")
    })?;
    Ok(crate::flows::protocol_name(number).into_owned())
}

/// A network, or an address as a network of its own.
///
/// # Errors
/// It is neither.
pub(crate) fn net(text: &str) -> Result<IpNet, String> {
    let addr = text.parse::<IpAddr>().map(IpNet::from);
    addr.or_else(|_| text.parse())
        .map_err(|_| format!("{text:?} is neither an address nor a network"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(port: u16) -> FlowRecord {
        let end = |addr: &str, port, endpoint: Option<&str>| FlowEnd {
            addr: addr.parse().unwrap(),
            port: Some(port),
            endpoint: endpoint.map(str::to_owned),
        };
        FlowRecord {
            time: String::new(),
            verdict: FlowVerdict::Denied,
            protocol: "tcp".to_owned(),
            src: end("10.0.0.1", port, Some("shop/web")),
            dst: end("192.0.2.9", 443, None),
            service: None,
            icmp: None,
            interface: None,
            node: None,
            snat: None,
            reason: None,
            by: Vec::new(),
        }
    }

    fn ports(observed: &Observed) -> Vec<u16> {
        let ports = observed.records.iter().filter_map(|it| it.src.port);
        ports.collect()
    }

    fn history(count: u32) -> History {
        let mut history = History::default();
        for number in 0..count {
            history.push(record(number as u16));
        }
        history
    }

    fn ask(history: &History, params: &ObserveParams) -> Observed {
        history.answer(params, &Wanted::new(params).unwrap())
    }

    #[test]
    fn the_last_come_first_and_then_what_is_new() {
        let mut history = history(30);
        let params = ObserveParams {
            last: Some(3),
            ..ObserveParams::default()
        };
        let last = ask(&history, &params);
        assert_eq!(ports(&last), [27, 28, 29]);
        assert_eq!(ask(&history, &ObserveParams::default()).records.len(), LAST);
        let params = ObserveParams {
            after: Some(last.next),
            ..ObserveParams::default()
        };
        assert!(ask(&history, &params).records.is_empty());
        history.push(record(30));
        let new = ask(&history, &params);
        assert_eq!((ports(&new), new.missed, new.more), (vec![30], 0, false));
    }

    #[test]
    fn what_was_forgotten_is_told_and_an_answer_has_an_end() {
        let history = history(KEPT as u32 + 100);
        let mut params = ObserveParams {
            after: Some(40),
            ..ObserveParams::default()
        };
        let (mut missed, mut seen) = (0, 0);
        loop {
            let part = ask(&history, &params);
            assert!(part.records.len() <= MAX_RECORDS);
            missed += part.missed;
            seen += part.records.len();
            params.after = Some(part.next);
            if !part.more {
                break;
            }
        }
        assert_eq!((missed, seen), (60, KEPT));
        params.after = Some(1 << 40);
        assert_eq!(ask(&history, &params).next, KEPT as u64 + 100);
    }

    #[test]
    fn only_what_is_asked_for_is_shown() {
        let history = history(3);
        let all = ObserveParams::default();
        let shown = |params: &ObserveParams| ask(&history, params).records.len();
        let pod = |name: &str| ObserveParams {
            pod: Some(name.to_owned()),
            ..all.clone()
        };
        let within = |text: &str| ObserveParams {
            net: Some(net(text).unwrap()),
            ..all.clone()
        };
        let over = |name: &str| ObserveParams {
            protocol: Some(name.to_owned()),
            ..all.clone()
        };
        for (params, count) in [
            (pod("shop/web"), 3),
            (pod("web"), 3),
            (pod("shop"), 0),
            (pod("other/web"), 0),
            (within("192.0.2.0/24"), 3),
            (within("10.0.0.1"), 3),
            (within("10.0.0.2"), 0),
            (over("TCP"), 3),
            (over("6"), 3),
            (over("udp"), 0),
        ] {
            assert_eq!(shown(&params), count, "{params:?}");
        }
        let port = |port| ObserveParams {
            port: Some(port),
            ..all.clone()
        };
        assert_eq!(
            (shown(&port(443)), shown(&port(2)), shown(&port(7))),
            (3, 1, 0)
        );
        let verdict = |verdict| ObserveParams {
            verdict: Some(verdict),
            ..all.clone()
        };
        assert_eq!(shown(&verdict(FlowVerdict::Denied)), 3);
        assert_eq!(shown(&verdict(FlowVerdict::Allowed)), 0);
        assert!(Wanted::new(&over("tpc")).unwrap_err().contains("tpc"));
        assert!(net("10.0.0").is_err());
    }
}
