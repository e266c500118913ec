//! The file of connections: a head, the places that connections come from, and a record a connection.
//!
//! ```text
//! magic 8 | version 4 | length 8 | checksum 8
//! boot id 16 | network namespace 8 | stopped at 8 | node
//! places 2, each: kind 1, and by its kind index 4, texts
//! connections 4, each: protocol, flags, places, ports, idle times, tracker's words, addresses
//! ```
//!
//! Little-endian. A text is its length in two bytes and its bytes. The checksum is over all behind it; length and version come before, so that a
//! file of another version is known as one. Any change of what is written, also of the tracker's words ([`flowtable::conn::Dir`]), is another
//! [`VERSION`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use fastpath::connections::{Kept, KeptDirection, Origin};
use fastpath::port::PortId;
use flowtable::flow::SEEN_UNIT;

/// What the file begins with.
const MAGIC: [u8; 8] = *b"caracal\x1a";

/// The version that is written where there is a connection to a service, and read.
pub const VERSION: u32 = 2;

/// The same without services, which is read, too, and written where there is none: a daemon of before reads it.
const BEFORE_SERVICES: u32 = 1;

/// Bytes before what the checksum is over.
const ENVELOPE: usize = 8 + 4 + 8 + 8;

/// The most connections in a file: 92 MiB of them, if they are all of IPv6.
pub const MOST: u32 = 1 << 20;

/// The most bytes of a file.
pub const MOST_BYTES: usize = (MOST as usize) * RECORD_V6 + (16 << 20);

/// Bytes of a connection of IPv4 that is to no service.
pub const RECORD_V4: usize = 48;
/// Bytes of a connection of IPv6, the longest.
pub const RECORD_V6: usize = 84 + 18;

/// On a record: it is of IPv6.
const IS_V6: u8 = 1;
/// Its source is translated.
const IS_TRANSLATED: u8 = 2;
/// It counts for the endpoint that answers.
const OWNED_BY_REPLY: u8 = 4;
/// It is to a service: the backend's address and port come behind all else.
const IS_TO_SERVICE: u8 = 8;

/// Where connections come from: what tells one run's daemon from another's, and when it stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The kernel's boot id (`/proc/sys/kernel/random/boot_id`): interface indexes and clocks are of one boot.
    pub boot: [u8; 16],
    /// The network namespace's inode: interface indexes are of one namespace.
    pub netns: u64,
    /// When the daemon stopped, by `CLOCK_BOOTTIME`, which goes on while the machine sleeps.
    pub stopped: Duration,
    /// The node's name.
    pub node: String,
}

/// Where packets of a direction come in, by names that outlive a process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// Nowhere that was seen.
    Unknown,
    /// By a tunnel from outside of the cluster.
    External,
    /// The host's port.
    Host,
    /// An uplink, by its name.
    Uplink(String),
    /// The tunnel of another node, by its name.
    Node(String),
    /// A pod's interface.
    Pod {
        /// The interface's index: another veth has another one, whatever its name.
        ifindex: u32,
        /// The interface's name.
        interface: String,
        /// The endpoint's namespace.
        namespace: String,
        /// The endpoint's name.
        name: String,
        /// Its addresses.
        nets: Vec<String>,
    },
}

/// Why bytes are no file of connections that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// They do not begin as one.
    #[error("it is no file of connections")]
    Magic,
    /// Another version of the daemon wrote it.
    #[error("it is of version {0}, and this daemon reads versions {BEFORE_SERVICES} and {VERSION}")]
    Version(u32),
    /// It does not end where it says.
    #[error("it is {found} bytes long and says {said}: cut off, or added to")]
    Length {
        /// What there is.
        found: u64,
        /// What it says.
        said: u64,
    },
    /// Some of it is not what was written.
    #[error("its checksum is wrong")]
    Checksum,
    /// What is in it makes no sense, though its checksum is right.
    #[error("byte {0}: it makes no sense there")]
    Content(usize),
}

