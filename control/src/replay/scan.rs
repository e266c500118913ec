//! A first look at a capture, so that nothing is written when one of several is damaged.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::net::IpAddr;
use std::path::Path;

use encap::eth::{HEADER_LEN, MacAddr};
use fastpath::capture::{CaptureError, Link, Problem, Reader};

use crate::config::regular;

/// What a capture holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Packets.
    pub packets: u64,
    /// Packets that the capture cut: they can not be forwarded.
    pub cut: u64,
    /// The longest packet, as Ethernet, in bytes.
    pub longest: usize,
    /// The MAC address that most packets for the node and its pods were sent to.
    pub our_mac: Option<MacAddr>,
}

/// Opens a capture. Only a regular file will do: it is read twice, once by [`scan`] and once by the replay.
pub(super) fn open(path: &Path) -> Result<Reader, CaptureError> {
    let file = regular::open(path).map_err(|error| CaptureError {
        file: path.to_owned(),
        offset: 0,
        problem: Problem::Io(error),
    })?;
    Reader::new(path, Box::new(BufReader::with_capacity(1 << 16, file)))
}

/// Reads a capture to its end. `is_ours` says whether an address is the node's own or a pod's.
///
/// # Errors
/// When the capture is truncated, damaged, or of a link type that is not forwarded.
pub fn scan(path: &Path, is_ours: impl Fn(IpAddr) -> bool) -> Result<Scan, CaptureError> {
    let mut reader = open(path)?;
    let mut scan = Scan::default();
    let mut macs: BTreeMap<[u8; 6], u64> = BTreeMap::new();
    while let Some(record) = reader.next_record()? {
        scan.packets += 1;
        scan.cut += u64::from((record.data.len() as u64) < u64::from(record.original_len));
        let mut len = record.data.len();
        if record.link == Link::Ethernet {
            if let Some((mac, addr)) = destination(record.data)
                && mac[0] & 1 == 0
                && is_ours(addr)
            {
                *macs.entry(mac).or_default() += 1;
            }
        } else {
            len += HEADER_LEN;
        }
        scan.longest = scan.longest.max(len);
    }
    // Of equal counts the lowest address: the same answer each time.
    let most = macs.into_iter().rev().max_by_key(|(_, count)| *count);
    scan.our_mac = most.map(|(mac, _)| MacAddr(mac));
    Ok(scan)
}

/// Where an Ethernet frame goes: MAC and IP address.
fn destination(frame: &[u8]) -> Option<([u8; 6], IpAddr)> {
    let (mac, _) = frame.split_first_chunk::<6>()?;
    let addr: IpAddr = match frame.get(12..14)? {
        [0x08, 0x00] => frame.get(30..34)?.first_chunk::<4>().copied()?.into(),
        [0x86, 0xdd] => frame.get(38..54)?.first_chunk::<16>().copied()?.into(),
        _ => return None,
    };
    Some((*mac, addr))
}
