//! Creating an AF_XDP socket and binding it to one queue of one device.
//!
//! The first socket of an area registers the memory with the kernel (a UMEM); the next ones share that
//! UMEM through any socket bound to it, each with fill and completion rings of its own. The kernel lets
//! sharers inherit the mode of the socket they share with, so there is one UMEM for each mode in use
//! (zero-copy or copy, with or without need_wakeup), all over the same memory: a zero-copy NIC and
//! copying veths live side by side and pass frames to each other.

use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::arena::{AreaInner, PartId, Slot, UmemArea};
use super::error::kernel_release;
use super::map::{MappedRing, PacketDescriptor, RingLayout};
use super::ring::{Consumer, Producer};
use super::{XskError, ethtool, sys};

/// Length of a ring: a power of two, at most 2^20.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingLen(NonZeroU32);

impl RingLen {
    /// One slot: for a fill ring that is never used.
    pub const ONE: Self = Self(NonZeroU32::MIN);
    /// The longest there is.
    pub const MAX: u32 = 1 << 20;

    /// # Errors
    ///
    /// [`XskError::RingLen`] when `len` is no power of two or over [`RingLen::MAX`].
    pub const fn new(len: u32) -> Result<Self, XskError> {
        match NonZeroU32::new(len) {
            Some(slots) if len.is_power_of_two() && len <= Self::MAX => Ok(Self(slots)),
            Some(_) | None => Err(XskError::RingLen { len }),
        }
    }

    /// Slots.
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

/// Which mode to ask the driver for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Copy mode, on any driver. For veths, which have no other.
    #[default]
    Copy,
    /// Zero-copy if the driver can, copy otherwise.
    PreferZeroCopy,
    /// Zero-copy or an error.
    ZeroCopy,
}

/// Which mode a bound socket is in, as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModeInForce {
    /// The kernel copies each packet to and from the packet memory.
    Copy,
    /// The NIC reads and writes the packet memory itself.
    ZeroCopy,
}

impl std::fmt::Display for ModeInForce {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Copy => "copy",
            Self::ZeroCopy => "zero-copy",
        })
    }
}

/// What to ask of a socket.
#[derive(Clone, Copy, Debug)]
pub struct SocketOptions {
    /// RX ring; `None` for a socket that only sends.
    pub rx: Option<RingLen>,
    /// TX ring; `None` for a socket that only receives.
    pub tx: Option<RingLen>,
    /// Fill ring: how many chunks wait for packets. [`RingLen::ONE`] for a socket that only sends.
    pub fill: RingLen,
    /// How many of them wait while the queue is quiet; as many as fit, if this is `None`. Where it is fewer, a queue that runs
    /// low has more the next time ([`ArenaPart::set_extra`](super::ArenaPart::set_extra)).
    pub at_rest: Option<u32>,
    /// Completion ring: how many frames may be on their way out. At least as long as the TX ring.
    pub completion: RingLen,
    /// Let the driver say when a system call is needed instead of guessing.
    pub need_wakeup: bool,
    /// Copy or zero-copy.
    pub mode: Mode,
    /// How many packets one `sendto` may send in copy mode, from 32 to the TX ring's length. Kernels
    /// before 6.17 send 32 whatever is asked. `None` leaves the kernel's default.
    pub tx_budget: Option<u32>,
    /// How long to go on trying while the queue is busy: after an exit under load the kernel frees it
    /// only some 300 ms later.
    pub busy_patience: Duration,
}

impl SocketOptions {
    /// A socket that receives and sends, all four rings of one length.
    pub fn both_ways(len: RingLen) -> Self {
        Self {
            rx: Some(len),
            tx: Some(len),
            fill: len,
            at_rest: None,
            completion: len,
            need_wakeup: true,
            mode: Mode::Copy,
            tx_budget: Some(256),
            busy_patience: Duration::from_secs(2),
        }
    }

    /// A socket that only sends.
    pub fn send_only(len: RingLen) -> Self {
        Self {
            rx: None,
            fill: RingLen::ONE,
            ..Self::both_ways(len)
        }
    }

    /// A socket that only receives.
    pub fn receive_only(len: RingLen) -> Self {
        Self {
            tx: None,
            completion: RingLen::ONE,
            tx_budget: None,
            ..Self::both_ways(len)
        }
    }
}

