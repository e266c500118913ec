//! Loading again what has changed, against loading everything.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::compile::PolicyCompiler;
use crate::config::watch::{Changed, LOOK, QUIET, Watch};
use crate::config::{Cluster, Diagnostics, Loader, load_dir};

/// After so long a file's times are trusted here.
const SETTLES: Duration = Duration::from_millis(20);
/// How many files there are.
const FILES: u8 = 6;
/// A few resources that stay.
const BASE: [(u8, u8, u8); 8] = [
    (2, 0, 0),
    (2, 1, 1),
    (3, 0, 2),
    (5, 0, 0),
    (7, 0, 0),
    (8, 0, 1),
    (11, 0, 0),
    (11, 1, 1),
];
/// The node whose policy is compiled.
const NODE: &str = "f0n0";

/// Something that happens to the directory.
#[derive(Clone, Debug)]
enum Change {
    Write(u8, Vec<(u8, u8, u8)>),
    /// The file is written anew in place of itself, with the times that it had.
    Replace(u8, Vec<(u8, u8, u8)>),
    Break(u8),
    Mend(u8),
    /// Every resource moves by a line.
    Move(u8),
    Remove(u8),
    Rename(u8, u8),
    /// A symlink to one of two files outside.
    Link(u8, bool),
    /// One of the files outside.
    Behind(bool, Vec<(u8, u8, u8)>),
    Directory(u8),
    /// Long enough for times to be trusted.
    Wait,
}

fn documents() -> impl Strategy<Value = Vec<(u8, u8, u8)>> {
    proptest::collection::vec((0..14_u8, 0..3_u8, 0..4_u8), 0..5)
}

/// Policies alone: where those before were, too, no other file is looked at.
fn policies() -> impl Strategy<Value = Vec<(u8, u8, u8)>> {
    let kind = prop_oneof![Just(8_u8), 11..14_u8];
    proptest::collection::vec((kind, 0..3_u8, 0..4_u8), 0..5)
}

fn change() -> impl Strategy<Value = Change> {
    let file = || 0..FILES;
    prop_oneof![
        6 => (file(), documents()).prop_map(|(file, all)| Change::Write(file, all)),
        6 => (file(), policies()).prop_map(|(file, all)| Change::Write(file, all)),
        2 => (file(), documents()).prop_map(|(file, all)| Change::Replace(file, all)),
        1 => (file(), policies()).prop_map(|(file, all)| Change::Replace(file, all)),
        1 => file().prop_map(Change::Break),
        1 => file().prop_map(Change::Mend),
        1 => file().prop_map(Change::Move),
        2 => file().prop_map(Change::Remove),
        1 => (file(), file()).prop_map(|(from, to)| Change::Rename(from, to)),
        1 => (file(), any::<bool>()).prop_map(|(file, which)| Change::Link(file, which)),
        1 => (any::<bool>(), documents()).prop_map(|(which, all)| Change::Behind(which, all)),
        1 => file().prop_map(Change::Directory),
        1 => Just(Change::Wait),
    ]
}

