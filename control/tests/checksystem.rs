//! `caracal node checksystem` on nodes that are bad in one way each: in network namespaces, as root.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use control::netlink::NetNs;
use control::xdp::{EndpointConfig, EndpointProgram, FailMode, PinDir};
use fastpath::io::xsk::test_support::{reap_at_end, skip, skipped_without};
use serde_json::Value;

const RESOURCES: &str = "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: node}\nspec: {bgp: {ipv4Address: 192.0.2.1/24}}\n\
                         ---\napiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: pods}\n\
                         spec: {cidr: 10.65.0.0/16, vxlanMode: Always}\n";
const CONFIG: &str =
    "nodeName: node\nuplinks: [{interface: eth0}]\nmaxPods: 8\nmetrics: off\nhealth: off\n";

/// A node with an uplink and nothing wrong with it.
struct Lab {
    name: String,
    dir: PathBuf,
}

/// What is said of one check: of what, its state, what was found and what to do.
#[derive(Debug)]
struct Said {
    of: String,
    state: String,
    found: String,
    todo: String,
}

impl Lab {
    /// `None`: the test is skipped, aloud.
    fn new(test: &str) -> Option<Self> {
        if skipped_without(test, &["ip"]) {
            return None;
        }
        reap_at_end();
        let name = format!("car-{}-{test}", std::process::id());
        let dir = std::env::temp_dir().join(&name);
        NetNs::create(&name).unwrap();
        let lab = Self { name, dir };
        fs::create_dir_all(lab.dir.join("conf.d")).unwrap();
        lab.resources(RESOURCES);
        lab.config(CONFIG);
        lab.ip("link set lo up");
        lab.ip("link add eth0 numrxqueues 1 numtxqueues 1 type veth peer name wire numrxqueues 1 numtxqueues 1");
        lab.ip("link set wire up");
        lab.ip("link set eth0 up");
        lab.ip("addr add 192.0.2.1/24 dev eth0");
        Some(lab)
    }

    fn config(&self, text: &str) {
        let socket = self.dir.join("control.sock");
        let text = format!("{text}controlSocket: {}\n", socket.display());
        fs::write(self.dir.join("caracal.yaml"), text).unwrap();
    }

    fn resources(&self, text: &str) {
        fs::write(self.dir.join("conf.d/all.yaml"), text).unwrap();
    }

    fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        NetNs::named(&self.name).unwrap().run(work).unwrap()
    }

    fn ip(&self, arguments: &str) {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name]).args(arguments.split(' '));
        let output = command.output().unwrap();
        assert!(output.status.success(), "ip {arguments}: {output:?}");
    }

    fn caracal(&self, words: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_caracal"));
        command.args(words.split(' ')).arg("--config");
        command.arg(self.dir.join("caracal.yaml"));
        self.within(|| command.output()).unwrap()
    }

    /// All that is said, by check; of a check with several lines the last.
    fn check(&self) -> (BTreeMap<String, Said>, Value, Option<i32>) {
        Self::said(&self.caracal("node checksystem -o json"))
    }

    fn said(output: &Output) -> (BTreeMap<String, Said>, Value, Option<i32>) {
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut all = BTreeMap::new();
        for it in answer["checks"].as_array().unwrap() {
            let said = Said {
                of: text(&it["of"]),
                state: text(&it["state"]),
                found: text(&it["found"]),
                todo: text(&it["todo"]),
            };
            assert_eq!(said.todo.is_empty(), said.state == "ok", "{said:?}");
            all.insert(text(&it["check"]), said);
        }
        (all, answer, output.status.code())
    }

    /// One check's line.
    #[track_caller]
    fn says(&self, check: &str, state: &str, words: &[&str]) {
        let (all, answer, _) = self.check();
        let said = all.get(check);
        let said = said.unwrap_or_else(|| panic!("no {check}: {answer:#}"));
        assert_eq!(said.state, state, "{said:?}");
        for word in words {
            let line = format!("{} {} -> {}", said.of, said.found, said.todo);
            assert!(line.contains(word), "{word:?} is missing in: {line}");
        }
    }

    /// What the daemon says when it does not start.
    fn refusal(&self) -> String {
        let output = self.caracal("run");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// The line says what the daemon says.
    #[track_caller]
    fn agrees(&self, check: &str) {
        let (mut all, answer, code) = self.check();
        let said = all.remove(check);
        let said = said.unwrap_or_else(|| panic!("no {check}: {answer:#}"));
        assert_eq!(
            (said.state.as_str(), code),
            ("missing", Some(1)),
            "{said:?}"
        );
        assert_eq!(answer["usable"], false);
        let refusal = self.refusal();
        assert!(refusal.contains(&said.found), "{said:?} and {refusal}");
        assert!(refusal.contains(&said.todo), "{said:?} and {refusal}");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = NetNs::delete(&self.name);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Every check that the sources name is in the documentation.
#[test]
fn every_check_is_documented() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let documented = fs::read_to_string(format!("{root}/docs/operator.md")).unwrap();
    let mut checks = 0;
    for file in fs::read_dir(format!("{root}/control/src/node/checksystem")).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap();
        let calls = [
            "::ok(",
            "::warn(",
            "::missing(",
            "::refused(",
            "check = ",
            "socket(",
            "[(",
        ];
        for call in calls {
            for after in text.split(call).skip(1) {
                let word = after
                    .trim_start()
                    .strip_prefix('"')
                    .and_then(|it| it.split_once('"'));
                let Some((word, _)) =
                    word.filter(|(word, _)| word.starts_with(|c: char| c.is_ascii_lowercase()))
                else {
                    continue;
                };
                checks += 1;
                assert!(
                    documented.contains(&format!("`{word}`")),
                    "{word} is not in docs/operator.md"
                );
            }
        }
    }
    assert!(checks > 40, "{checks}");
}

