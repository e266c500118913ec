//! Reading captures packet by packet, in constant memory.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use super::error::{CaptureError, Problem};
use super::link::Link;
use super::pcapng::Section;

/// The longest packet of a capture, in bytes (the limit of libpcap).
pub const MAX_PACKET: u32 = 262_144;

pub(super) const MAGIC_MICROS: u32 = 0xa1b2_c3d4;
pub(super) const MAGIC_NANOS: u32 = 0xa1b2_3c4d;

const PCAPNG_SECTION: u32 = 0x0a0d_0d0a;
const PCAP_HEADER_LEN: usize = 24;
const PCAP_RECORD_LEN: usize = 16;

/// One packet of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// When it was captured, in nanoseconds since 1970.
    pub time: u64,
    /// What its first header is.
    pub link: Link,
    /// Its length on the wire, in bytes; `data` is shorter when the capture cut it.
    pub original_len: u32,
    /// Its bytes.
    pub data: &'a [u8],
}

/// Which bytes of a number come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Big,
    Little,
}

impl Order {
    /// The 32-bit number at `at`; zero beyond the end.
    pub(super) fn u32(self, bytes: &[u8], at: usize) -> u32 {
        let bytes = bytes
            .get(at..)
            .and_then(<[u8]>::first_chunk)
            .copied()
            .unwrap_or_default();
        match self {
            Self::Big => u32::from_be_bytes(bytes),
            Self::Little => u32::from_le_bytes(bytes),
        }
    }

    /// The 16-bit number at `at`; zero beyond the end.
    pub(super) fn u16(self, bytes: &[u8], at: usize) -> u16 {
        let bytes = bytes
            .get(at..)
            .and_then(<[u8]>::first_chunk)
            .copied()
            .unwrap_or_default();
        match self {
            Self::Big => u16::from_be_bytes(bytes),
            Self::Little => u16::from_le_bytes(bytes),
        }
    }
}

#[derive(Debug)]
enum Format {
    Pcap {
        order: Order,
        /// Nanoseconds in one unit of the time's second word.
        unit: u64,
        link: Link,
    },
    Pcapng(Section),
}

/// Reads one capture, pcap or pcapng, in either byte order.
pub struct Reader {
    input: Input,
    format: Format,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("file", &self.input.file)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

impl Reader {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// When it can not be opened, is no capture, or has a link type that is not forwarded.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let file = File::open(path).map_err(|error| CaptureError {
            file: path.to_owned(),
            offset: 0,
            problem: Problem::Io(error),
        })?;
        Self::new(path, Box::new(BufReader::with_capacity(1 << 16, file)))
    }

    /// Reads a capture from anywhere; `name` stands for it in errors.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn new(name: &Path, input: Box<dyn Read + Send>) -> Result<Self, CaptureError> {
        let mut input = Input {
            file: name.to_owned(),
            from: input,
            offset: 0,
            buffer: Vec::new(),
        };
        let format = input.format()?;
        Ok(Self { input, format })
    }

    /// The next packet; `None` at the end of the file.
    ///
    /// # Errors
    /// When the file is truncated or damaged. There is nothing to read behind an error.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, CaptureError> {
        let (order, unit, link) = match &mut self.format {
            Format::Pcap { order, unit, link } => (*order, *unit, *link),
            Format::Pcapng(section) => return section.next_record(&mut self.input),
        };
        let start = self.input.offset;
        if !self
            .input
            .fill_or_end(PCAP_RECORD_LEN, "a packet's header")?
        {
            return Ok(None);
        }
        let header = &self.input.buffer;
        let seconds = u64::from(order.u32(header, 0));
        let fraction = u64::from(order.u32(header, 4));
        let (len, original_len) = (order.u32(header, 8), order.u32(header, 12));
        if len > MAX_PACKET {
            let length = len.into();
            let what = "a packet";
            return Err(self.input.fail(start, Problem::Length { what, length }));
        }
        self.input.fill(len as usize, "a packet's data")?;
        Ok(Some(Record {
            time: seconds * 1_000_000_000 + fraction * unit,
            link,
            original_len,
            data: &self.input.buffer,
        }))
    }

    /// The file's name, as it was given.
    pub fn file(&self) -> &Path {
        &self.input.file
    }
}

/// A file that is read from its start to its end.
pub(super) struct Input {
    file: PathBuf,
    from: Box<dyn Read + Send>,
    /// How many bytes were read.
    pub(super) offset: u64,
    /// What was read last.
    pub(super) buffer: Vec<u8>,
}

impl Input {
    pub(super) fn fail(&self, offset: u64, problem: Problem) -> CaptureError {
        CaptureError {
            file: self.file.clone(),
            offset,
            problem,
        }
    }

    /// Reads `len` bytes into the buffer.
    pub(super) fn fill(&mut self, len: usize, what: &'static str) -> Result<(), CaptureError> {
        self.buffer.clear();
        self.append(len, what)
    }

    /// Reads `len` bytes into the buffer, or none at all at the end of the file: then `false`.
    pub(super) fn fill_or_end(
        &mut self,
        len: usize,
        what: &'static str,
    ) -> Result<bool, CaptureError> {
        self.buffer.clear();
        self.read(len)?;
        if self.buffer.is_empty() {
            return Ok(false);
        }
        self.check(0, len, what)?;
        Ok(true)
    }

    /// Reads `len` more bytes to the buffer's end.
    pub(super) fn append(&mut self, len: usize, what: &'static str) -> Result<(), CaptureError> {
        let before = self.buffer.len();
        self.read(len)?;
        self.check(before, len, what)
    }

    fn read(&mut self, len: usize) -> Result<(), CaptureError> {
        let read = (&mut self.from)
            .take(len as u64)
            .read_to_end(&mut self.buffer);
        match read {
            Ok(count) => self.offset += count as u64,
            Err(error) => return Err(self.fail(self.offset, Problem::Io(error))),
        }
        Ok(())
    }

    fn check(&self, before: usize, wanted: usize, what: &'static str) -> Result<(), CaptureError> {
        let found = self.buffer.len() - before;
        if found == wanted {
            return Ok(());
        }
        let problem = Problem::Truncated {
            what,
            wanted: wanted as u64,
            found: found as u64,
        };
        Err(self.fail(self.offset - found as u64, problem))
    }

    fn format(&mut self) -> Result<Format, CaptureError> {
        self.fill(4, "the file's header").map_err(|error| {
            // Too short for a magic number: not a truncated capture, no capture at all.
            match error.problem {
                Problem::Truncated { .. } => self.fail(0, Problem::NotACapture),
                _ => error,
            }
        })?;
        let (big, little) = (
            Order::Big.u32(&self.buffer, 0),
            Order::Little.u32(&self.buffer, 0),
        );
        if big == PCAPNG_SECTION {
            return Ok(Format::Pcapng(Section::open(self)?));
        }
        let (order, unit) = match (big, little) {
            (MAGIC_MICROS, _) => (Order::Big, 1000),
            (_, MAGIC_MICROS) => (Order::Little, 1000),
            (MAGIC_NANOS, _) => (Order::Big, 1),
            (_, MAGIC_NANOS) => (Order::Little, 1),
            _ => return Err(self.fail(0, Problem::NotACapture)),
        };
        self.append(PCAP_HEADER_LEN - 4, "the file's header")?;
        // The upper bits tell of a frame check sequence, which is link padding to us.
        let number = (order.u32(&self.buffer, 20) & 0xffff) as u16;
        let link = Link::from_number(number).ok_or_else(|| self.fail(20, Problem::Link(number)))?;
        Ok(Format::Pcap { order, unit, link })
    }
}
