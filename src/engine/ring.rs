//! One io_uring: set-up with the best flags the kernel takes, capability probe, registered files and buffers, and the
//! one system call of a loop turn.
//!
//! Invariants: created and used on one thread (SINGLE_ISSUER). Who pushes an entry keeps everything that it points to
//! alive and in place until its completion is reaped; [`Reactor`](super::reactor::Reactor) does that for all of them.
//! Absent on purpose: SQPOLL (burns a core), IOPOLL (would exclude sockets), links between entries.

use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};

/// Submission entries; a full queue is handed to the kernel in the middle of a turn.
const SUBMISSION_ENTRIES: u32 = 512;
/// Completion entries; more operations than this in flight are kept by the kernel (NODROP), only slower.
const COMPLETION_ENTRIES: u32 = 8192;
/// Slots of the registered file table.
const FILE_SLOTS: u32 = 1024;

/// What the running kernel offers, as far as the engine uses it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capabilities {
    /// Completion work runs only when this thread asks (Linux 6.1).
    pub defer_taskrun: bool,
    /// One thread submits (Linux 6.0).
    pub single_issuer: bool,
    /// No indirection array in front of the submission queue (Linux 6.6).
    pub no_sqarray: bool,
    /// The ring's own descriptor is registered: one look-up less for each enter (Linux 5.18).
    pub registered_ring: bool,
    /// Sockets and devices are called by slot, not by descriptor (Linux 5.19 for the sparse table).
    pub registered_files: bool,
    /// The data slab is pinned once instead of for every operation.
    pub registered_buffers: bool,
}

/// Why a ring could not be made.
#[derive(Debug)]
pub enum RingError {
    /// `io_uring_setup` failed with every combination of flags.
    Setup(io::Error),
    /// The kernel lacks an operation that has no substitute.
    MissingOperation(&'static str),
    /// The kernel cannot wait with a time-out (before Linux 5.11).
    NoTimedWait,
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setup(error) if error.raw_os_error() == Some(libc::EPERM) => {
                write!(
                    f,
                    "io_uring is switched off here ({error}): set sysctl kernel.io_uring_disabled=0, or allow it in the container's seccomp profile"
                )
            }
            Self::Setup(error) if error.raw_os_error() == Some(libc::ENOMEM) => {
                write!(f, "no memory for io_uring ({error}): raise the memlock limit (ulimit -l)")
            }
            Self::Setup(error) => write!(f, "io_uring cannot be set up: {error}"),
            Self::MissingOperation(name) => {
                write!(f, "the kernel's io_uring lacks {name}; Linux 6.1 or newer is needed")
            }
            Self::NoTimedWait => {
                write!(f, "the kernel's io_uring cannot wait with a time-out; Linux 6.1 or newer is needed")
            }
        }
    }
}

impl std::error::Error for RingError {}

/// A completion as reaped: the entry's tag, its result, its flags.
#[derive(Clone, Copy, Debug)]
pub struct Reaped {
    pub user_data: u64,
    pub result: i32,
    pub flags: u32,
}

/// How long a turn may sleep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Submit, run what is ready, return.
    No,
    /// Until a completion arrives, or for this long.
    AtMost(Duration),
}

pub struct Ring {
    uring: IoUring,
    capabilities: Capabilities,
    free_files: Vec<u32>,
    /// Reaped while entries were pushed, because the completion queue was full.
    early: Vec<Reaped>,
}

impl Ring {
    /// A ring for the calling thread. `plain`: without anything that has a substitute, as on the oldest kernel.
    pub fn new(plain: bool) -> Result<Self, RingError> {
        let (uring, mut capabilities) =
            build(if plain { &FLAG_SETS[FLAG_SETS.len() - 1..] } else { FLAG_SETS })?;
        check_operations(&uring)?;
        if !uring.params().is_feature_ext_arg() {
            return Err(RingError::NoTimedWait);
        }
        capabilities.registered_ring = !plain && uring.submitter().register_ring_fd().is_ok();
        capabilities.registered_files = !plain && uring.submitter().register_files_sparse(FILE_SLOTS).is_ok();
        let free_files =
            if capabilities.registered_files { (0..FILE_SLOTS).rev().collect() } else { Vec::new() };
        Ok(Self { uring, capabilities, free_files, early: Vec::new() })
    }

    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// Puts `fd` into the file table; `None` when there is no table or no slot: then the descriptor itself is used.
    pub fn register_file(&mut self, fd: RawFd) -> Option<u32> {
        let slot = self.free_files.pop()?;
        match self.uring.submitter().register_files_update(slot, &[fd]) {
            Ok(1) => Some(slot),
            _ => {
                self.free_files.push(slot);
                None
            }
        }
    }

