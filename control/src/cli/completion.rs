//! `caracal completion`: what a shell needs to complete our commands.

use clap::{CommandFactory as _, ValueEnum};
use clap_complete::shells;

use super::{Cli, Exit, output};

/// Arguments of `caracal completion`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// For which shell.
    shell: Shell,
}

/// A shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Shell {
    /// GNU Bash: `source <(caracal completion bash)`, or into /usr/share/bash-completion/completions/caracal.
    Bash,
    /// Z shell: into a directory of `fpath`, as `_caracal`.
    Zsh,
    /// fish: into ~/.config/fish/completions/caracal.fish.
    Fish,
}

pub(super) fn run(args: &Args) -> Exit {
    output::print(&script(args.shell), Exit::Ok)
}

/// The script for a shell.
fn script(shell: Shell) -> String {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    match shell {
        Shell::Bash => clap_complete::generate(shells::Bash, &mut command, name, &mut script),
        Shell::Zsh => clap_complete::generate(shells::Zsh, &mut command, name, &mut script),
        Shell::Fish => clap_complete::generate(shells::Fish, &mut command, name, &mut script),
    }
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_in_every_script() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            for command in Cli::command().get_subcommands() {
                let name = command.get_name();
                assert!(script.contains(name), "{name} is missing for {shell:?}");
            }
            assert!(script.contains("checksystem"), "{shell:?}");
        }
    }
}
