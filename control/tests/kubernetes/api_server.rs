//! An API server that has services and slices of endpoints, and whatever can go wrong with it. Plain HTTP.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use serde_json::{Value, json};

pub(crate) const SERVICES: &str = "/api/v1/services";
pub(crate) const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

/// The server. Its threads end with the process.
#[derive(Clone)]
pub(crate) struct ApiServer {
    pub(crate) url: String,
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    version: u64,
    /// By path, namespace and name.
    objects: BTreeMap<(&'static str, String, String), Value>,
    /// Lines of watches: the version from which on they are said, the path, the line.
    history: Vec<(u64, &'static str, String)>,
    /// Changes up to here are forgotten.
    forgotten: u64,
    /// Who has this is let in.
    token: &'static str,
    refusal: Option<Refusal>,
    /// All pages after the first are too old.
    pages_expire: bool,
    /// Connections are closed without an answer.
    is_away: bool,
    /// Each time all watches are cut off.
    cuts: u64,
    /// Path and query of all that was asked.
    asked: Vec<String>,
    /// Connections that are open.
    connections: usize,
    /// Objects in a page, if fewer than asked for.
    page: Option<usize>,
}

/// What is answered to all that is asked, or to some of it.
#[derive(Clone, Default)]
struct Refusal {
    code: u16,
    message: String,
    /// Only to what is asked of this path.
    path: Option<&'static str>,
    /// Only to watches.
    watches_only: bool,
    /// In plain text, as a proxy says it.
    is_plain: bool,
}

impl ApiServer {
    /// Listens on the loopback of the network namespace of this thread.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let server = Self {
            url: format!("http://{}", listener.local_addr().expect("an address")),
            shared: Arc::default(),
        };
        server.state().version = 100;
        server.state().token = "secret";
        let accepting = server.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = accepting.clone();
                thread::spawn(move || {
                    serving.state().connections += 1;
                    // Who asks may go at any time.
                    let _ = serving.serve(&stream);
                    serving.state().connections -= 1;
                });
            }
        });
        server
    }

    /// A kubeconfig for it.
    pub(crate) fn kubeconfig(&self, directory: &Path) -> PathBuf {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\nclusters:\n- name: test\n  cluster: {{server: '{}'}}\n\
             users:\n- name: test\n  user: {{token: {}}}\ncontexts:\n- name: test\n  context: {{cluster: test, user: test}}\n",
            self.url,
            self.state().token
        );
        let path = directory.join("kubeconfig");
        fs::write(&path, text).expect("write");
        path
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let outcome = change(&mut self.state());
        self.shared.1.notify_all();
        outcome
    }

    /// There is such an object from now on.
    pub(crate) fn put(&self, path: &'static str, mut object: Value) {
        self.change(|state| {
            state.version += 1;
            object["metadata"]["resourceVersion"] = json!(state.version.to_string());
            let before = state.objects.insert(key(path, &object), object.clone());
            let word = before.map_or("ADDED", |_| "MODIFIED");
            state.event(path, word, &object);
        });
    }

    /// There is none any more.
    pub(crate) fn delete(&self, path: &'static str, namespace: &str, name: &str) {
        self.change(|state| {
            state.version += 1;
            let key = (path, namespace.to_owned(), name.to_owned());
            let mut object = state.objects.remove(&key).expect("an object");
            object["metadata"]["resourceVersion"] = json!(state.version.to_string());
            state.event(path, "DELETED", &object);
        });
    }

    /// Nothing has changed up to now: up to which version.
    pub(crate) fn bookmark(&self, path: &'static str) -> u64 {
        self.change(|state| {
            state.version += 1;
            let metadata = json!({"resourceVersion": state.version.to_string()});
            let object = json!({"apiVersion": "v1", "kind": "Any", "metadata": metadata});
            state.event(path, "BOOKMARK", &object);
            state.version
        })
    }

    /// Whoever watches gets this line, from any version on.
    pub(crate) fn say(&self, path: &'static str, line: &str) {
        self.change(|state| state.history.push((u64::MAX, path, line.to_owned())));
    }

    /// Says no more what it said by [`say`](Self::say).
    pub(crate) fn unsay(&self, line: &str) {
        self.change(|state| state.history.retain(|it| it.2 != line));
    }

    /// Forgets all changes so far, and ends all watches.
    pub(crate) fn forget(&self) {
        self.change(|state| {
            state.version += 1;
            state.forgotten = state.version;
            state.cuts += 1;
        });
    }

    /// Cuts off all watches.
    pub(crate) fn cut(&self) {
        self.change(|state| state.cuts += 1);
    }

    /// Answers with an error from now on, or does not any more.
    pub(crate) fn refuse(&self, refusal: Option<(u16, &str)>) {
        self.set_refusal(refusal.map(|(code, message)| Refusal {
            code,
            message: message.to_owned(),
            ..Refusal::default()
        }));
    }

    /// Answers with an error about this path alone.
    pub(crate) fn refuse_only(&self, path: &'static str, (code, message): (u16, &str)) {
        self.set_refusal(Some(Refusal {
            code,
            message: message.to_owned(),
            path: Some(path),
            ..Refusal::default()
        }));
    }

    /// Answers with an error to watches of this path, as JSON or as plain text.
    pub(crate) fn refuse_watches(
        &self,
        path: &'static str,
        (code, message): (u16, &str),
        is_plain: bool,
    ) {
        self.set_refusal(Some(Refusal {
            code,
            message: message.to_owned(),
            path: Some(path),
            watches_only: true,
            is_plain,
        }));
    }

    /// Cuts off all watches, too.
    fn set_refusal(&self, refusal: Option<Refusal>) {
        self.change(|state| {
            state.refusal = refusal;
            state.cuts += 1;
        });
    }

    /// Cuts off all watches, and lets only those in that have this token.
    pub(crate) fn wants(&self, token: &'static str) {
        self.change(|state| {
            state.token = token;
            state.cuts += 1;
        });
    }

    /// All pages after the first are too old from now on, or are not any more.
    pub(crate) fn pages_expire(&self, expire: bool) {
        self.change(|state| state.pages_expire = expire);
    }

    /// Answers nothing from now on, or does again.
    pub(crate) fn away(&self, is_away: bool) {
        self.change(|state| {
            state.is_away = is_away;
            state.cuts += 1;
        });
    }

    /// Pages have so many objects at most.
    pub(crate) fn pages_of(&self, objects: usize) {
        self.change(|state| state.page = Some(objects));
    }

    /// Connections that are open.
    pub(crate) fn connections(&self) -> usize {
        self.state().connections
    }

    /// What was asked so far, path and query.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.state().asked.clone()
    }

    fn serve(&self, stream: &TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream);
        loop {
            let mut head = Vec::new();
            loop {
                let mut line = String::new();
                if lines.read_line(&mut line)? == 0 {
                    return Ok(());
                }
                if line.trim().is_empty() {
                    break;
                }
                head.push(line);
            }
            let target = head[0].split(' ').nth(1).expect("a target").to_owned();
            let (path, query) = target.split_once('?').unwrap_or((&target, ""));
            let mut state = self.state();
            state.asked.push(target.clone());
            if state.is_away {
                return Ok(());
            }
            let is_watch = value(query, "watch").is_some();
            if let Some(it) = state.refusal(&head, path, is_watch) {
                drop(state);
                if it.is_plain {
                    answer(stream, it.code, "text/plain", &it.message)?;
                } else {
                    let status = status(it.code, &it.message).to_string();
                    answer(stream, it.code, JSON, &status)?;
                }
            } else if state.pages_expire && value(query, "continue").is_some() {
                drop(state);
                answer(
                    stream,
                    410,
                    JSON,
                    &status(410, "too old a page").to_string(),
                )?;
            } else if is_watch {
                drop(state);
                return self.watch(stream, path, query);
            } else {
                let list = state.list(path, query);
                drop(state);
                answer(stream, 200, JSON, &list.to_string())?;
            }
        }
    }

    fn watch(&self, mut stream: &TcpStream, path: &str, query: &str) -> std::io::Result<()> {
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )?;
        let version = value(query, "resourceVersion").expect("a version");
        let mut from: u64 = version.parse().expect("a number");
        let mut state = self.state();
        let cuts = state.cuts;
        if from < state.forgotten {
            drop(state);
            let gone = json!({"type": "ERROR", "object": status(410, "too old")}).to_string();
            return chunk(stream, &gone).and_then(|()| write!(stream, "0\r\n\r\n"));
        }
        loop {
            let said: Vec<_> = state
                .history
                .iter()
                .filter(|it| it.0 > from && it.1 == path)
                .cloned()
                .collect();
            if said.is_empty() {
                if state.cuts != cuts {
                    return Ok(());
                }
                let woken = self.shared.1.wait(state);
                state = woken.unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            drop(state);
            for (version, _, line) in said {
                from = version;
                chunk(stream, &line)?;
            }
            state = self.state();
        }
    }
}

