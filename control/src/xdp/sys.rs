//! The few bpf(2) commands that aya does not offer. On links: it keeps the interface of a link to itself and falls
//! back from a refused link to a netlink attachment, which would outlive the process. On maps: it reads one element with each call.
#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper for these commands")]

use std::ffi::{CStr, CString};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

// enum bpf_cmd, enum bpf_attach_type, enum bpf_link_type and enum bpf_map_type of <linux/bpf.h>.
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;
const BPF_ATTACH_XDP: u32 = 37;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_LINK_TYPE_XDP: u32 = 6;
const BPF_LINK_TYPE_TCX: u32 = 11;
const BPF_MAP_TYPE_HASH: u32 = 1;
/// Of a tcx link: in front of all other programs.
const BPF_F_BEFORE: u32 = 1 << 3;

/// `union bpf_attr` for the commands below: plain words, zero beyond what a command defines.
/// Shorter than the kernel's union, which takes the rest as zero, but as long as the longest of these commands' parts.
#[repr(C)]
#[derive(Default)]
struct Attr {
    words: [u64; 8],
}

impl Attr {
    /// The union from 32-bit words, as most commands lay it out.
    fn of(words: [u32; 4]) -> Self {
        let [a, b, c, d] = words;
        Self {
            words: [pair(a, b), pair(c, d), 0, 0, 0, 0, 0, 0],
        }
    }
}

/// Two 32-bit words, as they lie one after the other.
fn pair(a: u32, b: u32) -> u64 {
    let [a, b] = [a.to_ne_bytes(), b.to_ne_bytes()];
    u64::from_ne_bytes([a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]])
}

/// The first of two 32-bit words.
fn first(pair: u64) -> u32 {
    let [a, b, c, d, ..] = pair.to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

/// `struct bpf_link_info` as far as XDP and tcx links fill it.
#[repr(C)]
#[derive(Default)]
struct RawLinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    reserved: u32,
    ifindex: u32,
    tail: [u32; 11],
}

/// `struct bpf_map_info` as far as it is needed.
#[repr(C)]
#[derive(Default)]
struct RawMapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

/// Where a link's program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkKind {
    /// In the driver, or in front of the kernel's stack.
    Xdp,
    /// In the kernel's stack, on what comes in.
    Tcx,
}

/// What the kernel says of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkInfo {
    /// Where the program runs.
    pub kind: LinkKind,
    /// The program the link runs.
    pub prog_id: u32,
    /// The device it is on, 0 when the device is gone or the link was detached.
    pub ifindex: u32,
}

/// Attaches the XDP program `prog` to a device of this thread's network namespace.
pub(super) fn link_create(prog: BorrowedFd<'_>, ifindex: u32, flags: u32) -> io::Result<OwnedFd> {
    create([fd_word(prog), ifindex, BPF_ATTACH_XDP, flags])
}

/// Attaches the classifier `prog` to what comes in by a device of this thread's network namespace, in front of all others there.
pub(super) fn tcx_link_create(prog: BorrowedFd<'_>, ifindex: u32) -> io::Result<OwnedFd> {
    create([fd_word(prog), ifindex, BPF_TCX_INGRESS, BPF_F_BEFORE])
}

fn create(words: [u32; 4]) -> io::Result<OwnedFd> {
    let mut attr = Attr::of(words);
    // SAFETY: BPF_LINK_CREATE reads the attribute only and follows no pointer for BPF_XDP and BPF_TCX_INGRESS.
    let fd = unsafe { bpf(BPF_LINK_CREATE, &mut attr) }?;
    // SAFETY: the kernel just made this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes the link run `prog`; packets see the old or the new program, never none.
pub(super) fn link_update(link: BorrowedFd<'_>, prog: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = Attr::of([fd_word(link), fd_word(prog), 0, 0]);
    // SAFETY: BPF_LINK_UPDATE reads the attribute only and follows no pointer.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// Takes the link off its device, pinned or not.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = Attr::of([fd_word(link), 0, 0, 0]);
    // SAFETY: BPF_LINK_DETACH reads the attribute only and follows no pointer.
    unsafe { bpf(BPF_LINK_DETACH, &mut attr) }.map(drop)
}

/// The classifiers on what comes in by a device of this thread's network namespace, by their ids: those attached by tcx, and not more than
/// are asked about.
pub(super) fn tcx_programs(ifindex: u32) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; 64];
    let mut attr = Attr::of([ifindex, BPF_TCX_INGRESS, 0, 0]);
    attr.words[2] = (&raw mut ids).expose_provenance() as u64;
    // The number in the first half, the other is none of the command's.
    attr.words[3] = pair(ids.len() as u32, 0);
    // SAFETY: the kernel writes at most as many ids as the attribute says through the pointer, to a live local, and its other answers
    // into the attribute, which holds all of the command's part.
    unsafe { bpf(BPF_PROG_QUERY, &mut attr) }?;
    let count = first(attr.words[3]) as usize;
    Ok(ids.iter().take(count).copied().collect())
}

