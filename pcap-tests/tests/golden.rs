//! The golden cases under `cases/`: captures through `caracal replay`, judged twice: by what a person wrote in
//! `src/stories`, and byte for byte by what was recorded. `UPDATE_GOLDEN=1` records anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use control::config::{HostEndpoints, compute_with, load_paths};
use control::replay::{Job, KernelFile, ReplayNode, Summary, run, scan};
use fastpath::capture::{Reader, Writer};
use fastpath::io::xsk::test_support::skip;
use pcap_tests::build::{IPIP, UDP};
use pcap_tests::oracle::masked;
use pcap_tests::show;
use pcap_tests::stories::{self, Story};

fn cases() -> PathBuf {
    // Tests run in the directory of their package, and what policy says names its files.
    PathBuf::from("cases")
}

/// A directory that goes away with its test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir =
            std::env::temp_dir().join(format!("caracal-golden-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).expect("a scratch directory");
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The capture of what comes in by each port.
fn inputs(story: &Story) -> BTreeMap<&'static str, Vec<u8>> {
    let mut writers = BTreeMap::new();
    for (port, millis, frame) in &story.input {
        let writer = writers
            .entry(*port)
            .or_insert_with(|| Writer::new(Vec::new()).expect("memory"));
        let second = 1_700_000_000_000_u64;
        writer
            .write((second + millis) * 1_000_000, frame)
            .expect("memory");
    }
    writers
        .into_iter()
        .map(|(port, writer)| (port, writer.into_inner()))
        .collect()
}

fn frames(path: &Path) -> Vec<Vec<u8>> {
    let mut reader = Reader::open(path).unwrap_or_else(|error| panic!("{error}"));
    let mut frames = Vec::new();
    while let Some(record) = reader
        .next_record()
        .unwrap_or_else(|error| panic!("{error}"))
    {
        frames.push(record.data.to_vec());
    }
    frames
}

/// Runs the captures `in-PORT.pcap` of a folder; the outputs go to `out`.
fn replay(case: &Path, ports: &[&str], out: &Path) -> Summary {
    let mut config = vec![cases().join("cluster.yaml"), case.join("pool.yaml")];
    for more in ["policy.yaml", "services.yaml"] {
        config.extend(Some(case.join(more)).filter(|file| file.exists()));
    }
    let resources = load_paths(&config).unwrap_or_else(|all| panic!("{}", all.render(false)));
    let desired = compute_with(&resources, "node1", HostEndpoints::ForwardedOnly);
    let desired = desired.unwrap_or_else(|all| panic!("{all:?}"));
    let kernel = KernelFile::load(&cases().join("kernel.yaml"))
        .unwrap_or_else(|all| panic!("{}", all.render(false)));
    let mut node = ReplayNode::new(desired, &kernel, None, 0).expect("small tables");
    let inputs = ports.iter().map(|name| {
        let file = case.join(format!("in-{name}.pcap"));
        let scan = scan(&file, |_| false).unwrap_or_else(|error| panic!("{error}"));
        (node.port(name).expect("a port of the cluster"), file, scan)
    });
    let job = Job {
        name: "node1",
        seed: 0,
        inputs: inputs.collect(),
        out,
        verdicts: Some(&out.join("verdicts.jsonl")),
    };
    run(&mut node, &job).unwrap_or_else(|error| panic!("{error}"))
}

/// Hides what is ours to choose in a tunnel packet that node1 sends. Everything of other packets counts, those that leave
/// with node1's address for a pod among them.
fn comparable(port: &str, frame: &[u8]) -> Vec<u8> {
    let is_vxlan = |at: usize| frame.get(at..at + 2) == Some(&4789_u16.to_be_bytes());
    let from_node1 = match frame.get(26..30) {
        Some([172, 18, 0, 2]) if frame[12..14] == [8, 0] => {
            frame[23] == IPIP || frame[23] == UDP && is_vxlan(36)
        }
        _ => frame.get(22..38) == Some(&NODE1_V6) && frame[20] == UDP && is_vxlan(56),
    };
    masked(frame, port == "eth0" && from_node1)
}

const NODE1_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0x18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

/// What a person wrote must come true.
fn judge_by_hand(story: &Story, out: &Path) {
    let mut problems = String::new();
    let ports: BTreeSet<&str> = ["calia", "calib", "calic", "eth0", "caracal0"].into();
    for port in ports {
        let path = out.join(format!("{port}.pcap"));
        let found = if path.exists() {
            frames(&path)
        } else {
            Vec::new()
        };
        let expected = story.output.iter().filter(|(by, _)| *by == port);
        let expected: Vec<_> = expected.map(|(_, frame)| comparable(port, frame)).collect();
        let found: Vec<_> = found.iter().map(|frame| comparable(port, frame)).collect();
        problems += &show::difference(&format!("{}: out by {port}", story.name), &expected, &found);
    }
    assert!(problems.is_empty(), "{problems}");
    let verdicts = fs::read_to_string(out.join("verdicts.jsonl")).expect("the verdicts");
    let fates: Vec<String> = verdicts
        .lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let fate = line["out"]["port"].as_str().or(line["reason"].as_str());
            fate.or(line["fate"].as_str()).expect("a fate").to_owned()
        })
        .collect();
    assert_eq!(fates, story.fates, "{}", story.name);
}

