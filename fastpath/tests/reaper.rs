//! What a killed test leaves behind: nothing.

#![expect(
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test waits, and what fails, fails it"
)]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fastpath::io::xsk::test_support::{Netns, skipped_without_root};

/// Set for the process that is killed.
const VICTIM: &str = "CARACAL_TEST_REAPER_VICTIM";

/// Not a test by itself: the process that is killed. Says which process it has started, and waits.
#[test]
fn victim() {
    if std::env::var_os(VICTIM).is_none() {
        return;
    }
    let netns = Netns::new("victim");
    let dir = directory(std::process::id());
    std::fs::create_dir_all(dir.join("inside")).expect("a directory");
    let mut sleep = Command::new("sleep");
    let sleep = sleep.arg("60").stdout(Stdio::null());
    let mut sleeper = netns.within(|| sleep.spawn()).expect("sleep starts");
    eprintln!("sleeper {}", sleeper.id());
    let _ = sleeper.wait();
    panic!("nobody killed it");
}

#[test]
fn nothing_of_a_killed_process_stays() {
    if skipped_without_root("nothing_of_a_killed_process_stays") {
        return;
    }
    let mut victim = Command::new(std::env::current_exe().expect("own name"))
        .args(["--exact", "victim", "--nocapture"])
        .env(VICTIM, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start");
    let sleeper = sleeper_of(&mut victim);
    let left = [
        directory(victim.id()),
        PathBuf::from(format!("/run/netns/car-{}-0-victim", victim.id())),
        PathBuf::from(format!("/proc/{sleeper}")),
    ];
    assert!(left.iter().all(|path| path.exists()), "{left:?}");

    victim.kill().expect("kill");
    victim.wait().expect("wait");
    let deadline = Instant::now() + Duration::from_secs(30);
    while left.iter().any(|path| path.exists()) {
        assert!(Instant::now() < deadline, "still there: {left:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn directory(process: u32) -> PathBuf {
    Path::new(&std::env::temp_dir()).join(format!("car-{process}-files"))
}

/// Waits until the victim has made everything.
fn sleeper_of(victim: &mut Child) -> u32 {
    let lines = BufReader::new(victim.stderr.take().expect("piped")).lines();
    let found = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("sleeper ")?.parse().ok());
    found.expect("the victim says so")
}
