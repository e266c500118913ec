//! From resources to verdicts: what each field means.

use std::fmt::Write as _;

use crate::config::Source;
use crate::policy::resource::load_sources;
use crate::policy::testing::Suite;
use crate::policy::{Model, calculate};

const PODS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: prod, labels: {env: live}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot, namespace: prod, labels: {kind: machine}}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: web, namespace: prod, labels: {app: web, pcns.env: faked}}
spec: {node: n, pod: web, serviceAccountName: robot, ipNetworks: [10.0.0.1/32, "fd00::1/128"], profiles: [kns.prod, ksa.prod.robot]}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: db, namespace: prod, labels: {app: db}}
spec: {node: n, pod: db, ipNetworks: [10.0.0.2/32, "fd00::2/128"], ports: [{name: sql, port: 5432, protocol: TCP}, {name: sql, port: 54, protocol: UDP}], profiles: [kns.prod]}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: other, namespace: test, labels: {app: web}}
spec: {node: n, pod: other, ipNetworks: [10.0.0.3/32, "fd00::3/128"], profiles: [kns.test]}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: vm, namespace: prod, labels: {app: vm}}
spec: {node: n, orchestrator: openstack, workload: vm, ipNetworks: [10.0.0.4/32], profiles: [kns.prod]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: world, labels: {app: web}}
spec: {nets: [198.51.100.0/24]}
---
apiVersion: projectcalico.org/v3
kind: NetworkSet
metadata: {name: partners, namespace: prod, labels: {app: web}}
spec: {nets: [203.0.113.0/24]}
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: first}
spec: {order: 1}
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: last}
spec: {defaultAction: Pass}
"#;

/// Checks rows against the pods and a policy. A row is `from to protocol port expected`.
#[track_caller]
fn check(policy: &str, rows: &[&str]) {
    let mut text = format!(
        "{PODS}---\n{policy}\n---\napiVersion: caracal/v1\nkind: PolicyTest\nspec:\n  tests:\n"
    );
    for row in rows {
        let words: Vec<&str> = row.split_whitespace().collect();
        let [from, to, protocol, port, expected] = words.as_slice() else {
            panic!("{row}");
        };
        let port = if *port == "-" {
            String::new()
        } else {
            format!("port: {port}, ")
        };
        let _ = writeln!(
            text,
            "    - {{from: \"{from}\", to: \"{to}\", protocol: {protocol}, {port}expected: {expected}}}"
        );
    }
    let suite =
        Suite::parse(&Source::new("test.yaml", text)).unwrap_or_else(|errors| panic!("{errors}"));
    let group = &suite.groups[0];
    assert_eq!(group.checks.len(), rows.len());
    for check in &group.checks {
        let verdict = check.run(&group.model);
        assert!(check.is_met_by(&verdict), "{}: {verdict:#?}", check.way);
    }
}

/// A policy of namespace prod for the database, with one rule of ingress.
fn np(rule: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: prod}}\nspec: \
         {{selector: app == 'db', ingress: [{rule}]}}"
    )
}

/// The same as a global policy.
fn gnp(rule: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: p}}\nspec: {{selector: app \
         == 'db', ingress: [{rule}]}}"
    )
}

#[test]
fn without_policy_the_namespace_allows() {
    check(
        "---",
        &[
            "prod/web prod/db TCP 1 Allow",
            "192.0.2.1 prod/db TCP 1 Allow",
        ],
    );
}

#[test]
fn a_policy_of_a_namespace_means_its_namespace() {
    let rows = [
        "prod/web prod/db TCP 1 Allow",
        "test/other prod/db TCP 1 Deny",
        "198.51.100.1 prod/db TCP 1 Deny",
        "203.0.113.1 prod/db TCP 1 Allow",
    ];
    check(
        &np("{action: Allow, source: {selector: app == 'web'}}"),
        &rows,
    );
    // A rule that selects nobody in particular means everybody, also if it says so with an empty selector.
    for empty in ["''", "\"  \"", "~"] {
        let rule = format!("{{action: Allow, source: {{selector: {empty}}}}}");
        check(
            &np(&rule),
            &[
                "test/other prod/db TCP 1 Allow",
                "192.0.2.1 prod/db TCP 1 Allow",
            ],
        );
    }
    check(
        &np("{action: Allow}"),
        &[
            "test/other prod/db TCP 1 Allow",
            "192.0.2.1 prod/db TCP 1 Allow",
        ],
    );
}

