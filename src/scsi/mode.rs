//! Mode parameters: MODE SENSE and MODE SELECT (SPC-4 §6.9–6.12, §7.5; SBC-3 §6.5).
//!
//! No parameter can be changed: the cache policy belongs to the disks of two nodes and the rest is fixed. MODE SELECT
//! accepts a list that changes nothing, which is what drivers send that write back what they read.

use alloc::vec::Vec;

use super::cdb::{ModeForm, ModeSense};
use super::data_in::{DataIn, truncate};
use super::logical_unit::LogicalUnit;
use super::sense::SenseData;
use super::target::Outcome;

/// PAGE CONTROL (SPC-4 table 170).
const CHANGEABLE: u8 = 1;
const SAVED: u8 = 3;

/// All pages; with subpage FFh, all subpages too.
const ALL_PAGES: u8 = 0x3F;
const ALL_SUBPAGES: u8 = 0xFF;

/// DEVICE-SPECIFIC PARAMETER: DPOFUA, for READ and WRITE honour DPO and FUA (SBC-3 §6.5.1).
const DPOFUA: u8 = 0x10;
/// DEVICE-SPECIFIC PARAMETER: the disk is write-protected.
const WP: u8 = 0x80;

/// A page of the device. Pages with `subpage` 0 have the short header, others the long one (SPF).
struct Page {
    code: u8,
    subpage: u8,
    /// Appends what follows the header, current values.
    body: fn(&LogicalUnit, &mut Vec<u8>),
}

/// Ascending by page code and subpage.
const PAGES: [Page; 7] = [
    Page { code: 0x01, subpage: 0x00, body: error_recovery },
    Page { code: 0x02, subpage: 0x00, body: disconnect_reconnect },
    Page { code: 0x08, subpage: 0x00, body: caching },
    Page { code: 0x0A, subpage: 0x00, body: control },
    Page { code: 0x0A, subpage: 0x01, body: control_extension },
    Page { code: 0x1A, subpage: 0x00, body: power_condition },
    Page { code: 0x1C, subpage: 0x00, body: informational_exceptions },
];

/// Read-Write Error Recovery (SBC-3 §6.5.8). Recovery is the business of the disks of the two servers.
fn error_recovery(_: &LogicalUnit, data_in: &mut Vec<u8>) {
    const AWRE: u8 = 0x80;
    const ARRE: u8 = 0x40;
    data_in.push(AWRE | ARRE);
    data_in.put_zeros(9);
}

/// Disconnect-Reconnect (SPC-4 §7.5.10): iSCSI has its own burst lengths, negotiated in the login.
fn disconnect_reconnect(_: &LogicalUnit, data_in: &mut Vec<u8>) {
    data_in.put_zeros(14);
}

/// Power Condition (SPC-4 §7.5.15): no timer runs, the disk is always active.
fn power_condition(_: &LogicalUnit, data_in: &mut Vec<u8>) {
    data_in.put_zeros(38);
}

/// Caching (SBC-3 §6.5.5): WCE when a disk keeps written data in a volatile cache.
fn caching(unit: &LogicalUnit, data_in: &mut Vec<u8>) {
    const WCE: u8 = 0x04;
    data_in.push(if unit.volatile_cache { WCE } else { 0 });
    data_in.put_zeros(17);
}

/// Control (SPC-4 §7.5.8).
fn control(_: &LogicalUnit, data_in: &mut Vec<u8>) {
    data_in.extend_from_slice(&[
        0x00, // TST: one task set for all nexuses; D_SENSE clear: fixed format
        0x10, // QUEUE ALGORITHM MODIFIER: unrestricted reordering; QERR: other tasks are not touched
        0x00, // no unit attention interlock, no SWP
        0x40, // TAS: tasks aborted by another nexus end with TASK ABORTED
        0x00, 0x00, // obsolete
        0xFF, 0xFF, // BUSY TIMEOUT PERIOD: no limit
        0x00, 0x00, // no extended self-test
    ]);
}