#[test]
fn a_good_node_lacks_nothing() {
    let Some(lab) = Lab::new("cs-good") else {
        return;
    };
    let (all, answer, code) = lab.check();
    assert_eq!(answer["schema"], "caracal.checksystem/v1");
    assert_eq!(
        (answer["missing"].as_u64(), answer["usable"].as_bool()),
        (Some(0), Some(true)),
        "{answer:#}"
    );
    let warnings = answer["warnings"].as_u64().unwrap();
    assert_eq!(code, Some(if warnings == 0 { 0 } else { 5 }));
    for check in [
        "kernel",
        "af-xdp",
        "xdp-programs",
        "config",
        "resources",
        "uplink",
        "cores",
        "memory",
        "pods",
        "host-port",
        "vxlan",
    ] {
        assert_eq!(all[check].state, "ok", "{check}: {:?}", all[check]);
    }
    assert!(
        all["resources"].found.starts_with("2 resources in "),
        "{all:?}"
    );
    assert!(
        all["uplink"]
            .found
            .contains("driver veth, 1 queue for 1 poller, MTU 1500"),
        "{all:?}"
    );
    // Nothing stays behind.
    let links = lab
        .within(|| Command::new("ip").args(["-br", "link"]).output())
        .unwrap();
    let links = String::from_utf8_lossy(&links.stdout).into_owned();
    assert_eq!(links.lines().count(), 3, "{links}");
    assert!(!lab.dir.join("control.sock").exists());
}

#[test]
fn what_the_daemon_refuses_is_missing_in_its_own_words() {
    let Some(lab) = Lab::new("cs-refused") else {
        return;
    };
    lab.config("nodeName: node\nuplinks: [{interface: eth7}]\n");
    lab.agrees("uplink");
    lab.config(&format!("{CONFIG}pollers: {{cores: [4000]}}\n"));
    lab.agrees("cores");
    lab.config(CONFIG);
    lab.ip("link set eth0 mtu 3499");
    lab.says("uplink-mtu", "warn", &["MTU 3499", "drivers refuse"]);
    lab.ip("link set eth0 mtu 9000");
    lab.agrees("uplink-mtu");
    lab.ip("link set eth0 mtu 1500");
    lab.config("nodeName: node\nuplinks: [{interface: eth0, queues: 3}]\n");
    lab.agrees("uplink-queues");
    // With flows in the kernel each poller sends by a queue of its own.
    lab.config(&format!(
        "{CONFIG}offload: kernel\npollers: {{cores: [0, 1]}}\n"
    ));
    lab.agrees("uplink-queues");
    lab.config(&format!("{CONFIG}offload: kernel\n"));
    lab.says("tcx-programs", "ok", &["let them go"]);
    lab.config(CONFIG);
    // No driver, no native XDP. Kernels before 6.3 do not say what drivers can do.
    lab.ip("link add br9 up type bridge");
    lab.config("nodeName: node\nmetrics: off\nhealth: off\nuplinks: [{interface: br9}]\n");
    let (all, _, _) = lab.check();
    if all.contains_key("uplink-xdp") {
        lab.agrees("uplink-xdp");
    } else {
        skip("uplink-xdp", "the kernel does not say what drivers can do");
    }
}

