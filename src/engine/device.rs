//! Block devices, partitions and regular files under direct I/O: opening, and the facts the volume is built on.
//!
//! Facts are read from the kernel, never assumed: size, logical and physical block size, alignment of direct I/O, and
//! whether a completed write may still be lost at a power cut. When the kernel does not say, the answer is the one
//! that is safe (a volatile cache, a coarser alignment).
//! The blocking calls are for start-up and `init`; on the data path the ring does the I/O.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of a metadata page, and the unit of [`AlignedBytes`].
pub const PAGE_BYTES: usize = 4096;

/// What kind of file the device is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceKind {
    Block,
    Regular,
}

/// What the kernel says about a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceFacts {
    pub kind: DeviceKind,
    pub bytes: u64,
    /// Smallest unit of I/O, in bytes; a power of two.
    pub logical_block: u32,
    /// Unit that the medium writes without reading first, in bytes; a power of two, at least `logical_block`.
    pub physical_block: u32,
    /// Alignment of memory for direct I/O, in bytes.
    pub memory_align: u32,
    /// Alignment of offset and length of direct I/O, in bytes.
    pub offset_align: u32,
    /// A completed write may be lost at a power cut until the device is flushed.
    pub volatile_cache: bool,
}

/// Why a device cannot be used.
#[derive(Debug)]
pub enum DeviceError {
    Open {
        path: PathBuf,
        error: io::Error,
    },
    /// Mounted, held by another driver, or open in another instance.
    InUse {
        path: PathBuf,
    },
    NotADevice {
        path: PathBuf,
    },
    NoDirectIo {
        path: PathBuf,
    },
    /// The kernel refused to tell a fact about it.
    Inspect {
        path: PathBuf,
        what: &'static str,
        error: io::Error,
    },
    /// Direct I/O needs a coarser alignment than 4 KiB.
    Alignment {
        path: PathBuf,
        bytes: u32,
    },
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { path, error } => write!(f, "cannot open {}: {error}", path.display()),
            Self::InUse { path } => {
                write!(
                    f,
                    "{} is in use: mounted, held by another driver, or open in another twinlund",
                    path.display()
                )
            }
            Self::NotADevice { path } => {
                write!(f, "{} is neither a block device nor a regular file", path.display())
            }
            Self::NoDirectIo { path } => {
                write!(
                    f,
                    "{} does not take direct I/O: put it on a disk file system such as ext4 or XFS",
                    path.display()
                )
            }
            Self::Inspect { path, what, error } => {
                write!(f, "cannot read the {what} of {}: {error}", path.display())
            }
            Self::Alignment { path, bytes } => {
                write!(
                    f,
                    "{} needs direct I/O in units of {bytes} bytes; at most 4096 are supported",
                    path.display()
                )
            }
        }
    }
}

impl std::error::Error for DeviceError {}

/// An open device. Clones share the descriptor.
#[derive(Clone, Debug)]
pub struct Device {
    file: Arc<fs::File>,
    path: PathBuf,
    facts: DeviceFacts,
}

nix::ioctl_read_bad!(logical_block_size, libc::BLKSSZGET, libc::c_int);
nix::ioctl_read_bad!(physical_block_size, libc::BLKPBSZGET, libc::c_uint);
// The kernel writes 64 bits although the request number was defined with a word.
nix::ioctl_read!(device_bytes, 0x12, 114, u64);

