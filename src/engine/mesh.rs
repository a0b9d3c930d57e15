//! Messages between shards: a bounded ring for each ordered pair, and a wake-up for a shard that sleeps.
//!
//! A busy shard finds its messages when it next looks; only one that has announced its sleep costs the sender a
//! system call. A full ring never blocks: what does not fit waits on the sender's side and goes with the next turn
//! (requests and buffers in existence bound how much that can be).

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::units::ShardId;

/// Messages of one ring.
const RING_MESSAGES: usize = 4096;

/// Wakes one shard out of its wait for the ring.
pub struct Waker {
    event: EventFd,
    asleep: AtomicBool,
}

impl Waker {
    fn new() -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?;
        Ok(Self { event, asleep: AtomicBool::new(false) })
    }

    /// Wakes the shard if it sleeps or is about to. Call after the message is in place.
    pub fn wake(&self) {
        // Pairs with the fence of `Endpoint::fall_asleep`: either the sleeper sees the message or we see it asleep.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel) {
            self.event.write(1).expect("an event counter below its limit takes a wake-up");
        }
    }

    /// A descriptor that becomes readable with a wake-up.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        // SAFETY: the descriptor is open; the duplicate is owned by nobody else.
        let fd = unsafe { libc::fcntl(self.event.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above.
        Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) })
    }
}

/// One shard's side of the mesh.
pub struct Endpoint<M> {
    shard: ShardId,
    outlets: Vec<Outlet<M>>,
    inlets: Vec<Receiver<M>>,
    wakers: Arc<[Waker]>,
    /// Inlet that is looked at first, so that none is forgotten.
    next: usize,
}

struct Outlet<M> {
    ring: Sender<M>,
    waiting: VecDeque<M>,
    /// Messages were sent since the last [`Endpoint::flush`].
    dirty: bool,
}

/// An endpoint for each shard, and the wakers for threads that are no shard.
pub type Ends<M> = (Vec<Endpoint<M>>, Arc<[Waker]>);

/// The mesh of an engine.
pub fn mesh<M>(shards: u8) -> io::Result<Ends<M>> {
    let wakers: Arc<[Waker]> = (0..shards).map(|_| Waker::new()).collect::<io::Result<Vec<_>>>()?.into();
    let count = usize::from(shards);
    let mut inlets: Vec<Vec<Receiver<M>>> = (0..count).map(|_| Vec::with_capacity(count)).collect();
    let mut endpoints = Vec::with_capacity(count);
    for from in 0..count {
        let mut outlets = Vec::with_capacity(count);
        for (to, inlets) in inlets.iter_mut().enumerate() {
            // A shard does not talk to itself over the mesh; its own ring exists only to keep the numbers simple.
            let (sender, receiver) = bounded(if from == to { 1 } else { RING_MESSAGES });
            outlets.push(Outlet { ring: sender, waiting: VecDeque::new(), dirty: false });
            inlets.push(receiver);
        }
        endpoints.push(outlets);
    }
    let endpoints = endpoints
        .into_iter()
        .zip(inlets)
        .enumerate()
        .map(|(number, (outlets, inlets))| Endpoint {
            shard: ShardId(number as u8),
            outlets,
            inlets,
            wakers: wakers.clone(),
            next: 0,
        })
        .collect();
    Ok((endpoints, wakers))
}

impl<M> Endpoint<M> {
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    pub fn shards(&self) -> u8 {
        self.outlets.len() as u8
    }

    /// Sends to another shard; messages of one sender arrive in order. Delivered at the latest by [`flush`](Self::flush).
    pub fn send(&mut self, to: ShardId, message: M) {
        assert!(to != self.shard, "a shard calls itself directly");
        let outlet = &mut self.outlets[usize::from(to.0)];
        outlet.dirty = true;
        if !outlet.waiting.is_empty() {
            outlet.waiting.push_back(message);
            return;
        }
        match outlet.ring.try_send(message) {
            Ok(()) => {}
            Err(TrySendError::Full(message)) => outlet.waiting.push_back(message),
            // The other shard has ended; so will this one.
            Err(TrySendError::Disconnected(_)) => {}
        }
    }

