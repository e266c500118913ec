//! Many pods: memory, descriptors, idle cost.
//!
//! They share one namespace, each with an interface of its own: a namespace for each would take minutes.

use std::fmt::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use control::netlink::NetNs;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;
use serde_json::Value;

use crate::lab::{Lab, OUTSIDE4, addr, batch, pod_mac, run, sysctl, v4, v6, veth};
use crate::process::{Daemon, PATIENCE};
use crate::traffic::{Echo, Stream, reaches};

/// Datagrams of a pod that come at once.
const BURST: u64 = 64;

/// Pods 100 and up, so that ordinary ones can stand beside them.
struct Crowd {
    netns: NetNs,
    name: String,
    pods: Vec<u32>,
}

impl Crowd {
    fn new(lab: &mut Lab, pods: impl IntoIterator<Item = u32>) -> Self {
        let netns = lab.extra("crowd");
        run(&netns, || {
            // Their neighbours are one address on many links.
            sysctl("ipv4/conf/all/arp_ignore", "1");
            sysctl("ipv4/conf/default/arp_ignore", "1");
        });
        Self {
            netns,
            name: lab.part("crowd"),
            pods: pods.into_iter().collect(),
        }
    }

    /// Makes their veths and WorkloadEndpoints.
    fn come(&self, lab: &Lab) {
        let (mut node, mut inside, mut routes) = (String::new(), String::new(), String::new());
        for &pod in &self.pods {
            let (veth, mac) = (veth(pod), pod_mac(pod));
            let _ = write!(
                node,
                "link add {veth} address ee:ee:ee:ee:ee:ee numrxqueues 1 numtxqueues 1 type veth \
                 peer name e{pod} address {mac} numrxqueues 1 numtxqueues 1 netns {}\n\
                 link set {veth} up\n",
                self.name
            );
            let _ = write!(
                inside,
                "link set e{pod} up\naddr add {}/32 dev e{pod}\n\
                 route add 169.254.1.1 dev e{pod} scope link metric {metric}\n\
                 route add default via 169.254.1.1 dev e{pod} metric {metric}\n",
                v4(pod),
                metric = pod + 1,
            );
            let _ = write!(
                routes,
                "route replace {}/32 dev {veth} scope link\nroute replace {}/128 dev {veth}\n",
                v4(pod),
                v6(pod)
            );
        }
        run(&lab.node, || batch(&node));
        run(&self.netns, || batch(&inside));
        run(&lab.node, || batch(&routes));
        for &pod in &self.pods {
            lab.write_endpoint(pod, true);
        }
    }

    fn leave(&self, lab: &Lab) {
        let mut lines = String::new();
        for &pod in &self.pods {
            let _ = writeln!(lines, "link del {}", veth(pod));
            lab.remove_endpoint(pod);
        }
        run(&lab.node, || batch(&lines));
    }

    /// A socket that speaks by a pod's interface.
    fn socket(&self, pod: u32) -> UdpSocket {
        let socket = run(&self.netns, || UdpSocket::bind((v4(pod), 0))).expect("bind");
        let device = format!("e{pod}").into();
        setsockopt(&socket, sockopt::BindToDevice, &device).expect("bind to a device");
        socket
    }

    /// Each of them sends so many datagrams at once while the daemon is away: their frames are all needed together.
    fn all_send(&self, daemon: &Daemon, to: SocketAddr, datagrams: u64) {
        let sockets: Vec<_> = self.pods.iter().map(|&pod| self.socket(pod)).collect();
        let pid = Pid::from_raw(daemon.pid().cast_signed());
        kill(pid, Signal::SIGSTOP).expect("SIGSTOP");
        for socket in sockets {
            for _ in 0..datagrams {
                // Whoever counts misses it; a panic would leave the daemon stopped.
                let _ = socket.send_to(b"one of a burst", to);
            }
        }
        kill(pid, Signal::SIGCONT).expect("SIGCONT");
    }

    /// Waits until each of them has had an answer.
    fn all_reach(&self, to: SocketAddr) -> Duration {
        let start = Instant::now();
        for &pod in &self.pods {
            let socket = self.socket(pod);
            socket
                .set_read_timeout(Some(Duration::from_millis(200)))
                .expect("timeout");
            let begun = Instant::now();
            loop {
                let _ = socket.send_to(b"one of many", to);
                if socket.recv(&mut [0; 64]).is_ok() {
                    break;
                }
                assert!(begun.elapsed() < 2 * PATIENCE, "pod {pod} gets no answer");
            }
        }
        start.elapsed()
    }
}

