//! The ring with its operations: every submission of a shard goes through here, and every completion comes back as a
//! [`Completion`] that returns what the operation owned.
//!
//! Invariants: an operation owns its file and its memory from the push to the completion ([`Op`]); data buffers are
//! retained for as long. Short disk transfers are continued here, so a disk operation completes once and whole.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::{cqueue, opcode, squeue, types};

use super::buffers::Arena;
use super::device::{PAGE_BYTES, Page};
use super::op_slab::{Key, Slab};
use super::plumbing::ConnNo;
use super::ring::{Capabilities, Reaped, Ring, RingError, Wait};
use super::stream::{Inbound, SendBatch};
use super::zeroing::{ZeroMeans, ZeroStep, Zeroing};
use crate::block::BufSlice;
use crate::units::BufId;
use crate::volume::effect::DiskResult;

/// Operations the slab holds before it grows.
const OPS_PREALLOCATED: usize = 4096;
/// Disk operations handed to the kernel in one turn: this many, or this part of those that wait if that is more. A
/// device that works while it is called (zram, a page of memory, a fast NVMe polled by the file system) would otherwise
/// keep the answers of the first until the last is done, and the initiator would have nothing to do meanwhile.
const DISK_BATCH: usize = 16;
const DISK_BATCH_PART: usize = 4;
/// How long the end of a reactor waits for its operations.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// How often an operation is tried again after EAGAIN or EINTR before that counts as an error.
const RETRIES_MAX: u8 = 8;

/// A descriptor known to the ring. Clones share it; operations in flight hold one, so that it is never closed (and its
/// number reused) under them.
#[derive(Clone)]
pub struct File {
    inner: Rc<FileInner>,
}

struct FileInner {
    fd: OwnedFd,
    slot: Option<u32>,
    retired: Rc<RefCell<Vec<u32>>>,
}

impl Drop for FileInner {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.retired.borrow_mut().push(slot);
        }
    }
}

impl File {
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.fd.as_fd()
    }

    fn target(&self) -> types::Fd {
        types::Fd(self.inner.slot.map_or(self.inner.fd.as_raw_fd(), |slot| slot as i32))
    }

    fn flags(&self) -> squeue::Flags {
        if self.inner.slot.is_some() { squeue::Flags::FIXED_FILE } else { squeue::Flags::empty() }
    }
}

/// Who a stream operation belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamOwner {
    /// A connection of an initiator.
    Target(ConnNo),
    /// A connection to the peer.
    Link(Key),
    /// A link of shard 0 that is being made, or the control link.
    Meeting(Key),
}

/// What a listening socket is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ListenFor {
    /// Initiators; the number of the portal.
    Portal(u16),
    Peer,
}

/// Who asked for a disk operation; comes back with its completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskTag {
    Part(crate::volume::effect::OpId),
    Coordinator(crate::volume::effect::OpId),
}

/// An operation in flight with everything it needs.
enum Op {
    Accept { listen: ListenFor, _file: File },
    Connect { owner: StreamOwner, _file: File, _address: Box<SocketAddress> },
    Recv { owner: StreamOwner, _file: File, inbound: Box<Inbound> },
    Send { owner: StreamOwner, _file: File, batch: Box<SendBatch> },
    Disk { tag: DiskTag, transfer: Transfer, done: u32, retries: u8 },
    Wake { file: File, count: Box<u64> },
    Cancel,
}

/// A disk operation, as often as it must be submitted.
struct Transfer {
    file: File,
    kind: TransferKind,
    offset: u64,
    len: u32,
}

enum TransferKind {
    Read(BufSlice),
    Write {
        from: BufSlice,
        durable: bool,
    },
    /// Bytes that are to read as zeroes, by the best means the device has.
    Zero(Zeroing),
    /// A metadata page; durable when it completes.
    Page(Box<Page>),
    Flush,
}

/// What came of an operation. `result` of a stream operation is bytes, or the error number.
pub enum Completion {
    Accepted {
        listen: ListenFor,
        result: Result<OwnedFd, i32>,
    },
    Connected {
        owner: StreamOwner,
        result: Result<(), i32>,
    },
    /// `more`: the socket had more than was taken.
    Received {
        owner: StreamOwner,
        inbound: Box<Inbound>,
        result: Result<usize, i32>,
        more: bool,
    },
    Sent {
        owner: StreamOwner,
        batch: Box<SendBatch>,
        result: Result<usize, i32>,
    },
    /// `released` is no longer used by the operation; the receiver of this drops that count.
    Disk {
        tag: DiskTag,
        result: DiskResult,
        released: Option<BufId>,
    },
    Woken,
}