/// A socket's drops and empty rings, as the kernel counts them (`XDP_STATISTICS`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Packets dropped for another reason than the next ones; on veth also for an empty fill ring.
    pub rx_dropped: u64,
    /// Chunk addresses in the fill ring that were out of range.
    pub rx_invalid: u64,
    /// Descriptors in the TX ring that were out of range.
    pub tx_invalid: u64,
    /// Packets dropped because the RX ring was full: the poller is too slow.
    pub rx_ring_full: u64,
    /// Times that the fill ring was empty: too few chunks, or the poller was away.
    pub fill_empty: u64,
    /// Times that the kernel found the TX ring empty.
    pub tx_empty: u64,
}

/// Which queue of which device of which network namespace. Interface numbers alone repeat across
/// namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueueKey {
    /// `SO_NETNS_COOKIE` of the namespace.
    pub netns: u64,
    /// Interface number.
    pub ifindex: u32,
    /// Queue, from 0.
    pub queue: u32,
}

/// One of the sockets bound to an area, as the others see it.
#[derive(Debug)]
pub(super) struct BoundSocket {
    id: u64,
    /// Valid while the entry is in the list: it is taken out before the descriptor is closed.
    fd: RawFd,
    key: QueueKey,
    kind: UmemKind,
}

impl BoundSocket {
    /// False once its device is gone: the kernel has unbound the socket, and it is no good to share with.
    fn is_alive(&self) -> bool {
        // SAFETY: the entry is in the list, whose lock the caller holds, so the descriptor is open.
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
        sys::is_bound(fd)
    }
}

impl AreaInner {
    /// Whether a live socket of this memory serves the queue. A dead one may carry the same key: a device
    /// can be created again with the number of one that was deleted.
    fn has_bound(&self, key: QueueKey) -> bool {
        self.bound()
            .iter()
            .any(|socket| socket.key == key && socket.is_alive())
    }
}

/// What sockets must agree in to share a UMEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct UmemKind {
    mode: ModeInForce,
    need_wakeup: bool,
}

/// Takes the socket out of the area's list when it goes.
#[derive(Debug)]
struct Registration {
    area: Arc<AreaInner>,
    id: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.area.bound().retain(|socket| socket.id != self.id);
    }
}

/// A bound AF_XDP socket with its rings. Becomes a [`QueuePort`](super::QueuePort) in a poller's hands.
///
/// The fields are dropped in this order: out of the list of sockets to share with, then the rings are
/// unmapped (a live mapping keeps the socket bound), then the descriptor is closed.
#[derive(Debug)]
pub struct XskSocket {
    registration: Registration,
    pub(super) fill: Producer<MappedRing<u64>>,
    pub(super) completion: Consumer<MappedRing<u64>>,
    pub(super) rx: Option<Consumer<MappedRing<PacketDescriptor>>>,
    pub(super) tx: Option<Producer<MappedRing<PacketDescriptor>>>,
    pub(super) fd: OwnedFd,
    pub(super) attachment: Option<(PartId, Slot)>,
    interface: String,
    key: QueueKey,
    mode: ModeInForce,
    tx_budget: u32,
    at_rest: u32,
}

/// Proof that a socket's rings are unmapped and its descriptor is closed; what
/// [`ArenaPart::quarantine`](super::ArenaPart::quarantine) wants.
#[derive(Debug)]
#[must_use = "the part keeps the socket's chunks until it gets this"]
pub struct ClosedSocket {
    attachment: Option<(PartId, Slot)>,
}

impl ClosedSocket {
    pub(super) fn attachment(&self) -> Option<(PartId, Slot)> {
        self.attachment
    }

    /// A proof of nothing, for tests of the record of places.
    #[cfg(test)]
    pub(super) fn for_test(part: PartId, slot: Slot) -> Self {
        Self {
            attachment: Some((part, slot)),
        }
    }
}

impl XskSocket {
    /// Opens a socket in the calling thread's network namespace and binds it to `queue` of `interface`.
    ///
    /// Waits up to `options.busy_patience` for a queue that is still held.
    ///
    /// # Errors
    ///
    /// Any [`XskError`]; nothing is left behind.
    pub fn open(
        area: &UmemArea,
        interface: &str,
        queue: u32,
        options: &SocketOptions,
    ) -> Result<Self, XskError> {
        if options.rx.is_none() && options.tx.is_none() {
            return Err(XskError::NoRings {
                interface: interface.to_owned(),
                queue,
            });
        }
        let target = Target::find(interface, queue)?;
        if area.inner().has_bound(target.key) {
            return Err(XskError::QueueTaken {
                interface: interface.to_owned(),
                queue,
            });
        }
        let open = |mode| {
            Opening {
                area: area.inner(),
                target: &target,
                options,
                mode,
            }
            .run()
        };
        match options.mode {
            Mode::Copy => open(ModeInForce::Copy),
            Mode::ZeroCopy => open(ModeInForce::ZeroCopy),
            Mode::PreferZeroCopy => match open(ModeInForce::ZeroCopy) {
                Err(XskError::NoZeroCopy { .. }) => open(ModeInForce::Copy),
                opened => opened,
            },
        }
    }