impl State {
    fn event(&mut self, path: &'static str, word: &str, object: &Value) {
        let line = json!({"type": word, "object": object}).to_string();
        self.history.push((self.version, path, line));
    }

    /// What is wrong with a request of this head.
    fn refusal(&self, head: &[String], path: &str, is_watch: bool) -> Option<Refusal> {
        let known = format!("authorization: bearer {}", self.token);
        if !head.iter().any(|it| it.trim().eq_ignore_ascii_case(&known)) {
            return Some(Refusal {
                code: 401,
                message: "who are you".to_owned(),
                ..Refusal::default()
            });
        }
        let refusal = self.refusal.as_ref()?;
        let is_about = refusal.path.is_none_or(|it| it == path);
        (is_about && (is_watch || !refusal.watches_only)).then(|| refusal.clone())
    }

    fn list(&self, path: &str, query: &str) -> Value {
        let objects = self.objects.iter().filter(|(key, _)| key.0 == path);
        let all: Vec<_> = objects.map(|(_, object)| object).collect();
        let limit = value(query, "limit").map(|it| it.parse().expect("a number"));
        let limit = limit.map(|it: usize| it.min(self.page.unwrap_or(it)));
        let from = value(query, "continue").map_or(0, |it| it.parse().expect("a number"));
        let to = limit.map_or(all.len(), |limit| (from + limit).min(all.len()));
        let more = (to < all.len()).then(|| to.to_string());
        json!({
            "apiVersion": "v1",
            "kind": "List",
            "metadata": {"resourceVersion": self.version.to_string(), "continue": more},
            "items": all[from..to],
        })
    }
}