/// What the kernel says of `link`; an error when it is neither an XDP link nor one of tcx.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = RawLinkInfo::default();
    let mut attr = Attr::of([fd_word(link), size_of::<RawLinkInfo>() as u32, 0, 0]);
    attr.words[1] = (&raw mut info).expose_provenance() as u64;
    // SAFETY: the kernel writes at most the stated size through the pointer, to a live local.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    let kind = match info.kind {
        BPF_LINK_TYPE_XDP => LinkKind::Xdp,
        BPF_LINK_TYPE_TCX => LinkKind::Tcx,
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "neither an XDP link nor one of tcx",
            ));
        }
    };
    Ok(LinkInfo {
        kind,
        prog_id: info.prog_id,
        ifindex: info.ifindex,
    })
}

/// The elements of a hash map whose keys and values have these lengths, in bytes.
pub(super) struct Elements<const KEY: usize, const VALUE: usize> {
    map: OwnedFd,
    most: usize,
}

/// What was copied of a map.
pub(super) struct Copied {
    /// How many elements.
    pub count: usize,
    /// The bucket to go on with; `None`: that was the last.
    pub next: Option<u32>,
}

impl<const KEY: usize, const VALUE: usize> Elements<KEY, VALUE> {
    /// Those of a map; an error when it is no hash map with such keys and values.
    pub(super) fn of(map: impl AsFd) -> io::Result<Self> {
        let map = map.as_fd().try_clone_to_owned()?;
        let mut info = RawMapInfo::default();
        let len = size_of::<RawMapInfo>() as u32;
        let mut attr = Attr::of([fd_word(map.as_fd()), len, 0, 0]);
        attr.words[1] = (&raw mut info).expose_provenance() as u64;
        // SAFETY: the kernel writes at most the stated size through the pointer, to a live local.
        unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
        let lengths = (info.key_size as usize, info.value_size as usize);
        if info.kind != BPF_MAP_TYPE_HASH || lengths != (KEY, VALUE) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "no hash map with such keys and values",
            ));
        }
        Ok(Self {
            map,
            most: info.max_entries as usize,
        })
    }

    /// How many there may be.
    pub(super) const fn most(&self) -> usize {
        self.most
    }

    /// Copies the elements of whole buckets, from the first bucket or this one on, as many as there is room for in the shorter of both. ENOSPC
    /// when there is not enough for one bucket.
    pub(super) fn copy(
        &self,
        from: Option<u32>,
        keys: &mut [[u8; KEY]],
        values: &mut [[u8; VALUE]],
    ) -> io::Result<Copied> {
        let room = u32::try_from(keys.len().min(values.len())).unwrap_or(u32::MAX);
        let (mut begin, mut next) = (from.unwrap_or_default(), 0_u32);
        let mut attr = Attr::default();
        if from.is_some() {
            attr.words[0] = (&raw mut begin).expose_provenance() as u64;
        }
        attr.words[1] = (&raw mut next).expose_provenance() as u64;
        attr.words[2] = keys.as_mut_ptr().expose_provenance() as u64;
        attr.words[3] = values.as_mut_ptr().expose_provenance() as u64;
        attr.words[4] = pair(room, fd_word(self.map.as_fd()));
        // SAFETY: the kernel reads a bucket's number of 32 bits through the first pointer unless that is null, and writes one through the
        // second, both live locals. It writes at most as many keys and values as the attribute says through the others, to slices with
        // room for as many: `of` has made sure that this is a hash map with keys and values of these lengths, and `map` is that map as long
        // as it is open. Any bytes are a key or a value. Its other answer goes into the attribute, which holds all of the command's part.
        let done = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) };
        let is_last = match done {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        Ok(Copied {
            count: first(attr.words[4]) as usize,
            next: (!is_last).then_some(next),
        })
    }
}

/// Pins `link` at `path`, which must be on a bpffs.
pub(super) fn pin(link: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = path_attr(&path, fd_word(link));
    // SAFETY: the kernel reads a NUL-terminated string through the pointer; `path` outlives the call.
    unsafe { bpf(BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// Opens what is pinned at `path`.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = path_attr(&path, 0);
    // SAFETY: the kernel reads a NUL-terminated string through the pointer; `path` outlives the call.
    let fd = unsafe { bpf(BPF_OBJ_GET, &mut attr) }?;
    // SAFETY: the kernel just made this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn path_attr(path: &CStr, fd: u32) -> Attr {
    let mut attr = Attr::of([0, 0, fd, 0]);
    attr.words[0] = path.as_ptr().expose_provenance() as u64;
    attr
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

fn fd_word(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// The system call.
///
/// # Safety
///
/// Every pointer that `cmd` takes from `attr` must be good for what `cmd` does with it.
unsafe fn bpf(cmd: libc::c_long, attr: &mut Attr) -> io::Result<RawFd> {
    // SAFETY: `attr` is live and of the stated size; the caller answers for the pointers in it.
    let done = unsafe { libc::syscall(libc::SYS_bpf, cmd, &raw mut *attr, size_of::<Attr>()) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(done as RawFd)
}
