//! The demonstration, step by step.

use std::path::PathBuf;
use std::time::Instant;

use super::args::Dataplane;
use super::cancel::Cancel;
use super::checks::{Bench, took};
use super::daemon::Daemon;
use super::error::{DemoError, Result};
use super::lab::Lab;
use super::pairs::{INTEROP, OUTSIDE, PAIRS, Pair};
use super::plan::{CLIENT, DB, End, Node, WEB};
use super::policy::{self, Policy};
use super::report::{Figures, Outcome, Status, What};
use super::resources::Options;
use super::scenario::{Carriage, Family, Mode, Scenario};
use super::spoof;
use super::wire::Wire;
use super::{daemon, kernel_node, resources, services, snat};

/// What to show.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// Modes, in order.
    pub modes: Vec<Mode>,
    /// Families.
    pub families: Vec<Family>,
    /// Bytes of each TCP transfer, each way.
    pub bytes: u64,
    /// What forwards on the nodes.
    pub dataplane: Dataplane,
    /// Names of the only steps to show; empty: all.
    pub steps: Vec<String>,
}

/// One step of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// All conversations of a scenario.
    Show(Scenario),
    /// The dataplane is stopped, or killed: the same traffic must fail, and work again after a restart.
    Without(Scenario, Ending),
    /// Policies come and go.
    Policy(Scenario),
    /// natOutgoing is on.
    Snat(Scenario),
    /// Services, whose endpoints come and go.
    Services(Scenario),
    /// Node 2 is the kernel's.
    Interop(Scenario),
}

/// How the daemons end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// In order, by SIGTERM.
    Stopped,
    /// By SIGKILL.
    Killed,
}

impl Step {
    fn scenario(self) -> Scenario {
        match self {
            Self::Show(scenario)
            | Self::Without(scenario, _)
            | Self::Policy(scenario)
            | Self::Snat(scenario)
            | Self::Services(scenario)
            | Self::Interop(scenario) => scenario,
        }
    }

    fn name(self) -> String {
        match self {
            Self::Show(scenario) => scenario.label().to_owned(),
            Self::Without(_, Ending::Stopped) => "stopped".to_owned(),
            Self::Without(_, Ending::Killed) => "killed".to_owned(),
            Self::Policy(_) => "policy".to_owned(),
            Self::Snat(_) => "snat".to_owned(),
            Self::Services(_) => "services".to_owned(),
            Self::Interop(scenario) => format!("interop-{}", scenario.label()),
        }
    }

    fn title(self) -> String {
        let mode = self.scenario().label();
        match self {
            Self::Show(_) => format!("{mode}: all conversations"),
            Self::Without(_, Ending::Stopped) => {
                format!("{mode}: the dataplane stopped, and started again")
            }
            Self::Without(_, Ending::Killed) => {
                format!("{mode}: the daemons killed with SIGKILL, and started again")
            }
            Self::Policy(_) => format!("{mode}: policies, applied and withdrawn live"),
            Self::Snat(_) => format!("{mode}: natOutgoing, pods leave with the node's address"),
            Self::Services(_) => format!("{mode}: services, and endpoints that go"),
            Self::Interop(_) => format!("{mode}: node2 on the kernel's own routing and devices"),
        }
    }

    fn options(self) -> Options {
        match self {
            Self::Snat(_) => snat::OPTIONS,
            Self::Services(_) => services::OPTIONS,
            _ => Options::default(),
        }
    }
}

/// Says which of the wanted steps there are not, and which there are.
///
/// # Errors
/// One sentence for the user.
pub fn check(wishes: &Wishes) -> std::result::Result<(), String> {
    let known: Vec<String> = all(wishes).into_iter().map(Step::name).collect();
    let mut unknown = wishes.steps.iter().filter(|name| !known.contains(name));
    match unknown.next() {
        None => Ok(()),
        Some(name) => Err(format!(
            "no step {name:?} of these modes: {}",
            known.join(", ")
        )),
    }
}

fn plan(wishes: &Wishes) -> Vec<Step> {
    let mut steps = all(wishes);
    steps.retain(|step| wishes.steps.is_empty() || wishes.steps.contains(&step.name()));
    steps
}

