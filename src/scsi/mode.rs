//! Mode parameters: MODE SENSE and MODE SELECT (SPC-4 §6.9–6.12, §7.5; SBC-3 §6.5).
//!
//! Four parameters can be changed and saved, the same for all initiators and on both nodes: WCE, D_SENSE, SWP and TAS.
//! MODE SELECT takes any list that changes nothing else, which is what drivers send that write back what they read.
//!
//! The values are part of the [`UnitMemory`]: current ones stay until a reset brings the saved ones back.

use alloc::vec::Vec;

use super::cdb::{ModeForm, ModeSense};
use super::data_in::{DataIn, truncate};
use super::logical_unit::LogicalUnit;
use super::sense::SenseData;
use super::target::Outcome;
use super::unit_memory::UnitMemory;

/// PAGE CONTROL (SPC-4 table 170).
const CHANGEABLE: u8 = 1;
const DEFAULT: u8 = 2;
const SAVED: u8 = 3;

/// All pages; with subpage FFh, all subpages too.
const ALL_PAGES: u8 = 0x3F;
const ALL_SUBPAGES: u8 = 0xFF;

/// DEVICE-SPECIFIC PARAMETER: DPOFUA, for READ and WRITE honour DPO and FUA (SBC-3 §6.5.1).
const DPOFUA: u8 = 0x10;
/// DEVICE-SPECIFIC PARAMETER: the disk is write-protected.
const WP: u8 = 0x80;
/// PS: the page can be saved.
const PS: u8 = 0x80;

/// Caching page, byte 2.
const WCE: u8 = 0x04;
/// Control page, bytes 2, 4 and 5.
const D_SENSE: u8 = 0x04;
const SWP: u8 = 0x08;
const TAS: u8 = 0x40;

/// The parameters that can be changed, as far as they differ from their defaults.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ModeValues {
    /// WCE is cleared: every write is stable on both disks when it is answered.
    pub write_through: bool,
    /// D_SENSE: sense data comes in descriptor format.
    pub descriptor_sense: bool,
    /// SWP: nobody may write.
    pub write_protect: bool,
    /// TAS is cleared: tasks that another nexus aborts end without an answer.
    pub silent_abort: bool,
}

impl ModeValues {
    pub(super) fn to_byte(self) -> u8 {
        u8::from(self.write_through)
            | u8::from(self.descriptor_sense) << 1
            | u8::from(self.write_protect) << 2
            | u8::from(self.silent_abort) << 3
    }

    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        let bit = |at: u8| byte >> at & 1 != 0;
        (byte < 16).then(|| Self {
            write_through: bit(0),
            descriptor_sense: bit(1),
            write_protect: bit(2),
            silent_abort: bit(3),
        })
    }
}

/// A page of the device. Pages with `subpage` 0 have the short header, others the long one (SPF).
struct Page {
    code: u8,
    subpage: u8,
    /// Appends what follows the header.
    body: fn(&LogicalUnit, ModeValues, &mut Vec<u8>),
    /// Bits that can be changed, with the byte of the page where they are. Such a page can be saved.
    changeable: &'static [(u8, u8)],
}

/// Ascending by page code and subpage.
const PAGES: [Page; 7] = [
    Page { code: 0x01, subpage: 0x00, body: error_recovery, changeable: &[] },
    Page { code: 0x02, subpage: 0x00, body: disconnect_reconnect, changeable: &[] },
    Page { code: 0x08, subpage: 0x00, body: caching, changeable: &[(2, WCE)] },
    Page { code: 0x0A, subpage: 0x00, body: control, changeable: &[(2, D_SENSE), (4, SWP), (5, TAS)] },
    Page { code: 0x0A, subpage: 0x01, body: control_extension, changeable: &[] },
    Page { code: 0x1A, subpage: 0x00, body: power_condition, changeable: &[] },
    Page { code: 0x1C, subpage: 0x00, body: informational_exceptions, changeable: &[] },
];