    /// The interface's name when the socket was opened.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The descriptor, to be put into an XSKMAP before a poller gets the socket. The map does not keep the socket open.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Namespace, interface number and queue.
    pub fn key(&self) -> QueueKey {
        self.key
    }

    /// The mode in force, as the kernel reports it.
    pub fn mode(&self) -> ModeInForce {
        self.mode
    }

    /// Packets that one `sendto` sends at most in copy mode.
    pub fn tx_budget(&self) -> u32 {
        self.tx_budget
    }

    /// Chunks that wait for packets while the queue is quiet.
    pub fn at_rest(&self) -> u32 {
        self.at_rest
    }

    /// The kernel's counters of this socket.
    ///
    /// # Errors
    ///
    /// What `getsockopt` says.
    pub fn statistics(&self) -> io::Result<Statistics> {
        // Kernels before 5.9 fill in the first three only; the rest stays 0.
        let (
            [
                rx_dropped,
                rx_invalid,
                tx_invalid,
                rx_ring_full,
                fill_empty,
                tx_empty,
            ],
            _,
        ) = sys::option_words::<6>(self.fd.as_fd(), libc::SOL_XDP, libc::XDP_STATISTICS)?;
        Ok(Statistics {
            rx_dropped,
            rx_invalid,
            tx_invalid,
            rx_ring_full,
            fill_empty,
            tx_empty,
        })
    }

    /// Unmaps the rings and closes the descriptor. May take some milliseconds (the kernel waits until no
    /// CPU uses the socket any more): for the control thread.
    pub fn close(self) -> ClosedSocket {
        let attachment = self.attachment;
        drop(self);
        ClosedSocket { attachment }
    }

    pub(super) fn area(&self) -> &Arc<AreaInner> {
        &self.registration.area
    }
}

/// For the XSKMAP. Not `AsFd`: safe code could duplicate that, and a duplicate would keep the socket
/// receiving into its chunks after [`XskSocket::close`] (invariant A5).
impl AsRawFd for XskSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// What to bind to, looked up and checked.
struct Target {
    interface: String,
    key: QueueKey,
    driver: String,
}

impl Target {
    fn find(interface: &str, queue: u32) -> Result<Self, XskError> {
        let control = sys::control_socket().map_err(|source| XskError::Os {
            interface: interface.to_owned(),
            doing: "opening a socket to ask about it",
            source,
        })?;
        let ifindex =
            nix::net::if_::if_nametoindex(interface).map_err(|_| XskError::NoSuchInterface {
                interface: interface.to_owned(),
            })?;
        // Not all drivers say; then the kernel judges at bind.
        if let Ok(channels) = ethtool::channels(interface)
            && queue >= channels.queues()
        {
            return Err(XskError::QueueOutOfRange {
                interface: interface.to_owned(),
                queue,
                available: channels.queues(),
            });
        }
        Ok(Self {
            interface: interface.to_owned(),
            key: QueueKey {
                netns: sys::netns_cookie(control.as_fd()),
                ifindex,
                queue,
            },
            driver: ethtool::driver(interface).unwrap_or_else(|_| "unknown".to_owned()),
        })
    }

    fn os(&self, doing: &'static str) -> impl FnOnce(io::Error) -> XskError + '_ {
        move |source| {
            if source.kind() == io::ErrorKind::PermissionDenied {
                return XskError::NotPermitted { doing };
            }
            XskError::Os {
                interface: format!("{} queue {}", self.interface, self.key.queue),
                doing,
                source,
            }
        }
    }
}

/// One way of opening: in one mode.
struct Opening<'a> {
    area: &'a Arc<AreaInner>,
    target: &'a Target,
    options: &'a SocketOptions,
    mode: ModeInForce,
}

