//! `caracal version`: of this program, and of the daemon that runs.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::json;

use super::table::one_line;
use super::{Cli, Exit, Output, ask, output};
use crate::api::{self, Client, ClientError, Method};

/// This program's.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What is wanted of the daemon's status.
#[derive(Debug, Deserialize)]
struct Running {
    version: String,
    pid: u32,
}

pub(super) fn run(cli: &Cli) -> Exit {
    let running = match running(cli) {
        Ok(running) => Some(running),
        Err(error) => {
            // The question has an answer without a daemon, too.
            let note = format!("note: {}\n", one_line(&error.to_string()));
            output::remark(&note);
            None
        }
    };
    output::print(&render(running.as_ref(), cli.output), Exit::Ok)
}

fn running(cli: &Cli) -> Result<Running, ClientError> {
    Client::connect(&cli.socket, ask::PATIENCE)?.call(Method::Status)
}

fn render(running: Option<&Running>, output: Output) -> String {
    if output == Output::Json {
        let daemon = running.map(|it| json!({ "version": it.version, "pid": it.pid }));
        let client = json!({ "version": VERSION, "protocol": api::VERSION });
        let versions = json!({ "client": client, "daemon": daemon });
        return ask::to_json("caracal.version/v1", &versions);
    }
    let mut text = format!("Client version: {VERSION}\n");
    if let Some(running) = running {
        let _ = writeln!(text, "Daemon version: {}", one_line(&running.version));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemons_version_is_beside_this_ones() {
        let running = Running {
            version: "0.0.9\u{1b}".to_owned(),
            pid: 4121,
        };
        let text = render(Some(&running), Output::Table);
        let expected = format!("Client version: {VERSION}\nDaemon version: 0.0.9 \n");
        assert_eq!(text, expected);
        let text = render(None, Output::Wide);
        assert_eq!(text, format!("Client version: {VERSION}\n"));
    }
}
