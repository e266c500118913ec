//! `caracal completion` by a shell, and `caracal man` by `man`.

use std::process::Command;

use fastpath::io::xsk::test_support::skip;

#[test]
fn bash_completes_commands_and_options() {
    for (words, word, before, expected) in [
        ("caracal node che", "che", "node", "checksystem"),
        ("caracal sta", "sta", "caracal", "status"),
        ("caracal flows --fl", "--fl", "flows", "--flush"),
        ("caracal -o js", "js", "-o", "json"),
    ] {
        let count = words.split(' ').count() - 1;
        let script = format!(
            "source <(\"$0\" completion bash); COMP_WORDS=({words}); COMP_CWORD={count}; _caracal caracal '{word}' '{before}'; \
             echo \"${{COMPREPLY[@]}}\""
        );
        let output = Command::new("bash")
            .args(["-c", &script, env!("CARGO_BIN_EXE_caracal")])
            .output()
            .expect("bash");
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said.trim(), expected, "{words}: {output:?}");
    }
}

#[test]
fn manual_pages_are_without_mistakes() {
    let test = "manual_pages_are_without_mistakes";
    let directory = std::env::temp_dir().join(format!("caracal-man-{}", std::process::id()));
    let write = || {
        Command::new(env!("CARGO_BIN_EXE_caracal"))
            .arg("man")
            .arg(&directory)
            .output()
            .expect("caracal")
    };
    // Twice: what is there is replaced.
    for _ in 0..2 {
        let output = write();
        assert!(
            output.status.success() && output.stdout.is_empty(),
            "{output:?}"
        );
    }
    let mut pages: Vec<_> = std::fs::read_dir(&directory)
        .expect("pages")
        .map(|it| it.expect("a page").path())
        .collect();
    pages.sort();
    assert!(pages.len() > 20, "{pages:?}");
    let mut groff = Command::new("groff");
    groff
        .args(["-k", "-man", "-Tutf8", "-ww", "-z"])
        .args(&pages);
    match groff.output() {
        Ok(output) => assert!(
            output.status.success() && output.stderr.is_empty(),
            "{output:?}"
        ),
        Err(_) => skip(test, "there is no groff"),
    }
    std::fs::remove_dir_all(&directory).expect("removed");
    let refused = Command::new(env!("CARGO_BIN_EXE_caracal"))
        .args(["man", "/proc/no/such"])
        .output()
        .expect("caracal");
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&refused.stderr).starts_with("error: /proc/no/such: "),
        "{refused:?}"
    );
}
