use super::*;

fn names(modes: &[Mode], dataplane: Dataplane) -> Vec<String> {
    let wishes = Wishes {
        modes: modes.to_vec(),
        families: Family::ALL.to_vec(),
        bytes: 1,
        dataplane,
        steps: Vec::new(),
    };
    plan(&wishes).into_iter().map(Step::name).collect()
}

#[test]
fn caracal_must_also_be_missed_and_judged_by_the_kernel() {
    assert_eq!(
        names(&Mode::ALL, Dataplane::Caracal),
        [
            "vxlan",
            "policy",
            "stopped",
            "killed",
            "snat",
            "services",
            "ipip",
            "direct",
            "cross-subnet/same",
            "cross-subnet/other",
            "interop-vxlan",
            "interop-ipip"
        ]
    );
    assert_eq!(
        names(&[Mode::Direct], Dataplane::Caracal),
        ["direct", "policy", "stopped", "killed", "snat", "services"]
    );
}

#[test]
fn the_kernel_alone_has_only_its_modes() {
    assert_eq!(
        names(&[Mode::Vxlan, Mode::CrossSubnet], Dataplane::Kernel),
        ["vxlan", "snat", "cross-subnet/same", "cross-subnet/other"]
    );
}

#[test]
fn a_step_that_there_is_not_is_named_with_those_that_there_are() {
    let mut wishes = Wishes {
        modes: vec![Mode::Direct],
        families: Family::ALL.to_vec(),
        bytes: 1,
        dataplane: Dataplane::Caracal,
        steps: vec!["snat".to_owned()],
    };
    assert_eq!(check(&wishes), Ok(()));
    wishes.steps.push("foo".to_owned());
    let said = "no step \"foo\" of these modes: direct, policy, stopped, killed, snat, services";
    assert_eq!(check(&wishes), Err(said.to_owned()));
    wishes.steps = vec!["interop-vxlan".to_owned()];
    assert!(check(&wishes).is_err(), "it is of another mode");
}