/// A socket address in the kernel's form.
pub struct SocketAddress {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

impl SocketAddress {
    pub fn new(address: SocketAddr) -> Self {
        // SAFETY: all-zero is a valid sockaddr_storage, plain integers.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let len = match address {
            SocketAddr::V4(v4) => {
                let raw = libc::sockaddr_in {
                    sin_family: libc::AF_INET as u16,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from(*v4.ip()).to_be() },
                    sin_zero: [0; 8],
                };
                // SAFETY: the storage is larger than and aligned for every socket address.
                unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(raw) };
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                let raw = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as u16,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                // SAFETY: as above.
                unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(raw) };
                size_of::<libc::sockaddr_in6>()
            }
        };
        Self { storage, len: len as libc::socklen_t }
    }
}

/// The ring of a shard and its operations in flight.
pub struct Reactor {
    ring: Ring,
    ops: Slab<Op>,
    arena: Arc<Arena>,
    /// Disk operations that the kernel has not been given yet, in order; their `Op` is in the slab.
    backlog: VecDeque<squeue::Entry>,
    reaped: Vec<Reaped>,
    next_reaped: usize,
    retired: Rc<RefCell<Vec<u32>>>,
    stats: ReactorStats,
    /// Means of zeroing that the device is known not to have are not tried again.
    zero_floor: ZeroMeans,
}

/// Counters since the start.
#[derive(Clone, Copy, Default, Debug)]
pub struct ReactorStats {
    pub enters: u64,
    pub completions: u64,
}

impl Reactor {
    /// Makes the ring for the calling thread (see [`Ring::new`]) and pins the data buffers where the kernel allows.
    pub fn new(arena: Arc<Arena>, pin_buffers: bool, plain: bool) -> Result<Self, RingError> {
        let mut ring = Ring::new(plain)?;
        if pin_buffers {
            // SAFETY: the reactor holds the arena as long as the ring.
            let registered = unsafe { ring.register_buffers(&arena.slabs()) };
            if let Err(error) = registered {
                log::info!(
                    "data buffers are not registered with io_uring ({error}); each operation pins its own"
                );
            }
        }
        Ok(Self {
            ring,
            ops: Slab::with_capacity(OPS_PREALLOCATED),
            arena,
            backlog: VecDeque::with_capacity(OPS_PREALLOCATED),
            reaped: Vec::with_capacity(OPS_PREALLOCATED),
            next_reaped: 0,
            retired: Rc::default(),
            stats: ReactorStats::default(),
            zero_floor: ZeroMeans::PunchHole,
        })
    }

    pub fn capabilities(&self) -> Capabilities {
        self.ring.capabilities()
    }

    pub fn stats(&self) -> ReactorStats {
        self.stats
    }

    /// Makes a descriptor known to the ring.
    pub fn adopt(&mut self, fd: OwnedFd) -> File {
        let slot = self.ring.register_file(fd.as_raw_fd());
        File { inner: Rc::new(FileInner { fd, slot, retired: self.retired.clone() }) }
    }

    /// Operations in flight.
    pub fn in_flight(&self) -> usize {
        self.ops.len()
    }

    pub fn accept(&mut self, file: &File, listen: ListenFor) {
        let entry = opcode::Accept::new(file.target(), std::ptr::null_mut(), std::ptr::null_mut())
            .flags(libc::SOCK_CLOEXEC)
            .build()
            .flags(file.flags());
        self.submit(Op::Accept { listen, _file: file.clone() }, entry);
    }

    pub fn connect(&mut self, file: &File, owner: StreamOwner, address: SocketAddr) {
        let address = Box::new(SocketAddress::new(address));
        let entry = opcode::Connect::new(file.target(), (&raw const address.storage).cast(), address.len)
            .build()
            .flags(file.flags());
        self.submit(Op::Connect { owner, _file: file.clone(), _address: address }, entry);
    }

    /// Receives into what `inbound` has prepared. `poll_first`: nothing is expected to be there yet.
    pub fn recv(&mut self, file: &File, owner: StreamOwner, mut inbound: Box<Inbound>, poll_first: bool) {
        // IORING_RECVSEND_POLL_FIRST
        let ioprio = u16::from(poll_first);
        let entry = match inbound.target(&self.arena) {
            super::stream::RecvTarget::Plain { address, len } => {
                opcode::Recv::new(file.target(), address, len).ioprio(ioprio).build()
            }
            super::stream::RecvTarget::Scatter { message } => {
                opcode::RecvMsg::new(file.target(), message).ioprio(ioprio).build()
            }
        };
        self.submit(Op::Recv { owner, _file: file.clone(), inbound }, entry.flags(file.flags()));
    }

