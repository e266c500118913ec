//! The socket's place in the file system.

use std::fs;
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};

/// A socket's purpose.
#[derive(Clone, Copy, Debug)]
pub struct Purpose {
    /// Its setting in caracal.yaml.
    pub setting: &'static str,
    /// Who may connect; whom the daemon answers is another question.
    pub mode: u32,
}

impl Purpose {
    /// The control socket: owner and group may connect.
    pub const CONTROL: Self = Self {
        setting: "controlSocket",
        mode: 0o660,
    };
}

/// A directory that has to be made.
const DIR_MODE: u32 = 0o750;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Something that is not a socket has its name.
    #[error("{path}: something that is not a socket is there; remove it, or set {setting} in caracal.yaml", path = path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
        /// The socket's setting.
        setting: &'static str,
    },
    /// No process could connect to it.
    #[error("{path}: {bytes} bytes, and a socket's path may have 107; set a shorter {setting} in caracal.yaml", path = path.display(), bytes = path.as_os_str().len())]
    TooLong {
        /// The path.
        path: PathBuf,
        /// The socket's setting.
        setting: &'static str,
    },
    /// Another process listens there.
    #[error("{path}: another process answers there; stop it, or set {setting} in caracal.yaml", path = path.display())]
    InUse {
        /// The path.
        path: PathBuf,
        /// The socket's setting.
        setting: &'static str,
    },
    /// Anybody could put another socket in its place.
    #[error("{path}: anybody may write to this directory; `chmod o-w` it, or set {setting} in caracal.yaml", path = path.display())]
    OpenDirectory {
        /// The directory.
        path: PathBuf,
        /// The socket's setting.
        setting: &'static str,
    },
    /// The system refuses.
    #[error("{path}: {what}: {source}", path = path.display())]
    System {
        /// The path.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

/// A listening socket with a name. The name goes with it.
#[derive(Debug)]
pub struct Bound {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// Device and inode: so that another's socket is not removed.
    identity: (u64, u64),
}

impl Bound {
    /// Listens at `path`, in place of a socket that nobody listens on any more.
    ///
    /// # Errors
    /// [`BindError`]; what was there is untouched.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        Self::bind_for(path, Purpose::CONTROL)
    }

    /// As [`Bound::bind`], for another purpose.
    ///
    /// # Errors
    /// As [`Bound::bind`].
    pub fn bind_for(path: &Path, purpose: Purpose) -> Result<Self, BindError> {
        check_place(path, purpose)?;
        let failed = |what| {
            move |source: io::Error| BindError::System {
                path: path.to_owned(),
                what,
                source,
            }
        };
        let dir = path.parent().unwrap_or(Path::new("/"));
        if !dir.exists() {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(DIR_MODE);
            builder
                .create(dir)
                .map_err(failed("make the socket's directory"))?;
        }
        // Bound under a name of its own, then renamed: nobody ever meets it with other rights.
        let fresh = dir.join(format!(".{}", std::process::id()));
        let listener = match UnixListener::bind(&fresh) {
            // Left by one that was killed here, and had our number: in a container it is always the same.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                fs::remove_file(&fresh).and_then(|()| UnixListener::bind(&fresh))
            }
            other => other,
        };
        let listener = listener.map_err(failed("create the socket"))?;
        let placed = || {
            listener.set_nonblocking(true)?;
            fs::set_permissions(&fresh, fs::Permissions::from_mode(purpose.mode))?;
            let meta = fs::symlink_metadata(&fresh)?;
            fs::rename(&fresh, path)?;
            Ok((meta.dev(), meta.ino()))
        };
        let identity = placed().map_err(|source| {
            let _ = fs::remove_file(&fresh);
            failed("name the socket")(source)
        })?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            identity,
        })
    }

    /// What it listens on.
    pub(crate) const fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let own = fs::symlink_metadata(&self.path)
            .is_ok_and(|meta| (meta.dev(), meta.ino()) == self.identity);
        if own {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What [`Bound::bind_for`] refuses before it makes anything. A directory that is not there will be made.
///
/// # Errors
/// As [`Bound::bind_for`].
pub(crate) fn check_place(path: &Path, purpose: Purpose) -> Result<(), BindError> {
    let setting = purpose.setting;
    // It is bound under another name: nobody else would notice before the first client.
    if SocketAddr::from_pathname(path).is_err() {
        return Err(BindError::TooLong {
            path: path.to_owned(),
            setting,
        });
    }
    let dir = path.parent().unwrap_or(Path::new("/"));
    if !dir.exists() {
        return Ok(());
    }
    let of_dir = fs::metadata(dir).map_err(|source| BindError::System {
        path: path.to_owned(),
        what: "look at the directory",
        source,
    })?;
    if of_dir.mode() & 0o1002 == 0o0002 {
        return Err(BindError::OpenDirectory {
            path: dir.to_owned(),
            setting,
        });
    }
    make_way(path, setting)
}

/// Looks whether the name is free, or a dead socket's.
fn make_way(path: &Path, setting: &'static str) -> Result<(), BindError> {
    let at = || path.to_owned();
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(BindError::System {
            path: at(),
            what: "look for an old socket",
            source,
        }),
        Ok(meta) if !meta.file_type().is_socket() => Err(BindError::NotASocket {
            path: at(),
            setting,
        }),
        // A socket of another type is refused in another way by one that lives, which does not notice: a connection would
        // take the place of Felix's.
        Ok(_) => match UnixDatagram::unbound().and_then(|socket| socket.connect(path)) {
            Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED) => Ok(()),
            _ => Err(BindError::InUse {
                path: at(),
                setting,
            }),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Scratch;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_path_that_no_client_could_connect_to_is_refused() {
        let scratch = Scratch::new();
        let name = |len: usize| scratch.0.join("s".repeat(len));
        let room = 107 - name(0).as_os_str().len();
        let refused = Bound::bind(&name(room + 1)).unwrap_err();
        assert!(matches!(refused, BindError::TooLong { .. }), "{refused}");
        assert!(refused.to_string().contains("108 bytes"), "{refused}");
        let bound = Bound::bind(&name(room)).unwrap();
        assert!(super::super::client::connect(bound.path()).is_ok());
    }

    #[test]
    fn the_socket_and_its_directory_are_not_for_everybody() {
        let scratch = Scratch::new();
        let path = scratch.0.join("run/control.sock");
        let bound = Bound::bind(&path).unwrap();
        assert_eq!(mode(&path), 0o660);
        assert_eq!(mode(path.parent().unwrap()), 0o750);
        assert_eq!(
            fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "nothing else"
        );
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_socket_makes_way_and_a_live_one_does_not() {
        let scratch = Scratch::new();
        let path = scratch.0.join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let bound = Bound::bind(&path).unwrap();
        assert!(matches!(Bound::bind(&path), Err(BindError::InUse { .. })));
        assert!(super::super::client::connect(&path).is_ok(), "still there");
        let live = scratch.0.join("live");
        let listener = UnixListener::bind(&live).unwrap();
        listener.set_nonblocking(true).unwrap();
        assert!(matches!(Bound::bind(&live), Err(BindError::InUse { .. })));
        assert!(listener.accept().is_err(), "it was not disturbed");
        drop(bound);
    }

    #[test]
    fn what_one_left_that_was_killed_while_it_bound_makes_way() {
        let scratch = Scratch::new();
        let left = scratch.0.join(format!(".{}", std::process::id()));
        drop(UnixListener::bind(&left).unwrap());
        let bound = Bound::bind(&scratch.0.join("s")).unwrap();
        assert!(!left.exists() && bound.path().exists());
    }

    #[test]
    fn links_and_files_are_refused_and_left_alone() {
        let scratch = Scratch::new();
        let (file, link) = (scratch.0.join("file"), scratch.0.join("link"));
        fs::write(&file, "kept").unwrap();
        let dead = scratch.0.join("dead");
        drop(UnixListener::bind(&dead).unwrap());
        std::os::unix::fs::symlink(&dead, &link).unwrap();
        for path in [&file, &link] {
            let refused = Bound::bind(path);
            assert!(
                matches!(refused, Err(BindError::NotASocket { .. })),
                "{refused:?}"
            );
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
        assert!(
            fs::symlink_metadata(&link)
                .unwrap()
                .file_type()
                .is_symlink()
        );
    }

    #[test]
    fn a_directory_that_anybody_may_write_to_is_refused() {
        let scratch = Scratch::new();
        let dir = scratch.0.join("open");
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        let refused = Bound::bind(&dir.join("s"));
        assert!(
            matches!(refused, Err(BindError::OpenDirectory { .. })),
            "{refused:?}"
        );
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(Bound::bind(&dir.join("s")).is_ok());
    }

    #[test]
    fn anothers_socket_is_not_removed() {
        let scratch = Scratch::new();
        let path = scratch.0.join("s");
        let bound = Bound::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        drop(bound);
        assert!(path.exists());
        drop(other);
    }
}
