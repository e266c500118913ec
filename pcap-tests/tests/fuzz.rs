//! Without a fuzzer: what once failed, the seeds, and seeds changed at random. `FUZZ_CASES` says how many of these a target gets
//! (300), `FUZZ_NUMBER` the first one's number.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use pcap_tests::fuzz::{self, Mutator, TARGETS, Target};

/// Names of what is in a directory.
fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect()
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect(variable))
}

/// Runs an input, and keeps it if it fails.
fn try_input(target: &Target, what: &str, data: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(data))) {
        let file = std::env::temp_dir().join(format!("caracal-fuzz-{}.bin", target.name));
        let kept = fs::write(&file, data);
        eprintln!(
            "{}: {what} fails; it is in {} ({kept:?})",
            target.name,
            file.display()
        );
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn every_target_has_its_program() {
    let programs: BTreeSet<_> = TARGETS.iter().map(|it| format!("{}.rs", it.name)).collect();
    assert_eq!(names(&fuzz::directory().join("targets")), programs);
    let manifest = fs::read_to_string(fuzz::directory().join("Cargo.toml")).expect("a manifest");
    for target in TARGETS {
        let program = fuzz::directory().join(format!("targets/{}.rs", target.name));
        let text = fs::read_to_string(program).expect("a program");
        assert!(text.contains(&format!("run(\"{}\"", target.name)), "{text}");
        assert!(
            manifest.contains(&format!("name = \"{}\"", target.name)),
            "{}",
            target.name
        );
    }
}

/// Each is a file `<target>/<name>.bin`, and `<name>.md` beside it says what was wrong.
#[test]
fn what_once_failed_does_not_fail_again() {
    let dir = fuzz::directory().join("regressions");
    for target in names(&dir).iter().filter(|name| dir.join(name).is_dir()) {
        let dir = dir.join(target);
        let found = TARGETS.iter().find(|it| it.name == *target);
        let found = found.unwrap_or_else(|| panic!("{}: no such target", dir.display()));
        for name in names(&dir) {
            let input = dir.join(&name);
            if input.extension() != Some("bin".as_ref()) {
                continue;
            }
            let why = input.with_extension("md");
            assert!(why.is_file(), "{} says why", why.display());
            try_input(found, &name, &fs::read(input).expect("readable"));
        }
    }
}

#[test]
fn seeds_and_changed_seeds_fail_nowhere() {
    let (cases, first) = (number("FUZZ_CASES", 300), number("FUZZ_NUMBER", 1));
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{}", target.name);
        for (index, seed) in seeds.iter().enumerate() {
            try_input(&target, &format!("seed {index}"), seed);
        }
        for case in first..first + cases {
            let mut data = seeds[case as usize % seeds.len()].clone();
            Mutator::new(case).change(&mut data);
            try_input(&target, &format!("case {case}"), &data);
        }
    }
}
