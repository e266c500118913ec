//! `caracal demo`: two nodes, a router and a server in network namespaces of their own, Caracal on both nodes, and
//! conversations between ordinary sockets that show, check and prove what it does.
//!
//! - [`plan`], [`scenario`]: who is where, and what is tried (pure);
//! - [`topology`], [`kernel_node`]: the commands that build it (text), [`lab`]: a lab's life;
//! - [`resources`], [`daemon`]: configuration and processes of Caracal, `live`: changes while they run;
//! - [`peer`]: clients and servers, [`wire`]: the look at the underlay;
//! - [`pairs`], [`checks`], [`snat`], [`services`], [`steps`]: who talks, what must hold, in which order; [`ask`]: what the daemons count;
//! - [`report`]: what came out.

pub mod args;
pub mod ask;
pub mod cancel;
pub mod checks;
pub mod daemon;
pub mod error;
pub mod ip;
pub mod kernel_node;
pub mod lab;
mod live;
pub mod netns;
pub mod pairs;
pub mod peer;
pub mod plan;
mod policy;
pub mod preflight;
pub mod progress;
pub mod report;
pub mod resources;
pub mod scenario;
pub mod services;
pub mod snat;
mod spoof;
pub mod steps;
pub mod topology;
pub mod wire;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

pub use args::DemoArgs;

use crate::cli::{Exit, Output, output};
use args::{Dataplane, DemoCommand};
use cancel::Cancel;
use error::{DemoError, Result};
use ip::Shell;
use lab::Lab;
use plan::{LabId, Node, PODS};
use progress::{Progress, tell};
use report::Report;
use scenario::{Family, Mode, Scenario};
use steps::Wishes;

/// Runs the command. Exit code 0 only when every check held.
pub fn run(args: &DemoArgs, output: Output) -> Exit {
    let wishes = wishes(args);
    if let Err(error) = steps::check(&wishes) {
        output::complain(&error);
        return Exit::Usage;
    }
    if !nix::unistd::geteuid().is_root() {
        return complain(&become_root());
    }
    if let Some(DemoCommand::Down { lab, verbose }) = &args.command {
        let shell = Shell { verbose: *verbose };
        return match lab::down(lab, shell) {
            Ok(true) => say(&format!("lab '{lab}' removed")),
            Ok(false) => say(&format!("there is no lab '{lab}'")),
            Err(error) => complain(&error),
        };
    }
    let started = Instant::now();
    let mut report = Report::new(match args.dataplane {
        Dataplane::Caracal => "caracal",
        Dataplane::Kernel => "kernel",
        Dataplane::None => "none",
    });
    let kept = demonstrate(args, &wishes, output, &mut report);
    let farewell = match kept {
        Ok(farewell) => farewell,
        Err(error) => {
            report.error = Some(error.to_string());
            None
        }
    };
    report.conclude(started.elapsed().as_secs_f64());
    let text = match output {
        Output::Json => report.json(),
        Output::Table | Output::Wide => report.summary_text(),
    };
    let mut said = say(&text);
    if let Some(farewell) = farewell {
        match output {
            Output::Json => tell(&farewell),
            Output::Table | Output::Wide if said == Exit::Ok => said = say(&farewell),
            Output::Table | Output::Wide => {}
        }
    }
    if report.ok { said } else { Exit::Failure }
}

/// What the command line asks for.
fn wishes(args: &DemoArgs) -> Wishes {
    Wishes {
        modes: if args.mode.is_empty() {
            Mode::ALL.to_vec()
        } else {
            Mode::ALL
                .into_iter()
                .filter(|mode| args.mode.contains(mode))
                .collect()
        },
        families: args
            .family
            .map_or(Family::ALL.to_vec(), |family| vec![family]),
        bytes: u64::from(args.size) << 20,
        dataplane: args.dataplane,
        steps: args.step.clone(),
    }
}

