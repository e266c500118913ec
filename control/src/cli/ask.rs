//! What commands that ask the daemon have in common.

use std::io;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Cli, Exit, output};
use crate::api::{Client, ClientError, Method};

/// The longest that a command waits for an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Connects to the daemon.
pub(super) fn connect(cli: &Cli) -> Result<Client, Exit> {
    Client::connect(&cli.socket, PATIENCE).map_err(|error| complain(&error))
}

/// Asks one question.
pub(super) fn ask<T: DeserializeOwned>(cli: &Cli, method: Method) -> Result<T, Exit> {
    connect(cli)?.call(method).map_err(|error| complain(&error))
}

/// Says why there is no answer.
pub(super) fn complain(error: &ClientError) -> Exit {
    output::complain(error);
    match error {
        ClientError::Unreachable { .. } => Exit::Unreachable,
        ClientError::Refused(_) | ClientError::Protocol(_) => Exit::Failure,
    }
}

/// Why a command that asks and writes piece by piece ended early.
pub(super) enum Failure {
    /// No answer.
    Client(ClientError),
    /// The output cannot be written.
    Output(io::Error),
}

impl Failure {
    /// Says so. How the command ends.
    pub(super) fn end(&self) -> Exit {
        match self {
            Self::Client(error) => complain(error),
            Self::Output(error) => output::failed(error, Exit::Ok),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// A report as JSON: its members, and which schema they follow.
pub(super) fn to_json(schema: &str, report: &impl Serialize) -> String {
    let mut value = serde_json::to_value(report).unwrap_or(Value::Null);
    if let Some(members) = value.as_object_mut() {
        members.insert("schema".to_owned(), json!(schema));
    }
    format!("{value:#}\n")
}
