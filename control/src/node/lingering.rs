//! Ports that natOutgoing gives to nobody any more, and that connections still have: their answers are ours.
//!
//! A narrower `natPortRange`, or a port that somebody on the host came to listen on, is for new connections; those that
//! are there keep what they were given (as conntrack does). What else comes to such a port goes on to the host.
//! A protocol without ports that the host comes to use is the host's at once: of such connections there is one a destination, and
//! the host's may be to the same.

use encap::l4;
use fastpath::connections::{Connections, Kept};
use flowtable::flow::flag;

use crate::xdp::{NatPorts, no_ports};

/// TCP, UDP and SCTP.
const WITH_PORTS: usize = 3;

/// On the entry of answers to a translated source.
const ANSWERS: u8 = flag::IS_REPLY | flag::NAT_DST;

/// The ports, a bit each as in [`NatPorts`].
#[derive(Debug)]
pub(super) struct Lingering(Box<NatPorts>);

impl Default for Lingering {
    fn default() -> Self {
        Self(no_ports())
    }
}

impl Lingering {
    /// Other ports are given from now on.
    pub(super) fn replaced(&mut self, before: &NatPorts, now: &NatPorts) {
        let ports = &before[..WITH_PORTS];
        let words = ports.as_flattened().iter().zip(now.as_flattened());
        for (held, (before, now)) in self.0.as_flattened_mut().iter_mut().zip(words) {
            *held = (*held | before) & !now;
        }
    }

    /// Adds them to those that are given.
    pub(super) fn add_to(&self, ports: &mut NatPorts) {
        let words = ports.as_flattened_mut().iter_mut();
        for (port, held) in words.zip(self.0.as_flattened()) {
            *port |= held;
        }
    }

    /// Adds that of a connection that is kept.
    pub(super) fn note_kept(&mut self, kept: &Kept) {
        if let Some((_, port)) = kept.snat {
            self.note(kept.protocol, port);
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.as_flattened().iter().all(|word| *word == 0)
    }

    /// The ports, a bit each.
    pub(super) const fn ports(&self) -> &NatPorts {
        &self.0
    }

    /// Lets go of those that no connection has; says whether there were any. Reads the whole table, and only while there
    /// is something to let go of.
    pub(super) fn release(&mut self, connections: &Connections) -> bool {
        if self.is_empty() {
            return false;
        }
        let mut used = Self::default();
        // The port is where answers come to, of which it is told what to translate it to.
        let is_answers = |flags: u8| flags & ANSWERS == ANSWERS;
        connections.v4.table.for_each(|view| {
            if is_answers(view.action.flags) {
                used.note(view.key.protocol, view.key.dport);
            }
        });
        connections.v6.table.for_each(|view| {
            if is_answers(view.action.flags) {
                used.note(view.key.protocol, view.key.dport);
            }
        });
        let mut changed = false;
        let words = self.0.as_flattened_mut().iter_mut();
        for (held, used) in words.zip(used.0.as_flattened()) {
            changed |= *held & !used != 0;
            *held &= used;
        }
        changed
    }

    fn note(&mut self, protocol: u8, port: u16) {
        let set = match protocol {
            l4::TCP => 0,
            l4::UDP => 1,
            l4::SCTP => 2,
            _ => return,
        };
        self.0[set][usize::from(port / 64)] |= 1 << (port % 64);
    }
}

#[cfg(test)]
mod tests {
    use fastpath::connections::Sizes;
    use flowtable::Tick;
    use flowtable::flow::{Action, Capacity, FlowKey, Key4};

    use super::*;

    fn bits(ports: &[u16]) -> Box<NatPorts> {
        let mut of = Lingering::default();
        for port in ports {
            of.note(l4::TCP, *port);
        }
        of.0
    }

    fn seen(lingering: &Lingering, given: &[u16]) -> Box<NatPorts> {
        let mut ports = bits(given);
        lingering.add_to(&mut ports);
        ports
    }

    fn connection_from(connections: &Connections, port: u16) -> flowtable::flow::FlowRef {
        let key = Key4 {
            src: 1,
            dst: 2,
            sport: 3,
            dport: 4,
            protocol: l4::TCP,
        };
        let forward = Action {
            flags: flag::NAT_SRC,
            nat_port: port,
            ..Action::default()
        };
        let reply = Action {
            flags: flag::NAT_DST,
            nat_port: 3,
            ..Action::default()
        };
        let answers = Key4 {
            dst: 9,
            dport: port,
            ..key.reversed()
        };
        let pair = ((key, forward), (answers, reply));
        let table = &connections.v4.table;
        table
            .insert_pair(pair.0, pair.1, Tick(0), (0, 0))
            .unwrap()
            .0
    }

    #[test]
    fn a_port_stays_as_long_as_a_connection_has_it() {
        let sizes = Sizes {
            v4: Capacity::MIN,
            v6: Capacity::MIN,
            ports: 2,
            share_percent: 50,
        };
        let connections = Connections::new(&sizes, [1, 2, 3, 4]);
        let mut lingering = Lingering::default();
        assert!(!lingering.release(&connections));
        lingering.replaced(&bits(&[1024, 1025, 9]), &bits(&[9]));
        assert_eq!(seen(&lingering, &[9]), bits(&[9, 1024, 1025]));

        let flow = connection_from(&connections, 1025);
        assert!(lingering.release(&connections));
        assert!(!lingering.release(&connections), "nothing else changed");
        assert_eq!(seen(&lingering, &[9]), bits(&[9, 1025]));
        // Other ports are given, and the connection's is not among them.
        lingering.replaced(&bits(&[9]), &bits(&[10]));
        assert_eq!(seen(&lingering, &[10]), bits(&[9, 10, 1025]));

        connections.v4.table.remove_pair(flow);
        assert!(lingering.release(&connections));
        assert_eq!(seen(&lingering, &[10]), bits(&[10]));
    }

    #[test]
    fn a_protocol_that_the_host_uses_does_not_linger() {
        let mut lingering = Lingering::default();
        let mut gre = no_ports();
        gre[WITH_PORTS][0] = 1 << 47;
        lingering.replaced(&gre, &no_ports());
        assert_eq!(lingering.0, no_ports());
    }

    #[test]
    fn a_port_that_is_given_again_does_not_linger() {
        let mut lingering = Lingering::default();
        lingering.replaced(&bits(&[1024]), &bits(&[]));
        lingering.replaced(&bits(&[]), &bits(&[1024]));
        assert_eq!(lingering.0, bits(&[]));
    }
}