#[test]
fn a_global_policy_means_all_namespaces_and_what_is_in_none() {
    let rows = [
        "prod/web prod/db TCP 1 Allow",
        "test/other prod/db TCP 1 Allow",
        "198.51.100.1 prod/db TCP 1 Allow",
        "203.0.113.1 prod/db TCP 1 Allow",
        "192.0.2.1 prod/db TCP 1 Deny",
    ];
    check(
        &gnp("{action: Allow, source: {selector: app == 'web'}}"),
        &rows,
    );
}

#[test]
fn namespace_selectors_choose_namespaces() {
    for policy in [np, gnp] {
        let rule =
            "{action: Allow, source: {namespaceSelector: env == 'live', selector: app == 'web'}}";
        check(
            &policy(rule),
            &[
                "prod/web prod/db TCP 1 Allow",
                "test/other prod/db TCP 1 Deny",
                "203.0.113.1 prod/db TCP 1 Allow",
                "198.51.100.1 prod/db TCP 1 Deny",
            ],
        );
        // By name, with nothing known of the namespace but that.
        let rule =
            "{action: Allow, source: {namespaceSelector: kubernetes.io/metadata.name == 'test'}}";
        check(
            &policy(rule),
            &[
                "prod/web prod/db TCP 1 Deny",
                "test/other prod/db TCP 1 Allow",
            ],
        );
        let rule = "{action: Allow, source: {namespaceSelector: all()}}";
        check(
            &policy(rule),
            &[
                "test/other prod/db TCP 1 Allow",
                "198.51.100.1 prod/db TCP 1 Deny",
                "192.0.2.1 prod/db TCP 1 Deny",
            ],
        );
        let rule = "{action: Allow, source: {namespaceSelector: global()}}";
        check(
            &policy(rule),
            &[
                "test/other prod/db TCP 1 Deny",
                "198.51.100.1 prod/db TCP 1 Allow",
            ],
        );
    }
}

#[test]
fn not_selector_takes_away() {
    // Of a namespace: all of the namespace but those.
    check(
        &np("{action: Allow, source: {notSelector: app == 'vm'}}"),
        &[
            "prod/web prod/db TCP 1 Allow",
            "prod/vm prod/db TCP 1 Deny",
            "test/other prod/db TCP 1 Deny",
            "192.0.2.1 prod/db TCP 1 Deny",
        ],
    );
    // Global: all the world but those.
    check(
        &gnp("{action: Allow, source: {notSelector: app == 'vm'}}"),
        &[
            "prod/vm prod/db TCP 1 Deny",
            "192.0.2.1 prod/db TCP 1 Allow",
        ],
    );
}

#[test]
fn service_accounts_choose_pods() {
    for source in [
        "{serviceAccounts: {names: [robot]}}",
        "{serviceAccounts: {selector: kind == 'machine'}}",
        "{serviceAccounts: {names: [robot, human], selector: has(kind)}, selector: app == 'web'}",
    ] {
        check(
            &np(&format!("{{action: Allow, source: {source}}}")),
            &["prod/web prod/db TCP 1 Allow", "prod/vm prod/db TCP 1 Deny"],
        );
    }
    let policy = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: p}\nspec: \
                  {serviceAccountSelector: kind == 'machine', ingress: [{action: Deny}]}";
    check(
        policy,
        &[
            "192.0.2.1 prod/web TCP 1 Deny",
            "192.0.2.1 prod/db TCP 1 Allow",
        ],
    );
}

#[test]
fn named_ports_are_those_of_the_endpoints_and_the_protocol() {
    check(
        &np("{action: Allow, protocol: TCP, destination: {ports: [sql, 80]}}"),
        &[
            "prod/web prod/db TCP 5432 Allow",
            "prod/web prod/db TCP 80 Allow",
            "prod/web prod/db TCP 54 Deny",
            "prod/web prod/db UDP 54 Deny",
        ],
    );
    check(
        &np("{action: Allow, protocol: UDP, destination: {ports: [sql]}}"),
        &[
            "prod/web prod/db UDP 54 Allow",
            "prod/web prod/db TCP 5432 Deny",
        ],
    );
    check(
        &np("{action: Allow, protocol: TCP, destination: {notPorts: [sql, \"80:90\"]}}"),
        &[
            "prod/web prod/db TCP 5432 Deny",
            "prod/web prod/db TCP 85 Deny",
            "prod/web prod/db TCP 91 Allow",
            "prod/web prod/db UDP 91 Deny",
        ],
    );
}

