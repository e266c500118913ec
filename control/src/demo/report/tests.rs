use super::*;

fn outcome(what: What, status: Status) -> Outcome {
    Outcome {
        step: "vxlan".to_owned(),
        mode: Mode::Vxlan,
        family: Some(Family::Ipv6),
        pair: Some("pod to host".to_owned()),
        from: Some("node1/client".to_owned()),
        to: Some("node1".to_owned()),
        what,
        status,
        reason: (status != Status::Pass).then(|| "no answer".to_owned()),
        figures: Figures {
            rtt_ms: Some(0.25),
            ..Figures::default()
        },
    }
}

#[test]
fn a_failure_is_named_under_its_line() {
    let text = line(&[
        outcome(What::Neighbour, Status::Fail),
        outcome(What::Ping, Status::Pass),
    ]);
    assert_eq!(
        text,
        "FAIL vxlan              ipv6  pod to host           node1/client -> node1      ping 0.250 ms\n       ndp failed: no answer"
    );
}

#[test]
fn only_checks_that_all_hold_are_ok() {
    let mut report = Report::new("caracal");
    report.conclude(1.0);
    assert!(!report.ok, "nothing was tried");
    report.checks.push(outcome(What::Ping, Status::Pass));
    report.checks.push(outcome(What::Wire, Status::Skipped));
    report.conclude(1.0);
    assert!(report.ok);
    report.checks.push(outcome(What::Tcp, Status::Fail));
    report.conclude(1.0);
    assert!(!report.ok);
    assert_eq!(
        report.summary_text(),
        "FAIL: 1 check passed, 1 failed, 1 skipped, in 1 s"
    );
}

#[test]
fn json_has_the_documented_form() {
    let mut report = Report::new("kernel");
    report.checks.push(outcome(What::Ping, Status::Pass));
    report.conclude(2.0);
    let value: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    assert_eq!(value["schema"], "caracal.demo/v1");
    assert_eq!(value["ok"], true);
    assert_eq!(value["summary"]["passed"], 1);
    let check = &value["checks"][0];
    assert_eq!(check["mode"], "vxlan");
    assert_eq!(check["family"], "ipv6");
    assert_eq!(check["what"], "ping");
    assert_eq!(check["status"], "pass");
    assert_eq!(check["figures"], serde_json::json!({"rtt_ms": 0.25}));
}
