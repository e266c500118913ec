//! The rule for tests that cannot run here: they say so on standard error, in a form that `.ci/test` collects, and
//! fail where `CARACAL_NO_SKIP=1` forbids it.

use std::process::Command;

/// Says that `test` is skipped and why: `SKIPPED <test>: <reason>`.
///
/// # Panics
///
/// Instead of skipping, when the environment has `CARACAL_NO_SKIP=1`.
#[expect(clippy::print_stderr, reason = "CI collects these lines")]
pub fn skip(test: &str, reason: &str) {
    assert!(
        std::env::var_os("CARACAL_NO_SKIP").is_none_or(|value| value != "1"),
        "{test} cannot run here ({reason}), and CARACAL_NO_SKIP=1 forbids skipping"
    );
    eprintln!("SKIPPED {test}: {reason}");
}

/// Whether a test that needs root and AF_XDP can run here. If not, it is skipped.
///
/// # Panics
///
/// As [`skip`].
pub fn can_run(test: &str) -> bool {
    match crate::io::xsk::probe::probe() {
        Ok(_) => true,
        Err(reason) => {
            skip(test, &reason.to_string());
            false
        }
    }
}

/// Whether `test` is skipped because this is not root.
///
/// # Panics
///
/// As [`skip`].
pub fn skipped_without_root(test: &str) -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        skip(test, "needs root");
    }
    !is_root
}

/// Whether `test` is skipped because this is not root, or one of these commands is not installed.
///
/// # Panics
///
/// As [`skip`].
pub fn skipped_without(test: &str, commands: &[&str]) -> bool {
    if skipped_without_root(test) {
        return true;
    }
    // Started is found, whatever it thinks of the option.
    let is_missing = |command: &&&str| Command::new(command).arg("--version").output().is_err();
    let missing = commands.iter().find(is_missing);
    if let Some(command) = missing {
        skip(test, &format!("`{command}` is not installed"));
    }
    missing.is_some()
}
