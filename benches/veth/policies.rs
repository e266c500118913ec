//! The policies of the generator's pod, the same for every node that has any.

/// How many there are that do not match. The one behind them allows.
pub(crate) const POLICIES: u16 = 1000;

/// The rule of a policy: UDP to a network and a port.
pub(crate) struct Rule {
    pub(crate) net: String,
    pub(crate) port: u16,
}

/// The rule of policy `number`.
pub(crate) fn rule(number: u16) -> Rule {
    let [high, low] = number.to_be_bytes();
    Rule {
        net: format!("10.{}.{low}.0/24", 100 + high),
        port: 1000 + number,
    }
}

/// All of them as Calico's resources.
pub(crate) fn resources() -> String {
    let of_rules = (0..POLICIES).map(|number| {
        let Rule { net, port } = rule(number);
        policy(
            number,
            &format!(
                "{{action: Allow, protocol: UDP, destination: {{nets: [{net}], ports: [{port}]}}}}"
            ),
        )
    });
    of_rules
        .chain([policy(POLICIES, "{action: Allow}")])
        .collect()
}

fn policy(order: u16, rule: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: default.p{order:04}}}\n\
         spec: {{tier: default, order: {order}, selector: all(), types: [Egress], egress: [{rule}]}}\n"
    )
}
