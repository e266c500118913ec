//! pcapng: sections of blocks.

use super::error::{CaptureError, Problem};
use super::link::Link;
use super::reader::{Input, MAX_PACKET, Order, Record};

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

const OPTION_TIME_RESOLUTION: u16 = 9;
const OPTION_TIME_OFFSET: u16 = 14;

const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
/// Type, length and, at the end, length again.
const FRAMING: u32 = 12;
/// The longest block: a whole packet with generous options.
const MAX_BLOCK: u32 = 16 << 20;

/// The section that is being read.
#[derive(Debug)]
pub(super) struct Section {
    order: Order,
    interfaces: Vec<Interface>,
    /// The time of the packet before: simple packets have none of their own.
    time: u64,
}

/// What an interface description says.
#[derive(Clone, Copy, Debug)]
struct Interface {
    link: u16,
    snap_len: u32,
    /// Units of time in a second.
    resolution: u128,
    /// Seconds to add to each time.
    offset: i64,
}

/// A packet block, its header taken apart.
struct Packet {
    interface: u32,
    time: Option<u64>,
    len: u32,
    original_len: u32,
    /// Where the data begins in the block's body.
    at: usize,
}

impl Section {
    /// Reads the first section's header, whose type is in the input's buffer.
    pub(super) fn open(input: &mut Input) -> Result<Self, CaptureError> {
        let mut section = Self {
            order: Order::Little,
            interfaces: Vec::new(),
            time: 0,
        };
        section.header(input, 0)?;
        Ok(section)
    }

