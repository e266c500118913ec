//! Packet I/O over captures.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::path::Path;
use std::sync::mpsc;

use encap::eth::MacAddr;
use encap::outer::Macs;
use fastpath::batch::Batch;
use fastpath::capture::{Reader, Writer};
use fastpath::io::PacketIo;
use fastpath::io::pcap::{Failure, PcapIo};
use fastpath::port::PortId;

use crate::contract::{Rig, TxRoom, packet_io_contract};

/// Sends what is written to whoever looks for it.
struct Tap(PortId, mpsc::Sender<(PortId, Vec<u8>)>);

impl Write for Tap {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.1.send((self.0, bytes.to_vec()));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Pcap {
    io: PcapIo,
    arrived: u64,
    written: mpsc::Receiver<(PortId, Vec<u8>)>,
    /// Each port's output so far, and how many of its packets were seen.
    files: BTreeMap<PortId, (Vec<u8>, usize)>,
}

impl Pcap {
    /// Every packet that a port has sent so far, with its time.
    fn file(&mut self, port: PortId) -> Vec<(u64, Vec<u8>)> {
        for (port, bytes) in self.written.try_iter() {
            self.files.entry(port).or_default().0.extend(bytes);
        }
        let Some((file, _)) = self.files.get(&port) else {
            return Vec::new();
        };
        let mut reader = open(file.clone());
        let mut seen = Vec::new();
        while let Some(record) = reader.next_record().expect("our own file") {
            seen.push((record.time, record.data.to_vec()));
        }
        seen
    }
}

fn open(file: Vec<u8>) -> Reader {
    Reader::new(Path::new("test"), Box::new(Cursor::new(file))).expect("a capture")
}

fn capture(packets: impl IntoIterator<Item = (u64, Vec<u8>)>) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new()).expect("memory");
    for (time, packet) in packets {
        writer.write(time, &packet).expect("memory");
    }
    writer.into_inner()
}

const MACS: Macs = Macs {
    dst: MacAddr([2, 0, 0, 0, 0, 1]),
    src: MacAddr([2, 0, 0, 0, 0, 2]),
};

impl Rig for Pcap {
    type Io = PcapIo;

    fn new() -> Self {
        let (sender, written) = mpsc::channel();
        let open = move |port| Ok(Box::new(Tap(port, sender.clone())) as Box<dyn Write + Send>);
        Self {
            io: PcapIo::new(512, 2048, 2, Box::new(open)),
            arrived: 0,
            written,
            files: BTreeMap::new(),
        }
    }

    fn io(&mut self) -> &mut PcapIo {
        &mut self.io
    }

    fn arrive(&mut self, port: PortId, frames: &[Vec<u8>]) {
        let timed = frames.iter().map(|frame| {
            self.arrived += 1;
            (self.arrived * 1000, frame.clone())
        });
        let file = capture(timed);
        self.io
            .add_input(port, open(file), MACS)
            .expect("a capture");
    }

    fn left(&mut self, port: PortId) -> Vec<Vec<u8>> {
        let all = self.file(port);
        let seen = self
            .files
            .get_mut(&port)
            .map_or(0, |(_, seen)| std::mem::replace(seen, all.len()));
        all.into_iter()
            .skip(seen)
            .map(|(_, packet)| packet)
            .collect()
    }

    /// A packet is written to its capture when it is sent.
    fn tx_room(&self) -> TxRoom {
        TxRoom::Endless
    }
}

packet_io_contract!(Pcap);

/// Receives what is due; the first byte of each packet.
fn receive_turn(io: &mut PcapIo) -> Option<(PortId, Vec<u8>)> {
    let (queue, _) = io.next_input()?;
    let mut batch = Batch::default();
    let port = io.recv(queue, &mut batch)?;
    let mut seen = Vec::new();
    for packet in batch.packets() {
        let frame = packet.frame.take();
        seen.extend(frame.of(io.chunk(&frame)).first());
        io.free(frame);
    }
    Some((port, seen))
}

fn marked(times: &[(u64, u8)]) -> Vec<u8> {
    capture(times.iter().map(|&(time, mark)| (time, vec![mark; 60])))
}

#[test]
fn inputs_are_merged_by_time_and_the_clock_follows() {
    let mut rig = Pcap::new();
    let first = marked(&[(1_000, 1), (2_000, 2), (50_000, 5), (50_000, 6)]);
    // Of equal times the input that was added first comes first; a time that runs backwards stands still.
    let second = marked(&[(3_000, 3), (50_000, 7), (40_000, 8), (90_000, 9)]);
    rig.io
        .add_input(PortId(1), open(first), MACS)
        .expect("a capture");
    rig.io
        .add_input(PortId(0), open(second), MACS)
        .expect("a capture");
    let expected = [
        (PortId(1), vec![1, 2], 2_000),
        (PortId(0), vec![3], 3_000),
        (PortId(1), vec![5, 6], 50_000),
        (PortId(0), vec![7, 8], 50_000),
        (PortId(0), vec![9], 90_000),
    ];
    for (port, marks, now) in expected {
        assert_eq!(receive_turn(&mut rig.io), Some((port, marks)));
        assert_eq!(rig.io.now().0, now);
    }
    assert_eq!(receive_turn(&mut rig.io), None);
}

#[test]
fn packets_are_tagged_by_their_order_and_sent_at_the_time_of_the_clock() {
    let mut rig = Pcap::new();
    rig.arrive(PortId(0), &[vec![1; 60], vec![2; 60]]);
    rig.arrive(PortId(1), &[vec![3; 60]]);
    let mut tags = Vec::new();
    while let Some((queue, _)) = rig.io.next_input() {
        let mut batch = Batch::default();
        rig.io.recv(queue, &mut batch);
        for packet in batch.packets() {
            tags.push(packet.tag);
            let frame = packet.frame.take();
            rig.io.send(PortId(1), frame).expect("room");
        }
    }
    assert_eq!(tags, [0, 1, 2]);
    let times: Vec<u64> = rig.file(PortId(1)).iter().map(|(time, _)| *time).collect();
    assert_eq!(times, [2000, 2000, 3000]);
}

#[test]
fn raw_ip_arrives_as_ethernet() {
    let mut rig = Pcap::new();
    let mut file = capture([(0, vec![0x45; 20])]);
    file[20] = 101;
    rig.io
        .add_input(PortId(0), open(file), MACS)
        .expect("a capture");
    let mut batch = Batch::default();
    rig.io.recv(0, &mut batch);
    let frame = batch.packets()[0].frame.take();
    let mut expected = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    expected.extend([0x45; 20]);
    assert_eq!(frame.of(rig.io.chunk(&frame)), expected);
}

#[test]
fn a_failure_is_told_and_ends_the_replay() {
    let mut rig = Pcap::new();
    let mut truncated = marked(&[(1, 1), (2, 2)]);
    truncated.pop();
    rig.io
        .add_input(PortId(0), open(truncated), MACS)
        .expect("its first packet is whole");
    assert_eq!(receive_turn(&mut rig.io), Some((PortId(0), vec![1])));
    assert!(matches!(rig.io.failure(), Some(Failure::Input(_))));
    assert_eq!(rig.io.next_input(), None);

    let mut rig = Pcap::new();
    rig.arrive(PortId(0), &[vec![1; 60], vec![2; 2048]]);
    assert_eq!(receive_turn(&mut rig.io), Some((PortId(0), vec![1])));
    assert!(matches!(
        rig.io.failure(),
        Some(Failure::TooLong {
            input: 0,
            packet: 1,
            len: 2048,
            longest: 1920
        })
    ));
    assert_eq!(rig.io.free_chunks(), 512);
}
