//! How long a connection is kept without a packet.

use core::time::Duration;

use super::{Protocol, State};

/// Timeouts by state.
///
/// Names as in the kernel's `nf_conntrack_*_timeout_*`. Where FelixConfiguration's `bpfConntrackTimeouts` sets one
/// explicitly, whoever reads it puts that value here: `tcpSynSent` for both handshake states,
/// `tcpEstablished`, `tcpFinsSeen` for [`tcp_last_ack`](Self::tcp_last_ack) and [`tcp_time_wait`](Self::tcp_time_wait),
/// `tcpResetSeen` for [`tcp_close`](Self::tcp_close), `udpTimeout` for both of UDP, `genericTimeout`, `icmpTimeout`. Its
/// `creationGracePeriod` has no counterpart: entries appear in pairs, and at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// SYN sent, by one side or both; and a picked-up connection that only one side was seen of.
    ///
    /// 20 s: Calico's `tcpSynSent`. Less than the four minutes of RFC 5382 REQ-5 for a connection partly open, on purpose: it is
    /// what a SYN flood consists of (RFC 7857 section 2.1 lets it be configured so). A client repeats its SYN.
    pub tcp_syn_sent: Duration,
    /// One side acknowledged. 20 s, like [`tcp_syn_sent`](Self::tcp_syn_sent).
    pub tcp_syn_received: Duration,
    /// Established. 7,440 s = 2 h 4 min: RFC 5382 REQ-5, the least it allows. Calico's own 1 h is used when set.
    pub tcp_established: Duration,
    /// One side sent FIN. 240 s: RFC 5382 REQ-5, transitory, the least it allows.
    pub tcp_fin_wait: Duration,
    /// One side sent FIN, the other acknowledged it. 240 s: the same.
    pub tcp_close_wait: Duration,
    /// Both sides sent FIN. 240 s: the same.
    pub tcp_last_ack: Duration,
    /// Both FIN were acknowledged. 240 s: the same, and 2 MSL (RFC 9293 section 3.4.2).
    pub tcp_time_wait: Duration,
    /// A side sent RST. 240 s: RFC 7857 section 2.2.
    pub tcp_close: Duration,
    /// UDP, no reply yet. 30 s: the kernel's. Less than RFC 4787 REQ-5, on purpose: one that is answered gets
    /// [`udp_assured`](Self::udp_assured).
    pub udp_unreplied: Duration,
    /// UDP, both directions seen. 300 s: recommended by RFC 4787 REQ-5, which forbids less than 120 s.
    pub udp_assured: Duration,
    /// ICMP queries. 60 s: RFC 5508 REQ-2, the least it allows.
    pub icmp: Duration,
    /// SCTP, the handshake. 20 s, like TCP's.
    pub sctp_handshake: Duration,
    /// SCTP, established. 210 s: the kernel's, seven HEARTBEAT intervals (RFC 9260 section 16).
    pub sctp_established: Duration,
    /// SCTP, from SHUTDOWN on, and after ABORT. 10 s: the kernel's for a closed association.
    pub sctp_shutdown: Duration,
    /// Any other protocol. 600 s: Calico's `genericTimeout`, the kernel's too.
    pub generic: Duration,
}

impl Timeouts {
    /// The values that the fields tell.
    pub const DEFAULT: Self = Self {
        tcp_syn_sent: seconds(20),
        tcp_syn_received: seconds(20),
        tcp_established: seconds(7440),
        tcp_fin_wait: seconds(240),
        tcp_close_wait: seconds(240),
        tcp_last_ack: seconds(240),
        tcp_time_wait: seconds(240),
        tcp_close: seconds(240),
        udp_unreplied: seconds(30),
        udp_assured: seconds(300),
        icmp: seconds(60),
        sctp_handshake: seconds(20),
        sctp_established: seconds(210),
        sctp_shutdown: seconds(10),
        generic: seconds(600),
    };

    /// The longest timeout: 6 days, more than the kernel's longest. Four of them ([`idle_time`]) are what an entry remembers.
    pub const LONGEST: Duration = Duration::from_hours(6 * 24);

    /// The fill of the table, in 1/256ths, from which timeouts shrink: 60 %.
    pub const SHRINK_FROM: u16 = 154;

    /// The fill of a full table.
    pub const FULL: u16 = 256;