#[test]
fn protocols_and_families() {
    check(
        &np(
            "{action: Allow, protocol: ICMP, icmp: {type: 8}}, {action: Allow, notProtocol: ICMP, ipVersion: 4}",
        ),
        &[
            "prod/web prod/db ICMP - Allow",
            "prod/web prod/db TCP 1 Allow",
            "fd00::1 prod/db TCP 1 Deny",
        ],
    );
    check(
        &np("{action: Allow, protocol: ICMPv6, notICMP: {type: 128, code: 0}}"),
        &[
            "prod/web prod/db ICMPv6 - Deny",
            "prod/web prod/db ICMP - Deny",
        ],
    );
    check(
        &np("{action: Allow, source: {nets: [10.0.0.0/30], notNets: [10.0.0.1]}}"),
        &[
            "prod/web prod/db TCP 1 Deny",
            "test/other prod/db TCP 1 Allow",
            "fd00::3 prod/db TCP 1 Deny",
        ],
    );
}

#[test]
fn types_default_to_what_there_are_rules_for() {
    let policy = |spec: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: prod}}\nspec: {spec}"
        )
    };
    let (to, from) = ("192.0.2.1 prod/db TCP 1", "prod/db 192.0.2.1 TCP 1");
    for (spec, to_is, from_is) in [
        ("{}", "Deny", "Allow"),
        ("{ingress: [{action: Deny}]}", "Deny", "Allow"),
        ("{egress: [{action: Deny}]}", "Allow", "Deny"),
        (
            "{ingress: [{action: Deny}], egress: [{action: Deny}]}",
            "Deny",
            "Deny",
        ),
        ("{types: [Egress]}", "Allow", "Deny"),
        ("{types: [Ingress, Egress]}", "Deny", "Deny"),
        (
            "{types: [Egress], ingress: [{action: Deny}]}",
            "Allow",
            "Deny",
        ),
    ] {
        check(
            &policy(spec),
            &[&format!("{to} {to_is}"), &format!("{from} {from_is}")],
        );
    }
}

#[test]
fn tiers_and_orders_decide_who_is_asked_first() {
    let policy = |name: &str, tier: &str, order: &str, action: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: {name}}}\nspec: {{tier: \
             {tier}, {order}, selector: app == 'db', ingress: [{{action: {action}}}]}}\n---\n"
        )
    };
    let row = |outcome: &str| format!("192.0.2.1 prod/db TCP 1 {outcome}");
    for (first, second, outcome) in [
        // By order, also one with a fraction.
        (
            ("b", "default", "order: 1.5"),
            ("a", "default", "order: 2"),
            "Allow",
        ),
        (
            ("b", "default", "order: -1"),
            ("a", "default", "order: 0"),
            "Allow",
        ),
        // Without an order behind all that have one.
        (
            ("b", "default", "order: 9e9"),
            ("a", "default", "order: ~"),
            "Allow",
        ),
        // Of one order by name.
        (
            ("a", "default", "order: 5"),
            ("b", "default", "order: 5"),
            "Allow",
        ),
        // Tiers first.
        (
            ("b", "first", "order: 9"),
            ("a", "default", "order: 1"),
            "Allow",
        ),
        (
            ("b", "default", "order: 9"),
            ("a", "last", "order: 1"),
            "Allow",
        ),
        // Those of Calico are there without a resource, around the default one.
        (
            ("b", "kube-admin", "order: 9"),
            ("a", "default", "order: 1"),
            "Allow",
        ),
        (
            ("b", "default", "order: 9"),
            ("a", "kube-baseline", "order: 1"),
            "Allow",
        ),
    ] {
        let (one, other) = (
            policy(first.0, first.1, first.2, "Allow"),
            policy(second.0, second.1, second.2, "Deny"),
        );
        check(&format!("{one}{other}"), &[&row(outcome)]);
        check(&format!("{other}{one}"), &[&row(outcome)]);
    }
    // Pass goes to the next tier, a tier that passes by default too, and both end with the profiles.
    let passes = policy("a", "first", "order: 1", "Pass");
    check(&passes, &[&row("Allow")]);
    check(
        &format!("{passes}{}", policy("b", "default", "order: 1", "Deny")),
        &[&row("Deny")],
    );
    let nothing = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: n}\nspec: {tier: last, \
                   selector: app == 'db', types: [Ingress]}";
    check(nothing, &[&row("Allow")]);
    check(&nothing.replace("last", "first"), &[&row("Deny")]);
    // They pass by default, also where their resources say so.
    let resources = "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: kube-admin}\nspec: {order: 1000, defaultAction: Pass}\n\
                     ---\napiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: kube-baseline}\nspec: {order: 1e7, defaultAction: Pass}\n";
    for tier in ["kube-admin", "kube-baseline"] {
        let nothing = nothing.replace("last", tier);
        check(&nothing, &[&row("Allow")]);
        check(&format!("{nothing}\n---\n{resources}"), &[&row("Allow")]);
    }
}

