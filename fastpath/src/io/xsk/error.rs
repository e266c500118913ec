//! Why a socket or the packet memory cannot be had, and what to do about it.

use std::io;
use std::time::Duration;

/// What went wrong, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum XskError {
    /// The name is unknown in the calling thread's network namespace.
    #[error(
        "{interface}: no such interface in this network namespace; `ip link` lists those there are"
    )]
    NoSuchInterface {
        /// The name asked for.
        interface: String,
    },
    /// The process lacks a capability.
    #[error("{doing}: not permitted; run as root or with CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF")]
    NotPermitted {
        /// What was tried.
        doing: &'static str,
    },
    /// The kernel has no AF_XDP.
    #[error(
        "this kernel ({release}) has no AF_XDP sockets; Linux 5.11 or newer built with CONFIG_XDP_SOCKETS=y is needed"
    )]
    NoAfXdp {
        /// What `uname -r` says.
        release: String,
    },
    /// Zero-copy was demanded, and the driver cannot.
    #[error(
        "{interface} queue {queue}: its driver ({driver}) has no zero-copy mode here; use copy mode, or let the mode be chosen"
    )]
    NoZeroCopy {
        /// Interface.
        interface: String,
        /// Queue.
        queue: u32,
        /// Driver's name, or `unknown`.
        driver: String,
    },
    /// The queue number is too high.
    #[error(
        "{interface}: queue {queue} asked for, it has {available} (numbered from 0); `ethtool -L {interface}` sets how many"
    )]
    QueueOutOfRange {
        /// Interface.
        interface: String,
        /// Queue asked for.
        queue: u32,
        /// Queues there are.
        available: u32,
    },
    /// Another socket holds the queue.
    #[error(
        "{interface} queue {queue}: held by another AF_XDP socket (tried for {waited:?}); stop the other program, or choose another queue"
    )]
    QueueBusy {
        /// Interface.
        interface: String,
        /// Queue.
        queue: u32,
        /// How long it was tried.
        waited: Duration,
    },
    /// A socket of this process and this packet memory holds the queue.
    #[error(
        "{interface} queue {queue}: already bound by this process; one socket serves one queue"
    )]
    QueueTaken {
        /// Interface.
        interface: String,
        /// Queue.
        queue: u32,
    },
    /// The kernel would not pin the packet memory.
    #[error(
        "the kernel cannot pin {bytes} bytes of packet memory: {source}; raise RLIMIT_MEMLOCK (LimitMEMLOCK=infinity), give CAP_IPC_LOCK, or use fewer frames"
    )]
    MemoryLimit {
        /// Bytes of the area.
        bytes: u64,
        /// The system's word.
        source: io::Error,
    },
    /// The packet memory could not be mapped.
    #[error("no memory for {bytes} bytes of packet memory: {source}; use fewer frames")]
    OutOfMemory {
        /// Bytes of the area.
        bytes: u64,
        /// The system's word.
        source: io::Error,
    },
    /// The shape of the packet memory is impossible.
    #[error(
        "packet memory of {chunks} chunks of {chunk_size} bytes: at least one chunk of 2048 or 4096 bytes is needed, at most 2^32 - 1"
    )]
    Arena {
        /// Chunks asked for.
        chunks: u64,
        /// Bytes a chunk.
        chunk_size: u32,
    },
    /// A ring's length is not a power of two the kernel takes.
    #[error("a ring of {len} slots: must be a power of two, at most 2^20")]
    RingLen {
        /// Slots asked for.
        len: u32,
    },
    /// Neither RX nor TX was asked for.
    #[error("{interface} queue {queue}: a socket needs an RX ring or a TX ring")]
    NoRings {
        /// Interface.
        interface: String,
        /// Queue.
        queue: u32,
    },
    /// Too many sockets on one part of the memory.
    #[error("one part of the packet memory serves at most 21844 sockets")]
    TooManySockets,
    /// A socket and a part that belong to different packet memories.
    #[error("the socket and this part belong to different packet memories")]
    OtherArea,
    /// Anything else the system said.
    #[error("{interface}: {doing}: {source}")]
    Os {
        /// Interface, with its queue where it matters.
        interface: String,
        /// What was tried.
        doing: &'static str,
        /// The system's word.
        source: io::Error,
    },
}

impl XskError {
    /// The system's error number, where one is behind it.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Os { source, .. }
            | Self::MemoryLimit { source, .. }
            | Self::OutOfMemory { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// What `uname -r` says.
pub(super) fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}