/// Whether so many packets came in by the ports of all these pods.
fn came_from_all(state: &Value, pods: &[u32], packets: u64) -> bool {
    let received = |pod: u32| {
        let ports = state["ports"].as_array().expect("a list");
        let port = ports.iter().find(|port| port["name"] == veth(pod));
        port.and_then(|port| port["rx_packets"].as_u64())
    };
    pods.iter().all(|&pod| received(pod) >= Some(packets))
}

/// What the kernel has lost on each port, for want of frames above all, before a poller saw it.
fn lost_by_kernel(daemon: &Daemon) -> Value {
    // Its counters are a second old at most.
    std::thread::sleep(Duration::from_secs(2));
    let drops = daemon.caracal(&["drops", "-o", "json"]);
    let drops: Value = serde_json::from_slice(&drops.stdout).expect("JSON");
    assert!(drops["kernel"].is_array(), "{drops}");
    drops["kernel"].clone()
}

/// The figure of a line like `VmRSS:  1234 kB`, in MiB.
fn mib(line: &str) -> u64 {
    let number = line
        .split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok());
    number.unwrap_or(0_u64) / 1024
}

#[test]
fn fifty_pods_come_and_go() {
    let Some(mut lab) = Lab::new("scale::fifty_pods_come_and_go") else {
        return;
    };
    let pod = lab.pod(0);
    let crowd = Crowd::new(&mut lab, 100..150);
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    let mut daemon = Daemon::start(&lab);
    reaches(&pod.netns, pod.v4(), outside.addr());
    let stream = Stream::start(
        &pod.netns,
        pod.v4(),
        outside.addr(),
        Duration::from_millis(10),
    );
    let before = daemon.descriptors();
    for round in 1..=3 {
        crowd.come(&lab);
        // From then on nothing gets through but by the daemon.
        let start = Instant::now();
        while lab.pins().len() < 2 + crowd.pods.len() {
            assert!(start.elapsed() < PATIENCE, "pins {:?}", lab.pins());
            std::thread::sleep(Duration::from_millis(5));
        }
        crowd.all_reach(outside.addr());
        let time = start.elapsed();
        let most = daemon.descriptors();
        crowd.leave(&lab);
        let start = Instant::now();
        while daemon.descriptors() > before || lab.pins().len() > 2 {
            assert!(
                start.elapsed() < PATIENCE,
                "{} descriptors of {before}, pins {:?}",
                daemon.descriptors(),
                lab.pins()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!(
            "50 pods, round {round}: all answered after {time:?}; {most} descriptors with, {before} without"
        );
    }
    assert!(!daemon.log().contains("not served"), "{}", daemon.log());
    let (sent, lost) = stream.finish();
    eprintln!("beside them {lost} of {sent} datagrams were lost");
    assert_eq!(lost, 0, "of {sent}");
    daemon.finish();
}

#[test]
fn fifty_pods_at_rest_cost_next_to_nothing() {
    let Some(mut lab) = Lab::new("scale::fifty_pods_at_rest_cost_next_to_nothing") else {
        return;
    };
    let crowd = Crowd::new(&mut lab, 100..150);
    crowd.come(&lab);
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    let mut daemon = Daemon::start(&lab);
    crowd.all_reach(outside.addr());
    // Neighbour discovery of fresh links dies down.
    std::thread::sleep(Duration::from_secs(3));
    let (before, start) = (daemon.ticks(), Instant::now());
    std::thread::sleep(Duration::from_secs(5));
    let used = (daemon.ticks() - before) as f64 * 10.0 / start.elapsed().as_millis() as f64 * 100.0;
    eprintln!(
        "50 pods at rest: {used:.1} % of a core, resident {} MiB",
        mib(&daemon.status("VmRSS"))
    );
    assert!(used < 10.0, "{used} % of a core");
    daemon.finish();
}

#[test]
fn two_hundred_and_fifty_pods_are_served() {
    let Some(mut lab) = Lab::new("scale::two_hundred_and_fifty_pods_are_served") else {
        return;
    };
    let crowd = Crowd::new(&mut lab, 0..250);
    let start = Instant::now();
    crowd.come(&lab);
    let made = start.elapsed();
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    let mut daemon = Daemon::spawn(&lab);
    let budget = daemon.wait_for("at most for packets");
    assert!(budget.contains("enough for 250 pods"), "{budget}");
    eprintln!("{}", budget.trim());
    daemon.wait_for("ready");
    let ready = daemon.started.elapsed();
    let time = crowd.all_reach(outside.addr());
    let state = daemon.state();
    let ports = state["ports"].as_array().map_or(0, Vec::len);
    assert!(ports >= 252, "{ports} ports");
    let memory = std::fs::read_to_string("/proc/meminfo").expect("/proc");
    let vmalloc = memory.lines().find(|line| line.starts_with("VmallocUsed"));
    eprintln!(
        "250 veths made in {made:?}; the daemon ready after {ready:?}; all 250 pods answered {time:?} later; \
         resident {} MiB, vmalloc memory of the whole kernel {} MiB",
        mib(&daemon.status("VmRSS")),
        mib(vmalloc.unwrap_or_default()),
    );
    // Half of each pod's ring, together more than what is for uplinks and spare; whom it goes to does not answer.
    let silent = run(&lab.wire, || UdpSocket::bind((OUTSIDE4, 0))).expect("bind");
    // What comes to a port between its program and its poller is lost.
    let before = lost_by_kernel(&daemon);
    crowd.all_send(&daemon, silent.local_addr().expect("bound"), BURST);
    let start = Instant::now();
    while !came_from_all(&daemon.state(), &crowd.pods, BURST) && start.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(50));
    }
    let lost = lost_by_kernel(&daemon);
    assert_eq!(lost, before, "a frame was missing");
    assert!(came_from_all(&daemon.state(), &crowd.pods, BURST));
    daemon.finish();
}

