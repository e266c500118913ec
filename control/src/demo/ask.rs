//! What the lab's daemons say of themselves, over their control sockets.

use std::time::Duration;

use serde::de::DeserializeOwned;

use super::error::{DemoError, Result};
use super::lab::Lab;
use super::peer::Failure;
use super::plan::Node;
use super::resources::control_socket;
use crate::api::report::{Drops, Status};
use crate::api::{Client, ClientError, Method};

const PATIENCE: Duration = Duration::from_secs(3);

/// What the daemon of `node` answers to a request.
///
/// # Errors
/// When it does not answer.
pub(super) fn call<T: DeserializeOwned>(lab: &Lab, node: Node, method: Method) -> Result<T> {
    let socket = control_socket(lab.dir(), node);
    let asked = Client::connect(&socket, PATIENCE).and_then(|mut client| client.call(method));
    asked.map_err(|error: ClientError| DemoError::Daemon(format!("{}: {error}", node.name())))
}

/// How the daemon of `node` is.
///
/// # Errors
/// When it does not answer.
pub(super) fn status(lab: &Lab, node: Node) -> Result<Status> {
    call(lab, node, Method::Status)
}

/// How often the daemon of `node` dropped a packet for `reason`, on all ports.
///
/// # Errors
/// When it does not answer.
pub fn drops(lab: &Lab, node: Node, reason: &str) -> Result<u64, Failure> {
    let drops: Drops = call(lab, node, Method::Drops).map_err(|error| error.to_string())?;
    let of_reason = drops.drops.iter().filter(|drop| drop.reason == reason);
    Ok(of_reason.map(|drop| drop.count).sum())
}

/// Connections that the daemon of `node` has removed early for new ones.
///
/// # Errors
/// When it does not answer.
pub fn evicted(lab: &Lab, node: Node) -> Result<u64, Failure> {
    let status = status(lab, node).map_err(|error| error.to_string())?;
    Ok(status.connections.evicted)
}

/// Generation of the tables that the daemon of `node` published last.
///
/// # Errors
/// When it does not answer.
pub fn generation(lab: &Lab, node: Node) -> Result<u64, Failure> {
    let status = status(lab, node).map_err(|error| error.to_string())?;
    Ok(status.generation)
}