/// A resource of a file. Few are wrong, or clash with those of other files; variants differ in few bytes.
fn document(file: u8, (kind, n, v): (u8, u8, u8)) -> String {
    let is_odd = (n, v) == (2, 3);
    let file = if is_odd { 0 } else { file };
    let name = format!("f{file}n{n}");
    let v3 = |kind: &str, meta: &str, spec: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: {name}{meta}}}\nspec: {{{spec}}}\n"
        )
    };
    match kind {
        0 => v3(
            "Node",
            "",
            &format!("bgp: {{ipv4Address: 192.0.{file}.1{n}{v}/24}}"),
        ),
        1 => v3("IPPool", "", &format!("cidr: 10.{file}.{n}.0/24")),
        2 | 3 => v3(
            "WorkloadEndpoint",
            &format!("k{kind}, labels: {{app: a{v}}}"),
            &format!(
                "node: {NODE}, interfaceName: cali{file}{n}{kind}, ipNetworks: [10.{file}.{n}.{kind}{v}], profiles: [kns.default, x{file}{v}], ports: [{{name: p{v}, port: 8{v}, protocol: TCP}}]"
            ),
        ),
        4 => format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{team: t{v}}}}}\n"
        ),
        5 => v3("Tier", "", &format!("order: {v}")),
        6 => v3(
            "NetworkSet",
            &format!(", namespace: f{v}n{n}, labels: {{app: a{n}}}"),
            &format!("nets: [203.0.113.{v}/32]"),
        ),
        7 => v3(
            "HostEndpoint",
            &format!(", labels: {{app: a{v}}}"),
            &format!(
                "node: {NODE}, interfaceName: eth{file}{n}, expectedIPs: [198.51.{file}.1{n}{v}], profiles: [x{file}{v}]"
            ),
        ),
        8 => v3(
            "GlobalNetworkPolicy",
            "",
            &format!(
                "tier: {}, order: {v}, selector: app == 'a{v}', applyOnForward: true, ingress: [{{action: Deny, source: {{selector: team == 't{v}'}}}}]",
                if n == 0 { "f9n0" } else { "default" }
            ),
        ),
        9 => format!(
            "apiVersion: projectcalico.org/v3\nkind: Profile\nmetadata: {{name: x{file}{v}}}\nspec: {{labelsToApply: {{team: t{n}}}, ingress: [{{action: Allow}}, {{action: Pass}}]}}\n"
        ),
        10 => v3(
            "FelixConfiguration",
            "",
            &format!("vxlanPort: 478{v}{}", if is_odd { ", typo: 1" } else { "" }),
        ),
        _ => v3(
            "NetworkPolicy",
            ", namespace: default",
            &format!(
                "order: {v}, selector: \"app in {{'a{v}', 'a{n}'}}\", ingress: [{{action: Allow, protocol: TCP, source: {{selector: app == 'a{v}', namespaceSelector: team == 't{n}'}}, destination: {{ports: [p{v}, 80{n}]}}}}]"
            ),
        ),
    }
}

fn text(file: u8, documents: &[(u8, u8, u8)]) -> String {
    let mut documents = documents.to_vec();
    documents.sort_unstable();
    documents.dedup_by_key(|(kind, n, v)| (*kind, *n, *v == 3));
    let all = documents.into_iter().map(|it| document(file, it));
    all.collect::<Vec<_>>().join("---\n")
}

struct Temp(PathBuf);

impl Temp {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("caracal-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("conf.d")).unwrap();
        Self(path)
    }

    fn dir(&self) -> PathBuf {
        self.0.join("conf.d")
    }

    fn file(&self, n: u8) -> PathBuf {
        self.dir().join(format!("file{n}.yaml"))
    }

    fn outside(&self, which: bool) -> PathBuf {
        self.0.join(format!("outside-{which}.yaml"))
    }