    /// Sends the batch; the kernel goes on until all of it is sent or the connection fails.
    pub fn send(&mut self, file: &File, owner: StreamOwner, mut batch: Box<SendBatch>) {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let entry = match batch.source(&self.arena) {
            super::stream::SendSource::Plain { address, len } => {
                opcode::Send::new(file.target(), address, len).flags(flags).build()
            }
            super::stream::SendSource::Gather { message } => {
                opcode::SendMsg::new(file.target(), message).flags(flags as u32).build()
            }
        };
        self.submit(Op::Send { owner, _file: file.clone(), batch }, entry.flags(file.flags()));
    }

    /// Reads `len` bytes at `offset` of the device. The buffer is retained until the completion says `released`.
    pub fn disk_read(&mut self, file: &File, tag: DiskTag, offset: u64, to: BufSlice, len: u32) {
        self.arena.retain(to.buf);
        let transfer = Transfer { file: file.clone(), kind: TransferKind::Read(to), offset, len };
        self.submit_transfer(tag, transfer, 0, 0);
    }

    /// Writes `len` bytes at `offset` of the device; `durable`: on stable storage when it completes.
    pub fn disk_write(
        &mut self,
        file: &File,
        tag: DiskTag,
        offset: u64,
        from: BufSlice,
        len: u32,
        durable: bool,
    ) {
        self.arena.retain(from.buf);
        let kind = TransferKind::Write { from, durable };
        self.submit_transfer(tag, Transfer { file: file.clone(), kind, offset, len }, 0, 0);
    }

    /// Makes `len` bytes at `offset` read as zeroes, by the best means the device has; `unmap`: and gives their space back
    /// where it can. `durable`: on stable storage when it completes.
    pub fn disk_zero(
        &mut self,
        file: &File,
        tag: DiskTag,
        offset: u64,
        len: u32,
        unmap: bool,
        durable: bool,
    ) {
        let zeroing = Zeroing::new(unmap, durable, self.zero_floor);
        let kind = TransferKind::Zero(zeroing);
        self.submit_transfer(tag, Transfer { file: file.clone(), kind, offset, len }, 0, 0);
    }

    /// Writes a metadata page, on stable storage when it completes.
    pub fn page_write(&mut self, file: &File, tag: DiskTag, offset: u64, page: Box<Page>) {
        let kind = TransferKind::Page(page);
        self.submit_transfer(
            tag,
            Transfer { file: file.clone(), kind, offset, len: PAGE_BYTES as u32 },
            0,
            0,
        );
    }

    /// Makes everything completed before this call stable.
    pub fn disk_flush(&mut self, file: &File, tag: DiskTag) {
        let kind = TransferKind::Flush;
        self.submit_transfer(tag, Transfer { file: file.clone(), kind, offset: 0, len: 0 }, 0, 0);
    }

    /// Arms the read of the shard's wake-up descriptor.
    pub fn arm_wake(&mut self, file: &File) {
        self.arm_wake_with(file.clone(), Box::new(0));
    }

    fn arm_wake_with(&mut self, file: File, mut count: Box<u64>) {
        let address: *mut u64 = &raw mut *count;
        let entry = opcode::Read::new(file.target(), address.cast(), 8).build().flags(file.flags());
        self.submit(Op::Wake { file, count }, entry);
    }

    /// Cancels what is under way on a file; each operation still completes, with ECANCELED if it was stopped.
    pub fn cancel(&mut self, file: &File) {
        let key = self.ops.insert(Op::Cancel);
        let criteria = match file.inner.slot {
            Some(slot) => types::CancelBuilder::fd(types::Fixed(slot)),
            None => types::CancelBuilder::fd(types::Fd(file.inner.fd.as_raw_fd())),
        };
        let entry = opcode::AsyncCancel2::new(criteria.all()).build().user_data(key.0);
        self.push(&entry);
    }

    /// Cancels everything and waits for it, at most [`DRAIN_LIMIT`]. Completions are dropped.
    fn drain(&mut self) {
        let begun = Instant::now();
        for entry in self.backlog.drain(..) {
            drop(self.ops.remove(Key(entry.get_user_data())));
        }
        let key = self.ops.insert(Op::Cancel);
        let cancel = opcode::AsyncCancel2::new(types::CancelBuilder::any()).build().user_data(key.0);
        self.push(&cancel);
        while !self.ops.is_empty() && begun.elapsed() < DRAIN_LIMIT {
            if self.ring.enter(Wait::AtMost(Duration::from_millis(50))).is_err() {
                break;
            }
            self.reaped.clear();
            self.ring.reap(&mut self.reaped);
            for reaped in &self.reaped {
                drop(self.ops.remove(Key(reaped.user_data)));
            }
        }
    }

