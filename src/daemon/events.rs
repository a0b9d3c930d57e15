//! The event log: the last events in memory for `twinlun events`, and one log line for each.
//!
//! Bounded: the oldest event leaves for the newest. A reader who fell behind sees the gap in the sequence numbers.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::api::{EventRecord, SCHEMA};
use super::clock;

/// Events kept.
pub const EVENTS_MAX: usize = 1000;

/// Weight of an event in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Weight {
    /// Things go their way.
    Info,
    /// Redundancy or service is at stake.
    Warning,
}

/// Shared by the daemon, which writes, and the control socket's readers.
#[derive(Clone)]
pub struct EventLog {
    node: String,
    shared: Arc<Shared>,
}

struct Shared {
    ring: Mutex<Ring>,
    grown: Condvar,
}

struct Ring {
    events: VecDeque<EventRecord>,
    /// Sequence number of the newest event, 0 before the first.
    newest: u64,
    closed: bool,
}

impl EventLog {
    pub fn new(node: &str) -> Self {
        let ring = Ring { events: VecDeque::new(), newest: 0, closed: false };
        let shared = Shared { ring: Mutex::new(ring), grown: Condvar::new() };
        Self { node: node.to_owned(), shared: Arc::new(shared) }
    }

    /// Writes an event down. `event` is a stable key in snake_case, `text` one line.
    pub fn push(&self, weight: Weight, event: &str, text: impl Into<String>) {
        let text = text.into();
        match weight {
            Weight::Info => log::info!("event={event} {text}"),
            Weight::Warning => log::warn!("event={event} {text}"),
        }
        let mut ring = self.lock();
        ring.newest += 1;
        let record = EventRecord {
            schema: SCHEMA,
            sequence: ring.newest,
            unix_milliseconds: clock::unix_milliseconds(),
            node: self.node.clone(),
            event: event.to_owned(),
            text,
        };
        if ring.events.len() == EVENTS_MAX {
            ring.events.pop_front();
        }
        ring.events.push_back(record);
        drop(ring);
        self.shared.grown.notify_all();
    }

    /// Events after a sequence number, oldest first.
    pub fn after(&self, sequence: u64) -> Vec<EventRecord> {
        self.lock().events.iter().filter(|event| event.sequence > sequence).cloned().collect()
    }

    /// Waits until there is an event after `sequence`. `None`: the daemon ends, there will be no more.
    pub fn wait_after(&self, sequence: u64, patience: Duration) -> Option<Vec<EventRecord>> {
        let ring = self.lock();
        let waiting = |ring: &mut Ring| ring.newest <= sequence && !ring.closed;
        let (ring, _) = self
            .shared
            .grown
            .wait_timeout_while(ring, patience, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        if ring.closed && ring.newest <= sequence {
            return None;
        }
        Some(ring.events.iter().filter(|event| event.sequence > sequence).cloned().collect())
    }

    /// Lets every waiting reader go.
    pub fn close(&self) {
        self.lock().closed = true;
        self.shared.grown.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        // A panic elsewhere leaves the ring whole: every change of it is a single push.
        self.shared.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_leaves_and_the_gap_shows() {
        let log = EventLog::new("stor-a");
        for number in 0..EVENTS_MAX + 10 {
            log.push(Weight::Info, "tick", format!("number {number}"));
        }
        let all = log.after(0);
        assert_eq!(all.len(), EVENTS_MAX);
        assert_eq!(all[0].sequence, 11);
        assert_eq!(log.after(EVENTS_MAX as u64 + 9).len(), 1);
        assert_eq!(log.wait_after(all[all.len() - 1].sequence, Duration::from_millis(1)), Some(Vec::new()));
        log.close();
        assert_eq!(log.wait_after(all[all.len() - 1].sequence, Duration::from_secs(60)), None);
    }

    #[test]
    fn a_waiting_reader_is_woken() {
        let log = EventLog::new("stor-a");
        let reader = log.clone();
        let thread = std::thread::spawn(move || reader.wait_after(0, Duration::from_secs(60)));
        log.push(Weight::Warning, "peer_lost", "stor-b does not answer");
        let seen = thread.join().expect("no panic").expect("an event");
        assert_eq!(seen[0].event, "peer_lost");
    }
}
