//! Services of an API server, and what becomes of them when it goes, errs or forgets.
#![cfg(feature = "kubernetes")]

mod api_server;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, process};

use api_server::{ApiServer, SERVICES, SLICES, service, slice};
use control::config::{Access, Kubernetes};
use control::desired::Service;
use control::kubernetes::{Condition, Link, Timing};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Quicker than at a node.
const TIMING: Timing = Timing {
    pace: Duration::from_millis(100),
    anew: Duration::from_millis(300),
};

/// Who follows a server.
struct Follower {
    link: Link,
    services: Option<Arc<Vec<Service>>>,
    /// Times that services came.
    taken: usize,
    directory: PathBuf,
}

impl Follower {
    fn of(test: &str, server: &ApiServer) -> Self {
        Self::at(test, server, TIMING)
    }

    fn at(test: &str, server: &ApiServer, timing: Timing) -> Self {
        let name = format!("caracal-kubernetes-{}-{test}", process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).expect("a directory");
        let access = Access::Kubeconfig(server.kubeconfig(&directory));
        Self::by(directory, access, None, timing)
    }

    fn by(directory: PathBuf, access: Access, server: Option<String>, timing: Timing) -> Self {
        let settings = Kubernetes { access, server };
        let link = Link::start_at(&settings, "node1", timing).expect("a thread");
        Self {
            link,
            services: None,
            taken: 0,
            directory,
        }
    }

    fn take(&mut self) {
        if let Some(services) = self.link.take() {
            self.services = Some(services);
            self.taken += 1;
        }
    }

