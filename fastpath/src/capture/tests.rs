use std::path::Path;

use super::reader::{MAGIC_MICROS, MAGIC_NANOS};
use super::{CaptureError, Link, Problem, Reader, Writer};

/// What a test compares of a record.
type Seen = (u64, Link, u32, Vec<u8>);

fn read(bytes: &[u8]) -> Result<Vec<Seen>, CaptureError> {
    let bytes = std::io::Cursor::new(bytes.to_vec());
    let mut reader = Reader::new(Path::new("test.pcap"), Box::new(bytes))?;
    let mut seen = Vec::new();
    while let Some(record) = reader.next_record()? {
        seen.push((
            record.time,
            record.link,
            record.original_len,
            record.data.to_vec(),
        ));
    }
    Ok(seen)
}

/// Numbers in a byte order.
#[derive(Clone, Copy)]
enum Order {
    Big,
    Little,
}

impl Order {
    fn words(self, words: &[u32]) -> Vec<u8> {
        let bytes = words.iter().flat_map(|word| match self {
            Self::Big => word.to_be_bytes(),
            Self::Little => word.to_le_bytes(),
        });
        bytes.collect()
    }

    fn halves(self, a: u16, b: u16) -> Vec<u8> {
        match self {
            Self::Big => [a.to_be_bytes(), b.to_be_bytes()].concat(),
            Self::Little => [a.to_le_bytes(), b.to_le_bytes()].concat(),
        }
    }

    fn pcap(self, magic: u32, link: u32, fraction: u32) -> Vec<u8> {
        let mut file = self.words(&[magic]);
        file.extend(self.halves(2, 4));
        file.extend(self.words(&[0, 0, 65535, link]));
        file.extend(self.words(&[7, fraction, 3, 60]));
        file.extend([1, 2, 3]);
        file
    }

    fn block(self, kind: u32, body: &[u8]) -> Vec<u8> {
        let padded = body.len().next_multiple_of(4);
        let len = padded as u32 + 12;
        let mut block = self.words(&[kind, len]);
        block.extend_from_slice(body);
        block.resize(8 + padded, 0);
        block.extend(self.words(&[len]));
        block
    }

    fn section(self) -> Vec<u8> {
        let mut body = self.words(&[0x1a2b_3c4d]);
        body.extend(self.halves(1, 0));
        body.extend(self.words(&[u32::MAX, u32::MAX]));
        self.block(0x0a0d_0d0a, &body)
    }

    fn interface(self, link: u16, options: &[u8]) -> Vec<u8> {
        let mut body = self.halves(link, 0);
        body.extend(self.words(&[0]));
        body.extend_from_slice(options);
        self.block(1, &body)
    }

    fn enhanced(self, interface: u32, time: u64, data: &[u8]) -> Vec<u8> {
        let len = data.len() as u32;
        let mut body = self.words(&[interface, (time >> 32) as u32, time as u32, len, len + 5]);
        body.extend_from_slice(data);
        self.block(6, &body)
    }
}

#[test]
fn pcap_is_read_in_both_byte_orders_and_both_units() {
    for order in [Order::Big, Order::Little] {
        for (magic, fraction, nanos) in [(MAGIC_MICROS, 5, 5000), (MAGIC_NANOS, 5, 5)] {
            for (number, link) in [(1, Link::Ethernet), (101, Link::RawIp), (229, Link::Ipv6)] {
                let seen = read(&order.pcap(magic, number, fraction)).expect("a good file");
                assert_eq!(seen, [(7_000_000_000 + nanos, link, 60, vec![1, 2, 3])]);
            }
        }
    }
}

#[test]
fn what_the_writer_writes_the_reader_reads() {
    let mut writer = Writer::new(Vec::new()).expect("memory");
    let packets = [(0, vec![]), (1, vec![1]), (1_999_999_999, vec![7; 1500])];
    for (time, packet) in &packets {
        writer.write(*time, packet).expect("memory");
    }
    let seen = read(&writer.into_inner()).expect("our own file");
    let expected = packets.map(|(time, data)| (time, Link::Ethernet, data.len() as u32, data));
    assert_eq!(seen, expected);
}

