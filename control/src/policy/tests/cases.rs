//! Calico's own cases.

use std::path::Path;
use std::sync::Arc;

use crate::config::decode::Context;
use crate::config::{Diagnostics, Source, read, yaml};
use crate::policy::testing::{Group, calculated};

fn load() -> Vec<Group> {
    decode(&read(Path::new("tests/policy-cases/cases.json")).unwrap())
}

fn decode(source: &Arc<Source>) -> Vec<Group> {
    let documents = yaml::parse(source).unwrap();
    let mut diagnostics = Diagnostics::default();
    let mut cx = Context {
        diagnostics: &mut diagnostics,
        resource: String::new(),
    };
    let groups = calculated::decode(&documents[0], &mut cx);
    assert_eq!(diagnostics.render(false), "");
    groups
}

#[test]
fn all_of_calicos_cases_have_the_verdict_that_calico_expects() {
    let groups = load();
    assert_eq!(groups.len(), 33);
    let mut count = 0;
    for group in &groups {
        for check in &group.checks {
            let verdict = check.run(&group.model);
            assert!(
                check.is_met_by(&verdict),
                "{}: {}: {verdict:?}",
                group.name,
                check.way
            );
            count += 1;
        }
    }
    assert_eq!(count, 198);
}

#[test]
fn a_list_or_a_set_that_is_there_and_empty_matches_nothing() {
    for condition in [
        r#""src_net": []"#,
        r#""dst_net": []"#,
        r#""src_ports": []"#,
        r#""dst_named_port_ip_set_ids": []"#,
        r#""src_ip_set_ids": ["s"]"#,
        r#""dst_ip_port_set_ids": ["s"]"#,
        r#""dst_named_port_ip_set_ids": ["s"]"#,
    ] {
        let text = format!(
            r#"{{"cases": [{{"name": "a", "ipsets": {{"s": []}},
                "policy": {{"tiers": [{{"name": "t", "policies": [{{"name": "p", "rules": [{{"action": "allow", {condition}}}]}}]}}]}},
                "dropped": [{{"proto": 6, "src": "10.0.0.1", "sport": 1, "dst": "10.0.0.2", "dport": 2}}]}}]}}"#
        );
        let groups = decode(&Source::new("a.json", text));
        let group = &groups[0];
        let verdict = group.checks[0].run(&group.model);
        assert!(group.checks[0].is_met_by(&verdict), "{condition}");
    }
}
