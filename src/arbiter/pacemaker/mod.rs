//! Pacemaker: the record is kept in the cluster's CIB, as a property set `twinlun-VOLUME`.
//!
//! For those who run Corosync and Pacemaker anyway. Pacemaker decides who is to lead and calls `promote`; this back end
//! never does. It grants a change only in a quorate partition, only with fencing switched on, and only when the other
//! node's own copy of the CIB shows the change or the cluster has confirmed that the node is off: [`rules`] says why a
//! write to the CIB alone is not enough. It never fences by itself: Pacemaker fences every node that it loses.

mod error;
pub mod rules;
#[cfg(test)]
mod tests;
mod tools;
mod xml;

use std::path::Path;

use super::value::PairId;
use super::{Arbiter, ArbiterError, Swap};
use crate::arbitration::Record;
use crate::units::NodeId;

pub use error::{PacemakerError, Unsafe};
use rules::{Attempt, Copy, Next, Pending, View, Write, judge};
use tools::Tools;

/// Attempts that respect a bid of the other node's, before it is replaced. An attempt takes about a tenth of a second.
const DEFERENCE: u32 = 20;
/// Where Pacemaker's tools are.
const TOOL: &str = "/usr/sbin/cibadmin";

/// What the back end needs to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PacemakerConfig {
    pub me: NodeId,
    /// This node's name, in the configuration and in the cluster.
    pub name: String,
    pub peer: String,
    pub volume: String,
    pub pair: PairId,
    /// What this node's disk holds as the process starts.
    pub own: Record,
}

/// The cluster, as far as a change needs it.
pub(crate) trait Cluster: Send {
    /// The members, and this node's copy of the CIB.
    fn look(&mut self) -> Result<View, PacemakerError>;
    fn copy_of(&mut self, node: &str) -> Result<Copy, PacemakerError>;
    /// Whether it was taken is looked up, whatever comes of this.
    fn change(&mut self, write: &Write) -> Result<(), PacemakerError>;
}

/// Are Pacemaker's tools here?
pub fn is_installed() -> bool {
    Path::new(TOOL).exists()
}

/// The back end.
pub struct PacemakerArbiter {
    me: NodeId,
    peer: String,
    cluster: Box<dyn Cluster>,
    met: bool,
    own: Record,
    vouched: Option<Vouched>,
    /// Attempts that the other node's bid was respected, in a row.
    deferred: u32,
}

/// A person's word is good for the promotion that it was given for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Vouched {
    Fresh,
    /// The record was read once since.
    Read,
}

impl PacemakerArbiter {
    pub fn new(config: PacemakerConfig) -> Self {
        let (me, peer, own) = (config.me, config.peer.clone(), config.own);
        Self::over(me, peer, own, Box::new(Tools::new(config)))
    }

    pub(crate) fn over(me: NodeId, peer: String, own: Record, cluster: Box<dyn Cluster>) -> Self {
        Self { me, peer, cluster, met: false, own, vouched: None, deferred: 0 }
    }

    fn look(&mut self) -> Result<View, PacemakerError> {
        let view = self.cluster.look()?;
        if view.own.record.is_some_and(|record| !record.in_sync.contains(self.me)) {
            // The other node went on without this one.
            self.met = false;
        }
        Ok(view)
    }

    fn pending(&self, why: Pending) -> ArbiterError {
        ArbiterError::Pacemaker(PacemakerError::Pending { peer: self.peer.clone(), why })
    }

    fn attempt(&mut self, expected: Option<Record>, proposed: Record) -> Result<Swap, PacemakerError> {
        let vouched = self.vouched.is_some();
        let need = match judge(self.me, self.met, vouched, self.own, expected, &proposed) {
            Ok(need) => need,
            Err(why) => return Err(PacemakerError::Refused { peer: self.peer.clone(), why }),
        };
        let overrule = self.deferred >= DEFERENCE;
        let mut attempt = Attempt::new(self.me, self.peer.clone(), need, expected, proposed, overrule);
        let mut next = Next::Look;
        loop {
            next = match next {
                Next::Look => {
                    let view = self.look()?;
                    attempt.on_view(&view)
                }
                Next::Write(write) => {
                    if let Err(error) = self.cluster.change(&write) {
                        log::debug!("{error}");
                    }
                    Next::Look
                }
                Next::Copies(names) => {
                    let copies: Vec<_> = names
                        .into_iter()
                        .map(|name| {
                            let copy = self.cluster.copy_of(&name);
                            let copy = copy.inspect_err(|error| log::debug!("{name}: {error}")).ok();
                            (name, copy)
                        })
                        .collect();
                    attempt.on_copies(&copies)
                }
                Next::Committed => return Ok(Swap::Committed),
                Next::Conflict(record) => return Ok(Swap::Conflict(record)),
                Next::Pending(why) => {
                    self.deferred = if why == Pending::Rival { self.deferred + 1 } else { 0 };
                    return Ok(Swap::Unknown(self.pending(why)));
                }
            };
        }
    }
}

impl Arbiter for PacemakerArbiter {
    fn kind(&self) -> &'static str {
        "pacemaker"
    }

    fn read(&mut self) -> Result<Option<Record>, ArbiterError> {
        self.vouched = match self.vouched {
            Some(Vouched::Fresh) => Some(Vouched::Read),
            Some(Vouched::Read) | None => None,
        };
        let view = self.look().map_err(ArbiterError::Pacemaker)?;
        if view.quorate { Ok(view.own.record) } else { Err(self.pending(Pending::NoQuorum)) }
    }

    fn compare_and_swap(&mut self, expected: Option<Record>, proposed: Record) -> Swap {
        let outcome = self.attempt(expected, proposed);
        let outcome = outcome.unwrap_or_else(|error| Swap::Unknown(ArbiterError::Pacemaker(error)));
        match outcome {
            Swap::Committed => {
                self.own = proposed;
                self.vouched = None;
                self.deferred = 0;
            }
            Swap::Conflict(_) => self.vouched = None,
            Swap::Unknown(_) => {}
        }
        outcome
    }

    fn on_met(&mut self) {
        self.met = true;
    }

    fn on_vouched(&mut self) {
        self.vouched = Some(Vouched::Fresh);
    }
}
