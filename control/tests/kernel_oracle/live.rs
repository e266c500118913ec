//! A pod of Caracal's talks by IPIP to a kernel that has it: what one encapsulates the other must understand, and both
//! must do it alike.

use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::{Ipv4Tos, ReceiveTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recvmsg, sendmsg,
    setsockopt, socket,
};
use nix::sys::time::TimeVal;

use crate::compare::{Outcome, Output};
use crate::daemon::Daemon;
use crate::frame::{Check, IPIP, checksum, filler, icmp};
use crate::lab::Lab;
use crate::node::{is_v4, resources, wired};
use crate::plan::{
    NODE4, PEER1_4, PEER1_MAC, PEER1_POD4, PEER1_TUNNEL4, POD_GATEWAY4, POD1_4, Tunnel, pods,
    quiet, text, underlay,
};
use crate::run::is_noise;
use crate::script::Side;
use crate::tap::Tap;
use crate::uml::{ECHO_PORT, Guest, Role};
use crate::view::View;

/// How long one answer may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Caracal, a guest, and the wire between them.
struct Underlay {
    from_caracal: Tap,
    from_guest: Tap,
    // In this order: whoever uses a namespace ends before it goes.
    _daemon: Daemon,
    _guest: Guest,
    lab: Lab,
}

impl Underlay {
    fn start(name: &str) -> Self {
        let lab = wired(&format!("{name}-c"));
        let bridge = [
            "link add bridge type bridge forward_delay 0 mcast_snooping 0",
            "link set bridge up",
            "tuntap add guest mode tap",
            "link set guest master bridge up",
            "link set wire master bridge",
        ];
        lab.ip("wire", &bridge.map(str::to_owned));
        lab.ip(
            "pods",
            &[
                format!("addr add {POD1_4}/32 dev pod1"),
                format!("route add {POD_GATEWAY4} dev pod1 scope link"),
                format!("route add default via {POD_GATEWAY4} dev pod1"),
            ],
        );
        lab.set(
            "pods",
            &[("ipv4/ping_group_range".to_owned(), "0 2147483647")],
        );
        let commands = [
            "link set lo up".to_owned(),
            "link set eth0 up".to_owned(),
            format!("addr add {PEER1_4}/16 dev eth0"),
            format!("addr add {PEER1_POD4}/32 dev lo"),
            format!("addr add {PEER1_TUNNEL4}/32 dev tunl0"),
            "link set tunl0 mtu 1480 up".to_owned(),
            format!("route add 10.65.0.0/26 via {NODE4} dev tunl0 onlink"),
        ];
        let role = Role {
            links: vec![("guest", "eth0".to_owned(), text(PEER1_MAC), 1500)],
            sysctls: quiet(),
            commands: commands.into(),
            echoes_at: Some(PEER1_POD4),
        };
        let guest = Guest::boot(&lab, "wire", &role);
        // The guest answers ARP: nobody need tell who it is.
        let mut node = [underlay(), pods()].concat();
        node.retain(|command| !command.contains(&format!("neigh replace {PEER1_4} ")));
        lab.ip("node", &node);
        let daemon = Daemon::start(&lab, "node", &resources(Tunnel::Ipip));
        Self {
            from_caracal: Tap::open(lab.netns("wire"), "wire"),
            from_guest: Tap::open(lab.netns("wire"), "guest"),
            _daemon: daemon,
            _guest: guest,
            lab,
        }
    }
}

/// Lets a pod and the guest talk; how their outer headers compare, by the inner TOS and "don't fragment".
pub(crate) fn converse(name: &str) -> Vec<Outcome> {
    let underlay = Underlay::start(name);
    let (caracal, guest) = (&underlay.from_caracal, &underlay.from_guest);
    let mut outers: [BTreeMap<(u8, bool), Vec<Output>>; 2] = Default::default();
    let mut look = || {
        for (outers, tap) in outers.iter_mut().zip([guest, caracal]) {
            while let Some(frame) = tap.receive() {
                if let Some((inner, output)) = outer(&frame) {
                    let seen: &mut Vec<Output> = outers.entry(inner).or_default();
                    if !seen.iter().any(|other| other.view == output.view) {
                        seen.push(output);
                    }
                }
            }
        }
    };
    // The kernel's echo replies may be fragmented; so shall be the requests.
    let path_mtu = |off| [("ipv4/ip_no_pmtu_disc".to_owned(), off)];
    underlay.lab.set("pods", &path_mtu("1"));
    underlay.lab.within("pods", || {
        for tos in [0, 1, 2, 3, 0xb8] {
            ping(tos);
            look();
        }
    });
    underlay.lab.set("pods", &path_mtu("0"));
    underlay.lab.within("pods", || {
        for len in [1, 100, 1452] {
            udp(len);
            look();
        }
        tcp(256 << 10);
        look();
    });
    let [guest, caracal] = outers;
    let both = guest.iter().filter_map(|(inner, kernel)| {
        let caracal = caracal.get(inner)?.clone();
        let (tos, df) = *inner;
        let name = format!("outer/tos-{tos:02x}-df-{}", u8::from(df));
        let kernel = kernel.clone();
        Some(Outcome {
            name,
            kernel,
            caracal,
        })
    });
    both.collect()
}

