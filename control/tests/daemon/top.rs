//! `caracal top` of a daemon at work.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::pty::{OpenptyResult, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;
use serde_json::Value;

use crate::lab::{Lab, OUTSIDE4, addr};
use crate::process::{Daemon, PATIENCE};
use crate::traffic::{Echo, Stream};

/// Between two packets of the stream.
const PACE: Duration = Duration::from_millis(5);

#[test]
fn rates_are_those_of_the_traffic() {
    let Some(mut lab) = Lab::new("top::rates_are_those_of_the_traffic") else {
        return;
    };
    let pod = lab.pod(0);
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    let mut daemon = Daemon::start(&lab);
    let stream = Stream::start(&pod.netns, pod.v4(), outside.addr(), PACE);
    stream.wait_for_reply();
    // One that comes to rest is none of the fastest.
    let other = Stream::start(&pod.netns, pod.v4(), outside.addr(), PACE);
    other.wait_for_reply();
    other.finish();
    std::thread::sleep(Duration::from_millis(100));

    let output = daemon.caracal(&["top", "--once", "-o", "json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let top: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let number = |value: &Value| value.as_f64().expect("a number");
    assert_eq!(top["schema"], "caracal.top/v1");
    // What a kernel sends by itself, a question after routers or its groups, may be dropped meanwhile.
    let reasons = top["reasons"].as_array().expect("reasons");
    let kernels = |it: &Value| it["reason"] == "link-local" || it["reason"] == "martian-source";
    assert!(reasons.iter().all(kernels), "{top:#}");
    // No packet comes sooner than it is sent, and each is answered; a busy machine may send fewer, or some late.
    let seconds = number(&top["seconds"]);
    assert!(seconds >= 1.0, "{top:#}");
    let most = 4.0 * 2.0 / PACE.as_secs_f64();
    let rx = number(&top["rx_packets"]);
    assert!(rx > 2.0 && rx < most, "{rx}: {top:#}");
    let core = &top["cores"][0];
    assert!(number(&core["rx_packets"]) > 2.0, "{top:#}");
    let busy = number(&core["busy_percent"]);
    assert!(busy > 0.0 && busy <= 100.0, "{top:#}");
    let ports = top["ports"].as_array().expect("ports");
    let port = |name| ports.iter().find(|it| it["name"] == name).expect("a port");
    for name in ["cali0", "eth0"] {
        let (rx, tx) = (&port(name)["rx_packets"], &port(name)["tx_packets"]);
        assert!(number(rx) > 1.0 && number(tx) > 1.0, "{top:#}");
    }
    let flows = top["flows"].as_array().expect("flows");
    let flow = flows.first().expect("the stream");
    assert_eq!(flow["src"], pod.v4().to_string(), "{top:#}");
    assert_eq!(flow["dst"], OUTSIDE4, "{top:#}");
    assert_eq!(flow["endpoint"], "test/p0", "{top:#}");
    assert!(number(&flow["packets"]) > 2.0, "{top:#}");
    assert_eq!(flows.len(), 1, "{top:#}");

    let text = daemon.caracal(&["top", "--once"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        text.contains("PKTS/ROUND") && text.contains("cali0"),
        "{text}"
    );
    let refused = daemon.caracal(&["top"]);
    assert_eq!(refused.status.code(), Some(2), "no terminal");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("caracal top --once"), "{said}");
    let (sent, lost) = stream.finish();
    assert!(sent > lost);
    daemon.finish();
}

/// `caracal top` at a terminal.
struct Screen {
    child: Child,
    slave: OwnedFd,
    before: LocalFlags,
    keys: File,
    shown: Arc<Mutex<String>>,
}

fn flags(terminal: &OwnedFd) -> LocalFlags {
    tcgetattr(terminal).expect("a terminal").local_flags
}

impl Screen {
    fn open(daemon: &Daemon) -> Self {
        let OpenptyResult { master, slave } = openpty(None, None).expect("a terminal");
        let before = flags(&slave);
        let end = || slave.try_clone().expect("a descriptor");
        let child = daemon
            .command(&["top"])
            .stdin(end())
            .stdout(end())
            .spawn()
            .expect("caracal");
        let keys = File::from(master);
        let mut output = keys.try_clone().expect("a descriptor");
        let shown = Arc::new(Mutex::new(String::new()));
        let text = Arc::clone(&shown);
        // It ends with the terminal.
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut part) {
                let mut text = text.lock().expect("text");
                text.push_str(&String::from_utf8_lossy(&part[..count]));
            }
        });
        Self {
            child,
            slave,
            before,
            keys,
            shown,
        }
    }

    /// Waits until it shows `text`, of what it has drawn since the last time.
    fn wait_for(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let shown = std::mem::take(&mut *self.shown.lock().expect("text"));
            if shown.contains(text) {
                return;
            }
            assert!(Instant::now() < deadline, "no {text:?} in {shown:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn press(&mut self, key: &str) {
        self.keys.write_all(key.as_bytes()).expect("a key");
    }

    /// Waits for its end, after which the terminal is as it was.
    fn end(mut self) {
        let status = self.child.wait().expect("an end");
        assert_eq!(status.code(), Some(0));
        self.wait_for("\x1b[?1049l");
        assert_eq!(flags(&self.slave), self.before);
    }
}

#[test]
fn the_screen_is_drawn_and_the_terminal_is_left_as_it_was() {
    let Some(lab) = Lab::new("top::the_screen_is_drawn_and_the_terminal_is_left_as_it_was") else {
        return;
    };
    let mut daemon = Daemon::start(&lab);
    let mut screen = Screen::open(&daemon);
    screen.wait_for("PKTS/ROUND");
    screen.press("d");
    screen.wait_for("DROP/S");
    screen.press(" ");
    screen.wait_for("space goes on");
    screen.press("q");
    screen.end();

    let screen = Screen::open(&daemon);
    screen.wait_for("PKTS/ROUND");
    let pid = Pid::from_raw(screen.child.id().cast_signed());
    kill(pid, Signal::SIGINT).expect("SIGINT");
    screen.end();

    let mut screen = Screen::open(&daemon);
    screen.wait_for("PKTS/ROUND");
    daemon.finish();
    screen.wait_for("no daemon answers");
    screen.press("q");
    screen.end();
}
