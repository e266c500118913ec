//! The third-party captures under `fixtures/`.

use std::fs;
use std::path::{Path, PathBuf};

use encap::outer::Macs;
use fastpath::capture::{CaptureError, Reader};

/// One capture, as `MANIFEST.tsv` describes it.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// The file.
    pub path: PathBuf,
    /// Packets, as tshark counts them.
    pub packets: usize,
    /// Link type numbers.
    pub links: String,
}

/// Every capture.
///
/// # Panics
/// When the manifest can not be read.
pub fn all() -> Vec<Fixture> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let manifest = fs::read_to_string(dir.join("MANIFEST.tsv")).expect("the manifest");
    let rows = manifest
        .lines()
        .skip(1)
        .map(|row| row.split('\t').collect::<Vec<_>>());
    rows.map(|columns| Fixture {
        path: dir.join(columns[0]).join(columns[1]),
        packets: columns[11].parse().expect("tshark's count"),
        links: columns[8].to_owned(),
    })
    .collect()
}

/// All packets of a capture as Ethernet frames; those captured without a header get one with these addresses.
///
/// # Errors
/// As the reader's.
pub fn frames(path: &Path, macs: &Macs) -> Result<Vec<Vec<u8>>, CaptureError> {
    let mut reader = Reader::open(path)?;
    let mut frames = Vec::new();
    while let Some(record) = reader.next_record()? {
        let (header, packet) = record.link.to_ethernet(record.data, macs);
        let mut frame: Vec<u8> = header.into_iter().flatten().collect();
        frame.extend_from_slice(packet);
        frames.push(frame);
    }
    Ok(frames)
}
