//! The smallest XDP programs there are, through the `bpf` system call.

use std::ffi::c_long;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

const BPF_MAP_CREATE: c_long = 0;
const BPF_MAP_UPDATE_ELEM: c_long = 2;
const BPF_PROG_LOAD: c_long = 5;
const BPF_LINK_CREATE: c_long = 28;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_XDP: u32 = 6;
/// The attach type of a link.
const BPF_XDP: u32 = 37;
/// In the driver, not on skbs.
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;
const BPF_FUNC_REDIRECT_MAP: i32 = 51;
const BPF_PSEUDO_MAP_FD: u8 = 1;

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

/// An XDP program, loaded and not yet attached.
#[derive(Debug)]
pub struct XdpProgram {
    program: OwnedFd,
    sockets: Option<OwnedFd>,
}

impl XdpProgram {
    /// Takes every frame for the socket of its queue, passes it to the kernel where there is none.
    ///
    /// # Panics
    ///
    /// When the kernel refuses it.
    #[must_use]
    pub fn redirect(queues: u32) -> Self {
        let sockets = create_xskmap(queues).expect("an XSKMAP");
        let program = load(&[
            // r2 = ctx->rx_queue_index
            instruction(0x61, 0x12, 16, 0),
            // r1 = the map
            instruction(0x18, BPF_PSEUDO_MAP_FD << 4 | 1, 0, sockets.as_raw_fd()),
            instruction(0, 0, 0, 0),
            // r3 = what to do when the map has nothing there
            instruction(0xb7, 0x03, 0, XDP_PASS),
            instruction(0x85, 0, 0, BPF_FUNC_REDIRECT_MAP),
            instruction(0x95, 0, 0, 0),
        ])
        .expect("the redirect program");
        Self {
            program,
            sockets: Some(sockets),
        }
    }

    /// Drops every frame: the cheapest sink.
    ///
    /// # Panics
    ///
    /// When the kernel refuses it.
    #[must_use]
    pub fn drop_all() -> Self {
        Self::constant(XDP_DROP)
    }

    /// Passes every frame to the kernel.
    ///
    /// # Panics
    ///
    /// When the kernel refuses it.
    #[must_use]
    pub fn pass_all() -> Self {
        Self::constant(XDP_PASS)
    }

    fn constant(verdict: i32) -> Self {
        let program = load(&[instruction(0xb7, 0, 0, verdict), instruction(0x95, 0, 0, 0)]);
        Self {
            program: program.expect("a program of two instructions"),
            sockets: None,
        }
    }

    /// Frames of `queue` go to `socket` from now on.
    ///
    /// # Panics
    ///
    /// When the program has no sockets, or the kernel refuses: the socket must be bound.
    pub fn set_socket(&self, queue: u32, socket: &impl AsRawFd) {
        let sockets = self.sockets.as_ref().expect("a redirecting program");
        update(sockets, queue, socket.as_raw_fd()).expect("a bound socket for the XSKMAP");
    }

    /// Attaches it to `interface` of this thread's namespace, in native mode, until the link is dropped.
    ///
    /// # Panics
    ///
    /// When the kernel refuses: another program is attached, or the driver has no native XDP.
    #[must_use]
    pub fn attach(&self, interface: &str) -> XdpLink {
        let ifindex = nix::net::if_::if_nametoindex(interface).expect("an interface of this name");
        let link = attach(&self.program, ifindex);
        XdpLink {
            _link: link.unwrap_or_else(|error| panic!("{interface}: {error}")),
        }
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

fn create_xskmap(queues: u32) -> io::Result<OwnedFd> {
    let attributes = MapCreate {
        map_type: BPF_MAP_TYPE_XSKMAP,
        key_size: 4,
        value_size: 4,
        max_entries: queues,
        map_flags: 0,
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

fn load(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let attributes = ProgramLoad {
        program_type: BPF_PROG_TYPE_XDP,
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
        expected_attach_type: BPF_XDP,
    };
    bpf(BPF_PROG_LOAD, &attributes).map(owned)
}

fn attach(program: &OwnedFd, ifindex: u32) -> io::Result<OwnedFd> {
    let attributes = LinkCreate {
        program: program.as_raw_fd().cast_unsigned(),
        ifindex,
        attach_type: BPF_XDP,
        flags: XDP_FLAGS_DRV_MODE,
    };
    bpf(BPF_LINK_CREATE, &attributes).map(owned)
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
