//! Rules as text, for people: `Allow TCP from app == 'web' to ports 80, http`.

use std::fmt::{self, Write as _};

use super::rule::{Families, IcmpMatch, Matches, Ports, Rule, Side};

/// A rule as one line.
pub struct Described<'r>(pub &'r Rule);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Matches {
            families,
            protocol,
            not_protocol,
            icmp,
            not_icmp,
            src,
            dst,
        } = &self.0.matches;
        f.write_str(self.0.action.as_str())?;
        match families {
            Families::Any => {}
            Families::Only(family) => write!(f, " {family}")?,
            Families::Never => f.write_str(" nothing")?,
        }
        if let Some(protocol) = protocol {
            write!(f, " {protocol}")?;
        }
        if let Some(protocol) = not_protocol {
            write!(f, " not {protocol}")?;
        }
        if let Some(icmp) = icmp {
            write!(f, " {}", Icmp(*icmp))?;
        }
        if let Some(icmp) = not_icmp {
            write!(f, " not {}", Icmp(*icmp))?;
        }
        for (word, side) in [("from", src), ("to", dst)] {
            let conditions = conditions(side);
            if !conditions.is_empty() {
                write!(f, " {word} {}", conditions.join(" and "))?;
            }
        }
        Ok(())
    }
}

struct Icmp(IcmpMatch);

impl fmt::Display for Icmp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "type {}", self.0.kind)?;
        match self.0.code {
            Some(code) => write!(f, " code {code}"),
            None => Ok(()),
        }
    }
}

fn conditions(side: &Side) -> Vec<String> {
    let mut all = Vec::new();
    all.extend(side.ip_sets.iter().map(ToString::to_string));
    all.extend(side.not_ip_sets.iter().map(|id| format!("not {id}")));
    match side.nets.as_deref() {
        None => {}
        Some([]) => all.push("nothing".to_owned()),
        Some(nets) => all.push(joined(nets)),
    }
    if !side.not_nets.is_empty() {
        all.push(format!("not {}", joined(&side.not_nets)));
    }
    if let Some(described) = &side.ports {
        all.push(ports(described));
    }
    if let Some(described) = &side.not_ports {
        all.push(format!("not {}", ports(described)));
    }
    all.extend(side.ip_port_sets.iter().map(|id| format!("service {id}")));
    all
}

fn ports(ports: &Ports) -> String {
    let numbers = ports.ranges.iter().map(ToString::to_string);
    let names = ports.named.iter().map(|id| {
        // The selector behind the name is that of the side.
        let id = id.to_string();
        id.split_once(" of ")
            .map_or(id.clone(), |(name, _)| name.to_owned())
    });
    let all: Vec<String> = numbers.chain(names).collect();
    let mut text = String::from(if all.len() == 1 { "port " } else { "ports " });
    let _ = write!(
        text,
        "{}",
        if all.is_empty() {
            "(none)".to_owned()
        } else {
            all.join(", ")
        }
    );
    text
}

fn joined<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(", ")
}
