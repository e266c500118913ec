//! Felix's driver: a process that joins Felix's pipes to the daemon's socket, and knows nothing of what passes.
//!
//! Felix starts it, and ends with it. The daemon, which holds the connections, lives on.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// The pipe that Felix writes to.
const FROM_FELIX: u32 = 3;
/// The pipe that Felix reads.
const TO_FELIX: u32 = 4;
/// Bytes that are copied at once.
const BUFFER: usize = 64 << 10;
/// Tries to reach the daemon, which may be starting.
const TRIES: u32 = 50;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(200);

/// Why the proxy did not run, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// It was not started by Felix.
    #[error(
        "descriptor {fd} is no pipe ({source}): Felix starts this program, as its dataplane driver (FELIX_DATAPLANEDRIVER)"
    )]
    NoPipe {
        /// The descriptor.
        fd: u32,
        /// Why it is none.
        source: io::Error,
    },
    /// The daemon is not there.
    #[error("{path}: the daemon does not answer ({source}); is it running, with `source: felix` in caracal.yaml?", path = path.display())]
    NoDaemon {
        /// Its socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The daemon ended the connection.
    #[error("{path}: the daemon ended the connection; its log says why, unless it ended itself", path = path.display())]
    DaemonEnded {
        /// Its socket.
        path: PathBuf,
    },
    /// Neither side ended, and nothing passes.
    #[error("{what}: {source}")]
    Broken {
        /// The way that is broken.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

/// Copies from Felix to the daemon and back until one of them ends. That Felix ends is no error.
///
/// # Errors
/// [`ProxyError`].
pub fn run(socket: &Path) -> Result<(), ProxyError> {
    let mut from_felix = pipe(FROM_FELIX, OpenOptions::new().read(true))?;
    let mut to_felix = pipe(TO_FELIX, OpenOptions::new().write(true))?;
    let broken = |what| move |source| ProxyError::Broken { what, source };
    let mut to_daemon = connect(socket)?;
    let from_daemon = to_daemon.try_clone();
    let mut from_daemon = from_daemon.map_err(broken("the daemon's socket"))?;
    let (ended, ends) = mpsc::channel();
    let felix_ended = ended.clone();
    // Neither thread is waited for: the process ends with the first of them.
    let _ = thread::spawn(move || {
        let copied = copy(&mut from_felix, &mut to_daemon);
        let _ = felix_ended.send((true, copied));
    });
    let _ = thread::spawn(move || {
        let copied = copy(&mut from_daemon, &mut to_felix);
        let _ = ended.send((false, copied));
    });
    let path = socket.to_owned();
    match ends.recv() {
        Ok((true, Ok(()))) | Err(mpsc::RecvError) => Ok(()),
        Ok((false, Ok(()))) => Err(ProxyError::DaemonEnded { path }),
        Ok((_, Err(error))) if is_gone(&error) => Err(ProxyError::DaemonEnded { path }),
        Ok((true, Err(source))) => Err(broken("from Felix to the daemon")(source)),
        Ok((false, Err(source))) => Err(broken("from the daemon to Felix")(source)),
    }
}

/// Copies what comes as it comes. (`io::copy` splices sockets into pipes, where what comes in small pieces may wait for more.)
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(buffer.get(..count).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    matches!(error.kind(), BrokenPipe | ConnectionReset)
}

/// A pipe that Felix handed us. It is opened a second time, by its name: a number is no descriptor that may be owned.
fn pipe(fd: u32, options: &mut OpenOptions) -> Result<File, ProxyError> {
    let no_pipe = |source| ProxyError::NoPipe { fd, source };
    let path = format!("/proc/self/fd/{fd}");
    let kind = std::fs::metadata(&path).map_err(no_pipe)?.file_type();
    if !kind.is_fifo() {
        return Err(no_pipe(io::Error::other("it is something else")));
    }
    // Opening waits for the other end, which may be gone already.
    let options = options.custom_flags(libc::O_NONBLOCK);
    let pipe = options.open(&path).map_err(no_pipe)?;
    fcntl(&pipe, FcntlArg::F_SETFL(OFlag::empty())).map_err(|errno| no_pipe(errno.into()))?;
    Ok(pipe)
}

fn connect(path: &Path) -> Result<UnixStream, ProxyError> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for try_number in 0..TRIES {
        if try_number > 0 {
            thread::sleep(PAUSE);
        }
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(ProxyError::NoDaemon {
        path: path.to_owned(),
        source: last,
    })
}
