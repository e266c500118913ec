//! What control pays for routes and for files: a million routes compiled, and changed, beside the bare table; and a file of
//! many changed.
//!
//! `cargo bench -p benches --bench compile [-- --rounds N]`

mod files;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use benches::alloc::{self, Counting};
use benches::cpu;
use benches::rounds::Result;
use benches::routes::{Route, bgp1m};
use benches::table::Table;
use control::compile::{Compiler, KernelHop, KernelView, PortRole, PortSpec};
use encap::eth::MacAddr;
use encap::flow_hash::HashKey;
use flowtable::lpm::{NextHopId, Prefix4, Rib4};
use ipnet::{IpNet, Ipv4Net};

#[global_allocator]
static ALLOC: Counting = Counting;

const UPLINK: u32 = 2;
/// Routes of the second change.
const MANY: usize = 1000;

/// A kernel in which every gateway is known.
struct Kernel;

impl KernelView for Kernel {
    fn route(&self, _addr: IpAddr) -> Option<KernelHop> {
        None
    }

    fn exact(&self, _prefix: IpNet) -> Option<KernelHop> {
        None
    }

    fn mac(&self, _ifindex: u32, _addr: IpAddr) -> Option<MacAddr> {
        Some(MacAddr([2; 6]))
    }
}

fn main() -> Result<()> {
    let rounds = rounds()?;
    let core = cpu::pin_to_last_core()?;
    println!("{rounds} rounds on core {core}, thread CPU time, best and middle.\n");
    files::run(rounds)?;
    routes(rounds)
}

/// What routes cost.
fn routes(rounds: usize) -> Result<()> {
    let routes = bgp1m();
    let hops: Vec<_> = (0..=255).map(via).collect();
    let kernel_routes: Vec<_> = routes
        .iter()
        .map(|it| (net(*it), Some(&hops[usize::from(it.2)])))
        .collect();
    let pairs: Vec<_> = routes.iter().copied().map(pair).collect();

    let mut times: [Vec<Duration>; 5] = Default::default();
    let (mut bare_memory, mut memory) = (0, 0);
    for _ in 0..rounds {
        let ((rib, took), footprint) = alloc::measure(|| cpu::time(|| Rib4::from_routes(&pairs)));
        drop(rib?);
        times[0].push(took);
        bare_memory = footprint.kept_bytes;

        let mut compiler = compiler();
        let ((done, took), footprint) =
            alloc::measure(|| cpu::time(|| compiler.kernel_routes(kernel_routes.iter().copied())));
        done?;
        times[1].push(took);
        memory = footprint.kept_bytes;

        let (mut held, took) = cpu::time(|| compiler.tables(&Kernel));
        times[2].push(took);
        for (count, times) in [1, MANY].into_iter().zip(&mut times[3..]) {
            let changed = kernel_routes.iter().take(count);
            let changed = changed.map(|&(prefix, _)| (prefix, Some(&hops[0])));
            let (tables, took) = cpu::time(|| {
                compiler
                    .kernel_routes(changed)
                    .map(|()| compiler.tables(&Kernel))
            });
            times.push(took);
            // What pollers use is held until they have taken the next.
            held = tables?;
        }
        drop(held);
    }

    let mut table = Table::new(&[
        "1 M IPv4 routes, 255 gateways",
        "ms, best",
        "ms, median",
        "MB kept",
    ]);
    let names = [
        "the bare table (flowtable::lpm)",
        "Compiler::kernel_routes, all of them",
        "Compiler::tables",
        "one route changed, and tables",
        "1,000 routes changed, and tables",
    ];
    let megabytes = |bytes: usize| format!("{:.1}", bytes as f64 / 1e6);
    let memories = [megabytes(bare_memory), megabytes(memory)];
    for (at, (name, times)) in names.into_iter().zip(&mut times).enumerate() {
        times.sort_unstable();
        let millis = |time: &Duration| format!("{:.3}", time.as_secs_f64() * 1e3);
        table.row(vec![
            name.into(),
            millis(&times[0]),
            millis(&times[times.len() / 2]),
            memories.get(at).cloned().unwrap_or_default(),
        ]);
    }
    println!("{table}");
    Ok(())
}

fn rounds() -> Result<usize> {
    let mut rounds = 5;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--rounds" => rounds = args.next().ok_or("--rounds needs a number")?.parse()?,
            // Cargo's own.
            "--bench" => {}
            _ => return Err(format!("what is {arg}? --rounds N is known").into()),
        }
    }
    if rounds == 0 {
        return Err("no round says nothing".into());
    }
    Ok(rounds)
}

fn compiler() -> Compiler {
    let mut compiler = Compiler::new(HashKey([1, 2]));
    compiler.ports_mut().insert(PortSpec {
        name: "uplink".into(),
        ifindex: UPLINK,
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        partial_checksums: false,
        role: PortRole::Uplink,
    });
    compiler
}

fn via(gateway: u8) -> KernelHop {
    KernelHop::Via {
        gateway: Ipv4Addr::new(192, 168, 2, gateway).into(),
        ifindex: UPLINK,
    }
}

fn net((addr, len, _): Route<u32>) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from_bits(addr), len))
}

fn pair((addr, len, hop): Route<u32>) -> (Prefix4, NextHopId) {
    let prefix = Prefix4::containing(addr, len).expect("a length of IPv4");
    (prefix, NextHopId::new(hop).expect("a small number"))
}
