//! IP sets of a million members: memory, lookups, one member more.

use std::hint::black_box;
use std::time::Duration;

use benches::rng::Rng;
use benches::rounds::{Contender, Result, interleave};
use benches::setup::Setup;
use benches::table::Table;
use benches::{alloc, cpu};
use flowtable::acl::{Member, Members, Net, SetId, SetWriter};
use flowtable::lpm::{Prefix4, Prefix6};

use crate::calico::{host, port};
const MEMBERS: usize = 1_000_000;

/// Of which these are added one by one.
const MORE: usize = 1_000;

const LOOKUPS: usize = 1 << 18;

/// Addresses that are looked up together.
const BATCH: usize = 64;

pub(crate) fn run(setup: &Setup) -> Result<()> {
    if !setup.wants("ipsets") {
        return Ok(());
    }
    println!("## ipsets: one set of a million members\n");
    let mut table = Table::new(&["members", "build, ms", "MB", "one more, µs", "99 %, µs"]);
    let mut rng = Rng::new(1);
    let mut addr = || rng.next_u64() as u32;
    // The same member twice would be added once; a few of a million are.
    let v4: Vec<Member> = (0..MEMBERS).map(|_| host(addr())).collect();
    let nets: Vec<Member> = (0..MEMBERS)
        .map(|_| net4(addr(), 20 + (addr() % 13) as u8))
        .collect();
    let ports: Vec<Member> = (0..MEMBERS).map(|_| port(addr(), addr() as u16)).collect();
    let v6: Vec<Member> = (0..MEMBERS)
        .map(|_| host6(u128::from(addr()) << 64 | u128::from(addr())))
        .collect();
    let mut writer = None;
    for (name, members) in [
        ("IPv4 /32", &v4),
        ("IPv4 /20 to /32", &nets),
        ("IPv4, protocol and port", &ports),
        ("IPv6 /128", &v6),
    ] {
        let ((mut sets, build), memory) = alloc::measure(|| {
            cpu::time(|| {
                let mut sets = SetWriter::default();
                sets.replace(SetId(1), &members[MORE..]).map(|()| sets)
            })
        });
        let sets = sets.as_mut().map_err(|why| why.to_string())?;
        let mut times = Vec::new();
        let mut snapshots = Vec::new();
        for member in &members[..MORE] {
            // A reader holds what was there before: the change must copy what it touches.
            snapshots.push(sets.snapshot());
            let (added, took) = cpu::time(|| sets.add(SetId(1), member).map(|_| sets.snapshot()));
            added?;
            times.push(took);
            snapshots.truncate(4);
        }
        times.sort_unstable();
        let micros = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1e6);
        table.row(vec![
            name.into(),
            format!("{:.0}", build.as_secs_f64() * 1e3),
            format!("{:.1}", memory.kept_bytes as f64 / 1e6),
            micros(times[times.len() / 2]),
            micros(times[times.len() * 99 / 100]),
        ]);
        if writer.is_none() {
            writer = Some(sets.snapshot());
        }
    }
    println!("{table}");

    let sets = writer.ok_or("no sets")?;
    let mut rng = Rng::new(2);
    for (name, hits) in [("members", true), ("others", false)] {
        let addrs: Vec<u32> = (0..LOOKUPS)
            .map(|_| match v4[rng.below(v4.len())] {
                Member::Net(Net::V4(net)) if hits => net.addr(),
                _ => rng.next_u64() as u32,
            })
            .collect();
        let mut contenders = [
            Contender::here("64 at a time", || {
                let mut out = [Members::NONE; BATCH];
                for addrs in addrs.chunks_exact(BATCH) {
                    sets.members_batch(addrs, &mut out);
                    for (&addr, members) in addrs.iter().zip(&out) {
                        black_box(sets.holds(members, addr, SetId(1)));
                    }
                }
            }),
            Contender::here("one by one", || {
                for &addr in &addrs {
                    black_box(sets.contains(SetId(1), addr));
                }
            }),
        ];
        let all = interleave(setup.rounds, LOOKUPS, &mut contenders)?;
        println!("{}", Table::of_series(name, "ns", &all));
    }
    Ok(())
}

fn net4(addr: u32, len: u8) -> Member {
    Member::Net(Net::V4(
        Prefix4::containing(addr, len).unwrap_or(Prefix4::DEFAULT),
    ))
}

fn host6(addr: u128) -> Member {
    Member::Net(Net::V6(Prefix6::host(addr)))
}
