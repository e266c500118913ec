//! Commands that ask a daemon, beside one that is played.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use control::api::Response;
use serde_json::Value;

const STATUS: &str = include_str!("golden/status.json");

/// A socket's place. It goes away with its test.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("caracal-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("socket")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Answers one question on each of so many connections.
fn play(socket: &Path, connections: usize, answer: &'static str) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(connections) {
            reply(&stream.unwrap(), answer);
        }
    })
}

fn reply(mut stream: &UnixStream, answer: &str) {
    let mut question = String::new();
    BufReader::new(stream).read_line(&mut question).unwrap();
    let outcome = Ok(serde_json::from_str(answer).unwrap());
    let response = Response {
        id: Some(1),
        outcome,
    };
    stream.write_all(response.to_line().as_bytes()).unwrap();
}

fn caracal(socket: &Path, args: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_caracal"))
        .arg("--socket")
        .arg(socket)
        .args(args.split(' '))
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn versions_of_the_program_and_of_the_daemon() {
    let place = Place::new("version");
    let version = env!("CARGO_PKG_VERSION");

    let alone = caracal(&place.socket(), "version");
    assert_eq!(alone.status.code(), Some(0), "{alone:?}");
    assert_eq!(text(&alone.stdout), format!("Client version: {version}\n"));
    let note = text(&alone.stderr);
    assert!(note.starts_with("note: no daemon answers at"), "{note}");
    assert_eq!(note.lines().count(), 1, "{note}");
    let alone = caracal(&place.socket(), "version -o json");
    let alone: Value = serde_json::from_slice(&alone.stdout).unwrap();
    assert_eq!(alone["daemon"], Value::Null);

    let daemon = play(&place.socket(), 2, STATUS);
    let both = caracal(&place.socket(), "version");
    let expected = format!("Client version: {version}\nDaemon version: 0.1.0\n");
    assert_eq!(
        (text(&both.stdout), text(&both.stderr)),
        (expected, String::new())
    );
    let both = caracal(&place.socket(), "version -o json");
    let both: Value = serde_json::from_slice(&both.stdout).unwrap();
    assert_eq!(both["schema"], "caracal.version/v1");
    assert_eq!(both["client"]["version"], version);
    assert_eq!(both["client"]["protocol"], control::api::VERSION);
    assert_eq!(both["daemon"]["version"], "0.1.0");
    daemon.join().unwrap();
}

/// Until the daemon is gone, whose answers come one a round.
#[test]
fn what_is_watched_is_shown_again_and_again() {
    let ports = include_str!("golden/ports.json");
    let drops = include_str!("golden/drops.json");
    let cases = [
        ("status -w", STATUS),
        ("status --watch 1 -o json", STATUS),
        ("ports -w", ports),
        ("ports --watch 1 -o json", ports),
        ("drops -w --by reason", drops),
        ("drops --watch 1 -o json", drops),
    ];
    std::thread::scope(|scope| {
        for (case, (args, answer)) in cases.into_iter().enumerate() {
            scope.spawn(move || watch(&Place::new(&format!("watch{case}")), args, answer));
        }
    });
}

fn watch(place: &Place, args: &str, answer: &'static str) {
    let daemon = play(&place.socket(), 2, answer);
    let output = caracal(&place.socket(), args);
    daemon.join().unwrap();
    let (shown, said) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(4), "{args}: {said}");
    let (first, second) = shown.split_at(shown.len() / 2);
    assert!(!first.is_empty(), "{args}");
    assert_eq!(first, second, "{args}");
    assert!(!shown.contains('\u{1b}'), "no terminal: {args}");
}