/// Read-Write Error Recovery (SBC-3 §6.5.8). Recovery is the business of the disks of the two servers.
fn error_recovery(_: &LogicalUnit, _: ModeValues, data_in: &mut Vec<u8>) {
    const AWRE: u8 = 0x80;
    const ARRE: u8 = 0x40;
    data_in.push(AWRE | ARRE);
    data_in.put_zeros(9);
}

/// Disconnect-Reconnect (SPC-4 §7.5.10): iSCSI has its own burst lengths, negotiated in the login.
fn disconnect_reconnect(_: &LogicalUnit, _: ModeValues, data_in: &mut Vec<u8>) {
    data_in.put_zeros(14);
}

/// Power Condition (SPC-4 §7.5.15): no timer runs, the disk is always active.
fn power_condition(_: &LogicalUnit, _: ModeValues, data_in: &mut Vec<u8>) {
    data_in.put_zeros(38);
}

/// Caching (SBC-3 §6.5.5): WCE when a disk keeps written data in a volatile cache, and is let.
fn caching(unit: &LogicalUnit, values: ModeValues, data_in: &mut Vec<u8>) {
    let cached = unit.volatile_cache && !values.write_through;
    data_in.push(if cached { WCE } else { 0 });
    data_in.put_zeros(17);
}

/// Control (SPC-4 §7.5.8).
fn control(_: &LogicalUnit, values: ModeValues, data_in: &mut Vec<u8>) {
    let bit = |on: bool, bit: u8| if on { bit } else { 0 };
    data_in.extend_from_slice(&[
        bit(values.descriptor_sense, D_SENSE), // TST: one task set for all nexuses
        0x10,                                  // QUEUE ALGORITHM MODIFIER: unrestricted; QERR: others go on
        bit(values.write_protect, SWP),        // no unit attention interlock
        bit(!values.silent_abort, TAS),        // tasks aborted by another nexus end with TASK ABORTED
        0x00,
        0x00, // obsolete
        0xFF,
        0xFF, // BUSY TIMEOUT PERIOD: no limit
        0x00,
        0x00, // no extended self-test
    ]);
}

/// Control Extension (SPC-4 §7.5.9): no timestamp changes, no priorities, implicit ALUA not announced here.
fn control_extension(_: &LogicalUnit, _: ModeValues, data_in: &mut Vec<u8>) {
    data_in.put_zeros(28);
}

/// Informational Exceptions Control (SPC-4 §7.5.13): no exception conditions are reported.
fn informational_exceptions(_: &LogicalUnit, _: ModeValues, data_in: &mut Vec<u8>) {
    const DEXCPT: u8 = 0x08;
    data_in.push(DEXCPT);
    data_in.put_zeros(9);
}

impl Page {
    fn is_wanted(&self, page: u8, subpage: u8) -> bool {
        (page == ALL_PAGES || page == self.code) && (subpage == ALL_SUBPAGES || subpage == self.subpage)
    }

    /// Bits of `byte` that can be changed on this disk.
    fn changeable_bits(&self, unit: &LogicalUnit, byte: usize) -> u8 {
        // Without a volatile cache there is nothing to write through.
        let fixed = self.code == 0x08 && !unit.volatile_cache;
        let bits = self.changeable.iter().filter(|(at, _)| usize::from(*at) == byte && !fixed);
        bits.fold(0, |all, (_, bits)| all | bits)
    }

    fn append(&self, unit: &LogicalUnit, values: ModeValues, data_in: &mut Vec<u8>) {
        let start = data_in.len();
        if self.subpage == 0 {
            data_in.extend_from_slice(&[self.code, 0]);
        } else {
            data_in.extend_from_slice(&[0x40 | self.code, self.subpage, 0, 0]);
        }
        let body = data_in.len();
        (self.body)(unit, values, data_in);
        let length = (data_in.len() - body) as u8;
        data_in[body - 1] = length;
        if !self.changeable.is_empty() {
            data_in[start] |= PS;
        }
    }

    /// Makes the page appended last, from `start` on, a mask of what can be changed.
    fn mask(&self, unit: &LogicalUnit, page: &mut [u8]) {
        let header = if self.subpage == 0 { 2 } else { 4 };
        for (byte, value) in page.iter_mut().enumerate().skip(header) {
            *value = self.changeable_bits(unit, byte);
        }
    }
}