    /// The next packet of the file.
    pub(super) fn next_record<'a>(
        &mut self,
        input: &'a mut Input,
    ) -> Result<Option<Record<'a>>, CaptureError> {
        let found = loop {
            let start = input.offset;
            if !input.fill_or_end(4, "a block's header")? {
                return Ok(None);
            }
            let kind = self.order.u32(&input.buffer, 0);
            if kind == SECTION_HEADER {
                self.header(input, start)?;
                continue;
            }
            self.body(input, start)?;
            let body = &input.buffer;
            match kind {
                INTERFACE_DESCRIPTION => self.interfaces.push(self.interface(body)),
                ENHANCED_PACKET | OBSOLETE_PACKET => break (start, self.timed(kind, body)),
                SIMPLE_PACKET => break (start, self.simple(body)),
                _ => {}
            }
        };
        let (start, packet) = found;
        let Some(interface) = self.interfaces.get(packet.interface as usize).copied() else {
            let problem = Problem::UnknownInterface(packet.interface);
            return Err(input.fail(start, problem));
        };
        let link = Link::from_number(interface.link)
            .ok_or_else(|| input.fail(start, Problem::Link(interface.link)))?;
        if packet.len > MAX_PACKET {
            let length = packet.len.into();
            let what = "a packet";
            return Err(input.fail(start, Problem::Length { what, length }));
        }
        if let Some(units) = packet.time {
            self.time = interface.nanos(units);
        }
        let end = packet.at + packet.len as usize;
        if end > input.buffer.len() {
            return Err(input.fail(start, Problem::Malformed("a packet longer than its block")));
        }
        Ok(Some(Record {
            time: self.time,
            link,
            original_len: packet.original_len,
            data: input.buffer.get(packet.at..end).unwrap_or_default(),
        }))
    }

    /// Reads a section's header behind its type; what the section before said is forgotten.
    fn header(&mut self, input: &mut Input, start: u64) -> Result<(), CaptureError> {
        input.fill(8, "a section's header")?;
        self.order = match (
            Order::Big.u32(&input.buffer, 4),
            Order::Little.u32(&input.buffer, 4),
        ) {
            (BYTE_ORDER_MAGIC, _) => Order::Big,
            (_, BYTE_ORDER_MAGIC) => Order::Little,
            _ => return Err(input.fail(start, Problem::NotACapture)),
        };
        let len = self.order.u32(&input.buffer, 0);
        // The byte order magic was read already.
        self.rest(input, start, len, 4)?;
        self.interfaces.clear();
        Ok(())
    }

    /// Reads a block behind its type; its body is then in the buffer.
    fn body(&self, input: &mut Input, start: u64) -> Result<(), CaptureError> {
        input.fill(4, "a block's header")?;
        let len = self.order.u32(&input.buffer, 0);
        self.rest(input, start, len, 0)
    }

    /// Reads what is left of a block of `len` bytes, of whose body `read` bytes were read, and checks its end.
    fn rest(&self, input: &mut Input, start: u64, len: u32, read: u32) -> Result<(), CaptureError> {
        if len < FRAMING + read || !len.is_multiple_of(4) || len > MAX_BLOCK {
            let length = len.into();
            let what = "a block";
            return Err(input.fail(start, Problem::Length { what, length }));
        }
        let body = (len - FRAMING - read) as usize;
        input.fill(body + 4, "a block")?;
        if self.order.u32(&input.buffer, body) != len {
            let problem = Problem::Malformed("a block whose two lengths differ");
            return Err(input.fail(start, problem));
        }
        input.buffer.truncate(body);
        Ok(())
    }

    fn interface(&self, body: &[u8]) -> Interface {
        let mut interface = Interface {
            link: self.order.u16(body, 0),
            snap_len: self.order.u32(body, 4),
            resolution: 1_000_000,
            offset: 0,
        };
        let mut options = body.get(8..).unwrap_or_default();
        while options.len() >= 4 {
            let (code, len) = (self.order.u16(options, 0), self.order.u16(options, 2));
            let value = options.get(4..4 + usize::from(len)).unwrap_or_default();
            match (code, value) {
                (OPTION_TIME_RESOLUTION, [power]) => interface.resolution = resolution(*power),
                (OPTION_TIME_OFFSET, [_, _, _, _, _, _, _, _]) => {
                    let (a, b) = (self.order.u32(value, 0), self.order.u32(value, 4));
                    let (high, low) = match self.order {
                        Order::Big => (a, b),
                        Order::Little => (b, a),
                    };
                    interface.offset = (u64::from(high) << 32 | u64::from(low)).cast_signed();
                }
                _ => {}
            }
            let padded = 4 + usize::from(len).next_multiple_of(4);
            options = options.get(padded..).unwrap_or_default();
        }
        interface
    }

    fn timed(&self, kind: u32, body: &[u8]) -> Packet {
        let order = self.order;
        let interface = if kind == OBSOLETE_PACKET {
            order.u16(body, 0).into()
        } else {
            order.u32(body, 0)
        };
        let time = u64::from(order.u32(body, 4)) << 32 | u64::from(order.u32(body, 8));
        Packet {
            interface,
            time: Some(time),
            len: order.u32(body, 12),
            original_len: order.u32(body, 16),
            at: 20,
        }
    }

    fn simple(&self, body: &[u8]) -> Packet {
        let original_len = self.order.u32(body, 0);
        let snap_len = match self.interfaces.first() {
            Some(interface) if interface.snap_len > 0 => interface.snap_len,
            _ => MAX_PACKET,
        };
        Packet {
            interface: 0,
            time: None,
            len: original_len.min(snap_len),
            original_len,
            at: 4,
        }
    }
}

/// Units in a second: a negative power of ten, or of two where the highest bit is set.
fn resolution(power: u8) -> u128 {
    let exponent = u32::from(power & 0x7f);
    if power & 0x80 == 0 {
        10_u128.saturating_pow(exponent)
    } else {
        1_u128.checked_shl(exponent).unwrap_or(u128::MAX)
    }
}

impl Interface {
    /// A time of this interface in nanoseconds since 1970.
    fn nanos(&self, units: u64) -> u64 {
        const SECOND: u128 = 1_000_000_000;
        let since = (u128::from(units) * SECOND / self.resolution).cast_signed();
        let offset = i128::from(self.offset) * SECOND.cast_signed();
        u64::try_from((since + offset).max(0)).unwrap_or(u64::MAX)
    }
}
