//! What can be wrong with a capture file.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a capture can not be read on: the file, the place in it, and the problem.
#[derive(Debug)]
pub struct CaptureError {
    /// The file, as it was named.
    pub file: PathBuf,
    /// Offset of the header, block or field that is at fault, in bytes from the file's start.
    pub offset: u64,
    /// What is wrong there.
    pub problem: Problem,
}

/// What is wrong with a capture.
#[derive(Debug)]
pub enum Problem {
    /// The file can not be opened or read.
    Io(io::Error),
    /// Neither pcap nor pcapng.
    NotACapture,
    /// The file ends in the middle of something.
    Truncated {
        /// What it ends in.
        what: &'static str,
        /// How many bytes that should have.
        wanted: u64,
        /// How many there are.
        found: u64,
    },
    /// A length that no capture has.
    Length {
        /// Of what.
        what: &'static str,
        /// The length in the file.
        length: u64,
    },
    /// A structure that contradicts itself.
    Malformed(&'static str),
    /// A link type that is neither Ethernet nor raw IP.
    Link(u16),
    /// A packet of an interface that the file has not described.
    UnknownInterface(u32),
}

impl fmt::Display for CaptureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file.display())?;
        if !matches!(self.problem, Problem::Io(_)) {
            write!(f, "at byte {}: ", self.offset)?;
        }
        self.problem.fmt(f)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::NotACapture => f.write_str("this is neither a pcap nor a pcapng file"),
            Self::Truncated {
                what,
                wanted,
                found,
            } => write!(
                f,
                "the file ends in {what}, after {found} of {wanted} bytes: the capture is truncated; \
                 `tcpdump -r FILE -w COPY` keeps the packets before it"
            ),
            Self::Length { what, length } => {
                write!(f, "{what} of {length} bytes: the file is damaged")
            }
            Self::Malformed(what) => write!(f, "{what}: the file is damaged"),
            Self::Link(number) => {
                write!(
                    f,
                    "link type {number} is neither Ethernet (1) nor raw IP (12, 101, 228, 229, 0, 108)"
                )?;
                if matches!(number, 113 | 276) {
                    f.write_str("; capture with `tcpdump -i INTERFACE` rather than `-i any`")?;
                }
                Ok(())
            }
            Self::UnknownInterface(id) => write!(
                f,
                "a packet of interface {id}, which the file has not described: the file is damaged"
            ),
        }
    }
}

impl std::error::Error for CaptureError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.problem {
            Problem::Io(error) => Some(error),
            _ => None,
        }
    }
}
