//! Services: a pod reaches what is behind a cluster IP, an address that nobody has.
//!
//! First endpoints of each kind, then endpoints that change, each in a module of its own. A client's socket takes answers from the cluster
//! IP alone: that it gets them is the proof that they come from there.

mod change;
mod files;
mod reach;

use super::checks::Bench;
use super::error::Result;
use super::peer::Failure;
use super::plan::{CLIENT, End};
use super::report::{Figures, Outcome, What};
use super::resources::Options;
use super::scenario::Family;
use super::steps::Audience;
use files::Service;

/// What the daemons are configured with.
pub const OPTIONS: Options = Options {
    // As most clusters have it: a server outside sees nodes.
    nat_outgoing: true,
    nat_ports: None,
    entries: None,
    forwarded_only: false,
};

/// The pod that all is tried with.
static FROM: End = End::Pod(CLIENT);

/// All that must hold with services.
///
/// # Errors
/// When the lab itself fails, a daemon takes no services, or the user wants to stop.
pub fn play(bench: &Bench<'_>, families: &[Family], audience: &mut dyn Audience) -> Result<()> {
    let mut show = |all: Vec<Vec<Outcome>>| all.into_iter().for_each(|it| audience.results(it));
    files::apply(bench, files::BOTH.behind)?;
    for family in families {
        show(reach::check(bench, *family)?);
    }
    show(change::endpoints(bench, families)?);
    show(change::policies(bench, families)?);
    Ok(())
}

/// Something that is done with a service, for the output.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    service: &'static Service,
    family: Family,
}

impl Case {
    fn outcome(self, bench: &Bench<'_>, what: What, result: Result<Figures, Failure>) -> Outcome {
        Outcome {
            family: Some(self.family),
            pair: Some(self.name.to_owned()),
            from: Some(FROM.label()),
            to: Some(format!("svc/{}", self.service.name)),
            ..bench.outcome(what, result)
        }
    }
}
