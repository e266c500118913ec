//! A file of tests, in either form, to a suite.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::parties::{Directory, End, Refusal, Who, fitting};
use super::table::{self, Row, Table};
use super::{Check, Group, Suite, calculated};
use crate::config::check::endpoints_are_unique;
use crate::config::decode::Context;
use crate::config::source::{Located, Source, Span};
use crate::config::{Diagnostic, Diagnostics, read_all, read_given, yaml};
use crate::policy::calculate::calculate;
use crate::policy::legs::{Leg, Party, legs};
use crate::policy::model::Model;
use crate::policy::packet::Packet;
use crate::policy::resource::Reader;
use crate::policy::rule::Protocol;

impl Suite {
    /// Reads a file of tests, or standard input for `-`: the calculated form, or `PolicyTest` documents with or beside the
    /// resources that they are about.
    ///
    /// # Errors
    /// All that is wrong with it and with its resources.
    pub fn load(path: &Path) -> Result<Self, Diagnostics> {
        let source = read_given(path).map_err(|error| Diagnostics(vec![*error]))?;
        Self::parse(&source)
    }

    /// Reads a text. Relative paths in it count from the directory of the text's name.
    ///
    /// # Errors
    /// As [`Suite::load`].
    pub fn parse(source: &Arc<Source>) -> Result<Self, Diagnostics> {
        let mut findings = Diagnostics::default();
        let suite = Self::read(source, &mut findings);
        findings.sort();
        match suite {
            Some(suite) if !findings.has_errors() => Ok(Self {
                remarks: findings,
                ..suite
            }),
            _ => Err(findings),
        }
    }

    fn read(source: &Arc<Source>, findings: &mut Diagnostics) -> Option<Self> {
        let documents = yaml::parse(source)
            .map_err(|error| findings.push(*error))
            .ok()?;
        let whole = Span {
            source: Arc::clone(source),
            start: 0,
            len: 0,
        };
        let groups = match documents.as_slice() {
            [only] if calculated::is_calculated(only) => {
                let mut cx = Context {
                    diagnostics: findings,
                    resource: String::new(),
                };
                calculated::decode(only, &mut cx)
            }
            documents => from_resources(&source.path, documents, findings)?,
        };
        if groups.iter().all(|group| group.checks.is_empty()) && !findings.has_errors() {
            let error = Diagnostic::error("there are no tests here");
            findings.push(error.at(&whole, "expected a `kind: PolicyTest`, or `cases`"));
        }
        Some(Self {
            groups,
            remarks: Diagnostics::default(),
        })
    }
}

fn from_resources(
    path: &Path,
    documents: &[yaml::Node],
    findings: &mut Diagnostics,
) -> Option<Vec<Group>> {
    let beside = path.parent().unwrap_or(Path::new(""));
    let mut reader = Reader::default();
    let mut tables = Vec::new();
    for document in documents {
        if table::is_table(document) {
            let mut cx = Context {
                diagnostics: findings,
                resource: String::new(),
            };
            tables.extend(table::decode(document, beside, &mut cx));
        } else {
            reader.document(document, findings);
        }
    }
    let mut paths: Vec<PathBuf> = tables
        .iter()
        .flat_map(|table| table.resources.clone())
        .collect();
    paths.sort();
    paths.dedup();
    for source in read_all(&paths, findings) {
        // A directory may hold the file of tests itself.
        if is_same_file(&source.path, path) {
            continue;
        }
        let documents = yaml::documents(&source, findings);
        for document in documents
            .iter()
            .filter(|document| !table::is_table(document))
        {
            reader.document(document, findings);
        }
    }
    let resources = reader.finish(findings, endpoints_are_unique);
    // What is missing is not worth a word while documents are broken.
    if findings.has_errors() {
        return None;
    }
    let model = match calculate(&resources) {
        Ok((model, remarks)) => {
            findings.0.extend(remarks.0);
            model
        }
        Err(errors) => {
            findings.0.extend(errors.0);
            return None;
        }
    };
    let directory = Directory::new(&resources, &model);
    let mut groups = Vec::new();
    for table in tables {
        let mut checks = Vec::new();
        for row in &table.rows {
            match check(row, &table, &directory, &model) {
                Ok(check) => checks.push(check),
                Err(error) => findings.push(*error),
            }
        }
        groups.push(Group {
            name: table.name.clone(),
            model: model.clone(),
            checks,
        });
    }
    Some(groups)
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    one == other || real(one).is_some_and(|path| Some(path) == real(other))
}