/// The steps of the modes that are wanted.
fn all(wishes: &Wishes) -> Vec<Step> {
    let mut steps = Vec::new();
    for mode in &wishes.modes {
        steps.extend(Scenario::of(*mode).iter().copied().map(Step::Show));
    }
    if let Some(Step::Show(first)) = steps.first().copied() {
        let proofs = [Ending::Stopped, Ending::Killed].map(|how| Step::Without(first, how));
        // After the conversations that they judge, on the same lab.
        let more: &[Step] = match wishes.dataplane {
            Dataplane::Caracal => &[
                Step::Policy(first),
                proofs[0],
                proofs[1],
                Step::Snat(first),
                Step::Services(first),
            ],
            // Services are kube-proxy's there.
            Dataplane::Kernel => &[Step::Snat(first)],
            Dataplane::None => &[],
        };
        steps.splice(1..1, more.iter().copied());
    }
    if wishes.dataplane == Dataplane::Caracal {
        for mode in [Mode::Vxlan, Mode::Ipip] {
            if wishes.modes.contains(&mode) {
                steps.extend(Scenario::of(mode).iter().copied().map(Step::Interop));
            }
        }
    }
    steps
}

/// What is told while the demonstration runs.
pub trait Audience {
    /// A step begins.
    fn step(&mut self, number: usize, of: usize, title: &str);
    /// A conversation begins.
    fn conversation(&mut self, family: Family, pair: &Pair);
    /// Results of one conversation, or of one event of the step.
    fn results(&mut self, outcomes: Vec<Outcome>);
}

