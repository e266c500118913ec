//! The operator's view of a daemon that runs: one node with an uplink and two pods, in namespaces of their own. As root.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use control::netlink::NetNs;
use control::xdp::PinDir;
use fastpath::io::xsk::test_support::{skip, skipped_without};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The longest that anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// True if the test cannot run here.
fn skipped(test: &str) -> bool {
    skipped_without(test, &["ip", "ping"])
}

/// Polls until it is so.
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The node, its pods and its daemon.
struct Lab {
    prefix: String,
    dir: PathBuf,
    daemon: Option<Child>,
}

impl Lab {
    fn new(test: &str) -> Self {
        let prefix = format!("car-{}-{test}", std::process::id());
        let dir = std::env::temp_dir().join(&prefix);
        let lab = Self {
            prefix,
            dir,
            daemon: None,
        };
        fs::create_dir_all(lab.dir.join("conf.d")).unwrap();
        for part in ["node", "a", "b", "wire"] {
            NetNs::create(&lab.netns(part)).unwrap();
            lab.ip(part, "link set lo up");
        }
        let wire = lab.netns("wire");
        for (uplink, net) in [("eth0", 2), ("eth1", 3)] {
            let pair = format!("link add {uplink} type veth peer name {uplink} netns {wire}");
            lab.ip("node", &pair);
            lab.ip("wire", &format!("link set {uplink} up"));
            lab.ip("node", &format!("link set {uplink} up"));
            lab.ip("node", &format!("addr add 192.0.{net}.1/24 dev {uplink}"));
        }
        let mut text = "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: node}\nspec: {bgp: {ipv4Address: \
                        192.0.2.1/24}}\n---\napiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: pods}\n\
                        spec: {cidr: 10.65.0.0/16, natOutgoing: false}\n"
            .to_owned();
        for (index, pod) in ["a", "b"].into_iter().enumerate() {
            let far = lab.netns(pod);
            // What it would send by itself would be counted, too.
            let quiet = || fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
            lab.within(pod, quiet).unwrap();
            lab.ip(
                "node",
                &format!("link add cali{pod} address ee:ee:ee:ee:ee:ee type veth peer name eth0 netns {far}"),
            );
            lab.ip("node", &format!("link set cali{pod} up"));
            lab.ip(
                pod,
                &format!("link set eth0 address 02:00:00:00:00:0{index} up"),
            );
            lab.ip(pod, &format!("addr add 10.65.0.{index}/32 dev eth0"));
            lab.ip(pod, "route add 169.254.1.1 dev eth0 scope link");
            lab.ip(pod, "route add default via 169.254.1.1 dev eth0");
            let endpoint = format!(
                "---\napiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata: {{name: node-k8s-{pod}-eth0, \
                 namespace: test}}\nspec: {{node: node, orchestrator: k8s, pod: {pod}, endpoint: eth0, interfaceName: \
                 cali{pod}, mac: '02:00:00:00:00:0{index}', ipNetworks: [10.65.0.{index}/32], profiles: [kns.test]}}\n"
            );
            text.push_str(&endpoint);
        }
        fs::write(lab.resources(), text).unwrap();
        let config = format!(
            "nodeName: node\nuplinks: [{{interface: eth0}}, {{interface: eth1}}]\nmaxPods: 8\ncontrolSocket: {}\n",
            lab.socket().display()
        );
        fs::write(lab.dir.join("caracal.yaml"), config).unwrap();
        lab
    }

    fn netns(&self, part: &str) -> String {
        format!("{}-{part}", self.prefix)
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    fn resources(&self) -> PathBuf {
        self.dir.join("conf.d/all.yaml")
    }

    fn within<T: Send>(&self, part: &str, work: impl FnOnce() -> T + Send) -> T {
        NetNs::named(&self.netns(part)).unwrap().run(work).unwrap()
    }

    fn ip(&self, part: &str, arguments: &str) {
        let netns = self.netns(part);
        let output = Command::new("ip")
            .args(["-n", &netns])
            .args(arguments.split_whitespace())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "ip -n {netns} {arguments}: {said}");
    }

