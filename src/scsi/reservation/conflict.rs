//! Which commands a reservation stops (SPC-4 table 66, SBC-3 table 13, SPC-2 table 9).

use super::super::cdb::Command;

/// What the reservations mean to one nexus, worked out whenever they change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Standing {
    /// Nothing is in the way: no reservation, or it is this nexus's.
    #[default]
    Free,
    /// Others may read.
    WriteExclusive,
    ExclusiveAccess,
    /// Another nexus has it by RESERVE.
    Reserved,
}

/// How far a command gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Passes {
    /// Through everything.
    Always,
    /// Through persistent reservations. Those of RESERVE stop it.
    Persistent,
    /// Through write exclusive ones.
    Readers,
    Never,
}

fn passes(command: &Command) -> Passes {
    match *command {
        Command::Inquiry { .. }
        | Command::ReportLuns { .. }
        | Command::RequestSense { .. }
        | Command::ReportTargetPortGroups { .. }
        | Command::LogSense { .. }
        // They look at the reservations themselves.
        | Command::PersistentReserveIn { .. }
        | Command::PersistentReserveOut { .. }
        | Command::Reserve
        | Command::Release
        | Command::PreventAllowMediumRemoval { prevent: 0 } => Passes::Always,
        Command::TestUnitReady
        | Command::ReadCapacity10
        | Command::ReadCapacity16 { .. }
        | Command::StartStopUnit { start: true, power_condition: 0, .. } => Passes::Persistent,
        // ALLOW COMMANDS 011b says so of the last five.
        Command::Read(_)
        | Command::Verify { write: false, .. }
        | Command::PreFetch { .. }
        | Command::GetLbaStatus { .. }
        | Command::ModeSense(_)
        | Command::ReadDefectData { .. }
        | Command::ReportSupportedOperationCodes { .. }
        | Command::ReportSupportedTaskManagementFunctions { .. } => Passes::Readers,
        Command::Write(_)
        | Command::Verify { write: true, .. }
        | Command::CompareAndWrite(_)
        | Command::OrWrite(_)
        | Command::WriteAtomic { .. }
        | Command::WriteSame { .. }
        | Command::Unmap { .. }
        | Command::SynchronizeCache { .. }
        | Command::StartStopUnit { .. }
        | Command::PreventAllowMediumRemoval { .. }
        | Command::SendDiagnostic { .. }
        | Command::ModeSelect { .. } => Passes::Never,
    }
}

impl Standing {
    /// Does the command end with RESERVATION CONFLICT?
    pub(crate) fn stops(self, command: &Command) -> bool {
        match self {
            Self::Free => false,
            Self::WriteExclusive => passes(command) == Passes::Never,
            Self::ExclusiveAccess => matches!(passes(command), Passes::Never | Passes::Readers),
            Self::Reserved => passes(command) != Passes::Always,
        }
    }
}
