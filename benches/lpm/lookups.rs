//! One table: built, verified, looked up in, changed.

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use benches::peer::Peer;
use benches::rounds::{Contender, Result, interleave};
use benches::routes::{Address, Route, Spread, addresses};
use benches::setup::Setup;
use benches::table::Table;
use benches::{alloc, cpu};
use flowtable::lpm::NextHopId;

use crate::changes;
use crate::family::Family;

/// Addresses that a pass looks up; a multiple of the batch.
const LOOKUPS: usize = 1 << 20;

/// Addresses that are looked up together.
const BATCH: usize = 64;

/// A DPDK table in another process.
pub(crate) struct Dpdk {
    pub(crate) name: String,
    pub(crate) peer: Peer,
    built: Duration,
    resident_bytes: u64,
}

/// Everything about the table `name` with these `routes`; `kinds` are DPDK's tables to set it against.
pub(crate) fn run<F: Family>(
    setup: &Setup,
    name: &str,
    routes: &[Route<F::Addr>],
    kinds: &[&str],
) -> Result<()> {
    if !setup.wants(name) {
        return Ok(());
    }
    println!("## {name}: {} routes\n", routes.len());
    let pairs: Vec<_> = routes
        .iter()
        .map(|it| {
            (
                F::prefix(it),
                NextHopId::new(it.2).unwrap_or(NextHopId::MAX),
            )
        })
        .collect();
    let ((mut rib, own_build), own_memory) =
        alloc::measure(|| cpu::time(|| F::from_routes(&pairs)));
    let rib = rib.as_mut().map_err(|why| why.to_string())?;
    let ((mut trie, trie_build), trie_memory) = alloc::measure(|| {
        cpu::time(|| {
            let mut trie = F::Trie::default();
            for route in routes {
                F::trie_insert(&mut trie, route);
            }
            trie
        })
    });
    let mut peers = build_peers::<F>(setup, routes, kinds)?;

    let mut table = Table::new(&["build", "ms", "MB kept", "MB at most"]);
    let megabytes = |bytes: usize| format!("{:.1}", bytes as f64 / 1e6);
    let millis = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1e3);
    for (name, build, memory) in [
        ("flowtable", own_build, own_memory),
        ("prefix-trie", trie_build, trie_memory),
    ] {
        table.row(vec![
            name.into(),
            millis(build),
            megabytes(memory.kept_bytes),
            megabytes(memory.peak_bytes),
        ]);
    }
    for it in &peers {
        table.row(vec![
            it.name.clone(),
            millis(it.built),
            format!("{} resident", megabytes(it.resident_bytes as usize)),
            String::new(),
        ]);
    }
    println!("{table}");

    for spread in Spread::ALL {
        let addrs = addresses(routes, spread, LOOKUPS);
        let lpm = F::snapshot(rib);
        verify::<F>(setup, &lpm, &trie, &mut peers, &addrs)?;
        for mode in [Mode::Batch, Mode::Single] {
            let mut contenders = vec![
                Contender::here("flowtable", || mode.pass::<F>(&lpm, &addrs)),
                Contender::here("prefix-trie", || trie_pass::<F>(&trie, &addrs)),
            ];
            contenders.extend(peers.iter_mut().map(|it| {
                let name = it.name.clone();
                Contender::new(name, move || it.peer.time(mode.command()))
            }));
            let all = interleave(setup.rounds, LOOKUPS, &mut contenders)?;
            println!(
                "{}",
                Table::of_series(
                    &format!("{name}, {}, {}", spread.name(), mode.name()),
                    "ns",
                    &all
                )
            );
        }
    }
    changes::run::<F>(setup, name, routes, rib, &mut trie, &mut peers)
}

#[derive(Clone, Copy)]
enum Mode {
    Batch,
    Single,
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Self::Batch => "64 at a time",
            Self::Single => "one by one",
        }
    }

    const fn command(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Single => "single",
        }
    }

    /// Looks all of `addrs` up.
    fn pass<F: Family>(self, lpm: &F::Lpm, addrs: &[F::Addr]) {
        match self {
            Self::Batch => {
                let mut out = [NextHopId::NONE; BATCH];
                for addrs in addrs.chunks_exact(BATCH) {
                    F::lookup_batch(lpm, addrs, &mut out);
                    black_box(&mut out);
                }
            }
            Self::Single => addrs.iter().for_each(|&addr| {
                black_box(F::lookup(lpm, addr));
            }),
        }
    }
}