impl Device {
    /// Opens `path` for direct reads and writes and for this process alone.
    pub fn open(path: &Path) -> Result<Self, DeviceError> {
        let meta = fs::metadata(path).map_err(|error| DeviceError::Open { path: path.into(), error })?;
        let kind = if meta.file_type().is_block_device() {
            DeviceKind::Block
        } else if meta.is_file() {
            DeviceKind::Regular
        } else {
            return Err(DeviceError::NotADevice { path: path.into() });
        };
        // On a block device O_EXCL asks the kernel for the exclusive claim that mounts and dm also take.
        let exclusive = if kind == DeviceKind::Block { libc::O_EXCL } else { 0 };
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT | libc::O_CLOEXEC | exclusive)
            .open(path)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::EBUSY) => DeviceError::InUse { path: path.into() },
                Some(libc::EINVAL) => DeviceError::NoDirectIo { path: path.into() },
                _ => DeviceError::Open { path: path.into(), error },
            })?;
        lock(&file, path)?;
        let facts = match kind {
            DeviceKind::Block => block_facts(&file, meta.rdev(), path)?,
            DeviceKind::Regular => regular_facts(&file, path)?,
        };
        if facts.memory_align as usize > PAGE_BYTES || facts.offset_align as usize > PAGE_BYTES {
            let bytes = facts.memory_align.max(facts.offset_align);
            return Err(DeviceError::Alignment { path: path.into(), bytes });
        }
        Ok(Self { file: Arc::new(file), path: path.into(), facts })
    }

    pub fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A descriptor of its own for another shard.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.file.as_fd().try_clone_to_owned()
    }

    /// Reads `bytes.len()` bytes at `offset`, blocking. `offset` is a multiple of the alignment.
    pub fn read_at(&self, bytes: &mut AlignedBytes, offset: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes.as_mut_slice(), offset)
    }

    /// Writes `bytes` at `offset`, blocking. Durable after [`flush`](Self::flush).
    pub fn write_at(&self, bytes: &AlignedBytes, offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes.as_slice(), offset)
    }

    /// Makes everything written durable, blocking.
    pub fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A page of memory that direct I/O accepts.
#[derive(Clone)]
#[repr(C, align(4096))]
pub struct Page(pub [u8; PAGE_BYTES]);

impl Page {
    /// A zeroed page on the heap.
    pub fn boxed() -> Box<Self> {
        Box::new(Self([0; PAGE_BYTES]))
    }
}

/// Memory for blocking direct I/O: whole pages, page-aligned.
pub struct AlignedBytes {
    pages: Vec<Page>,
}

impl AlignedBytes {
    /// Zeroed; `len` is rounded up to whole pages.
    pub fn zeroed(len: usize) -> Self {
        Self { pages: vec![Page([0; PAGE_BYTES]); len.div_ceil(PAGE_BYTES)] }
    }

    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: pages are plain bytes without padding, lying one after the other.
        unsafe { std::slice::from_raw_parts(self.pages.as_ptr().cast(), self.pages.len() * PAGE_BYTES) }
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe {
            std::slice::from_raw_parts_mut(self.pages.as_mut_ptr().cast(), self.pages.len() * PAGE_BYTES)
        }
    }
}

/// One instance at a time: an advisory lock, which the kernel drops with the last descriptor.
fn lock(file: &fs::File, path: &Path) -> Result<(), DeviceError> {
    // SAFETY: the descriptor is open; flock touches no memory.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::EWOULDBLOCK) {
        return Err(DeviceError::InUse { path: path.into() });
    }
    Err(DeviceError::Inspect { path: path.into(), what: "lock", error })
}

fn block_facts(file: &fs::File, rdev: u64, path: &Path) -> Result<DeviceFacts, DeviceError> {
    let inspect =
        |what, error: nix::Error| DeviceError::Inspect { path: path.into(), what, error: error.into() };
    let fd = file.as_raw_fd();
    let (mut logical, mut physical, mut bytes) = (0, 0, 0);
    // SAFETY: the kernel writes one int, to a local.
    unsafe { logical_block_size(fd, &mut logical) }.map_err(|error| inspect("logical block size", error))?;
    // SAFETY: the kernel writes one unsigned int, to a local.
    unsafe { physical_block_size(fd, &mut physical) }
        .map_err(|error| inspect("physical block size", error))?;
    // SAFETY: the kernel writes 64 bits, to a local.
    unsafe { device_bytes(fd, &mut bytes) }.map_err(|error| inspect("size", error))?;
    let logical = logical as u32;
    let (memory_align, offset_align) = direct_alignment(file).unwrap_or((logical, logical));
    Ok(DeviceFacts {
        kind: DeviceKind::Block,
        bytes,
        logical_block: logical,
        physical_block: physical.max(logical),
        memory_align,
        offset_align: offset_align.max(logical),
        volatile_cache: volatile_cache(rdev),
    })
}

