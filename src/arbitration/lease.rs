//! Read leases (R5, R6): for a while the follower promises not to ask for the lead, and the leader answers reads from its
//! own disk without asking at each. Clocks are trusted as little as possible: no instant of one node is compared with
//! one of the other. The leader asks at `t_s` by its clock and may use what it gets until `t_s` + [`USED_FOR`]; the
//! follower grants at `t_r`, not before `t_s`, and keeps its promise until `t_r` + [`GRANTED_FOR`] by its own. What is left
//! to trust is that both clocks *go*, at rates that differ by at most [`DRIFT_PER_MILLE`]. A virtual machine that is
//! stopped with its clock breaks that; there reads are confirmed.
//!
//! Absent on purpose: any instant on a disk. What a node granted before its start it has forgotten; it waits as if it had
//! granted at its start (R6).

use crate::time::{Duration, Instant};
use crate::units::SessionId;

use super::Epoch;

/// How long a follower keeps its promise. The same in every release that grants leases: a node waits it out for the
/// release that ran before it.
pub const GRANTED_FOR: Duration = Duration::from_millis(700);
/// How long a leader uses it.
pub const USED_FOR: Duration = Duration::from_millis(600);
/// How often a leader asks.
pub const ASKED_EVERY: Duration = Duration::from_millis(100);
/// A read that begins with less than this left is confirmed as well: it may take longer than the lease lasts.
pub const LAPSE_MARGIN: Duration = Duration::from_millis(100);
/// By how much the rates of the two clocks may differ. Those of real ones differ by less than 1.
pub const DRIFT_PER_MILLE: u64 = 160;

const _: () =
    assert!(USED_FOR.as_millis() as u64 * (1000 + DRIFT_PER_MILLE) < GRANTED_FOR.as_millis() as u64 * 1000);

/// How a leader whose peer is in sync knows that it still leads when it answers a read. The same on both nodes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Reads {
    /// By one round trip to the peer, begun after the read came. No clock is trusted.
    #[default]
    Confirm,
    /// By a lease.
    Lease,
}

impl Reads {
    /// As the configuration has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Confirm => "confirm",
            Self::Lease => "lease",
        }
    }
}

/// What a leader holds (R5). It is of one session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Lease {
    pub session: SessionId,
    /// By the leader's clock; not from then on.
    pub until: Instant,
}

impl Lease {
    /// Granted in answer to what was asked at `asked`.
    pub fn granted(session: SessionId, asked: Instant) -> Self {
        Self { session, until: asked + USED_FOR }
    }

    /// May a read be answered that is checked at `now`?
    pub fn covers(&self, session: Option<SessionId>, now: Instant) -> bool {
        session == Some(self.session) && now < self.until
    }
}

/// What a follower has promised (R5), or may have promised in an earlier life (R6): to ask for nothing that names itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Promise {
    until: Option<Instant>,
    /// Of the newest grant; `None`: of a life before this one.
    epoch: Option<Epoch>,
}

impl Promise {
    /// R6: the node starts, and a life before this one may have granted.
    pub fn at_start(now: Instant) -> Self {
        Self { until: Some(now + GRANTED_FOR), epoch: None }
    }

    /// R5: grants to the leader of `epoch`. `now` must have been read after the question came.
    pub fn grant(&mut self, now: Instant, epoch: Epoch) {
        let until = now + GRANTED_FOR;
        // What an earlier life granted is outlived by this: a certificate that ends the one ends the other.
        self.until = Some(self.until.map_or(until, |old| old.max(until)));
        self.epoch = Some(self.epoch.map_or(epoch, |old| old.max(epoch)));
    }

    /// Until when it binds, if it does still.
    pub fn binds(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|&until| now < until)
    }

    /// The leader's process of this epoch has ended, its kernel says. One that runs by now serves at a later epoch, for it
    /// had to claim the record anew (R7).
    pub fn on_death(&mut self, epoch: Epoch) {
        if self.epoch.is_some_and(|own| own <= epoch) {
            *self = Self::default();
        }
    }

    /// The only node that could hold the lease has said, after its last read was answered, that it leads no more; or a
    /// person has said that it is switched off.
    pub fn end(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionId = SessionId(4);

    fn at(milliseconds: u64) -> Instant {
        Instant(milliseconds * 1_000_000)
    }

    #[test]
    fn r5_the_lease_ends_before_the_promise_however_the_clocks_drift() {
        // Granted the moment it was asked for; the follower's clock goes as fast as it may.
        for real in 0..2000 {
            let lease = Lease::granted(SESSION, at(0));
            let mut promise = Promise::default();
            promise.grant(at(0), Epoch(1));
            let fast = Instant(real * (1000 + DRIFT_PER_MILLE) * 1000);
            let used = lease.covers(Some(SESSION), at(real));
            assert!(!used || promise.binds(fast).is_some(), "{real} ms");
        }
    }

    #[test]
    fn r5_a_lease_is_of_its_session() {
        let lease = Lease::granted(SESSION, at(100));
        assert!(lease.covers(Some(SESSION), at(699)) && !lease.covers(Some(SESSION), at(700)));
        assert!(!lease.covers(Some(SessionId(5)), at(200)) && !lease.covers(None, at(200)));
    }

    #[test]
    fn r5_a_certificate_ends_what_was_granted_to_the_dead_and_nothing_else() {
        let mut promise = Promise::default();
        promise.grant(at(0), Epoch(5));
        let mut later = promise;
        promise.on_death(Epoch(5));
        assert_eq!(promise.binds(at(1)), None);
        later.grant(at(10), Epoch(6));
        later.on_death(Epoch(5));
        assert_eq!(later.binds(at(1)), Some(at(710)), "it was granted to one that began after that death");
    }

    #[test]
    fn r6_what_was_forgotten_is_waited_out() {
        let mut promise = Promise::at_start(at(1000));
        promise.on_death(Epoch(99));
        assert_eq!(promise.binds(at(1699)), Some(at(1700)), "nobody knows to whom it was granted");
        assert_eq!(promise.binds(at(1700)), None);
    }
}
