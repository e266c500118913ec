//! The way to the API server.

use std::error::Error as _;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::config::{Access, Kubernetes};

/// For a connection to come about.
const CONNECT: Duration = Duration::from_secs(10);

/// What is said of an error is cut off here, in characters: servers write some of it.
const LONGEST: usize = 400;

/// What is said of an answer that is none.
pub(super) const NOT_UNDERSTOOD: &str = "what it said is not understood";

/// A client by what the files say now, and the server's URL. Nothing is sent yet.
///
/// # Errors
/// Why there is none, in words.
pub(super) async fn client(settings: &Kubernetes) -> Result<(Client, String), String> {
    let mut config = match &settings.access {
        Access::Kubeconfig(path) => {
            let said = |error| format!("{}: {}", path.display(), chain(&error));
            let kubeconfig = Kubeconfig::read_from(path).map_err(said)?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(kubeconfig, &options)
                .await
                .map_err(said)?
        }
        Access::InCluster => Config::incluster_env()
            .map_err(|error| format!("the service account of the pod: {}", chain(&error)))?,
    };
    if let Some(server) = &settings.server {
        let parsed = server.parse();
        config.cluster_url = parsed.map_err(|error| format!("{server}: {}", chain(&error)))?;
    }
    config.connect_timeout = Some(CONNECT);
    // Who follows tries again by himself, and says why.
    config.default_retry = false;
    let url = config.cluster_url.to_string();
    let url = url.trim_end_matches('/').to_owned();
    let client = Client::try_from(config).map_err(|error| words(&error))?;
    Ok((client, url))
}

/// An error of the library's, in words of one line.
pub(super) fn words(error: &kube::Error) -> String {
    let text = match error {
        // Any mapping is taken for a status.
        kube::Error::Api(status) if status.code == 0 => format!("{NOT_UNDERSTOOD}: no event"),
        kube::Error::Api(status) => status_words(status),
        kube::Error::SerdeError(error) => format!("{NOT_UNDERSTOOD}: {error}"),
        // Its own words are names of types.
        other => other.source().map_or_else(|| chain(other), chain),
    };
    let cut = text.char_indices().nth(LONGEST);
    cut.map_or_else(
        || text.clone(),
        |(end, _)| format!("{}…", text.get(..end).unwrap_or_default()),
    )
}

/// What the server says is wrong.
pub(super) fn status_words(status: &kube::core::Status) -> String {
    let message = match (status.message.as_str(), status.reason.as_str()) {
        ("", "") => "no reason said",
        ("", reason) => reason,
        (message, _) => message,
    };
    format!("{message} (HTTP {})", status.code)
}

/// An error and what it is from, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = error.source();
    }
    text
}
