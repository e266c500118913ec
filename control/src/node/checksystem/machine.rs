//! The machine's files: below `/`, or in tests below a directory that plays it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::xdp::INITS_PID_NAMESPACE;

/// Where to read.
#[derive(Clone, Debug)]
pub(super) struct Machine(PathBuf);

impl Machine {
    /// This machine, and the network namespace of the calling thread.
    pub(super) fn real() -> Self {
        Self(PathBuf::from("/"))
    }

    /// What a file says, without the space around it.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        let text = fs::read(self.0.join(path)).ok()?;
        Some(String::from_utf8_lossy(&text).trim().to_owned())
    }

    /// A number that a file has first.
    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.read(path)?.split_whitespace().next()?.parse().ok()
    }

    /// Names in a directory that end so, in order.
    pub(super) fn names(&self, directory: &str, ending: &str) -> Vec<String> {
        let entries = fs::read_dir(self.0.join(directory)).into_iter().flatten();
        let names = entries.flatten().map(|entry| entry.file_name());
        let names = names.filter_map(|name| name.into_string().ok());
        let mut names: Vec<_> = names.filter(|name| name.ends_with(ending)).collect();
        names.sort();
        names
    }

    /// Texts of the files of several directories that end so, in order of their names; of one name the first counts, as
    /// systemd and NetworkManager read them.
    pub(super) fn drop_ins(&self, directories: &[&str], ending: &str) -> Vec<(String, String)> {
        let mut all: Vec<(String, String)> = Vec::new();
        for directory in directories {
            for name in self.names(directory, ending) {
                let path = format!("{directory}/{name}");
                if all
                    .iter()
                    .all(|(known, _)| !known.ends_with(&format!("/{name}")))
                {
                    let text = self.read(&path).unwrap_or_default();
                    all.push((path, text));
                }
            }
        }
        all.sort_by(|(a, _), (b, _)| file_name(a).cmp(file_name(b)));
        all
    }

    /// Whether processes outside of a container can not be seen.
    pub(super) fn is_container(&self) -> bool {
        let namespace = fs::read_link(self.0.join("proc/self/ns/pid"));
        namespace.map_or(true, |it| it != Path::new(INITS_PID_NAMESPACE))
    }

    /// A process of one of these names that runs, and its number.
    pub(super) fn process(&self, names: &[&str]) -> Option<(String, u32)> {
        let mut numbers: Vec<u32> = self
            .names("proc", "")
            .iter()
            .flat_map(|it| it.parse())
            .collect();
        numbers.sort_unstable();
        numbers.into_iter().find_map(|number| {
            let name = self.read(&format!("proc/{number}/comm"))?;
            names.contains(&name.as_str()).then_some((name, number))
        })
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// A list of numbers and ranges, as `0-3,8`.
pub(super) fn numbers(text: &str) -> Vec<u16> {
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse(), last.trim().parse::<u16>()) {
            all.extend(first..=last);
        }
    }
    all
}

/// A machine of files, for tests.
#[cfg(test)]
pub(super) mod played {
    use std::os::unix::fs::symlink;

    use super::{INITS_PID_NAMESPACE, Machine, fs};

    /// Goes with this.
    pub(in super::super) struct Played(pub(in super::super) Machine);

    impl Played {
        /// A machine with these files.
        pub(in super::super) fn new(name: &str, files: &[(&str, &str)]) -> Self {
            Self::with_pids(INITS_PID_NAMESPACE, name, files)
        }

        /// A container with these files.
        pub(in super::super) fn container(name: &str, files: &[(&str, &str)]) -> Self {
            Self::with_pids("pid:[4026532178]", name, files)
        }

        fn with_pids(pids: &str, name: &str, files: &[(&str, &str)]) -> Self {
            let root = format!("caracal-machine-{}-{name}", std::process::id());
            let root = std::env::temp_dir().join(root);
            fs::create_dir_all(&root).expect("a directory");
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
                fs::write(path, text).expect("a file");
            }
            fs::create_dir_all(root.join("proc/self/ns")).expect("a directory");
            symlink(pids, root.join("proc/self/ns/pid")).expect("a link");
            Self(Machine(root))
        }
    }

    impl Drop for Played {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers() {
        assert_eq!(numbers("0-3,8"), [0, 1, 2, 3, 8]);
        assert_eq!(numbers(""), Vec::<u16>::new());
    }

    #[test]
    fn of_one_name_the_first_counts_and_names_give_the_order() {
        let machine = played::Played::new(
            "drop-ins",
            &[
                ("etc/n/20-a.network", "etc"),
                ("lib/n/20-a.network", "lib"),
                ("lib/n/10-b.network", "b"),
                ("lib/n/10-b.link", "no"),
            ],
        );
        let all = machine.0.drop_ins(&["etc/n", "lib/n"], ".network");
        let texts: Vec<_> = all.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts, ["b", "etc"]);
    }

    #[test]
    fn a_process_is_known_by_its_name() {
        let files = [("proc/12/comm", "sshd\n"), ("proc/7/comm", "irqbalance\n")];
        let machine = played::Played::new("process", &files);
        let found = machine.0.process(&["irqbalance", "x"]);
        assert_eq!(found, Some(("irqbalance".to_owned(), 7)));
        assert_eq!(machine.0.process(&["sshd-x"]), None);
        assert!(!machine.0.is_container());
        assert!(
            played::Played::container("contained", &files)
                .0
                .is_container()
        );
    }
}
