//! Takes captures through the pipeline.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use fastpath::batch::Batch;
use fastpath::capture::CaptureError;
use fastpath::connections::{Connections, Sizes, Tracker};
use fastpath::counters::Counters;
use fastpath::event::{Event, Events};
use fastpath::hold;
use fastpath::io::pcap::{Failure, PcapIo};
use fastpath::io::{HEADROOM, PacketIo as _};
use fastpath::pipeline::Pipeline;
use fastpath::port::PortId;
use fastpath::record::{Record, Records, Verdict};
use fastpath::tables::Tables;
use flowtable::Tick;
use flowtable::flow::Capacity;

use super::node::ReplayNode;
use super::scan::{self, Scan};
use super::summary::{Accounting, PortSummary, SCHEMA, Summary, Unresolved};
use super::verdicts::Verdicts;

/// The smallest chunk, as in the daemon.
const CHUNK: usize = 2048;
/// Held packets, a batch, its fragments and its ICMP errors at once.
const CHUNKS: u32 = 4096;
/// What `Log` rules may tell of a batch and what waited: six for each packet.
const RECORDS: usize = 8192;
/// Entries of each table of connections.
const CONNECTIONS: Capacity = match Capacity::new(1 << 16) {
    Ok(capacity) => capacity,
    Err(_) => Capacity::MIN,
};
/// How far the clock moves at once while packets wait for a neighbour.
const STEP: Duration = Duration::from_millis(10);

/// What to replay.
#[derive(Debug)]
pub struct Job<'a> {
    /// The node's name, for the summary.
    pub name: &'a str,
    /// The seed that the node was made with, for the summary.
    pub seed: u64,
    /// Captures by the ports they came in by, with what a first look at each told.
    pub inputs: Vec<(PortId, PathBuf, Scan)>,
    /// Directory of the outputs. Made if it is not there.
    pub out: &'a Path,
    /// File of the verdicts.
    pub verdicts: Option<&'a Path>,
}

/// Why a replay failed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A capture can not be read.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// A packet is longer than any frame.
    #[error("{}: a packet of {len} bytes; {longest} is the most that can be replayed", file.display())]
    TooLong {
        /// The capture.
        file: PathBuf,
        /// The packet's length in bytes.
        len: usize,
        /// The longest that can be.
        longest: usize,
    },
    /// An output would overwrite an input.
    #[error("{}: this output would overwrite an input; choose another --out", .0.display())]
    Overwrites(PathBuf),
    /// The verdicts would be in a file that the replay writes anyway.
    #[error("{}: the replay writes this file itself; choose another --verdicts", .0.display())]
    VerdictsTaken(PathBuf),
    /// An output can not be written.
    #[error("cannot write {}: {error}", file.display())]
    Output {
        /// The file or directory.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A packet without a fate, or with two. A bug.
    #[error("the accounting is not balanced: {0:?}; this is a bug, please report it")]
    Unbalanced(Accounting),
}

fn output(file: &Path) -> impl Fn(std::io::Error) -> ReplayError + '_ {
    move |error| ReplayError::Output {
        file: file.to_owned(),
        error,
    }
}

/// Runs the captures through the node's pipeline: writes one capture for each port that sends, `summary.json`, and the
/// verdicts. The same inputs give the same bytes.
///
/// # Errors
/// See [`ReplayError`]. Captures are checked by [`scan`](super::scan::scan) before; nothing is written then.
pub fn run(node: &mut ReplayNode, job: &Job<'_>) -> Result<Summary, ReplayError> {
    let names: Vec<String> = {
        let by_number: BTreeMap<PortId, &str> = node.ports().collect();
        let count = by_number.keys().last().map_or(0, |last| last.0 + 1);
        let name = |id| by_number.get(&PortId(id)).copied().unwrap_or_default();
        (0..count).map(|id| name(id).to_owned()).collect()
    };
    let chunk_len = chunk_len(&job.inputs)?;
    prepare(job, &names)?;
    let files: Vec<PathBuf> = names
        .iter()
        .map(|name| job.out.join(file_of(name)))
        .collect();
    let open = {
        let files = files.clone();
        move |port: PortId| {
            let file = File::create(&files[usize::from(port.0)])?;
            Ok(Box::new(BufWriter::new(file)) as Box<dyn std::io::Write + Send>)
        }
    };
    let mut io = PcapIo::new(CHUNKS, chunk_len, names.len(), Box::new(open));
    for (port, file, _) in &job.inputs {
        io.add_input(*port, scan::open(file)?, node.macs_in(*port))?;
    }
    let verdicts = match job.verdicts {
        Some(path) => {
            let file = File::create(path).map_err(output(path))?;
            Some(Box::new(BufWriter::new(file)) as Box<dyn std::io::Write>)
        }
        None => None,
    };
    let mut replay = Replay::new(node, names, io, verdicts, job.seed);
    replay.run();
    if let Some(failure) = replay.io.failure() {
        return Err(told(failure, job, &files));
    }
    let written = replay.finish();
    written.map_err(output(job.verdicts.unwrap_or(Path::new("verdicts"))))?;
    let summary = replay.summary(job);
    let path = job.out.join("summary.json");
    let mut text = serde_json::to_vec_pretty(&summary).unwrap_or_default();
    text.push(b'\n');
    let write = File::create(&path).and_then(|mut file| file.write_all(&text));
    write.map_err(output(&path))?;
    replay.check(&summary)?;
    Ok(summary)
}

