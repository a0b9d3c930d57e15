//! Confirmed reads (S1): while both copies are in sync, a read is answered only after one round trip to the peer
//! that began after the read arrived. The peer answers only as long as it follows, so a node that was replaced
//! cannot answer, whatever its clock says.
//!
//! Reads share round trips: those that arrive while one is under way are covered by the next.

use super::flush_group::NotBegun;

/// Round trips of one part, numbered from 1.
#[derive(Clone, Hash, Debug, Default)]
pub struct Confirmations {
    /// The last round trip that was begun.
    begun: u64,
    /// The last one that came back.
    returned: u64,
    /// Reads wait for round trip `begun + 1`.
    next_wanted: bool,
}

impl Confirmations {
    /// A read arrives. Returns the round trip it needs, and whether that one is to be begun now.
    pub fn want(&mut self) -> (u64, bool) {
        if self.begun == self.returned {
            self.begun += 1;
            (self.begun, true)
        } else {
            self.next_wanted = true;
            (self.begun + 1, false)
        }
    }

    /// Round trip `number` came back. Returns the next one if it is to be begun now; `Err` if it was never begun.
    pub fn on_return(&mut self, number: u64) -> Result<Option<u64>, NotBegun> {
        if number != self.begun || number == self.returned {
            return Err(NotBegun);
        }
        self.returned = number;
        if self.next_wanted {
            self.next_wanted = false;
            self.begun += 1;
            return Ok(Some(self.begun));
        }
        Ok(None)
    }

    pub fn is_confirmed(&self, number: u64) -> bool {
        number <= self.returned
    }

    /// The round trip that has been begun and did not come back.
    pub fn under_way(&self) -> Option<u64> {
        (self.begun != self.returned).then_some(self.begun)
    }

    /// The link is gone: what was begun will not come back. Reads that wait are asked again.
    pub fn reset(&mut self) {
        self.begun += 1;
        self.returned = self.begun;
        self.next_wanted = false;
    }
}

#[cfg(test)]
mod tests {
    use super::{Confirmations, NotBegun};

    #[test]
    fn a_read_needs_a_round_trip_begun_after_it() {
        let mut confirmations = Confirmations::default();
        let (first, begin) = confirmations.want();
        assert!(begin);
        let (second, begin) = confirmations.want();
        assert!(!begin && second == first + 1);
        assert_eq!(confirmations.on_return(first), Ok(Some(second)));
        assert!(confirmations.is_confirmed(first) && !confirmations.is_confirmed(second));
        assert_eq!(confirmations.on_return(first), Err(NotBegun));
        assert_eq!(confirmations.on_return(second), Ok(None));
    }
}
