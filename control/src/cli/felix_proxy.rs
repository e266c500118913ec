//! `caracal felix-proxy`: what Felix starts as its dataplane driver.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::{Exit, output};
use crate::felix::proxy::{self, ProxyError};

/// The name by which Calico's operator calls a driver, without arguments.
const CALLED: &str = "felix-api-proxy";

/// Arguments of `caracal felix-proxy`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the daemon listens for Felix (`felixSocket` in its caracal.yaml).
    #[arg(
        long,
        value_name = "PATH",
        env = "CARACAL_FELIX_SOCKET",
        default_value = crate::felix::DEFAULT_SOCKET
    )]
    felix_socket: PathBuf,
}

pub(super) fn run(args: &Args) -> Exit {
    match proxy::run(&args.felix_socket) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            output::complain(&error);
            match error {
                ProxyError::NoDaemon { .. } => Exit::Unreachable,
                _ => Exit::Failure,
            }
        }
    }
}

/// The command line as it is meant: under the name that Calico's operator uses, and without arguments, this is `caracal felix-proxy`.
pub(super) fn as_called(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<_> = words.into_iter().collect();
    let name = words.first().map(Path::new).and_then(Path::file_name);
    if name == Some(OsStr::new(CALLED)) && words.len() == 1 {
        words.insert(1, "felix-proxy".into());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_name_means_the_proxy() {
        let called = |words: &[&str]| {
            let words = as_called(words.iter().map(OsString::from));
            words
                .into_iter()
                .filter_map(|word| word.into_string().ok())
                .collect::<Vec<_>>()
        };
        let plugin = "/usr/local/bin/felix-plugins/felix-api-proxy";
        assert_eq!(called(&[plugin]), [plugin, "felix-proxy"]);
        assert_eq!(called(&[plugin, "cleanup"]), [plugin, "cleanup"]);
        assert_eq!(called(&["caracal", "status"]), ["caracal", "status"]);
        assert!(called(&[]).is_empty());
    }
}
