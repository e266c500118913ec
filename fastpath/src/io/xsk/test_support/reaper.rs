//! What goes when a test or a bench is killed.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// Waits for the end of its input, which is that of the process `$1`; then ends what lives in the process's namespaces, and takes
/// those away with the pins of their devices, and its directories. Its own group, so that Ctrl-C does not end it as well.
const SCRIPT: &str = r#"
cat >/dev/null
for file in /run/netns/car-"$1"-*; do
    [ -e "$file" ] || continue
    name=${file##*/}
    for signal in TERM KILL; do
        pids=$(ip netns pids "$name")
        [ -n "$pids" ] || break
        kill -s "$signal" $pids
        sleep 1
    done
    rm -rf "/sys/fs/bpf/caracal/$(stat -L -c %i "$file")"
    ip netns del "$name"
done
rm -rf "${TMPDIR:-/tmp}"/car-"$1"-*
"#;

/// Has all namespaces called `car-<pid>-…` of this process deleted when it ends, however it ends: with them the processes in them,
/// and the directories of that name among the temporary ones. Those who make such namespaces call it before they do, and still delete them themselves.
///
/// # Panics
///
/// When there is no shell.
pub fn reap_at_end() {
    // Its input is closed with this process, and by nobody else: children do not have it.
    static REAPER: OnceLock<Child> = OnceLock::new();
    REAPER.get_or_init(|| {
        Command::new("sh")
            .args(["-c", SCRIPT, "reaper", &std::process::id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("sh starts")
    });
}
