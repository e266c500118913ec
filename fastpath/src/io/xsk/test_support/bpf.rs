//! The smallest XDP programs there are, through the `bpf` system call.

use std::ffi::c_long;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::io::xsk::map::Mapping;

const BPF_MAP_CREATE: c_long = 0;
const BPF_MAP_UPDATE_ELEM: c_long = 2;
const BPF_PROG_LOAD: c_long = 5;
const BPF_LINK_CREATE: c_long = 28;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
/// The map's values can be mapped into memory.
const BPF_F_MMAPABLE: u32 = 1 << 10;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
/// Attach types of links.
const BPF_XDP: u32 = 37;
const BPF_TCX_INGRESS: u32 = 46;
/// In the driver, not on skbs.
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;
const TC_ACT_SHOT: i32 = 2;
const BPF_FUNC_REDIRECT_MAP: i32 = 51;
const BPF_PSEUDO_MAP_FD: u8 = 1;
const BPF_PSEUDO_MAP_VALUE: u8 = 2;

/// `struct bpf_insn`: opcode, registers (source << 4 | destination), offset, immediate.
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    opcode: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(opcode: u8, registers: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        opcode,
        registers,
        offset,
        immediate,
    }
}

/// An XDP program that takes all frames for AF_XDP sockets, loaded and not yet attached.
#[derive(Debug)]
pub struct XdpProgram {
    program: OwnedFd,
    sockets: OwnedFd,
}

impl XdpProgram {
    /// Takes every frame for the socket of its queue, passes it to the kernel where there is none.
    ///
    /// # Panics
    ///
    /// When the kernel refuses it.
    #[must_use]
    pub fn redirect(queues: u32) -> Self {
        let sockets = create_map(BPF_MAP_TYPE_XSKMAP, 4, queues, 0).expect("an XSKMAP");
        let program = load(
            BPF_PROG_TYPE_XDP,
            &[
                // r2 = ctx->rx_queue_index
                instruction(0x61, 0x12, 16, 0),
                // r1 = the map
                instruction(0x18, BPF_PSEUDO_MAP_FD << 4 | 1, 0, sockets.as_raw_fd()),
                instruction(0, 0, 0, 0),
                // r3 = what to do when the map has nothing there
                instruction(0xb7, 0x03, 0, XDP_PASS),
                instruction(0x85, 0, 0, BPF_FUNC_REDIRECT_MAP),
                instruction(0x95, 0, 0, 0),
            ],
        )
        .expect("the redirect program");
        Self { program, sockets }
    }

    /// Frames of `queue` go to `socket` from now on.
    ///
    /// # Panics
    ///
    /// When the kernel refuses: the socket must be bound, the queue be one of the program's.
    pub fn set_socket(&self, queue: u32, socket: &impl AsRawFd) {
        update(&self.sockets, queue, socket.as_raw_fd()).expect("a bound socket for the XSKMAP");
    }

    /// Attaches it to `interface` of this thread's namespace, in native mode, until the link is dropped.
    ///
    /// # Panics
    ///
    /// When the kernel refuses: another program is attached, or the driver has no native XDP.
    #[must_use]
    pub fn attach(&self, interface: &str) -> XdpLink {
        attach(&self.program, interface, BPF_XDP, XDP_FLAGS_DRV_MODE)
    }
}

/// Where a [`Sink`] stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkHook {
    /// In XDP, before the kernel makes a packet of the frame.
    Xdp,
    /// In tc, behind the device's own way of receiving, as in a pod without XDP (Linux 6.6).
    Tc,
}

/// Counts every frame that comes in at an interface and drops it, until it is dropped itself.
#[derive(Debug)]
pub struct Sink {
    counters: Mapping,
    _link: XdpLink,
}

