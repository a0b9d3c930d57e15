//! Making a stretch of the device read as zeroes, by the best means it has: punching a hole, a zeroed range, or writing.
//!
//! Invariant: whatever the means, the bytes read as zeroes afterwards, on block devices and files alike. `fallocate` on a
//! block device promises exactly that (a plain discard does not, and is never used). A file system may go through its
//! page cache for parts of its blocks, so only whole 4 KiB units are given to it; the edges are written.
//!
//! Absent on purpose: asking the device beforehand. What it does not support it refuses, and the next means is tried.

use io_uring::{opcode, squeue, types};

use super::device::{PAGE_BYTES, Page};

/// Ways of zeroing, the best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ZeroMeans {
    /// Space is given back.
    PunchHole,
    /// Space is kept.
    ZeroRange,
    /// Writing zeroes.
    Write,
}

/// What a completed step means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ZeroStep {
    /// So many bytes more are done.
    Progress(u32),
    /// The device does not know this means; go on with that.
    OtherMeans(ZeroMeans),
    /// Interrupted.
    Again,
    Failed,
}

/// One zeroing on its way.
#[derive(Clone, Copy, Debug)]
pub struct Zeroing {
    means: ZeroMeans,
    durable: bool,
    /// All bytes are done; the flush behind them runs.
    flushing: bool,
}

/// What one submission does.
enum Step {
    Fallocate(u32),
    Write(u32),
    Flush,
}

const UNIT: u32 = PAGE_BYTES as u32;
const ZERO_PAGES: usize = 16;
/// Written where nothing better is known.
static ZEROES: [Page; ZERO_PAGES] = [const { Page([0; PAGE_BYTES]) }; ZERO_PAGES];

impl Zeroing {
    /// `floor`: no means better than that are worth a try.
    pub fn new(unmap: bool, durable: bool, floor: ZeroMeans) -> Self {
        let wanted = if unmap { ZeroMeans::PunchHole } else { ZeroMeans::ZeroRange };
        Self { means: wanted.max(floor), durable, flushing: false }
    }

    fn step(&self, offset: u64, left: u32) -> Step {
        if self.flushing {
            return Step::Flush;
        }
        let into = (offset % u64::from(UNIT)) as u32;
        let to_edge = if into == 0 { 0 } else { (UNIT - into).min(left) };
        match self.means {
            _ if to_edge > 0 => Step::Write(to_edge),
            ZeroMeans::Write => Step::Write(left.min(ZERO_PAGES as u32 * UNIT)),
            _ if left < UNIT => Step::Write(left),
            _ => Step::Fallocate(left - left % UNIT),
        }
    }

    /// The next submission, for `left` bytes at `offset`.
    pub fn entry(&self, fd: types::Fd, offset: u64, left: u32) -> squeue::Entry {
        match self.step(offset, left) {
            Step::Fallocate(len) => {
                let mode = match self.means {
                    ZeroMeans::PunchHole => libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                    ZeroMeans::ZeroRange | ZeroMeans::Write => {
                        libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE
                    }
                };
                opcode::Fallocate::new(fd, u64::from(len)).offset(offset).mode(mode).build()
            }
            Step::Write(len) => opcode::Write::new(fd, ZEROES.as_ptr().cast(), len).offset(offset).build(),
            Step::Flush => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
        }
    }

    /// The submission for `left` bytes at `offset` has ended with `result`.
    pub fn on_result(&mut self, offset: u64, left: u32, result: i32) -> ZeroStep {
        let step = self.step(offset, left);
        match (step, -result) {
            (_, libc::EAGAIN | libc::EINTR) => ZeroStep::Again,
            (Step::Flush, 0) => {
                self.durable = false;
                ZeroStep::Progress(0)
            }
            (Step::Fallocate(len), 0) => self.progress(len, left),
            (Step::Write(_), _) if result > 0 => self.progress(result as u32, left),
            (
                Step::Fallocate(_),
                libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::ENODEV | libc::EPERM,
            ) => {
                self.means = match self.means {
                    ZeroMeans::PunchHole => ZeroMeans::ZeroRange,
                    ZeroMeans::ZeroRange | ZeroMeans::Write => ZeroMeans::Write,
                };
                ZeroStep::OtherMeans(self.means)
            }
            _ => ZeroStep::Failed,
        }
    }

