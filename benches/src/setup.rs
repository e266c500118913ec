//! What benches against a peer in C have in common: their command line, the core, and the peer.

use std::path::PathBuf;

use crate::rounds::Result;
use crate::{cpu, peer};

/// What the command line asks for, and where things are.
#[derive(Debug)]
pub struct Setup {
    /// How many rounds the contenders take turns.
    pub rounds: usize,
    /// The core that this thread is pinned to, and that peers are to use.
    pub core: usize,
    /// A directory for the files that the peer reads. It goes with this.
    pub scratch: PathBuf,
    /// The peer's program, if it could be made.
    pub dpdk: Option<PathBuf>,
    only: Option<String>,
}

impl Setup {
    /// Reads `--rounds N`, `--only NAME` (one of `names`) and `--no-dpdk`, pins the thread, and compiles
    /// `peers/<peer>.c`. That there is no peer, whose part of DPDK is `library`, is said aloud.
    ///
    /// # Errors
    /// The command line is wrong, or the machine does not let us.
    pub fn from_args(peer: &str, library: &str, names: &[&str]) -> Result<Self> {
        let (mut rounds, mut only, mut dpdk) = (9, None::<String>, true);
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--rounds" => rounds = args.next().ok_or("--rounds needs a number")?.parse()?,
                "--only" => only = Some(args.next().ok_or("--only needs a name")?),
                "--no-dpdk" => dpdk = false,
                // Cargo's own.
                "--bench" => {}
                _ => {
                    return Err(format!(
                        "what is {arg}? --rounds N, --only NAME and --no-dpdk are known"
                    )
                    .into());
                }
            }
        }
        if let Some(name) = only.as_deref().filter(|name| !names.contains(name)) {
            return Err(format!("there is no {name} to measure: {}", names.join(", ")).into());
        }
        if rounds < 5 {
            return Err("fewer than 5 rounds say nothing".into());
        }
        let scratch = std::env::temp_dir().join(format!("caracal-{peer}-{}", std::process::id()));
        std::fs::create_dir_all(&scratch)?;
        let core = cpu::pin_to_last_core()?;
        let dpdk = if dpdk {
            peer::compile(peer, &scratch)
                .inspect_err(|why| eprintln!("!!! WITHOUT DPDK's {library}: {why}"))
                .ok()
        } else {
            eprintln!("!!! WITHOUT DPDK's {library}: --no-dpdk");
            None
        };
        println!(
            "{rounds} rounds in turn on core {core}, thread CPU time; of two passes a turn the second counts.\n"
        );
        Ok(Self {
            rounds,
            core,
            scratch,
            dpdk,
            only,
        })
    }

    /// Whether this is to be measured: all of `names` are, unless `--only` names one.
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only == name)
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}