/// Builds the lab, goes through the steps, removes the lab or says how to enter it.
fn demonstrate(
    args: &DemoArgs,
    wishes: &Wishes,
    output: Output,
    report: &mut Report,
) -> Result<Option<String>> {
    let cancel = Cancel::on_signals()?;
    let shell = Shell {
        verbose: args.verbose,
    };
    preflight::tools(args.dataplane == Dataplane::Caracal)?;
    let mut progress = Progress::new(output);
    progress.note("building the lab: 2 nodes, 4 pods, a router, a server outside");
    let lab = Lab::build(args.lab.clone(), shell, args.offload)?;
    let ran = steps::run(&lab, wishes, &cancel, &mut progress);
    report.checks = progress.into_outcomes();
    let failed = ran.is_err()
        || report
            .checks
            .iter()
            .any(|c| c.status == report::Status::Fail);
    if failed && !matches!(ran, Err(DemoError::Cancelled)) {
        report.logs = save_logs(&lab);
    }
    ran?;
    if !args.keep {
        return Ok(None);
    }
    let scenario = wishes
        .modes
        .first()
        .and_then(|mode| Scenario::of(*mode).first());
    let Some(scenario) = scenario else {
        return Ok(None);
    };
    steps::leave_running(&lab, *scenario, args.dataplane, &cancel)?;
    let text = how_to_enter(lab.id(), lab.dir(), *scenario);
    lab.keep()?;
    Ok(Some(text))
}

/// Copies logs and configuration to a place that outlives the lab; `None` when that fails or there are none.
fn save_logs(lab: &Lab) -> Option<String> {
    let name = format!("caracal-demo-{}-{}", lab.id(), std::process::id());
    let target = std::env::temp_dir().join(name);
    let logs: Vec<_> = Node::ALL
        .iter()
        .map(|node| (node, daemon::Daemon::log_path(lab, *node)))
        .filter(|(_, log)| log.exists())
        .collect();
    if logs.is_empty() {
        return None;
    }
    // Fails when somebody else made it first: never follow a stranger's link as root.
    fs::create_dir(&target).ok()?;
    for (node, log) in logs {
        fs::copy(&log, target.join(format!("{}.log", node.name()))).ok()?;
        let config = lab.dir().join(node.name());
        let _ = copy_tree(&config, &target.join(node.name())); // the logs matter more
    }
    Some(target.display().to_string())
}

fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn how_to_enter(lab: &LabId, dir: &Path, scenario: Scenario) -> String {
    let mut lines = vec![
        String::new(),
        format!("The lab stands, in mode {}. Enter it:", scenario.label()),
    ];
    for pod in &PODS {
        let (v4, v6) = (pod.address(Family::Ipv4), pod.address(Family::Ipv6));
        lines.push(format!(
            "  pod {:<7} ip netns exec {:<24} bash    # {v4}, {v6}",
            pod.name,
            lab.netns(&pod.netns_part())
        ));
    }
    for node in Node::ALL {
        let v4 = node.address(Family::Ipv4, scenario.same_subnet);
        let v6 = node.address(Family::Ipv6, scenario.same_subnet);
        lines.push(format!(
            "  {:<11} ip netns exec {:<24} bash    # {v4}, {v6}",
            node.name(),
            lab.netns(node.name())
        ));
    }
    for part in ["router", "outside"] {
        let netns = lab.netns(part);
        lines.push(format!("  {part:<11} ip netns exec {netns:<24} bash"));
    }
    let (client, db) = (lab.netns(&plan::CLIENT.netns_part()), plan::DB);
    let (dir, router) = (dir.display(), lab.netns("router"));
    lines.extend([
        format!(
            "Try:     ip netns exec {client} ping {}",
            db.address(Family::Ipv4)
        ),
        format!("Ask:     caracal --socket {dir}/node1.sock status (or ports, drops, flows, observe -f …)"),
        format!("Watch:   ip netns exec {router} tcpdump -ni node1"),
        format!("Change:  {dir}/node1/conf.d/*.yaml"),
        format!("Logs:    {dir}/node1.log, {dir}/node2.log"),
        format!("Remove:  {}", lab::down_command(lab)),
    ]);
    lines.join("\n")
}

/// Runs the same command again as root, by sudo. Returns only when that fails.
fn become_root() -> DemoError {
    tell("caracal demo needs root for network namespaces and XDP: running itself again with sudo");
    let exe = match std::env::current_exe() {
        Ok(exe) => exe,
        Err(source) => return DemoError::io("finding our own program")(source),
    };
    let error = Command::new("sudo")
        .arg("--")
        .arg(exe)
        .args(std::env::args_os().skip(1))
        .exec();
    DemoError::Refused(format!(
        "cannot run sudo ({error}): run `caracal demo` as root"
    ))
}

/// Prints to standard output.
fn say(text: &str) -> Exit {
    output::print(&format!("{text}\n"), Exit::Ok)
}

fn complain(error: &DemoError) -> Exit {
    tell(&format!("caracal demo: {error}"));
    Exit::Failure
}
