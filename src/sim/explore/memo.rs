//! What a node does with an input depends on nothing but the node and the input, and the same few thousand of them come
//! again and again in millions of worlds: each is computed once.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::hash::fingerprint;
use super::node::{Input, Output};
use super::world::Known;

type Taken = Arc<(Arc<Known>, Vec<Output>)>;

/// See the module.
#[derive(Default)]
pub struct Memo {
    steps: HashMap<u128, Taken>,
    nodes: HashMap<u128, Arc<Known>>,
}

/// Remembered steps; beyond it all are forgotten.
const STEPS_MAX: usize = 1_000_000;

impl Memo {
    /// What `known` becomes and puts out. A broken assertion of a core is an error.
    pub fn take(&mut self, known: &Arc<Known>, input: &Input) -> Result<Taken, String> {
        let key = fingerprint(&(known.print, input));
        if let Some(step) = self.steps.get(&key) {
            return Ok(step.clone());
        }
        let mut node = known.node.clone();
        let outputs = catch_unwind(AssertUnwindSafe(|| node.take(input)))
            .map_err(|_| format!("assertion: {} on {input:?}", super::super::run::last_panic()))?;
        let next = Known::new(node);
        let next = self.share(&next);
        if self.steps.len() >= STEPS_MAX {
            self.steps.clear();
            self.nodes.clear();
        }
        let step = Arc::new((next, outputs));
        self.steps.insert(key, step.clone());
        Ok(step)
    }

    /// The one copy of a node.
    pub fn share(&mut self, known: &Arc<Known>) -> Arc<Known> {
        self.nodes.entry(known.print).or_insert_with(|| known.clone()).clone()
    }

    /// Different nodes met.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }
}
