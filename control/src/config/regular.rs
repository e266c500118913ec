//! Opening of files that end: a FIFO, a socket or a device would be waited for, or read without end.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Opens a regular file for reading, or a symlink to one. Never waits.
///
/// # Errors
/// What the system says; anything else than a regular file.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    // Before it is opened: opening alone sets some devices going.
    check(&fs::metadata(path)?)?;
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    // What was opened may be another than what was looked at.
    check(&file.metadata()?)?;
    Ok(file)
}

fn check(metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    let what = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => {
            return Err(io::Error::other("it is a directory; name a file in it"));
        }
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    Err(io::Error::other(format!(
        "it is {what}, and only regular files are read; copy what it gives to a file, or move it away"
    )))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_regular_files_are_opened_and_nothing_is_waited_for() {
        let dir = std::env::temp_dir().join(format!("caracal-regular-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let path = |name: &str| dir.join(name);
        fs::write(path("file"), "text").unwrap();
        std::os::unix::fs::symlink("file", path("link")).unwrap();
        nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("fifo", path("link to fifo")).unwrap();
        let _listener = UnixListener::bind(path("socket")).unwrap();
        let said = |path: &Path| open(path).err().map(|error| error.to_string());
        let said: Vec<_> = [
            "file",
            "link",
            "fifo",
            "link to fifo",
            "socket",
            ".",
            "/dev/zero",
        ]
        .map(|name| said(&path(name)).unwrap_or_default())
        .into();
        let _ = fs::remove_dir_all(&dir);
        let starts = [
            "",
            "",
            "it is a FIFO,",
            "it is a FIFO,",
            "it is a socket,",
            "it is a directory;",
            "it is a device,",
        ];
        for (said, start) in said.iter().zip(starts) {
            assert!(said.starts_with(start), "{said:?} is not {start:?}");
            assert_eq!(said.is_empty(), start.is_empty(), "{said}");
        }
    }
}
