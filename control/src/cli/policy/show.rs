//! `caracal policy show`: what applies to an endpoint, in order.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Cli, Exit};
use crate::cli::Output;
use crate::cli::table::one_line;
use crate::config::{Diagnostic, Diagnostics};
use crate::policy::calculate;
use crate::policy::describe::Described;
use crate::policy::model::{DefaultAction, Direction, Model, TierPolicies};
use crate::policy::report;
use crate::policy::resource::load_paths;
use crate::policy::rule::Rule;
use crate::policy::testing::find_workload;
use crate::policy::verdict::{Owner, RuleRef};

/// Arguments of `caracal policy show`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The endpoint: `namespace/pod`, the name of a WorkloadEndpoint or that of a HostEndpoint.
    #[arg(long, value_name = "NAME")]
    endpoint: String,
    /// File or directory of resources; may be repeated.
    #[arg(short, long = "filename", required = true, value_name = "FILE|DIR")]
    filename: Vec<PathBuf>,
}

pub(super) fn run(args: &Args, cli: &Cli) -> Exit {
    match shown(args) {
        Ok((remarks, shown)) => {
            print(&shown, &remarks, cli);
            Exit::Ok
        }
        Err((errors, exit)) => {
            complain(&errors, cli);
            exit
        }
    }
}

/// What is shown of an endpoint.
struct Shown {
    title: String,
    chains: Vec<Chain>,
}

/// One list of tiers, in one direction.
struct Chain {
    name: String,
    tiers: Vec<Tier>,
    /// `None`: profiles have no say.
    profiles: Option<Vec<ShownRules>>,
    /// What becomes of a packet that nobody decides about.
    end: &'static str,
}

struct Tier {
    name: String,
    default_action: DefaultAction,
    policies: Vec<ShownRules>,
}

/// A policy or a profile.
struct ShownRules {
    name: String,
    is_staged: bool,
    rules: Vec<(String, RuleRef)>,
}

fn shown(args: &Args) -> Result<(Diagnostics, Shown), (Diagnostics, Exit)> {
    let invalid = |errors| (errors, Exit::Invalid);
    let resources = load_paths(&args.filename).map_err(invalid)?;
    let (model, remarks) = calculate(&resources).map_err(invalid)?;
    if let Some(host) = model.host_endpoints.get(&args.endpoint) {
        let interface = if host.interface.is_empty() {
            "by address"
        } else {
            &host.interface
        };
        let shown = Shown {
            title: format!(
                "HostEndpoint {} ({interface}, node {})",
                args.endpoint, host.node
            ),
            chains: host_chains(&model, host),
        };
        return Ok((remarks, shown));
    }
    let id = find_workload(&resources, &model, &args.endpoint).map_err(|(message, label)| {
        let error = Diagnostic::error(message).help(label);
        (Diagnostics(vec![error]), Exit::Failure)
    })?;
    let Some(workload) = model.workloads.get(&id) else {
        let error = Diagnostic::error(format!("unknown endpoint `{id}`"));
        return Err((Diagnostics(vec![error]), Exit::Failure));
    };
    let addresses: Vec<String> = workload
        .nets
        .iter()
        .map(|net| net.addr().to_string())
        .collect();
    let chains = [Direction::Ingress, Direction::Egress].map(|direction| Chain {
        name: direction.as_str().to_owned(),
        tiers: tiers(&model, &workload.tiers, direction),
        profiles: Some(profiles(&model, &workload.profiles, direction)),
        end: "Deny",
    });
    let shown = Shown {
        title: format!(
            "WorkloadEndpoint {id} ({}, node {})",
            addresses.join(", "),
            workload.node
        ),
        chains: chains.into(),
    };
    Ok((remarks, shown))
}

fn host_chains(model: &Model, host: &crate::policy::model::HostEndpoint) -> Vec<Chain> {
    let mut chains = Vec::new();
    for direction in [Direction::Ingress, Direction::Egress] {
        let early = [
            ("untracked", &host.untracked),
            ("before DNAT", &host.pre_dnat),
        ];
        for (name, list) in early {
            let tiers = tiers(model, list, direction);
            if !tiers.is_empty() {
                chains.push(Chain {
                    name: format!("{}, {name}", direction.as_str()),
                    tiers,
                    profiles: None,
                    end: "on to the next",
                });
            }
        }
        chains.push(Chain {
            name: format!("{}, forwarded", direction.as_str()),
            tiers: tiers(model, &host.forward, direction),
            profiles: None,
            end: "Allow",
        });
        chains.push(Chain {
            name: format!("{}, the host's own", direction.as_str()),
            tiers: tiers(model, &host.normal, direction),
            profiles: Some(profiles(model, &host.profiles, direction)),
            end: "Deny, but for failsafe ports",
        });
    }
    chains
}

