//! What is answered.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::cli::table::one_line;

/// What would become of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// The packet.
    pub packet: String,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// `ALLOW`, `DROP`, or `UNSEEN`: the packet comes neither by the dataplane nor by the host's own table.
    pub verdict: String,
    /// Why it is dropped: see `caracal explain`.
    pub reason: Option<String>,
    /// The entry that it would leave in the flow table.
    pub entry: Option<String>,
    /// What staged policies would change.
    pub staged: Vec<String>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Where in the pipeline.
    pub stage: String,
    /// What happens there.
    pub said: String,
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Packet  {}   (synthetic; nothing is sent)",
            one_line(&self.packet)
        )?;
        for (at, step) in self.steps.iter().enumerate() {
            writeln!(
                f,
                " {} {:<20} {}",
                at + 1,
                one_line(&step.stage),
                one_line(&step.said)
            )?;
        }
        write!(f, "Verdict {}", self.verdict)?;
        match &self.reason {
            Some(reason) => writeln!(f, "  {reason}")?,
            None => writeln!(f)?,
        }
        if let Some(entry) = &self.entry {
            writeln!(f, "Would install flow entry: {}", one_line(entry))?;
        }
        for staged in &self.staged {
            writeln!(f, "Staged: {}", one_line(staged))?;
        }
        Ok(())
    }
}
