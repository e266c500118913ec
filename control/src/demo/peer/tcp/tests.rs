use super::*;

#[test]
fn a_byte_changed_on_the_way_is_found() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let cancel = Cancel::default();
    let outcome = thread::scope(|scope| {
        scope.spawn(|| {
            // A server that received one bit otherwise: its hash differs.
            let (stream, _) = listener.accept().unwrap();
            let mut pipe = Pipe::new(stream, &cancel).unwrap();
            let mut hash = pipe.receive_stream().unwrap().hash;
            hash[0] ^= 1;
            pipe.send_all(&hash).unwrap();
            pipe.send_all(&[0; 32]).unwrap();
        });
        let mut pipe = Pipe::new(TcpStream::connect(to).unwrap(), &cancel).unwrap();
        talk(&mut pipe, Amount::Bytes(1000))
    });
    assert!(
        outcome
            .unwrap_err()
            .starts_with("client to server: sent sha256")
    );
}

#[test]
fn a_transfer_by_time_ends_and_says_who_was_seen() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let (cancel, amount) = (Cancel::default(), Amount::For(Duration::from_millis(20)));
    let transfer = thread::scope(|scope| {
        scope.spawn(|| {
            let (stream, from) = listener.accept().unwrap();
            serve(stream, from, amount, &cancel).unwrap();
        });
        let mut pipe = Pipe::new(TcpStream::connect(to).unwrap(), &cancel).unwrap();
        talk(&mut pipe, amount).unwrap()
    });
    assert_eq!((transfer.source, transfer.server), (to.ip(), to.ip()));
    assert!(transfer.up.bytes > 0 && transfer.down.bytes > 0);
}

#[test]
fn several_servers_behind_an_address_are_told_apart() {
    // All of 127.0.0.0/8 is this host's.
    let hosts = ["127.0.0.1", "127.0.0.2"].map(|it| TcpListener::bind((it, 0)).unwrap());
    for socket in &hosts {
        socket.set_nonblocking(true).unwrap();
    }
    let ends = hosts.each_ref().map(|it| it.local_addr().unwrap());
    let listener = Listener {
        sockets: hosts.into(),
        address: ends[0],
    };
    for end in ends {
        let client = TcpStream::connect(end).unwrap();
        let from = client.local_addr().unwrap();
        let (server, source) = loop {
            if let Some(accepted) = listener.accept().unwrap() {
                break accepted;
            }
        };
        assert_eq!((local(&server).unwrap(), source), (end, from));
    }
}

#[test]
fn rate_counts_payload_bits() {
    let way = Way {
        bytes: 1_000_000,
        time: Duration::from_secs(2),
    };
    assert!((way.mbit_per_s() - 4.0).abs() < 1e-9);
}
