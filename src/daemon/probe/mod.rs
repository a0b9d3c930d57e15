//! Is a device free to be formatted? Looked at before `init` writes its first byte.
//!
//! Three questions, in this order: can it be opened and is it a disk; does anybody use it now (mounts, swap, holders,
//! an exclusive claim, a lock); does it carry anybody's signature. A device in use is refused always; a signature can
//! be overruled by naming the device again. Absent on purpose: wiping. Forcing overwrites only what the metadata needs.

mod claimed;
mod signature;
#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{major, minor};

use super::failure::Failure;
pub use claimed::Claimed;
pub use signature::{Ends, Found, Owner};

/// A device number as sysfs writes it, `8:16`.
type DeviceNumber = String;

/// What the kernel says about a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceFacts {
    /// As the configuration has it.
    pub path: PathBuf,
    /// With links resolved.
    pub real: PathBuf,
    /// `None`: a regular file.
    pub number: Option<DeviceNumber>,
    pub size: u64,
    pub model: Option<String>,
}

/// Where the kernel keeps what is read here; tests have a copy of their own.
#[derive(Clone, Debug)]
pub struct Kernel {
    pub sys: PathBuf,
    pub proc: PathBuf,
}

impl Default for Kernel {
    fn default() -> Self {
        Self { sys: "/sys".into(), proc: "/proc".into() }
    }
}

/// Why a device may not be formatted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Obstacle {
    /// Somebody uses it now: a phrase that follows "is", and how to end it.
    Busy {
        how: String,
        end: String,
    },
    Signature(Found),
}

impl DeviceFacts {
    /// Looks a device up. `role` says what it is for in errors, like "the disk of stor-a".
    pub fn read(path: &Path, role: &str, kernel: &Kernel) -> Result<Self, Failure> {
        let show = path.display();
        let cannot = |error: io::Error| {
            let next = match error.kind() {
                io::ErrorKind::NotFound => {
                    "correct the path in the configuration (lsblk -o PATH,SIZE,MODEL lists the disks)"
                }
                io::ErrorKind::PermissionDenied => "run this as root",
                _ => "check the device with: dmesg | tail",
            };
            Failure::failed(format!("cannot open {show}, {role}: {error}"), next)
        };
        let real = fs::canonicalize(path).map_err(cannot)?;
        let meta = fs::metadata(&real).map_err(cannot)?;
        let kind = meta.file_type();
        if !kind.is_block_device() && !kind.is_file() {
            let what = format!("{show}, {role}, is neither a block device nor a regular file");
            return Err(Failure::usage(what, "name a disk, a partition or a file in the configuration"));
        }
        let number = kind.is_block_device().then(|| format!("{}:{}", major(meta.rdev()), minor(meta.rdev())));
        let size = match number {
            Some(_) => device_size(&real).map_err(cannot)?,
            None => meta.len(),
        };
        let model = number.as_ref().and_then(|number| kernel.model(number));
        Ok(Self { path: path.to_owned(), real, number, size, model })
    }

    /// The first reason, if any, not to write to the device.
    pub fn obstacle(&self, kernel: &Kernel) -> Result<Option<Obstacle>, Failure> {
        if let Some(busy) = self.user(kernel).map_err(|error| self.cannot_read(&error))? {
            return Ok(Some(busy));
        }
        let found = self.signature().map_err(|error| self.cannot_read(&error))?;
        Ok(found.map(Obstacle::Signature))
    }

    fn cannot_read(&self, error: &io::Error) -> Failure {
        Failure::failed(
            format!("cannot look at {}: {error}", self.path.display()),
            "check the device with: dmesg | tail",
        )
    }

