//! Can this node reach its clients? Two signs. The interface says that its cable is dead: believed at once. Or every
//! network that clients are on is silent while the peer is heard elsewhere: then one of the two is cut off behind its
//! cable, and to know which, each asks the initiators themselves (who has your address?). Where nobody is known that could
//! be asked, the interface's word counts.
//!
//! Pure. Asking, and waiting for an answer, is the keeper's of the addresses.

use crate::time::{Duration, Instant};

use super::message::ClientNetwork;

/// Between two questions while a network is silent; doubling while the answer is good.
const ASK_PAUSE: Duration = Duration::from_millis(300);
const ASK_PAUSE_MAX: Duration = Duration::from_secs(5);

/// What came of asking the initiators.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    Somebody,
    Nobody,
    /// None is known on a link of this node's.
    NoneKnown,
}

/// See the module.
#[derive(Debug)]
pub struct Reach {
    cable: ClientNetwork,
    /// The clients' networks are silent: when the initiators were last asked, and what came of it.
    asked: Option<(Instant, Option<Answer>)>,
    pause: Duration,
    told: (ClientNetwork, Instant),
}

impl Reach {
    pub fn new(now: Instant) -> Self {
        Self {
            cable: ClientNetwork::Unknown,
            asked: None,
            pause: ASK_PAUSE,
            told: (ClientNetwork::Unknown, now),
        }
    }

    pub fn on_cable(&mut self, now: Instant, cable: ClientNetwork) {
        self.cable = cable;
        self.tell(now);
    }

    pub fn on_answer(&mut self, now: Instant, answer: Answer) {
        if let Some((_, last)) = &mut self.asked {
            *last = Some(answer);
        }
        self.tell(now);
    }

    /// `silent`: the peer is heard, and on no network of the clients. Returns whether to ask the initiators now, and when
    /// to look again.
    pub fn look(&mut self, now: Instant, silent: bool) -> (bool, Option<Instant>) {
        let due = match self.asked {
            _ if !silent => {
                self.asked = None;
                self.tell(now);
                return (false, None);
            }
            Some((at, _)) => now >= at + self.pause,
            None => true,
        };
        if due {
            self.pause = match self.asked {
                Some((_, Some(Answer::Somebody | Answer::NoneKnown))) => (self.pause * 2).min(ASK_PAUSE_MAX),
                _ => ASK_PAUSE,
            };
            self.asked = Some((now, self.asked.and_then(|(_, answer)| answer)));
        }
        self.tell(now);
        (due, self.asked.map(|(at, _)| at + self.pause))
    }

    fn tell(&mut self, now: Instant) {
        let word = match (self.cable, self.asked) {
            (ClientNetwork::Down, _) => ClientNetwork::Down,
            (_, Some((_, Some(Answer::Nobody)))) => ClientNetwork::Down,
            (_, Some((_, Some(Answer::Somebody)))) => ClientNetwork::Up,
            (_, Some((_, None))) => ClientNetwork::Unknown,
            (cable, Some((_, Some(Answer::NoneKnown))) | None) => cable,
        };
        if word != self.told.0 {
            self.told = (word, now);
        }
    }

    pub fn word(&self) -> ClientNetwork {
        self.told.0
    }

    /// Since when it is so.
    pub fn since(&self) -> Instant {
        self.told.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    #[test]
    fn a_dead_cable_is_believed_whatever_is_heard() {
        let mut reach = Reach::new(at(0));
        reach.on_cable(at(5), ClientNetwork::Up);
        assert_eq!(reach.word(), ClientNetwork::Up);
        reach.on_cable(at(9), ClientNetwork::Down);
        assert_eq!(reach.look(at(10), false), (false, None));
        assert_eq!((reach.word(), reach.since()), (ClientNetwork::Down, at(9)));
    }

    #[test]
    fn a_silent_network_is_asked_about_until_it_is_heard_again() {
        let mut reach = Reach::new(at(0));
        reach.on_cable(at(0), ClientNetwork::Up);
        assert_eq!(reach.look(at(600), true), (true, Some(at(900))));
        assert_eq!(reach.word(), ClientNetwork::Unknown);
        reach.on_answer(at(750), Answer::Nobody);
        assert_eq!((reach.word(), reach.since()), (ClientNetwork::Down, at(750)));
        assert_eq!(reach.look(at(800), true), (false, Some(at(900))));
        // Asked again, and as it was meanwhile.
        assert_eq!(reach.look(at(900), true), (true, Some(at(1200))));
        assert_eq!(reach.word(), ClientNetwork::Down);
        reach.on_answer(at(950), Answer::Somebody);
        assert_eq!(reach.word(), ClientNetwork::Up);
        reach.on_answer(at(1000), Answer::Nobody);
        reach.look(at(1010), false);
        assert_eq!(reach.word(), ClientNetwork::Up);
        // An answer that comes late says nothing any more.
        reach.on_answer(at(1020), Answer::Nobody);
        assert_eq!(reach.word(), ClientNetwork::Up);
    }

    #[test]
    fn where_nobody_can_be_asked_the_cable_counts() {
        let mut reach = Reach::new(at(0));
        reach.on_cable(at(0), ClientNetwork::Up);
        reach.look(at(600), true);
        reach.on_answer(at(601), Answer::NoneKnown);
        assert_eq!(reach.word(), ClientNetwork::Up);
    }
}
