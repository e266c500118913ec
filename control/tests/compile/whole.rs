//! An update is taken whole or not at all.

use std::net::Ipv4Addr;

use control::compile::{Compiler, PolicyCompiler, PortRole};
use control::desired::{Desired, Node};

use super::{Kernel, asked, compiler, desired, desired_with, hop, kernel, net, port};

/// Every address of the tables that tests ask for, and what becomes of it.
fn picture(compiler: &mut Compiler, kernel: &Kernel) -> Vec<String> {
    let tables = compiler.tables(kernel);
    [
        "10.65.0.2",
        "10.65.0.9",
        "10.65.0.40",
        "10.65.1.7",
        "10.65.2.7",
        "192.168.0.11",
        "8.8.8.8",
    ]
    .iter()
    .map(|dst| format!("{dst}: {:?}", hop(&tables, dst)))
    .collect()
}

/// A wanted state with a block of its own for each of so many more nodes, and another way to node b.
fn with_nodes(count: u32) -> Desired {
    let mut desired = desired("ipipMode: Always", "192.168.0.13/24");
    let block = desired
        .routes
        .iter()
        .find(|route| route.dst == net("10.65.1.0/26"));
    let block = block.unwrap().clone();
    for number in 0..count {
        let mut route = block.clone();
        let name = format!("n{number}");
        let address = Ipv4Addr::from_bits(0x0a81_0000 + (number << 6));
        route.dst = net(&format!("{address}/26"));
        route.dst_node = Some(name.clone());
        let node = Node {
            name: name.clone(),
            v4: Some("192.168.1.1/32".parse().unwrap()),
            ..Default::default()
        };
        desired.nodes.insert(name, node);
        desired.routes.push(route);
    }
    desired
}

#[test]
fn a_state_whose_routes_do_not_fit_changes_nothing() {
    let kernel = kernel();
    let good = desired("vxlanMode: Always", "192.168.0.12/24");
    let mut compiler = compiler(good.clone(), &kernel);
    let (before, count) = (picture(&mut compiler, &kernel), compiler.route_count());
    // Of nodes of their own, of next hops, and twice: nothing of the first try is left.
    for nodes in [70_000, 32_768, 32_768] {
        let error = compiler
            .set_desired(with_nodes(nodes), &kernel)
            .unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains("more than 32,766 nodes")
                || said.contains("more than 32767 different next hops"),
            "{said}"
        );
        assert_eq!(*compiler.desired(), good);
        assert_eq!(compiler.route_count(), count);
        assert_eq!(picture(&mut compiler, &kernel), before);
    }
    // All numbers were given back.
    compiler.set_desired(with_nodes(32_000), &kernel).unwrap();
    assert_ne!(picture(&mut compiler, &kernel), before);
    compiler.set_desired(good, &kernel).unwrap();
    assert_eq!(picture(&mut compiler, &kernel), before);
}

#[test]
fn a_state_whose_policy_does_not_fit_leaves_the_routes_alone() {
    let kernel = kernel();
    let good = desired("vxlanMode: Always", "192.168.0.12/24");
    let mut compiler = compiler(Desired::default(), &kernel);
    *compiler.policy_mut() = PolicyCompiler::with_limits(100_000, 100_000);
    compiler.set_desired(good.clone(), &kernel).unwrap();
    let (before, count) = (picture(&mut compiler, &kernel), compiler.route_count());
    let nets: Vec<_> = (0..10_000_u32)
        .map(|n| format!("{}/32", Ipv4Addr::from_bits(0x6440_0000 + 2 * n)))
        .collect();
    let large = format!(
        "---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {{name: large, namespace: prod}}
spec: {{selector: all(), types: [Egress], egress: [{{action: Deny, destination: {{nets: [{}]}}}}]}}
",
        nets.join(", ")
    );
    for _ in 0..2 {
        let bad = desired_with("ipipMode: Always", "192.168.0.13/24", &large);
        let error = compiler.set_desired(bad, &kernel).unwrap_err().to_string();
        let part = "policy of prod/web: 1 rules compiled together need at least ";
        assert!(error.starts_with(part), "{error}");
        assert_eq!(*compiler.desired(), good);
        assert_eq!(compiler.route_count(), count);
        assert_eq!(picture(&mut compiler, &kernel), before);
        let said = asked(&mut compiler, &kernel, "prod/web", "100.64.0.0");
        assert!(said.contains("Verdict ALLOW"), "{said}");
    }
    // It goes on from there.
    let other = desired("ipipMode: Always", "192.168.0.13/24");
    compiler.set_desired(other, &kernel).unwrap();
    assert_ne!(picture(&mut compiler, &kernel), before);
}

#[test]
fn ports_whose_routes_do_not_fit_leave_the_routes_alone() {
    let kernel = kernel();
    let mut wanted = desired("vxlanMode: Always", "192.168.0.12/24");
    let pod = wanted.endpoints[0].clone();
    for number in 0..32_768_u32 {
        let mut more = pod.clone();
        more.interface = format!("calix{number}");
        more.id.name = more.interface.clone();
        let address = Ipv4Addr::from_bits(0x0a41_0400 + number);
        more.ipv4_nets = vec![address.into()];
        wanted.endpoints.push(more);
    }
    let mut compiler = compiler(wanted, &kernel);
    let before = compiler.route_count();
    for number in 0..32_768 {
        let name = format!("calix{number}");
        compiler
            .ports_mut()
            .insert(port(&name, 10 + number, PortRole::Pod));
    }
    for _ in 0..2 {
        let error = compiler.refresh_routes(&kernel).unwrap_err();
        assert!(error.to_string().contains("next hops"), "{error}");
        assert_eq!(compiler.route_count(), before);
    }
    for number in 0..16 {
        compiler.ports_mut().remove(&format!("calix{number}"));
    }
    compiler.refresh_routes(&kernel).unwrap();
    assert!(compiler.route_count().0 > before.0 + 32_000);
}
