//! Status codes (SAM-5 §5.3.1).

/// How a command ended, as the SCSI Response carries it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Status {
    Good = 0x00,
    /// Sense data comes with the response (autosense).
    CheckCondition = 0x02,
    /// PRE-FETCH: everything fitted into the cache.
    ConditionMet = 0x04,
    /// The logical unit cannot take the command now; the initiator tries again later.
    Busy = 0x08,
    ReservationConflict = 0x18,
    /// No room for another command of this nexus.
    TaskSetFull = 0x28,
    /// Aborted by another nexus, with TAS set in the Control mode page.
    TaskAborted = 0x40,
}

impl Status {
    /// The byte on the wire.
    pub fn code(self) -> u8 {
        self as u8
    }
}