/// Our own outer source ports must be those that RFC 7348 section 5 recommends, and a datagram's fragments share one.
fn judge_source_ports(story: &Story, out: &Path) {
    let path = out.join("eth0.pcap");
    if !path.exists() {
        return;
    }
    let ports: Vec<u16> = frames(&path)
        .iter()
        .filter(|frame| frame[12..14] == [8, 0] && frame[23] == 17 && frame[36..38] == [0x12, 0xb5])
        .map(|frame| u16::from_be_bytes([frame[34], frame[35]]))
        .collect();
    assert!(
        ports.iter().all(|port| *port >= 49152),
        "{}: {ports:?}",
        story.name
    );
    if story.name == "too-big-without-df" {
        assert_eq!(ports[0], ports[1]);
    }
}

/// The packets of a case in words, for whoever reviews it.
fn in_words(story: &Story, out: &Path) -> String {
    let mut text = String::from(
        "What goes in and out, layer by layer. Made by UPDATE_GOLDEN=1; the captures are what counts.\n",
    );
    for (index, (port, millis, frame)) in story.input.iter().enumerate() {
        let fate = story.fates[index];
        let _ = writeln!(text, "\nin {index} by {port} at {millis} ms: {fate}");
        text += &show::layers(frame, "  ");
    }
    let ports: BTreeSet<&str> = story.output.iter().map(|(port, _)| *port).collect();
    for port in ports {
        for (index, frame) in frames(&out.join(format!("{port}.pcap"))).iter().enumerate() {
            let _ = writeln!(text, "\nout {index} by {port}");
            text += &show::layers(frame, "  ");
        }
    }
    text
}

fn record(case: &Path, story: &Story, out: &Path) {
    for entry in fs::read_dir(case).expect("the case") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        if name.starts_with("out-") {
            fs::remove_file(&path).expect("an old output");
        }
    }
    for entry in fs::read_dir(out).expect("the outputs") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        if path
            .extension()
            .is_some_and(|extension| extension == "pcap")
        {
            fs::copy(&path, case.join(format!("out-{name}"))).expect("an output");
        }
    }
    fs::copy(out.join("verdicts.jsonl"), case.join("verdicts.jsonl")).expect("the verdicts");
    fs::write(case.join("packets.txt"), in_words(story, out)).expect("the packets");
}

/// What was recorded must come out again.
fn judge_by_record(case: &Path, story: &Story, out: &Path) {
    for port in ["calia", "calib", "calic", "eth0", "caracal0"] {
        let (recorded, found) = (
            case.join(format!("out-{port}.pcap")),
            out.join(format!("{port}.pcap")),
        );
        assert_eq!(
            recorded.exists(),
            found.exists(),
            "{}: out by {port}",
            story.name
        );
        if !found.exists() {
            continue;
        }
        let (recorded, found) = (fs::read(recorded), fs::read(found));
        let same = recorded.expect("a file") == found.expect("a file");
        let what = format!("{}: recorded out by {port}", story.name);
        let difference = show::difference(
            &what,
            &frames(&case.join(format!("out-{port}.pcap"))),
            &frames(&out.join(format!("{port}.pcap"))),
        );
        assert!(same, "{difference}{what}: the files differ");
    }
    let verdicts =
        |dir: &Path| fs::read_to_string(dir.join("verdicts.jsonl")).expect("the verdicts");
    assert_eq!(verdicts(case), verdicts(out), "{}", story.name);
    assert_eq!(
        fs::read_to_string(case.join("packets.txt")).expect("the packets in words"),
        in_words(story, out),
        "{}",
        story.name
    );
}