/// As many as a big cluster has; fewer where nothing is optimised.
const POLICIES: u32 = if cfg!(debug_assertions) { 1000 } else { 10_000 };
/// Endpoints of the node, one of which has an interface.
const ENDPOINTS: u32 = 250;

/// A policy of pod `n`, or of one that has the same remainder.
fn policy(name: &str, n: u32, rule: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: test}}\n\
         spec: {{selector: app == 'a{}', types: [Egress], egress: [{rule}]}}\n",
        n % ENDPOINTS
    )
}

#[test]
fn one_policy_of_many_changes() {
    let Some(mut lab) = Lab::new("scale::one_policy_of_many_changes") else {
        return;
    };
    let pod = lab.pod(0);
    let outside = Echo::at(&lab.wire, addr(OUTSIDE4));
    for endpoint in 0..ENDPOINTS {
        lab.write_endpoint(endpoint, true);
        let file = format!("pod-{endpoint}.yaml");
        let text = std::fs::read_to_string(lab.dir.join("conf.d").join(&file)).expect("read");
        let labels = format!("  namespace: test\n  labels: {{app: a{endpoint}}}\n");
        lab.resource(&file, &text.replace("  namespace: test\n", &labels));
    }
    for n in 0..POLICIES {
        // Nobody sends to these ports.
        let rule = format!(
            "{{action: Allow, protocol: TCP, destination: {{ports: [{}]}}}}",
            1000 + n
        );
        lab.resource(
            &format!("policy-{n}.yaml"),
            &policy(&format!("p{n}"), n, &rule),
        );
    }
    let changing = |action: &str| {
        let rule = format!("{{action: {action}, protocol: UDP, destination: {{ports: [7]}}}}");
        lab.resource("changing.yaml", &policy("changing", 0, &rule));
    };
    changing("Deny");
    let daemon = Daemon::start(&lab);
    let answers = |patience| {
        // A connection of its own: what was decided about others holds.
        let socket = run(&pod.netns, || UdpSocket::bind((pod.v4(), 0))).expect("bind");
        // The kernel's own timeouts are of whole ticks of its clock.
        socket.set_nonblocking(true).expect("non-blocking");
        let sent = Instant::now();
        let _ = socket.send_to(b"now", outside.addr());
        while sent.elapsed() < Duration::from_millis(patience) {
            if socket.recv(&mut [0; 8]).is_ok() {
                return Some(sent);
            }
            std::thread::yield_now();
        }
        None
    };
    // What all of them need once, as neighbours, is there.
    changing("Allow");
    reaches(&pod.netns, pod.v4(), outside.addr());
    let mut times = Vec::new();
    for _ in 0..10 {
        changing("Deny");
        let start = Instant::now();
        let mut unanswered = 0;
        while unanswered < 3 {
            let answered = answers(30).is_some();
            unanswered = if answered { 0 } else { unanswered + 1 };
            assert!(start.elapsed() < PATIENCE, "still allowed");
        }
        changing("Allow");
        let start = Instant::now();
        let first = loop {
            assert!(start.elapsed() < PATIENCE, "still denied");
            if let Some(sent) = answers(1) {
                break sent;
            }
        };
        times.push(first.duration_since(start));
    }
    times.sort_unstable();
    eprintln!(
        "one of {POLICIES} policies changed: in force after {:?} at best, {:?} in the middle, {:?} at worst",
        times[0],
        times[times.len() / 2],
        times[times.len() - 1]
    );
    drop(daemon);
}
