//! The system calls, each wrapped once.

use std::ffi::c_int;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

/// `XDP_MAX_TX_SKB_BUDGET`: packets one `sendto` sends in copy mode (Linux 6.17, 32 before).
pub(super) const XDP_MAX_TX_SKB_BUDGET: c_int = 9;
/// `SO_NETNS_COOKIE`: the number that names a network namespace (Linux 5.14).
const SO_NETNS_COOKIE: c_int = 71;

/// Opens an AF_XDP socket in the calling thread's network namespace.
pub(super) fn xdp_socket() -> io::Result<OwnedFd> {
    open_socket(libc::AF_XDP, libc::SOCK_RAW)
}

/// Opens a socket only to have something to call `ioctl` on.
pub(super) fn control_socket() -> io::Result<OwnedFd> {
    open_socket(libc::AF_INET, libc::SOCK_DGRAM)
}

fn open_socket(family: c_int, kind: c_int) -> io::Result<OwnedFd> {
    // SAFETY: `socket` takes no pointers.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned `fd`, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets a socket option whose value is `value`'s bytes.
pub(super) fn set_option<T: Copy>(
    fd: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which the kernel only reads.
    let rc = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            ptr::from_ref(value).cast(),
            mem::size_of::<T>() as libc::socklen_t,
        )
    };
    check(rc)
}

/// Reads a socket option made of 64-bit words; the second value is how many bytes the kernel wrote.
pub(super) fn option_words<const N: usize>(
    fd: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
) -> io::Result<([u64; N], usize)> {
    let mut words = [0_u64; N];
    let mut len = mem::size_of_val(&words) as libc::socklen_t;
    // SAFETY: `words` has room for the `len` bytes that the kernel may write, and any bytes make a u64.
    let rc = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            words.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    check(rc).map(|()| (words, len as usize))
}

/// Reads a socket option of one `c_int`.
pub(super) fn option_int(fd: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut len = mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: `value` has room for the `len` bytes that the kernel may write.
    let rc = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    check(rc).map(|()| value)
}

/// The cookie of the network namespace that `fd` belongs to; 0 on kernels that cannot say (before 5.14).
pub(super) fn netns_cookie(fd: BorrowedFd<'_>) -> u64 {
    option_words::<1>(fd, libc::SOL_SOCKET, SO_NETNS_COOKIE).map_or(0, |([cookie], _)| cookie)
}

/// Binds an AF_XDP socket.
pub(super) fn bind(fd: BorrowedFd<'_>, address: &libc::sockaddr_xdp) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `address`, which the kernel only reads.
    let rc = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            ptr::from_ref(address).cast(),
            mem::size_of::<libc::sockaddr_xdp>() as libc::socklen_t,
        )
    };
    check(rc)
}

/// Asks the kernel to send what is in the TX ring.
#[inline]
pub(super) fn kick_tx(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no data and no address: the null pointers go with zero lengths.
    let rc = unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            ptr::null(),
            0,
            libc::MSG_DONTWAIT,
            ptr::null(),
            0,
        )
    };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Tells the driver that the fill ring has chunks again.
#[inline]
pub(super) fn kick_rx(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no buffer and no address: the null pointers go with zero lengths.
    let rc = unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            ptr::null_mut(),
            0,
            libc::MSG_DONTWAIT,
            ptr::null_mut(),
            ptr::null_mut(),
        )
    };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Whether the AF_XDP socket is (still) bound: the kernel unbinds it when its device goes.
pub(super) fn is_bound(fd: BorrowedFd<'_>) -> bool {
    kick_rx(fd)
        .err()
        .is_none_or(|error| error.raw_os_error() != Some(libc::ENXIO))
}

/// Runs an ethtool command: `argument` starts with the command number, as all ethtool structs do.
///
/// `T` must be the `repr(C)` struct of that command, made of integers only.
pub(super) fn ethtool<T: Copy>(
    fd: BorrowedFd<'_>,
    name: &[libc::c_char; libc::IFNAMSIZ],
    argument: &mut T,
) -> io::Result<()> {
    let mut request = ifreq(name);
    request.ifr_ifru.ifru_data = ptr::from_mut(argument).cast();
    // SAFETY: `ifru_data` points to the struct of the command, which outlives the call; the kernel
    // reads and writes no more than that struct.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    check(rc)
}

/// The MTU of the interface called `name`, in bytes of IP packet.
pub(super) fn mtu(fd: BorrowedFd<'_>, name: &[libc::c_char; libc::IFNAMSIZ]) -> io::Result<c_int> {
    let mut request = ifreq(name);
    // SAFETY: SIOCGIFMTU reads the name from `request` and writes the MTU into it.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) };
    check(rc)?;
    // SAFETY: the call succeeded, so the kernel filled in this member of the union.
    Ok(unsafe { request.ifr_ifru.ifru_mtu })
}

fn ifreq(name: &[libc::c_char; libc::IFNAMSIZ]) -> libc::ifreq {
    // SAFETY: `ifreq` holds integers and pointers; all zeros is a value of each.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    request.ifr_name = *name;
    request
}

fn check(rc: c_int) -> io::Result<()> {
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