/// MODE SENSE.
///
/// # Errors
/// 24/00 for a page that is not there.
pub(super) fn sense(
    unit: &LogicalUnit,
    memory: &UnitMemory,
    request: &ModeSense,
    data_in: &mut Vec<u8>,
) -> Result<(), SenseData> {
    let wanted = |page: &&Page| page.is_wanted(request.page, request.subpage);
    if !PAGES.iter().any(|page| wanted(&page)) {
        return Err(missing_page(request));
    }
    let descriptor: u8 = match (request.disable_block_descriptors, request.long_lba) {
        (true, _) => 0,
        (false, false) => 8,
        (false, true) => 16,
    };
    let protected = unit.read_only || memory.current.write_protect;
    let device_specific = if protected { DPOFUA | WP } else { DPOFUA };
    match request.form {
        ModeForm::Six => data_in.extend_from_slice(&[0, 0, device_specific, descriptor]),
        ModeForm::Ten => {
            let long = u8::from(descriptor == 16);
            data_in.extend_from_slice(&[0, 0, 0, device_specific, long, 0, 0, descriptor]);
        }
    }
    block_descriptor(unit, descriptor, data_in);
    let values = match request.control {
        DEFAULT => ModeValues::default(),
        SAVED => memory.saved,
        _ => memory.current,
    };
    for page in PAGES.iter().filter(wanted) {
        let start = data_in.len();
        page.append(unit, values, data_in);
        if request.control == CHANGEABLE {
            page.mask(unit, &mut data_in[start..]);
        }
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
/// 24/00 for PF = 0, a format of the vendor's that does not exist.
pub(super) fn begin_select(page_format: bool, parameter_bytes: u32) -> Result<Outcome, SenseData> {
    if parameter_bytes == 0 {
        return Ok(Outcome::Done);
    }
    if !page_format {
        return Err(SenseData::invalid_cdb_bit(1, 4));
    }
    Ok(Outcome::NeedData { bytes: parameter_bytes })
}

/// MODE SELECT: the values that are current afterwards.
///
/// # Errors
/// 1A/00 for a list that ends inside a header, block descriptor or page; 26/00 for an unknown page or for a value that
/// cannot be changed.
pub(super) fn select(
    unit: &LogicalUnit,
    values: ModeValues,
    form: ModeForm,
    data: &[u8],
) -> Result<ModeValues, SenseData> {
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
    let mut next = values;
    while at < data.len() {
        at = select_page(unit, &mut next, data, at)?;
    }
    Ok(next)
}

/// A NUMBER OF LOGICAL BLOCKS of zero means "as it is" (SBC-3 §6.5.2.2).
fn same_block_descriptor(given: &[u8], current: &[u8]) -> bool {
    let count = current.len() / 2;
    let zero = given[..count].iter().all(|byte| *byte == 0);
    (zero || given[..count] == current[..count]) && given[count..] == current[count..]
}

/// Takes one page of a parameter list; returns where the next one starts.
fn select_page(
    unit: &LogicalUnit,
    values: &mut ModeValues,
    data: &[u8],
    at: usize,
) -> Result<usize, SenseData> {
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
    page.append(unit, *values, &mut current);
    let given = rest.get(..current.len()).ok_or(SHORT)?;
    // PS is reserved in a parameter list and ignored, as drivers send back what MODE SENSE gave.
    let fixed = |i: usize| if i == 0 { !PS } else { !page.changeable_bits(unit, i) };
    if let Some(byte) = (0..current.len()).find(|&i| (given[i] ^ current[i]) & fixed(i) != 0) {
        return Err(SenseData::invalid_parameter(pointer.saturating_add(byte as u16)));
    }
    match (code, subpage) {
        (0x08, 0) if unit.volatile_cache => values.write_through = given[2] & WCE == 0,
        (0x0A, 0) => {
            values.descriptor_sense = given[2] & D_SENSE != 0;
            values.write_protect = given[4] & SWP != 0;
            values.silent_abort = given[5] & TAS == 0;
        }
        _ => {}
    }
    Ok(at + current.len())
}
