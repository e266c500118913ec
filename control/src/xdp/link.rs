//! A link, of XDP or tcx: a program on a device, for as long as somebody holds it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::device::Device;
use super::error::AttachError;
use super::sys::{self, LinkInfo, LinkKind};

/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE` of <linux/if_link.h>.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Generic = 1 << 1,
    Native = 1 << 2,
}

/// An open link. Dropping it closes the descriptor: an unpinned link detaches, a pinned one stays.
#[derive(Debug)]
pub(super) struct Link(OwnedFd);

impl Link {
    pub(super) fn create(
        prog: BorrowedFd<'_>,
        device: &Device,
        mode: Mode,
    ) -> Result<Self, AttachError> {
        sys::link_create(prog, device.index, mode as u32)
            .map(Self)
            .map_err(|errno| AttachError::of_link_create(&errno, device))
    }

    /// A classifier in front of all others on what comes in by `device`.
    pub(super) fn create_tcx(prog: BorrowedFd<'_>, device: &Device) -> Result<Self, AttachError> {
        sys::tcx_link_create(prog, device.index)
            .map(Self)
            .map_err(|errno| AttachError::of_tcx_link_create(&errno, device))
    }

    pub(super) fn open_pinned(path: &Path) -> io::Result<Self> {
        sys::open_pin(path).map(Self)
    }

    pub(super) fn pin(&self, path: &Path) -> io::Result<()> {
        sys::pin(self.0.as_fd(), path)
    }

    pub(super) fn update(&self, prog: BorrowedFd<'_>) -> io::Result<()> {
        sys::link_update(self.0.as_fd(), prog)
    }

    pub(super) fn detach(&self) -> io::Result<()> {
        sys::link_detach(self.0.as_fd())
    }

    pub(super) fn info(&self) -> io::Result<LinkInfo> {
        sys::link_info(self.0.as_fd())
    }

    /// Where its program runs.
    pub(super) fn kind(&self) -> io::Result<LinkKind> {
        Ok(self.info()?.kind)
    }

    /// Whether the link is still on the device with this index.
    pub(super) fn is_on(&self, ifindex: u32) -> bool {
        self.info().is_ok_and(|info| info.ifindex == ifindex)
    }

    /// Whether the link is still on the device with this index, which the calling thread's network namespace has, and no other program sees
    /// packets before its own. A device has one XDP program.
    pub(super) fn is_first_on(&self, ifindex: u32) -> bool {
        let Ok(info) = self.info() else { return false };
        let is_first = match info.kind {
            LinkKind::Xdp => true,
            LinkKind::Tcx => sys::tcx_programs(ifindex)
                .is_ok_and(|programs| programs.first() == Some(&info.prog_id)),
        };
        info.ifindex == ifindex && is_first
    }
}