/// The outer header of an IPIP frame, and TOS and "don't fragment" of the inner one. None for what stacks say of their own accord.
///
/// # Panics
/// For anything else: pods' packets travel in the tunnel or not at all.
fn outer(frame: &[u8]) -> Option<((u8, bool), Output)> {
    if is_noise(frame) {
        return None;
    }
    assert_eq!(frame[12..14], [0x08, 0x00], "on the underlay: {frame:02x?}");
    let (header, inner) = frame[14..].split_at(20);
    assert_eq!(header[9], IPIP, "not in the tunnel: {frame:02x?}");
    let mut blank = header.to_vec();
    blank[10..12].fill(0);
    let right = checksum(&[&blank]).to_be_bytes() == header[10..12];
    let field = |name: &str, value: &[u8]| {
        let digits = value.iter().map(|byte| format!("{byte:02x}"));
        (name.to_owned(), digits.collect::<String>())
    };
    let fields = vec![
        field("ip.first", &header[..1]),
        field("ip.tos", &header[1..2]),
        field("ip.fragment", &header[6..8]),
        field("ip.ttl", &header[8..9]),
        ("ip.checksum".to_owned(), right.to_string()),
    ];
    let view = View {
        kind: "ipip".to_owned(),
        fields,
        ..View::default()
    };
    let side = Side::Wire;
    Some(((inner[1], inner[6] & 0x40 != 0), Output { side, view }))
}

/// Sends an echo request with this TOS until it is answered.
fn ping(tos: u8) {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Icmp,
    )
    .expect("a ping socket");
    setsockopt(&socket, Ipv4Tos, &i32::from(tos)).expect("IP_TOS");
    setsockopt(&socket, ReceiveTimeout, &TimeVal::new(1, 0)).expect("SO_RCVTIMEO");
    let data = filler(40);
    let request = icmp(8, 0, [0, 0, 0, 1], &data, Check::Right);
    let to = SockaddrIn::from(SocketAddrV4::new(PEER1_POD4, 0));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let slices = [IoSlice::new(&request)];
        let fd = socket.as_raw_fd();
        sendmsg(fd, &slices, &[], MsgFlags::empty(), Some(&to)).expect("send a ping");
        let mut bytes = [0; 100];
        let mut room = [IoSliceMut::new(&mut bytes)];
        let received = recvmsg::<SockaddrIn>(fd, &mut room, None, MsgFlags::empty());
        if let Ok(len) = received.map(|message| message.bytes) {
            assert_eq!(bytes[8..len], data[..], "the echo has other data");
            return;
        }
        assert!(
            Instant::now() < deadline,
            "no answer to a ping with TOS {tos:#x}"
        );
    }
}

/// Sends a datagram of `len` bytes until it comes back.
fn udp(len: usize) {
    let socket = UdpSocket::bind((POD1_4, 0)).expect("bind UDP");
    socket
        .connect((PEER1_POD4, ECHO_PORT))
        .expect("connect UDP");
    socket
        .set_read_timeout(Some(Duration::from_secs(1)))
        .expect("a timeout");
    let data = filler(len);
    let deadline = Instant::now() + PATIENCE;
    loop {
        socket.send(&data).expect("send a datagram");
        let mut bytes = [0; 2048];
        if let Ok(received) = socket.recv(&mut bytes) {
            assert_eq!(bytes[..received], data[..], "another datagram came back");
            return;
        }
        assert!(Instant::now() < deadline, "no echo of {len} bytes by UDP");
    }
}

/// Sends `len` bytes by TCP and has them sent back.
fn tcp(len: usize) {
    let mut stream = TcpStream::connect((PEER1_POD4, ECHO_PORT)).expect("connect TCP");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    let data = filler(len);
    let mut writer = stream.try_clone().expect("a second handle");
    let back = thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(&data).expect("send by TCP");
            writer.shutdown(Shutdown::Write).expect("end of the data");
        });
        let mut back = Vec::new();
        stream.read_to_end(&mut back).expect("receive by TCP");
        back
    });
    let bad = (0..len).find(|&at| back.get(at) != Some(&data[at]));
    assert!(
        bad.is_none() && back.len() == len,
        "of {len} bytes {} came back, right up to {bad:?}",
        back.len()
    );
}

#[test]
fn commands_of_both_families_are_told_apart() {
    assert!(is_v4("addr add 10.65.0.1/32 dev tunl0"));
    assert!(is_v4(
        "neigh replace 10.65.0.2 lladdr 02:00:00:00:01:02 dev x"
    ));
    assert!(!is_v4("route add fd65::2/128 dev x"));
}
