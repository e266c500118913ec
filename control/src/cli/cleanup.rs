//! `caracal cleanup`: opens what a stopped daemon left closed.

use serde_json::json;

use super::{Cli, Exit, Output, ask, output};
use crate::node::{self, Cleaned};
use crate::words::counted;

pub(super) fn run(cli: &Cli) -> Exit {
    match node::cleanup(&cli.socket) {
        Ok(cleaned) => output::print(&render(cleaned, cli.output), Exit::Ok),
        Err(error) => {
            output::complain(&error);
            Exit::Failure
        }
    }
}

/// What was taken away.
fn render(cleaned: Cleaned, output: Output) -> String {
    let Cleaned {
        opened,
        host_policy,
    } = cleaned;
    match output {
        Output::Json => {
            let answer = json!({ "opened": opened, "hostPolicy": host_policy });
            ask::to_json("caracal.cleanup/v1", &answer)
        }
        Output::Table | Output::Wide => {
            let opened = counted(opened as u64, "interface");
            let rules = if host_policy {
                "; the rules of host endpoints are gone, and the host's own traffic is judged by nobody"
            } else {
                ""
            };
            format!("{opened} opened; the host's port is gone{rules}\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_opened_for_people_and_for_programs() {
        let cleaned = |opened, host_policy| Cleaned {
            opened,
            host_policy,
        };
        assert_eq!(
            render(cleaned(1, false), Output::Table),
            "1 interface opened; the host's port is gone\n"
        );
        assert_eq!(
            render(cleaned(0, true), Output::Wide),
            "0 interfaces opened; the host's port is gone; the rules of host endpoints are gone, and the host's own traffic \
             is judged by nobody\n"
        );
        let value = render(cleaned(2, true), Output::Json);
        let value: serde_json::Value = serde_json::from_str(&value).unwrap();
        assert_eq!(
            value,
            json!({ "schema": "caracal.cleanup/v1", "opened": 2, "hostPolicy": true })
        );
    }
}
