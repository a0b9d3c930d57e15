//! The arbiter: one record, changed only by compare-and-swap. It never loses anything, but questions and answers are
//! late or lost, it may be out of reach, and a read may return an old record. What a driver must do is done here too:
//! a change is asked for again until the answer is definite, and recognised by its nonce.

use std::collections::BTreeMap;

use crate::arbitration::{Epoch, Record};
use crate::volume::coordinator::{CasOutcome, RecordOutcome};

use super::node::ControlInput;
use super::world::{Event, Verdict, World, ensure};

/// How long a driver waits for an answer.
const PATIENCE: (u64, u64) = (30_000_000, 60_000_000);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Question {
    Read,
    Swap { expected: Record, proposed: Record },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    Record(Record),
    Swapped(CasOutcome),
}

/// See the module.
#[derive(Debug)]
pub struct SimArbiter {
    history: Vec<Record>,
    by_epoch: BTreeMap<Epoch, Record>,
    pub unreachable_until: u64,
}

impl SimArbiter {
    pub fn new() -> Self {
        let first = Record::default();
        Self { history: vec![first], by_epoch: BTreeMap::from([(first.epoch, first)]), unreachable_until: 0 }
    }

    pub fn record(&self) -> Record {
        *self.history.last().expect("there is a first record")
    }

    /// The record that was committed with this epoch.
    pub fn at(&self, epoch: Epoch) -> Option<Record> {
        self.by_epoch.get(&epoch).copied()
    }
}

impl World {
    /// The node's driver asks; an older question is forgotten.
    pub(super) fn ask_arbiter(&mut self, node: usize, question: Question) {
        let life = self.nodes[node].life;
        let machine = self.nodes[node].machine.as_mut().expect("a running node asks");
        machine.asked += 1;
        machine.question = Some(question);
        let number = machine.asked;
        self.send_question(node, life, number, question);
    }

    fn send_question(&mut self, node: usize, life: u32, number: u64, question: Question) {
        let (low, high) = self.setup.arbiter_latency;
        self.after(low, high, Event::Asked { node, life, number, question });
        self.after(PATIENCE.0, PATIENCE.1, Event::AskAgain { node, life, number });
    }

    /// A question arrives; its sender may be dead by now.
    pub(super) fn on_asked(&mut self, node: usize, life: u32, number: u64, question: Question) -> Verdict {
        if self.arbiter.unreachable_until > self.now {
            return Ok(());
        }
        let answer = match question {
            Question::Read => {
                let stale = self.rng.per_mille(self.setup.arbiter_stale) && !self.calm;
                let history = &self.arbiter.history;
                let back = if stale { self.rng.below(history.len() as u64) as usize } else { 0 };
                Answer::Record(history[history.len() - 1 - back])
            }
            Question::Swap { expected, proposed } => Answer::Swapped(self.swap(node, expected, proposed)?),
        };
        let lossy = if self.calm { 0 } else { self.setup.arbiter_lossy };
        if !self.rng.per_mille(lossy) {
            let (low, high) = self.setup.arbiter_latency;
            self.after(low, high, Event::Answered { node, life, number, answer });
        }
        Ok(())
    }

    fn swap(
        &mut self,
        node: usize,
        expected: Record,
        proposed: Record,
    ) -> Result<CasOutcome, super::world::Violation> {
        let current = self.arbiter.record();
        if current == proposed {
            return Ok(CasOutcome::Won);
        }
        if current != expected {
            self.log(|| format!("arbiter: node {node} loses, has {expected:?}, is {current:?}"));
            return Ok(CasOutcome::Lost(current));
        }
        ensure(proposed.epoch == current.epoch.next(), "S1", || {
            format!("node {node} changes the record from epoch {} to {}", current.epoch.0, proposed.epoch.0)
        })?;
        self.log(|| format!("arbiter: node {node} commits {proposed:?}"));
        self.arbiter.history.push(proposed);
        self.arbiter.by_epoch.insert(proposed.epoch, proposed);
        self.on_commit(proposed)?;
        Ok(CasOutcome::Won)
    }

    pub(super) fn on_arbiter_answer(
        &mut self,
        node: usize,
        life: u32,
        number: u64,
        answer: Answer,
    ) -> Verdict {
        let open = self.nodes[node].life == life
            && self.nodes[node].machine.as_ref().is_some_and(|m| m.asked == number && m.question.is_some());
        if !open {
            return Ok(());
        }
        self.nodes[node].machine.as_mut().expect("looked at above").question = None;
        self.log(|| format!("node {node}: arbiter answers {answer:?}"));
        let input = match answer {
            Answer::Record(record) => ControlInput::Record(RecordOutcome::Known(record)),
            Answer::Swapped(outcome) => ControlInput::Swapped(outcome),
        };
        self.feed_control(node, input)
    }

    /// No answer came in time: a change is asked for again, a read is given up.
    pub(super) fn on_ask_again(&mut self, node: usize, life: u32, number: u64) -> Verdict {
        if self.nodes[node].life != life {
            return Ok(());
        }
        let Some(machine) = self.nodes[node].machine.as_mut().filter(|machine| machine.asked == number)
        else {
            return Ok(());
        };
        match machine.question {
            None => Ok(()),
            Some(Question::Read) => {
                machine.question = None;
                self.feed_control(node, ControlInput::Record(RecordOutcome::Unreachable))
            }
            Some(question) => {
                self.send_question(node, life, number, question);
                Ok(())
            }
        }
    }
}
