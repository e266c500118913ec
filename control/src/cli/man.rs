//! `caracal man`: manual pages, made of the same words as `--help`.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;

use super::{Cli, Exit, output};

/// Commands of administrators.
const SECTION: &str = "8";

/// Arguments of `caracal man`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory for a page of each command, as caracal-flows.8; it is made if need be. Without it caracal.8 goes to standard
    /// output.
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Exit {
    let outcome = match &args.directory {
        None => return output::print(&page(&whole()).1, Exit::Ok),
        Some(directory) => write(directory).map_err(|error| (directory, error)),
    };
    match outcome {
        Ok(()) => Exit::Ok,
        Err((directory, error)) => {
            output::complain(&format!("{}: {error}", directory.display()));
            Exit::Failure
        }
    }
}

fn write(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    for (name, text) in pages() {
        std::fs::write(directory.join(name), text)?;
    }
    Ok(())
}

/// `caracal` with all its commands.
fn whole() -> Command {
    // That `help` is a command needs no page.
    let mut whole = Cli::command().disable_help_subcommand(true);
    whole.build();
    whole
}

/// All pages, by their files' names.
fn pages() -> Vec<(String, String)> {
    let mut pages = Vec::new();
    collect(&whole(), &mut pages);
    pages
}

fn collect(command: &Command, pages: &mut Vec<(String, String)>) {
    pages.push(page(command));
    for part in command.get_subcommands().filter(|it| !it.is_hide_set()) {
        collect(part, pages);
    }
}

/// A command's page, and its file's name.
fn page(command: &Command) -> (String, String) {
    let page = Man::new(command.clone())
        .section(SECTION)
        .source(concat!("caracal ", env!("CARGO_PKG_VERSION")))
        .manual("Caracal");
    let mut text = Vec::new();
    // Writing to a Vec cannot fail.
    let _ = page.render(&mut text);
    let text = String::from_utf8_lossy(&text);
    // What stands under the options has a heading of its own.
    let text = text.replace(".SH EXTRA\nEXIT CODES\n", ".SH EXIT CODES\n.nf\n");
    (page.get_filename(), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let pages = pages();
        let text = |name: &str| {
            let found = pages.iter().find(|(file, _)| file == name);
            let (_, text) = found.unwrap_or_else(|| panic!("no {name}"));
            text.clone()
        };
        for command in Cli::command()
            .get_subcommands()
            .filter(|it| !it.is_hide_set())
        {
            let page = text(&format!("caracal-{}.8", command.get_name()));
            assert!(page.contains(".TH caracal"), "{page}");
        }
        let page = text("caracal-node-checksystem.8");
        assert!(page.contains("fBcaracal node checksystem"), "{page}");
        assert!(page.contains("Exit code 0: usable"), "{page}");
        let page = text("caracal.8");
        assert!(page.contains("caracal\\-flows(8)"), "{page}");
        assert!(page.contains("CARACAL_SOCKET"), "{page}");
        assert!(page.contains(".SH EXIT CODES\n"), "{page}");
        assert!(!page.contains("caracal\\-help"), "{page}");
    }
}