    /// Waits until it is so.
    fn until(&mut self, what: &str, holds: impl Fn(&[String], &Condition) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.take();
            let lines = self.lines();
            if holds(&lines, self.link.condition()) {
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "not in time: {what}; {lines:?} {:?}",
                self.link.condition()
            );
            let left = PollTimeout::try_from(left).expect("a time");
            let mut fds = [PollFd::new(self.link.fd(), PollFlags::POLLIN)];
            poll(&mut fds, left).expect("poll");
        }
    }

    /// Waits until these are all services, and the server answers.
    fn has(&mut self, lines: &[&str]) {
        let what = format!("{lines:?}");
        self.until(&what, |known, condition| {
            known == lines && condition.error.is_none()
        });
    }

    /// Waits until an error says all this.
    fn fails(&mut self, words: &[&str]) {
        self.until(&format!("error {words:?}"), |_, condition| {
            let error = condition.error.as_ref();
            let error = error.map(ToString::to_string);
            error.is_some_and(|error| words.iter().all(|it| error.contains(it)))
        });
    }

    /// Each service with its addresses and endpoints.
    fn lines(&self) -> Vec<String> {
        let services = self.services.iter().flat_map(|it| it.iter());
        services
            .map(|it| {
                let addresses = it.addresses.iter().map(ToString::to_string);
                let ports = it.ports.iter();
                let backends = ports.flat_map(|it| it.backends.iter().map(ToString::to_string));
                let (addresses, backends): (Vec<_>, Vec<_>) =
                    (addresses.collect(), backends.collect());
                format!(
                    "{} {} > {}",
                    it.name,
                    addresses.join(" "),
                    backends.join(" ")
                )
                .trim_end()
                .to_owned()
            })
            .collect()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Waits until something was asked that was not asked by then.
fn asked(server: &ApiServer, after: usize, what: &str, is_it: impl Fn(&str) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let asked = server.asked();
        if asked.iter().skip(after).any(|it| is_it(it)) {
            return;
        }
        assert!(Instant::now() < deadline, "not asked: {what}; {asked:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A server with one service and its endpoint.
fn server() -> ApiServer {
    let server = ApiServer::start();
    server.put(SERVICES, service("web", "10.96.0.1"));
    server.put(SLICES, slice("web", &["10.244.1.1"]));
    server
}

const WEB: &str = "web 10.96.0.1 > 10.244.1.1:8080";

#[test]
fn what_is_there_and_what_changes() {
    let server = server();
    let mut follower = Follower::of("changes", &server);
    follower.has(&[WEB]);
    let condition = follower.link.condition();
    assert_eq!((condition.services, condition.endpoint_slices), (1, 1));
    assert_eq!(condition.server.as_deref(), Some(server.url.as_str()));
    // As kube-proxy asks, and from where the list ends.
    let asked = server.asked();
    let lists: Vec<_> = asked.iter().filter(|it| !it.contains("watch=")).collect();
    assert_eq!(lists.len(), 2, "{asked:?}");
    assert!(lists.iter().all(|it| it.contains("resourceVersion=0&")
        && it.contains("labelSelector=%21service.kubernetes.io%2F")));
    server.put(SERVICES, service("api", "10.96.0.2"));
    follower.has(&["api 10.96.0.2 >", WEB]);
    server.put(SLICES, slice("api", &["10.244.1.2", "10.244.1.3"]));
    follower.has(&["api 10.96.0.2 > 10.244.1.2:8080 10.244.1.3:8080", WEB]);
    server.put(SERVICES, service("api", "10.96.0.9"));
    follower.has(&["api 10.96.0.9 > 10.244.1.2:8080 10.244.1.3:8080", WEB]);
    // What has become headless is none.
    server.put(SERVICES, service("api", "None"));
    follower.has(&[WEB]);
    server.delete(SERVICES, "default", "web");
    follower.has(&[]);
    let taken = follower.taken;
    server.delete(SLICES, "default", "web-1");
    follower.until("the slice goes", |_, it| it.endpoint_slices == 1);
    assert_eq!(follower.taken, taken, "no service has changed by that");
    let asked = server.asked();
    let watches = asked.iter().filter(|it| it.contains("watch="));
    assert_eq!(watches.count(), 2, "one is enough for each: {asked:?}");
}

#[test]
fn nothing_before_all_is_known() {
    let server = ApiServer::start();
    server.put(SERVICES, service("web", "10.96.0.1"));
    server.refuse_only(SLICES, (503, "starting"));
    let mut follower = Follower::of("all", &server);
    follower.until("half of it", |_, it| it.services == 1 && it.error.is_some());
    follower.fails(&["endpoint slices", "starting", "503"]);
    assert_eq!(follower.link.condition().synced, None);
    assert_eq!(follower.services, None, "services without endpoints");
    server.refuse(None);
    follower.has(&["web 10.96.0.1 >"]);
    assert!(follower.link.condition().synced.is_some());
}

#[test]
fn many_changes_come_together() {
    let server = server();
    let mut follower = Follower::of("together", &server);
    follower.has(&[WEB]);
    let before = follower.taken;
    let begin = Instant::now();
    let last = 300;
    for number in 1..=last {
        server.put(
            SERVICES,
            service("web", &format!("10.97.{}.{}", number / 250, number % 250)),
        );
        // Over more than one pace.
        std::thread::sleep(Duration::from_millis(2));
        follower.take();
    }
    follower.has(&["web 10.97.1.50 > 10.244.1.1:8080"]);
    let most = begin.elapsed().as_millis() / TIMING.pace.as_millis() + 2;
    let taken = (follower.taken - before) as u128;
    assert!(taken <= most, "{taken} of {last}, at most {most}");
    assert!(taken > 1, "not only the last");
}

#[test]
fn all_changes_of_a_pace_come_together() {
    let server = server();
    let timing = Timing {
        pace: Duration::from_secs(2),
        ..TIMING
    };
    let begin = Instant::now();
    let mut follower = Follower::at("pace", &server, timing);
    follower.has(&[WEB]);
    server.put(SERVICES, service("api", "10.96.0.2"));
    std::thread::sleep(Duration::from_millis(300));
    follower.take();
    // As many as are in force.
    assert_eq!(follower.link.condition().services, 1);
    server.put(SLICES, slice("api", &["10.244.1.2"]));
    follower.has(&["api 10.96.0.2 > 10.244.1.2:8080", WEB]);
    assert_eq!(follower.taken, 2, "both changes at once");
    assert!(begin.elapsed() >= timing.pace, "{:?}", begin.elapsed());
}

#[test]
fn a_watch_that_is_cut_off_goes_on_where_it_was() {
    let server = server();
    let mut follower = Follower::of("cut", &server);
    follower.has(&[WEB]);
    server.put(SERVICES, service("api", "10.96.0.2"));
    follower.has(&["api 10.96.0.2 >", WEB]);
    let before = server.asked().len();
    server.cut();
    server.delete(SERVICES, "default", "api");
    follower.has(&[WEB]);
    // The deletion, version 104, may have come before the cut.
    asked(&server, before, "the rest", |it| {
        let versions = ["resourceVersion=103", "resourceVersion=104"];
        it.starts_with(SERVICES)
            && it.contains("watch=")
            && versions.iter().any(|version| it.contains(version))
    });
    // Where nothing has changed it goes on from a bookmark. One that is on its way when the watch is cut off may be lost.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let before = server.asked().len();
        let bookmark = server.bookmark(SLICES);
        server.cut();
        let is_watch = |it: &str| it.starts_with(SLICES) && it.contains("watch=");
        asked(&server, before, "slices", is_watch);
        let version = format!("resourceVersion={bookmark}");
        let asked = server.asked();
        if asked[before..]
            .iter()
            .any(|it| is_watch(it) && it.contains(&version))
        {
            break;
        }
        assert!(Instant::now() < deadline, "{asked:?}");
    }
    let asked = server.asked();
    let lists = asked[before..].iter().filter(|it| !it.contains("watch="));
    assert_eq!(lists.count(), 0, "nothing is listed again: {asked:?}");
    server.put(SLICES, slice("web", &["10.244.1.9"]));
    follower.has(&["web 10.96.0.1 > 10.244.1.9:8080"]);
}

#[test]
fn a_watch_that_is_refused_goes_on_where_it_was() {
    let server = server();
    let mut follower = Follower::of("later", &server);
    follower.has(&[WEB]);
    let mut lines = vec![WEB.to_owned()];
    for (number, code, is_plain) in [
        (2, 429, false),
        (3, 503, true),
        (4, 502, true),
        (5, 500, false),
        (6, 403, false),
    ] {
        let before = server.asked().len();
        server.refuse_watches(SERVICES, (code, "not now"), is_plain);
        follower.fails(&[&format!("services: not now (HTTP {code})")]);
        let watches = || {
            let asked = server.asked().split_off(before);
            let asked = asked.into_iter().filter(|it| it.starts_with(SERVICES));
            asked.collect::<Vec<_>>()
        };
        let deadline = Instant::now() + PATIENCE;
        while watches().len() < 2 {
            assert!(Instant::now() < deadline, "it is not tried again");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(follower.lines(), lines);
        server.put(
            SERVICES,
            service(&format!("a{number}"), &format!("10.96.0.{number}")),
        );
        server.refuse(None);
        lines.insert(lines.len() - 1, format!("a{number} 10.96.0.{number} >"));
        follower.has(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        let watches = watches();
        let version = watches[0].split('&').find(|it| it.contains("Version="));
        assert!(
            watches[..2]
                .iter()
                .all(|it| it.contains("watch=") && it.contains(version.expect("one")))
                && watches.iter().all(|it| it.contains("watch=")),
            "{watches:?}"
        );
    }
}

#[test]
fn other_credentials_go_on_where_the_others_were() {
    let server = server();
    let mut follower = Follower::of("rotate", &server);
    follower.has(&[WEB]);
    let before = server.asked().len();
    server.wants("another");
    follower.fails(&["who are you (HTTP 401)"]);
    server.put(SERVICES, service("api", "10.96.0.2"));
    // None are worse than the old ones.
    let path = follower.directory.join("kubeconfig");
    fs::remove_file(&path).expect("remove");
    follower.fails(&["who are you", "no other credentials", "No such file"]);
    server.kubeconfig(&follower.directory);
    follower.has(&["api 10.96.0.2 >", WEB]);
    let asked = server.asked();
    let lists = asked[before..].iter().filter(|it| !it.contains("watch="));
    assert_eq!(lists.count(), 0, "{asked:?}");
}

#[test]
fn a_kind_that_is_well_is_left_alone_and_the_other_has_patience() {
    let server = server();
    let mut follower = Follower::of("alone", &server);
    follower.has(&[WEB]);
    let before = server.asked().len();
    let begin = Instant::now();
    server.refuse_watches(SLICES, (503, "starting"), false);
    server.put(SERVICES, service("api", "10.96.0.2"));
    follower.until("the service", |lines, it| {
        lines.len() == 2 && it.error.is_some()
    });
    let of = |path| {
        let asked = server.asked();
        let asked = asked[before..].iter().filter(|it| it.starts_with(path));
        asked.cloned().collect::<Vec<_>>()
    };
    while of(SLICES).len() < 4 {
        assert!(begin.elapsed() < PATIENCE, "it is not tried again");
        std::thread::sleep(Duration::from_millis(10));
    }
    // Other credentials were read meanwhile, and the pauses grew as if not: 0.2, 0.4, 0.8 and 1.6 seconds, half of it by chance.
    assert!(begin.elapsed() > TIMING.anew * 2);
    assert!(begin.elapsed() >= Duration::from_millis(1500));
    assert!(of(SLICES).iter().all(|it| it.contains("watch=")));
    assert_eq!(of(SERVICES).len(), 1, "once after the cut");
    server.refuse(None);
    follower.has(&["api 10.96.0.2 >", WEB]);
}

#[test]
fn a_list_whose_pages_are_always_too_old_is_told() {
    let server = server();
    server.put(SERVICES, service("api", "10.96.0.2"));
    let mut follower = Follower::of("pages", &server);
    follower.has(&["api 10.96.0.2 >", WEB]);
    server.pages_of(1);
    server.pages_expire(true);
    server.forget();
    follower.fails(&["services: too old a page (HTTP 410)"]);
    assert_eq!(follower.lines().len(), 2);
    server.pages_expire(false);
    server.put(SERVICES, service("new", "10.96.0.3"));
    follower.has(&["api 10.96.0.2 >", "new 10.96.0.3 >", WEB]);
}

#[test]
fn what_is_forgotten_is_listed_again() {
    let server = server();
    server.put(SERVICES, service("api", "10.96.0.2"));
    server.put(SERVICES, service("old", "10.96.0.3"));
    let mut follower = Follower::of("gone", &server);
    follower.has(&["api 10.96.0.2 >", "old 10.96.0.3 >", WEB]);
    let before = server.asked().len();
    server.pages_of(1);
    server.away(true);
    follower.fails(&[]);
    server.delete(SERVICES, "default", "old");
    server.forget();
    server.away(false);
    // And it is well again, by two pages.
    follower.has(&["api 10.96.0.2 >", WEB]);
    let asked = server.asked();
    let again = asked[before..].iter().filter(|it| !it.contains("watch="));
    let again: Vec<_> = again.filter(|it| it.starts_with(SERVICES)).collect();
    assert_eq!(again.len(), 2, "{asked:?}");
    assert!(
        !again[0].contains("resourceVersion="),
        "the newest: {again:?}"
    );
    assert!(again[1].contains("continue=1"), "{again:?}");
    server.put(SERVICES, service("new", "10.96.0.4"));
    follower.has(&["api 10.96.0.2 >", "new 10.96.0.4 >", WEB]);
}

#[test]
fn what_is_refused_is_said_and_what_was_known_stays() {
    let server = server();
    let mut follower = Follower::of("refused", &server);
    follower.has(&[WEB]);
    let taken = follower.taken;
    let message = "services is forbidden: User \"caracal\" cannot watch resource \"services\"";
    server.refuse(Some((403, message)));
    follower.fails(&["services: ", message, "(HTTP 403)"]);
    assert_eq!(
        (follower.lines(), follower.taken),
        (vec![WEB.to_owned()], taken)
    );
    assert_eq!(follower.link.condition().services, 1);
    server.put(SERVICES, service("api", "10.96.0.2"));
    server.refuse(None);
    follower.has(&["api 10.96.0.2 >", WEB]);
}

#[test]
fn a_server_that_is_away_changes_nothing() {
    let server = server();
    server.away(true);
    let mut follower = Follower::of("away", &server);
    follower.fails(&["services: "]);
    assert_eq!(follower.services, None);
    server.away(false);
    follower.has(&[WEB]);
    server.away(true);
    follower.fails(&["services: "]);
    assert_eq!(follower.lines(), [WEB]);
    server.put(SLICES, slice("web", &[]));
    server.away(false);
    follower.has(&["web 10.96.0.1 >"]);
}

#[test]
fn what_is_no_event_is_said_and_loses_nothing() {
    let server = server();
    let mut follower = Follower::of("garbage", &server);
    follower.has(&[WEB]);
    for line in [
        "{\"type\": \"ADDED\", \"object\": {\"spec\": 7}}",
        "}{",
        "<html>",
    ] {
        server.say(SERVICES, line);
        follower.fails(&["services: what it said is not understood"]);
        assert_eq!(follower.lines(), [WEB]);
        server.unsay(line);
        follower.has(&[WEB]);
    }
    server.put(SERVICES, service("api", "10.96.0.2"));
    follower.has(&["api 10.96.0.2 >", WEB]);
}

#[test]
fn an_object_that_is_none_spoils_no_list() {
    let server = server();
    let mut bad = service("bad", "10.96.0.7");
    bad["spec"]["ports"] = serde_json::json!("eighty");
    server.put(SERVICES, bad);
    let mut follower = Follower::of("list", &server);
    follower.fails(&["services: what it said is not understood"]);
    assert_eq!(follower.services, None, "a part is not all");
    server.delete(SERVICES, "default", "bad");
    follower.has(&[WEB]);
}

#[test]
fn who_is_not_known_is_told_and_credentials_may_come_later() {
    let server = server();
    let mut follower = Follower::of("come", &server);
    let path = follower.directory.join("kubeconfig");
    follower.has(&[WEB]);
    let directory = follower.directory.clone();
    fs::remove_file(&path).expect("remove");
    // The one that has got in stays in.
    let access = Access::Kubeconfig(path);
    let mut other = Follower::by(directory.clone(), access, None, TIMING);
    other.fails(&["kubeconfig", "No such file"]);
    let strange = server.kubeconfig(&directory);
    let text = fs::read_to_string(&strange).expect("read");
    fs::write(&strange, text.replace("secret", "wrong")).expect("write");
    other.fails(&["who are you (HTTP 401)"]);
    server.kubeconfig(&directory);
    other.has(&[WEB]);
}

#[test]
fn another_url_than_the_credentials_say() {
    let server = server();
    let directory = std::env::temp_dir().join(format!("caracal-kubernetes-{}-url", process::id()));
    fs::create_dir_all(&directory).expect("a directory");
    let path = server.kubeconfig(&directory);
    let text = fs::read_to_string(&path).expect("read");
    // Discard: nobody is there.
    fs::write(&path, text.replace(&server.url, "https://127.0.0.1:9")).expect("write");
    let access = Access::Kubeconfig(path);
    let url = Some(server.url.clone());
    let mut follower = Follower::by(directory.clone(), access.clone(), url, TIMING);
    follower.has(&[WEB]);
    // There is a TLS to be had, which this server does not speak.
    let url = Some(server.url.replace("http://", "https://"));
    let mut follower = Follower::by(directory, access, url, TIMING);
    follower.fails(&["services: ", "tls handshake"]);
}

#[test]
fn outside_of_a_pod_there_is_no_service_account() {
    let nowhere = std::env::temp_dir().join(format!("caracal-kubernetes-{}-pod", process::id()));
    let mut follower = Follower::by(nowhere, Access::InCluster, None, TIMING);
    follower.fails(&["the service account of the pod: ", "environment variable"]);
}

#[test]
fn the_thread_ends_when_nobody_listens() {
    let server = server();
    let mut follower = Follower::of("ends", &server);
    follower.has(&[WEB]);
    assert_eq!(server.connections(), 2);
    drop(follower);
    let deadline = Instant::now() + PATIENCE;
    while server.connections() > 0 {
        assert!(Instant::now() < deadline, "it is still there");
        // Whoever has gone is noticed when something is said.
        server.bookmark(SERVICES);
        server.bookmark(SLICES);
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_role_may_read_what_is_asked_for_and_nothing_else() {
    let server = server();
    Follower::of("role", &server).has(&[WEB]);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/rbac.yaml");
    let text = fs::read_to_string(path).expect("read");
    let mut documents = text.split("---\n");
    let role = documents.find(|it| it.contains("kind: ClusterRole\n"));
    let role: serde_json::Value = serde_saphyr::from_str(role.expect("a role")).expect("YAML");
    let rules = role["rules"].as_array().expect("rules");
    let asked = server.asked();
    let paths: BTreeSet<_> = asked.iter().filter_map(|it| it.split('?').next()).collect();
    assert_eq!(paths.len(), rules.len(), "{paths:?}");
    for path in paths {
        let (group, resource) = match path.split('/').collect::<Vec<_>>()[..] {
            ["", "api", "v1", resource] => ("", resource),
            ["", "apis", group, "v1", resource] => (group, resource),
            _ => panic!("{path}"),
        };
        let rule = serde_json::json!({
            "apiGroups": [group], "resources": [resource], "verbs": ["get", "list", "watch"]
        });
        assert!(rules.contains(&rule), "{rule}");
    }
}
