//! Where unsafe code may be.

use crate::files::texts;

/// AF_XDP's shared memory and sockets; bpf(2) where no library has the call; the counting allocator of the benches.
const ALLOWED: &[&str] = &[
    "fastpath/src/io/xsk/",
    "control/src/xdp/sys.rs",
    "benches/src/alloc.rs",
];

#[test]
fn unsafe_code_stays_where_it_is_allowed() {
    let mut found = Vec::new();
    let mut allowed = 0;
    for text in texts().iter().filter(|text| text.is("rs")) {
        let path = text.path.to_string_lossy();
        for (number, line) in text.lines() {
            if !is_unsafe(line) {
                continue;
            }
            if ALLOWED.iter().any(|place| path.starts_with(place)) {
                allowed += 1;
            } else {
                found.push(format!("{path}:{number}: {}", line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "unsafe code:\n{}", found.join("\n"));
    assert!(allowed > 0, "the search finds no unsafe code at all");
}

#[test]
fn pure_crates_forbid_unsafe_code() {
    for text in texts() {
        let path = text.path.to_string_lossy();
        if matches!(&*path, "encap/src/lib.rs" | "flowtable/src/lib.rs") {
            assert!(text.content.contains("#![forbid(unsafe_code)]"), "{path}");
        }
    }
}

/// Whether a line of Rust opens an unsafe block, function, impl, trait or extern block.
fn is_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    // String literals and lint names do not count.
    let words: Vec<&str> = code
        .split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '{' | '"')))
        .filter(|word| !word.is_empty())
        .collect();
    words.windows(2).any(|pair| {
        pair[0] == "unsafe" && ["{", "fn", "impl", "trait", "extern"].contains(&pair[1])
    }) || words.last() == Some(&"unsafe")
}

#[test]
fn the_search_knows_unsafe_code_when_it_sees_it() {
    let sample = concat!("let x = un", "safe { f() };");
    assert!(is_unsafe(sample));
    assert!(is_unsafe(concat!("pub un", "safe fn f() {")));
    assert!(!is_unsafe("#![forbid(unsafe_code)]"));
    assert!(!is_unsafe("// nothing unsafe here"));
    assert!(!is_unsafe("unsafe_op_in_unsafe_fn = 1"));
}
