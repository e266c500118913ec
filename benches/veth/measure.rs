//! Turns of packets, and what they cost.
//!
//! The generator never has more than [`WINDOW`] packets under way: it sends a batch, waits until the sink
//! has counted enough, and goes on. So nothing is lost, nobody works for packets that are dropped later,
//! and the rate is what the slowest part can do.
//!
//! **One core.** Generator, node and sink share one core and take turns on it. The processor time of a turn
//! is the generator's while it sends (which includes all softirqs that its sends set off: the way through
//! the veths, the kernel as a node, the sink), plus that of the node's threads, plus ksoftirqd's; the
//! generator's waiting is left out. The same for the generator straight into the sink is what is not the
//! node's; the difference is the node's own time, which includes its receiving and its sending on a veth.
//! Since it is processor time, other work on the machine disturbs it little. Packets a second are those of a
//! second of this processor time: on one quiet core that is the rate. A node that spins on the shared core
//! pays for its spinning: let it sleep when there is nothing to do.
//!
//! **Two cores.** The generator and the receive softirq of the node's n0 on the first core; the node, and
//! the sink's softirqs that it sets off, on the second. A node in the kernel gets the second core by RPS on
//! n0. The figure is packets a second of wall time: what two cores forward, and only on a quiet machine.

use std::time::{Duration, Instant};

use benches::cpu;
use benches::process::shell;
use benches::rounds::Result;

use crate::lab::Lab;
use crate::nodes::Running;

/// Packets under way at most: fewer than the kernel's backlog (1000) and the bare forwarder's rings (512).
const WINDOW: u64 = 384;
/// Packets sent at once.
const BATCH: u32 = 64;
/// Packets of a turn that do not count. A slow node's turn takes seconds, after which Caracal's began with some 9 ms of loads from its tables, by sampling:
/// what a virtual machine has not touched for so long is cold.
const WARM_UP: u64 = 30_000;
/// After this long without a packet at the sink, those under way are lost; this time does not count.
const LOST: Duration = Duration::from_millis(200);

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) packets: u64,
    /// The node's core.
    pub(crate) last_core: usize,
}

/// Who runs where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cores {
    /// All on the last core.
    One,
    /// The generator on the first core, the node on the last.
    Two,
}

/// One node's rounds.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) name: String,
    /// Wall time a packet, in nanoseconds, round by round.
    pub(crate) wall: Vec<f64>,
    /// Processor time a packet of generator, node and sink together, in nanoseconds, round by round.
    pub(crate) busy: Vec<f64>,
    /// Packets that did not arrive.
    pub(crate) lost: u64,
}

/// Runs all labs in turn, `plan.rounds` times after one round to warm up.
pub(crate) fn take_turns(
    labs: &mut [Lab],
    size: u16,
    cores: Cores,
    plan: &Plan,
) -> Result<Vec<Measured>> {
    let last = plan.last_core;
    if cores == Cores::Two && last == 0 {
        return Err("two cores are needed for --cores two".into());
    }
    let first = if cores == Cores::Two { 0 } else { last };
    cpu::pin_to(first)?;
    for lab in labs.iter_mut() {
        lab.generator.set_len(size);
        place(lab, cores, last)?;
    }
    let mut all: Vec<Measured> = labs
        .iter()
        .map(|lab| Measured {
            name: lab.name.clone(),
            wall: Vec::new(),
            busy: Vec::new(),
            lost: 0,
        })
        .collect();
    let softirq = ksoftirqd(last);
    for round in 0..=plan.rounds {
        for (lab, measured) in labs.iter_mut().zip(&mut all) {
            turn(lab, WARM_UP, cores, softirq)?;
            if round == 0 {
                prime(lab)?;
            }
            let turn = turn(lab, plan.packets, cores, softirq)?;
            if round > 0 {
                measured
                    .wall
                    .push(turn.wall.as_nanos() as f64 / turn.arrived as f64);
                measured
                    .busy
                    .push(turn.busy.as_nanos() as f64 / turn.arrived as f64);
                measured.lost += turn.lost;
            }
        }
    }
    Ok(all)
}