#[test]
fn pcapng_is_read_in_both_byte_orders_over_several_sections() {
    let mut file = Vec::new();
    let mut expected = Vec::new();
    for order in [Order::Big, Order::Little, Order::Big] {
        file.extend(order.section());
        file.extend(order.interface(1, &[]));
        // Nanoseconds (9), and 100 seconds later than the times say (14).
        let mut options = order.halves(9, 1);
        options.extend([9, 0, 0, 0]);
        options.extend(order.halves(14, 8));
        options.extend(match order {
            Order::Big => 100_u64.to_be_bytes(),
            Order::Little => 100_u64.to_le_bytes(),
        });
        file.extend(order.interface(228, &options));
        // A block that is not known, of a kind that vendors may use.
        file.extend(order.block(0x8000_0001, &[1, 2, 3, 4]));
        file.extend(order.enhanced(0, 3_000_001, &[9; 5]));
        file.extend(order.enhanced(1, 3_000_000_001, &[8; 6]));
        let mut simple = order.words(&[3]);
        simple.extend([4, 5, 6]);
        file.extend(order.block(3, &simple));
        expected.extend([
            (3_000_001_000, Link::Ethernet, 10, vec![9; 5]),
            (103_000_000_001, Link::Ipv4, 11, vec![8; 6]),
            (103_000_000_001, Link::Ethernet, 3, vec![4, 5, 6]),
        ]);
    }
    assert_eq!(read(&file).expect("a good file"), expected);
}

#[test]
fn a_file_cut_anywhere_gives_its_whole_packets_then_one_error_with_the_place() {
    let order = Order::Little;
    let mut pcapng = order.section();
    pcapng.extend(order.interface(1, &[]));
    pcapng.extend(order.enhanced(0, 1, &[9; 5]));
    let whole = [
        pcapng.len() - order.enhanced(0, 1, &[9; 5]).len(),
        order.section().len(),
    ];
    for (file, whole) in [
        (order.pcap(MAGIC_NANOS, 1, 5), vec![24]),
        (pcapng, whole.to_vec()),
    ] {
        for len in 0..file.len() {
            let cut = read(&file[..len]);
            if whole.contains(&len) {
                assert_eq!(cut.expect("cut between packets"), []);
                continue;
            }
            let error = cut.expect_err("cut in the middle");
            assert!(error.offset <= len as u64, "{error}");
            match error.problem {
                Problem::Truncated { wanted, found, .. } => {
                    assert!(found < wanted, "{error}");
                    assert_eq!(error.offset + found, len as u64, "{error}");
                }
                Problem::NotACapture => assert!(len < 4),
                _ => panic!("{error}"),
            }
        }
    }
}

#[test]
fn damage_is_told_with_its_place() {
    let order = Order::Little;
    let text = |bytes: &[u8]| read(bytes).expect_err("a bad file").to_string();
    assert_eq!(
        text(b"GET / HTTP/1.1"),
        "test.pcap: at byte 0: this is neither a pcap nor a pcapng file"
    );
    assert_eq!(
        text(&order.pcap(MAGIC_NANOS, 113, 0)),
        "test.pcap: at byte 20: link type 113 is neither Ethernet (1) nor raw IP (12, 101, 228, 229, 0, 108); \
         capture with `tcpdump -i INTERFACE` rather than `-i any`"
    );
    let mut long = order.pcap(MAGIC_NANOS, 1, 0);
    long[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(
        text(&long),
        "test.pcap: at byte 24: a packet of 4294967295 bytes: the file is damaged"
    );
    let mut section = order.section();
    section.extend(order.enhanced(3, 1, &[]));
    assert!(text(&section).contains("a packet of interface 3"));
    section.truncate(order.section().len());
    section.extend(order.words(&[6, 13, 0, 13]));
    assert!(text(&section).contains("at byte 28: a block of 13 bytes"));
}

#[test]
fn raw_ip_gets_an_ethernet_header() {
    type Case<'a> = (Link, &'a [u8], Option<[u8; 2]>, usize);
    let macs = encap::outer::Macs {
        dst: encap::eth::MacAddr([1; 6]),
        src: encap::eth::MacAddr([2; 6]),
    };
    let cases: [Case<'_>; 6] = [
        (Link::Ethernet, &[0x45, 1], None, 0),
        (Link::RawIp, &[0x45, 1], Some([8, 0]), 0),
        (Link::RawIp, &[0x60, 1], Some([0x86, 0xdd]), 0),
        (Link::Ipv6, &[0x45, 1], Some([0x86, 0xdd]), 0),
        (
            Link::Loopback,
            &[2, 0, 0, 0, 0x60, 1],
            Some([0x86, 0xdd]),
            4,
        ),
        (Link::Loopback, &[2, 0], Some([8, 0]), 2),
    ];
    for (link, packet, ethertype, skipped) in cases {
        let (header, rest) = link.to_ethernet(packet, &macs);
        assert_eq!(rest, &packet[skipped..]);
        let expected = ethertype.map(|[a, b]| [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, a, b]);
        assert_eq!(header, expected);
    }
}
