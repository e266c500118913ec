//! What is in force, and where it comes from: `caracal config show`.
//!
//! Values are those that the daemon would have, made by the code that makes its own; their places are looked up beside them.

mod daemon;
mod felix;
mod places;

use std::sync::Arc;

use serde_json::{Value, json};

use self::felix::Effect;
use self::places::Places;
use super::load::Cluster;
use super::resource::Meta;
use super::source::{Source, Span};
use super::{DaemonConfig, compute, yaml};
use crate::policy::model::Settings;

/// One setting.
#[derive(Clone, Debug)]
pub struct Setting {
    /// `caracal.yaml`, `FelixConfiguration` or `BGPConfiguration`.
    pub of: &'static str,
    /// Its name there; of a map in a map with a dot between.
    pub name: &'static str,
    /// The value in force. `null`: none, or chosen at start by other things.
    pub value: Value,
    /// Where it is written; `None`: the built-in default.
    pub given: Option<Given>,
    /// Whether something follows from it.
    pub has_effect: bool,
}

/// Where a setting is written.
#[derive(Clone, Debug)]
pub struct Given {
    /// The resource, as `FelixConfiguration node.worker1`; `None`: the daemon's own file.
    pub resource: Option<String>,
    /// The file and the place in it.
    pub at: Span,
}

/// The settings of the daemon's own file. `text`: the file, `config`: what was read of it, `node`: our node's name.
pub fn of_daemon(text: &Arc<Source>, config: &DaemonConfig, node: &str) -> Vec<Setting> {
    let documents = yaml::parse(text).unwrap_or_default();
    let places = documents.first().map(Places::of).unwrap_or_default();
    let setting = |(name, value)| Setting {
        of: "caracal.yaml",
        name,
        value,
        given: places.get(name).map(|at| Given {
            resource: None,
            at: at.clone(),
        }),
        has_effect: true,
    };
    let all = daemon::values(config, node).into_iter();
    all.map(setting).collect()
}

/// The settings of FelixConfiguration and BGPConfiguration for a node.
pub fn of_resources(cluster: &Cluster, node: &str) -> Vec<Setting> {
    let resources = &cluster.base;
    let own = format!("node.{node}");
    // The first that says something counts.
    let felix: Vec<_> = [own.as_str(), "default"]
        .into_iter()
        .filter_map(|name| resources.felix.iter().find(|it| it.meta.name.value == name))
        .collect();
    let bgp = resources
        .bgp
        .iter()
        .find(|it| it.meta.name.value == "default");
    let settings = compute::felix(resources, node);
    let policy = Settings::of(&settings, felix.iter().rev().map(|it| &***it));
    let from_felix = placed(
        "FelixConfiguration",
        felix.iter().map(|it| &it.meta),
        felix::values(&settings, &policy),
    );
    let services = compute::services(resources);
    let from_bgp = placed(
        "BGPConfiguration",
        bgp.iter().map(|it| &it.meta),
        felix::services(&services),
    );
    from_felix.into_iter().chain(from_bgp).collect()
}

/// Settings with their places: the first of these resources that says something about one.
fn placed<'m>(
    of: &'static str,
    resources: impl Iterator<Item = &'m Meta>,
    values: Vec<(&'static str, Value, Effect)>,
) -> Vec<Setting> {
    let written: Vec<_> = resources
        .map(|meta| (meta, Places::of_spec(meta)))
        .collect();
    let setting = |(name, value, effect)| {
        let given = written.iter().find_map(|(meta, places)| {
            let at = places.get(name)?.clone();
            let resource = Some(format!("{of} {}", meta.name.value));
            Some(Given { resource, at })
        });
        Setting {
            of,
            name,
            value,
            given,
            has_effect: effect == Effect::Some,
        }
    };
    values.into_iter().map(setting).collect()
}

/// The word that a value is written as.
fn word<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> Value {
    let found = words.iter().find(|(_, it)| it == value);
    json!(found.map(|(word, _)| word))
}

#[cfg(test)]
mod tests;