#[test]
fn a_strangers_program_is_in_the_way() {
    let Some(lab) = Lab::new("cs-stranger") else {
        return;
    };
    let hold = || {
        let config = EndpointConfig {
            fail_mode: FailMode::Open,
            max_endpoints: 1,
            queues: 1,
        };
        let mut program = EndpointProgram::load(&config).unwrap();
        let pins = PinDir::open().unwrap();
        let attached = program.attach("eth0", &pins).unwrap();
        // What is pinned there is a former daemon's, and the next one's to take.
        lab.says("uplink-program", "ok", &["the daemon's own"]);
        let netns = fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
        for pin in fs::read_dir(format!("/sys/fs/bpf/caracal/{netns}")).unwrap() {
            fs::remove_file(pin.unwrap().path()).unwrap();
        }
        lab.says(
            "uplink-program",
            "missing",
            &[
                "eth0",
                "held by another XDP program",
                "caracal_pod",
                "detach it",
            ],
        );
        lab.agrees("uplink-program");
        program.detach(attached).unwrap();
        pins.remove_if_empty();
    };
    lab.within(hold);
    assert!(!lab.check().0.contains_key("uplink-program"));
}

#[test]
fn uplinks_in_strange_places_are_warned_about() {
    let Some(lab) = Lab::new("cs-places") else {
        return;
    };
    lab.ip("link set eth0 down");
    lab.says("uplink", "warn", &["it is down", "`ip link set eth0 up`"]);
    lab.ip("link set eth0 up");
    lab.ip("link add br0 type bridge");
    lab.ip("link set eth0 master br0");
    lab.says("uplink-place", "warn", &["eth0", "part of the bridge br0"]);
    lab.config("nodeName: node\nuplinks: [{interface: br0}]\n");
    lab.says("uplink-place", "warn", &["it is a bridge: not tested"]);
    lab.config(CONFIG);
    lab.ip("link delete br0");
    assert!(!lab.check().0.contains_key("uplink-place"));
    let output = lab.caracal("node checksystem -i wire -i eth0 -o json");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let uplinks = answer["checks"].as_array().unwrap().iter();
    let uplinks = uplinks.filter(|it| it["check"] == "uplink");
    let names: Vec<_> = uplinks.map(|it| it["of"].as_str().unwrap()).collect();
    assert_eq!(names, ["wire", "eth0"]);
    let of_interface = |name: &str| {
        let output = lab.caracal(&format!("node checksystem -i {name} -o json"));
        Lab::said(&output).0
    };
    let strange = of_interface("nosuch").remove("uplink").unwrap();
    assert!(
        strange.found.starts_with("--interface: uplink nosuch"),
        "{strange:?}"
    );
    // What the file says of it holds.
    lab.config("nodeName: node\nuplinks: [{interface: eth0, queues: 3}]\n");
    assert!(of_interface("eth0").contains_key("uplink-queues"));
    assert!(!of_interface("wire").contains_key("uplink-queues"));
    lab.config("nodeName: node\n");
    lab.says("uplink", "warn", &["none is named", "--interface"]);
}

#[test]
fn others_that_move_packets_are_warned_about() {
    let Some(lab) = Lab::new("cs-others") else {
        return;
    };
    lab.ip("link add vxlan.calico up type vxlan id 4096 dstport 4789");
    lab.says(
        "vxlan",
        "warn",
        &[
            "the kernel's vxlan.calico has UDP port 4789",
            "`ip link delete vxlan.calico`",
        ],
    );
    lab.ip("link delete vxlan.calico");
    let socket = lab
        .within(|| std::net::UdpSocket::bind("0.0.0.0:4789"))
        .unwrap();
    lab.says("vxlan", "warn", &["somebody has UDP port 4789", "ss -lunp"]);
    drop(socket);
    lab.says("vxlan", "ok", &[]);
    lab.ip("link add bpfin.cali type bridge");
    lab.says("calico", "warn", &["BPF dataplane was here (bpfin.cali)"]);
    lab.ip("link delete bpfin.cali");
    lab.ip("link add cilium_host type bridge");
    lab.says("cilium", "warn", &["cilium_host"]);
    lab.ip("link add caracal0 type bridge");
    lab.says("host-port", "missing", &["caracal0 is there", "rename it"]);
}

