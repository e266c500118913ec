//! `caracal config show`: what the next start would have, and where each setting is written.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::super::table::{Align, Table};
use super::super::{Cli, Exit, Output, ask, output};
use crate::config::daemon::UpdateSource;
use crate::config::effective::{Setting, of_daemon, of_resources};
use crate::config::{Cluster, DaemonConfig, Diagnostics, Source, load_paths, read};
use crate::node::DEFAULT_CONFIG;

/// Arguments of `caracal config show`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Settings that no file gives, too: all that is in force.
    #[arg(long)]
    effective: bool,
    /// The daemon's own file [default: /etc/caracal/caracal.yaml].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// File or directory of resources, instead of the directory that the file names; `-`: standard input; may be repeated.
    #[arg(short, long = "filename", value_name = "FILE|DIR")]
    filename: Vec<PathBuf>,
    /// The node that it is about, instead of the one that the file names.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

pub(super) fn run(args: &Args, cli: &Cli) -> Exit {
    match settings(args) {
        Ok((node, mut settings)) => {
            settings.retain(|it| it.given.is_some() || (args.effective && it.has_effect));
            let text = match cli.output {
                Output::Json => to_json(&node, args.effective, &settings),
                Output::Table | Output::Wide => to_text(&settings),
            };
            output::print(&text, Exit::Ok)
        }
        Err(errors) => {
            output::remark(&errors.render(cli.color_stderr()));
            Exit::Invalid
        }
    }
}

/// The node's name, and its settings.
fn settings(args: &Args) -> Result<(String, Vec<Setting>), Diagnostics> {
    let path = args.config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG));
    // Resources may be looked at where there is no daemon.
    let is_absent = args.config.is_none() && !args.filename.is_empty() && !path.exists();
    let text = if is_absent {
        Source::new(path, "")
    } else {
        read(path).map_err(|error| Diagnostics(vec![*error]))?
    };
    let config = DaemonConfig::parse(&text)?;
    let node = match &args.node {
        Some(node) => node.clone(),
        None => config.node_name_or_host().unwrap_or_default(),
    };
    let mut all = of_daemon(&text, &config, &node);
    if args.filename.is_empty() && config.source == UpdateSource::Felix {
        output::remark(
            "note: Calico's settings come from Felix, by its own precedence: they are in no file of the daemon's\n",
        );
        return Ok((node, all));
    }
    let cluster: Cluster = if args.filename.is_empty() {
        load_paths(&[config.resources])?
    } else {
        load_paths(&args.filename)?
    };
    all.extend(of_resources(&cluster, &node));
    Ok((node, all))
}

fn to_json(node: &str, effective: bool, settings: &[Setting]) -> String {
    let one = |it: &Setting| {
        let given = it.given.as_ref();
        let (line, column) = given.map(|it| it.at.line_and_column()).unzip();
        json!({
            "of": it.of,
            "setting": it.name,
            "value": it.value,
            "hasEffect": it.has_effect,
            "resource": given.and_then(|it| it.resource.as_ref()),
            "file": given.map(|it| it.at.source.path.display().to_string()),
            "line": line,
            "column": column,
        })
    };
    let all: Vec<Value> = settings.iter().map(one).collect();
    let answer = json!({ "node": node, "effective": effective, "settings": all });
    ask::to_json("caracal.config/v1", &answer)
}

fn to_text(settings: &[Setting]) -> String {
    let columns = ["OF", "SETTING", "VALUE", "SOURCE"].map(|name| (name, Align::Left));
    let mut table = Table::new(&columns);
    for it in settings {
        let idle = if it.has_effect { "" } else { " (no effect)" };
        table.push(&[
            it.of.to_owned(),
            it.name.to_owned(),
            in_words(&it.value),
            format!("{}{idle}", source(it)),
        ]);
    }
    table.to_string()
}

/// Where it is from.
fn source(setting: &Setting) -> String {
    let Some(given) = &setting.given else {
        return "default".to_owned();
    };
    let (line, _) = given.at.line_and_column();
    let place = format!("{}:{line}", given.at.source.path.display());
    match &given.resource {
        Some(resource) => format!("{resource}, {place}"),
        None => place,
    }
}

fn in_words(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(all) if all.is_empty() => "none".to_owned(),
        Value::Array(all) => all.iter().map(in_words).collect::<Vec<_>>().join(", "),
        // An uplink.
        Value::Object(members) => {
            let part = |name: &str| members.get(name).map(in_words).unwrap_or_default();
            let queues = match part("queues").as_str() {
                "-" => "all queues".to_owned(),
                queues => format!("queues {queues}"),
            };
            format!("{} ({}, {queues})", part("interface"), part("mode"))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::golden;
    use super::*;
    use crate::config::load_sources;

    const DAEMON: &str = "# Ours.\nnodeName: worker1\nuplinks:\n  - {interface: ens1f0, mode: zero-copy}\n  - {interface: ens1f1, queues: 4}\n\
                          pollers:\n  cores: [2, 3]\nconnections:\n  entries: 65536\n";
    const FELIX: &str = "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec:\n  vxlanPort: 4790\n  \
                         vxlanVNI: 5000\n  ipv6Support: false\n---\napiVersion: projectcalico.org/v3\nkind: FelixConfiguration\n\
                         metadata: {name: node.worker1}\nspec:\n  vxlanPort: 4791\n  bpfConntrackTimeouts: {tcpEstablished: 1h, udpTimeout: Auto}\n";

    fn settings() -> Vec<Setting> {
        let text = Source::new("/etc/caracal/caracal.yaml", DAEMON);
        let config = DaemonConfig::parse(&text).unwrap();
        let felix = Source::new("/etc/caracal/conf.d/felix.yaml", FELIX);
        let cluster = load_sources(&[felix]).unwrap();
        let mut all = of_daemon(&text, &config, "worker1");
        all.extend(of_resources(&cluster, "worker1"));
        all
    }

    #[test]
    fn for_people_and_for_programs() {
        let mut all = settings();
        let kept: Vec<_> = all
            .iter()
            .filter(|it| it.given.is_some() || it.has_effect)
            .cloned()
            .collect();
        golden::check("config-effective.txt", &to_text(&kept));
        all.retain(|it| it.given.is_some());
        golden::check("config.txt", &to_text(&all));
        golden::check("config.json", &to_json("worker1", false, &all));
    }
}