/// A file that is being made.
#[derive(Debug)]
pub struct Writer {
    out: Vec<u8>,
    count_at: usize,
    count: u32,
}

impl Writer {
    /// A file with this head and these places, which connections name by their index, and room for so many connections.
    pub fn new(head: &Head, places: &[Place], connections: usize) -> Self {
        let room = connections.min(MOST as usize) * RECORD_V4;
        let mut out = Vec::with_capacity(4096 + room);
        out.extend(MAGIC);
        out.extend(BEFORE_SERVICES.to_le_bytes());
        out.extend([0; 16]);
        out.extend(head.boot);
        out.extend(head.netns.to_le_bytes());
        out.extend((head.stopped.as_nanos() as u64).to_le_bytes());
        text(&mut out, &head.node);
        out.extend((places.len() as u16).to_le_bytes());
        for place in places {
            put_place(&mut out, place);
        }
        let count_at = out.len();
        out.extend([0; 4]);
        Self {
            out,
            count_at,
            count: 0,
        }
    }

    /// How many connections it has.
    pub const fn len(&self) -> u32 {
        self.count
    }

    /// Whether it has none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a connection, whose origins are given by their place's index. Whether there was room.
    pub fn push(&mut self, kept: &Kept, places: [u16; 2]) -> bool {
        if self.count >= MOST {
            return false;
        }
        self.count += 1;
        let out = &mut self.out;
        let is_v6 = if kept.src.is_ipv6() { IS_V6 } else { 0 };
        let is_translated = kept.snat.map_or(0, |_| IS_TRANSLATED);
        let owned = if kept.owned_by_reply {
            OWNED_BY_REPLY
        } else {
            0
        };
        let is_to_service = kept.dnat.map_or(0, |_| IS_TO_SERVICE);
        out.extend([kept.protocol, is_v6 | is_translated | owned | is_to_service]);
        let none = if is_v6 == 0 {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let (snat, snat_port) = kept.snat.unwrap_or((none, 0));
        let (sport, dport) = kept.ports;
        for word in [places[0], places[1], sport, dport, snat_port] {
            out.extend(word.to_le_bytes());
        }
        let directions = [kept.original, kept.reply];
        for direction in directions {
            let units = direction.idle.as_nanos() / SEEN_UNIT.as_nanos();
            out.extend(u32::try_from(units).unwrap_or(u32::MAX).to_le_bytes());
        }
        for direction in directions {
            out.extend(direction.word.to_le_bytes());
        }
        let addresses = [kept.src, kept.dst, snat].into_iter();
        for addr in addresses.chain(kept.dnat.map(|(addr, _)| addr)) {
            match addr {
                IpAddr::V4(addr) => out.extend(addr.octets()),
                IpAddr::V6(addr) => out.extend(addr.octets()),
            }
        }
        if let Some((_, port)) = kept.dnat {
            out.extend(port.to_le_bytes());
            put_at(out, MAGIC.len(), &VERSION.to_le_bytes());
        }
        true
    }

    /// The file's bytes.
    pub fn finish(mut self) -> Vec<u8> {
        put_at(&mut self.out, self.count_at, &self.count.to_le_bytes());
        Self::seal(&mut self.out);
        self.out
    }

    /// Writes length and checksum into a file that is complete but for these.
    pub fn seal(file: &mut [u8]) {
        let len = file.len() as u64;
        put_at(file, 12, &len.to_le_bytes());
        let sum = checksum(file);
        put_at(file, 20, &sum.to_le_bytes());
    }
}

fn put_at(out: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = out.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    // Names that are longer are nobody's.
    let len = text.len().min(usize::from(u16::MAX));
    out.extend((len as u16).to_le_bytes());
    out.extend(text.as_bytes().iter().take(len));
}

fn put_place(out: &mut Vec<u8>, place: &Place) {
    match place {
        Place::Unknown => out.push(0),
        Place::External => out.push(1),
        Place::Host => out.push(2),
        Place::Uplink(name) => {
            out.push(3);
            text(out, name);
        }
        Place::Node(name) => {
            out.push(4);
            text(out, name);
        }
        Place::Pod {
            ifindex,
            interface,
            namespace,
            name,
            nets,
        } => {
            out.push(5);
            out.extend(ifindex.to_le_bytes());
            for part in [interface, namespace, name] {
                text(out, part);
            }
            out.extend((nets.len() as u16).to_le_bytes());
            for net in nets {
                text(out, net);
            }
        }
    }
}

/// Of the length and of all behind the checksum itself. Each step is one to one in what was before and in the word that it takes, so whatever differs in one
/// word differs in the end.
fn checksum(bytes: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let step = |sum: u64, word: u64| (sum.rotate_left(23) ^ word).wrapping_mul(ODD);
    let (envelope, body) = bytes.split_at_checked(ENVELOPE).unwrap_or((bytes, &[]));
    let (words, rest) = body.as_chunks::<8>();
    let sum = words.iter().fold(body.len() as u64, |sum, word| {
        step(sum, u64::from_le_bytes(*word))
    });
    let sum = rest
        .iter()
        .fold(sum, |sum, &byte| step(sum, u64::from(byte)));
    envelope
        .iter()
        .take(20)
        .fold(sum, |sum, &byte| step(sum, u64::from(byte)))
}

/// A file whose bytes have been checked, all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Where it is from.
    pub head: Head,
    /// Its places.
    pub places: Vec<Place>,
    bytes: Vec<u8>,
    records: usize,
    count: u32,
}

