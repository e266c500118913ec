//! Saying what cannot run here.

use std::path::Path;
use std::process::Command;

/// Whether `test` cannot run here; says why, or panics where skipping is forbidden.
pub(crate) fn skipped(test: &str) -> bool {
    if !nix::unistd::geteuid().is_root() {
        return skip(test, "not root");
    }
    for command in ["ip", "bridge", "ethtool"] {
        let found = Command::new(command).arg("-V").output().is_ok();
        if !found && skip(test, &format!("no `{command}` command")) {
            return true;
        }
    }
    false
}

/// Whether a test that needs `nft` cannot run here.
pub(crate) fn skipped_without_nft(test: &str) -> bool {
    let found = Command::new("nft").arg("--version").output().is_ok();
    !found && skip(test, "no `nft` command (Debian: nftables)")
}

/// The same for a test that needs user-mode Linux too.
pub(crate) fn skipped_without_uml(test: &str) -> bool {
    if skipped(test) {
        return true;
    }
    let modules = Path::new("/usr/lib/uml/modules");
    if Command::new(crate::uml::PROGRAM)
        .arg("--version")
        .output()
        .is_err()
        || !modules.is_dir()
    {
        return skip(test, "no user-mode Linux (Debian: user-mode-linux)");
    }
    if !Path::new("/dev/net/tun").exists() {
        return skip(test, "no /dev/net/tun");
    }
    false
}

fn skip(test: &str, reason: &str) -> bool {
    assert!(
        std::env::var_os("CARACAL_NO_SKIP").is_none_or(|value| value != "1"),
        "{test} cannot run: {reason}"
    );
    eprintln!("SKIPPED {test}: {reason}");
    true
}
