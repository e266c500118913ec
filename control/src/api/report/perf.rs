//! Where pollers' time goes.

use serde::{Deserialize, Serialize};

/// What pollers counted of their stages while somebody measured, since the daemon started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Perf {
    /// When this was, in nanoseconds since the pollers started.
    pub nanoseconds: u64,
    /// The pollers.
    pub pollers: Vec<PollerPerf>,
}

/// One poller's stages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollerPerf {
    /// The core that it is pinned to.
    pub core: Option<u16>,
    /// How long reading its clock takes, in nanoseconds; it is in none of the others.
    pub clock_nanoseconds: u64,
    /// Rounds in which no stage had a packet, in nanoseconds.
    pub empty_nanoseconds: u64,
    /// The others, by stage, in the order of a packet's walk.
    pub stages: Vec<StagePerf>,
}

/// One stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagePerf {
    /// Its name.
    pub stage: String,
    /// Times that it had its turn.
    pub calls: u64,
    /// Packets that it had before it.
    pub packets: u64,
    /// What it took, in nanoseconds.
    pub nanoseconds: u64,
}

impl Perf {
    /// What was counted since an answer before of the same daemon.
    #[must_use]
    pub fn since(mut self, before: &Self) -> Self {
        let less = |now: &mut u64, before: u64| *now = now.saturating_sub(before);
        less(&mut self.nanoseconds, before.nanoseconds);
        for (now, before) in self.pollers.iter_mut().zip(&before.pollers) {
            less(&mut now.empty_nanoseconds, before.empty_nanoseconds);
            for (now, before) in now.stages.iter_mut().zip(&before.stages) {
                less(&mut now.calls, before.calls);
                less(&mut now.packets, before.packets);
                less(&mut now.nanoseconds, before.nanoseconds);
            }
        }
        self
    }
}