fn tell(story: &Story) {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1");
    let case = cases().join(story.name);
    assert!(
        case.join("README.md").exists(),
        "{} has no README.md",
        story.name
    );
    let inputs = inputs(story);
    for (port, capture) in &inputs {
        let path = case.join(format!("in-{port}.pcap"));
        if update {
            fs::write(&path, capture).expect("an input");
        }
        let committed = fs::read(&path).unwrap_or_default();
        assert!(
            &committed == capture,
            "{}: not what src/stories makes",
            path.display()
        );
    }
    let ports: Vec<&str> = inputs.keys().copied().collect();
    let scratch = Scratch::new(story.name);
    let out = &scratch.0;
    let summary = replay(&case, &ports, out);
    assert!(summary.accounting.balanced);
    assert_eq!(summary.accounting.rx, story.input.len() as u64);
    judge_by_hand(story, out);
    judge_source_ports(story, out);
    if update {
        record(&case, story, out);
    }
    judge_by_record(&case, story, out);
}

#[test]
fn every_story_comes_true() {
    let stories = stories::all();
    let mut failed = Vec::new();
    for story in &stories {
        // All stories are told, so that one look shows all that changed.
        if let Err(panic) = std::panic::catch_unwind(|| tell(story)) {
            let text = panic.downcast_ref::<String>().cloned();
            failed.push(text.unwrap_or_else(|| format!("{}: a panic", story.name)));
        }
    }
    assert!(
        failed.is_empty(),
        "{} stories failed:\n{}",
        failed.len(),
        failed.join("\n\n")
    );
}

#[test]
fn every_folder_has_a_story() {
    let told: BTreeSet<String> = stories::all()
        .iter()
        .map(|story| story.name.to_owned())
        .collect();
    let folders: BTreeSet<String> = fs::read_dir(cases())
        .expect("the cases")
        .map(|entry| entry.expect("an entry"))
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(told, folders);
}

#[test]
fn two_replays_give_the_same_bytes() {
    let story = &stories::all()[1];
    let ports: Vec<&str> = inputs(story).keys().copied().collect();
    let runs = ["first", "second"].map(|name| {
        let scratch = Scratch::new(name);
        replay(&cases().join(story.name), &ports, &scratch.0);
        let files = fs::read_dir(&scratch.0).expect("the outputs").map(|entry| {
            let path = entry.expect("an entry").path();
            (
                path.file_name().expect("a name").to_owned(),
                fs::read(&path).expect("a file"),
            )
        });
        files.collect::<BTreeMap<_, _>>()
    });
    assert!(runs[0].len() >= 4);
    assert!(runs[0] == runs[1]);
}

/// tshark finds no wrong checksum and nothing malformed in what leaves, but where a story has it come in so.
#[test]
fn tshark_agrees() {
    if Command::new("tshark").arg("--version").output().is_err() {
        return skip("tshark_agrees", "`tshark` is not installed");
    }
    let mut looked_at = 0;
    for story in stories::all()
        .iter()
        .filter(|story| story.name != "partial-checksum")
    {
        for port in ["calia", "calib", "calic", "eth0", "caracal0"] {
            let path = cases().join(story.name).join(format!("out-{port}.pcap"));
            if !path.exists() {
                continue;
            }
            looked_at += 1;
            let bad = "ip.checksum.status==0 || tcp.checksum.status==0 || udp.checksum.status==0 || \
                       icmp.checksum.status==0 || icmpv6.checksum.status==0 || _ws.malformed";
            let mut tshark = Command::new("tshark");
            tshark.arg("-n").arg("-r").arg(&path).args(["-Y", bad]);
            for option in [
                "ip.check_checksum:TRUE",
                "tcp.check_checksum:TRUE",
                "udp.check_checksum:TRUE",
                "ip.defragment:FALSE",
                "ipv6.defragment:FALSE",
            ] {
                tshark.args(["-o", option]);
            }
            let output = tshark.output().expect("tshark runs");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(
                output.status.success() && text.is_empty(),
                "{}: {text}",
                path.display()
            );
        }
    }
    assert!(looked_at > 20, "{looked_at} captures");
}
