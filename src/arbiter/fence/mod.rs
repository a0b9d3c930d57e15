//! Two nodes and no third vote: the other node is switched off before this one serves alone.
//!
//! The record is kept in each node's own superblock, and there is nobody to ask for it. What takes the place of the
//! third vote is a fence device (a power switch, a management board) and the rule that nothing counts as fenced that
//! was not confirmed: [`rules`] decides what is needed, [`agent`] does it. A fence that fails is tried again for a
//! while; then the change is left to a person, and requests stay held. It never becomes a success by waiting.

pub mod agent;
pub mod rules;
#[cfg(test)]
mod tests;

use std::thread;
use std::time::{Duration, Instant};

use super::{Arbiter, ArbiterError, Swap};
use crate::arbitration::Record;
use crate::units::NodeId;

use agent::{AgentError, FenceAgent};
use rules::{Refused, Verdict, judge};

/// Pause between two attempts.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the device may take to answer when the daemon starts.
const PROBE_MAX: Duration = Duration::from_secs(20);

/// What the back end needs to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FenceConfig {
    pub me: NodeId,
    /// The other node's name, and what switches it off.
    pub peer: String,
    pub agent: FenceAgent,
    /// How long the node that is not primary waits before it fences (F3).
    pub delay: Duration,
    /// How long fencing may take, all attempts together.
    pub timeout: Duration,
}

/// Why the change is left to a person.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FenceError {
    Refused { peer: String, why: Refused },
    Agent { peer: String, program: String, error: AgentError },
}

impl std::fmt::Display for FenceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused { peer, why: Refused::NotMet } => write!(
                f,
                "this node has not met {peer} since it started, so {peer} may have gone on without it: it waits for {peer} \
                 and does not switch it off"
            ),
            Self::Refused { peer, why: Refused::NoRecord } => write!(
                f,
                "nobody has served this volume yet, and {peer} has no part in this promotion: it needs a person's word \
                 that {peer} does not serve either"
            ),
            Self::Refused { peer, why: Refused::NotInSync } => {
                write!(f, "this copy is not in sync: {peer} may hold writes that are missing here")
            }
            Self::Agent { peer, program, error } => write!(
                f,
                "{peer} is not known to be off: {program}: {error}. Requests are held until it is; switch {peer} off by \
                 hand and say so with twinlun promote --force --i-have-fenced {peer}"
            ),
        }
    }
}

impl std::error::Error for FenceError {}

/// The back end.
pub struct FenceArbiter {
    config: FenceConfig,
    met: bool,
}

impl FenceArbiter {
    pub fn new(config: FenceConfig) -> Self {
        Self { config, met: false }
    }

    fn error(&self, error: AgentError) -> ArbiterError {
        let program = self.config.agent.program.display().to_string();
        ArbiterError::Fence(FenceError::Agent { peer: self.config.peer.clone(), program, error })
    }

    /// Switches the peer off, trying again while there is time.
    fn fence(&self) -> Result<(), ArbiterError> {
        let until = Instant::now() + self.config.timeout;
        loop {
            let error = match self.config.agent.fence(until) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            log::warn!("event=fence_failed {}: {error}", self.config.peer);
            if Instant::now() + PAUSE >= until {
                return Err(self.error(error));
            }
            thread::sleep(PAUSE);
        }
    }
}

impl Arbiter for FenceArbiter {
    fn kind(&self) -> &'static str {
        "fence"
    }

    fn read(&mut self) -> Result<Option<Record>, ArbiterError> {
        Err(ArbiterError::NotKept)
    }

    fn compare_and_swap(&mut self, expected: Option<Record>, proposed: Record) -> Swap {
        let FenceConfig { me, delay, peer, .. } = &self.config;
        match judge(*me, self.met, expected, &proposed) {
            Verdict::Granted => Swap::Committed,
            Verdict::Refused(why) => {
                Swap::Unknown(ArbiterError::Fence(FenceError::Refused { peer: peer.clone(), why }))
            }
            Verdict::Fence { first } => {
                if !first {
                    // Both may live and not hear each other: the primary shoots first. Of two that both think the other
                    // is primary, node 0 does.
                    thread::sleep(*delay * (1 + u32::from(me.0)));
                }
                self.fence().map_or_else(Swap::Unknown, |()| Swap::Committed)
            }
        }
    }

    fn on_met(&mut self) {
        self.met = true;
    }

    fn probe(&mut self) -> Result<(), ArbiterError> {
        let until = Instant::now() + self.config.timeout.min(PROBE_MAX);
        self.config.agent.is_off(until).map(drop).map_err(|error| self.error(error))
    }
}
