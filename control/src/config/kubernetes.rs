//! `kubernetes`: the API server that services come from.

use std::path::PathBuf;

use super::daemon::absolute_path;
use super::decode::{self, Context, Fields};
use super::yaml::Node;

/// How the API server of a Kubernetes cluster is found and spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// Who we are, and whom we trust.
    pub access: Access,
    /// `server`: the server's URL, instead of the one that comes with the access.
    pub server: Option<String>,
}

/// Where credentials are from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// `kubeconfig`: a file as `kubectl` has it, and in it the context that is the current one.
    Kubeconfig(PathBuf),
    /// `inCluster`: the service account of the pod that the daemon is in.
    InCluster,
}

/// What is said where there is no library to speak to the API server with.
const WITHOUT: &str = "this caracal was built without Kubernetes: take the line out, or build with the feature `kubernetes`";

/// Reads the mapping. None after an error.
pub(super) fn decode(node: &Node, cx: &mut Context<'_>) -> Option<Kubernetes> {
    let mut fields = Fields::open(node, "kubernetes", cx)?;
    let kubeconfig = fields.get("kubeconfig", cx, absolute_path);
    let in_cluster = fields.get("inCluster", cx, decode::boolean);
    let server = fields.get("server", cx, url);
    fields.finish(cx);
    if !cfg!(feature = "kubernetes") {
        cx.error(&node.at, "`kubernetes` is not possible", WITHOUT);
        return None;
    }
    let is_in_cluster = in_cluster.as_ref().is_some_and(|it| it.value);
    let access = match (kubeconfig, is_in_cluster) {
        (Some(path), false) => Access::Kubeconfig(path.value),
        (None, true) => Access::InCluster,
        (Some(path), true) => {
            let label = "leave out this or `inCluster`";
            cx.error(&path.at, "two ways to the API server", label);
            return None;
        }
        (None, false) => {
            let label =
                "say `kubeconfig: PATH`, or `inCluster: true` for the service account of a pod";
            cx.error(&node.at, "no way to the API server", label);
            return None;
        }
    };
    let server = server.map(|it| it.value);
    Some(Kubernetes { access, server })
}

/// A URL with a scheme, a host and maybe a path.
fn url(node: &Node, cx: &mut Context<'_>) -> Option<String> {
    let text = decode::name(node, cx)?;
    let scheme = ["https://", "http://"];
    let rest = scheme.iter().find_map(|it| text.strip_prefix(it));
    let is_good = rest.is_some_and(|rest| {
        let printable = rest.chars().all(|it| it.is_ascii_graphic());
        let host = rest.split('/').next().unwrap_or_default();
        printable && !host.is_empty() && !rest.contains(['@', '?', '#'])
    });
    if is_good {
        return Some(text);
    }
    let label = "write it as https://HOST:PORT";
    cx.error(&node.at, "bad URL", label);
    None
}

#[cfg(all(test, feature = "kubernetes"))]
mod tests {
    use super::super::daemon::DaemonConfig;
    use super::super::source::Source;
    use super::*;

    fn parse(text: &str) -> Result<Option<Kubernetes>, String> {
        let config = DaemonConfig::parse(&Source::new("/etc/caracal/caracal.yaml", text));
        config
            .map(|it| it.kubernetes)
            .map_err(|errors| errors.render(false))
    }

    #[test]
    fn one_way_to_the_server_and_maybe_another_address() {
        assert_eq!(parse(""), Ok(None));
        let good = |access, server: Option<&str>| {
            let server = server.map(str::to_owned);
            Ok(Some(Kubernetes { access, server }))
        };
        assert_eq!(
            parse("kubernetes:\n  kubeconfig: /etc/kubernetes/caracal.conf\n"),
            good(
                Access::Kubeconfig("/etc/kubernetes/caracal.conf".into()),
                None
            )
        );
        assert_eq!(
            parse("kubernetes: {inCluster: true, server: 'https://[2001:db8::1]:6443'}\n"),
            good(Access::InCluster, Some("https://[2001:db8::1]:6443"))
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, place, words) in [
            ("kubernetes: {}\n", ":1:13", "`kubeconfig: PATH`"),
            (
                "kubernetes: {inCluster: false}\n",
                ":1:13",
                "`inCluster: true`",
            ),
            (
                "kubernetes:\n  kubeconfig: /a\n  inCluster: true\n",
                ":2:15",
                "two ways",
            ),
            ("kubernetes: {kubeconfig: a}\n", ":1:26", "/"),
            (
                "kubernetes: {inCluster: true, server: example}\n",
                ":1:39",
                "https://HOST:PORT",
            ),
            (
                "kubernetes: {inCluster: true, server: 'https://me:it@example'}\n",
                ":1:39",
                "bad URL",
            ),
            (
                "kubernetes: {inCluster: true, token: x}\n",
                ":1:31",
                "token",
            ),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(place) && error.contains(words), "{error}");
        }
    }
}