#[test]
fn rules_of_calico_and_of_kube_proxy_are_seen() {
    let test = "cs-rules";
    if skipped_without(test, &["nft"]) {
        return;
    }
    let Some(lab) = Lab::new(test) else { return };
    lab.says("calico", "ok", &[]);
    lab.says("kube-proxy", "ok", &[]);
    let nft = |line: &str| {
        let output = lab.within(|| Command::new("nft").args(line.split(' ')).output());
        assert!(output.unwrap().status.success(), "nft {line}");
    };
    nft("add table ip filter");
    nft("add chain ip filter cali-INPUT");
    lab.says(
        "calico",
        "warn",
        &["chains `cali-…`", "boot, or remove them"],
    );
    lab.config(&format!(
        "{CONFIG}source: felix\nfelixSocket: {0}/felix.sock\nmtuFile: {0}/mtu\n",
        lab.dir.display()
    ));
    lab.says("resources", "ok", &["from Felix"]);
    lab.says("calico", "warn", &["cali-…"]);
    lab.says("mtu-file", "ok", &[]);
    lab.config(CONFIG);
    nft("delete table ip filter");
    nft("add table ip kube-proxy");
    nft("add chain ip kube-proxy services");
    lab.says(
        "kube-proxy",
        "warn",
        &["reach none by its address", "cluster DNS"],
    );
}

/// Process 1 is the container's own, and its mounts end with it.
#[test]
fn what_a_container_can_not_see_is_not_said_to_be_well() {
    let test = "cs-container";
    if skipped_without(test, &["nft", "unshare"]) {
        return;
    }
    let Some(lab) = Lab::new(test) else { return };
    let mut nft = Command::new("nft");
    nft.arg("add table ip filter; add chain ip filter cali-INPUT");
    assert!(lab.within(|| nft.status()).unwrap().success());
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "sh", "-c"]);
    command
        .arg("mount -t tmpfs none /sys/fs/bpf && \"$0\" node checksystem -o json --config \"$1\"");
    command.arg(env!("CARGO_BIN_EXE_caracal"));
    command.arg(lab.dir.join("caracal.yaml"));
    let (all, answer, _) = Lab::said(&lab.within(|| command.output()).unwrap());
    for (check, words) in [
        ("bpffs", "pods are OPEN"),
        ("network-manager", "not seen from a container"),
        ("systemd-networkd", "not seen from a container"),
        ("calico", "whether it runs is not seen from a container"),
    ] {
        let said = &all[check];
        assert_eq!(said.state, "warn", "{said:?}");
        assert!(said.found.contains(words), "{said:?}");
    }
    assert!(!all["calico"].todo.contains("remove"), "{answer:#}");
}

