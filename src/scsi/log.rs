//! LOG SENSE (SPC-4 §6.7, §7.3): what a monitoring initiator asks a disk about its health.
//!
//! Everything here is constant: the disks below have their own SMART data, which belongs to the servers and differs
//! between them, while a log page must read the same on both nodes. So the pages say, in the ways the standard has for
//! it, that there is nothing to report. Absent on purpose: counters, LOG SELECT, and saved values.

use alloc::vec::Vec;

use super::data_in::{DataIn, set_u16_length, truncate};
use super::logical_unit::LogicalUnit;
use super::sense::SenseData;

/// A log parameter: its code and its bytes.
struct Parameter {
    code: u16,
    value: &'static [u8],
}

struct Page {
    code: u8,
    /// Only for thin provisioning.
    thin: bool,
    parameters: &'static [Parameter],
}

/// FORMAT AND LINKING 11b: a binary list parameter, kept as it is.
const BINARY_LIST: u8 = 0x03;
const SUPPORTED_PAGES: u8 = 0x00;
const ALL_SUBPAGES: u8 = 0xFF;

/// Ascending by code. Page 00h is made from this table.
const PAGES: [Page; 4] = [
    // Logical Block Provisioning: no resource is counted in blocks, hence no parameter (SBC-3 §6.4.5).
    Page { code: 0x0C, thin: true, parameters: &[] },
    // Temperature: FFh says that none can be told (SPC-4 §7.3.21).
    Page { code: 0x0D, thin: false, parameters: &[Parameter { code: 0, value: &[0, 0xFF] }] },
    // Background Scan: status 00h, no scan is active; nothing has been scanned (SBC-3 §6.4.2).
    Page { code: 0x15, thin: false, parameters: &[Parameter { code: 0, value: &[0; 12] }] },
    // Informational Exceptions: none, and no temperature (SPC-4 §7.3.11).
    Page { code: 0x2F, thin: false, parameters: &[Parameter { code: 0, value: &[0, 0, 0xFF] }] },
];

/// Answers LOG SENSE. PAGE CONTROL is not looked at: threshold, cumulative and default values are the same constants.
///
/// # Errors
/// 24/00 for SP = 1, for a page or subpage that is not there, and for a parameter pointer beyond the last parameter.
pub(super) fn sense(
    unit: &LogicalUnit,
    save: bool,
    page: u8,
    subpage: u8,
    from: u16,
    allocation: u32,
    data_in: &mut Vec<u8>,
) -> Result<(), SenseData> {
    if save {
        return Err(SenseData::invalid_cdb_bit(1, 0));
    }
    match (page, subpage) {
        (SUPPORTED_PAGES, 0) => {
            data_in.extend_from_slice(&[SUPPORTED_PAGES, 0, 0, 0, SUPPORTED_PAGES]);
            data_in.extend(pages_of(unit).map(|page| page.code));
        }
        (SUPPORTED_PAGES, ALL_SUBPAGES) => {
            // With SPF set; every page has subpage 0 only, and page 00h this one too.
            data_in.extend_from_slice(&[0x40, ALL_SUBPAGES, 0, 0]);
            data_in.extend_from_slice(&[SUPPORTED_PAGES, 0, SUPPORTED_PAGES, ALL_SUBPAGES]);
            data_in.extend(pages_of(unit).flat_map(|page| [page.code, 0]));
        }
        _ => append(unit, page, subpage, from, data_in)?,
    }
    set_u16_length(data_in, 2);
    truncate(data_in, allocation);
    Ok(())
}

fn pages_of(unit: &LogicalUnit) -> impl Iterator<Item = &'static Page> {
    let thin = unit.is_thin();
    PAGES.iter().filter(move |page| thin || !page.thin)
}

fn append(
    unit: &LogicalUnit,
    code: u8,
    subpage: u8,
    from: u16,
    data_in: &mut Vec<u8>,
) -> Result<(), SenseData> {
    let page = pages_of(unit).find(|page| page.code == code).ok_or(SenseData::invalid_cdb_bit(2, 5))?;
    if subpage != 0 {
        return Err(SenseData::invalid_cdb_field(3));
    }
    let last = page.parameters.last().map_or(0, |parameter| parameter.code);
    if from > last {
        return Err(SenseData::invalid_cdb_field(5));
    }
    data_in.extend_from_slice(&[code, 0, 0, 0]);
    for parameter in page.parameters.iter().filter(|parameter| parameter.code >= from) {
        data_in.put_u16(parameter.code);
        data_in.extend_from_slice(&[BINARY_LIST, parameter.value.len() as u8]);
        data_in.extend_from_slice(parameter.value);
    }
    Ok(())
}
