//! `caracal capture`: packets as pollers see them, for Wireshark.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal as _, Write};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use clap::builder::RangedU64ValueParser;
use fastpath::capture::blocks;
use fastpath::tap::SNAPLEN;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::ask::Failure;
use super::{Cli, Exit, ask, output};
use crate::api::report::{Captured, CapturedPacket, Moment};
use crate::api::{CaptureParams, Client, Method};
use crate::flows::Filter;
use crate::words::counted;

/// It is asked this often, in milliseconds.
const EVERY: u16 = 50;

/// Arguments of `caracal capture`.
#[derive(Debug, clap::Args)]
#[command(after_help = MOMENTS)]
pub struct Args {
    /// Where to write to, as pcapng; `-` is standard output.
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    /// Only what comes in or goes out by this port.
    #[arg(short, long, value_name = "PORT")]
    interface: Option<String>,
    /// Only what is dropped.
    #[arg(long)]
    drops: bool,
    /// End after so many packets.
    #[arg(short, long, value_name = "N", value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    count: Option<u64>,
    /// Only what is meant: `udp and port 53`, as with `caracal flows --match`.
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
}

const MOMENTS: &str = "\
A packet is there as it came in, as it went out, and as it was dropped, each with the interface that it came in or went out by.
What was dropped has a comment that names the reason, the stage and the rule: `pkt_comment contains \"policy-deny\"` in Wireshark.
The first 256 bytes are kept. Ends with Ctrl-C.";

pub(super) fn run(args: &Args, cli: &Cli) -> Exit {
    let text = args.filter.join(" ");
    let filter = (!text.is_empty()).then_some(text);
    if let Some(Err(error)) = filter.as_deref().map(Filter::parse) {
        output::remark(&format!("error: {error}\n"));
        return Exit::Usage;
    }
    let client = match ask::connect(cli) {
        Ok(client) => client,
        Err(exit) => return exit,
    };
    let outcome = signals().and_then(|signals| Ok((signals, open(&args.write)?)));
    let (signals, out) = match outcome {
        Ok(both) => both,
        Err(error) => {
            output::complain(&format!("{}: {error}", args.write.display()));
            return Exit::Failure;
        }
    };
    let mut capture = Capture {
        out,
        interfaces: Vec::new(),
        written: 0,
        lost: 0,
    };
    let outcome = capture.go_on(args, filter, client, &signals);
    let (written, lost) = (capture.written, capture.lost);
    output::remark(&format!("{}, {lost} lost\n", counted(written, "packet")));
    match outcome {
        Ok(()) => Exit::Ok,
        Err(Failure::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Exit::Ok,
        Err(failure) => failure.end(),
    }
}

/// The signals that end a capture in good order.
fn signals() -> io::Result<SignalFd> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    Ok(SignalFd::with_flags(&signals, flags)?)
}

fn open(path: &Path) -> io::Result<Box<dyn Write>> {
    if path != Path::new("-") {
        return Ok(Box::new(File::create(path)?));
    }
    let stdout = io::stdout();
    if stdout.is_terminal() {
        let message = "packets are nothing for a terminal; send them to a file or a pipe";
        return Err(io::Error::other(message));
    }
    Ok(Box::new(stdout))
}

/// A file that packets are written to.
struct Capture {
    out: Box<dyn Write>,
    /// Ports that have a block, in order.
    interfaces: Vec<String>,
    written: u64,
    lost: u64,
}

impl Capture {
    fn go_on(
        &mut self,
        args: &Args,
        filter: Option<String>,
        mut client: Client,
        signals: &SignalFd,
    ) -> Result<(), Failure> {
        let mut params = CaptureParams {
            after: None,
            interface: args.interface.clone(),
            drops: args.drops,
            filter,
        };
        let first: Captured = client.call(Method::Capture(params.clone()))?;
        let application = concat!("caracal ", env!("CARGO_PKG_VERSION"));
        self.write(&blocks::section(application))?;
        output::remark("capturing\n");
        let before = first.lost;
        let mut missed = 0;
        params.after = Some(first.next);
        loop {
            let part: Captured = client.call(Method::Capture(params.clone()))?;
            missed += part.missed;
            // A daemon that was started again counts anew.
            self.lost = missed + part.lost.saturating_sub(before);
            let left = args.count.map_or(u64::MAX, |count| count - self.written);
            self.packets(&part.packets, left)?;
            if args.count.is_some_and(|count| self.written >= count) {
                return Ok(());
            }
            params.after = Some(part.next);
            if !part.more && is_told_to_end(signals) {
                return Ok(());
            }
        }
    }

    /// Writes packets, `most` at most.
    fn packets(&mut self, packets: &[CapturedPacket], most: u64) -> io::Result<()> {
        let mut bytes = Vec::new();
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        for packet in packets.iter().take(most) {
            let known = self.interfaces.iter().position(|name| *name == packet.port);
            let interface = known.unwrap_or_else(|| {
                bytes.extend(blocks::interface(&packet.port, SNAPLEN as u32));
                self.interfaces.push(packet.port.clone());
                self.interfaces.len() - 1
            });
            bytes.extend(blocks::packet(&blocks::Packet {
                interface: interface as u32,
                time: packet.time,
                len: packet.length.into(),
                bytes: &from_hexadecimal(&packet.bytes),
                inbound: packet.moment != Moment::Out,
                comment: comment(packet).as_deref(),
            }));
            self.written += 1;
        }
        self.write(&bytes)
    }

    /// Whole blocks at once, so that the file is whole at every moment.
    fn write(&mut self, blocks: &[u8]) -> io::Result<()> {
        self.out.write_all(blocks)?;
        self.out.flush()
    }
}

/// Waits a moment. Says whether a signal came.
fn is_told_to_end(signals: &SignalFd) -> bool {
    let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    // An interrupted wait is as good as one that is over.
    let _ = poll(&mut fds, PollTimeout::from(EVERY));
    matches!(signals.read_signal(), Ok(Some(_)))
}

/// What Wireshark shows beside a packet that was dropped.
fn comment(packet: &CapturedPacket) -> Option<String> {
    let mut text = format!("drop={}", packet.reason.as_ref()?);
    for (name, value) in [("stage", &packet.stage), ("rule", &packet.rule)] {
        if let Some(value) = value {
            let _ = write!(text, " {name}={value}");
        }
    }
    Some(format!("{text} gen={}", packet.generation))
}

/// Bytes of digits; the rest is left out from what is none.
fn from_hexadecimal(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks_exact(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.map_while(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_names_reason_stage_and_rule() {
        let mut packet = CapturedPacket {
            reason: Some("policy-deny".to_owned()),
            stage: Some("policy".to_owned()),
            generation: 42,
            ..CapturedPacket::default()
        };
        assert_eq!(
            comment(&packet).unwrap(),
            "drop=policy-deny stage=policy gen=42"
        );
        packet.rule = Some("tier default: x, ingress rule 2 (Deny)".to_owned());
        let expected =
            "drop=policy-deny stage=policy rule=tier default: x, ingress rule 2 (Deny) gen=42";
        assert_eq!(comment(&packet).unwrap(), expected);
        assert_eq!(comment(&CapturedPacket::default()), None);
    }

    #[test]
    fn digits_become_bytes() {
        assert_eq!(from_hexadecimal("00ff7A"), [0, 0xff, 0x7a]);
        assert_eq!(from_hexadecimal("00x1ff"), [0]);
        assert_eq!(from_hexadecimal("0"), [0; 0]);
    }
}
