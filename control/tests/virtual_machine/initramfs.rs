//! What the machine starts from, until it sees the host's files.

use std::env;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::INSIDE;
use super::kernel::Kernel;

/// Modules to see the host's files by, and to keep what is written in memory.
const MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];
/// What of the environment the test has in the machine, too.
const PASSED_ON: [&str; 3] = ["PATH", "RUST_BACKTRACE", "CARACAL_NO_SKIP"];

/// Makes it below `dir`, for a machine that runs `test` of this program, which speaks on `terminal`.
pub(super) fn make(kernel: &Kernel, dir: &Path, test: &str, terminal: &str) -> PathBuf {
    let root = dir.join("initramfs");
    for name in ["bin", "host", "memory", "modules", "new", "proc"] {
        fs::create_dir_all(root.join(name)).expect("a directory");
    }
    let paths = env::var_os("PATH").expect("a PATH");
    let busybox = env::split_paths(&paths).map(|dir| dir.join("busybox"));
    let busybox = busybox.into_iter().find(|file| file.is_file());
    fs::copy(busybox.expect("busybox"), root.join("bin/busybox")).expect("copy busybox");
    for (number, file) in kernel.with_dependencies(&MODULES).iter().enumerate() {
        let name = file.file_name().expect("a file").display();
        let to = root.join(format!("modules/{number:02}-{name}"));
        fs::copy(file, &to).expect("copy a module");
        if file.extension().is_some_and(|it| it == "xz") {
            unpack(&to);
        }
    }
    let init = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/virtual_machine/init.sh");
    let program = env::current_exe().expect("our own program");
    let shown = [
        Path::new(env!("CARGO_MANIFEST_DIR")).parent(),
        program.parent(),
        Path::new(env!("CARGO_BIN_EXE_caracal")).parent(),
    ];
    let mut lines = String::new();
    for directory in shown.into_iter().flatten() {
        let _ = writeln!(lines, "{}", directory.display());
    }
    fs::write(root.join("shown"), lines).expect("write");
    fs::write(root.join("kernel"), kernel.dir.display().to_string()).expect("write");
    fs::write(root.join("guest"), guest(&program, test, terminal)).expect("write");
    fs::copy(init, root.join("init")).expect("copy init");
    pack(&root, &dir.join("initramfs.cpio"))
}

/// The script that runs the test and switches the machine off.
fn guest(program: &Path, test: &str, terminal: &str) -> String {
    let mut script = String::new();
    for name in PASSED_ON {
        if let Ok(value) = env::var(name) {
            let _ = writeln!(script, "export {name}={}", quoted(&value));
        }
    }
    let _ = write!(
        script,
        "export HOME=/root {INSIDE}=1\n\
         ip link set lo up\n\
         cd {}\n\
         {{\n  echo {}\n  {} --exact {} --nocapture --test-threads 1\n}} >{terminal} 2>&1 </dev/null\n\
         echo o >/proc/sysrq-trigger\n\
         # No file can be read any more.\n\
         while :; do :; done\n",
        quoted(env!("CARGO_MANIFEST_DIR")),
        quoted(super::machine::UP),
        quoted(&program.display().to_string()),
        quoted(test),
    );
    script
}

/// busybox gives the kernel what it reads, which is to be the module itself.
fn unpack(file: &Path) {
    let status = Command::new("busybox").arg("unxz").arg(file).status();
    let status = status.expect("busybox");
    assert!(status.success(), "busybox unxz: {status}");
}

/// As one word of the shell's.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn pack(root: &Path, archive: &Path) -> PathBuf {
    let status = Command::new("sh")
        .args(["-c", "chmod 755 init && find . | busybox cpio -o -H newc"])
        .current_dir(root)
        .stdout(File::create(archive).expect("an archive"))
        .stderr(Stdio::null())
        .status()
        .expect("sh");
    assert!(status.success(), "busybox cpio: {status}");
    archive.to_owned()
}
