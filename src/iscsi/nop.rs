//! NOP-Out and NOP-In (RFC 7143 §11.18-19): the initiator's ping, and the target's own when a connection is silent.

use crate::time::{Duration, Instant};

use super::bhs::{NO_TAG, NopOut};
use super::effect::{CloseReason, Outbox};
use super::limits::Limits;
use super::pdu;
use super::session::{Flow, Session};

/// When to ping, and when to give up. Any PDU is a sign of life.
#[derive(Clone, Debug)]
pub(super) struct Keepalive {
    interval: Option<Duration>,
    timeout: Duration,
    heard: Instant,
    pinged: Option<Instant>,
    pings: u32,
}

impl Keepalive {
    pub(super) fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            interval: limits.ping_interval,
            timeout: limits.ping_timeout,
            heard: now,
            pinged: None,
            pings: 0,
        }
    }

    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.pinged = None;
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.pinged {
            Some(at) => Some(at + self.timeout),
            None => self.interval.map(|interval| self.heard + interval),
        }
    }
}

impl Session {
    /// A NOP-Out with the `ping` data that came along, as much of it as is echoed.
    pub(super) fn on_nop_out(&mut self, nop: &NopOut, ping: &[u8], out: &mut Outbox) -> Result<(), Flow> {
        self.admit(&nop.sequence, 0)?;
        if nop.itt == NO_TAG {
            // An answer to the target's ping, or a sign of life: nothing to say.
            return Ok(());
        }
        let numbers = self.status_numbers();
        let len = ping.len().min(self.parameters.initiator_max_recv as usize);
        out.send_bytes(pdu::nop_in(nop.lun, nop.itt, NO_TAG, numbers), &ping[..len]);
        Ok(())
    }

    /// The time of [`deadline`](Self::deadline) has come.
    pub(super) fn on_timer(&mut self, now: Instant, out: &mut Outbox) {
        if self.leave_by.is_some_and(|at| at <= now) {
            self.finished = Some(CloseReason::Overstayed);
            return;
        }
        if self.keepalive.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        if self.keepalive.pinged.is_some() {
            self.finished = Some(CloseReason::Unresponsive);
            return;
        }
        self.keepalive.pinged = Some(now);
        self.keepalive.pings = self.keepalive.pings.wrapping_add(1);
        // Any tag but FFFFFFFFh asks for an answer.
        let ttt = self.keepalive.pings & 0x7FFF_FFFF;
        out.send(pdu::nop_in([0; 8], NO_TAG, ttt, self.numbers()));
    }
}
