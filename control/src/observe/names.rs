//! What the numbers in a record stand for.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fastpath::batch::PeerId;
use fastpath::policy::{Decider, End};
use fastpath::port::PortId;
use fastpath::reason::DropReason;
use fastpath::record::{Record, Verdict};
use flowtable::Tick;
use flowtable::acl::L4;

use crate::api::report::{FlowDecider, FlowEnd, FlowRecord, FlowVerdict, Translation};
use crate::compile::Compiler;
use crate::flows::{has_identifier, has_ports, protocol_name};
use crate::policy::model::{Direction, Model};
use crate::policy::report;
use crate::policy::verdict::Reason;

/// Puts records into words. They have to be put at once: numbers come to stand for something else.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Of which model the pods are.
    model: Option<Arc<Model>>,
    /// Pods of all nodes by address.
    pods: HashMap<IpAddr, Arc<str>>,
}

impl Names {
    /// A record in words. `now` is the time by both clocks.
    pub(crate) fn record(
        &mut self,
        record: &Record,
        compiler: &Compiler,
        now: (Tick, SystemTime),
    ) -> FlowRecord {
        self.follow(compiler.policy().model());
        let age = now.0.since(record.at);
        let (from, to) = match record.l4 {
            L4::Ports {
                source,
                destination,
            } => (Some(source), Some(destination)),
            L4::Icmp { .. } | L4::Other => (None, None),
        };
        let src = self.end(compiler, record.from, record.src, from);
        let dst = self.end(compiler, record.to, record.dst, to);
        let ends = (&src, &dst);
        let (mut reason, mut snat) = (None, None);
        let (verdict, by) = match record.verdict {
            Verdict::Allowed {
                source,
                destination,
                snat: translated,
            } => {
                snat = translated.map(|(addr, port)| translation(record.protocol, addr, port));
                let both = [source, destination].into_iter();
                let by = both.filter_map(|by| decider(compiler, by, ends));
                (FlowVerdict::Allowed, by.collect())
            }
            Verdict::Denied { reason: why, by } => {
                reason = Some(why.name().to_owned());
                let by = if why == DropReason::PolicyDeny {
                    decider(compiler, by, ends)
                } else {
                    Some(to_host(compiler))
                };
                (FlowVerdict::Denied, by.into_iter().collect())
            }
            Verdict::Logged(rule) => {
                let by = decider(compiler, Decider::rule(rule), ends);
                (FlowVerdict::Logged, by.into_iter().collect())
            }
        };
        let node = (record.peer != PeerId::NONE).then(|| {
            let node = compiler.node_of(record.peer);
            node.map_or_else(|| "external".to_owned(), ToString::to_string)
        });
        FlowRecord {
            time: utc(now.1.checked_sub(age).unwrap_or(now.1)),
            verdict,
            protocol: protocol_name(record.protocol).into_owned(),
            src,
            dst,
            service: record.service.map(SocketAddr::from),
            icmp: match record.l4 {
                L4::Icmp { kind, code } => Some((kind, code)),
                L4::Ports { .. } | L4::Other => None,
            },
            interface: interface(compiler, record.in_port).map(str::to_owned),
            node,
            snat,
            reason,
            by,
        }
    }

    fn end(&self, compiler: &Compiler, end: End, addr: IpAddr, port: Option<u16>) -> FlowEnd {
        let endpoint = match end {
            End::Pod(port) => {
                let id = interface(compiler, port).and_then(|it| compiler.policy().endpoint(it));
                id.map(|id| id.workload.clone())
            }
            End::Host => Some("host".to_owned()),
            End::Uplink(_) | End::Elsewhere => self.pods.get(&addr).map(ToString::to_string),
        };
        FlowEnd {
            addr,
            port,
            endpoint,
        }
    }

    /// Makes sure that pods are those of this model.
    fn follow(&mut self, model: &Arc<Model>) {
        if self
            .model
            .as_ref()
            .is_some_and(|own| Arc::ptr_eq(own, model))
        {
            return;
        }
        let pods = model.workloads.iter().flat_map(|(id, workload)| {
            let name: Arc<str> = id.workload.as_str().into();
            let nets = workload.nets.iter();
            nets.map(move |net| (net.addr(), Arc::clone(&name)))
        });
        self.pods = pods.collect();
        self.model = Some(Arc::clone(model));
    }
}

fn interface(compiler: &Compiler, port: PortId) -> Option<&str> {
    compiler.ports().get(port).map(|spec| spec.name.as_str())
}

fn decider(
    compiler: &Compiler,
    by: Decider,
    (src, dst): (&FlowEnd, &FlowEnd),
) -> Option<FlowDecider> {
    let (reason, direction) = compiler.policy().decided(by)?;
    let end = match direction {
        Direction::Ingress => dst,
        Direction::Egress => src,
    };
    Some(FlowDecider {
        direction: Some(direction.as_str().to_owned()),
        endpoint: end.endpoint.clone(),
        text: reason.to_string(),
        why: report::reason(&reason),
    })
}

/// What decides about packets to the host that policy allows.
fn to_host(compiler: &Compiler) -> FlowDecider {
    let node = &compiler.desired().node_name;
    let settings = compiler.policy().model().settings_of(node);
    let reason = Reason::EndpointToHost(settings.endpoint_to_host);
    FlowDecider {
        direction: None,
        endpoint: None,
        text: reason.to_string(),
        why: report::reason(&reason),
    }
}

fn translation(protocol: u8, addr: IpAddr, port: u16) -> Translation {
    Translation {
        addr,
        port: has_ports(protocol).then_some(port),
        icmp_id: has_identifier(protocol).then_some(port),
    }
}

/// A time as RFC 3339 has it, in UTC with milliseconds.
pub(crate) fn utc(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let since = since.unwrap_or(Duration::ZERO);
    let seconds = since.as_secs();
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March, in eras of 400 of them: 146,097 days each.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    format!(
        "{:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        era * 400 + year + next,
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
        since.subsec_millis()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_a_port_an_identifier_or_neither() {
        let addr = IpAddr::from([172, 18, 0, 2]);
        for (protocol, port, icmp_id) in [
            (6, Some(7), None),
            (1, None, Some(7)),
            (58, None, Some(7)),
            (47, None, None),
        ] {
            let expected = Translation {
                addr,
                port,
                icmp_id,
            };
            assert_eq!(translation(protocol, addr, 7), expected, "{protocol}");
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_735_689_599_001, "2024-12-31T23:59:59.001Z"),
            (1_772_323_200_000, "2026-03-01T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
            assert_eq!(utc(time), text);
        }
    }
}