fn tiers(model: &Model, tiers: &[TierPolicies], direction: Direction) -> Vec<Tier> {
    let tiers = tiers.iter().filter(|tier| !tier.of(direction).is_empty());
    let shown = tiers.map(|tier| Tier {
        name: tier.name.to_string(),
        default_action: tier.default_action,
        policies: tier
            .of(direction)
            .iter()
            .map(|id| {
                let policy = model.policies.get(id);
                let rules = policy.map_or(&[][..], |policy| policy.rules.of(direction));
                let owner = Owner::Policy {
                    tier: tier.name.clone(),
                    id: id.clone(),
                };
                ShownRules {
                    name: id.to_string(),
                    is_staged: id.kind.is_staged(),
                    rules: described(rules, &owner, direction),
                }
            })
            .collect(),
    });
    shown.collect()
}

fn profiles(model: &Model, names: &[String], direction: Direction) -> Vec<ShownRules> {
    let shown = names.iter().map(|name| {
        let profile = model.profiles.get(name);
        let rules = profile.map_or(&[][..], |profile| profile.rules.of(direction));
        ShownRules {
            name: name.clone(),
            is_staged: false,
            rules: described(rules, &Owner::Profile(name.clone()), direction),
        }
    });
    shown.collect()
}

fn described(rules: &[Rule], owner: &Owner, direction: Direction) -> Vec<(String, RuleRef)> {
    let one = |rule: &Rule| {
        let named = RuleRef::new(owner.clone(), direction, rule);
        (Described(rule).to_string(), named)
    };
    rules.iter().map(one).collect()
}

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the command's result"
)]
fn print(shown: &Shown, remarks: &Diagnostics, cli: &Cli) {
    match cli.output {
        Output::Json => println!("{:#}", to_json(shown)),
        Output::Table | Output::Wide => {
            eprint!("{}", remarks.render(cli.color_stderr()));
            print!("{}", to_text(shown));
        }
    }
}

#[expect(clippy::print_stderr, reason = "the command's errors")]
fn complain(errors: &Diagnostics, cli: &Cli) {
    eprint!("{}", errors.render(cli.color_stderr()));
}

fn to_text(shown: &Shown) -> String {
    let mut text = format!("{}\n", one_line(&shown.title));
    for chain in &shown.chains {
        let _ = writeln!(text, "\n{}", chain.name);
        for tier in &chain.tiers {
            let _ = writeln!(text, "  tier {}", tier.name);
            for policy in &tier.policies {
                let staged = if policy.is_staged {
                    "  (staged: not enforced)"
                } else {
                    ""
                };
                let _ = writeln!(text, "    {}{staged}", one_line(&policy.name));
                rules_text(&mut text, policy, "      ");
            }
            let end = match tier.default_action {
                _ if tier.policies.iter().all(|policy| policy.is_staged) => {
                    "on to the next tier: all of it is staged"
                }
                DefaultAction::Deny => "Deny",
                DefaultAction::Pass => "on to the next tier",
            };
            let _ = writeln!(text, "    else: {end}");
        }
        for profile in chain.profiles.iter().flatten() {
            let _ = writeln!(text, "  profile {}", one_line(&profile.name));
            rules_text(&mut text, profile, "    ");
        }
        let _ = writeln!(text, "  else: {}", chain.end);
    }
    text
}

fn rules_text(text: &mut String, shown: &ShownRules, indent: &str) {
    if shown.rules.is_empty() {
        let _ = writeln!(text, "{indent}no rules");
    }
    for (described, rule) in &shown.rules {
        let place = rule
            .place()
            .map(|place| format!("  {place}"))
            .unwrap_or_default();
        let _ = writeln!(
            text,
            "{indent}{} {}{place}",
            rule.number(),
            one_line(described)
        );
    }
}

fn to_json(shown: &Shown) -> Value {
    let rules = |shown: &ShownRules| {
        let rules = shown.rules.iter().map(|(described, rule)| {
            let mut value = report::rule(rule);
            value["text"] = json!(described);
            value
        });
        json!({ "name": shown.name, "staged": shown.is_staged, "rules": rules.collect::<Vec<_>>() })
    };
    let tier = |tier: &Tier| {
        let action = match tier.default_action {
            DefaultAction::Deny => "Deny",
            DefaultAction::Pass => "Pass",
        };
        json!({
            "name": tier.name,
            "defaultAction": action,
            "policies": tier.policies.iter().map(rules).collect::<Vec<_>>(),
        })
    };
    let chain = |chain: &Chain| {
        let profiles = chain.profiles.as_ref();
        json!({
            "name": chain.name,
            "tiers": chain.tiers.iter().map(tier).collect::<Vec<_>>(),
            "profiles": profiles.map(|list| list.iter().map(rules).collect::<Vec<_>>()),
            "end": chain.end,
        })
    };
    json!({
        "schema": "caracal.policy-show/v1",
        "endpoint": shown.title,
        "chains": shown.chains.iter().map(chain).collect::<Vec<_>>(),
    })
}
