//! How long a leader waits for its peer's answers. The peer's silence as a whole is noticed much earlier
//! (`peer_timeout`); this is for a device, or one link of several, that hangs under a living peer.
//!
//! Each link is watched by itself, and what needs the peer's device apart from what needs only its word: a confirmation
//! says nothing of a disk, and an answer on one link nothing of another. Progress is enough: a slow peer that answers
//! now and then is waited for.

use alloc::vec::Vec;

use crate::replication::frame::FrameKind;
use crate::time::{Duration, Instant};

use super::effect::LinkNo;

/// Well below the minute that initiators wait, well above what a device takes that works at all.
const ANSWER_PATIENCE: Duration = Duration::from_secs(7);

/// What an answer takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Takes {
    Device = 0,
    Word = 1,
}

/// Links on which something is asked and not answered, as bits, for each of [`Takes`].
pub type Open = [u64; 2];

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Patience {
    next_check: Option<Instant>,
    /// For each link: since when something is open and nothing was answered, as far as a check has seen.
    quiet: Vec<[Option<Instant>; 2]>,
}

impl Patience {
    /// Leads over `links` links from now on, or (0) over none.
    pub fn begin(&mut self, now: Instant, links: u8) {
        self.quiet.clear();
        self.quiet.resize(usize::from(links), [None; 2]);
        self.next_check = (links > 0).then_some(now);
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.next_check
    }

    /// The peer answered something.
    pub fn on_answer(&mut self, link: LinkNo, kind: FrameKind) {
        let takes = match kind {
            FrameKind::ConfirmAck | FrameKind::Bitmap => Takes::Word,
            _ => Takes::Device,
        };
        if let Some(quiet) = self.quiet.get_mut(usize::from(link.0)) {
            quiet[takes as usize] = None;
        }
    }

    /// The deadline has passed. Returns whether some link has answered nothing for too long.
    pub fn check(&mut self, now: Instant, open: Open) -> bool {
        self.next_check = Some(now + ANSWER_PATIENCE / 4);
        let mut over = false;
        for (link, quiet) in self.quiet.iter_mut().enumerate() {
            for (since, open) in quiet.iter_mut().zip(open) {
                *since = if open & 1 << link == 0 { None } else { Some(since.unwrap_or(now)) };
                over |= since.is_some_and(|since| now.since(since) >= ANSWER_PATIENCE);
            }
        }
        if over {
            self.quiet.iter_mut().for_each(|quiet| *quiet = [None; 2]);
        }
        over
    }
}

/// It passes with time alone: to an explorer, whose time stands still, two parts that differ in it are one state.
impl core::hash::Hash for Patience {
    fn hash<H: core::hash::Hasher>(&self, _: &mut H) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000_000)
    }

    #[test]
    fn answers_of_another_link_or_kind_do_not_count() {
        let mut patience = Patience::default();
        patience.begin(at(0), 2);
        assert!(!patience.check(at(0), [0b10, 0b01]));
        for second in 1..7 {
            patience.on_answer(LinkNo(0), FrameKind::WriteAck);
            patience.on_answer(LinkNo(1), FrameKind::ConfirmAck);
            assert!(!patience.check(at(second), [0b10, 0]));
        }
        assert!(patience.check(at(7), [0b10, 0]), "link 1 owes a write");
    }

    #[test]
    fn progress_and_rest_begin_the_wait_anew() {
        let mut patience = Patience::default();
        patience.begin(at(0), 1);
        for second in 0..30 {
            if second % 5 == 4 {
                patience.on_answer(LinkNo(0), FrameKind::FlushAck);
            }
            assert!(!patience.check(at(second), [1, 0]));
        }
        assert!(!patience.check(at(30), [0, 0]));
        assert!(!patience.check(at(36), [1, 0]));
        assert!(!patience.check(at(42), [1, 0]) && patience.check(at(43), [1, 0]));
        patience.begin(at(50), 0);
        assert_eq!(patience.deadline(), None);
    }
}