/// A tier without an order has that of the tier `default` (`DefaultTierFields` in `libcalico-go/lib/resources`).
#[test]
fn a_tier_without_an_order_is_beside_the_default_one() {
    let rows = |outcome: &str| format!("192.0.2.1 prod/db TCP 1 {outcome}");
    for (tier, outcome) in [("audit", "Deny"), ("zone", "Allow")] {
        let policy = format!(
            "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {{name: {tier}}}\n---\napiVersion: \
             projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: p}}\nspec: {{tier: {tier}, selector: app == \
             'db', ingress: [{{action: Deny}}]}}\n---\n{}",
            np("{action: Allow}")
        );
        check(&policy, &[&rows(outcome)]);
    }
    // Before what the cluster falls back on.
    let policy = |tier: &str, action: &str| {
        gnp(&format!("{{action: {action}}}"))
            .replace("name: p", &format!("name: p{tier}"))
            .replace("spec: {", &format!("spec: {{tier: {tier}, "))
    };
    check(
        &format!(
            "{}\n---\n{}",
            policy("last", "Allow"),
            policy("kube-baseline", "Deny")
        ),
        &[&rows("Allow")],
    );
}

/// Of one order, policies are in the order of `name/namespace/kind` (`PolKVLess` in `felix/calc/policy_sorter.go`): a name is
/// behind those that go on with `-` or `.`.
#[test]
fn policies_of_one_order_are_in_the_order_of_calicos_names() {
    let global = |name: &str, action: &str| {
        gnp(&format!("{{action: {action}}}")).replace("name: p", &format!("name: {name}"))
    };
    let kubernetes = |name: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: prod}}\nspec: \
             {{podSelector: {{}}, ingress: [{{}}]}}"
        )
    };
    let of_order = |policy: String| policy.replace("spec: {", "spec: {order: 1000, ");
    for (first, second) in [
        (global("deny-all", "Allow"), global("deny", "Deny")),
        (global("deny.all", "Allow"), global("deny", "Deny")),
        (global("deny", "Allow"), global("deny0", "Deny")),
        // Of one name: what is in no namespace, then namespaces in their order.
        (global("p", "Allow"), np("{action: Deny}")),
        // Policies of Kubernetes have order 1000, and their own names.
        (kubernetes("a"), of_order(global("b", "Deny"))),
        (of_order(global("b", "Allow")), kubernetes("c")),
        // The kind is what tells these apart.
        (kubernetes("p"), of_order(np("{action: Deny}"))),
    ] {
        for policies in [
            format!("{first}\n---\n{second}"),
            format!("{second}\n---\n{first}"),
        ] {
            check(&policies, &["192.0.2.1 prod/db TCP 1 Allow"]);
        }
    }
}