/// Control Extension (SPC-4 §7.5.9): no timestamp changes, no priorities, implicit ALUA not announced here.
fn control_extension(_: &LogicalUnit, data_in: &mut Vec<u8>) {
    data_in.put_zeros(28);
}

/// Informational Exceptions Control (SPC-4 §7.5.13): no exception conditions are reported.
fn informational_exceptions(_: &LogicalUnit, data_in: &mut Vec<u8>) {
    const DEXCPT: u8 = 0x08;
    data_in.push(DEXCPT);
    data_in.put_zeros(9);
}

impl Page {
    fn is_wanted(&self, page: u8, subpage: u8) -> bool {
        (page == ALL_PAGES || page == self.code) && (subpage == ALL_SUBPAGES || subpage == self.subpage)
    }

    fn append(&self, unit: &LogicalUnit, changeable: bool, data_in: &mut Vec<u8>) {
        if self.subpage == 0 {
            data_in.extend_from_slice(&[self.code, 0]);
        } else {
            data_in.extend_from_slice(&[0x40 | self.code, self.subpage, 0, 0]);
        }
        let body = data_in.len();
        (self.body)(unit, data_in);
        let length = (data_in.len() - body) as u8;
        data_in[body - 1] = length;
        if changeable {
            data_in[body..].fill(0);
        }
    }
}

/// MODE SENSE.
///
/// # Errors
/// 39/00 for saved values, 24/00 for a page that is not there.
pub(super) fn sense(unit: &LogicalUnit, request: &ModeSense, data_in: &mut Vec<u8>) -> Result<(), SenseData> {
    if request.control == SAVED {
        return Err(SenseData::SAVING_PARAMETERS_NOT_SUPPORTED);
    }
    let wanted = |page: &&Page| page.is_wanted(request.page, request.subpage);
    if !PAGES.iter().any(|page| wanted(&page)) {
        return Err(missing_page(request));
    }
    let descriptor: u8 = match (request.disable_block_descriptors, request.long_lba) {
        (true, _) => 0,
        (false, false) => 8,
        (false, true) => 16,
    };
    let device_specific = if unit.read_only { DPOFUA | WP } else { DPOFUA };
    match request.form {
        ModeForm::Six => data_in.extend_from_slice(&[0, 0, device_specific, descriptor]),
        ModeForm::Ten => {
            let long = u8::from(descriptor == 16);
            data_in.extend_from_slice(&[0, 0, 0, device_specific, long, 0, 0, descriptor]);
        }
    }
    block_descriptor(unit, descriptor, data_in);
    for page in PAGES.iter().filter(wanted) {
        page.append(unit, request.control == CHANGEABLE, data_in);
    }
    match request.form {
        ModeForm::Six => data_in[0] = (data_in.len() - 1) as u8,
        ModeForm::Ten => {
            let length = (data_in.len() - 2) as u16;
            data_in[..2].copy_from_slice(&length.to_be_bytes());
        }
    }
    truncate(data_in, request.allocation);
    Ok(())
}

/// Points at the page code when no page has it, else at the subpage.
fn missing_page(request: &ModeSense) -> SenseData {
    if request.page == ALL_PAGES || PAGES.iter().any(|page| page.code == request.page) {
        SenseData::invalid_cdb_field(3)
    } else {
        SenseData::invalid_cdb_bit(2, 5)
    }
}

/// The short (8 bytes) or long LBA (16 bytes) block descriptor of a disk (SBC-3 §6.5.2).
fn block_descriptor(unit: &LogicalUnit, length: u8, data_in: &mut Vec<u8>) {
    let geometry = &unit.geometry;
    match length {
        8 => {
            data_in.put_u32(u32::try_from(geometry.blocks).unwrap_or(u32::MAX));
            data_in.put_u32(geometry.block_bytes()); // 24 bits behind a reserved byte
        }
        16 => {
            data_in.put_u64(geometry.blocks);
            data_in.put_u32(0);
            data_in.put_u32(geometry.block_bytes());
        }
        _ => {}
    }
}

