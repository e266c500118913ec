//! Packets layer by layer, for people who have to find the difference.

use std::fmt::Write as _;

use smoltcp::wire::{EthernetFrame, PrettyPrinter};

/// A frame, layer by layer, VXLAN and IPIP opened, and its bytes.
pub fn frame(bytes: &[u8]) -> String {
    let mut text = layers(bytes, "");
    for (index, line) in bytes.chunks(16).enumerate() {
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(text, "  {:04x}  {}", index * 16, hex.join(" "));
    }
    text
}

/// A frame, layer by layer.
pub fn layers(bytes: &[u8], indent: &str) -> String {
    let printed = PrettyPrinter::<EthernetFrame<&'static [u8]>>::new("", &bytes).to_string();
    let mut text = String::new();
    for line in printed.lines() {
        let _ = writeln!(text, "{indent}{line}");
    }
    if let Some(inner) = inner_frame(bytes) {
        let _ = writeln!(text, "{indent}  inside:");
        text += &layers(&inner, &format!("{indent}    "));
    }
    text
}

/// What a tunnel packet carries, as a frame.
fn inner_frame(bytes: &[u8]) -> Option<Vec<u8>> {
    let (protocol, l4) = match bytes.get(12..14)? {
        [8, 0] => {
            let header_len = usize::from(bytes.get(14)? & 15) * 4;
            (*bytes.get(23)?, 14 + header_len)
        }
        [0x86, 0xdd] => (*bytes.get(20)?, 54),
        _ => return None,
    };
    match protocol {
        4 => {
            let mut frame = bytes.get(..14)?.to_vec();
            frame.extend_from_slice(bytes.get(l4..)?);
            Some(frame)
        }
        17 if bytes.get(l4 + 2..l4 + 4)? == 4789_u16.to_be_bytes() => {
            Some(bytes.get(l4 + 16..)?.to_vec())
        }
        _ => None,
    }
}

/// What is different between two lists of frames; empty when nothing is.
pub fn difference(what: &str, expected: &[Vec<u8>], found: &[Vec<u8>]) -> String {
    let mut text = String::new();
    for index in 0..expected.len().max(found.len()) {
        let (wanted, got) = (expected.get(index), found.get(index));
        if wanted == got {
            continue;
        }
        let show = |one: Option<&Vec<u8>>| one.map_or("  nothing\n".to_owned(), |one| frame(one));
        let _ = write!(
            text,
            "{what}, packet {index}:\nexpected\n{}found\n{}",
            show(wanted),
            show(got)
        );
        if let (Some(wanted), Some(got)) = (wanted, got) {
            let at = wanted.iter().zip(got).position(|(a, b)| a != b);
            let at = at.unwrap_or(wanted.len().min(got.len()));
            let _ = writeln!(text, "first difference at byte {at} ({at:#06x})");
        }
    }
    text
}