    /// Empties a slot of the file table. Operations already submitted keep the file.
    pub fn unregister_file(&mut self, slot: u32) {
        // A slot that cannot be emptied is not used again; the table has many.
        if self.uring.submitter().register_files_update(slot, &[-1]).is_ok() {
            self.free_files.push(slot);
        }
    }

    /// Lets go of every registered file and buffer at once. The kernel takes a ring down some time after it is closed;
    /// until then a device would count as in use.
    pub fn let_go(&mut self) {
        let submitter = self.uring.submitter();
        // An error means that nothing was registered.
        let _ = submitter.unregister_files();
        let _ = submitter.unregister_buffers();
        self.free_files.clear();
    }

    /// Pins the memory that `slabs` describe for fixed reads and writes; slab `i` becomes buffer index `i`.
    ///
    /// # Safety
    /// The memory stays mapped as long as this ring lives.
    pub unsafe fn register_buffers(&mut self, slabs: &[libc::iovec]) -> io::Result<()> {
        // SAFETY: the caller keeps the memory mapped.
        unsafe { self.uring.submitter().register_buffers(slabs) }?;
        self.capabilities.registered_buffers = true;
        Ok(())
    }

    /// Queues an entry; hands the queue to the kernel first when it is full.
    ///
    /// # Safety
    /// Everything the entry points to stays valid and in place until its completion has been reaped.
    pub unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: the caller vouches for what the entry points to.
            if unsafe { self.uring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            // EBUSY: completions wait to be reaped first; the kernel takes entries again after it has moved them.
            match self.uring.submit() {
                Ok(_) => {}
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The system call of the turn: submits what is queued and waits as told. A signal ends the wait early.
    pub fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let entered = match wait {
            Wait::No => self.uring.submit(),
            Wait::AtMost(limit) => {
                let limit = Timespec::from(limit);
                let args = SubmitArgs::new().timespec(&limit);
                self.uring.submitter().submit_with_args(1, &args)
            }
        };
        match entered {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // ETIME: nothing came in time. EBUSY, EAGAIN: reap first, the rest goes with the next turn.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Is there a completion to reap, or completion work that an enter would run? A look at shared memory only.
    pub fn has_news(&mut self) -> bool {
        let (_, submission, completion) = self.uring.split();
        !self.early.is_empty() || !completion.is_empty() || submission.taskrun()
    }

    pub fn has_submissions(&mut self) -> bool {
        !self.uring.submission().is_empty()
    }

    /// Moves everything that has completed to the end of `into`.
    pub fn reap(&mut self, into: &mut Vec<Reaped>) {
        into.append(&mut self.early);
        into.extend(self.uring.completion().map(|entry| Reaped::of(&entry)));
    }
}

impl Reaped {
    fn of(entry: &cqueue::Entry) -> Self {
        Self { user_data: entry.user_data(), result: entry.result(), flags: entry.flags() }
    }
}

/// What to ask a ring for (no indirection array, deferred task work, single issuer), from the newest kernel's to none.
const FLAG_SETS: &[(bool, bool, bool)] =
    &[(true, true, true), (false, true, true), (false, false, true), (false, false, false)];

/// Tries the flag sets in turn.
fn build(sets: &[(bool, bool, bool)]) -> Result<(IoUring, Capabilities), RingError> {
    let mut last = None;
    for &(no_sqarray, defer_taskrun, single_issuer) in sets {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_clamp().setup_cqsize(COMPLETION_ENTRIES);
        if no_sqarray {
            builder.setup_no_sqarray();
        }
        if single_issuer {
            builder.setup_single_issuer().setup_submit_all();
        }
        if defer_taskrun {
            builder.setup_defer_taskrun().setup_taskrun_flag();
        } else if single_issuer {
            builder.setup_coop_taskrun().setup_taskrun_flag();
        }
        match builder.build(SUBMISSION_ENTRIES) {
            Ok(uring) => {
                let capabilities =
                    Capabilities { defer_taskrun, single_issuer, no_sqarray, ..Capabilities::default() };
                return Ok((uring, capabilities));
            }
            Err(error) => last = Some(error),
        }
    }
    Err(RingError::Setup(last.expect("at least one set was tried")))
}

/// Operations without which the engine cannot work; all are in Linux 6.1.
fn check_operations(uring: &IoUring) -> Result<(), RingError> {
    const NEEDED: [(u8, &str); 12] = [
        (opcode::Read::CODE, "READ"),
        (opcode::Write::CODE, "WRITE"),
        (opcode::ReadFixed::CODE, "READ_FIXED"),
        (opcode::WriteFixed::CODE, "WRITE_FIXED"),
        (opcode::Fsync::CODE, "FSYNC"),
        (opcode::Accept::CODE, "ACCEPT"),
        (opcode::Connect::CODE, "CONNECT"),
        (opcode::Recv::CODE, "RECV"),
        (opcode::RecvMsg::CODE, "RECVMSG"),
        (opcode::Send::CODE, "SEND"),
        (opcode::SendMsg::CODE, "SENDMSG"),
        (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
    ];
    let mut probe = Probe::new();
    uring.submitter().register_probe(&mut probe).map_err(RingError::Setup)?;
    match NEEDED.iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some((_, name)) => Err(RingError::MissingOperation(name)),
        None => Ok(()),
    }
}

/// What the engine finds on this machine, for `doctor` and the log: a line for each capability.
pub fn probe() -> Result<String, RingError> {
    use fmt::Write;
    let capabilities = Ring::new(false)?.capabilities();
    let mut text = String::new();
    let lines = [
        ("SINGLE_ISSUER", capabilities.single_issuer, "Linux 6.0"),
        ("DEFER_TASKRUN", capabilities.defer_taskrun, "Linux 6.1"),
        ("NO_SQARRAY", capabilities.no_sqarray, "Linux 6.6"),
        ("registered ring", capabilities.registered_ring, "Linux 5.18"),
        ("registered files", capabilities.registered_files, "Linux 5.19"),
    ];
    for (name, present, since) in lines {
        let state = if present { "yes".to_owned() } else { format!("no (from {since})") };
        writeln!(text, "io_uring {name}: {state}").expect("writing to a string does not fail");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_no_longer_than_told_and_wakes_for_a_completion() {
        let mut ring = Ring::new(false).expect("the machine has io_uring");
        let begun = std::time::Instant::now();
        ring.enter(Wait::AtMost(Duration::from_millis(20))).expect("enter");
        assert!(begun.elapsed() >= Duration::from_millis(15));
        let nop = opcode::Nop::new().build().user_data(77);
        // SAFETY: a NOP points to nothing.
        unsafe { ring.push(&nop) }.expect("push");
        ring.enter(Wait::AtMost(Duration::from_secs(10))).expect("enter");
        let mut reaped = Vec::new();
        ring.reap(&mut reaped);
        assert_eq!(reaped.len(), 1);
        assert_eq!((reaped[0].user_data, reaped[0].result), (77, 0));
        assert!(!ring.has_news());
    }

    #[test]
    fn more_entries_than_the_queue_holds_all_complete() {
        let mut ring = Ring::new(false).expect("the machine has io_uring");
        let count = u64::from(SUBMISSION_ENTRIES) * 3 + 7;
        for tag in 0..count {
            // SAFETY: a NOP points to nothing.
            unsafe { ring.push(&opcode::Nop::new().build().user_data(tag)) }.expect("push");
        }
        let mut reaped = Vec::new();
        while (reaped.len() as u64) < count {
            ring.enter(Wait::AtMost(Duration::from_secs(10))).expect("enter");
            ring.reap(&mut reaped);
        }
        let mut tags: Vec<u64> = reaped.iter().map(|cqe| cqe.user_data).collect();
        tags.sort_unstable();
        assert!(tags.iter().copied().eq(0..count));
    }

    #[test]
    fn file_slots_are_reused() {
        let mut ring = Ring::new(false).expect("the machine has io_uring");
        if !ring.capabilities().registered_files {
            return;
        }
        let first = ring.register_file(0).expect("slot");
        ring.unregister_file(first);
        assert_eq!(ring.register_file(0), Some(first));
    }

    #[test]
    fn probe_names_what_it_looked_for() {
        let text = probe().expect("the machine has io_uring");
        assert!(text.contains("DEFER_TASKRUN"));
    }
}