impl Sink {
    /// A sink at `interface` of this thread's namespace.
    ///
    /// # Panics
    ///
    /// When the kernel refuses it.
    #[must_use]
    pub fn attach(interface: &str, hook: SinkHook) -> Self {
        let counters = create_map(BPF_MAP_TYPE_ARRAY, 16, 1, BPF_F_MMAPABLE).expect("an array map");
        // What `data_end - data` and `len` have in common: the bytes from the Ethernet header on.
        let length: &[Instruction] = match hook {
            SinkHook::Xdp => &[
                // r2 = ctx->data_end - ctx->data
                instruction(0x61, 0x12, 4, 0),
                instruction(0x61, 0x13, 0, 0),
                instruction(0x1f, 0x32, 0, 0),
            ],
            // r2 = skb->len
            SinkHook::Tc => &[instruction(0x61, 0x12, 0, 0)],
        };
        let verdict = match hook {
            SinkHook::Xdp => XDP_DROP,
            SinkHook::Tc => TC_ACT_SHOT,
        };
        let count = [
            // r1 = the counters
            instruction(0x18, BPF_PSEUDO_MAP_VALUE << 4 | 1, 0, counters.as_raw_fd()),
            instruction(0, 0, 0, 0),
            // packets += 1, bytes += r2, atomically
            instruction(0xb7, 0x03, 0, 1),
            instruction(0xdb, 0x31, 0, 0),
            instruction(0xdb, 0x21, 8, 0),
            instruction(0xb7, 0, 0, verdict),
            instruction(0x95, 0, 0, 0),
        ];
        let instructions = [length, &count].concat();
        let link = match hook {
            SinkHook::Xdp => {
                let program = load(BPF_PROG_TYPE_XDP, &instructions).expect("the sink's program");
                attach(&program, interface, BPF_XDP, XDP_FLAGS_DRV_MODE)
            }
            SinkHook::Tc => {
                let program =
                    load(BPF_PROG_TYPE_SCHED_CLS, &instructions).expect("the sink's program");
                attach(&program, interface, BPF_TCX_INGRESS, 0)
            }
        };
        let counters = Mapping::of(counters.as_fd(), 4096, 0).expect("the counters' page");
        Self {
            counters,
            _link: link,
        }
    }

    /// Frames so far, without a system call.
    pub fn packets(&self) -> u64 {
        self.word(0)
    }

    /// Bytes so far, from the Ethernet headers on.
    pub fn bytes(&self) -> u64 {
        self.word(1)
    }

    fn word(&self, at: usize) -> u64 {
        let words = self.counters.start().cast::<[AtomicU64; 2]>();
        // SAFETY: the mapping is a page, aligned as such, alive as long as `self`; the kernel changes the
        // words atomically.
        let words = unsafe { words.as_ref() };
        words.get(at).map_or(0, |word| word.load(Ordering::Relaxed))
    }
}

/// A program at an interface; detached on drop.
#[derive(Debug)]
pub struct XdpLink {
    _link: OwnedFd,
}

/// The members of `union bpf_attr` that BPF_MAP_CREATE reads.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// Those of BPF_MAP_UPDATE_ELEM.
#[repr(C)]
struct MapUpdate {
    map: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Those of BPF_PROG_LOAD.
#[repr(C)]
struct ProgramLoad {
    program_type: u32,
    instructions: u32,
    first_instruction: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    expected_attach_type: u32,
}

/// Those of BPF_LINK_CREATE.
#[repr(C)]
struct LinkCreate {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

fn create_map(
    map_type: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
) -> io::Result<OwnedFd> {
    let attributes = MapCreate {
        map_type,
        key_size: 4,
        value_size,
        max_entries,
        map_flags,
    };
    bpf(BPF_MAP_CREATE, &attributes).map(owned)
}

fn update(map: &OwnedFd, key: u32, value: RawFd) -> io::Result<()> {
    let attributes = MapUpdate {
        map: map.as_raw_fd().cast_unsigned(),
        _pad: 0,
        key: &raw const key as u64,
        value: &raw const value as u64,
        flags: 0,
    };
    bpf(BPF_MAP_UPDATE_ELEM, &attributes).map(|_| ())
}

fn load(program_type: u32, instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let attributes = ProgramLoad {
        program_type,
        instructions: instructions.len() as u32,
        first_instruction: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"caracal_test\0\0\0\0",
        ifindex: 0,
        expected_attach_type: 0,
    };
    bpf(BPF_PROG_LOAD, &attributes).map(owned)
}

fn attach(program: &OwnedFd, interface: &str, attach_type: u32, flags: u32) -> XdpLink {
    let ifindex = nix::net::if_::if_nametoindex(interface).expect("an interface of this name");
    let program = program.as_raw_fd().cast_unsigned();
    let link = bpf(
        BPF_LINK_CREATE,
        &LinkCreate {
            program,
            ifindex,
            attach_type,
            flags,
        },
    );
    let link = link.unwrap_or_else(|error| panic!("{interface}: {error}"));
    XdpLink { _link: owned(link) }
}

fn bpf<T>(command: c_long, attributes: &T) -> io::Result<RawFd> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of `attributes`, which hold the members that the
    // command reads; the pointers in them lead to values that the callers keep alive over the call.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(rc as RawFd)
    }
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: `fd` is what the kernel has just returned, and nothing else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
