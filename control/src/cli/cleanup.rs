//! `caracal cleanup`: opens what a stopped daemon left closed.

use serde_json::json;

use super::{Cli, Exit, Output, ask, output};
use crate::node;
use crate::words::counted;

pub(super) fn run(cli: &Cli) -> Exit {
    match node::cleanup() {
        Ok(opened) => output::print(&render(opened, cli.output), Exit::Ok),
        Err(error) => {
            output::complain(&error);
            Exit::Failure
        }
    }
}

/// How many interfaces were opened.
fn render(opened: usize, output: Output) -> String {
    match output {
        Output::Json => ask::to_json("caracal.cleanup/v1", &json!({ "opened": opened })),
        Output::Table | Output::Wide => {
            let opened = counted(opened as u64, "interface");
            format!("{opened} opened; the host's port is gone\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_opened_for_people_and_for_programs() {
        assert_eq!(
            render(1, Output::Table),
            "1 interface opened; the host's port is gone\n"
        );
        assert_eq!(
            render(0, Output::Wide),
            "0 interfaces opened; the host's port is gone\n"
        );
        let value: serde_json::Value = serde_json::from_str(&render(2, Output::Json)).unwrap();
        assert_eq!(
            value,
            json!({ "schema": "caracal.cleanup/v1", "opened": 2 })
        );
    }
}
