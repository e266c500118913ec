//! Compiling all chains of a node, and again after one policy has changed.

use std::sync::Arc;

use benches::cpu;
use benches::rng::Rng;
use benches::rounds::Result;
use benches::setup::Setup;
use benches::table::Table;
use flowtable::acl::{Chain, Compiler, Policy};

use crate::calico::{Endpoint, List, Shape, node, policy};
/// Compiling all of a node's chains, and again after one policy has changed.
pub(crate) fn run(setup: &Setup) -> Result<()> {
    if !setup.wants("compile") {
        return Ok(());
    }
    println!("## compile: 10,000 policies, 250 endpoints, both directions\n");
    let mut table = Table::new(&["", "all, ms", "after one change, ms", "at worst, ms", "MB"]);
    for (name, own) in [
        ("80 policies an endpoint", 80),
        ("every policy on every endpoint", 0),
    ] {
        let shape = Shape {
            endpoints: 250,
            policies: 10_000,
            own,
            workloads: 250,
            sets: 200,
        };
        let (mut policies, mut endpoints) = node(&shape);
        if own == 0 {
            let all = [0, 1].map(|direction| -> Arc<[_]> {
                policies
                    .iter()
                    .map(|it| Arc::clone(&it[direction]))
                    .collect()
            });
            for it in &mut endpoints {
                it.egress.tiers[1].policies = Arc::clone(&all[0]);
                it.ingress.tiers[1].policies = Arc::clone(&all[1]);
            }
        }
        let mut compiler = Compiler::default();
        let compile_all =
            |compiler: &mut Compiler, endpoints: &[Endpoint]| -> Result<Vec<[Chain; 2]>> {
                endpoints
                    .iter()
                    .map(|it| Ok([compiler.chain(&it.egress)?, compiler.chain(&it.ingress)?]))
                    .collect()
            };
        let (chains, all) = cpu::time(|| compile_all(&mut compiler, &endpoints));
        let mut chains = chains?;
        let megabytes = compiler.memory_bytes() as f64 / 1e6;
        let mut rng = Rng::new(3);
        let mut id = 1 << 30;
        let mut times = Vec::new();
        for round in 0..40 {
            // The first are of the platform's tier, which every endpoint applies.
            let at = if round < 10 {
                rng.below(5)
            } else {
                rng.below(policies.len())
            };
            let new = [false, true].map(|ingress| policy(&mut rng, &mut id, shape.sets, ingress));
            let old = std::mem::replace(&mut policies[at], new.clone());
            let (made, took) = cpu::time(|| -> Result<()> {
                let touched = replace(&mut endpoints, &old, &new);
                for at in touched {
                    let it = &endpoints[at];
                    chains[at] = [compiler.chain(&it.egress)?, compiler.chain(&it.ingress)?];
                }
                Ok(())
            });
            made?;
            times.push(took.as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        table.row(vec![
            name.into(),
            format!("{:.1}", all.as_secs_f64() * 1e3),
            format!("{:.2}", times[times.len() / 2]),
            format!("{:.2}", times[times.len() - 1]),
            format!("{megabytes:.1}"),
        ]);
    }
    println!("{table}");
    Ok(())
}

/// Puts `new` where `old` was, and says in whose chains. A list that endpoints share stays shared.
fn replace(
    endpoints: &mut [Endpoint],
    old: &[Arc<Policy>; 2],
    new: &[Arc<Policy>; 2],
) -> Vec<usize> {
    let mut made: Vec<(List, Option<List>)> = Vec::new();
    let mut replaced = |list: &List, direction: usize| {
        if let Some((_, new)) = made.iter().rev().find(|(old, _)| Arc::ptr_eq(old, list)) {
            return new.clone();
        }
        let is_old = |policy: &Arc<Policy>| Arc::ptr_eq(policy, &old[direction]);
        let other = list.iter().any(is_old).then(|| {
            let policies = list.iter();
            policies
                .map(|policy| {
                    Arc::clone(if is_old(policy) {
                        &new[direction]
                    } else {
                        policy
                    })
                })
                .collect()
        });
        made.push((Arc::clone(list), other));
        made.last().and_then(|(_, other)| other.clone())
    };
    let mut touched = Vec::new();
    for (at, it) in endpoints.iter_mut().enumerate() {
        let mut is_touched = false;
        for (direction, spec) in [&mut it.egress, &mut it.ingress].into_iter().enumerate() {
            for tier in &mut spec.tiers {
                if let Some(list) = replaced(&tier.policies, direction) {
                    tier.policies = list;
                    is_touched = true;
                }
            }
        }
        if is_touched {
            touched.push(at);
        }
    }
    touched
}
