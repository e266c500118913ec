//! User-mode Linux: a kernel that has IPIP, whatever the machine's own has.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::lab::Lab;

pub(crate) const PROGRAM: &str = "linux.uml";
/// Port of the guest's UDP and TCP echo.
pub(crate) const ECHO_PORT: u16 = 7007;
/// How long the guest may take to be ready, on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// How long a guest lives that nobody ends: with its init it ends, too.
const LIFETIME: Duration = Duration::from_mins(10);

/// What a guest is to be.
pub(crate) struct Role {
    /// Its links: the tap's name here; name, MAC address and MTU there.
    pub(crate) links: Vec<(&'static str, String, String, u16)>,
    pub(crate) sysctls: Vec<(String, &'static str)>,
    /// For `ip -batch`.
    pub(crate) commands: Vec<String>,
    /// Where it echoes by UDP and TCP, on [`ECHO_PORT`].
    pub(crate) echoes_at: Option<Ipv4Addr>,
}

/// A guest that runs. Ended when dropped.
pub(crate) struct Guest {
    child: Child,
    said: Receiver<String>,
}

impl Guest {
    /// Boots a guest in a namespace of `lab` that has its taps, and waits until it is ready.
    pub(crate) fn boot(lab: &Lab, part: &str, role: &Role) -> Self {
        let dir = lab.dir().join("guest");
        fs::create_dir_all(&dir).expect("a directory for the guest");
        let mut links = Vec::new();
        let mut arguments = Vec::new();
        for (number, (tap, name, mac, mtu)) in role.links.iter().enumerate() {
            links.push(format!("vec{number} {name} {mac} {mtu}"));
            arguments.push(format!(
                "vec{number}:transport=tap,ifname={tap},depth=64,gro=0"
            ));
        }
        let sysctls = role.sysctls.iter();
        let sysctls = sysctls
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        let echo = role.echoes_at.map(|ip| SocketAddrV4::new(ip, ECHO_PORT));
        let echo = echo.iter().map(ToString::to_string).collect();
        for (name, lines) in [
            ("links", &links),
            ("echo", &echo),
            ("sysctls", &sysctls),
            ("commands", &role.commands),
        ] {
            fs::write(dir.join(name), lines.join("\n") + "\n").expect("write for the guest");
        }
        let init = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernel_oracle/uml/init.sh");
        let helper = env::current_exe().expect("our own program");
        arguments.extend(
            [
                "mem=128M quiet con=null con0=null,fd:1 root=/dev/root rootfstype=hostfs rootflags=/ ro",
                // See `without_extended_state`.
                "GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW,-AVX_Fast_Unaligned_Load",
            ]
            .iter()
            .flat_map(|words| words.split(' '))
            .map(str::to_owned),
        );
        arguments.extend([
            format!("uml_dir={}", dir.display()),
            "umid=guest".to_owned(),
            format!("ORACLE_DIR={}", dir.display()),
            format!("ORACLE_HELPER={}", helper.display()),
            "init=/bin/sh".to_owned(),
            "--".to_owned(),
            init.display().to_string(),
        ]);
        let mut child = lab.within(part, || {
            without_extended_state();
            Command::new(PROGRAM)
                .args(&arguments)
                .env("TMPDIR", &dir)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                // Its own processes are the guest's: they go together.
                .process_group(0)
                .spawn()
                .expect("start user-mode Linux")
        });
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, said) = mpsc::channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let guest = Self { child, said };
        guest.wait_ready();
        guest
    }

    fn wait_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        let mut heard = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.said.recv_timeout(left) {
                Ok(line) if line.trim_end() == "guest: ready" => return,
                Ok(line) => heard.push(line),
                Err(error) => panic!(
                    "the guest does not get ready ({error}):\n{}",
                    heard.join("\n")
                ),
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if thread::panicking() {
            let lines: Vec<String> = self.said.try_iter().collect();
            eprintln!("the guest said:\n{}", lines.join("\n"));
        }
        // Not waited for yet, so the number is still its own, and so is the group's.
        let pid = Pid::from_raw(self.child.id().cast_signed());
        let _ = kill(pid, Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = killpg(pid, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Hides the processor's extended state (AVX and more) from what this thread starts.
///
/// User-mode Linux 6.1 keeps its processes' registers in 832 bytes, and ptrace takes all or nothing: on a processor
/// with AVX-512 or AMX no guest gets as far as its first process. Refused the extended set, it does with the basic one;
/// the guest's programs are told to keep off the rest (`GLIBC_TUNABLES`).
fn without_extended_state() {
    const PTRACE_GETREGSET: u64 = 0x4204;
    const PTRACE_SETREGSET: u64 = 0x4205;
    const NT_X86_XSTATE: u64 = 0x202;
    let is = |argument, value| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value)
            .expect("a condition")
    };
    let rules = [PTRACE_GETREGSET, PTRACE_SETREGSET]
        .map(|request| {
            SeccompRule::new(vec![is(0, request), is(2, NT_X86_XSTATE)]).expect("a rule")
        })
        .into();
    let filter = SeccompFilter::new(
        [(libc::SYS_ptrace, rules)].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EINVAL.cast_unsigned()),
        env::consts::ARCH.try_into().expect("a known processor"),
    )
    .expect("a filter");
    let program: seccompiler::BpfProgram = filter.try_into().expect("a program");
    seccompiler::apply_filter(&program).expect("seccomp");
}

/// Not a test: what the guest's init runs of this program. Does nothing elsewhere.
#[test]
fn guest() {
    match env::var("ORACLE_GUEST").as_deref() {
        Ok("modules") => load_modules(),
        Ok("serve") => serve(),
        _ => {}
    }
}

fn load_modules() {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc");
    let dir = PathBuf::from("/usr/lib/uml/modules")
        .join(release.trim())
        .join("kernel/net/ipv4");
    for name in ["tunnel4", "ip_tunnel", "ipip"] {
        let file = File::open(dir.join(format!("{name}.ko"))).expect(name);
        nix::kmod::finit_module(&file, c"", nix::kmod::ModuleInitFlags::empty()).expect(name);
    }
}

/// Echoes, if the guest is to, until it is ended; or for [`LIFETIME`], should nobody be left to end it.
fn serve() -> ! {
    thread::spawn(|| {
        thread::sleep(LIFETIME);
        std::process::exit(0);
    });
    let file = Path::new(&env::var("ORACLE_DIR").expect("from init")).join("echo");
    let text = fs::read_to_string(file).expect("where to echo");
    let Ok(address) = text.trim().parse::<SocketAddrV4>() else {
        loop {
            thread::park();
        }
    };
    let udp = UdpSocket::bind(address).expect("bind UDP");
    thread::spawn(move || {
        let mut bytes = [0; 2048];
        while let Ok((len, from)) = udp.recv_from(&mut bytes) {
            let _ = udp.send_to(&bytes[..len], from);
        }
    });
    let tcp = TcpListener::bind(address).expect("bind TCP");
    loop {
        if let Ok((mut stream, _)) = tcp.accept() {
            let mut bytes = Vec::new();
            if stream.read_to_end(&mut bytes).is_ok() {
                let _ = stream.write_all(&bytes);
            }
        }
    }
}