#[test]
fn pods_that_would_be_cut_off_are_named() {
    let Some(lab) = Lab::new("cs-pods") else {
        return;
    };
    for pod in ["cali1", "cali2"] {
        lab.ip(&format!("link add {pod} numrxqueues 1 numtxqueues 1 type veth peer name {pod}-pod numrxqueues 1 numtxqueues 1"));
    }
    lab.ip("link set cali1-pod name pod1");
    lab.ip("link set cali2-pod name pod2");
    lab.says(
        "pods",
        "warn",
        &[
            "closed from the start",
            "cali1, cali2",
            "export the endpoints",
        ],
    );
    let endpoint = |pod: u8| {
        format!(
            "---\napiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata: {{name: node-k8s-p{pod}-eth0, namespace: x}}\n\
             spec: {{node: node, orchestrator: k8s, pod: p{pod}, endpoint: eth0, interfaceName: cali{pod}, ipNetworks: \
             [10.65.0.{pod}/32]}}\n"
        )
    };
    lab.resources(&format!("{RESOURCES}{}{}", endpoint(1), endpoint(2)));
    lab.says("pods", "ok", &["2 interfaces here"]);
    lab.config("nodeName: node\npollers: {cores: [0, 1]}\n");
    lab.says(
        "pod-queues",
        "warn",
        &[
            "fewer queues than 2 pollers",
            "cali1, cali2",
            "\"num_queues\": 2",
        ],
    );
    lab.config(CONFIG);
    lab.ip("link set cali2 mtu 9000");
    lab.says("pod-mtu", "warn", &["closed: cali2", "lower the MTU"]);
    lab.config(&format!("{CONFIG}failMode: open\n"));
    lab.within(|| fs::write("/proc/sys/net/ipv4/ip_forward", "0"))
        .unwrap();
    lab.says(
        "forwarding",
        "warn",
        &["the kernel does not forward", "net.ipv4.ip_forward=1"],
    );
    lab.within(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1"))
        .unwrap();
    lab.says(
        "forwarding",
        "warn",
        &["does not answer ARP", "cali1, cali2", "proxy_arp=1"],
    );
}

#[test]
fn bad_files_and_places_are_named() {
    let Some(lab) = Lab::new("cs-files") else {
        return;
    };
    let taken = lab.within(|| TcpListener::bind("127.0.0.1:9191")).unwrap();
    lab.config("nodeName: node\nuplinks: [{interface: eth0}]\n");
    lab.says("metrics", "warn", &["127.0.0.1:9191", "ss -ltnp"]);
    lab.says("health", "ok", &["127.0.0.1:9199 is free"]);
    drop(taken);
    lab.resources(&RESOURCES.replace("10.65.0.0/16", "10.65.0.0/99"));
    lab.says(
        "resources",
        "missing",
        &["1 error; the first: ", "all.yaml:9:", "caracal validate -f"],
    );
    lab.resources(&RESOURCES.replace("name: node", "name: other"));
    lab.says(
        "resources",
        "missing",
        &["no Node resource is called `node`", "--node node"],
    );
    let file = lab.dir.join("conf.d/all.yaml");
    std::os::unix::fs::chown(&file, Some(4711), Some(4711)).unwrap();
    lab.says("file-modes", "ok", &[]);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    lab.says("file-modes", "warn", &["all.yaml", "`chown root "]);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    lab.resources(&RESOURCES.replace("192.0.2.1/24", "192.0.2.7/24"));
    lab.says(
        "node-address",
        "warn",
        &["192.0.2.7, and no interface here has it", "see nodeName"],
    );
    lab.resources(&RESOURCES.replace("10.65.0.0/16, vxlanMode: Always", "fd00:65::/64"));
    lab.within(|| fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"))
        .unwrap();
    lab.says("ipv6", "warn", &["switched off"]);
    lab.config("nodeNam: node\n");
    lab.says("config", "missing", &["caracal.yaml:1:1: "]);
    assert!(!lab.check().0.contains_key("resources"));
    fs::remove_file(lab.dir.join("caracal.yaml")).unwrap();
    lab.says("config", "missing", &["No such file"]);
}

#[test]
fn a_host_endpoint_needs_nft() {
    let Some(lab) = Lab::new("cs-nft") else {
        return;
    };
    lab.says("nftables", "ok", &["not needed"]);
    let host = "---\napiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {name: node-eth0}\n\
                spec: {node: node, interfaceName: eth0}\n";
    lab.resources(&format!("{RESOURCES}{host}"));
    if skipped_without("a_host_endpoint_needs_nft", &["nft"]) {
        lab.says("nftables", "missing", &["no program `nft`"]);
        return;
    }
    lab.says("nftables", "ok", &["`nft` and the kernel's part are there"]);
    let elsewhere = host.replace("node: node", "node: other");
    lab.resources(&format!("{RESOURCES}{elsewhere}"));
    lab.says("nftables", "ok", &["not needed"]);
    lab.resources(&format!("{RESOURCES}{host}"));
    lab.config(&format!("{CONFIG}hostEndpoints: forwarded-only\n"));
    lab.says("nftables", "ok", &["not needed"]);
}

#[test]
fn without_privileges_that_is_said_first() {
    let Some(lab) = Lab::new("cs-user") else {
        return;
    };
    if skipped_without("without_privileges_that_is_said_first", &["setpriv"]) {
        return;
    }
    let copy = lab.dir.join("caracal");
    // By another process: a program that is open to be written, here or in what another test has just forked, can not be started.
    let words = [Path::new(env!("CARGO_BIN_EXE_caracal")), &copy];
    let copied = Command::new("cp").args(words).status();
    assert!(copied.unwrap().success());
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy);
    command
        .args(["node", "checksystem", "--config"])
        .arg(lab.dir.join("caracal.yaml"));
    let output = lab.within(|| command.output()).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for line in [
        "MISSING  capabilities",
        "MISSING  af-xdp",
        "MISSING  xdp-programs",
    ] {
        assert!(text.contains(line), "{line} is missing in: {text}");
    }
    assert!(text.contains("this process lacks CAP_NET_ADMIN"), "{text}");
}
