//! Capture files: pcap and pcapng in and out. Plain bytes, no dependencies; never on the packet path.
//!
//! Formats: draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng.

pub mod blocks;
mod error;
mod link;
mod pcapng;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use error::{CaptureError, Problem};
pub use link::Link;
pub use reader::{MAX_PACKET, Reader, Record};
pub use writer::Writer;