/// `all()` in a policy's selectors, as the update processors of `libcalico-go` have it: of a global policy that selects
/// namespaces or service accounts it means what is in one or has one, wherever it stands; a policy of a namespace means
/// its whole namespace.
#[test]
fn all_means_less_beside_selectors_of_namespaces_and_accounts() {
    let host = "apiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {name: h}\nspec: {node: m, interfaceName: eth0, \
                expectedIPs: [192.0.2.9], profiles: [projectcalico-default-allow]}";
    let policy = |spec: &str| {
        format!(
            "{host}\n---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: p}}\nspec: {{{spec}, \
             types: [Ingress]}}"
        )
    };
    let rows = |host: &str, db: &str, web: &str| {
        [
            format!("198.51.100.1 host:m TCP 80 {host}"),
            format!("198.51.100.1 prod/db TCP 80 {db}"),
            format!("198.51.100.1 prod/web TCP 80 {web}"),
        ]
    };
    for (spec, expected) in [
        ("selector: all()", ["Deny", "Deny", "Deny"]),
        ("namespaceSelector: all()", ["Allow", "Deny", "Deny"]),
        // A host has no namespace, and so not the excluded one either.
        ("namespaceSelector: env != 'x'", ["Deny", "Deny", "Deny"]),
        (
            "selector: all(), namespaceSelector: env != 'x'",
            ["Allow", "Deny", "Deny"],
        ),
        (
            "selector: app == 'db' || all(), namespaceSelector: env != 'x'",
            ["Allow", "Deny", "Deny"],
        ),
        ("serviceAccountSelector: all()", ["Allow", "Allow", "Deny"]),
        (
            "serviceAccountSelector: kind != 'x'",
            ["Deny", "Deny", "Deny"],
        ),
        (
            "selector: all(), serviceAccountSelector: kind != 'x'",
            ["Allow", "Allow", "Deny"],
        ),
        (
            "selector: all(), namespaceSelector: env != 'x', serviceAccountSelector: kind != 'x'",
            ["Allow", "Deny", "Deny"],
        ),
    ] {
        let [host, db, web] = expected;
        let rows = rows(host, db, web);
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        check(&policy(spec), &rows);
    }
    let namespaced = "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: p, namespace: prod}\nspec: \
                      {serviceAccountSelector: all(), types: [Ingress]}";
    check(
        namespaced,
        &[
            "198.51.100.1 prod/web TCP 1 Deny",
            "198.51.100.1 prod/db TCP 1 Deny",
            "198.51.100.1 test/other TCP 1 Allow",
        ],
    );
}

#[test]
fn staged_policies_decide_nothing_and_are_reported() {
    let policy = np("{action: Deny}").replace("kind: NetworkPolicy", "kind: StagedNetworkPolicy");
    check(&policy, &["prod/web prod/db TCP 1 Allow"]);
    let text = format!(
        "{PODS}---\n{policy}\n---\napiVersion: caracal/v1\nkind: PolicyTest\nspec: {{tests: [{{from: prod/web, to: \
         prod/db, protocol: TCP, port: 1, expected: Allow}}]}}"
    );
    let suite = Suite::parse(&Source::new("test.yaml", text)).unwrap();
    let verdict = suite.groups[0].checks[0].run(&suite.groups[0].model);
    assert_eq!(verdict.staged.len(), 1);
    assert_eq!(
        verdict.staged[0].policy.to_string(),
        "StagedNetworkPolicy prod/p"
    );
    assert_eq!(verdict.staged[0].outcome.as_str(), "Deny");
    let deleted = "apiVersion: projectcalico.org/v3\nkind: StagedNetworkPolicy\nmetadata: {name: p, namespace: prod}\nspec: \
                   {stagedAction: Delete}";
    let model = model(&format!("{PODS}---\n{deleted}"));
    assert!(model.policies.is_empty());
}

#[test]
fn policies_of_kubernetes() {
    let policy = |spec: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: prod}}\nspec: {{{spec}}}"
        )
    };
    // All pods of Kubernetes, and nothing else.
    check(
        &policy("podSelector: {}"),
        &[
            "prod/web prod/db TCP 1 Deny",
            "prod/web prod/vm TCP 1 Allow",
            "prod/db 192.0.2.1 TCP 1 Allow",
            "prod/web test/other TCP 1 Allow",
        ],
    );
    let db =
        "podSelector: {matchExpressions: [{key: app, operator: In, values: [db, x]}]}, ingress: ";
    check(
        &policy(&format!(
            "{db}[{{from: [{{podSelector: {{matchLabels: {{app: web}}}}}}]}}]"
        )),
        &[
            "prod/web prod/db TCP 1 Allow",
            "test/other prod/db TCP 1 Deny",
            "203.0.113.1 prod/db TCP 1 Deny",
        ],
    );
    check(
        &policy(&format!("{db}[{{from: [{{namespaceSelector: {{}}}}]}}]")),
        &[
            "test/other prod/db TCP 1 Allow",
            "prod/vm prod/db TCP 1 Deny",
            "192.0.2.1 prod/db TCP 1 Deny",
        ],
    );
    check(
        &policy(&format!(
            "{db}[{{from: [{{ipBlock: {{cidr: 192.0.2.0/24, except: [192.0.2.128/25]}}}}], ports: [{{port: 80, endPort: \
             90}}, {{port: sql}}, {{protocol: UDP}}]}}]"
        )),
        &[
            "192.0.2.1 prod/db TCP 85 Allow",
            "192.0.2.129 prod/db TCP 85 Deny",
            "192.0.2.1 prod/db TCP 91 Deny",
            "192.0.2.1 prod/db TCP 5432 Allow",
            "192.0.2.1 prod/db UDP 7 Allow",
            "192.0.2.1 prod/db SCTP 85 Deny",
            "prod/web prod/db TCP 85 Deny",
        ],
    );
    check(
        &policy(
            "podSelector: {matchLabels: {app: db}}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}]}]",
        ),
        &[
            "prod/db prod/web TCP 1 Allow",
            "prod/db 192.0.2.1 TCP 1 Deny",
            "192.0.2.1 prod/db TCP 1 Allow",
        ],
    );
}