    /// What can not be done, as on a file that is not there, is left undone.
    fn apply(&self, change: &Change) {
        let edit = |n: u8, edit: &dyn Fn(String) -> String| {
            if let Ok(text) = fs::read_to_string(self.file(n)) {
                let _ = fs::write(self.file(n), edit(text));
            }
        };
        let _ = match change {
            Change::Write(n, all) => fs::write(self.file(*n), text(*n, all)),
            Change::Replace(n, all) => replace(&self.file(*n), &text(*n, all)),
            Change::Break(n) => {
                edit(*n, &|text| text + "---\na: [\n");
                Ok(())
            }
            Change::Mend(n) => {
                edit(*n, &|text| text.replace("---\na: [\n", ""));
                Ok(())
            }
            Change::Move(n) => {
                edit(*n, &|text| format!("# moved\n{text}"));
                Ok(())
            }
            Change::Remove(n) => {
                fs::remove_file(self.file(*n)).or_else(|_| fs::remove_dir(self.file(*n)))
            }
            Change::Rename(from, to) => fs::rename(self.file(*from), self.file(*to)),
            Change::Link(n, which) => {
                let scratch = self.dir().join(".link");
                let made = symlink(self.outside(*which), &scratch);
                made.and_then(|()| fs::rename(scratch, self.file(*n)))
            }
            Change::Behind(which, all) => fs::write(self.outside(*which), text(7, all)),
            Change::Directory(n) => fs::create_dir(self.file(*n)),
            Change::Wait => {
                std::thread::sleep(2 * SETTLES);
                Ok(())
            }
        };
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// As tools do that keep times, such as `cp -p` and `rsync -t`.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let time = fs::metadata(path)?.modified()?;
    fs::write(path, text)?;
    let file = fs::File::options().write(true).open(path)?;
    file.set_modified(time)
}

/// All that a load says, with the place of everything, and what is shown to people.
fn told(loaded: &Result<Cluster, Diagnostics>) -> (String, String) {
    let shown = match loaded {
        Ok(cluster) => cluster.base.remarks.render(false),
        Err(findings) => findings.render(false),
    };
    (format!("{loaded:#?}"), shown)
}

/// The first lines in which two texts differ, with those before.
fn difference(one: &str, other: &str) -> Option<String> {
    let lines = || one.lines().zip(other.lines());
    let at = lines().position(|(one, other)| one != other);
    let at =
        at.or_else(|| (one.lines().count() != other.lines().count()).then(|| lines().count()))?;
    let around = |text: &str| {
        let lines = text.lines().skip(at.saturating_sub(8)).take(16);
        lines.collect::<Vec<_>>().join("\n")
    };
    Some(format!("{}\n---\n{}", around(one), around(other)))
}

/// What a watch tells of what has happened, without waiting for it.
fn wait(watch: &mut Watch) -> Option<Changed> {
    let now = Instant::now();
    (0..3).find_map(|n| watch.drain(now + n * (LOOK + QUIET)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn what_is_loaded_again_is_what_is_loaded_from_scratch(
        changes in proptest::collection::vec(change(), 1..40),
    ) {
        let temp = Temp::new("reload");
        fs::write(temp.outside(true), text(7, &[(1, 0, 0)])).unwrap();
        fs::write(temp.outside(false), text(8, &[(1, 0, 0)])).unwrap();
        fs::write(temp.dir().join("base.yaml"), text(9, &BASE)).unwrap();
        let base = load_dir(&temp.dir());
        prop_assert!(base.is_ok(), "{}", told(&base).1);
        let mut loader = Loader::new(&[temp.dir()]).settling_after(SETTLES);
        let mut watch = Watch::new(temp.dir()).unwrap();
        let mut compiler = PolicyCompiler::default();
        let mut told_of = Some(Changed::Anything);
        for change in &changes {
            temp.apply(change);
            let changed = told_of.take().or_else(|| wait(&mut watch));
            let again = match &changed {
                Some(Changed::Names(names)) => loader.load_changed(names),
                Some(Changed::Anything) => loader.load(),
                // Nothing is loaded, and nothing must be.
                None => {
                    let (again, anew) = (loader.load(), load_dir(&temp.dir()));
                    prop_assert_eq!(difference(&told(&again).0, &told(&anew).0), None);
                    continue;
                }
            };
            let anew = load_dir(&temp.dir());
            if let (Ok(again), Ok(anew)) = (&again, &anew) {
                // As the daemon does.
                if again.policy == *compiler.model() {
                    compiler.follow_places(&again.policy);
                } else {
                    compiler.update(&again.policy, NODE).unwrap();
                }
                let mut fresh = PolicyCompiler::default();
                fresh.update(&anew.policy, NODE).unwrap();
                prop_assert_eq!(compiler.normal_form(), fresh.normal_form());

            }
            let ((again, shown), (anew, shown_anew)) = (told(&again), told(&anew));
            prop_assert_eq!(shown, shown_anew);
            prop_assert_eq!(difference(&again, &anew), None);
        }
    }
}
