//! Output that is compared with a committed file.

use std::path::Path;

/// Compares; with `CARACAL_BLESS=1` writes the file instead.
#[track_caller]
pub(super) fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("CARACAL_BLESS").is_some_and(|value| value == "1") {
        std::fs::write(&path, text).expect("a writable file");
    }
    let expected = std::fs::read_to_string(&path).expect("a golden file");
    assert_eq!(text, expected, "if this is meant: CARACAL_BLESS=1");
}