    fn submit(&mut self, op: Op, entry: squeue::Entry) {
        let key = self.ops.insert(op);
        self.push(&entry.user_data(key.0));
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: what the entry points to is owned by its `Op` in the slab (heap memory that does not move with the
        // op) or is a data buffer that the op has retained; the slab keeps the op until the completion is reaped.
        if let Err(error) = unsafe { self.ring.push(entry) } {
            panic!("io_uring takes no submissions any more: {error}");
        }
    }

    fn submit_transfer(&mut self, tag: DiskTag, transfer: Transfer, done: u32, retries: u8) {
        let entry = self.transfer_entry(&transfer, done);
        let key = self.ops.insert(Op::Disk { tag, transfer, done, retries });
        self.backlog.push_back(entry.user_data(key.0));
    }

    fn transfer_entry(&self, transfer: &Transfer, done: u32) -> squeue::Entry {
        let fd = transfer.file.target();
        let (offset, len) = (transfer.offset + u64::from(done), transfer.len - done);
        let fixed = self.ring.capabilities().registered_buffers;
        let place = |slice: BufSlice| {
            let at = slice.offset as usize + done as usize;
            (self.arena.address(slice.buf, at, len as usize), self.arena.register_index(slice.buf))
        };
        let entry = match &transfer.kind {
            TransferKind::Read(to) => {
                let (address, index) = place(*to);
                if fixed {
                    opcode::ReadFixed::new(fd, address, len, index).offset(offset).build()
                } else {
                    opcode::Read::new(fd, address, len).offset(offset).build()
                }
            }
            TransferKind::Write { from, durable } => {
                let (address, index) = place(*from);
                let flags = if *durable { libc::RWF_DSYNC } else { 0 };
                if fixed {
                    opcode::WriteFixed::new(fd, address, len, index).offset(offset).rw_flags(flags).build()
                } else {
                    opcode::Write::new(fd, address, len).offset(offset).rw_flags(flags).build()
                }
            }
            TransferKind::Zero(zeroing) => zeroing.entry(fd, offset, len),
            TransferKind::Page(page) => opcode::Write::new(fd, page.0[done as usize..].as_ptr(), len)
                .offset(offset)
                .rw_flags(libc::RWF_DSYNC)
                .build(),
            TransferKind::Flush => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
        };
        entry.flags(transfer.file.flags())
    }

    /// Is there news that a turn would bring without sleeping?
    pub fn has_news(&mut self) -> bool {
        self.ring.has_news()
    }

    /// Do disk operations wait for the next turn? A turn that leaves some does not sleep.
    pub fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Queues the disk operations of this turn, behind its sends: answers are on their way while the device works.
    fn queue_disk_batch(&mut self) {
        let batch = DISK_BATCH.max(self.backlog.len() / DISK_BATCH_PART);
        for _ in 0..batch {
            let Some(entry) = self.backlog.pop_front() else { return };
            self.push(&entry);
        }
    }

    /// The system call of the turn. Skipped when there is nothing to submit, nothing to run and no wish to wait.
    pub fn turn(&mut self, wait: Wait) {
        self.queue_disk_batch();
        let wait = if self.has_backlog() { Wait::No } else { wait };
        if wait != Wait::No || self.ring.has_submissions() || self.ring.has_news() {
            self.stats.enters += 1;
            if let Err(error) = self.ring.enter(wait) {
                panic!("io_uring fails: {error}");
            }
        }
        if self.next_reaped == self.reaped.len() {
            self.reaped.clear();
            self.next_reaped = 0;
        }
        self.ring.reap(&mut self.reaped);
        self.stats.completions += self.reaped.len() as u64;
        if !self.retired.borrow().is_empty() {
            for slot in std::mem::take(&mut *self.retired.borrow_mut()) {
                self.ring.unregister_file(slot);
            }
        }
    }

    /// Have completions been reaped that nobody has taken?
    pub fn has_completions(&self) -> bool {
        self.next_reaped < self.reaped.len()
    }

    /// Next completion of this turn.
    pub fn next_completion(&mut self) -> Option<Completion> {
        while let Some(reaped) = self.reaped.get(self.next_reaped).copied() {
            self.next_reaped += 1;
            let op = self.ops.remove(Key(reaped.user_data)).expect("each operation completes once");
            if let Some(completion) = self.complete(op, reaped) {
                return Some(completion);
            }
        }
        None
    }

    fn complete(&mut self, op: Op, reaped: Reaped) -> Option<Completion> {
        let bytes = if reaped.result < 0 { Err(-reaped.result) } else { Ok(reaped.result as usize) };
        Some(match op {
            Op::Accept { listen, .. } => {
                // SAFETY: a successful accept returns a new descriptor that nobody else owns.
                let result = bytes.map(|fd| unsafe { OwnedFd::from_raw_fd(fd as i32) });
                Completion::Accepted { listen, result }
            }
            Op::Connect { owner, .. } => Completion::Connected { owner, result: bytes.map(|_| ()) },
            Op::Recv { owner, inbound, .. } => {
                let more = cqueue::sock_nonempty(reaped.flags);
                Completion::Received { owner, inbound, result: bytes, more }
            }
            Op::Send { owner, batch, .. } => Completion::Sent { owner, batch, result: bytes },
            Op::Disk { tag, transfer, done, retries } => {
                return self.disk_done(tag, transfer, done, retries, reaped.result);
            }
            Op::Wake { file, count } => {
                if matches!(bytes, Ok(_) | Err(libc::EINTR | libc::EAGAIN)) {
                    self.arm_wake_with(file, count);
                } else {
                    assert!(bytes == Err(libc::ECANCELED), "the wake-up descriptor works until the end");
                }
                Completion::Woken
            }
            Op::Cancel => return None,
        })
    }

    /// Goes on with zeroing, or says how it ended.
    fn zero_done(
        &mut self,
        tag: DiskTag,
        mut transfer: Transfer,
        done: u32,
        retries: u8,
        result: i32,
    ) -> Option<Completion> {
        let (offset, left) = (transfer.offset + u64::from(done), transfer.len - done);
        let TransferKind::Zero(zeroing) = &mut transfer.kind else { unreachable!("zeroing") };
        let (done, retries) = match zeroing.on_result(offset, left, result) {
            ZeroStep::Progress(bytes) => (done + bytes, retries),
            ZeroStep::OtherMeans(means) => {
                self.zero_floor = self.zero_floor.max(means);
                (done, retries)
            }
            ZeroStep::Again if retries < RETRIES_MAX => (done, retries + 1),
            ZeroStep::Again | ZeroStep::Failed => {
                log::error!("zeroing at byte {offset} failed: {}", describe(result));
                return Some(Completion::Disk { tag, result: DiskResult::Error, released: None });
            }
        };
        if zeroing.is_over(transfer.len - done) {
            return Some(Completion::Disk { tag, result: DiskResult::Good, released: None });
        }
        self.submit_transfer(tag, transfer, done, retries);
        None
    }

    /// Goes on with a short transfer, tries again what the kernel asked to, or gives the result.
    fn disk_done(
        &mut self,
        tag: DiskTag,
        transfer: Transfer,
        done: u32,
        retries: u8,
        result: i32,
    ) -> Option<Completion> {
        if matches!(transfer.kind, TransferKind::Zero(_)) {
            return self.zero_done(tag, transfer, done, retries, result);
        }
        let progress = result.max(0) as u32;
        assert!(progress <= transfer.len - done, "no more than was asked for");
        let done = done + progress;
        let again = matches!(-result, libc::EAGAIN | libc::EINTR) && retries < RETRIES_MAX;
        let short = result > 0 && done < transfer.len;
        if again || short {
            self.submit_transfer(tag, transfer, done, retries + u8::from(again));
            return None;
        }
        let good = result >= 0 && done == transfer.len;
        if !good {
            log::error!("device operation at byte {} failed: {}", transfer.offset, describe(result));
        }
        let released = match transfer.kind {
            TransferKind::Read(slice) | TransferKind::Write { from: slice, .. } => Some(slice.buf),
            TransferKind::Page(_) | TransferKind::Flush | TransferKind::Zero(_) => None,
        };
        let result = if good { DiskResult::Good } else { DiskResult::Error };
        Some(Completion::Disk { tag, result, released })
    }
}

impl Drop for Reactor {
    #[allow(clippy::disallowed_methods, reason = "memory that the kernel may still write to is never reused")]
    fn drop(&mut self) {
        self.drain();
        if !self.ops.is_empty() {
            // Better lost memory than memory the kernel still writes to. The arena goes with the process.
            log::error!("{} operations do not end; their memory is given up", self.ops.len());
            std::mem::forget(std::mem::replace(&mut self.ops, Slab::with_capacity(0)));
            std::mem::forget(self.arena.clone());
            return;
        }
        self.ring.let_go();
    }
}

fn describe(result: i32) -> String {
    if result < 0 { io::Error::from_raw_os_error(-result).to_string() } else { "short transfer".to_owned() }
}
