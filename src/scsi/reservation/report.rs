//! PERSISTENT RESERVE IN (SPC-4 §6.15).

use alloc::vec::Vec;

use super::super::data_in::{DataIn, set_u32_length, truncate};
use super::{Kind, Reservations, transport_id};

/// Service actions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum InAction {
    ReadKeys = 0x00,
    ReadReservation = 0x01,
    ReportCapabilities = 0x02,
    ReadFullStatus = 0x03,
}

/// Answers a PERSISTENT RESERVE IN.
pub(in super::super) fn report(
    reservations: &Reservations,
    action: InAction,
    allocation: u32,
    data_in: &mut Vec<u8>,
) {
    match action {
        InAction::ReportCapabilities => capabilities(data_in),
        _ => {
            data_in.put_u32(reservations.generation);
            data_in.put_u32(0);
            match action {
                InAction::ReadKeys => {
                    reservations
                        .registrations
                        .iter()
                        .for_each(|registration| data_in.put_u64(registration.key));
                }
                InAction::ReadReservation => {
                    if let Some(kind) = reservations.kind {
                        data_in.put_u64(reservations.holder_key());
                        data_in.extend_from_slice(&[0, 0, 0, 0, 0, scope_and_type(kind), 0, 0]);
                    }
                }
                _ => full_status(reservations, data_in),
            }
            set_u32_length(data_in, 4, 8);
        }
    }
    truncate(data_in, allocation);
}

/// The scope is always the logical unit.
fn scope_and_type(kind: Kind) -> u8 {
    kind as u8
}

fn capabilities(data_in: &mut Vec<u8>) {
    const CRH: u8 = 0x10;
    const SIP_C: u8 = 0x08;
    const ATP_C: u8 = 0x04;
    const PTPL_C: u8 = 0x01;
    const TMV: u8 = 0x80;
    /// ALLOW COMMANDS 011b: TEST UNIT READY through everything, and what only looks through write exclusive.
    const ALLOW: u8 = 0x30;
    const PTPL_A: u8 = 0x01;
    data_in.put_u16(8);
    data_in.extend_from_slice(&[CRH | SIP_C | ATP_C | PTPL_C, TMV | ALLOW | PTPL_A]);
    // PERSISTENT RESERVATION TYPE MASK: bit 0 of its first byte is type 0, bit 0 of its second type 8.
    let mask = Kind::ALL.iter().fold(0u16, |mask, kind| mask | 1 << *kind as u8);
    data_in.extend_from_slice(&mask.to_le_bytes());
    data_in.put_zeros(2);
}

fn full_status(reservations: &Reservations, data_in: &mut Vec<u8>) {
    const ALL_TG_PT: u8 = 0x02;
    const R_HOLDER: u8 = 0x01;
    for (index, registration) in reservations.registrations.iter().enumerate() {
        data_in.put_u64(registration.key);
        data_in.put_u32(0);
        let holder = reservations.kind.filter(|_| reservations.holds(index));
        let all = if registration.all_ports { ALL_TG_PT } else { 0 };
        data_in.push(all | if holder.is_some() { R_HOLDER } else { 0 });
        data_in.push(holder.map_or(0, scope_and_type));
        data_in.put_u32(0);
        data_in.put_u16(registration.nexus.port);
        let at = data_in.len();
        data_in.put_u32(0);
        transport_id::encode(&registration.nexus.initiator, data_in);
        set_u32_length(data_in, at, at + 4);
    }
}
