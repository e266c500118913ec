//! What must hold between services, and between them and their endpoints.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use crate::config::diagnostic::{Diagnostic, Diagnostics};
use crate::config::kinds::Service;
use crate::config::load::Resources;
use crate::config::source::{Located, Span};
use crate::config::suggest::nearest;
use crate::flows::protocol_name;

/// An address, a protocol and a port.
type Place = (IpAddr, u8, u16);

/// Who has something first, and where that is written.
type Owner<'r> = (&'r Service, &'r Span);

/// Of two services at one place nobody could say which one is meant. Kubernetes gives no cluster IP twice; of external addresses it does
/// not look, and one of the two counts.
pub(super) fn claims_are_unique(resources: &Resources, diagnostics: &mut Diagnostics) {
    let mut inside: HashMap<IpAddr, Owner<'_>> = HashMap::new();
    let mut claimed: HashMap<Place, Owner<'_>> = HashMap::new();
    for service in &resources.services {
        for address in &service.inside {
            inside
                .entry(address.value)
                .or_insert((service, &address.at));
            if let Some((place, first)) = claim(service, address, &mut claimed) {
                let finding = Diagnostic::error(twice(place));
                diagnostics.push(
                    told(finding, service, address, first)
                        .help("take away the one that is gone, or was made anew"),
                );
            }
        }
    }
    claimed.clear();
    for service in &resources.services {
        for address in &service.outside {
            let owner = inside.get(&address.value).copied();
            if owner.is_some_and(|(owner, _)| owner.meta == service.meta) {
                continue;
            }
            let (message, first) = if let Some(first) = owner {
                ("an external address that is a cluster IP", first)
            } else if let Some((place, first)) = claim(service, address, &mut claimed) {
                (&*twice(place), first)
            } else {
                continue;
            };
            let finding = Diagnostic::warning(message);
            let finding = told(finding, service, address, first);
            diagnostics.push(finding.help("what is sent there is the other's"));
        }
    }
}

/// Claims an address for the ports of a service. Gives the first port that another one has, and who.
fn claim<'r>(
    service: &'r Service,
    address: &'r Located<IpAddr>,
    claimed: &mut HashMap<Place, Owner<'r>>,
) -> Option<(Place, Owner<'r>)> {
    let ports = service.object.iter().flat_map(|it| &it.ports);
    let mut found = None;
    for port in ports {
        let place = (address.value, port.protocol, port.port);
        let owner = claimed.entry(place).or_insert((service, &address.at));
        if owner.0.meta != service.meta && found.is_none() {
            found = Some((place, *owner));
        }
    }
    found
}

fn twice((address, protocol, port): Place) -> String {
    let protocol = protocol_name(protocol);
    format!("port {port}/{protocol} of {address} is claimed by two services")
}

fn told(
    finding: Diagnostic,
    service: &Service,
    address: &Located<IpAddr>,
    (owner, place): Owner<'_>,
) -> Diagnostic {
    let owner = owner.meta.label();
    finding
        .at(&address.at, format!("already that of {owner}"))
        .about(service.meta.label())
        .see(format!("{owner} has it here"), place)
}

/// Says of slices that name a service which is not there.
pub(super) fn slices_have_services(resources: &Resources, diagnostics: &mut Diagnostics) {
    let services = resources.services.iter().map(|it| {
        let namespace = it.meta.namespace.as_deref().unwrap_or_default();
        (namespace, it.meta.name.value.as_str())
    });
    let services: BTreeSet<(&str, &str)> = services.collect();
    for slice in &resources.slices {
        let Some(object) = &slice.object else {
            continue;
        };
        let (namespace, service) = (object.namespace.as_str(), object.service.as_str());
        if services.contains(&(namespace, service)) {
            continue;
        }
        let near = services.range((namespace, "")..);
        let near = near.take_while(|(other, _)| *other == namespace);
        let label = match nearest(service, near.map(|(_, name)| *name)) {
            Some(known) => format!("did you mean `{known}`?"),
            None => format!("no Service of namespace {namespace} is called so"),
        };
        diagnostics.push(
            Diagnostic::warning(format!("endpoints of an unknown service `{service}`"))
                .at(&slice.meta.name.at, label)
                .about(slice.meta.label()),
        );
    }
}
