//! Telling of connections as they are judged, for those who observe.

use flowtable::acl::Logs;

use super::connect::Context;
use super::net::Net;
use super::policy::Subject;
use crate::batch::Packet;
use crate::record::{Record, Records, Verdict};

impl Context<'_> {
    /// Tells what became of the first packet of a connection, if anybody observes.
    #[inline]
    pub(super) fn tell<N: Net>(
        &mut self,
        packet: &Packet,
        subject: &Subject<N::Addr>,
        verdict: impl FnOnce() -> Verdict,
    ) {
        let records = self.tracker.records.as_ref();
        if records.is_some_and(Records::is_observed) {
            self.send::<N>(packet, subject, verdict());
        }
    }

    /// Tells which `Log` rules it met, observed or not.
    #[cold]
    pub(super) fn log<N: Net>(&mut self, packet: &Packet, subject: &Subject<N::Addr>, logs: &Logs) {
        let mut untold = logs.total() - logs.rules().len();
        for rule in logs.rules() {
            let now = self.now;
            let records = self.tracker.records.as_mut();
            if records.is_some_and(|records| records.may_log(now)) {
                self.send::<N>(packet, subject, Verdict::Logged(*rule));
            } else {
                untold += 1;
            }
        }
        if untold > 0 {
            self.counters.logs_limited.add(untold as u64);
        }
    }

    #[cold]
    fn send<N: Net>(&mut self, packet: &Packet, subject: &Subject<N::Addr>, verdict: Verdict) {
        let Some(records) = &mut self.tracker.records else {
            return;
        };
        let record = Record {
            at: self.now,
            verdict,
            src: N::ip(subject.tuple.source),
            dst: N::ip(subject.tuple.destination),
            service: subject.service.map(|(addr, port)| (N::ip(addr), port)),
            protocol: subject.tuple.protocol,
            l4: subject.tuple.l4,
            in_port: packet.in_port,
            peer: packet.peer,
            from: subject.from,
            to: subject.to,
            tag: packet.tag,
        };
        records.push(record, self.counters);
    }
}
