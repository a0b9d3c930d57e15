//! RESERVE and RELEASE (SPC-2 §7.16, §7.21), as long as nobody uses persistent reservations; and what SPC-4 §5.13.3
//! leaves of them otherwise (CRH = 1).
//!
//! The reservation is of the I_T nexus and of the whole logical unit. It ends with RELEASE, with the nexus, and with a
//! reset. Absent: reserving for a third party, and parts of a logical unit, both obsolete.

use super::{NexusId, Refusal, Reservations};

/// RESERVE: the state of [`reserved`](super::super::UnitMemory) afterwards.
///
/// # Errors
/// [`Refusal::Conflict`].
pub(in super::super) fn reserve(
    persistent: &Reservations,
    reserved: Option<&NexusId>,
    who: &NexusId,
) -> Result<bool, Refusal> {
    if let Some(handled) = handled_by_persistent(persistent, who) {
        return handled;
    }
    match reserved {
        None => Ok(true),
        Some(holder) if holder == who => Ok(false),
        Some(_) => Err(Refusal::Conflict),
    }
}

/// RELEASE: is the reservation to go? One of somebody else stays without an error.
///
/// # Errors
/// [`Refusal::Conflict`].
pub(in super::super) fn release(
    persistent: &Reservations,
    reserved: Option<&NexusId>,
    who: &NexusId,
) -> Result<bool, Refusal> {
    if let Some(handled) = handled_by_persistent(persistent, who) {
        return handled;
    }
    Ok(reserved == Some(who))
}

/// With registrations there is no reservation by RESERVE. Whoever may use the unit anyway is told GOOD and nothing
/// changes; everybody else conflicts.
fn handled_by_persistent(persistent: &Reservations, who: &NexusId) -> Option<Result<bool, Refusal>> {
    if persistent.registrations.is_empty() {
        return None;
    }
    let granted = persistent.find(who).is_some_and(|index| {
        persistent.holds(index) || persistent.kind.is_some_and(super::Kind::lets_registrants)
    });
    Some(if granted { Ok(false) } else { Err(Refusal::Conflict) })
}
