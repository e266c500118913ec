//! Resources that change while the daemons run.

use std::time::Duration;

use super::ask;
use super::cancel::Cancel;
use super::error::{DemoError, Result};
use super::lab::Lab;
use super::plan::Node;
use crate::api::report::{Part, Poller};

/// How long a change may take until all pollers use it.
const LIMIT: Duration = Duration::from_secs(5);

/// Waits until the daemon of `node` has taken a change, and until pollers and the kernel use it.
///
/// # Errors
/// When it takes too long.
pub(super) fn wait(
    lab: &Lab,
    node: Node,
    cancel: &Cancel,
    change: &str,
    is_taken: impl Fn() -> Result<bool>,
) -> Result<()> {
    let in_force = || {
        let is_taken = is_taken()?;
        // Asked after that: its generation has the change.
        let status = ask::status(lab, node)?;
        let used = |poller: &Poller| poller.generation >= status.generation;
        Ok::<_, DemoError>(
            is_taken
                && status.pollers.iter().all(used)
                && !status.host_table_pending
                && !status.problems.iter().any(|it| it.part == Part::HostPolicy),
        )
    };
    if cancel.wait_until(LIMIT, || in_force().unwrap_or(false))? {
        return Ok(());
    }
    let error = ask::status(lab, node)?.datastore.error.unwrap_or_default();
    Err(DemoError::Daemon(format!(
        "{}: {change} is not in force after {} s: {error}",
        node.name(),
        LIMIT.as_secs()
    )))
}