    fn progress(&mut self, bytes: u32, left: u32) -> ZeroStep {
        assert!(bytes <= left, "no more than was asked for");
        self.flushing = bytes == left && self.durable;
        ZeroStep::Progress(bytes)
    }

    /// Is there nothing left to submit?
    pub fn is_over(&self, left: u32) -> bool {
        left == 0 && !(self.flushing && self.durable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a zeroing with a device that knows `known` and what is worse; returns the steps by kind and length.
    fn steps(mut zeroing: Zeroing, offset: u64, len: u32, known: ZeroMeans) -> Vec<(char, u32)> {
        let (mut done, mut seen) = (0, Vec::new());
        while !zeroing.is_over(len - done) {
            let at = offset + u64::from(done);
            let (what, result) = match zeroing.step(at, len - done) {
                Step::Fallocate(_) if zeroing.means < known => (None, -libc::EOPNOTSUPP),
                Step::Fallocate(bytes) => (Some(('f', bytes)), 0),
                Step::Write(bytes) => (Some(('w', bytes)), bytes as i32),
                Step::Flush => (Some(('s', 0)), 0),
            };
            seen.extend(what);
            match zeroing.on_result(at, len - done, result) {
                ZeroStep::Progress(bytes) => done += bytes,
                ZeroStep::OtherMeans(means) => assert!(means <= known),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(done, len);
        seen
    }

    #[test]
    fn whole_units_are_left_to_the_device_and_edges_are_written() {
        let plain = Zeroing::new(true, false, ZeroMeans::PunchHole);
        assert_eq!(steps(plain, 8192, 65536, ZeroMeans::PunchHole), [('f', 65536)]);
        assert_eq!(
            steps(plain, 8192 - 512, 8192, ZeroMeans::PunchHole),
            [('w', 512), ('f', 4096), ('w', 3584)]
        );
        assert_eq!(steps(plain, 512, 512, ZeroMeans::PunchHole), [('w', 512)]);
        assert_eq!(steps(plain, 0, 512, ZeroMeans::PunchHole), [('w', 512)]);
    }

    #[test]
    fn what_the_device_does_not_know_is_done_otherwise() {
        let durable = Zeroing::new(true, true, ZeroMeans::PunchHole);
        assert_eq!(steps(durable, 0, 8192, ZeroMeans::ZeroRange), [('f', 8192), ('s', 0)]);
        let writes = [('w', 65536), ('w', 65536), ('w', 4096), ('s', 0)];
        assert_eq!(steps(durable, 0, 131072 + 4096, ZeroMeans::Write), writes);
        let floored = Zeroing::new(true, false, ZeroMeans::Write);
        assert_eq!(steps(floored, 4096, 4096, ZeroMeans::Write), [('w', 4096)]);
    }

    #[test]
    fn errors_are_told_and_interruptions_are_not() {
        let mut zeroing = Zeroing::new(false, true, ZeroMeans::PunchHole);
        assert_eq!(zeroing.on_result(0, 4096, -libc::EINTR), ZeroStep::Again);
        assert_eq!(zeroing.on_result(0, 4096, -libc::EIO), ZeroStep::Failed);
        assert_eq!(zeroing.on_result(0, 512, 0), ZeroStep::Failed, "a write of nothing");
        assert_eq!(zeroing.on_result(0, 4096, 0), ZeroStep::Progress(4096));
        assert_eq!(zeroing.on_result(4096, 0, -libc::EIO), ZeroStep::Failed, "the flush");
    }
}
