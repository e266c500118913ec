//! `docs/drop-reasons.md` says what the code says. `UPDATE_DOCS=1 cargo test -p fastpath --test drop_reasons` writes it anew.

use std::fmt::Write as _;
use std::path::Path;

use fastpath::reason::DropReason;

const HEAD: &str = "\
# Why packets are dropped

Every packet that comes in meets exactly one fate; every drop has exactly one of these reasons, and every reason a counter
for each port.
The names are stable: they are the same in the CLI, in JSON and in `caracal replay --verdicts`.
This page is written from `fastpath/src/reason.rs`: change it there, then run
`UPDATE_DOCS=1 cargo test -p fastpath --test drop_reasons`.

";

fn page() -> String {
    let mut stages: Vec<&str> = Vec::new();
    for reason in DropReason::ALL {
        if !stages.contains(&reason.stage()) {
            stages.push(reason.stage());
        }
    }
    let mut page = HEAD.to_owned();
    for stage in stages {
        let _ = write!(
            page,
            "## {stage}\n\n| reason | what it means | what to do |\n|---|---|---|\n"
        );
        for reason in DropReason::ALL.iter().filter(|r| r.stage() == stage) {
            let (name, meaning, advice) = (reason.name(), reason.meaning(), reason.advice());
            let _ = writeln!(page, "| `{name}` | {meaning} | {advice} |");
        }
        page.push('\n');
    }
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}

#[test]
fn the_page_of_drop_reasons_says_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/drop-reasons.md");
    let expected = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &expected).expect("a writable page");
    }
    let found = std::fs::read_to_string(&path).expect("docs/drop-reasons.md");
    for (number, (found, expected)) in found.lines().zip(expected.lines()).enumerate() {
        assert_eq!(
            found,
            expected,
            "line {} is out of date: run with UPDATE_DOCS=1",
            number + 1
        );
    }
    assert_eq!(found.lines().count(), expected.lines().count());
}