fn file_of(port: &str) -> String {
    format!("{port}.pcap")
}

/// Makes the output directory, and clears it of what an earlier replay left for these ports.
fn prepare(job: &Job<'_>, names: &[String]) -> Result<(), ReplayError> {
    let files = names
        .iter()
        .filter(|name| !name.is_empty())
        .map(|name| file_of(name));
    let mut outputs: Vec<PathBuf> = files
        .chain(["summary.json".to_owned()])
        .map(|name| job.out.join(name))
        .collect();
    if let Some(verdicts) = job.verdicts
        && outputs.iter().any(|file| place(file) == place(verdicts))
    {
        return Err(ReplayError::VerdictsTaken(verdicts.to_owned()));
    }
    fs::create_dir_all(job.out).map_err(output(job.out))?;
    let inputs: BTreeSet<PathBuf> = job
        .inputs
        .iter()
        .filter_map(|(_, file, _)| fs::canonicalize(file).ok())
        .collect();
    outputs.extend(job.verdicts.map(Path::to_owned));
    for file in &outputs {
        if fs::canonicalize(file).is_ok_and(|file| inputs.contains(&file)) {
            return Err(ReplayError::Overwrites(file.clone()));
        }
    }
    for file in &outputs {
        match fs::remove_file(file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(output(file)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Where a file is or would be, however that is written.
fn place(file: &Path) -> Option<PathBuf> {
    let file = std::path::absolute(file).ok()?;
    let dir = file.parent()?;
    let dir = fs::canonicalize(dir).unwrap_or_else(|_| without_dots(dir));
    Some(dir.join(file.file_name()?))
}

/// A path that does not exist yet, without `..`.
fn without_dots(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        if component == Component::ParentDir {
            clean.pop();
        } else {
            clean.push(component);
        }
    }
    clean
}

/// Bytes of a chunk that holds every packet.
fn chunk_len(inputs: &[(PortId, PathBuf, Scan)]) -> Result<u16, ReplayError> {
    let longest = usize::from(u16::MAX - HEADROOM);
    for (_, file, scan) in inputs {
        if scan.longest > longest {
            return Err(ReplayError::TooLong {
                file: file.clone(),
                len: scan.longest,
                longest,
            });
        }
    }
    let needed = inputs
        .iter()
        .map(|(_, _, scan)| scan.longest + usize::from(HEADROOM));
    Ok(needed.max().unwrap_or(0).max(CHUNK) as u16)
}

fn told(failure: Failure, job: &Job<'_>, files: &[PathBuf]) -> ReplayError {
    let input = |index: usize| job.inputs.get(index).map(|(_, file, _)| file.clone());
    match failure {
        Failure::Input(error) => error.into(),
        Failure::TooLong {
            input: index,
            len,
            longest,
            ..
        } => ReplayError::TooLong {
            file: input(index).unwrap_or_default(),
            len,
            longest,
        },
        Failure::Output(port, error) => ReplayError::Output {
            file: files.get(usize::from(port.0)).cloned().unwrap_or_default(),
            error,
        },
    }
}

/// Connections of a replay: the same seed draws the same ports.
fn tracker(ports: usize, seed: u64) -> Tracker {
    let sizes = Sizes {
        v4: CONNECTIONS,
        v6: CONNECTIONS,
        ports: u16::try_from(ports).unwrap_or(u16::MAX),
        share_percent: 25,
    };
    let connections = Connections::new(&sizes, [seed, !seed, seed.rotate_left(32), 1]);
    Tracker::new(Arc::new(connections), (0, 1), [!seed, seed])
}

/// A replay under way.
struct Replay<'a> {
    node: &'a mut ReplayNode,
    tables: Tables,
    names: Vec<String>,
    io: PcapIo,
    pipeline: Pipeline,
    events: Arc<ArrayQueue<Event>>,
    records: Arc<ArrayQueue<Record>>,
    verdicts: Verdicts,
    unresolved: BTreeSet<Unresolved>,
}

impl<'a> Replay<'a> {
    fn new(
        node: &'a mut ReplayNode,
        names: Vec<String>,
        io: PcapIo,
        verdicts: Option<Box<dyn std::io::Write>>,
        seed: u64,
    ) -> Self {
        let events = Arc::new(ArrayQueue::new(hold::CAPACITY));
        let counters = Arc::new(Counters::new(names.len()));
        let records = Arc::new(ArrayQueue::new(RECORDS));
        let told = Records::new(Arc::clone(&records), Arc::default()).without_limit();
        let tracker = tracker(names.len(), seed).with_records(told);
        Self {
            tables: node.tables(),
            node,
            verdicts: Verdicts::new(verdicts, names.clone(), io.sent()),
            names,
            io,
            pipeline: Pipeline::new(counters, Events::new(Arc::clone(&events)))
                .with_connections(tracker),
            events,
            records,
            unresolved: BTreeSet::new(),
        }
    }

    fn run(&mut self) {
        let mut batch = Batch::default();
        let mut taken: BTreeMap<usize, u64> = BTreeMap::new();
        while let Some((queue, at)) = self.io.next_input() {
            self.pass_time(at);
            let Some(port) = self.io.recv(queue, &mut batch) else {
                break;
            };
            if batch.is_empty() {
                break;
            }
            let index = taken.entry(queue).or_default();
            for _ in 0..batch.len() {
                self.verdicts.expect(port, *index);
                *index += 1;
            }
            let now = self.io.now();
            self.pipeline.run(
                &mut batch,
                &mut self.io,
                &self.tables,
                port,
                now,
                &mut self.verdicts,
            );
            self.after_round(now);
        }
        self.io.flush();
    }

    /// What is due beside packets.
    fn after_round(&mut self, now: Tick) {
        self.pipeline
            .run_timers(&mut self.io, &self.tables, now, &mut self.verdicts);
        self.serve_events();
        while let Some(record) = self.records.pop() {
            if let Verdict::Logged(rule) = record.verdict {
                self.verdicts.log(record.tag, rule);
            }
        }
        let node = &*self.node;
        self.verdicts.write(&|by| node.why(by));
    }

    fn finish(&mut self) -> std::io::Result<()> {
        let node = &*self.node;
        self.verdicts.finish(&|by| node.why(by))
    }

    /// Lets the time pass until `until`, as far as somebody waits for it.
    fn pass_time(&mut self, until: Tick) {
        while self.pipeline.held() > 0 && self.io.now() + STEP < until {
            let now = self.io.now() + STEP;
            self.io.set_now(now);
            self.after_round(now);
        }
    }

    /// What control does about events, at once.
    fn serve_events(&mut self) {
        let mut learned = false;
        while let Some(event) = self.events.pop() {
            match event {
                // A replay is over before a path's MTU matters: what is told of it goes to the pod.
                Event::PathMtu { .. } => {}
                Event::PodMac { port, mac } => {
                    self.node.learn(port, mac);
                    learned = true;
                }
                Event::MissingNeighbour { port, addr } => {
                    let name = self.names.get(usize::from(port.0));
                    self.unresolved.insert(Unresolved {
                        port: name.cloned().unwrap_or_default(),
                        address: addr,
                    });
                }
            }
        }
        if learned {
            self.tables = self.node.tables();
        }
    }

    fn summary(&self, job: &Job<'_>) -> Summary {
        let counters = self.pipeline.counters();
        let mut ports = BTreeMap::new();
        let mut drops = BTreeMap::new();
        for (index, name) in self.names.iter().enumerate() {
            let id = PortId(index as u16);
            let mut port = PortSummary::of(counters, id);
            for (reason, count) in &port.drops {
                *drops.entry(*reason).or_default() += count;
            }
            if let Some((_, file, scan)) = job.inputs.iter().find(|(port, ..)| *port == id) {
                port.input = Some(file.display().to_string());
                port.cut = scan.cut;
            }
            port.output = (port.tx_packets > 0).then(|| file_of(name));
            ports.insert(name.clone(), port);
        }
        Summary {
            schema: SCHEMA,
            node: job.name.to_owned(),
            seed: job.seed,
            accounting: Accounting::of(counters),
            originated: counters.originated.get(),
            originated_dropped: counters.originated_dropped.get(),
            icmp_limited: counters.icmp_limited.get(),
            checksums_completed: counters.checksums_completed.get(),
            drops,
            ports,
            unresolved: self.unresolved.clone(),
        }
    }

    /// The pipeline's counters must balance, agree with the fates that were seen, and no frame may be lost.
    fn check(&self, summary: &Summary) -> Result<(), ReplayError> {
        let (said, seen) = (&summary.accounting, self.verdicts.tally);
        let held = self.pipeline.held();
        let agrees =
            (said.rx, said.tx, said.drop, said.punt) == (seen.rx, seen.tx, seen.drop, seen.punt);
        let frames = self.io.free_chunks() + held == CHUNKS as usize;
        if said.balanced && agrees && frames && said.held == held as u64 {
            Ok(())
        } else {
            Err(ReplayError::Unbalanced(*said))
        }
    }
}
