//! Each state against each kind of segment, from each side, next to what the kernel makes of it.

use flowtable::conn::State;

use crate::talk::{Fate, Line, Side, Talk, segment};

/// The columns.
const STATES: [State; 9] = [
    State::SynSent,
    State::SynReceived,
    State::Established,
    State::FinWait,
    State::CloseWait,
    State::LastAck,
    State::TimeWait,
    State::Close,
    State::SynSent2,
];

/// `IV`: invalid. `NEW`: begins another connection. Else the state afterwards: SYN_SENT `SS`, SYN_RECV `SR`, ESTABLISHED
/// `ES`, FIN_WAIT `FW`, CLOSE_WAIT `CW`, LAST_ACK `LA`, TIME_WAIT `TW`, CLOSE `CL`, SYN_SENT2 `S2`.
///
/// Numbers and acknowledgements are what the sender would send. The connection was begun by the client, who also sent the
/// first FIN.
const OURS: [(Side, &str, &str); 10] = [
    (Side::Client, "S ", "SS SR ES FW CW LA NEW NEW S2"),
    (Side::Client, "S.", "IV IV IV IV IV IV IV  IV  SR"),
    (Side::Client, "F.", "IV FW FW FW CW TW TW  CL  FW"),
    (Side::Client, ". ", "IV ES ES FW CW TW TW  CL  SR"),
    (Side::Client, "R.", "CL CL CL CL CL CL CL  CL  CL"),
    (Side::Server, "S ", "S2 IV ES FW CW LA NEW NEW S2"),
    (Side::Server, "S.", "SR SR ES FW CW LA TW  CL  SR"),
    (Side::Server, "F.", "IV FW FW LA LA LA TW  CL  FW"),
    (Side::Server, ". ", "SS SR ES CW CW LA TW  CL  SR"),
    (Side::Server, "R.", "CL CL CL CL CL CL CL  CL  CL"),
];

/// The same by the tables in the kernel's `nf_conntrack_proto_tcp.c`; "ignored" is no change. Its window check is off
/// with `nf_conntrack_tcp_be_liberal=1`.
const KERNEL: [&str; 10] = [
    "SS SR ES FW CW LA NEW NEW S2",
    "IV SR IV IV IV IV IV  IV  SR",
    "IV FW FW LA LA LA TW  CL  IV",
    "IV ES ES CW CW TW TW  CL  IV",
    "CL CL CL CL CL CL CL  CL  CL",
    "S2 IV IV IV IV IV NEW IV  S2",
    "SR SR ES FW CW LA TW  CL  SR",
    "IV FW FW LA LA LA TW  CL  IV",
    "SS SR ES CW CW TW TW  CL  S2",
    "CL CL CL CL CL CL CL  CL  CL",
];

/// Why a cell differs from the kernel's: side, flags, states, reason.
const DIFFERENCES: [(Side, &str, &str, &str); 8] = [
    (
        Side::Client,
        "S.",
        "SR",
        "an answer to a SYN that the server did not send",
    ),
    (
        Side::Client,
        "F.",
        "FW CW",
        "the same FIN again closes the other direction with the kernel",
    ),
    (
        Side::Client,
        "F.",
        "LA",
        "carries the last acknowledgement, which the kernel does not look at",
    ),
    (
        Side::Client,
        ". ",
        "FW",
        "the kernel takes any ACK for the other side's",
    ),
    (Side::Server, ". ", "LA", "the same"),
    (
        Side::Client,
        ". F.",
        "S2",
        "simultaneous open that is acknowledged without SYN",
    ),
    (Side::Server, ". F.", "S2", "the same"),
    (
        Side::Server,
        "S ",
        "ES FW CW LA CL",
        "passes: the endpoint answers it, or it begins anew",
    ),
];

fn short(state: State) -> &'static str {
    match state {
        State::SynSent => "SS",
        State::SynReceived => "SR",
        State::Established => "ES",
        State::FinWait => "FW",
        State::CloseWait => "CW",
        State::LastAck => "LA",
        State::TimeWait => "TW",
        State::Close => "CL",
        State::SynSent2 => "S2",
        other => panic!("{other:?} is no column"),
    }
}

/// A connection in this state, and the next numbers of the client and the server.
fn in_state(state: State) -> (Talk, u32, u32) {
    use State::{
        Close, CloseWait, Established, FinWait, LastAck, SynReceived, SynSent, SynSent2, TimeWait,
    };
    let opened: [Line; 6] = [
        ('>', "S", 100, 0, 0, SynSent),
        ('<', "S.", 300, 101, 0, SynReceived),
        ('>', ".", 101, 301, 0, Established),
        ('>', "F.", 101, 301, 0, FinWait),
        ('<', ".", 301, 102, 0, CloseWait),
        ('<', "F.", 301, 102, 0, LastAck),
    ];
    let mut talk = Talk::new();
    let (client, server) = match state {
        SynSent | SynReceived | Established | Close | SynSent2 => (101, 301),
        FinWait | CloseWait => (102, 301),
        _ => (102, 302),
    };
    match state {
        SynSent2 => talk.play(&[opened[0], ('<', "S", 300, 0, 0, SynSent2)]),
        Close => talk
            .play(&opened[..3])
            .play(&[('<', "R", 301, 0, 0, Close)]),
        TimeWait => talk
            .play(&opened)
            .play(&[('>', ".", 102, 302, 0, TimeWait)]),
        _ => {
            let lines = opened.iter().position(|line| line.5 == state);
            talk.play(&opened[..=lines.expect("a state of the list")])
        }
    };
    assert_eq!(talk.state(), state);
    (talk, client, server)
}

fn outcome(state: State, side: Side, flags: &str) -> &'static str {
    let (mut talk, client, server) = in_state(state);
    let (next, other) = match side {
        Side::Client => (client, server),
        Side::Server => (server, client),
    };
    let isn = if side == Side::Client { 100 } else { 300 };
    let seq = match flags {
        "S" | "S." => isn,
        // A FIN that was sent is sent again.
        "F." if next == isn + 2 => isn + 1,
        _ => next,
    };
    match talk.tcp(side, segment(flags, seq, other, 0)) {
        Fate::New => {
            assert_eq!(talk.state(), State::SynSent);
            "NEW"
        }
        Fate::Invalid(_) => "IV",
        Fate::Pass => short(talk.state()),
    }
}

#[test]
fn each_state_and_each_segment() {
    for (side, flags, row) in OURS {
        let outcomes: Vec<&str> = STATES
            .iter()
            .map(|state| outcome(*state, side, flags.trim()))
            .collect();
        let expected: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(outcomes, expected, "{side:?} {flags}");
    }
}

#[test]
fn the_kernel_differs_where_said_and_nowhere_else() {
    for ((side, flags, ours), kernel) in OURS.iter().zip(KERNEL) {
        let cells = ours.split_whitespace().zip(kernel.split_whitespace());
        for ((ours, kernel), state) in cells.zip(STATES) {
            let said = DIFFERENCES.iter().any(|(where_side, kinds, states, _)| {
                where_side == side
                    && kinds.split_whitespace().any(|kind| kind == flags.trim())
                    && states.split_whitespace().any(|name| name == short(state))
            });
            assert_eq!(ours != kernel, said, "{side:?} {flags} in {state:?}");
        }
    }
}