fn key(path: &'static str, object: &Value) -> (&'static str, String, String) {
    let text = |name: &str| object["metadata"][name].as_str().expect("text").to_owned();
    (path, text("namespace"), text("name"))
}

fn value<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    let mut pairs = query.split('&').filter_map(|it| it.split_once('='));
    pairs.find(|(it, _)| *it == name).map(|(_, value)| value)
}

fn status(code: u16, message: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure",
        "message": message, "reason": "Test", "code": code
    })
}

const JSON: &str = "application/json";

fn answer(mut stream: &TcpStream, code: u16, content: &str, body: &str) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {code} Said\r\nContent-Type: {content}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn chunk(mut stream: &TcpStream, line: &str) -> std::io::Result<()> {
    write!(stream, "{:x}\r\n{line}\n\r\n", line.len() + 1)
}

/// A service with one port, TCP 80, and one cluster IP.
pub(crate) fn service(name: &str, cluster_ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": name},
        "spec": {"clusterIP": cluster_ip, "clusterIPs": [cluster_ip], "ports": [{"name": "http", "port": 80}]}
    })
}

/// The slice of such a service, port 8080.
pub(crate) fn slice(name: &str, addresses: &[&str]) -> Value {
    let endpoints = addresses.iter().map(|it| json!({"addresses": [it]}));
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default", "name": format!("{name}-1"),
            "labels": {"kubernetes.io/service-name": name}
        },
        "addressType": "IPv4",
        "endpoints": endpoints.collect::<Vec<_>>(),
        "ports": [{"name": "http", "port": 8080}]
    })
}
