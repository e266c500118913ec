//! The program `nft`, which speaks to the kernel for us.

use std::env;
use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::ruleset::TABLE;

/// Looked into after `PATH`: an unprivileged shell's has not all of them.
const DIRECTORIES: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Why nft did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// There is no such program.
    #[error(
        "no program `nft` in PATH or /usr/sbin; install it (Debian, Fedora: package nftables), or set \
         `hostEndpoints: forwarded-only` in caracal.yaml and guard the host by other means"
    )]
    Missing,
    /// No thread for it.
    #[error("a thread for nft: {source}")]
    Thread {
        /// The system's reason.
        source: io::Error,
    },
    /// It could not be run.
    #[error("{program}: {source}", program = program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The kernel, or nft itself, refused.
    #[error("{program}: {message}", program = program.display())]
    Refused {
        /// The program.
        program: PathBuf,
        /// What it said.
        message: String,
    },
}

/// The program.
#[derive(Clone, Debug)]
pub struct Nft(PathBuf);

impl Nft {
    /// Looks for it.
    ///
    /// # Errors
    /// It is not there.
    pub fn find() -> Result<Self, NftError> {
        let path = env::var_os("PATH").unwrap_or_default();
        Self::find_in(&path, &DIRECTORIES).ok_or(NftError::Missing)
    }

    fn find_in(path: &OsStr, others: &[&str]) -> Option<Self> {
        let others = others.iter().map(PathBuf::from);
        let mut files = env::split_paths(path)
            .chain(others)
            .map(|it| it.join("nft"));
        files.find(|file| is_program(file)).map(Self)
    }

    /// Runs a script in the network namespace of the calling thread: all of it, or nothing.
    ///
    /// # Errors
    /// Nothing has changed then.
    pub fn apply(&self, script: &str) -> Result<(), NftError> {
        self.run(&["-f", "-"], script).map(drop)
    }

    /// Takes the table away. True if there was one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove(&self) -> Result<bool, NftError> {
        let tables = self.run(&["list", "tables"], "")?;
        let is_there = tables.lines().any(|line| line == format!("table {TABLE}"));
        if is_there {
            self.apply(&format!("delete table {TABLE}\n"))?;
        }
        Ok(is_there)
    }

    fn run(&self, arguments: &[&str], input: &str) -> Result<String, NftError> {
        let failed = |source| NftError::Run {
            program: self.0.clone(),
            source,
        };
        let mut child = Command::new(&self.0)
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            // It says itself why it does not read on. What it prints of a script is little, and after reading all of it.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().map_err(failed)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let message = if said.trim().is_empty() {
            output.status.to_string()
        } else {
            shortened(&said)
        };
        Err(NftError::Refused {
            program: self.0.clone(),
            message,
        })
    }
}

/// The first lines of what nft said, none of them long: it repeats what it was told.
fn shortened(said: &str) -> String {
    const LINES: usize = 4;
    const LENGTH: usize = 200;
    let lines = said.lines().filter(|line| !line.trim().is_empty());
    let lines = lines.take(LINES).map(|line| {
        let mut short: String = line.chars().take(LENGTH).collect();
        if line.chars().nth(LENGTH).is_some() {
            short.push('…');
        }
        short
    });
    lines.collect::<Vec<_>>().join("; ")
}

fn is_program(file: &Path) -> bool {
    let metadata = file.metadata();
    metadata.is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_for_where_programs_are() {
        assert!(Nft::find_in(OsStr::new("/nowhere:/proc"), &["/nowhere"]).is_none());
        let said = NftError::Missing.to_string();
        assert!(said.contains("package nftables"), "{said}");
    }

    #[test]
    fn what_it_says_is_cut() {
        let said = format!("one\n\n{}\nthree\nfour\nfive\n", "x".repeat(300));
        let short = shortened(&said);
        assert_eq!(short.matches("; ").count(), 3);
        assert!(short.len() < 250, "{short}");
        assert!(!short.contains("five"));
    }
}