    /// The ends of the device, for whoever wants to look for marks of their own.
    pub fn with_ends<T>(&self, look: impl FnOnce(&Ends<'_>) -> T) -> io::Result<T> {
        let file = File::open(&self.real)?;
        let window = self.size.min(signature::WINDOW as u64) as usize;
        let (mut head, mut tail) = (vec![0; window], vec![0; window]);
        file.read_exact_at(&mut head, 0)?;
        file.read_exact_at(&mut tail, self.size - window as u64)?;
        Ok(look(&Ends { size: self.size, head: &head, tail: &tail }))
    }

    fn signature(&self) -> io::Result<Option<Found>> {
        self.with_ends(|ends| ends.find())
    }

    fn user(&self, kernel: &Kernel) -> io::Result<Option<Obstacle>> {
        let busy = |how: String, end: String| Ok(Some(Obstacle::Busy { how, end }));
        for (number, name) in self.number.iter().flat_map(|number| kernel.family(number)) {
            if let Some(point) = kernel.mount_point(&number)? {
                return busy(format!("mounted at {point} ({name})"), format!("umount {point}"));
            }
            if let Some(holder) = kernel.holder(&number) {
                let end = format!("stop {holder} first (lsblk shows what is stacked on it)");
                return busy(format!("held by {holder} ({name})"), end);
            }
        }
        if let Some(swap) = kernel.swap_on(&self.real)? {
            return busy("in use as swap space".to_owned(), format!("swapoff {swap}"));
        }
        if let Some(device) = kernel.loop_over(&self.real) {
            return busy(format!("the backing file of {device}"), format!("losetup -d {device}"));
        }
        match claim(&self.real, self.number.is_some()) {
            Ok(_claim) => Ok(None),
            Err(error) if taken(&error) => busy(
                "in use by another program".to_owned(),
                format!("find it with: fuser -v {} (is twinlund running? twinlun down)", self.path.display()),
            ),
            Err(error) => Err(error),
        }
    }
}

/// An exclusive claim on a device, for as long as it lives: no second daemon, no mount, no other claimer.
pub struct Claim(#[allow(dead_code, reason = "held, never read")] Flock<File>);

/// Claims a device: exclusive open for a block device, and an advisory lock for either kind.
pub fn claim(path: &Path, block_device: bool) -> io::Result<Claim> {
    let flags = libc::O_CLOEXEC | if block_device { libc::O_EXCL } else { 0 };
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
    let lock =
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| io::Error::from(errno))?;
    Ok(Claim(lock))
}

/// Does the error of [`claim`] mean that somebody else has the device?
pub fn taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EWOULDBLOCK))
}

fn device_size(path: &Path) -> io::Result<u64> {
    use std::io::{Seek, SeekFrom};
    File::open(path)?.seek(SeekFrom::End(0))
}

impl Kernel {
    fn entry(&self, number: &str) -> PathBuf {
        self.sys.join("dev/block").join(number)
    }

    fn model(&self, number: &str) -> Option<String> {
        let text = fs::read_to_string(self.entry(number).join("device/model")).ok()?;
        Some(text.trim().to_owned()).filter(|model| !model.is_empty())
    }

    /// The device and its partitions: number and name.
    fn family(&self, number: &str) -> Vec<(DeviceNumber, String)> {
        let entry = self.entry(number);
        let name = fs::canonicalize(&entry)
            .ok()
            .and_then(|real| Some(real.file_name()?.to_string_lossy().into_owned()))
            .unwrap_or_else(|| number.to_owned());
        let mut family = vec![(number.to_owned(), name)];
        for child in fs::read_dir(&entry).into_iter().flatten().flatten() {
            if child.path().join("partition").exists() {
                if let Ok(number) = fs::read_to_string(child.path().join("dev")) {
                    family.push((number.trim().to_owned(), child.file_name().to_string_lossy().into_owned()));
                }
            }
        }
        family
    }

    fn mount_point(&self, number: &str) -> io::Result<Option<String>> {
        let table = fs::read_to_string(self.proc.join("self/mountinfo"))?;
        let line = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mut mounted = line.filter(|fields| fields.get(2) == Some(&number));
        Ok(mounted.next().and_then(|fields| fields.get(4).map(|point| (*point).to_owned())))
    }

    fn holder(&self, number: &str) -> Option<String> {
        let mut holders = fs::read_dir(self.entry(number).join("holders")).ok()?.flatten();
        let name = holders.next()?.file_name().to_string_lossy().into_owned();
        let readable = fs::read_to_string(self.sys.join("block").join(&name).join("dm/name"));
        Some(match readable {
            Ok(mapped) => format!("/dev/mapper/{}", mapped.trim()),
            Err(_) => format!("/dev/{name}"),
        })
    }

    fn swap_on(&self, real: &Path) -> io::Result<Option<String>> {
        let table = match fs::read_to_string(self.proc.join("swaps")) {
            Ok(table) => table,
            // A kernel without swap has no such file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut names = table.lines().skip(1).filter_map(|line| line.split_whitespace().next());
        Ok(names.find(|name| fs::canonicalize(name).is_ok_and(|path| path == real)).map(str::to_owned))
    }

    /// The loop device that stands on a file.
    fn loop_over(&self, real: &Path) -> Option<String> {
        let blocks = fs::read_dir(self.sys.join("block")).ok()?.flatten();
        blocks
            .filter(|entry| {
                let backing = fs::read_to_string(entry.path().join("loop/backing_file"));
                backing.is_ok_and(|text| Path::new(text.trim_end_matches('\n')) == real)
            })
            .map(|entry| format!("/dev/{}", entry.file_name().to_string_lossy()))
            .next()
    }
}
