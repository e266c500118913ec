//! The least AF_XDP socket that a socket map takes: memory registered, a receive ring, bound. It is never read.
#![expect(
    unsafe_code,
    reason = "AF_XDP has no safe wrapper in the test's dependencies"
)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ffi::c_int;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

const FRAME: u32 = 2048;
const FRAMES: u32 = 64;
const LAYOUT: Layout = match Layout::from_size_align((FRAME * FRAMES) as usize, 4096) {
    Ok(layout) => layout,
    Err(_) => panic!("a size and alignment that fit"),
};

/// An AF_XDP socket in copy mode, bound to queue 0 or another of a device.
pub struct XdpSocket {
    // Closed before the memory goes.
    fd: Option<OwnedFd>,
    memory: *mut u8,
}

impl XdpSocket {
    pub fn bind(ifindex: u32, queue: u32) -> io::Result<Self> {
        // SAFETY: creates a descriptor; no pointers.
        let fd = check(unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW, 0) })?;
        // SAFETY: the kernel just made this descriptor for us; nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: the layout's size is not zero.
        let memory = unsafe { alloc_zeroed(LAYOUT) };
        assert!(!memory.is_null(), "out of memory");
        let socket = Self {
            fd: Some(fd),
            memory,
        };
        let umem = libc::xdp_umem_reg {
            addr: memory.expose_provenance() as u64,
            len: u64::from(FRAME * FRAMES),
            chunk_size: FRAME,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        };
        socket.set(libc::XDP_UMEM_REG, &umem)?;
        socket.set(libc::XDP_UMEM_FILL_RING, &FRAMES)?;
        socket.set(libc::XDP_UMEM_COMPLETION_RING, &FRAMES)?;
        socket.set(libc::XDP_RX_RING, &FRAMES)?;
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: libc::XDP_COPY,
            sxdp_ifindex: ifindex,
            sxdp_queue_id: queue,
            sxdp_shared_umem_fd: 0,
        };
        // SAFETY: the kernel reads one sockaddr_xdp through the pointer, of the stated size.
        check(unsafe {
            libc::bind(
                socket.as_fd().as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_xdp>() as u32,
            )
        })?;
        Ok(socket)
    }

    fn set<T>(&self, option: c_int, value: &T) -> io::Result<()> {
        // SAFETY: the kernel reads one T through the pointer, of the stated size.
        check(unsafe {
            libc::setsockopt(
                self.as_fd().as_raw_fd(),
                libc::SOL_XDP,
                option,
                (&raw const *value).cast(),
                size_of::<T>() as u32,
            )
        })
        .map(drop)
    }
}

impl AsFd for XdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().expect("open until dropped").as_fd()
    }
}

impl Drop for XdpSocket {
    fn drop(&mut self) {
        drop(self.fd.take());
        // SAFETY: from `alloc_zeroed` with this layout; the socket that used it is closed.
        unsafe { dealloc(self.memory, LAYOUT) };
    }
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
