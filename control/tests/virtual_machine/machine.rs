//! A virtual machine that runs one test.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use fastpath::io::xsk::test_support::{reap_at_end, skip, skipped_without};

use super::initramfs;
use super::kernel::{Kernel, Which};

const QEMU: &str = "qemu-system-x86_64";
/// What it says first.
pub(super) const UP: &str = "up";
/// Where the test speaks; the kernel has the first.
const TERMINAL: &str = "/dev/ttyS1";
/// How long a test may take, emulated on a busy machine; less than nextest gives it.
const PATIENCE: Duration = Duration::from_mins(8);
/// How long a machine may take to come up by KVM. Some that are virtual themselves have a /dev/kvm that does not work.
const KVM_PATIENCE: Duration = Duration::from_secs(30);
/// Lines of its log that are shown when it fails.
const TAIL: usize = 60;

/// Runs a test of this program in a machine of its own, or skips it, aloud.
///
/// # Panics
///
/// When it fails there, or does not end.
pub(super) fn run(which: Which, test: &str) {
    if skipped_without(test, &[QEMU, "busybox", "setpriv"]) {
        return;
    }
    let Some(kernel) = Kernel::find(which) else {
        let missing = format!(
            "target/{} holds no kernel of Debian's; on Debian 12, .ci/test fetches it",
            which.dir()
        );
        return skip(test, &missing);
    };
    let dir = Directory::new();
    let initramfs = initramfs::make(&kernel, &dir.0, test, TERMINAL);
    let start = |accelerator| Machine::start(&kernel, &initramfs, &dir.0, accelerator);
    let mut machine = None;
    if has_kvm() {
        let by_kvm = start(&["-accel", "kvm", "-cpu", "host"]);
        machine = by_kvm.comes_up(KVM_PATIENCE).then_some(by_kvm);
    }
    let machine = machine.unwrap_or_else(|| {
        let emulated = start(&["-accel", "tcg,thread=multi", "-cpu", "max"]);
        assert!(
            emulated.comes_up(PATIENCE),
            "the machine does not come up:\n{}",
            emulated.log()
        );
        emulated
    });
    machine.runs(test);
}

fn has_kvm() -> bool {
    let mut options = OpenOptions::new();
    options.read(true).write(true).open("/dev/kvm").is_ok()
}

/// A directory that goes with the test, however that ends.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        reap_at_end();
        let dir = env::temp_dir().join(format!("car-{}-vm{count}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        Self(dir)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A machine that runs. Ended when dropped, and with the thread that started it.
struct Machine {
    child: Child,
    said: Receiver<String>,
    deadline: Instant,
    dir: PathBuf,
}

impl Machine {
    fn start(kernel: &Kernel, initramfs: &Path, dir: &Path, accelerator: &[&str]) -> Self {
        let errors = File::create(dir.join("qemu.log")).expect("a log");
        // The first line of the machine's is the kernel's log.
        let mut child = Command::new("sh")
            .args([
                "-c",
                "ulimit -c 0; exec setpriv --pdeathsig KILL \"$@\"",
                "sh",
            ])
            .args([QEMU, "-machine", "q35", "-smp", "2", "-m", "2048"])
            .args(accelerator)
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display"])
            .args(["none", "-serial", "file:kernel.log", "-serial", "stdio"])
            .arg("-kernel")
            .arg(kernel.image())
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", "console=ttyS0 quiet panic=-1"])
            .args([
                "-virtfs",
                "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
            ])
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .expect("start qemu");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, said) = mpsc::channel();
        thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            said,
            deadline: Instant::now() + PATIENCE,
            dir: dir.to_owned(),
        }
    }

    /// Whether it gets as far as the test.
    fn comes_up(&self, patience: Duration) -> bool {
        self.said
            .recv_timeout(patience)
            .is_ok_and(|line| line == UP)
    }

    /// Passes on what is said, until it is switched off; the test must have passed.
    fn runs(mut self, test: &str) {
        let mut passed = false;
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            match self.said.recv_timeout(left) {
                // Not as if it were this program's own: its results are counted by the same words.
                Ok(line) => {
                    println!("machine: {line}");
                    passed |= line.starts_with("test result: ok. 1 passed");
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("{test} does not end in the machine:\n{}", self.log())
                }
            }
        }
        self.child.wait().expect("wait");
        assert!(passed, "{test} failed in the machine:\n{}", self.log());
    }

    /// The end of what the kernel said, and what qemu did.
    fn log(&self) -> String {
        let mut text = String::new();
        for name in ["qemu.log", "kernel.log"] {
            let bytes = fs::read(self.dir.join(name)).unwrap_or_default();
            text += &String::from_utf8_lossy(&bytes);
        }
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