impl Opening<'_> {
    fn run(&self) -> Result<XskSocket, XskError> {
        let fd = open_fd(self.target)?;
        let rings = Rings::create(fd.as_fd(), self.target, self.options)?;
        let tx_budget = self.options.tx.map_or(0, |tx| {
            set_tx_budget(fd.as_fd(), tx, self.options.tx_budget)
        });
        let id = self.bind_patiently(fd.as_fd())?;
        let registration = Registration {
            area: Arc::clone(self.area),
            id,
        };
        let mode =
            mode_in_force(fd.as_fd()).map_err(self.target.os("reading the mode in force"))?;
        Ok(XskSocket {
            registration,
            fill: rings.fill,
            completion: rings.completion,
            rx: rings.rx,
            tx: rings.tx,
            fd,
            attachment: None,
            interface: self.target.interface.clone(),
            key: self.target.key,
            mode,
            tx_budget,
            at_rest: self.options.at_rest.unwrap_or(self.options.fill.get()),
        })
    }

    /// Binds, trying again while the queue is busy; returns the socket's number in the area's list.
    #[expect(
        clippy::disallowed_methods,
        reason = "waits for the kernel to let go of a queue, once a socket"
    )]
    fn bind_patiently(&self, fd: BorrowedFd<'_>) -> Result<u64, XskError> {
        let started = Instant::now();
        let mut pause = Duration::from_millis(5);
        let mut registered = false;
        loop {
            let error = match self.bind_once(fd, &mut registered) {
                Ok(id) => return Ok(id),
                Err(BindError::Final(error)) => return Err(error),
                Err(BindError::Refused(error)) => error,
            };
            let waited = started.elapsed();
            match error.raw_os_error() {
                Some(libc::EBUSY) if waited < self.options.busy_patience => {
                    thread::sleep(pause.min(self.options.busy_patience.saturating_sub(waited)));
                    pause = (pause * 2).min(Duration::from_millis(200));
                }
                Some(libc::EBUSY) => {
                    return Err(XskError::QueueBusy {
                        interface: self.target.interface.clone(),
                        queue: self.target.key.queue,
                        waited,
                    });
                }
                Some(libc::EOPNOTSUPP | libc::EINVAL) if self.mode == ModeInForce::ZeroCopy => {
                    return Err(XskError::NoZeroCopy {
                        interface: self.target.interface.clone(),
                        queue: self.target.key.queue,
                        driver: self.target.driver.clone(),
                    });
                }
                Some(libc::ENODEV) => {
                    return Err(XskError::NoSuchInterface {
                        interface: self.target.interface.clone(),
                    });
                }
                _ => return Err(self.target.os("binding an AF_XDP socket")(error)),
            }
        }
    }

    /// Shares the UMEM of a bound socket of the same kind, or registers the memory and binds alone.
    fn bind_once(&self, fd: BorrowedFd<'_>, registered: &mut bool) -> Result<u64, BindError> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let kind = UmemKind {
            mode: self.mode,
            need_wakeup: self.options.need_wakeup,
        };
        let mut bound = self.area.bound();
        let reference = bound
            .iter()
            .find(|socket| socket.kind == kind && socket.is_alive())
            .map(|socket| socket.fd);
        let mut address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: 0,
            sxdp_ifindex: self.target.key.ifindex,
            sxdp_queue_id: self.target.key.queue,
            sxdp_shared_umem_fd: 0,
        };
        match reference {
            Some(reference) if !*registered => {
                // No other flag is allowed here: mode and need_wakeup are those of `reference`.
                address.sxdp_flags = libc::XDP_SHARED_UMEM;
                address.sxdp_shared_umem_fd = reference.cast_unsigned();
            }
            Some(_) | None => {
                if !*registered {
                    self.register(fd).map_err(BindError::Final)?;
                    *registered = true;
                }
                address.sxdp_flags = match self.mode {
                    ModeInForce::Copy => libc::XDP_COPY,
                    ModeInForce::ZeroCopy => libc::XDP_ZEROCOPY,
                } | if self.options.need_wakeup {
                    libc::XDP_USE_NEED_WAKEUP
                } else {
                    0
                };
            }
        }
        sys::bind(fd, &address).map_err(BindError::Refused)?;
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        bound.push(BoundSocket {
            id,
            fd: fd.as_raw_fd(),
            key: self.target.key,
            kind,
        });
        Ok(id)
    }

    fn register(&self, fd: BorrowedFd<'_>) -> Result<(), XskError> {
        let umem = self.area.registration();
        sys::set_option(fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &umem).map_err(|source| match source
            .raw_os_error()
        {
            Some(libc::ENOBUFS | libc::ENOMEM | libc::EPERM) => XskError::MemoryLimit {
                bytes: self.area.bytes(),
                source,
            },
            _ => self.target.os("registering the packet memory")(source),
        })
    }
}

enum BindError {
    /// The bind call said no: perhaps only for now.
    Refused(io::Error),
    Final(XskError),
}