/// Goes through all steps. A dataplane that does not start is a failed check, and the next step goes on.
///
/// # Errors
/// When the lab itself fails, or the user wants to stop.
pub fn run(lab: &Lab, wishes: &Wishes, cancel: &Cancel, audience: &mut dyn Audience) -> Result<()> {
    let wire = Wire::watch(lab.id(), lab.shell())?;
    let steps = plan(wishes);
    for (index, step) in steps.iter().enumerate() {
        audience.step(index + 1, steps.len(), &step.title());
        let mut bench = Bench {
            lab,
            wire: &wire,
            step: step.name(),
            scenario: step.scenario(),
            bytes: wishes.bytes,
            nat_outgoing: step.options().nat_outgoing,
            cancel,
        };
        if let Some(reason) = skipped(lab, *step, wishes.dataplane) {
            let mut outcome = bench.outcome(What::Start, Ok(Figures::default()));
            outcome.status = Status::Skipped;
            outcome.reason = Some(reason);
            audience.results(vec![outcome]);
            continue;
        }
        lab.set_scenario(step.scenario())?;
        let mut nodes = Nodes::new(lab, step.scenario(), wishes.dataplane, *step);
        let played = nodes
            .start(cancel)
            .map(|figures| bench.outcome(What::Start, Ok(figures)))
            .and_then(|started| {
                audience.results(vec![started]);
                play(*step, &mut bench, &mut nodes, wishes, audience)
            });
        let ended = nodes.stop();
        // A daemon that did not start has nothing more to say at the end.
        let (what, result) = match played {
            Ok(()) => (What::Stop, ended),
            failed => (What::Start, failed),
        };
        match result {
            Ok(()) => {}
            Err(DemoError::Daemon(why)) => audience.results(vec![bench.outcome(what, Err(why))]),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Why a step cannot be tried here.
fn skipped(lab: &Lab, step: Step, dataplane: Dataplane) -> Option<String> {
    if matches!(step, Step::Snat(_)) && dataplane == Dataplane::Kernel && !lab.machine().kernel_nat
    {
        return Some(
            "this kernel has no masquerading to compare with, or `nft` is not installed".to_owned(),
        );
    }
    let needs_kernel = matches!(step, Step::Interop(_)) || dataplane == Dataplane::Kernel;
    let ipip = step.scenario().mode == Mode::Ipip;
    (needs_kernel && ipip && !lab.machine().kernel_ipip)
        .then(|| "this kernel has no IPIP device to compare with (modprobe ipip)".to_owned())
}

fn play(
    step: Step,
    bench: &mut Bench<'_>,
    nodes: &mut Nodes<'_>,
    wishes: &Wishes,
    audience: &mut dyn Audience,
) -> Result<()> {
    match step {
        Step::Show(_) => converse(bench, &PAIRS, &wishes.families, audience)?,
        Step::Interop(scenario) => {
            // Where the families differ, the plain one has nothing to prove against the kernel.
            let families: Vec<Family> = wishes
                .families
                .iter()
                .copied()
                .filter(|family| scenario.carriage(*family) != Carriage::Plain)
                .collect();
            converse(bench, &INTEROP, &families, audience)?;
        }
        Step::Policy(_) => policies(bench, wishes, audience)?,
        Step::Snat(_) => {
            let ours = wishes.dataplane == Dataplane::Caracal;
            snat::play(bench, &wishes.families, ours, audience)?;
        }
        Step::Services(_) => services::play(bench, &wishes.families, audience)?,
        Step::Without(_, how) => {
            // The control of the control: it flows now.
            flows(bench, wishes, None, audience)?;
            nodes.end(how)?;
            for outcome in bench.blocked(&PAIRS, &wishes.families)? {
                audience.results(vec![outcome]);
            }
            let restart = Instant::now();
            let started = nodes.start(bench.cancel)?;
            flows(bench, wishes, Some(restart), audience)?;
            audience.results(vec![bench.outcome(What::Start, Ok(started))]);
        }
    }
    Ok(())
}

fn converse(
    bench: &Bench<'_>,
    pairs: &[Pair],
    families: &[Family],
    audience: &mut dyn Audience,
) -> Result<()> {
    for family in families {
        for pair in pairs {
            audience.conversation(*family, pair);
            audience.results(bench.converse(pair, *family)?);
        }
    }
    Ok(())
}

/// Whether host endpoints can be enforced on the host's own traffic here: that takes nft, as masquerading does.
fn has_host_table(lab: &Lab) -> bool {
    lab.machine().kernel_nat
}

/// Policies about `web`: a staged one changes nothing, and a trace says what it would do; one that lets only `db` in blocks
/// `client`, and says so; one that lets nothing out leaves the host's probes answered; one of a host endpoint keeps the outside away
/// from `web` and from the host itself, but for its failsafe ports, and from nobody else. Then a pod that spoofs.
fn policies(bench: &Bench<'_>, wishes: &Wishes, audience: &mut dyn Audience) -> Result<()> {
    let from_db = Pair {
        name: "allowed pod to pod",
        from: End::Pod(DB),
        to: End::Pod(WEB),
    };
    let back = Pair {
        name: "silent pod to pod",
        from: End::Pod(WEB),
        to: End::Pod(CLIENT),
    };
    let (from_client, from_host) = (PAIRS[0], PAIRS[3]);
    let flows = |pair: &Pair, audience: &mut dyn Audience| -> Result<()> {
        for family in &wishes.families {
            audience.conversation(*family, pair);
            audience.results(bench.flows(pair, *family, None)?);
        }
        Ok(())
    };
    let (lab, cancel) = (bench.lab, bench.cancel);
    Policy::Staged.apply(lab, cancel)?;
    flows(&from_client, audience)?;
    let named = |what, said: Vec<String>, policy: Policy| {
        let told = if said.iter().any(|it| it.contains(policy.name())) {
            Ok(Figures::default())
        } else {
            Err(format!("{} is not named, but {said:?}", policy.name()))
        };
        vec![bench.outcome(what, told)]
    };
    for family in &wishes.families {
        let (client, web) = (CLIENT.address(*family), WEB.address(*family));
        let said = policy::trace(lab, Node::One, client, web)?.staged;
        audience.results(named(What::Staged, said, Policy::Staged));
    }
    Policy::Staged.withdraw(lab, cancel)?;

    Policy::OnlyDb.apply(lab, cancel)?;
    audience.results(bench.blocked(&[from_client], &wishes.families)?);
    let rules = policy::drops(lab, Node::One)?.rules;
    let said = rules.into_iter().map(|rule| rule.rule).collect();
    audience.results(named(What::Named, said, Policy::OnlyDb));
    flows(&from_db, audience)?;
    flows(&from_host, audience)?;
    Policy::OnlyDb.withdraw(lab, cancel)?;

    Policy::Silence.apply(lab, cancel)?;
    audience.results(bench.blocked(&[back], &wishes.families)?);
    flows(&from_host, audience)?;
    Policy::Silence.withdraw(lab, cancel)?;
    flows(&back, audience)?;

    let [to_web, to_client, to_host] = OUTSIDE;
    let has_table = has_host_table(lab);
    let closed = if has_table {
        vec![to_web, to_host]
    } else {
        vec![to_web]
    };
    for pair in &closed {
        flows(pair, audience)?;
    }
    Policy::Edge.apply(lab, cancel)?;
    audience.results(bench.blocked(&closed, &wishes.families)?);
    let rules = policy::drops(lab, Node::One)?.rules;
    let rules = rules.into_iter().map(|rule| rule.rule);
    let (in_kernel, by_pollers): (Vec<_>, Vec<_>) =
        rules.partition(|rule| rule.ends_with(policy::IN_KERNEL));
    audience.results(named(What::Named, by_pollers, Policy::Edge));
    if has_table {
        audience.results(named(What::Named, in_kernel, Policy::Edge));
        audience.results(bench.opens(&to_host, policy::FAILSAFE_PORT, &wishes.families)?);
    } else {
        let mut outcome = bench.outcome(What::Blocked, Ok(Figures::default()));
        outcome.status = Status::Skipped;
        let reason = "what a host endpoint says about the host itself needs the program nft";
        outcome.reason = Some(reason.to_owned());
        audience.results(vec![outcome]);
    }
    for family in &wishes.families {
        let outside = End::Outside.address(*family, bench.scenario);
        for pair in &closed {
            let to = pair.to.address(*family, bench.scenario);
            let steps = policy::trace(lab, Node::One, outside, to)?.steps;
            let said = steps.into_iter().map(|step| step.said).collect();
            audience.results(named(What::Named, said, Policy::Edge));
        }
    }
    flows(&to_client, audience)?;
    Policy::Edge.withdraw(lab, cancel)?;
    flows(&to_web, audience)?;

    for family in &wishes.families {
        audience.results(vec![spoof::check(bench, *family)?]);
    }
    Ok(())
}

/// Looks at the conversations across nodes and to outside, in short.
fn flows(
    bench: &Bench<'_>,
    wishes: &Wishes,
    mut restart: Option<Instant>,
    audience: &mut dyn Audience,
) -> Result<()> {
    for family in &wishes.families {
        for pair in [&PAIRS[1], &PAIRS[5]] {
            audience.conversation(*family, pair);
            // Only of the first is the time until it flows again the dataplane's.
            audience.results(bench.flows(pair, *family, restart.take())?);
        }
    }
    Ok(())
}

/// The dataplanes of both nodes.
struct Nodes<'a> {
    lab: &'a Lab,
    scenario: Scenario,
    options: Options,
    dataplane: [Dataplane; 2],
    daemons: Vec<Daemon>,
    kernel: Vec<Node>,
}

impl<'a> Nodes<'a> {
    fn new(lab: &'a Lab, scenario: Scenario, dataplane: Dataplane, step: Step) -> Self {
        let second = match step {
            Step::Interop(_) => Dataplane::Kernel,
            Step::Show(_)
            | Step::Without(..)
            | Step::Policy(_)
            | Step::Snat(_)
            | Step::Services(_) => dataplane,
        };
        Self {
            lab,
            scenario,
            options: Options {
                forwarded_only: !has_host_table(lab),
                ..step.options()
            },
            dataplane: [dataplane, second],
            daemons: Vec::new(),
            kernel: Vec::new(),
        }
    }

    /// Starts both and waits until they are ready.
    fn start(&mut self, cancel: &Cancel) -> Result<Figures> {
        let started = Instant::now();
        for (node, dataplane) in Node::ALL.into_iter().zip(self.dataplane) {
            match dataplane {
                Dataplane::Caracal => {
                    resources::clear(self.lab, node)?;
                    let config: PathBuf =
                        resources::write(self.lab, node, self.scenario, &self.options)?;
                    self.daemons.push(Daemon::start(self.lab, node, &config)?);
                }
                Dataplane::Kernel => {
                    self.kernel.push(node);
                    let (shell, nat) = (self.lab.shell(), self.options.nat_outgoing);
                    kernel_node::install(shell, self.lab.id(), node, self.scenario, nat)?;
                }
                Dataplane::None => {}
            }
        }
        for daemon in &mut self.daemons {
            daemon.wait_ready(cancel)?;
        }
        Ok(took(started))
    }

    /// Ends the daemons.
    fn end(&mut self, how: Ending) -> Result<()> {
        let mut result = Ok(());
        for daemon in self.daemons.drain(..) {
            match how {
                Ending::Stopped => result = daemon.stop().and(result),
                Ending::Killed => daemon.crash(),
            }
        }
        result
    }

    /// Ends both dataplanes; says if a daemon ended by itself before, or with an error.
    fn stop(mut self) -> Result<()> {
        let early = self.daemons.iter_mut().find_map(Daemon::ended_early);
        let stopped = self.end(Ending::Stopped);
        for (node, dataplane) in Node::ALL.into_iter().zip(self.dataplane) {
            // Pods stay closed behind a daemon that ended; the next step may do without one.
            if matches!(dataplane, Dataplane::Caracal) {
                let socket = resources::control_socket(self.lab.dir(), node);
                daemon::cleanup(&self.lab.netns(End::Host(node)), &socket)?;
            }
        }
        for node in &self.kernel {
            let nat = self.options.nat_outgoing;
            kernel_node::remove(self.lab.shell(), self.lab.id(), *node, nat)?;
        }
        early.map_or(stopped, Err)
    }
}

/// Starts the daemons in `scenario` and leaves them running.
///
/// # Errors
/// When one does not start.
pub fn leave_running(
    lab: &Lab,
    scenario: Scenario,
    dataplane: Dataplane,
    cancel: &Cancel,
) -> Result<()> {
    lab.set_scenario(scenario)?;
    let mut nodes = Nodes::new(lab, scenario, dataplane, Step::Show(scenario));
    nodes.start(cancel)?;
    nodes.daemons.drain(..).for_each(Daemon::leave);
    Ok(())
}

#[cfg(test)]
mod tests;