fn regular_facts(file: &fs::File, path: &Path) -> Result<DeviceFacts, DeviceError> {
    let meta =
        file.metadata().map_err(|error| DeviceError::Inspect { path: path.into(), what: "size", error })?;
    // Before Linux 6.1 the kernel does not tell: 4 KiB suits every disk.
    let (memory_align, offset_align) =
        direct_alignment(file).unwrap_or((PAGE_BYTES as u32, PAGE_BYTES as u32));
    if offset_align == 0 {
        return Err(DeviceError::NoDirectIo { path: path.into() });
    }
    Ok(DeviceFacts {
        kind: DeviceKind::Regular,
        bytes: meta.len(),
        logical_block: offset_align,
        physical_block: (meta.blksize() as u32).clamp(offset_align, PAGE_BYTES as u32),
        memory_align,
        offset_align,
        // The file system's own journal and the disk below it may both hold a completed write back.
        volatile_cache: true,
    })
}

/// Memory and offset alignment of direct I/O as statx tells them (Linux 6.1). Zero: no direct I/O.
fn direct_alignment(file: &fs::File) -> Option<(u32, u32)> {
    // SAFETY: all-zero is a valid statx, a plain structure of integers.
    let mut facts: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, the path is a static empty string, the structure is a local of the right type.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_BASIC_STATS | libc::STATX_DIOALIGN,
            &mut facts,
        )
    };
    if result != 0 || facts.stx_mask & libc::STATX_DIOALIGN == 0 {
        return None;
    }
    if facts.stx_dio_offset_align == 0 || facts.stx_dio_mem_align == 0 {
        return Some((0, 0));
    }
    Some((facts.stx_dio_mem_align, facts.stx_dio_offset_align))
}

/// Reads the write-cache mode from sysfs; a partition has the mode of its disk. Unknown counts as volatile.
fn volatile_cache(rdev: u64) -> bool {
    let (major, minor) = (libc::major(rdev), libc::minor(rdev));
    let base = format!("/sys/dev/block/{major}:{minor}");
    ["queue/write_cache", "../queue/write_cache"]
        .iter()
        .find_map(|name| fs::read_to_string(format!("{base}/{name}")).ok())
        .is_none_or(|mode| mode.trim() != "write through")
}

#[cfg(test)]
mod tests {
    use super::super::tests::build_directory;
    use super::*;

    #[test]
    fn a_regular_file_tells_its_facts_and_keeps_its_bytes() {
        let dir = tempfile::tempdir_in(build_directory()).expect("directory");
        let path = dir.path().join("disk");
        fs::File::create(&path).and_then(|file| file.set_len(1 << 20)).expect("file");
        let device = Device::open(&path).expect("ext4 takes direct I/O");
        assert_eq!(device.facts().kind, DeviceKind::Regular);
        assert_eq!(device.facts().bytes, 1 << 20);
        assert!(device.facts().logical_block.is_power_of_two());
        assert!(device.facts().volatile_cache);
        let mut bytes = AlignedBytes::zeroed(5000);
        assert_eq!(bytes.as_slice().len(), 8192);
        bytes.as_mut_slice()[4999] = 7;
        device.write_at(&bytes, 4096).expect("write");
        device.flush().expect("flush");
        let mut back = AlignedBytes::zeroed(8192);
        device.read_at(&mut back, 4096).expect("read");
        assert_eq!(back.as_slice(), bytes.as_slice());
        assert!(matches!(Device::open(&path), Err(DeviceError::InUse { .. })));
        drop(device);
        assert!(Device::open(&path).is_ok());
    }

    #[test]
    fn what_is_no_device_is_refused_with_a_reason() {
        let dir = tempfile::tempdir().expect("directory");
        assert!(matches!(Device::open(dir.path()), Err(DeviceError::NotADevice { .. })));
        assert!(matches!(Device::open(&dir.path().join("absent")), Err(DeviceError::Open { .. })));
        assert!(matches!(Device::open(Path::new("/dev/null")), Err(DeviceError::NotADevice { .. })));
    }
}
