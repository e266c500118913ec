//! Can this kernel, and this process, do AF_XDP?

use std::io;
use std::os::fd::AsFd;

use super::error::kernel_release;
use super::{XskError, sys};

/// What the kernel can do, beyond what is demanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Support {
    /// `uname -r`.
    pub release: String,
    /// The number of packets one `sendto` sends can be raised (Linux 6.17): fewer system calls in copy mode.
    pub tx_budget: bool,
}

/// Asks the kernel by opening a socket, which is closed again.
///
/// # Errors
///
/// [`XskError::NoAfXdp`] when the kernel has no AF_XDP or one too old for us (before 5.4, or without rings
/// that say when to wake them), [`XskError::NotPermitted`] without `CAP_NET_RAW`.
pub fn probe() -> Result<Support, XskError> {
    let release = kernel_release();
    let fd = sys::xdp_socket().map_err(|source| refused(source, &release))?;
    let offsets = sys::option_words::<16>(fd.as_fd(), libc::SOL_XDP, libc::XDP_MMAP_OFFSETS);
    if !matches!(offsets, Ok((_, bytes)) if bytes == size_of::<libc::xdp_mmap_offsets>()) {
        return Err(XskError::NoAfXdp { release });
    }
    // Without a TX ring the option is refused for its state where it is known (EACCES), and as unknown
    // (ENOPROTOOPT) where it is not.
    let tx_budget = sys::set_option(
        fd.as_fd(),
        libc::SOL_XDP,
        sys::XDP_MAX_TX_SKB_BUDGET,
        &64_u32,
    )
    .err()
    .is_none_or(|error| error.raw_os_error() != Some(libc::ENOPROTOOPT));
    Ok(Support { release, tx_budget })
}

/// What the kernel means when it refuses a socket.
fn refused(source: io::Error, release: &str) -> XskError {
    match source.raw_os_error() {
        Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT) => XskError::NoAfXdp {
            release: release.to_owned(),
        },
        Some(libc::EPERM | libc::EACCES) => XskError::NotPermitted {
            doing: "opening an AF_XDP socket",
        },
        _ => XskError::Os {
            interface: "AF_XDP".to_owned(),
            doing: "opening a socket",
            source,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_af_xdp_is_named_and_what_it_takes() {
        // Such a kernel can not be had in a namespace: its answer is played.
        let error = refused(io::Error::from_raw_os_error(libc::EAFNOSUPPORT), "5.10.0");
        let text = error.to_string();
        for words in ["5.10.0", "no AF_XDP", "5.11", "CONFIG_XDP_SOCKETS"] {
            assert!(text.contains(words), "{words:?} is missing in: {text}");
        }
        let error = refused(io::Error::from_raw_os_error(libc::EPERM), "5.10.0");
        assert!(error.to_string().contains("run as root"), "{error}");
        let error = refused(io::Error::from_raw_os_error(libc::EMFILE), "5.10.0");
        assert_eq!(error.errno(), Some(libc::EMFILE));
    }
}