/// Checks a MODE SELECT's CDB.
///
/// # Errors
/// 24/00 for SP = 1, as nothing is saved, and for PF = 0, a format of the vendor's that does not exist.
pub(super) fn begin_select(
    page_format: bool,
    save_pages: bool,
    parameter_bytes: u32,
) -> Result<Outcome, SenseData> {
    if save_pages {
        return Err(SenseData::invalid_cdb_bit(1, 0));
    }
    if parameter_bytes == 0 {
        return Ok(Outcome::Done);
    }
    if !page_format {
        return Err(SenseData::invalid_cdb_bit(1, 4));
    }
    Ok(Outcome::NeedData { bytes: parameter_bytes })
}

/// Checks a MODE SELECT's parameter list. It is accepted when every value in it is the current one.
///
/// # Errors
/// 1A/00 for a list that ends inside a header, block descriptor or page; 26/00 for an unknown page or for a value that
/// would change.
pub(super) fn select(unit: &LogicalUnit, form: ModeForm, data: &[u8]) -> Result<(), SenseData> {
    const SHORT: SenseData = SenseData::PARAMETER_LIST_LENGTH_ERROR;
    let header = match form {
        ModeForm::Six => 4,
        ModeForm::Ten => 8,
    };
    let head = data.get(..header).ok_or(SHORT)?;
    let (long, descriptor, descriptor_at) = match form {
        ModeForm::Six => (false, usize::from(head[3]), 3),
        ModeForm::Ten => (head[4] & 1 != 0, usize::from(u16::from_be_bytes([head[6], head[7]])), 6),
    };
    let expected = if long { 16 } else { 8 };
    if descriptor != 0 && descriptor != expected {
        return Err(SenseData::invalid_parameter(descriptor_at));
    }
    let mut at = header + descriptor;
    let given = data.get(header..at).ok_or(SHORT)?;
    let mut current = Vec::new();
    block_descriptor(unit, descriptor as u8, &mut current);
    if !same_block_descriptor(given, &current) {
        return Err(SenseData::invalid_parameter(header as u16));
    }
    while at < data.len() {
        at = select_page(unit, data, at)?;
    }
    Ok(())
}

/// A NUMBER OF LOGICAL BLOCKS of zero means "as it is" (SBC-3 §6.5.2.2).
fn same_block_descriptor(given: &[u8], current: &[u8]) -> bool {
    let count = current.len() / 2;
    let zero = given[..count].iter().all(|byte| *byte == 0);
    (zero || given[..count] == current[..count]) && given[count..] == current[count..]
}

/// Checks one page of a parameter list; returns where the next one starts.
fn select_page(unit: &LogicalUnit, data: &[u8], at: usize) -> Result<usize, SenseData> {
    const SHORT: SenseData = SenseData::PARAMETER_LIST_LENGTH_ERROR;
    const SPF: u8 = 0x40;
    let pointer = at.min(usize::from(u16::MAX)) as u16;
    let rest = &data[at..];
    let code = rest[0] & 0x3F;
    let subpage = if rest[0] & SPF == 0 { 0 } else { *rest.get(1).ok_or(SHORT)? };
    let page = PAGES
        .iter()
        .find(|page| page.code == code && page.subpage == subpage)
        .ok_or(SenseData::invalid_parameter(pointer))?;
    let mut current = Vec::new();
    page.append(unit, false, &mut current);
    let given = rest.get(..current.len()).ok_or(SHORT)?;
    // PS is reserved in a parameter list and ignored, as drivers send back what MODE SENSE gave.
    let first = (given[0] ^ current[0]) & 0x7F;
    let differs = (0..current.len()).find(|&i| if i == 0 { first != 0 } else { given[i] != current[i] });
    if let Some(byte) = differs {
        return Err(SenseData::invalid_parameter(pointer.saturating_add(byte as u16)));
    }
    Ok(at + current.len())
}
