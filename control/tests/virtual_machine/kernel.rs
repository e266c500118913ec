//! Kernels of Debian's, where `.ci/test` puts them.

use std::fs;
use std::path::{Path, PathBuf};

/// Which of them.
#[derive(Clone, Copy, Debug)]
pub(super) enum Which {
    /// The one that Debian 12 comes with.
    Debian12,
    /// The newest that Debian 12 offers, among its backports.
    Backports,
}

impl Which {
    /// The directory below `target`.
    pub(super) const fn dir(self) -> &'static str {
        match self {
            Self::Debian12 => "debian-kernel",
            Self::Backports => "debian-kernel-backports",
        }
    }
}

/// A kernel's package, unpacked and not installed.
pub(super) struct Kernel {
    /// Its root, without links in the way.
    pub(super) dir: PathBuf,
    pub(super) release: String,
}

impl Kernel {
    /// None where it was not fetched.
    pub(super) fn find(which: Which) -> Option<Self> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
        let dir = fs::canonicalize(workspace.join("target").join(which.dir())).ok()?;
        let mut releases = fs::read_dir(dir.join("lib/modules")).ok()?;
        let release = releases.next()?.ok()?.file_name().into_string().ok()?;
        let kernel = Self { dir, release };
        // Made last.
        let whole = kernel.modules().join("modules.dep").exists();
        whole.then_some(kernel)
    }

    pub(super) fn image(&self) -> PathBuf {
        self.dir.join(format!("boot/vmlinuz-{}", self.release))
    }

    /// The files of modules and of what they need, in the order to load them. What is built in has none.
    pub(super) fn with_dependencies(&self, names: &[&str]) -> Vec<PathBuf> {
        let list = |name| fs::read_to_string(self.modules().join(name)).expect(name);
        let (all, built_in) = (list("modules.dep"), list("modules.builtin"));
        let mut wanted: Vec<PathBuf> = Vec::new();
        for name in names {
            // "kernel/fs/9p/9p.ko: what it needs, and before each what that needs, from right to left"
            let is_it = |file: &str| file.rsplit('/').next().and_then(module_name) == Some(name);
            if built_in.lines().any(is_it) {
                continue;
            }
            let line = all
                .lines()
                .find(|line| line.split_once(':').is_some_and(|(file, _)| is_it(file)));
            let line = line.unwrap_or_else(|| panic!("Linux {} has no {name}.ko", self.release));
            for file in line.split_whitespace().rev() {
                let file = self.modules().join(file.trim_end_matches(':'));
                if !wanted.contains(&file) {
                    wanted.push(file);
                }
            }
        }
        wanted
    }

    fn modules(&self) -> PathBuf {
        self.dir.join("lib/modules").join(&self.release)
    }
}

/// What a file of a module's name says it is; newer kernels' are compressed.
fn module_name(file: &str) -> Option<&str> {
    file.strip_suffix(".xz").unwrap_or(file).strip_suffix(".ko")
}
