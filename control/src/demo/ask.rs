//! What the lab's daemons say of themselves, over their control sockets.

use std::time::Duration;

use super::lab::Lab;
use super::peer::Failure;
use super::plan::Node;
use super::resources::control_socket;
use crate::api::report::{Drops, Status};
use crate::api::{Client, Method};

const PATIENCE: Duration = Duration::from_secs(3);

/// How often the daemon of `node` dropped a packet for `reason`, on all ports.
///
/// # Errors
/// When it does not answer.
pub fn drops(lab: &Lab, node: Node, reason: &str) -> Result<u64, Failure> {
    let drops: Drops = connect(lab, node)?
        .call(Method::Drops)
        .map_err(|error| error.to_string())?;
    let of_reason = drops.drops.iter().filter(|drop| drop.reason == reason);
    Ok(of_reason.map(|drop| drop.count).sum())
}

/// Connections that the daemon of `node` has removed early for new ones.
///
/// # Errors
/// When it does not answer.
pub fn evicted(lab: &Lab, node: Node) -> Result<u64, Failure> {
    let status: Status = connect(lab, node)?
        .call(Method::Status)
        .map_err(|error| error.to_string())?;
    Ok(status.connections.evicted)
}

/// Generation of the tables that the daemon of `node` published last.
///
/// # Errors
/// When it does not answer.
pub fn generation(lab: &Lab, node: Node) -> Result<u64, Failure> {
    let status: Status = connect(lab, node)?
        .call(Method::Status)
        .map_err(|error| error.to_string())?;
    Ok(status.generation)
}

fn connect(lab: &Lab, node: Node) -> Result<Client, Failure> {
    Client::connect(&control_socket(lab.dir(), node), PATIENCE).map_err(|error| error.to_string())
}
