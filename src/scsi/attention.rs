//! Unit attention conditions (SAM-5 §5.14): what one initiator must hear before its next command runs.
//!
//! Each nexus has one [`Attentions`] per logical unit. Every kind is pending at most once, so the queue is bounded by
//! the number of kinds; they are reported in the order of their precedence, which keeps no history of arrival.

use super::sense::{AdditionalSense, SenseData, SenseKey};

/// What happened, in order of precedence: the first pending one is reported first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum UnitAttention {
    /// A new nexus, a new start, or a takeover by the other node.
    PowerOnOrReset = 0,
    /// TARGET WARM or COLD RESET.
    TargetReset = 1,
    /// LOGICAL UNIT RESET by another nexus.
    LogicalUnitReset = 2,
    /// The session was lost and restored.
    NexusLoss = 3,
    /// CLEAR TASK SET by another nexus.
    CommandsCleared = 4,
    CapacityChanged = 5,
    ModeParametersChanged = 6,
    AccessStateChanged = 7,
    ReportedLunsChanged = 8,
    /// CLEAR by another nexus: registrations and reservation are gone.
    ReservationsPreempted = 9,
    /// PREEMPT by another nexus took this one's registration.
    RegistrationsPreempted = 10,
    /// A reservation that let registrants do more has ended, or changed its type.
    ReservationsReleased = 11,
}

/// All kinds, the highest precedence first.
const KINDS: [UnitAttention; 12] = [
    UnitAttention::PowerOnOrReset,
    UnitAttention::TargetReset,
    UnitAttention::LogicalUnitReset,
    UnitAttention::NexusLoss,
    UnitAttention::CommandsCleared,
    UnitAttention::CapacityChanged,
    UnitAttention::ModeParametersChanged,
    UnitAttention::AccessStateChanged,
    UnitAttention::ReportedLunsChanged,
    UnitAttention::ReservationsPreempted,
    UnitAttention::RegistrationsPreempted,
    UnitAttention::ReservationsReleased,
];

impl UnitAttention {
    pub fn sense(self) -> SenseData {
        let additional = match self {
            Self::PowerOnOrReset => AdditionalSense::POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED,
            Self::TargetReset => AdditionalSense::SCSI_BUS_RESET_OCCURRED,
            Self::LogicalUnitReset => AdditionalSense::BUS_DEVICE_RESET_FUNCTION_OCCURRED,
            Self::NexusLoss => AdditionalSense::I_T_NEXUS_LOSS_OCCURRED,
            Self::CommandsCleared => AdditionalSense::COMMANDS_CLEARED_BY_ANOTHER_INITIATOR,
            Self::CapacityChanged => AdditionalSense::CAPACITY_DATA_HAS_CHANGED,
            Self::ModeParametersChanged => AdditionalSense::MODE_PARAMETERS_CHANGED,
            Self::AccessStateChanged => AdditionalSense::ASYMMETRIC_ACCESS_STATE_CHANGED,
            Self::ReportedLunsChanged => AdditionalSense::REPORTED_LUNS_DATA_HAS_CHANGED,
            Self::ReservationsPreempted => AdditionalSense::RESERVATIONS_PREEMPTED,
            Self::RegistrationsPreempted => AdditionalSense::REGISTRATIONS_PREEMPTED,
            Self::ReservationsReleased => AdditionalSense::RESERVATIONS_RELEASED,
        };
        SenseData::new(SenseKey::UnitAttention, additional)
    }

    /// Resets replace everything of lower precedence: an initiator that hears of one starts from scratch anyway.
    fn is_reset(self) -> bool {
        self as u8 <= Self::NexusLoss as u8
    }

    fn bit(self) -> u16 {
        1 << self as u8
    }
}

/// The pending unit attentions of one nexus at one logical unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Attentions {
    pending: u16,
}

impl Attentions {
    pub fn is_empty(&self) -> bool {
        self.pending == 0
    }

    pub fn post(&mut self, attention: UnitAttention) {
        let higher_reset_pending =
            KINDS.iter().any(|kind| kind.is_reset() && kind.bit() < attention.bit() && self.has(*kind));
        if attention.is_reset() {
            if !higher_reset_pending {
                self.pending = attention.bit();
            }
        } else {
            self.pending |= attention.bit();
        }
    }

    pub fn has(&self, attention: UnitAttention) -> bool {
        self.pending & attention.bit() != 0
    }

    pub fn clear(&mut self, attention: UnitAttention) {
        self.pending &= !attention.bit();
    }

    /// Takes the condition to report now, if it is one that comes before RESERVATION CONFLICT (SAM-5 §5.3.3).
    pub fn take_reset(&mut self) -> Option<UnitAttention> {
        let first = KINDS.into_iter().find(|kind| self.has(*kind) && kind.is_reset())?;
        self.clear(first);
        Some(first)
    }

    /// Takes the condition to report now.
    pub fn take(&mut self) -> Option<UnitAttention> {
        let first = KINDS.into_iter().find(|kind| self.has(*kind))?;
        self.clear(first);
        Some(first)
    }
}
