//! Nobody to ask: a node that loses its peer waits for a person.

use super::{Arbiter, ArbiterError, Swap};
use crate::arbitration::Record;

/// Nobody to ask.
pub struct ManualArbiter;

impl Arbiter for ManualArbiter {
    fn kind(&self) -> &'static str {
        "manual"
    }

    fn read(&mut self) -> Result<Option<Record>, ArbiterError> {
        Err(ArbiterError::Manual)
    }

    fn compare_and_swap(&mut self, _expected: Option<Record>, _proposed: Record) -> Swap {
        Swap::Unknown(ArbiterError::Manual)
    }

    fn probe(&mut self) -> Result<(), ArbiterError> {
        Ok(())
    }
}
