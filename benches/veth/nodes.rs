//! What stands between the generator and the sink.
//!
//! To add one, implement [`Node`]; or, without a line of code, `--spawn NAME:GROWTH:COMMAND`.

use std::process::{Command, Stdio};
use std::str::FromStr;

use benches::forwarder;
use benches::process::Process;
use benches::rounds::Result;
use fastpath::io::xsk::test_support::Netns;

/// A way to forward from n0 to n1.
pub(crate) trait Node {
    /// Its name in the table.
    fn name(&self) -> &str;
    /// By how many bytes it makes a frame longer.
    fn growth(&self) -> usize {
        0
    }
    /// How many packets of each flow it has before all are treated alike.
    fn first_packets(&self) -> u64 {
        0
    }
    /// False for the generator straight into the sink.
    fn is_there(&self) -> bool {
        true
    }
    /// Configures `netns`, where n0 and n1 are up without addresses, and starts what there is to start.
    fn start(&self, netns: &Netns) -> Result<Running>;
}

/// A started node; stops when dropped.
pub(crate) enum Running {
    /// The kernel does it, in softirqs on the core where the packets come from.
    InKernel,
    /// A process.
    Process(Process),
}

impl Running {
    /// Numbers of all threads that work for it.
    pub(crate) fn threads(&self) -> Vec<i32> {
        match self {
            Self::InKernel => Vec::new(),
            Self::Process(process) => process.threads(),
        }
    }
}

/// No node: the generator's veth ends in the sink's namespace.
pub(crate) struct Direct;

impl Node for Direct {
    fn name(&self) -> &'static str {
        "no node"
    }

    fn is_there(&self) -> bool {
        false
    }

    fn start(&self, _: &Netns) -> Result<Running> {
        Ok(Running::InKernel)
    }
}

/// How often the bare forwarder looks in vain before it sleeps, where it has a core of its own.
const SPINS: u64 = 10_000;

/// The bare AF_XDP forwarder, in a process of its own as Caracal is: threads of one process change places at less cost than two
/// processes.
pub(crate) struct Bare {
    /// Whether it sleeps as soon as there is nothing to do, as it should where it shares a core.
    pub(crate) sleeps: bool,
}

/// This program as [`Bare`]'s process. The first argument says so, the second after how many spins to sleep.
pub(crate) fn as_forwarder(args: &[String]) -> Option<Result<()>> {
    match args {
        [word, spins] if word == FORWARD => Some(
            spins
                .parse()
                .map_err(Into::into)
                .and_then(|spins| forwarder::forward(["n0", "n1"], spins)),
        ),
        _ => None,
    }
}

const FORWARD: &str = "--forward";

impl Node for Bare {
    fn name(&self) -> &'static str {
        "bare AF_XDP"
    }

    fn start(&self, netns: &Netns) -> Result<Running> {
        let spins = if self.sleeps { 0 } else { SPINS };
        let child = Command::new("ip")
            .args(["netns", "exec", netns.name()])
            .arg(std::env::current_exe()?)
            .args([FORWARD, &spins.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Running::Process(Process::new(child, None)))
    }
}

/// Any program.
pub(crate) struct Spawned {
    name: String,
    growth: usize,
    command: String,
}

impl FromStr for Spawned {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let mut parts = text.splitn(3, ':');
        let (Some(name), Some(growth), Some(command)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(format!("--spawn {text}: must be NAME:GROWTH:COMMAND"));
        };
        let growth = growth
            .parse()
            .map_err(|why| format!("--spawn {text}: {growth}: {why}"))?;
        Ok(Self {
            name: name.to_owned(),
            growth,
            command: command.to_owned(),
        })
    }
}

impl Node for Spawned {
    fn name(&self) -> &str {
        &self.name
    }

    fn growth(&self) -> usize {
        self.growth
    }

    fn start(&self, netns: &Netns) -> Result<Running> {
        // `exec`, so that the child is the program itself and not a shell around it.
        let child = Command::new("ip")
            .args([
                "netns",
                "exec",
                netns.name(),
                "sh",
                "-c",
                &format!("exec {}", self.command),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Running::Process(Process::new(child, None)))
    }
}