impl Saved {
    /// Checks a file.
    ///
    /// # Errors
    /// Why nothing of it can be used.
    pub fn read(bytes: Vec<u8>) -> Result<Self, FormatError> {
        let mut cursor = Cursor {
            bytes: &bytes,
            at: 0,
        };
        if cursor.take::<8>() != Ok(MAGIC) {
            return Err(FormatError::Magic);
        }
        let version = u32::from_le_bytes(cursor.take()?);
        if ![BEFORE_SERVICES, VERSION].contains(&version) {
            return Err(FormatError::Version(version));
        }
        let (said, found) = (u64::from_le_bytes(cursor.take()?), bytes.len() as u64);
        if said != found {
            return Err(FormatError::Length { found, said });
        }
        if u64::from_le_bytes(cursor.take()?) != checksum(&bytes) {
            return Err(FormatError::Checksum);
        }
        let head = Head {
            boot: cursor.take()?,
            netns: u64::from_le_bytes(cursor.take()?),
            stopped: Duration::from_nanos(u64::from_le_bytes(cursor.take()?)),
            node: cursor.text()?,
        };
        let count = cursor.u16()?;
        let places = (0..count)
            .map(|_| cursor.place())
            .collect::<Result<Vec<_>, _>>()?;
        let counted = cursor.at;
        let count = cursor.u32()?;
        if count > MOST {
            return Err(FormatError::Content(counted));
        }
        let records = cursor.at;
        for _ in 0..count {
            let at = cursor.at;
            let (kept, _) = cursor.record(places.len())?;
            if kept.dnat.is_some() && version == BEFORE_SERVICES {
                return Err(FormatError::Content(at));
            }
        }
        if cursor.at != bytes.len() {
            return Err(FormatError::Content(cursor.at));
        }
        Ok(Self {
            head,
            places,
            bytes,
            records,
            count,
        })
    }

    /// How many connections it has.
    pub const fn len(&self) -> u32 {
        self.count
    }

