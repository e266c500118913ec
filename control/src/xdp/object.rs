//! The committed objects, and loading one of them.

use std::os::fd::{AsFd as _, BorrowedFd};

use aya::maps::Map;
use aya::programs::{ProgramError, TestRun as _, TestRunOptions, Xdp};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfError, EbpfLoader};

use super::error::LoadError;

pub(super) static NIC: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../xdp/nic.bpf.o"));
pub(super) static POD: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../xdp/pod.bpf.o"));

pub(super) static FLOW: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../xdp/flow.bpf.o"));

/// Takes a map of a loaded object.
pub(super) fn take_map<M: TryFrom<Map>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<M, LoadError> {
    ebpf.take_map(name)
        .and_then(|map| map.try_into().ok())
        .ok_or(LoadError::BadObject(name))
}

/// What an XDP program does with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The program failed; the frame is dropped.
    Aborted,
    /// The frame is dropped.
    Drop,
    /// The frame goes on to the kernel.
    Pass,
    /// The frame goes back out of the interface.
    Transmit,
    /// The frame goes to a socket.
    Redirect,
    /// Not a verdict of enum `xdp_action`.
    Unknown(u32),
}

/// One loaded program and its maps.
#[derive(Debug)]
pub(super) struct Loaded {
    ebpf: Ebpf,
    program: &'static str,
}

impl Loaded {
    /// Loads `program` from `object`, as `loader` has been told to.
    pub(super) fn load(
        loader: &mut EbpfLoader<'_>,
        object: &[u8],
        program: &'static str,
    ) -> Result<Self, LoadError> {
        // XDP links are of 5.9; 5.11 accounts BPF memory without RLIMIT_MEMLOCK.
        if KernelVersion::current().is_ok_and(|version| version < KernelVersion::new(5, 11, 0)) {
            return Err(LoadError::KernelTooOld);
        }
        let ebpf = loader
            .load(object)
            .map_err(|e| LoadError::of(program, &e))?;
        let mut loaded = Self { ebpf, program };
        let xdp: &mut Xdp = loaded
            .ebpf
            .program_mut(program)
            .and_then(|found| found.try_into().ok())
            .ok_or(LoadError::BadObject(program))?;
        xdp.load()
            .map_err(|e| LoadError::of(program, &EbpfError::ProgramError(e)))?;
        Ok(loaded)
    }

    /// Takes one of the object's maps.
    pub(super) fn map<M: TryFrom<Map>>(&mut self, name: &'static str) -> Result<M, LoadError> {
        take_map(&mut self.ebpf, name)
    }

    /// The object, for whoever takes several maps.
    pub(super) fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// The program's descriptor.
    pub(super) fn fd(&self) -> Result<BorrowedFd<'_>, ProgramError> {
        Ok(self.xdp()?.fd()?.as_fd())
    }

    /// Runs the program on `frame` as if it had come in on that queue of that device.
    pub(super) fn verdict(
        &self,
        ifindex: u32,
        queue: u32,
        frame: &[u8],
    ) -> Result<Verdict, ProgramError> {
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, frame.len() as u32, 0, ifindex, queue, 0].map(u32::to_ne_bytes);
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(context.as_flattened()),
            ..TestRunOptions::new()
        };
        Ok(match self.xdp()?.test_run(options)?.return_value {
            0 => Verdict::Aborted,
            1 => Verdict::Drop,
            2 => Verdict::Pass,
            3 => Verdict::Transmit,
            4 => Verdict::Redirect,
            other => Verdict::Unknown(other),
        })
    }

    fn xdp(&self) -> Result<&Xdp, ProgramError> {
        self.ebpf
            .program(self.program)
            .ok_or(ProgramError::NotLoaded)?
            .try_into()
    }
}
