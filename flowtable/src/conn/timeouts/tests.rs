use super::*;

fn all(timeouts: &Timeouts) -> [Duration; 15] {
    let Timeouts {
        tcp_syn_sent,
        tcp_syn_received,
        tcp_established,
        tcp_fin_wait,
        tcp_close_wait,
        tcp_last_ack,
        tcp_time_wait,
        tcp_close,
        udp_unreplied,
        udp_assured,
        icmp,
        sctp_handshake,
        sctp_established,
        sctp_shutdown,
        generic,
    } = *timeouts;
    [
        tcp_syn_sent,
        tcp_syn_received,
        tcp_established,
        tcp_fin_wait,
        tcp_close_wait,
        tcp_last_ack,
        tcp_time_wait,
        tcp_close,
        udp_unreplied,
        udp_assured,
        icmp,
        sctp_handshake,
        sctp_established,
        sctp_shutdown,
        generic,
    ]
}

#[test]
fn timeouts_shrink_from_sixty_percent_on_and_never_grow_with_the_fill() {
    let default = Timeouts::DEFAULT;
    assert_eq!(default.scaled(0), default);
    assert_eq!(default.scaled(Timeouts::SHRINK_FROM), default);
    let mut last = default;
    for fill in Timeouts::SHRINK_FROM..=Timeouts::FULL {
        let now = default.scaled(fill);
        for (now, last) in all(&now).into_iter().zip(all(&last)) {
            assert!(now <= last);
            assert!(now > Duration::ZERO);
        }
        last = now;
    }
    assert!(default.scaled(Timeouts::SHRINK_FROM + 1).tcp_syn_sent < default.tcp_syn_sent);
    assert_eq!(default.scaled(u16::MAX), default.scaled(Timeouts::FULL));
}

#[test]
fn embryonic_connections_lose_the_most_and_assured_ones_the_least() {
    let full = Timeouts::DEFAULT.scaled(Timeouts::FULL);
    assert_eq!(full.tcp_syn_sent, Duration::from_millis(2500));
    assert_eq!(full.udp_unreplied, Duration::from_millis(3750));
    assert_eq!(full.tcp_time_wait, seconds(60));
    assert_eq!(full.tcp_established, seconds(3720));
    assert_eq!(full.udp_assured, seconds(150));
}

#[test]
fn assured_connections_have_a_floor() {
    let configured = Timeouts {
        tcp_established: seconds(4000),
        udp_assured: seconds(60),
        ..Timeouts::DEFAULT
    };
    let full = configured.scaled(Timeouts::FULL);
    assert_eq!(full.tcp_established, seconds(3600));
    assert_eq!(full.udp_assured, seconds(60), "configured lower");
}

#[test]
fn any_timeout_scales_without_overflow() {
    let longest = Timeouts {
        tcp_established: Duration::MAX,
        ..Timeouts::DEFAULT
    };
    assert_eq!(longest.scaled(100).tcp_established, Duration::MAX);
    assert!(longest.scaled(200).tcp_established < Duration::MAX);
}
