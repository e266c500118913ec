//! ICMP queries: each is a connection of its own, whatever identifiers the two ends choose.

use fastpath::port::PortId;
use fastpath::reason::DropReason;
use pcap_tests::build::{self, ip4, ip6};
use pcap_tests::rig::Rig;
use proptest::prelude::*;

use crate::node::*;

/// An end, and what it asks: the frame's port and MAC address, the query's type and identifier.
#[derive(Clone, Copy, Debug)]
struct Asker {
    is_other: bool,
    kind: u8,
    id: u16,
}

impl Asker {
    /// The query, or its answer from the other end, as it comes in.
    fn frame(self, is_answer: bool, v6: bool) -> (PortId, Vec<u8>) {
        let from_other = self.is_other != is_answer;
        let (port, mac) = if from_other {
            (OTHER, OTHER_MAC)
        } else {
            (POD, POD_MAC)
        };
        let mut addrs = if v6 {
            (POD6, OTHER6)
        } else {
            (POD_ADDR, OTHER_ADDR)
        };
        if from_other {
            addrs = (addrs.1, addrs.0);
        }
        let kind = match (is_answer, self.kind) {
            (false, kind) => kind,
            (true, 8) => 0,
            (true, kind) => kind + 1,
        };
        let rest = u32::from(self.id) << 16 | 1;
        let packet = if v6 {
            ip6(addrs.0, addrs.1).icmp(kind, 0, rest, b"twelve bytes")
        } else {
            ip4(addrs.0, addrs.1).icmp(kind, 0, rest, b"twelve bytes")
        };
        (port, build::ethernet(GATEWAY_MAC, mac, &packet))
    }
}

/// Lets both ask and both answer.
fn converse(rig: &mut Rig, askers: [Asker; 2], v6: bool) -> Result<(), DropReason> {
    for is_answer in [false, true] {
        for asker in askers {
            let (port, frame) = asker.frame(is_answer, v6);
            let (to, _) = one(rig, port, frame)?;
            assert_eq!(to, if port == POD { OTHER } else { POD });
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn of_two_that_ask_each_other_both_are_answered(
        kinds in prop::array::uniform2(prop::sample::select(vec![8_u8, 13, 15, 17])),
        // Small ones are processes' in a container, and the numbers of types are among them.
        ids in prop::array::uniform2(prop_oneof![0..32_u16, (0..256_u16, 0..32_u16).prop_map(|(a, b)| a << 8 | b), any::<u16>()]),
        same in any::<bool>(),
        v6 in any::<bool>(),
    ) {
        let mut rig = rig();
        let kinds = if v6 { [128; 2] } else { kinds };
        let ids = if same { [ids[0]; 2] } else { ids };
        let asker = |end: usize| Asker { is_other: end == 1, kind: kinds[end], id: ids[end] };
        let askers = [asker(0), asker(1)];
        prop_assert_eq!(converse(&mut rig, askers, v6), Ok(()), "{:?}", askers);
    }
}

#[test]
fn two_pings_with_the_number_of_their_type_are_both_answered() {
    for (v6, kind) in [(false, 8), (true, 128)] {
        let asker = |is_other| Asker {
            is_other,
            kind,
            id: kind.into(),
        };
        assert_eq!(
            converse(&mut rig(), [asker(false), asker(true)], v6),
            Ok(())
        );
    }
}
