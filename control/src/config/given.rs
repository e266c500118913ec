//! What a command line names: files, directories, and `-` for standard input, as in `kubectl` and `calicoctl`.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::diagnostic::{Diagnostic, Diagnostics};
use super::load;
use super::source::Source;
use super::yaml;

/// Standard input on a command line. The file of this name is `./-`.
const STDIN: &str = "-";

/// What findings call what is named so.
pub(crate) fn name(path: &Path) -> &Path {
    if path == Path::new(STDIN) {
        Path::new("<stdin>")
    } else {
        path
    }
}

/// Reads one file, or standard input to its end, within the limit of size.
pub(crate) fn read_given(path: &Path) -> Result<Arc<Source>, Box<Diagnostic>> {
    if path != Path::new(STDIN) {
        return load::read(path);
    }
    let name = name(path);
    let bytes = read_stdin().map_err(|error| Box::new(load::unreadable(name, &error)))?;
    load::to_source(name, bytes)
}

/// Reads files, the files of directories, and standard input. Reports as [`super::read_all`] does.
pub(crate) fn read_all_given(paths: &[PathBuf], diagnostics: &mut Diagnostics) -> Vec<Arc<Source>> {
    let mut sources = Vec::new();
    for path in paths {
        if path != Path::new(STDIN) {
            sources.extend(load::read_all(std::slice::from_ref(path), diagnostics));
            continue;
        }
        match read_given(path) {
            Ok(source) => sources.push(source),
            Err(error) => diagnostics.push(*error),
        }
    }
    sources
}

/// At most one byte more than a file may have. Closed and a directory are errors, as of any file.
fn read_stdin() -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    stdin
        .take(yaml::MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}
