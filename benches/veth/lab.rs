//! The generator's, the node's and the sink's namespaces, the same for every node.
//!
//! ```text
//! g0 10.1.0.2/24 ---- n0 10.1.0.1/24 | node | n1 192.168.9.1/24 ---- s0 192.168.9.2/24
//! ```
//!
//! The packets go from 10.1.0.2 to 10.2.0.2 and, of many flows, the next ones. Nobody answers anybody: neighbours are permanent, and the sink
//! counts and drops whatever comes.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use benches::generator::{Flow, Generator, Kind};
use benches::rounds::Result;
use fastpath::io::xsk::test_support::{Netns, Sink, SinkHook};

use crate::nodes::{Node, Running};

/// The generator's address.
pub(crate) const GENERATOR: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
/// Where the packets want to go.
pub(crate) const DESTINATION: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);
/// Flows beyond these go to the next address: no more than what one pod may have of the ports to one destination.
const FLOWS_TO_ONE: u32 = 16_384;
/// Hardware address of g0.
const G0: [u8; 6] = [0x02, 0, 0, 0, 1, 2];
/// Hardware address of n0.
const N0: [u8; 6] = [0x02, 0, 0, 0, 1, 1];

/// A node between a generator and a sink.
pub(crate) struct Lab {
    pub(crate) name: String,
    pub(crate) generator: Generator,
    pub(crate) sink: Sink,
    /// By how many bytes the node makes a frame longer.
    growth: usize,
    /// Packets before all flows are treated alike.
    pub(crate) first_packets: u64,
    pub(crate) running: Running,
    /// Last, so that the namespaces go after all that lives in them.
    pub(crate) netns: Namespaces,
}

/// The three namespaces.
pub(crate) struct Namespaces {
    pub(crate) generator: Netns,
    pub(crate) node: Netns,
    pub(crate) sink: Netns,
}

impl Lab {
    /// Builds the namespaces, starts the node, and sees that packets come through as they should.
    pub(crate) fn new(node: &dyn Node, flows: u32, hook: SinkHook) -> Result<Self> {
        let netns = Namespaces {
            generator: Netns::new("gen"),
            node: Netns::new("node"),
            sink: Netns::new("sink"),
        };
        if node.is_there() {
            netns.generator.veth("g0", &netns.node, "n0", 1);
            netns.node.veth("n1", &netns.sink, "s0", 1);
            netns.address();
        } else {
            netns.generator.veth("g0", &netns.sink, "s0", 1);
        }
        let sink = netns.sink.within(|| Sink::attach("s0", hook));
        let running = node.start(&netns.node)?;
        let flow = Flow {
            to: N0,
            from: G0,
            source: GENERATOR,
            destination: DESTINATION,
            flows,
            ports: FLOWS_TO_ONE,
            kind: Kind::Udp,
        };
        let generator = Generator::new(&netns.generator, "g0", flow, 64)?;
        let growth = node.growth();
        let mut lab = Self {
            name: node.name().to_owned(),
            generator,
            sink,
            growth,
            first_packets: node.first_packets() * u64::from(flows),
            running,
            netns,
        };
        lab.check()?;
        Ok(lab)
    }

    /// Sends a few packets until as many arrive as were sent, as long as they should be.
    fn check(&mut self) -> Result<()> {
        const COUNT: u32 = 32;
        const LEN: u16 = 200;
        self.generator.set_len(LEN);
        let deadline = Instant::now() + Duration::from_secs(10);
        // The first ones may be lost while the node starts.
        while Instant::now() < deadline {
            let (packets, bytes) = (self.sink.packets(), self.sink.bytes());
            let sent = u64::from(self.generator.send(COUNT)?);
            std::thread::sleep(Duration::from_millis(50));
            let (packets, bytes) = (self.sink.packets() - packets, self.sink.bytes() - bytes);
            if sent != 0 && packets == sent && bytes == sent * (u64::from(LEN) + self.growth as u64)
            {
                return Ok(());
            }
        }
        Err(format!("{}: packets do not come through as they should", self.name).into())
    }
}

impl Namespaces {
    fn address(&self) {
        let mac = |bytes: [u8; 6]| bytes.map(|byte| format!("{byte:02x}")).join(":");
        self.generator
            .ip(&format!("link set g0 address {}", mac(G0)));
        self.node.ip(&format!("link set n0 address {}", mac(N0)));
        self.generator
            .ip(&format!("addr add {GENERATOR}/24 dev g0"));
        self.node.ip("link set n1 address 02:00:00:00:09:01");
        self.sink.ip("link set s0 address 02:00:00:00:09:02");
        self.sink.ip("addr add 192.168.9.2/24 dev s0");
    }
}
