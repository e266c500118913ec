//! The Debian package: all that its description names is there. Building it takes a release build and cargo-deb. And the DaemonSet.

use std::fs;
use std::path::Path;
use std::process::Command;

use control::config::{DaemonConfig, Source};

use super::files::root;

/// What is made when the package is built.
const MADE: [&str; 6] = [
    "target/release/caracal",
    "target/release/deb/man8/*.gz",
    "target/release/deb/changelog.gz",
    "target/release/deb/completions/caracal.bash",
    "target/release/deb/completions/caracal.zsh",
    "target/release/deb/completions/caracal.fish",
];

fn read(path: &str) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Files of the package: where they are, and where they go.
fn assets(manifest: &str) -> Vec<(String, String)> {
    let list = manifest.split("\nassets = [\n").nth(1).expect("assets");
    let lines = list.lines().take_while(|line| *line != "]");
    let words = |line: &str| line.split('"').map(str::to_owned).collect::<Vec<_>>();
    lines
        .map(|line| match &words(line)[..] {
            [_, from, _, to, _, mode, _] if ["644", "755"].contains(&mode.as_str()) => {
                (from.clone(), to.clone())
            }
            _ => panic!("not as the others: {line}"),
        })
        .collect()
}

/// Whether there is such a file; `*` in its name stands for anything.
fn is_there(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let (Some(name), Some(directory)) = (name, path.parent()) else {
        return false;
    };
    let Some((before, after)) = name.split_once('*') else {
        return path.is_file();
    };
    let mut names = fs::read_dir(directory).into_iter().flatten().flatten();
    names.any(|it| {
        let name = it.file_name();
        let name = name.to_string_lossy();
        name.starts_with(before) && name.ends_with(after)
    })
}

#[test]
fn every_file_of_the_debian_package_is_there() {
    let manifest = read("control/Cargo.toml");
    let assets = assets(&manifest);
    assert!(assets.len() > 10, "{assets:?}");
    for (from, to) in &assets {
        let made = MADE.contains(&from.as_str());
        assert!(
            made || is_there(&root().join("control").join(from)),
            "{from} for {to}"
        );
    }
    for made in MADE {
        assert!(assets.iter().any(|(from, _)| from == made), "{made}");
    }
    // Files that an upgrade asks about.
    let files = manifest.split("\nconf-files = [").nth(1);
    let files = files.and_then(|files| files.split(']').next());
    let files: Vec<_> = files.expect("conf-files").split('"').collect();
    let files: Vec<_> = files.into_iter().skip(1).step_by(2).collect();
    let into_etc = assets.iter().filter(|(_, to)| to.starts_with("etc/"));
    let into_etc: Vec<_> = into_etc.map(|(_, to)| format!("/{to}")).collect();
    assert_eq!(into_etc, files);
    assert!(read("deploy/caracal.service").contains("\nExecStart=caracal run "));
}

#[test]
fn the_scripts_of_the_debian_package_are_scripts() {
    for name in ["postinst", "prerm", "postrm", "build"] {
        let path = format!("deploy/debian/{name}");
        let text = read(&path);
        let shell = if name == "build" { "bash" } else { "sh" };
        let output = Command::new(shell)
            .arg("-n")
            .arg(root().join(&path))
            .output();
        let output = output.expect("a shell");
        assert!(output.status.success(), "{name}: {output:?}");
        assert_eq!(text.contains("\n#DEBHELPER#\n"), name != "build", "{name}");
    }
    // Once the daemon is stopped, and while the program is still there.
    let prerm = read("deploy/debian/prerm");
    let (_, after) = prerm.split_once("#DEBHELPER#").expect("the mark");
    assert!(after.contains("caracal cleanup"), "{prerm}");
}

#[test]
fn the_package_advises_a_restart_only_of_what_runs() {
    let dir = std::env::temp_dir().join(format!("caracal-postinst-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let program = |name: &str, code: u8| {
        let path = dir.join(name);
        std::fs::write(&path, format!("#!/bin/sh\nexit {code}\n")).expect("a program");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("a program");
    };
    program("mkdir", 0);
    // What `systemctl is-active` answers, and the version that was there before.
    for (active, before, restart) in [(0, "0.1.0", true), (3, "0.1.0", false), (3, "", false)] {
        program("systemctl", active);
        let script = root().join("deploy/debian/postinst");
        let mut command = Command::new("/bin/sh");
        command.arg(script).args(["configure", before]);
        let output = command.env("PATH", &dir).output().expect("a shell");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(text.contains("systemctl restart"), restart, "{text}");
        assert_eq!(text.contains("enable --now"), !restart, "{text}");
    }
    std::fs::remove_dir_all(&dir).expect("gone");
}

/// It was never run in a cluster; that it fits the daemon's defaults can be seen.
#[test]
fn the_daemon_set_is_of_this_daemon() {
    let text = read("deploy/daemonset.yaml");
    let (_, config) = text
        .split_once("  caracal.yaml: |\n")
        .expect("the daemon's file");
    let lines = config.lines().map_while(|line| line.strip_prefix("    "));
    let config: String = lines.flat_map(|line| [line, "\n"]).collect();
    let config = Source::new("/etc/caracal/caracal.yaml", config);
    let config = DaemonConfig::parse(&config).expect("a good file");
    assert!(!config.uplinks.is_empty());
    let health = config.listen.health.expect("probes");
    let probe = format!("{{host: {}, port: {}, path: /", health.ip(), health.port());
    for path in ["liveness", "readiness"] {
        assert!(text.contains(&format!("{probe}{path}}}")), "{path}");
    }
    // What the daemon writes to is the node's.
    for file in [
        &config.control_socket,
        &config.felix_socket,
        &config.mtu_file,
    ] {
        let directory = file.parent().expect("a directory").display();
        assert!(
            text.contains(&format!("hostPath: {{path: {directory}, ")),
            "{directory}"
        );
        assert!(
            text.contains(&format!("mountPath: {directory}}}")),
            "{directory}"
        );
    }
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        text.matches(&format!("image: caracal:{version}\n")).count(),
        3
    );
    for line in text.lines().filter(|line| line.contains("mountPath: ")) {
        let name = line
            .split("name: ")
            .nth(1)
            .and_then(|it| it.split(',').next());
        let volume = format!("\n        - name: {}\n", name.expect("a name"));
        assert!(text.contains(&volume), "{line}");
    }
}