#[test]
fn a_set_that_is_empty_matches_nothing() {
    for policy in [np, gnp] {
        check(
            &policy("{action: Allow, source: {selector: app == 'nobody'}}"),
            &[
                "prod/web prod/db TCP 1 Deny",
                "192.0.2.1 prod/db TCP 1 Deny",
            ],
        );
        check(
            &policy("{action: Allow, protocol: TCP, destination: {ports: [nowhere]}}"),
            &["prod/web prod/db TCP 5432 Deny"],
        );
    }
}

#[test]
fn nobody_pretends_to_be_in_another_namespace() {
    check(
        &gnp("{action: Allow, source: {namespaceSelector: env == 'faked'}}"),
        &["prod/web prod/db TCP 1 Deny"],
    );
}

#[test]
fn a_profile_that_is_not_there_denies() {
    let policy = "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata: {name: lost, namespace: prod}\nspec: \
                  {node: n, pod: lost, ipNetworks: [10.0.0.9/32], profiles: [gone]}";
    check(
        policy,
        &[
            "192.0.2.1 prod/lost TCP 1 Deny",
            "prod/lost 192.0.2.1 TCP 1 Deny",
        ],
    );
}

#[test]
fn a_namespace_that_another_one_names_first_is_there_all_the_same() {
    let policy = "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata: {name: a, namespace: aa}\nspec: {node: n, \
                  pod: a, ipNetworks: [10.0.0.8/32], profiles: [kns.bb]}\n---\napiVersion: projectcalico.org/v3\nkind: \
                  WorkloadEndpoint\nmetadata: {name: b, namespace: bb}\nspec: {node: n, pod: b, ipNetworks: [10.0.0.9/32], \
                  profiles: [kns.bb]}";
    check(
        policy,
        &["192.0.2.1 bb/b TCP 1 Allow", "192.0.2.1 aa/a TCP 1 Allow"],
    );
}

#[test]
fn what_has_no_port_has_no_named_one() {
    let deny = "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: p, namespace: prod}\nspec: \
                {selector: app == 'db', ingress: [{action: Deny, destination: {notPorts: [sql]}}, {action: Allow}]}";
    check(
        deny,
        &[
            "prod/web prod/db TCP 5432 Allow",
            "prod/web prod/db TCP 91 Deny",
            "prod/web prod/db ICMP - Deny",
        ],
    );
}

#[test]
fn profiles_decide_where_policies_pass() {
    let policy = "apiVersion: projectcalico.org/v3\nkind: Profile\nmetadata: {name: own}\nspec: {labelsToApply: {x: y}, \
                  ingress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}]}\n---\napiVersion: \
                  projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata: {name: pod, namespace: prod}\nspec: {node: n, \
                  pod: pod, ipNetworks: [10.0.0.9/32], profiles: [own]}\n---\napiVersion: \
                  projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: p}\nspec: {selector: x == 'y', egress: \
                  [{action: Allow, protocol: UDP}]}";
    check(
        policy,
        &[
            "192.0.2.1 prod/pod TCP 80 Allow",
            "192.0.2.1 prod/pod TCP 81 Deny",
            "prod/pod 192.0.2.1 UDP 53 Allow",
            "prod/pod 192.0.2.1 TCP 53 Deny",
        ],
    );
}

