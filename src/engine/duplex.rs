//! Both directions of one TCP connection on the ring: at most one receive and one send under way, each owning its side.

use super::plumbing::{Message, Plumbing};
use super::reactor::{File, StreamOwner};
use super::sockets;
use super::stream::{Inbound, SendBatch};

/// See the module.
pub struct Duplex {
    pub file: File,
    /// `None` while a receive is under way.
    pub inbound: Option<Box<Inbound>>,
    /// What the next send will say.
    pub filling: Box<SendBatch>,
    /// The other batch; `None` while a send is under way.
    spare: Option<Box<SendBatch>>,
    /// More bytes are wanted.
    pub hungry: bool,
    /// The socket is thought to be empty: poll before the first try.
    drained: bool,
}

/// What came of a finished send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendEnd {
    /// Everything is out.
    Done,
    /// The rest goes on by itself.
    Continues,
    Failed,
}

impl Duplex {
    pub fn new(file: File, inbound: Box<Inbound>) -> Self {
        Self {
            file,
            inbound: Some(inbound),
            filling: SendBatch::new(),
            spare: Some(SendBatch::new()),
            hungry: false,
            drained: true,
        }
    }

    /// No send is under way.
    pub fn send_is_idle(&self) -> bool {
        self.spare.is_some()
    }

    /// Nothing is under way in either direction.
    pub fn is_quiet(&self) -> bool {
        self.spare.is_some() && self.inbound.is_some()
    }

    /// Sends what has collected, unless a send is under way.
    pub fn send_if_due(&mut self, owner: StreamOwner, plumbing: &mut Plumbing) {
        if self.filling.is_empty() {
            return;
        }
        if let Some(spare) = self.spare.take() {
            let batch = std::mem::replace(&mut self.filling, spare);
            plumbing.reactor.send(&self.file, owner, batch);
        }
    }

    /// Receives, if more is wanted and no receive is under way.
    pub fn receive_if_due(&mut self, owner: StreamOwner, plumbing: &mut Plumbing) {
        if !self.hungry {
            return;
        }
        if let Some(inbound) = self.inbound.take() {
            plumbing.reactor.recv(&self.file, owner, inbound, self.drained);
        }
    }

    /// A receive has ended. False: the connection has.
    pub fn on_received(
        &mut self,
        mut inbound: Box<Inbound>,
        result: Result<usize, i32>,
        more: bool,
        plumbing: &mut Plumbing,
    ) -> bool {
        if let Some(buf) = inbound.received(*result.as_ref().unwrap_or(&0)) {
            plumbing.release(buf);
        }
        self.inbound = Some(inbound);
        self.hungry = false;
        self.drained = !more;
        matches!(result, Ok(1..) | Err(libc::EINTR | libc::EAGAIN))
    }

    /// A send has ended. `alive`: go on with what is left of it.
    pub fn on_sent(
        &mut self,
        mut batch: Box<SendBatch>,
        result: Result<usize, i32>,
        alive: bool,
        owner: StreamOwner,
        plumbing: &mut Plumbing,
    ) -> SendEnd {
        let mut foreign = Vec::new();
        let failed = match result {
            Ok(count) if alive => {
                batch.sent(count, &mut plumbing.pool, &mut foreign);
                false
            }
            Err(libc::EINTR | libc::EAGAIN) if alive => false,
            _ => {
                batch.abandon(&mut plumbing.pool, &mut foreign);
                true
            }
        };
        for (home, buf) in foreign {
            plumbing.mesh.send(home, Message::Free(buf));
        }
        if !batch.is_empty() {
            plumbing.reactor.send(&self.file, owner, batch);
            return SendEnd::Continues;
        }
        self.spare = Some(batch);
        if failed { SendEnd::Failed } else { SendEnd::Done }
    }

    /// Ends the connection: what has not been handed to the ring is dropped, what has been completes soon.
    pub fn hang_up(&mut self, plumbing: &mut Plumbing) {
        sockets::hang_up(self.file.as_fd());
        let mut foreign = Vec::new();
        self.filling.abandon(&mut plumbing.pool, &mut foreign);
        for (home, buf) in foreign {
            plumbing.mesh.send(home, Message::Free(buf));
        }
    }
}