    /// Wakes the shards that were sent something, and moves on what had no room.
    pub fn flush(&mut self) {
        for (to, outlet) in self.outlets.iter_mut().enumerate() {
            if !outlet.dirty {
                continue;
            }
            while let Some(message) = outlet.waiting.pop_front() {
                match outlet.ring.try_send(message) {
                    Ok(()) | Err(TrySendError::Disconnected(_)) => {}
                    Err(TrySendError::Full(message)) => {
                        outlet.waiting.push_front(message);
                        break;
                    }
                }
            }
            outlet.dirty = !outlet.waiting.is_empty();
            self.wakers[to].wake();
        }
    }

    /// Does a message wait on this side? Then the shard must not sleep long.
    pub fn has_backlog(&self) -> bool {
        self.outlets.iter().any(|outlet| !outlet.waiting.is_empty())
    }

    /// Next message, from the shards in turn.
    pub fn receive(&mut self) -> Option<(ShardId, M)> {
        let count = self.inlets.len();
        for step in 0..count {
            let from = (self.next + step) % count;
            match self.inlets[from].try_recv() {
                Ok(message) => {
                    self.next = (from + 1) % count;
                    return Some((ShardId(from as u8), message));
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
            }
        }
        None
    }

    pub fn has_messages(&self) -> bool {
        self.inlets.iter().any(|inlet| !inlet.is_empty())
    }

    /// Announces a sleep. False: a message is there, do not sleep. After the sleep call [`wake_up`](Self::wake_up).
    pub fn fall_asleep(&self, others: impl Fn() -> bool) -> bool {
        let asleep = &self.wakers[usize::from(self.shard.0)].asleep;
        asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.has_messages() || others() {
            asleep.store(false, Ordering::Relaxed);
            return false;
        }
        true
    }

    pub fn wake_up(&self) {
        self.wakers[usize::from(self.shard.0)].asleep.store(false, Ordering::Relaxed);
    }

    pub fn waker(&self) -> &Waker {
        &self.wakers[usize::from(self.shard.0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_in_order_and_none_is_lost_when_the_ring_is_full() {
        let (mut ends, _) = mesh::<usize>(3).expect("event counters");
        let (mut b, mut a) = (ends.remove(1), ends.remove(0));
        let count = RING_MESSAGES + 100;
        for number in 0..count {
            a.send(ShardId(1), number);
        }
        a.flush();
        assert!(a.has_backlog());
        let mut got = Vec::new();
        while got.len() < count {
            while let Some((from, number)) = b.receive() {
                assert_eq!(from, ShardId(0));
                got.push(number);
            }
            a.flush();
        }
        assert!(got.iter().copied().eq(0..count));
        assert!(!a.has_backlog() && !b.has_messages());
    }

    #[test]
    fn only_a_sleeper_is_woken() {
        let (mut ends, wakers) = mesh::<u8>(2).expect("event counters");
        let (b, mut a) = (ends.remove(1), ends.remove(0));
        let readable = |waker: &Waker| {
            let mut poll = libc::pollfd { fd: waker.event.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one pollfd, a local.
            unsafe { libc::poll(&mut poll, 1, 0) == 1 }
        };
        a.send(ShardId(1), 1);
        a.flush();
        assert!(!readable(&wakers[1]));
        assert!(!b.fall_asleep(|| false), "a message waits");
        let mut b = b;
        assert_eq!(b.receive(), Some((ShardId(0), 1)));
        assert!(b.fall_asleep(|| false));
        a.send(ShardId(1), 2);
        a.flush();
        assert!(readable(&wakers[1]));
    }

    #[test]
    fn two_threads_wake_each_other_and_no_wakeup_is_lost() {
        let (mut ends, _) = mesh::<u32>(2).expect("event counters");
        let (mut b, mut a) = (ends.remove(1), ends.remove(0));
        let rounds = 20_000;
        let sleep = |end: &Endpoint<u32>| {
            if end.fall_asleep(|| false) {
                end.waker().event.read().expect("a wake-up comes");
                end.wake_up();
            }
        };
        let other = std::thread::spawn(move || {
            for round in 0..rounds {
                while b.receive() != Some((ShardId(0), round)) {
                    sleep(&b);
                }
                b.send(ShardId(0), round);
                b.flush();
            }
        });
        for round in 0..rounds {
            a.send(ShardId(1), round);
            a.flush();
            while a.receive() != Some((ShardId(1), round)) {
                sleep(&a);
            }
        }
        other.join().expect("the other side ends");
    }
}
