//! Calico's own cases.

use std::path::Path;

use crate::config::decode::Context;
use crate::config::{Diagnostics, read, yaml};
use crate::policy::testing::{Group, calculated};

fn load() -> Vec<Group> {
    let source = read(Path::new("tests/policy-cases/cases.json")).unwrap();
    let documents = yaml::parse(&source).unwrap();
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