/// Sends what a node has before all flows are treated alike, no faster than one pod may have sent to the pollers.
fn prime(lab: &mut Lab) -> Result<()> {
    /// Packets a second; with flows in the kernel a pod has 100,000 misses.
    const PACE: u64 = 80_000;
    let pause = Duration::from_nanos(1_000_000_000 / PACE * u64::from(BATCH));
    // A send that takes none is one of them, so there is an end; and who is late does not hurry.
    for _ in 0..lab.first_packets.div_ceil(BATCH.into()) {
        lab.generator.send(BATCH)?;
        std::thread::sleep(pause);
    }
    Ok(())
}

struct Turn {
    wall: Duration,
    busy: Duration,
    arrived: u64,
    lost: u64,
}

fn turn(lab: &mut Lab, packets: u64, cores: Cores, softirq: Option<i32>) -> Result<Turn> {
    let others: Vec<i32> = lab.running.threads().into_iter().chain(softirq).collect();
    let before = lab.sink.packets();
    let others_before = ran(&others);
    let started = Instant::now();
    let (mut sent, mut lost, mut sending) = (0_u64, 0_u64, Duration::ZERO);
    let (mut seen, mut seen_at) = (0, started);
    // What waiting for lost packets took is nobody's work.
    let mut waited = Duration::ZERO;
    loop {
        let arrived = lab.sink.packets() - before;
        if arrived + lost >= packets {
            break;
        }
        let under_way = sent.saturating_sub(arrived + lost);
        if sent < packets && under_way + u64::from(BATCH) <= WINDOW {
            let (taken, time) = cpu::time(|| lab.generator.send(BATCH));
            sent += u64::from(taken?);
            sending += time;
            continue;
        }
        if arrived != seen {
            (seen, seen_at) = (arrived, Instant::now());
        } else if seen_at.elapsed() > LOST {
            if arrived == 0 {
                return Err(format!("{}: nothing arrives", lab.name).into());
            }
            lost += under_way;
            waited += seen_at.elapsed();
            seen_at = Instant::now();
        }
        match cores {
            Cores::One => std::thread::yield_now(),
            Cores::Two => std::hint::spin_loop(),
        }
    }
    let wall = started.elapsed().saturating_sub(waited);
    let arrived = lab.sink.packets() - before;
    Ok(Turn {
        wall,
        busy: sending + ran(&others).saturating_sub(others_before),
        arrived,
        lost,
    })
}

/// Puts a node where the layout wants it.
fn place(lab: &Lab, cores: Cores, core: usize) -> Result<()> {
    for thread in lab.running.threads() {
        cpu::pin(thread, core)?;
    }
    match &lab.running {
        Running::InKernel => {
            let mask = if cores == Cores::Two {
                1_u64 << core
            } else {
                0
            };
            let set = format!(
                "for q in /sys/class/net/n0/queues/rx-*; do [ ! -e $q ] || echo {mask:x} > $q/rps_cpus; done"
            );
            shell(&lab.netns.node, &set)
        }
        Running::Process(_) => Ok(()),
    }
}

/// The kernel thread that runs the softirqs of `core` when there are too many.
fn ksoftirqd(core: usize) -> Option<i32> {
    let name = format!("ksoftirqd/{core}");
    std::fs::read_dir("/proc")
        .ok()?
        .flatten()
        .find_map(|entry| {
            let said = std::fs::read_to_string(entry.path().join("comm")).ok()?;
            (said.trim() == name).then(|| entry.file_name().to_str()?.parse().ok())?
        })
}

/// How long these threads have run so far, as `/proc/<pid>/schedstat` says. Threads that are gone count 0.
fn ran(threads: &[i32]) -> Duration {
    let of = |thread: &i32| -> Option<u64> {
        std::fs::read_to_string(format!("/proc/{thread}/schedstat"))
            .ok()?
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    };
    Duration::from_nanos(threads.iter().filter_map(of).sum())
}