fn trie_pass<F: Family>(trie: &F::Trie, addrs: &[F::Addr]) {
    for &addr in addrs {
        black_box(F::trie_lookup(trie, addr));
    }
}

/// Starts DPDK's tables and has them build, side by side: `rte_lpm` takes a minute for a million routes.
fn build_peers<F: Family>(
    setup: &Setup,
    routes: &[Route<F::Addr>],
    kinds: &[&str],
) -> Result<Vec<Dpdk>> {
    let Some(program) = &setup.dpdk else {
        return Ok(Vec::new());
    };
    let file = setup.scratch.join("routes");
    let record = |&(addr, len, hop): &Route<F::Addr>| {
        let first = addr.to_bits() << (128 - u32::from(F::Addr::BITS));
        [
            &first.to_be_bytes()[..],
            &u16::from(len).to_ne_bytes(),
            &hop.to_ne_bytes(),
        ]
        .concat()
    };
    std::fs::write(&file, routes.iter().flat_map(record).collect::<Vec<_>>())?;
    let mut peers = Vec::new();
    for kind in kinds {
        let mut peer = Peer::start(program, kind, setup.core)?;
        peer.ready()?;
        peer.tell(&format!("routes {}", file.display()))?;
        peers.push((kind, peer));
    }
    let mut built = Vec::new();
    for (kind, mut peer) in peers {
        let [build, resident_bytes] = peer.answer()?[..] else {
            return Err("the peer says nothing of its table".into());
        };
        let name = match *kind {
            "lpm4" => "rte_lpm",
            "fib6" => "rte_fib6 TRIE 4B",
            "fib6-huge" => "rte_fib6 TRIE 4B, huge pages",
            "fib4-huge" => "rte_fib DIR24_8 2B, huge pages",
            _ => "rte_fib DIR24_8 2B",
        };
        built.push(Dpdk {
            name: name.into(),
            peer,
            built: Duration::from_nanos(build),
            resident_bytes,
        });
    }
    Ok(built)
}

/// All contenders find the same next hops, or there is nothing to compare.
fn verify<F: Family>(
    setup: &Setup,
    lpm: &F::Lpm,
    trie: &F::Trie,
    peers: &mut [Dpdk],
    addrs: &[F::Addr],
) -> Result<()> {
    let mut ours = vec![NextHopId::NONE; addrs.len()];
    F::lookup_batch(lpm, addrs, &mut ours);
    let differs = |who: &str, found: &mut dyn Iterator<Item = u16>| -> Result<()> {
        let mut count = 0;
        for ((own, found), addr) in ours.iter().zip(found).zip(addrs) {
            if own.get() != found {
                return Err(format!(
                    "{who} finds next hop {found} for {addr:x?}, flowtable {}",
                    own.get()
                )
                .into());
            }
            count += 1;
        }
        if count == addrs.len() {
            Ok(())
        } else {
            Err(format!("{who} found {count} of {}", addrs.len()).into())
        }
    };
    differs(
        "one by one flowtable",
        &mut addrs.iter().map(|&addr| F::lookup(lpm, addr).get()),
    )?;
    differs(
        "prefix-trie",
        &mut addrs.iter().map(|&addr| F::trie_lookup(trie, addr)),
    )?;
    let (input, output) = (setup.scratch.join("addrs"), setup.scratch.join("hops"));
    if !peers.is_empty() {
        std::fs::write(
            &input,
            addrs
                .iter()
                .flat_map(|&addr| F::bytes(addr))
                .collect::<Vec<_>>(),
        )?;
    }
    for it in peers {
        it.peer.ask(&format!("addrs {}", input.display()))?;
        it.peer.ask(&format!("outputs {}", output.display()))?;
        differs(&it.name, &mut read_hops(&output)?.into_iter())?;
    }
    Ok(())
}

fn read_hops(file: &Path) -> Result<Vec<u16>> {
    let bytes = std::fs::read(file)?;
    Ok(bytes
        .as_chunks::<2>()
        .0
        .iter()
        .map(|&two| u16::from_ne_bytes(two))
        .collect())
}
