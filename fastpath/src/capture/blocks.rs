//! Writing pcapng: one section, one interface block a port, nanoseconds, comments (draft-ietf-opsawg-pcapng sections 4.1 to 4.3).

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const ETHERNET: u16 = 1;
const OPT_COMMENT: u16 = 1;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;

/// A packet, as a block has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The number of its interface: how many [`interface`]s were written before that one.
    pub interface: u32,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Its whole length, in bytes.
    pub len: u32,
    /// What was captured of it.
    pub bytes: &'a [u8],
    /// Whether it came in; else it went out.
    pub inbound: bool,
    /// For people.
    pub comment: Option<&'a str>,
}

/// The block that a file begins with.
pub fn section(application: &str) -> Vec<u8> {
    let mut body = BYTE_ORDER.to_le_bytes().to_vec();
    body.extend([1, 0, 0, 0]);
    // The section's length is not known.
    body.extend(u64::MAX.to_le_bytes());
    option(&mut body, SHB_USERAPPL, application.as_bytes());
    end_of_options(&mut body);
    block(SECTION, &body)
}

/// The block of an interface: Ethernet, of which packets are captured up to `snaplen` bytes.
pub fn interface(name: &str, snaplen: u32) -> Vec<u8> {
    let mut body = ETHERNET.to_le_bytes().to_vec();
    body.extend([0, 0]);
    body.extend(snaplen.to_le_bytes());
    option(&mut body, IF_NAME, name.as_bytes());
    option(&mut body, IF_TSRESOL, &[9]);
    end_of_options(&mut body);
    block(INTERFACE, &body)
}

/// The block of a packet.
pub fn packet(packet: &Packet<'_>) -> Vec<u8> {
    let mut body = Vec::new();
    let captured = packet.bytes.len() as u32;
    for word in [
        packet.interface,
        (packet.time >> 32) as u32,
        packet.time as u32,
        captured,
        packet.len,
    ] {
        body.extend(word.to_le_bytes());
    }
    padded(&mut body, packet.bytes);
    if let Some(comment) = packet.comment {
        option(&mut body, OPT_COMMENT, comment.as_bytes());
    }
    let direction: u32 = if packet.inbound { 1 } else { 2 };
    option(&mut body, EPB_FLAGS, &direction.to_le_bytes());
    end_of_options(&mut body);
    block(ENHANCED_PACKET, &body)
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u32 + 12).to_le_bytes();
    [&kind.to_le_bytes()[..], &len, body, &len].concat()
}

/// An option; what does not fit its length is cut off.
fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
    body.extend(code.to_le_bytes());
    body.extend(len.to_le_bytes());
    padded(body, value.get(..usize::from(len)).unwrap_or_default());
}

fn end_of_options(body: &mut Vec<u8>) {
    body.extend([0; 4]);
}

/// Bytes, and zeros up to a multiple of four.
fn padded(body: &mut Vec<u8>, bytes: &[u8]) {
    body.extend(bytes);
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::path::Path;

    use super::super::Reader;
    use super::*;

    #[test]
    fn our_reader_reads_what_is_written() {
        let mut file = section("caracal");
        file.extend(interface("eth0", 256));
        for (time, len) in [
            (1_700_000_000_123_456_789, 3),
            (1_700_000_001_000_000_000, 64),
        ] {
            file.extend(packet(&Packet {
                interface: 0,
                time,
                len,
                bytes: &vec![7; len as usize],
                inbound: true,
                comment: Some("drop=no-route"),
            }));
        }
        let mut reader = Reader::new(Path::new("x"), Box::new(Cursor::new(file))).unwrap();
        let mut found = Vec::new();
        while let Some(record) = reader.next_record().unwrap() {
            found.push((record.time, record.data.to_vec()));
        }
        assert_eq!(
            found,
            [
                (1_700_000_000_123_456_789, vec![7; 3]),
                (1_700_000_001_000_000_000, vec![7; 64])
            ]
        );
    }
}
