//! What control pays for a change of one file among many: from the directory to tables.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use benches::cpu;
use benches::rounds::Result;
use benches::table::Table;
use control::compile::Compiler;
use control::config::{Diagnostics, Loader, compute};
use control::desired::Desired;
use fastpath::tables::Tables;

use super::{Kernel, compiler};

const POLICIES: usize = 10_000;
const ENDPOINTS: usize = 250;

fn policy(n: usize, port: usize) -> String {
    format!(
        "apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata:
  name: policy-{n}
  namespace: ns-{}
spec:
  order: {n}
  selector: app == 'app-{}'
  types: [Ingress, Egress]
  ingress:
  - action: Allow
    protocol: TCP
    source:
      selector: role == 'role-{}'
    destination:
      ports: [80, {port}]
  - action: Deny
    source:
      nets: [192.0.{}.0/24]
  egress:
  - action: Allow
    protocol: UDP
    destination:
      namespaceSelector: team == 'team-{}'
      ports: [53]
",
        n % 25,
        n % 125,
        n % 20,
        n % 256,
        n % 5
    )
}

fn endpoint(n: usize) -> String {
    format!(
        "apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata:
  name: pod-{n}
  namespace: ns-{}
  labels:
    app: app-{}
    role: role-{}
spec:
  node: node1
  interfaceName: cali{n}
  ipNetworks: [10.0.{}.{}/32]
  profiles: [kns.ns-{}]
",
        n % 25,
        n % 125,
        n % 20,
        n / 200,
        n % 200 + 1,
        n % 25
    )
}

fn rest() -> String {
    let mut text = String::from(
        "apiVersion: projectcalico.org/v3
kind: Node
metadata:
  name: node1
spec:
  bgp:
    ipv4Address: 192.168.1.1/24
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata:
  name: pool
spec:
  cidr: 10.0.0.0/16
",
    );
    for n in 0..25 {
        let _ = write!(
            text,
            "---
apiVersion: v1
kind: Namespace
metadata:
  name: ns-{n}
  labels:
    team: team-{}
",
            n % 5
        );
    }
    text
}

/// What is timed, as rows of the table.
const STEPS: [&str; 5] = [
    "all of it, the first time",
    "one policy changed: files to model",
    "one policy changed: model to tables",
    "one policy changed: together",
    "nothing changed: files to model",
];

/// Prints what one change costs where each policy has a file of its own, and where all have one.
pub(super) fn run(rounds: usize) -> Result<()> {
    let dir = std::env::temp_dir().join(format!("caracal-bench-{}", std::process::id()));
    let outcome = [true, false]
        .into_iter()
        .try_for_each(|each| measure(&dir, each, rounds));
    fs::remove_dir_all(&dir)?;
    outcome
}

/// Writes all policies but one, and returns where that one is.
fn write(dir: &Path, each_its_own: bool) -> Result<PathBuf> {
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir)?;
    fs::write(dir.join("rest.yaml"), rest())?;
    let join = |all: Vec<String>| all.join("---\n");
    fs::write(
        dir.join("pods.yaml"),
        join((0..ENDPOINTS).map(endpoint).collect()),
    )?;
    let others = (1..POLICIES).map(|n| (n, policy(n, 8080)));
    if each_its_own {
        for (n, text) in others {
            fs::write(dir.join(format!("policy-{n:05}.yaml")), text)?;
        }
    } else {
        fs::write(
            dir.join("policies.yaml"),
            join(others.map(|it| it.1).collect()),
        )?;
    }
    Ok(dir.join("policy-00000.yaml"))
}

fn measure(dir: &Path, each_its_own: bool, rounds: usize) -> Result<()> {
    let changing = write(dir, each_its_own)?;
    fs::write(&changing, policy(0, 1))?;
    // Until files' times are trusted they are read again.
    std::thread::sleep(Duration::from_secs(5));
    let mut times: [Vec<Duration>; 5] = Default::default();
    for round in 0..rounds {
        let mut loader = Loader::new(&[dir.to_path_buf()]);
        let mut compiler = compiler();
        let (model, first) = cpu::time(|| take(&mut loader));
        let (made, tables) = cpu::time(|| compile(&mut compiler, model?));
        let mut held = made?;
        times[0].push(first + tables);
        for change in 0..10 {
            fs::write(&changing, policy(0, 100 * (round + 1) + change))?;
            let (model, load) = cpu::time(|| take_changed(&mut loader, &changing));
            let (made, tables) = cpu::time(|| compile(&mut compiler, model?));
            // What pollers use is held until they have taken the next.
            held = made?;
            for (times, took) in times[1..].iter_mut().zip([load, tables, load + tables]) {
                times.push(took);
            }
            let (model, took) = cpu::time(|| take(&mut loader));
            times[4].push(took);
            drop(model?);
        }
        drop(held);
    }
    let files = if each_its_own {
        "a file each"
    } else {
        "one file but for one"
    };
    let mut table = Table::new(&[
        &format!("10,000 policies, {files}, 250 endpoints"),
        "ms, best",
        "ms, median",
    ]);
    for (step, times) in STEPS.into_iter().zip(&mut times) {
        times.sort_unstable();
        let millis = |time: &Duration| format!("{:.2}", time.as_secs_f64() * 1e3);
        table.row(vec![
            step.into(),
            millis(&times[0]),
            millis(&times[times.len() / 2]),
        ]);
    }
    println!("{table}");
    Ok(())
}

fn take(loader: &mut Loader) -> Result<Desired> {
    let cluster = loader.load()?;
    Ok(compute(&cluster, "node1").map_err(Diagnostics)?)
}

/// As the daemon does when it is told which file has changed.
fn take_changed(loader: &mut Loader, file: &Path) -> Result<Desired> {
    let names = file
        .file_name()
        .map(ToOwned::to_owned)
        .into_iter()
        .collect();
    let cluster = loader.load_changed(&names)?;
    Ok(compute(&cluster, "node1").map_err(Diagnostics)?)
}

fn compile(compiler: &mut Compiler, desired: Desired) -> Result<Tables> {
    // As the daemon does: what is the same is not compiled.
    if desired != *compiler.desired() {
        compiler.set_desired(desired, &Kernel)?;
    }
    Ok(compiler.tables(&Kernel))
}
