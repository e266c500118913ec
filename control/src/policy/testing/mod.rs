//! Tests of policies: packets with the verdict that is expected of them.

pub mod calculated;
mod file;
mod parties;
mod table;

pub(crate) use table::is_table as is_test;

use self::parties::Directory;
use super::evaluate::evaluate;
use super::legs::Leg;
use super::model::{Model, WorkloadId};
use super::packet::Packet;
use super::resource::PolicyResources;
use super::verdict::{Outcome, Verdict};
use crate::config::{Diagnostics, Span};

/// The tests of one file.
#[derive(Debug, Default)]
pub struct Suite {
    /// Tests that share a model.
    pub groups: Vec<Group>,
    /// Warnings and notes; never errors.
    pub remarks: Diagnostics,
}

/// Tests that share a model.
#[derive(Debug)]
pub struct Group {
    /// What they are about.
    pub name: String,
    /// What decides.
    pub model: Model,
    /// The tests.
    pub checks: Vec<Check>,
}

/// One packet and what should become of it.
#[derive(Debug)]
pub struct Check {
    /// What it is about.
    pub name: String,
    /// Where it comes from and goes, for people.
    pub way: String,
    /// The packet.
    pub packet: Packet,
    /// The legs of its way.
    pub legs: Vec<Leg>,
    /// What should become of it.
    pub expected: Outcome,
    /// What should decide, as a part of the decision's text; `None`: anything.
    pub decided_by: Option<String>,
    /// Where the test was written.
    pub at: Span,
}

impl Check {
    /// The verdict on the packet.
    pub fn run(&self, model: &Model) -> Verdict {
        evaluate(model, &self.packet, &self.legs)
    }

    /// Whether a verdict is the expected one.
    pub fn is_met_by(&self, verdict: &Verdict) -> bool {
        verdict.outcome == self.expected && self.is_decided_as_expected(verdict)
    }

    /// Whether what decided is what should.
    pub fn is_decided_as_expected(&self, verdict: &Verdict) -> bool {
        self.decided_by.as_ref().is_none_or(|wanted| {
            let by = verdict.decided_by();
            by.is_some_and(|by| by.reason.to_string().contains(wanted.as_str()))
        })
    }
}

/// The pod's interface that a name means: `namespace/pod`, or less where that is enough.
///
/// # Errors
/// What is wrong with the name, and advice.
pub fn find_workload(
    resources: &PolicyResources,
    model: &Model,
    name: &str,
) -> Result<WorkloadId, (String, String)> {
    let forms = "must be `namespace/pod`, or the name of a WorkloadEndpoint or of a HostEndpoint";
    let directory = Directory::new(resources, model);
    directory.workload(name, forms).cloned()
}
