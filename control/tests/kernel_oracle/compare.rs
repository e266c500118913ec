//! What the kernel made of a packet against what Caracal made of it.

use std::fmt::Write as _;

use crate::script::Side;
use crate::view::View;

/// A frame that came out.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    pub(crate) side: Side,
    pub(crate) view: View,
}

/// What both made of one packet.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) kernel: Vec<Output>,
    pub(crate) caracal: Vec<Output>,
}

impl Outcome {
    /// How they differ: one line for each field, or one for all when they did different things.
    pub(crate) fn differences(&self) -> Vec<String> {
        let (kernel, caracal) = (sorted(&self.kernel), sorted(&self.caracal));
        if what(&kernel) != what(&caracal) {
            return vec![format!("{} -> {}", summary(&kernel), summary(&caracal))];
        }
        let pairs = kernel.iter().zip(&caracal);
        let mut all: Vec<_> = pairs.flat_map(|(k, c)| fields(&k.view, &c.view)).collect();
        all.dedup();
        all
    }

    /// Both outcomes at length.
    pub(crate) fn describe(&self) -> String {
        let mut text = String::new();
        for (who, outputs) in [("kernel", &self.kernel), ("caracal", &self.caracal)] {
            let _ = writeln!(text, "    {who}: {}", summary(&sorted(outputs)));
            for output in sorted(outputs) {
                let fields: Vec<String> = output
                    .view
                    .fields
                    .iter()
                    .filter(|(_, value)| !value.is_empty())
                    .map(|(name, value)| format!("{name}={}", short(value)))
                    .collect();
                let _ = writeln!(text, "      {}", fields.join(" "));
            }
        }
        text
    }
}

fn sorted(outputs: &[Output]) -> Vec<Output> {
    let mut outputs = outputs.to_vec();
    outputs.sort_by_key(|output| (output.side, output.view.kind.clone(), output.view.offset));
    outputs
}

/// What came out by which link. The address that an ICMP error is from is a field as others are.
fn what(outputs: &[Output]) -> Vec<(Side, &str)> {
    let outputs = outputs.iter().map(|output| {
        let kind = &output.view.kind;
        let before = kind.split_once(" from ").map(|(kind, _)| kind);
        (output.side, before.unwrap_or(kind))
    });
    outputs.collect()
}

fn summary(outputs: &[Output]) -> String {
    if outputs.is_empty() {
        return "nothing".to_owned();
    }
    let each: Vec<String> = outputs
        .iter()
        .map(|output| format!("{} {}", output.side.name(), output.view.kind))
        .collect();
    each.join(" + ")
}

fn fields(kernel: &View, caracal: &View) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = caracal.fields.iter();
    for (name, did) in &kernel.fields {
        match rest.next() {
            Some((other, does)) if other == name => {
                if did != does {
                    found.push(format!("{name} {}", change(did, does)));
                }
            }
            _ => {
                found.push(format!("other fields from {name} on"));
                return found;
            }
        }
    }
    if rest.next().is_some() {
        found.push("more fields".to_owned());
    }
    found
}

/// The change of a value; of a long one where it begins.
fn change(did: &str, does: &str) -> String {
    const FEW: usize = 8;
    if did.len() <= 2 * FEW && does.len() <= 2 * FEW {
        let name = |value: &str| if value.is_empty() { "none" } else { value }.to_owned();
        return format!("{} -> {}", name(did), name(does));
    }
    if did.len() != does.len() {
        return format!("{} -> {} bytes", did.len() / 2, does.len() / 2);
    }
    let same = did.bytes().zip(does.bytes()).take_while(|(a, b)| a == b);
    let at = same.count() / 2 * 2;
    let part = |value: &str| value[at..value.len().min(at + FEW)].to_owned();
    format!("[{}..] {} -> {}", at / 2, part(did), part(does))
}

fn short(value: &str) -> String {
    const FEW: usize = 48;
    if value.len() <= FEW {
        return value.to_owned();
    }
    format!("{}… ({} bytes)", &value[..FEW], value.len() / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Check, ICMP, TYPE_IPV4, ethernet, icmp};
    use crate::plan::{NODE_MAC, NODE4, OUTSIDE4, POD_GATEWAY4, POD1_4, POD1_MAC};
    use crate::script::udp4;

    fn output(side: Side, change: impl FnOnce(&mut crate::frame::Ip4)) -> Output {
        let mut ip = udp4(POD1_4, OUTSIDE4, 32);
        change(&mut ip);
        let frame = ethernet(NODE_MAC, POD1_MAC, TYPE_IPV4, &ip.bytes());
        Output {
            side,
            view: View::of(&frame),
        }
    }

    fn differences(kernel: Vec<Output>, caracal: Vec<Output>) -> Vec<String> {
        let name = "test".to_owned();
        Outcome {
            name,
            kernel,
            caracal,
        }
        .differences()
    }

    #[test]
    fn every_change_of_a_frame_is_a_difference() {
        let plain = || output(Side::Wire, |_| {});
        assert_eq!(differences(vec![plain()], vec![plain()]), [""; 0]);
        assert_eq!(
            differences(vec![plain()], vec![]),
            ["wire ip -> nothing".to_owned()]
        );
        assert_eq!(
            differences(vec![plain()], vec![output(Side::Pod2, |_| {})]),
            ["wire ip -> pod2 ip"]
        );
        let ttl = output(Side::Wire, |ip| ip.ttl = 63);
        assert_eq!(differences(vec![plain()], vec![ttl]), ["ip.ttl 40 -> 3f"]);
        let flipped = output(Side::Wire, |ip| ip.checksum_flip = 1);
        assert_eq!(
            differences(vec![plain()], vec![flipped]),
            ["ip.checksum right -> wrong"]
        );
        let error = |from| {
            output(Side::Pod1, |ip| {
                (ip.src, ip.protocol) = (from, ICMP);
                ip.payload = icmp(11, 0, [0; 4], &[0x45; 28], Check::Right);
            })
        };
        assert_eq!(
            differences(vec![error(POD_GATEWAY4)], vec![error(NODE4)]),
            ["ip.src a9fe0101 -> ac120002"]
        );
        let data = output(Side::Wire, |ip| ip.payload[20] ^= 1);
        let found = differences(vec![plain()], vec![data]);
        assert!(found[0].starts_with("payload [20..] "), "{found:?}");
    }
}