fn check(
    row: &Row,
    table: &Table,
    directory: &Directory<'_>,
    model: &Model,
) -> Result<Check, Box<Diagnostic>> {
    let about = format!("PolicyTest {}", table.name);
    let refuse = |(message, label): Refusal, at: &Span| {
        Box::new(Diagnostic::error(message).at(at, label).about(about.trim()))
    };
    let end = |name: &Located<String>| {
        directory
            .end(&name.value)
            .map_err(|refusal| refuse(refusal, &name.at))
    };
    let (mut from, mut to) = (end(&row.from)?, end(&row.to)?);
    let wanted = table.node.as_ref().map(|node| node.value.as_str());
    settle_host(&mut from, &to, wanted, directory).map_err(|why| refuse(why, &row.from.at))?;
    settle_host(&mut to, &from, wanted, directory).map_err(|why| refuse(why, &row.to.at))?;
    let legs = way(&from, &to, row, wanted, directory, model).map_err(|refusal| {
        refuse(
            refusal,
            row.interface.as_ref().map_or(&row.from.at, |i| &i.at),
        )
    })?;
    let family = row.family.as_ref().map(|family| family.value);
    let family = family.or(match row.protocol {
        Protocol::ICMP => Some(crate::policy::rule::Family::V4),
        Protocol::ICMPV6 => Some(crate::policy::rule::Family::V6),
        _ => None,
    });
    let Some((src, dst)) = fitting(&from.addresses, &to.addresses, family) else {
        let (without, label) = match [&from, &to].map(|end| end.addresses.is_empty()) {
            [true, _] => (&row.from, HOST_ADDRESSES.to_owned()),
            [_, true] => (&row.to, HOST_ADDRESSES.to_owned()),
            [false, false] => (&row.to, format!("only {}", joined(&to.addresses))),
        };
        let message = match family {
            None => format!(
                "{} and {} have no addresses of one family",
                row.from.value, row.to.value
            ),
            Some(family) => {
                let (from, to) = (&row.from.value, &row.to.value);
                format!("{from} and {to} do not both have an {family} address")
            }
        };
        return Err(refuse((message, label), &without.at));
    };
    let has_ports = row.protocol.has_ports();
    let to_port = row.port.unwrap_or(0);
    let is_icmp = [Protocol::ICMP, Protocol::ICMPV6].contains(&row.protocol);
    let original = row
        .original_dst
        .map(|(address, port)| (address, port.unwrap_or(to_port)));
    let packet = Packet {
        src,
        dst,
        protocol: row.protocol,
        ports: has_ports.then_some((row.source_port, to_port)),
        icmp: is_icmp.then_some(row.icmp),
        original_dst: original,
        state: row.state,
    };
    let mut way = format!("{} -> {} {}", row.from.value, row.to.value, row.protocol);
    if let Some(port) = row.port {
        way = format!("{way} {port}");
    }
    Ok(Check {
        name: row.name.clone().unwrap_or_default(),
        way,
        packet,
        legs,
        expected: row.expected,
        decided_by: row.decided_by.clone(),
        at: row.at.at.clone(),
    })
}

const HOST_ADDRESSES: &str = "a host's addresses come from its Node or HostEndpoint";

fn joined(addresses: &[std::net::IpAddr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    addresses.join(", ")
}

/// `host` is the node that the tests are for, or the other end's, or the only one.
fn settle_host(
    end: &mut End,
    other: &End,
    wanted: Option<&str>,
    directory: &Directory<'_>,
) -> Result<(), Refusal> {
    if end.who != Who::Host(None) {
        return Ok(());
    }
    let node = wanted
        .or_else(|| other.who.node())
        .or_else(|| directory.only_node());
    let Some(node) = node else {
        let label = "write `host:NODE`, or give spec.node".to_owned();
        return Err(("which node's host?".to_owned(), label));
    };
    end.addresses = directory.addresses_of(node).to_vec();
    end.who = Who::Host(Some(node.to_owned()));
    Ok(())
}

/// All legs between two ends, on the node of one and then on that of the other.
fn way(
    from: &End,
    to: &End,
    row: &Row,
    wanted: Option<&str>,
    directory: &Directory<'_>,
    model: &Model,
) -> Result<Vec<Leg>, Refusal> {
    let interface = row
        .interface
        .as_ref()
        .map(|interface| interface.value.as_str());
    let party = |end: &End| match &end.who {
        Who::Workload { id, .. } => Some(Party::Workload(id.clone())),
        Who::Host(node) => Some(Party::Host(node.clone().unwrap_or_default())),
        Who::Outside => None,
    };
    match (party(from), party(to)) {
        (Some(near), Some(far)) => {
            let (here, there) = (from.who.node().unwrap_or(""), to.who.node().unwrap_or(""));
            if here == there {
                return Ok(legs(model, &near, &far));
            }
            let is_pod = |end: &End| matches!(end.who, Who::Workload { .. });
            let between = |node| {
                if is_pod(from) && is_pod(to) {
                    Ok(directory.between_pods(node, interface))
                } else {
                    directory.outside(node, interface)
                }
            };
            let mut way = legs(model, &near, &between(here)?);
            way.extend(legs(model, &between(there)?, &far));
            Ok(way)
        }
        (Some(near), None) => {
            let out = directory.outside(from.who.node().unwrap_or(""), interface)?;
            Ok(legs(model, &near, &out))
        }
        (None, Some(near)) => {
            let out = directory.outside(to.who.node().unwrap_or(""), interface)?;
            Ok(legs(model, &out, &near))
        }
        (None, None) => {
            let node = wanted.or_else(|| directory.only_node());
            let Some(node) = node else {
                let label = "give spec.node".to_owned();
                return Err(("which node forwards this?".to_owned(), label));
            };
            let out = directory.outside(node, interface)?;
            Ok(legs(model, &out, &out))
        }
    }
}
