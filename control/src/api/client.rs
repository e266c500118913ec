//! The commands' end.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, socket};
use serde::de::DeserializeOwned;

use super::{ApiError, Method, Request, Response};

/// The longest response that is taken, in bytes.
const MAX_RESPONSE: u64 = 64 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there, or nobody who answers in time.
    #[error("no daemon answers at {path}: {source}; {help}", path = path.display(), help = unreachable_help(source))]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The daemon refuses.
    #[error("the daemon refuses: {0}")]
    Refused(#[from] ApiError),
    /// What came is not a response.
    #[error("the daemon answers in another way than this program expects: {0}")]
    Protocol(String),
}

/// What to do about a daemon that cannot be reached.
fn unreachable_help(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "run as root, or as the user that the daemon runs as",
        io::ErrorKind::TimedOut => "it is there, and busy or stuck: its log may say why",
        _ => "`caracal run` starts one, --socket names another",
    }
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
    last_id: u64,
}

/// Connects without waiting.
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let address = UnixAddr::new(path)?;
    nix::sys::socket::connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &address)?;
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

impl Client {
    /// Connects. No answer may take longer than `patience`.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`].
    pub fn connect(path: &Path, patience: Duration) -> Result<Self, ClientError> {
        let ready = || {
            let stream = connect(path)?;
            stream.set_read_timeout(Some(patience))?;
            stream.set_write_timeout(Some(patience))?;
            Ok(stream)
        };
        let stream = ready().map_err(|source| ClientError::Unreachable {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            stream: BufReader::new(stream),
            last_id: 0,
        })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn call<T: DeserializeOwned>(&mut self, method: Method) -> Result<T, ClientError> {
        self.last_id += 1;
        let request = Request {
            id: self.last_id,
            method,
        };
        let mut line = Vec::new();
        let mut exchange = || {
            // A daemon that refuses has closed, and its reason is there to be read.
            let sent = self
                .stream
                .get_mut()
                .write_all(request.to_line().as_bytes());
            let read = (&mut self.stream)
                .take(MAX_RESPONSE)
                .read_until(b'\n', &mut line)?;
            if read > 0 {
                return Ok(());
            }
            sent?;
            Err(io::Error::from(io::ErrorKind::UnexpectedEof))
        };
        exchange().map_err(|source| ClientError::Unreachable {
            path: self.path.clone(),
            source: if source.kind() == io::ErrorKind::WouldBlock {
                io::Error::from(io::ErrorKind::TimedOut)
            } else {
                source
            },
        })?;
        let response = Response::parse(&line).map_err(ClientError::Protocol)?;
        let result = response.outcome?;
        if response.id != Some(request.id) {
            return Err(ClientError::Protocol(format!(
                "answer to request {:?}",
                response.id
            )));
        }
        serde_json::from_value(result).map_err(|error| ClientError::Protocol(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gets_no_answer_is_told_what_to_do() {
        let said = |kind: io::ErrorKind| {
            let (path, source) = (PathBuf::from("/s"), kind.into());
            ClientError::Unreachable { path, source }.to_string()
        };
        let help = "permission denied; run as root, or as the user that the daemon runs as";
        assert!(said(io::ErrorKind::PermissionDenied).ends_with(help));
        let help = "timed out; it is there, and busy or stuck: its log may say why";
        assert!(said(io::ErrorKind::TimedOut).ends_with(help));
        let help = "; `caracal run` starts one, --socket names another";
        assert!(said(io::ErrorKind::NotFound).ends_with(help));
    }
}