struct Rings {
    fill: Producer<MappedRing<u64>>,
    completion: Consumer<MappedRing<u64>>,
    rx: Option<Consumer<MappedRing<PacketDescriptor>>>,
    tx: Option<Producer<MappedRing<PacketDescriptor>>>,
}

impl Rings {
    fn create(
        fd: BorrowedFd<'_>,
        target: &Target,
        options: &SocketOptions,
    ) -> Result<Self, XskError> {
        let size = |name, len: RingLen| {
            sys::set_option(fd, libc::SOL_XDP, name, &len.get())
                .map_err(target.os("making its rings"))
        };
        size(libc::XDP_UMEM_FILL_RING, options.fill)?;
        size(libc::XDP_UMEM_COMPLETION_RING, options.completion)?;
        if let Some(rx) = options.rx {
            size(libc::XDP_RX_RING, rx)?;
        }
        if let Some(tx) = options.tx {
            size(libc::XDP_TX_RING, tx)?;
        }
        Self::map(fd, options).map_err(target.os("mapping its rings"))
    }

    fn map(fd: BorrowedFd<'_>, options: &SocketOptions) -> io::Result<Self> {
        let (words, bytes) = sys::option_words::<16>(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS)?;
        // Kernels before 5.4 leave out the flags' offsets; we need them.
        if bytes != size_of::<libc::xdp_mmap_offsets>() {
            return Err(io::Error::other(
                "the kernel is too old (XDP_MMAP_OFFSETS without flags)",
            ));
        }
        let mut layouts = words.as_chunks::<4>().0.iter().map(|ring| {
            let [producer, consumer, descriptors, flags] = *ring;
            RingLayout {
                producer,
                consumer,
                descriptors,
                flags,
            }
        });
        let mut next = || {
            layouts
                .next()
                .ok_or_else(|| io::Error::other("XDP_MMAP_OFFSETS is short"))
        };
        // In the order of `struct xdp_mmap_offsets`.
        let (rx, tx, fill, completion) = (next()?, next()?, next()?, next()?);
        let packets = |len: RingLen, layout, offset| {
            MappedRing::<PacketDescriptor>::map(fd, len, layout, offset)
        };
        let addresses = |len: RingLen, layout, offset: u64| {
            MappedRing::<u64>::map(fd, len, layout, offset.cast_signed())
        };
        Ok(Self {
            fill: Producer::new(addresses(
                options.fill,
                fill,
                libc::XDP_UMEM_PGOFF_FILL_RING,
            )?),
            completion: Consumer::new(addresses(
                options.completion,
                completion,
                libc::XDP_UMEM_PGOFF_COMPLETION_RING,
            )?),
            rx: options
                .rx
                .map(|len| packets(len, rx, libc::XDP_PGOFF_RX_RING))
                .transpose()?
                .map(Consumer::new),
            tx: options
                .tx
                .map(|len| packets(len, tx, libc::XDP_PGOFF_TX_RING))
                .transpose()?
                .map(Producer::new),
        })
    }
}

fn open_fd(target: &Target) -> Result<OwnedFd, XskError> {
    sys::xdp_socket().map_err(|source| match source.raw_os_error() {
        Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT) => XskError::NoAfXdp {
            release: kernel_release(),
        },
        _ => target.os("opening an AF_XDP socket")(source),
    })
}

/// Asks for `wanted` packets a `sendto`; returns what holds.
fn set_tx_budget(fd: BorrowedFd<'_>, ring: RingLen, wanted: Option<u32>) -> u32 {
    /// `TX_BATCH_SIZE` of the kernel: the default, and the least that may be asked for.
    const DEFAULT: u32 = 32;
    let Some(wanted) = wanted.map(|packets| packets.min(ring.get())) else {
        return DEFAULT;
    };
    if wanted <= DEFAULT {
        return DEFAULT;
    }
    match sys::set_option(fd, libc::SOL_XDP, sys::XDP_MAX_TX_SKB_BUDGET, &wanted) {
        Ok(()) => wanted,
        // An older kernel: flushing loops until the ring is drained anyway.
        Err(_) => DEFAULT,
    }
}

fn mode_in_force(fd: BorrowedFd<'_>) -> io::Result<ModeInForce> {
    let options = sys::option_int(fd, libc::SOL_XDP, libc::XDP_OPTIONS)?;
    let zero_copy = options.cast_unsigned() & libc::XDP_OPTIONS_ZEROCOPY != 0;
    Ok(if zero_copy {
        ModeInForce::ZeroCopy
    } else {
        ModeInForce::Copy
    })
}
