//! What would change for a daemon that runs, and for its connections.

use std::path::Path;

use super::{Args, TROUBLE, changes, show, valid};
use crate::api::report::{Flows, Status};
use crate::api::{Client, ClientError, FlowsParams, Method};
use crate::cli::ask::{PATIENCE, complain};
use crate::cli::validate::for_node;
use crate::cli::{Cli, Exit, output};
use crate::config::{Diagnostic, Diagnostics, HostEndpoints, load_with_texts};
use crate::desired::Desired;
use crate::diff::{Comparison, Effect, Judge, Places};

/// What was found out about connections.
pub(super) struct Found {
    pub(super) effect: Effect,
    /// Endpoints of the node, by the candidate.
    pub(super) endpoints: usize,
    /// Whether the daemon judges connections again when tables change.
    pub(super) reevaluates: bool,
    /// Whether they were judged by the daemon's files, which are in force; else by what is remembered of each.
    pub(super) by_files: bool,
}

pub(super) fn run(args: &Args, cli: &Cli) -> Result<Exit, Exit> {
    let mut client = Client::connect(&cli.socket, PATIENCE).map_err(|error| trouble(&error))?;
    let status: Status = ask(&mut client, Method::Status)?;
    if status.felix.is_some() {
        output::complain(
            &"this daemon has its resources from Felix: there are no files to compare with; --against compares files with files",
        );
        return Err(TROUBLE);
    }
    let mut words = HostEndpoints::WORDS.iter();
    let how = words.find(|(word, _)| *word == status.host_endpoints);
    let how = how.map_or_else(HostEndpoints::default, |(_, how)| *how);
    let (new_texts, loaded) = load_with_texts(&args.filename);
    let loaded = loaded.and_then(|cluster| for_node(cluster, &status.node, how));
    let (new, desired) = valid(loaded, cli)?;

    let dir = status.datastore.path.as_path();
    let (old_texts, loaded) = load_with_texts(&[dir.to_path_buf()]);
    let loaded = loaded.and_then(|cluster| for_node(cluster, &status.node, how));
    let in_force = match (&status.datastore.error, loaded) {
        (None, Ok((_, desired))) => Some(desired),
        (None, Err(errors)) => {
            output::complain(&not_as_read(dir));
            return Err(valid::<()>(Err(errors), cli).err().unwrap_or(Exit::Invalid));
        }
        (Some(_), _) => {
            output::remark(&refused(dir));
            None
        }
    };
    let changes = changes(&old_texts, &new_texts);
    let found = if changes.is_empty() {
        None
    } else {
        Some(effect(&mut client, &status, in_force, desired, cli)?)
    };
    Ok(show(&changes, found.as_ref(), &new.base.remarks, cli))
}

fn not_as_read(dir: &Path) -> String {
    format!(
        "the daemon's files, in {}, are not what it read: they can not be read from here, or have changed just now",
        dir.display()
    )
}

fn refused(dir: &Path) -> String {
    format!(
        "warning: the daemon has refused the files that are in {} (`caracal status` says why): what is in force is what they held \
         before, and in no file. Resources are compared with the files as they are, as far as they can be read; connections with \
         what became of each: all but those that were denied of late count as allowed.\n",
        dir.display()
    )
}

/// Judges all connections of the daemon by the candidate, and by what is in force.
fn effect(
    client: &mut Client,
    status: &Status,
    in_force: Option<Desired>,
    candidate: Desired,
    cli: &Cli,
) -> Result<Found, Exit> {
    let mut places = Places::of(&status.ports);
    let both = in_force.iter().chain([&candidate]);
    both.for_each(|desired| places.add(&desired.endpoints));
    let judge = |desired| {
        Judge::new(desired, &places).map_err(|error| {
            let error = Diagnostic::error(format!("does not fit the dataplane's tables: {error}"));
            let errors = Err(Diagnostics(vec![error]));
            valid::<()>(errors, cli).err().unwrap_or(Exit::Invalid)
        })
    };
    let new = judge(candidate)?;
    let old = in_force.map(judge).transpose()?;
    let mut comparison = Comparison::new(old.as_ref(), &new, &places);
    let mut params = FlowsParams::default();
    loop {
        let part: Flows = ask(client, Method::Flows(params.clone()))?;
        comparison.effect.busy += part.busy;
        part.flows.iter().for_each(|flow| comparison.add(flow));
        match part.next {
            Some(next) => params.from = next,
            None => break,
        }
    }
    Ok(Found {
        effect: comparison.effect,
        endpoints: new.endpoints().len(),
        reevaluates: status.reevaluate_established,
        by_files: old.is_some(),
    })
}

fn ask<T: serde::de::DeserializeOwned>(client: &mut Client, method: Method) -> Result<T, Exit> {
    client.call(method).map_err(|error| trouble(&error))
}

/// Says why there is no answer.
fn trouble(error: &ClientError) -> Exit {
    match complain(error) {
        Exit::Unreachable => Exit::Unreachable,
        _ => TROUBLE,
    }
}