    /// Whether it has none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The file as it was.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its connections, with their origins as `origins` says of each place, or with none that is known of a place that it does not name;
    /// beside each the indexes of its places. Idle times are those of the stop.
    pub fn connections(
        &self,
        origins: &[Option<Origin>],
    ) -> impl Iterator<Item = (Kept, [u16; 2])> {
        let mut cursor = Cursor {
            bytes: &self.bytes,
            at: self.records,
        };
        let origin = |place: u16| {
            let origin = origins.get(usize::from(place)).copied().flatten();
            origin.unwrap_or(Origin::Unknown)
        };
        let places = self.places.len();
        std::iter::from_fn(move || {
            let (mut kept, at) = cursor.record(places).ok()?;
            kept.original.origin = origin(at[0]);
            kept.reply.origin = origin(at[1]);
            Some((kept, at))
        })
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest.first_chunk().ok_or(FormatError::Content(self.at))?;
        self.at += N;
        Ok(*taken)
    }

    fn u16(&mut self) -> Result<u16, FormatError> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, FormatError> {
        self.take().map(u32::from_le_bytes)
    }

    fn text(&mut self) -> Result<String, FormatError> {
        let len = usize::from(self.u16()?);
        let at = self.at;
        let bytes = self.bytes.get(at..at + len);
        let text = bytes.and_then(|bytes| std::str::from_utf8(bytes).ok());
        self.at += len;
        text.map(str::to_owned).ok_or(FormatError::Content(at))
    }

    fn place(&mut self) -> Result<Place, FormatError> {
        let at = self.at;
        let [kind] = self.take()?;
        Ok(match kind {
            0 => Place::Unknown,
            1 => Place::External,
            2 => Place::Host,
            3 => Place::Uplink(self.text()?),
            4 => Place::Node(self.text()?),
            5 => Place::Pod {
                ifindex: self.u32()?,
                interface: self.text()?,
                namespace: self.text()?,
                name: self.text()?,
                nets: (0..self.u16()?)
                    .map(|_| self.text())
                    .collect::<Result<_, _>>()?,
            },
            _ => return Err(FormatError::Content(at)),
        })
    }

    fn record(&mut self, places: usize) -> Result<(Kept, [u16; 2]), FormatError> {
        let start = self.at;
        let [protocol, flags] = self.take()?;
        let at = [self.u16()?, self.u16()?];
        let ports = (self.u16()?, self.u16()?);
        let snat_port = self.u16()?;
        let idle = [self.u32()?, self.u32()?].map(|units| SEEN_UNIT * units);
        let words = [self.take()?, self.take()?].map(u64::from_le_bytes);
        let is_v6 = flags & IS_V6 != 0;
        let [src, dst, snat] = [self.addr(is_v6)?, self.addr(is_v6)?, self.addr(is_v6)?];
        let dnat = if flags & IS_TO_SERVICE == 0 {
            None
        } else {
            Some((self.addr(is_v6)?, self.u16()?))
        };
        let translated = flags & IS_TRANSLATED != 0;
        let is_well_formed = flags & !(IS_V6 | IS_TRANSLATED | OWNED_BY_REPLY | IS_TO_SERVICE) == 0
            && at.into_iter().all(|place| usize::from(place) < places)
            && (translated || snat.is_unspecified() && snat_port == 0);
        if !is_well_formed {
            return Err(FormatError::Content(start));
        }
        let direction = |index: usize| KeptDirection {
            origin: Origin::Port(PortId(0)),
            word: words[index],
            idle: idle[index],
        };
        let kept = Kept {
            protocol,
            src,
            dst,
            ports,
            snat: translated.then_some((snat, snat_port)),
            dnat,
            owned_by_reply: flags & OWNED_BY_REPLY != 0,
            original: direction(0),
            reply: direction(1),
        };
        Ok((kept, at))
    }

    fn addr(&mut self, is_v6: bool) -> Result<IpAddr, FormatError> {
        if is_v6 {
            self.take::<16>().map(IpAddr::from)
        } else {
            self.take::<4>().map(IpAddr::from)
        }
    }
}

#[cfg(test)]
mod tests;
