//! Debian 12's kernel, where `.ci/test` puts it.

use std::fs;
use std::path::{Path, PathBuf};

/// A kernel's package, unpacked and not installed.
pub(super) struct Kernel {
    /// Its root, without links in the way.
    pub(super) dir: PathBuf,
    pub(super) release: String,
}

impl Kernel {
    /// None where it was not fetched.
    pub(super) fn find() -> Option<Self> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
        let dir = fs::canonicalize(workspace.join("target/debian-kernel")).ok()?;
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

    /// The files of modules and of what they need, in the order to load them.
    pub(super) fn with_dependencies(&self, names: &[&str]) -> Vec<PathBuf> {
        let all = fs::read_to_string(self.modules().join("modules.dep")).expect("modules.dep");
        let mut wanted: Vec<PathBuf> = Vec::new();
        for name in names {
            // "kernel/fs/9p/9p.ko: what it needs, and before each what that needs, from right to left"
            let line = all.lines().find(|line| {
                let file = line.split_once(':').map_or("", |(file, _)| file);
                file.rsplit('/')
                    .next()
                    .and_then(|file| file.strip_suffix(".ko"))
                    == Some(name)
            });
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
