//! REPORT SUPPORTED OPERATION CODES (SPC-4 §6.35), read from the table that decoding uses, and REPORT SUPPORTED TASK
//! MANAGEMENT FUNCTIONS (SPC-4 §6.36).

use alloc::vec::Vec;

use super::data_in::{DataIn, set_u32_length, truncate};
use super::logical_unit::LogicalUnit;
use super::opcodes::{self, OPERATIONS, OperationSpec};
use super::sense::SenseData;

/// SERVACTV: byte 1 of the CDB holds a service action.
const SERVACTV: u8 = 0x01;
/// CTDP in the all-commands format.
const TIMEOUTS_FOLLOW: u8 = 0x02;
/// CTDP in the one-command format.
const TIMEOUTS_FOLLOW_ONE: u8 = 0x80;
/// SUPPORT: by a standard / not at all.
const SUPPORTED: u8 = 0x3;
const NOT_SUPPORTED: u8 = 0x1;

/// # Errors
/// 24/00 for an unknown REPORTING OPTIONS, and when the operation code has service actions and none was expected, or
/// the other way round.
pub(super) fn report(
    unit: &LogicalUnit,
    timeouts: bool,
    option: u8,
    opcode: u8,
    service_action: u16,
    allocation: u32,
    data_in: &mut Vec<u8>,
) -> Result<(), SenseData> {
    let rows: Vec<&OperationSpec> =
        opcodes::rows_of(opcode).iter().filter(|row| unit.supports(row.operation)).collect();
    let has_actions = rows.iter().any(|row| row.service_action.is_some());
    let same_action =
        |row: &&OperationSpec| row.service_action.is_none_or(|action| u16::from(action) == service_action);
    match option {
        0b000 => all_commands(unit, timeouts, data_in),
        0b001 if has_actions => return Err(SenseData::invalid_cdb_bit(2, 2)),
        0b001 => one_command(rows.first().copied(), timeouts, data_in),
        0b010 if !rows.is_empty() && !has_actions => return Err(SenseData::invalid_cdb_bit(2, 2)),
        0b010 => one_command(rows.into_iter().find(same_action), timeouts, data_in),
        // As 010b, and a command without service actions is matched by service action 0.
        0b011 if !has_actions && service_action != 0 => one_command(None, timeouts, data_in),
        0b011 => one_command(rows.into_iter().find(same_action), timeouts, data_in),
        _ => return Err(SenseData::invalid_cdb_bit(2, 2)),
    }
    truncate(data_in, allocation);
    Ok(())
}

fn all_commands(unit: &LogicalUnit, timeouts: bool, data_in: &mut Vec<u8>) {
    data_in.put_zeros(4);
    for row in OPERATIONS.iter().filter(|row| unit.supports(row.operation)) {
        let mut flags = 0;
        if row.service_action.is_some() {
            flags |= SERVACTV;
        }
        if timeouts {
            flags |= TIMEOUTS_FOLLOW;
        }
        data_in.extend_from_slice(&[row.opcode, 0, 0, row.service_action.unwrap_or(0), 0, flags]);
        data_in.put_u16(row.usage.len() as u16);
        if timeouts {
            put_timeouts(data_in);
        }
    }
    set_u32_length(data_in, 0, 4);
}

fn one_command(row: Option<&OperationSpec>, timeouts: bool, data_in: &mut Vec<u8>) {
    let Some(row) = row else {
        data_in.extend_from_slice(&[0, NOT_SUPPORTED, 0, 0]);
        return;
    };
    let flags = if timeouts { TIMEOUTS_FOLLOW_ONE | SUPPORTED } else { SUPPORTED };
    data_in.extend_from_slice(&[0, flags]);
    data_in.put_u16(row.usage.len() as u16);
    data_in.extend_from_slice(row.usage);
    if timeouts {
        put_timeouts(data_in);
    }
}

/// A command timeouts descriptor (SPC-4 §6.35.4): no timeout is named.
fn put_timeouts(data_in: &mut Vec<u8>) {
    data_in.put_u16(0x0A);
    data_in.put_zeros(10);
}

/// Answers REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS, the short or the long (REPD) form. No timeout is named.
pub(super) fn report_functions(extended: bool, allocation: u32, data_in: &mut Vec<u8>) {
    const ABORT_TASK: u8 = 0x80;
    const ABORT_TASK_SET: u8 = 0x40;
    const CLEAR_ACA: u8 = 0x20;
    const CLEAR_TASK_SET: u8 = 0x10;
    const LOGICAL_UNIT_RESET: u8 = 0x08;
    const TARGET_RESET: u8 = 0x02;
    let aborts = ABORT_TASK | ABORT_TASK_SET | CLEAR_ACA | CLEAR_TASK_SET;
    data_in.extend_from_slice(&[aborts | LOGICAL_UNIT_RESET | TARGET_RESET, 0, 0, 0]);
    if extended {
        data_in[3] = 12; // additional length
        data_in.put_zeros(12);
    }
    truncate(data_in, allocation);
}