    /// How long a connection in this state is kept.
    #[must_use]
    pub const fn of(&self, protocol: Protocol, state: State) -> Duration {
        match state {
            State::None | State::SynSent | State::SynSent2 => self.tcp_syn_sent,
            State::SynReceived => self.tcp_syn_received,
            State::FinWait => self.tcp_fin_wait,
            State::CloseWait => self.tcp_close_wait,
            State::LastAck => self.tcp_last_ack,
            State::TimeWait => self.tcp_time_wait,
            State::Close => self.tcp_close,
            State::CookieWait | State::CookieEchoed => self.sctp_handshake,
            State::ShutdownSent | State::ShutdownAckSent | State::Closed => self.sctp_shutdown,
            State::Established => match protocol {
                Protocol::Sctp => self.sctp_established,
                _ => self.tcp_established,
            },
            State::Unreplied => match protocol {
                Protocol::Tcp => self.tcp_syn_sent,
                Protocol::Sctp => self.sctp_handshake,
                Protocol::Udp => self.udp_unreplied,
                Protocol::Icmp => self.icmp,
                Protocol::Other => self.generic,
            },
            State::Assured => match protocol {
                Protocol::Udp => self.udp_assured,
                Protocol::Icmp => self.icmp,
                Protocol::Tcp | Protocol::Sctp | Protocol::Other => self.generic,
            },
        }
    }

    /// The timeouts to use while the table is filled to `fill` 1/256ths.
    ///
    /// Up to [`SHRINK_FROM`](Self::SHRINK_FROM) they are these. From there they shrink in proportion, until in a full table
    /// those of handshakes and unanswered packets are an eighth, those of closing connections and queries a quarter,
    /// those of assured connections a half; the latter never below what is usual elsewhere (an hour for TCP, two minutes
    /// for UDP: RFC 4787 REQ-5), unless they were configured lower. Only time changes with load,
    /// never what a packet is translated to (RFC 4787 REQ-11).
    #[must_use]
    pub fn scaled(&self, fill: u16) -> Self {
        let embryonic = |timeout| shrink(timeout, 32, fill);
        let closing = |timeout| shrink(timeout, 64, fill);
        let assured = |timeout: Duration, floor: u64| {
            shrink(timeout, 128, fill).max(timeout.min(Duration::from_secs(floor)))
        };
        Self {
            tcp_syn_sent: embryonic(self.tcp_syn_sent),
            tcp_syn_received: embryonic(self.tcp_syn_received),
            tcp_established: assured(self.tcp_established, 3600),
            tcp_fin_wait: closing(self.tcp_fin_wait),
            tcp_close_wait: closing(self.tcp_close_wait),
            tcp_last_ack: closing(self.tcp_last_ack),
            tcp_time_wait: closing(self.tcp_time_wait),
            tcp_close: closing(self.tcp_close),
            udp_unreplied: embryonic(self.udp_unreplied),
            udp_assured: assured(self.udp_assured, 120),
            icmp: closing(self.icmp),
            sctp_handshake: embryonic(self.sctp_handshake),
            sctp_established: assured(self.sctp_established, 120),
            sctp_shutdown: closing(self.sctp_shutdown),
            generic: closing(self.generic),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Seconds, as the RFCs and everybody's settings count.
const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// `timeout` at this fill, when `least` 256ths of it remain in a full table.
fn shrink(timeout: Duration, least: u32, fill: u16) -> Duration {
    let over = u32::from(fill.clamp(Timeouts::SHRINK_FROM, Timeouts::FULL) - Timeouts::SHRINK_FROM);
    let range = u32::from(Timeouts::FULL - Timeouts::SHRINK_FROM);
    // Whole milliseconds, as configured; larger than any table lives is cut.
    let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let share = u64::from(range * 256 - (256 - least) * over);
    let scaled = u128::from(millis) * u128::from(share) / u128::from(range * 256);
    if over == 0 {
        timeout
    } else {
        Duration::from_millis(u64::try_from(scaled).unwrap_or(u64::MAX))
    }
}

/// Timeouts that the reply direction alone keeps a connection for.
const REPLY_ALONE: u32 = 4;

/// How long a connection has been idle, from the time since each direction's last packet. It has expired
/// when this is not less than its timeout. While the reply direction is empty, `since_reply` is [`Duration::MAX`].
///
/// Packets of the original direction refresh without limit, those of the reply direction until four timeouts after the
/// last packet of the original one. A NAT refreshes on outbound packets, and inbound ones alone must not keep a mapping
/// for ever (RFC 4787 REQ-6, RFC 7857 section 7). Four timeouts let a one-way stream of datagrams go on through its
/// receiver's pauses; a TCP receiver that lives acknowledges long before.
#[must_use]
pub fn idle_time(timeout: Duration, since_original: Duration, since_reply: Duration) -> Duration {
    let alone = since_original.saturating_sub(timeout.saturating_mul(REPLY_ALONE));
    since_original.min(since_reply.max(alone))
}

#[cfg(test)]
mod tests;