    fn start(&mut self) {
        let log = fs::File::create(self.dir.join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_caracal"));
        command
            .arg("run")
            .arg("--config")
            .arg(self.dir.join("caracal.yaml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.daemon = Some(self.within("node", || command.spawn()).unwrap());
        eventually("the daemon is ready", || self.log().contains("ready"));
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap()
    }

    fn caracal(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_caracal"))
            .arg("--socket")
            .arg(self.socket())
            .args(args)
            .output()
            .unwrap()
    }

    fn code(&self, args: &[&str]) -> Option<i32> {
        self.caracal(args).status.code()
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.caracal(&[args, &["-o", "json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            let said = String::from_utf8_lossy(&output.stderr);
            panic!("{args:?}: {error}: {said}\n{}", self.log())
        })
    }

    fn text(&self, args: &[&str]) -> String {
        let output = self.caracal(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// How many of five requests are answered.
    fn ping(&self, pod: &str, args: &str) -> usize {
        let mut command = Command::new("ping");
        command
            .args(["-n", "-c", "5", "-i", "0.02", "-W", "1"])
            .args(args.split_whitespace());
        let output = self.within(pod, || command.output()).unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().filter(|line| line.contains(" time=")).count()
    }

    /// How many interfaces' programs are pinned.
    fn pins(&self) -> Vec<control::xdp::PinnedDevice> {
        self.within("node", || PinDir::open().unwrap().pins())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        if let Some(mut daemon) = self.daemon.take() {
            let _ = kill(Pid::from_raw(daemon.id().cast_signed()), Signal::SIGTERM);
            let _ = daemon.wait();
        }
        if let Ok(netns) = NetNs::named(&self.netns("node")) {
            let _ = netns.run(|| control::node::cleanup(&self.socket()));
        }
        for part in ["node", "a", "b", "wire"] {
            let _ = NetNs::delete(&self.netns(part));
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn port<'a>(ports: &'a Value, name: &str) -> &'a Value {
    let mut all = ports["ports"].as_array().unwrap().iter();
    all.find(|port| port["name"] == name)
        .unwrap_or_else(|| panic!("no port {name} in {ports:#}"))
}

#[test]
fn what_passes_and_what_does_not_is_seen() {
    if skipped("what_passes_and_what_does_not_is_seen") {
        return;
    }
    let mut lab = Lab::new("seen");
    assert_eq!(lab.code(&["status"]), Some(4), "nobody is there");
    lab.start();
    assert_eq!(lab.code(&["status"]), Some(0), "{}", lab.text(&["status"]));
    let versions = lab.json(&["version"]);
    let (client, daemon) = (&versions["client"], &versions["daemon"]);
    assert_eq!(client["version"], daemon["version"], "{versions:#}");
    let second = lab.caracal(&[
        "run",
        "--config",
        lab.dir.join("caracal.yaml").to_str().unwrap(),
    ]);
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1));
    assert!(said.contains("another process answers"), "{said}");

    assert_eq!(lab.ping("a", "10.65.0.1"), 5);
    let ports = lab.json(&["ports"]);
    assert_eq!(ports["schema"], "caracal.ports/v1");
    for name in ["calia", "calib"] {
        let port = port(&ports, name);
        assert_eq!(
            (&port["kind"], &port["mode"]),
            (&"pod".into(), &"copy".into())
        );
        for count in ["rx_packets", "tx_packets"] {
            assert!(port[count].as_u64().unwrap() >= 5, "{name}: {port:#}");
        }
        assert!(port["rx_bytes"].as_u64().unwrap() >= 5 * 98, "{port:#}");
    }
    assert_eq!(port(&ports, "eth0")["kind"], "uplink");
    assert_eq!(port(&ports, "caracal0-dp")["kind"], "host");

    // What pod a sends from an address that is not its own.
    lab.ip("a", "addr add 10.65.9.9/32 dev eth0");
    assert_eq!(lab.ping("a", "-I 10.65.9.9 10.65.0.1"), 0);
    let drops = lab.json(&["drops"]);
    let spoofed = drops["drops"].as_array().unwrap().iter();
    let spoofed = spoofed
        .filter(|drop| drop["reason"] == "source-spoofed" && drop["port"] == "calia")
        .map(|drop| drop["count"].as_u64().unwrap());
    assert_eq!(spoofed.sum::<u64>(), 5, "{drops:#}");
    let by_reason = lab.text(&["drops", "--by", "reason"]);
    assert!(by_reason.contains("source-spoofed  parse"), "{by_reason}");
    assert!(lab.text(&["drops", "--by", "port"]).contains("calia"));

    let status = lab.json(&["status"]);
    assert_eq!(status["accounting"]["balanced"], true);
    assert!(status["accounting"]["drop"].as_u64().unwrap() >= 5);
    assert_eq!(status["datastore"]["resources"], 4);
    let route = lab.text(&["routes", "for", "10.65.0.1"]);
    assert_eq!(lab.text(&["routes", "get", "10.65.0.1"]), route);
    assert!(route.starts_with("10.65.0.1/32  pod  dev calib"), "{route}");
    let all = lab.json(&["routes"]);
    assert_eq!(
        all["routes"].as_array().unwrap().len(),
        all["total"].as_u64().unwrap() as usize
    );
    assert_eq!(
        lab.json(&["routes", "--limit", "2"])["routes"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn a_route_with_two_legs_takes_the_one_that_is_up() {
    if skipped("a_route_with_two_legs_takes_the_one_that_is_up") {
        return;
    }
    let mut lab = Lab::new("legs");
    lab.start();
    let legs = "nexthop via 192.0.2.2 dev eth0 nexthop via 192.0.3.2 dev eth1";
    lab.ip("node", &format!("route add 198.51.100.0/24 {legs}"));
    let leaves_by = |dev: &str| {
        let route = lab.text(&["routes", "for", "198.51.100.1"]);
        route.contains(&format!("  dev {dev}  ")) && route.starts_with("198.51.100.0/24")
    };
    eventually("the first leg", || leaves_by("eth0"));
    lab.ip("wire", "link set eth0 down");
    eventually("the other leg", || leaves_by("eth1"));
    lab.ip("wire", "link set eth0 up");
    eventually("the first leg again", || leaves_by("eth0"));
}

#[test]
fn others_are_not_answered() {
    if skipped("others_are_not_answered") {
        return;
    }
    let mut lab = Lab::new("nobody");
    lab.start();
    let binary = lab.dir.join("caracal");
    // By another process: a program that is open to be written, here or in what another test has just forked, can not be started.
    let words = [Path::new(env!("CARGO_BIN_EXE_caracal")), &binary];
    let copied = Command::new("cp").args(words).status();
    assert!(copied.unwrap().success());
    let as_nobody = || {
        let mut command = Command::new(&binary);
        command.uid(65534).gid(65534).arg("status");
        let output = command.arg("--socket").arg(lab.socket()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let (code, said) = as_nobody();
    assert_eq!(code, Some(4));
    assert!(said.contains("Permission denied"), "{said}");
    fs::set_permissions(lab.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    let (code, said) = as_nobody();
    assert_eq!(code, Some(1));
    assert!(said.contains("only root"), "{said}");
    assert_eq!(lab.code(&["status"]), Some(0));
}

#[test]
fn what_is_wrong_is_said_until_it_is_right() {
    if skipped("what_is_wrong_is_said_until_it_is_right") {
        return;
    }
    let mut lab = Lab::new("wrong");
    lab.start();
    let good = fs::read_to_string(lab.resources()).unwrap();
    let status = |code| {
        eventually("the status that is due", || {
            lab.code(&["status"]) == Some(code)
        });
        lab.json(&["status"])
    };

    fs::write(lab.resources(), good.replace("cidr:", "cdir:")).unwrap();
    let bad = status(5);
    assert_eq!(bad["problems"][0]["part"], "datastore");
    assert!(
        bad["datastore"]["error"]
            .as_str()
            .unwrap()
            .contains("did you mean")
    );
    assert_eq!(
        lab.ping("a", "10.65.0.1"),
        5,
        "the state before is in force"
    );
    fs::write(lab.resources(), &good).unwrap();
    assert_eq!(status(0)["datastore"]["error"], Value::Null);

    lab.ip("node", "addr del 192.0.2.1/24 dev eth0");
    let misplaced = status(5);
    let message = misplaced["problems"][0]["message"].as_str().unwrap();
    let said = "Node node has the address 192.0.2.1, and no interface here has it";
    assert!(message.starts_with(said), "{message}");
    lab.ip("node", "addr add 192.0.2.1/24 dev eth0");
    status(0);

    lab.ip("node", "link del calib");
    let gone = status(5);
    assert_eq!(gone["problems"][0]["interface"], "calib", "{gone:#}");
    assert_eq!(gone["ports"].as_array().unwrap().len(), 4);
}

#[test]
fn what_others_take_away_is_put_back() {
    if skipped("what_others_take_away_is_put_back") {
        return;
    }
    let mut lab = Lab::new("back");
    lab.start();
    // A pod's program.
    let pins = lab.pins();
    let pod = pins.iter().find(|pin| pin.ifname == "calia").unwrap();
    lab.within("node", || PinDir::open().unwrap().release(pod))
        .unwrap();
    eventually("the pod is closed again", || {
        lab.pins()
            .iter()
            .any(|pin| pin.ifname == "calia" && pin.alive)
    });
    eventually("the pod is served again", || {
        lab.ping("a", "10.65.0.1") == 5
    });
    assert!(lab.log().contains("somebody detached"));

    // The uplink's program.
    let detach = lab.within("node", || detach_xdp("eth0"));
    if let Err(reason) = detach {
        skip("what_others_take_away_is_put_back (uplink)", &reason);
    } else {
        eventually("the uplink's program is back", || {
            lab.log().contains("attached again")
        });
        assert_eq!(lab.code(&["status"]), Some(0));
    }

    // The host's port, its routes, and its addresses.
    let reaches = || lab.ping("node", "10.65.0.0") == 5;
    assert!(reaches(), "the host reaches a pod");
    lab.ip("node", "link set caracal0 down");
    eventually("the host's port is up again", reaches);
    lab.ip("node", "link del caracal0");
    eventually("the host's port is there again", reaches);
    assert_eq!(lab.log().matches("made anew").count(), 1);
    assert_eq!(lab.code(&["status"]), Some(0));
}

/// Takes the XDP program off a device as another program would; an error if there is nothing here to do that with.
fn detach_xdp(interface: &str) -> Result<(), String> {
    let run = |args: &[&str]| {
        let output = Command::new("bpftool").args(args).output();
        let output = output.map_err(|error| format!("bpftool: {error}"))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let links: Value = serde_json::from_slice(&run(&["link", "list", "-j"])?).unwrap();
    // By the program that is on the device: interface indexes repeat across namespaces.
    let shown = Command::new("ip")
        .args(["-j", "link", "show", interface])
        .output();
    let shown: Value = serde_json::from_slice(&shown.unwrap().stdout).unwrap();
    let program = &shown[0]["xdp"]["prog"]["id"];
    assert!(program.is_u64(), "{shown:#}");
    let ours = |link: &&Value| link["type"] == "xdp" && link["prog_id"] == *program;
    let link = links.as_array().unwrap().iter().find(ours);
    let id = link.ok_or("no such link")?["id"].to_string();
    run(&["link", "detach", "id", &id]).map(drop)
}

#[test]
fn devices_that_are_no_longer_pods_are_opened_at_start() {
    if skipped("devices_that_are_no_longer_pods_are_opened_at_start") {
        return;
    }
    let mut lab = Lab::new("open");
    lab.start();
    let mut daemon = lab.daemon.take().unwrap();
    kill(Pid::from_raw(daemon.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(daemon.wait().unwrap().success());
    assert_eq!(lab.pins().len(), 3, "they stay closed");
    assert!(!lab.socket().exists());

    // One is renamed to something that is no pod's, the other's endpoint goes.
    lab.ip("node", "link set calia down");
    lab.ip("node", "link set calia name other up");
    let text = fs::read_to_string(lab.resources()).unwrap();
    let (kept, _) = text
        .split_once("---\napiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint")
        .unwrap();
    fs::write(lab.resources(), kept).unwrap();
    lab.start();
    let left: Vec<_> = lab.pins().into_iter().map(|pin| pin.ifname).collect();
    assert!(
        !left.contains(&"other".to_owned()) && !left.contains(&"calia".to_owned()),
        "{left:?}"
    );
    assert!(
        left.contains(&"calib".to_owned()),
        "its name is a pod's: {left:?}"
    );
    assert_eq!(
        lab.json(&["status"])["closed"],
        serde_json::json!(["calib"])
    );
}

#[test]
fn a_daemon_that_runs_is_not_in_its_own_way() {
    let test = "a_daemon_that_runs_is_not_in_its_own_way";
    if skipped(test) {
        return;
    }
    let mut lab = Lab::new("self");
    let check = |lab: &Lab| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_caracal"));
        command.args(["node", "checksystem", "-o", "json", "--config"]);
        command.arg(lab.dir.join("caracal.yaml"));
        let output = lab.within("node", || command.output()).unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let of = |answer: &Value, check: &str| -> Vec<(String, String)> {
        let all = answer["checks"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let all = all.filter(|it| it["check"] == check);
        all.map(|it| (text(&it["state"]), text(&it["found"])))
            .collect()
    };
    let before = check(&lab);
    assert_eq!(before["missing"], 0, "{before:#}");
    lab.start();
    let during = check(&lab);
    assert_eq!(during["missing"], 0, "{during:#}");
    assert_eq!(during["warnings"], before["warnings"], "{during:#}");
    let own = ("ok".to_owned(), "the daemon's own is attached".to_owned());
    assert_eq!(of(&during, "uplink-program"), [own.clone(), own]);
    let metrics = of(&during, "metrics");
    assert!(metrics[0].1.ends_with("the daemon's"), "{metrics:?}");
    // It was not disturbed.
    assert_eq!(lab.ping("a", "10.65.0.1"), 5);
    assert_eq!(lab.text(&["status", "--brief"]), "OK\n");
}
