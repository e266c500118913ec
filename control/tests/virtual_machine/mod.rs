//! Tests that need a kernel which is not here, on one of Debian 12's in a virtual machine.
//!
//! Such a test names what it needs. Where this kernel has it, its body runs here; elsewhere a machine is started whose root is the
//! host's, and the test's own program runs the same test there:
//!
//! ```text
//! #[test]
//! fn a_bond_is_served() {
//!     on_a_kernel_with("bond", "bonds::a_bond_is_served", || { /* as any other */ });
//! }
//! ```
//!
//! What the machine writes stays in its memory: it sees the host's files, and `/tmp` and `/run` of its own. Modules are loaded as
//! they are needed. Without `/dev/kvm` it is emulated and ten times slower: tests there should be few and small.

mod initramfs;
mod kernel;
mod machine;

use std::env;
use std::fs;
use std::process::Command;

use fastpath::io::xsk::test_support::{skipped_without, skipped_without_root};

use kernel::Which;

/// Set in the machine: no other is started from there.
const INSIDE: &str = "CARACAL_TEST_IN_MACHINE";
/// How the releases of Debian 12's kernel begin.
const DEBIAN_12: &str = "6.1.";
/// The same for the backports, which have Debian 13's.
const DEBIAN_13: &str = "6.12.";

/// Runs a test where links of a kind (as in `ip link add … type KIND`) can be made. `test` is its name as libtest has it.
pub(crate) fn on_a_kernel_with(kind: &str, test: &str, body: impl FnOnce()) {
    if skipped_without(test, &["ip", "unshare"]) {
        return;
    }
    if is_inside() || knows(kind) {
        body();
    } else {
        machine::run(Which::Debian12, test);
    }
}

/// Runs a test on Debian 12's kernel. `test` is its name as libtest has it.
pub(crate) fn on_debian_12(test: &str, body: impl FnOnce()) {
    on(Which::Debian12, DEBIAN_12, test, body);
}

/// Runs a test on the kernel of Debian 12's backports, which is Debian 13's.
pub(crate) fn on_debian_13(test: &str, body: impl FnOnce()) {
    on(Which::Backports, DEBIAN_13, test, body);
}

fn on(which: Which, releases: &str, test: &str, body: impl FnOnce()) {
    if skipped_without_root(test) {
        return;
    }
    let is_it = release().starts_with(releases);
    if is_inside() {
        assert!(is_it, "{}", release());
    }
    if is_it {
        body();
    } else {
        machine::run(which, test);
    }
}

/// The release of the kernel that this runs on.
pub(crate) fn release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc");
    release.trim().to_owned()
}

fn is_inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Whether this kernel has links of a kind, or a module for them. What else may be wrong with the one that is tried does not matter.
fn knows(kind: &str) -> bool {
    let output = Command::new("unshare")
        .args(["--net", "ip", "link", "add", "probe", "type", kind])
        .output()
        .expect("unshare");
    !String::from_utf8_lossy(&output.stderr).contains("Unknown device type")
}
