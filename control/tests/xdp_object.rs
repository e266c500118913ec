//! The committed XDP objects are what their sources compile to.

use std::path::Path;
use std::process::Command;

use fastpath::io::xsk::test_support::skip;

/// The compiler of the committed objects; another major version orders and chooses instructions differently.
const CLANG: &str = "14";

#[test]
fn the_committed_objects_are_what_the_sources_compile_to() {
    let test = "the_committed_objects_are_what_the_sources_compile_to";
    match clang_major() {
        None => return skip(test, "`clang` is not installed"),
        Some(major) if major != CLANG => {
            return skip(
                test,
                &format!("clang is {major}, the objects are of {CLANG}"),
            );
        }
        Some(_) => {}
    }
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../xdp");
    let out =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("rebuilt-{}", std::process::id()));
    std::fs::create_dir_all(&out).expect("a directory for the result");
    let built = Command::new(sources.join("build.sh"))
        .arg(&out)
        .output()
        .expect("build.sh");
    assert!(
        built.status.success(),
        "xdp/build.sh: {}",
        String::from_utf8_lossy(&built.stderr)
    );
    for object in ["nic.bpf.o", "pod.bpf.o", "flow.bpf.o"] {
        let committed = std::fs::read(sources.join(object)).expect("committed");
        let rebuilt = std::fs::read(out.join(object)).expect("rebuilt");
        assert!(
            committed == rebuilt,
            "xdp/{object} is not what its source compiles to; run xdp/build.sh and commit it"
        );
    }
    std::fs::remove_dir_all(&out).expect("remove the result");
}

fn clang_major() -> Option<String> {
    let output = Command::new("clang").arg("-dumpversion").output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    Some(version.trim().split('.').next()?.to_owned())
}