fn model(text: &str) -> Model {
    let resources =
        load_sources(&[Source::new("a.yaml", text)]).unwrap_or_else(|errors| panic!("{errors}"));
    calculate(&resources)
        .unwrap_or_else(|errors| panic!("{errors}"))
        .0
}

#[test]
fn where_rules_are_written_does_not_matter() {
    let policy = np("{action: Allow, source: {selector: app == 'web'}}");
    let (one, other) = (
        model(&format!("{PODS}---\n{policy}")),
        model(&format!("# x\n\n{policy}\n---\n{PODS}")),
    );
    assert_eq!(one, other);
    assert_ne!(
        one,
        model(&format!("{PODS}---\n{}", policy.replace("'web'", "'wbe'")))
    );
    assert!(one.unknown_ip_sets().is_empty());
}

#[test]
fn policies_of_hosts_go_where_their_flags_say() {
    let policy = |name: &str, flags: &str| {
        format!(
            "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: {name}}}\nspec: {{selector: \
             role == 'node', {flags}ingress: [{{action: Allow}}]}}\n"
        )
    };
    let text = format!(
        "apiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {{name: h, labels: {{role: node}}}}\nspec: {{node: n, \
         interfaceName: eth0}}\n{}{}{}{}",
        policy("normal", ""),
        policy("forward", "applyOnForward: true, "),
        policy("early", "preDNAT: true, applyOnForward: true, "),
        policy("untracked", "doNotTrack: true, applyOnForward: true, "),
    );
    let model = model(&text);
    let endpoint = &model.host_endpoints["h"];
    let names = |tiers: &[crate::policy::model::TierPolicies]| -> Vec<String> {
        let ids = tiers.iter().flat_map(|tier| &tier.ingress);
        ids.map(|id| id.name.to_string()).collect()
    };
    assert_eq!(names(&endpoint.normal), ["forward", "normal"]);
    assert_eq!(names(&endpoint.forward), ["forward"]);
    assert_eq!(names(&endpoint.pre_dnat), ["early"]);
    assert_eq!(names(&endpoint.untracked), ["untracked"]);
}

#[test]
fn another_nodes_host_is_behind_its_host_endpoint() {
    let hosts = "apiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {name: m}\nspec: {node: m, interfaceName: eth0, \
                 expectedIPs: [192.0.2.9]}\n---\napiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata: {name: \
                 far, namespace: prod}\nspec: {node: m, pod: far, ipNetworks: [10.0.1.1/32], profiles: [kns.prod]}";
    check(
        hosts,
        &[
            "prod/web host:m TCP 22 Allow",
            "prod/web host:m TCP 80 Deny",
            "192.0.2.1 host:m TCP 80 Deny",
            // Pods of that node are behind it, too, but it has nothing to say about what is forwarded.
            "prod/web prod/far TCP 80 Allow",
        ],
    );
    let closed = "\n---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: p}\nspec: {selector: \
                  '!has(projectcalico.org/namespace)', applyOnForward: true, types: [Ingress]}";
    let all = hosts.replace("eth0", "'*'");
    // A tunnel hides packets from eth0's endpoint, and not from that of all interfaces.
    check(
        &format!("{hosts}{closed}"),
        &[
            "prod/web prod/far TCP 80 Allow",
            "192.0.2.1 prod/far TCP 80 Deny",
        ],
    );
    check(
        &format!("{all}{closed}"),
        &["prod/web prod/far TCP 80 Deny"],
    );
}

#[test]
fn failsafe_ports_are_those_of_the_node() {
    let hosts = "apiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {name: m}\nspec: {node: m, interfaceName: eth0, \
                 expectedIPs: [192.0.2.9]}\n---\napiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: \
                 default}\nspec: {failsafeInboundHostPorts: [{port: 2222, net: 192.0.2.0/30}]}\n";
    let rows = [
        "192.0.2.1 host:m TCP 2222 Allow",
        "192.0.2.4 host:m TCP 2222 Deny",
        "192.0.2.1 host:m TCP 22 Deny",
    ];
    check(hosts, &rows);
    let own = "---\napiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: node.m}\nspec: \
               {failsafeInboundHostPorts: []}";
    check(
        &format!("{hosts}{own}"),
        &["192.0.2.1 host:m TCP 2222 Deny"],
    );
}
