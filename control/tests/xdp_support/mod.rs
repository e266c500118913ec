//! What the XDP tests share: namespaces, commands, sockets.
#![expect(
    dead_code,
    unreachable_pub,
    reason = "a module of several test crates, each of which uses its own part"
)]

pub mod child;
pub mod frames;
pub mod pod;
pub mod socket;

use std::fs::File;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// Runs `test` in network and mount namespaces of its own, which end with it, however it ends. There `/sys/fs/bpf`
/// is an empty directory.
pub fn isolated<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    let run = || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("new namespaces");
        mount_at("/", None, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
        // Hides a bpffs and the named namespaces of the machine.
        mount_at("/sys/fs", Some("tmpfs"), MsFlags::empty());
        mount_at("/run", Some("tmpfs"), MsFlags::empty());
        std::fs::create_dir("/sys/fs/bpf").expect("mount point");
        ip("link set lo up");
        test()
    };
    std::thread::scope(|scope| match scope.spawn(run).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Runs `inside` in a namespace that `ip netns` made.
pub fn in_netns<T: Send>(name: &str, inside: impl FnOnce() -> T + Send) -> T {
    let enter = || {
        let namespace = File::open(format!("/run/netns/{name}")).expect("namespace");
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter");
        inside()
    };
    std::thread::scope(|scope| match scope.spawn(enter).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Makes bpffs, or anything else mounted at `path`, read-only.
pub fn make_read_only(path: &str) {
    mount_at(path, None, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY);
}

fn mount_at(path: &str, kind: Option<&str>, flags: MsFlags) {
    mount(kind, path, kind, flags, None::<&str>).expect("mount");
}

/// Runs `ip` with these words.
pub fn ip(words: &str) -> String {
    command("ip", words)
}

/// Runs a command that must succeed, in the calling thread's namespaces.
pub fn command(program: &str, words: &str) -> String {
    let output = Command::new(program)
        .args(words.split_whitespace())
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(
        output.status.success(),
        "{program} {words}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A veth pair with both ends up, here.
pub fn veth(host: &str, pod: &str) {
    ip(&format!("link add {host} type veth peer name {pod}"));
    ip(&format!("link set {host} up"));
    ip(&format!("link set {pod} up"));
}

/// The index of an interface, by `ip`.
pub fn ifindex(ifname: &str) -> u32 {
    let line = ip(&format!("-o link show dev {ifname}"));
    let index = line.split(':').next().and_then(|n| n.parse().ok());
    index.unwrap_or_else(|| panic!("no index in {line:?}"))
}

/// The id of the XDP program on an interface, by `ip`.
pub fn xdp_program(ifname: &str) -> Option<u32> {
    let text = ip(&format!("link show dev {ifname}"));
    let after = text.split("prog/xdp id ").nth(1)?;
    after.split_whitespace().next()?.parse().ok()
}
