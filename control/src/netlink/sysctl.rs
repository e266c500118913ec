//! Sysctls of interfaces, by /proc/sys/net: which shows the namespace of the thread that opens a file.

use std::fs;
use std::io;

use super::socket::{Error, Result};

/// The tree a setting is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tree {
    /// `net.ipv4.conf.IFACE.*`
    Ipv4,
    /// `net.ipv6.conf.IFACE.*`
    Ipv6,
}

/// Sets `net.ipv4.conf.IFACE.KEY` or the same of IPv6, unless it has that value. Returns false if there is no such setting:
/// an older kernel, or one without IPv6.
///
/// # Errors
/// When the setting cannot be written, or `interface` or `key` is no file name.
pub fn set(tree: Tree, interface: &str, key: &str, value: i32) -> Result<bool> {
    let family = match tree {
        Tree::Ipv4 => "ipv4",
        Tree::Ipv6 => "ipv6",
    };
    let what = || format!("set net.{family}.conf.{interface}.{key} to {value}");
    if [interface, key]
        .iter()
        .any(|name| name.is_empty() || name.starts_with('.') || name.contains('/'))
    {
        return Err(Error::new(what(), io::ErrorKind::InvalidInput));
    }
    let path = format!("/proc/sys/net/{family}/conf/{interface}/{key}");
    let value = value.to_string();
    let outcome = fs::read_to_string(&path).and_then(|old| {
        if old.trim() == value {
            Ok(())
        } else {
            fs::write(&path, &value)
        }
    });
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::new(what(), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_does_not_exist_is_no_error() {
        assert!(!set(Tree::Ipv4, "lo", "no_such_setting", 1).expect("not an error"));
    }

    #[test]
    fn names_cannot_leave_the_tree() {
        assert!(set(Tree::Ipv4, "..", "x", 1).is_err());
        assert!(set(Tree::Ipv4, "lo", "../x", 1).is_err());
    }
}
