//! INQUIRY: standard data and vital product data (SPC-4 §6.6, §7.8; SBC-3 §6.6).

use alloc::vec::Vec;

use super::data_in::{DataIn, set_u16_length, truncate};
use super::logical_unit::LogicalUnit;
use super::sense::SenseData;
use super::target::TargetPort;

/// Which logical unit is asked.
#[derive(Clone, Copy)]
pub(super) enum Device<'a> {
    Unit(&'a LogicalUnit),
    /// The REPORT LUNS well-known logical unit.
    ReportLuns,
    /// No logical unit at this LUN.
    Absent,
}

/// VPD pages of a disk, ascending. B2h comes with thin provisioning.
const UNIT_PAGES: [u8; 5] = [0x00, 0x80, 0x83, 0xB0, 0xB1];
/// VPD pages of the well-known logical unit.
const WELL_KNOWN_PAGES: [u8; 2] = [0x00, 0x83];
/// Standard INQUIRY data up to and with the eight version descriptors.
const STANDARD_BYTES: usize = 96;
/// SAM-5, iSCSI, SPC-4, SBC-3; no version of them claimed (SPC-4 table 138).
const VERSION_DESCRIPTORS: [u16; 4] = [0x00A0, 0x0960, 0x0460, 0x04C0];

impl Device<'_> {
    /// PERIPHERAL QUALIFIER and PERIPHERAL DEVICE TYPE.
    fn peripheral(self) -> u8 {
        match self {
            Self::Unit(_) => 0x00,
            Self::ReportLuns => 0x1E,
            // Qualifier 3, type unknown: "not capable of supporting a peripheral device".
            Self::Absent => 0x7F,
        }
    }
}

/// Answers INQUIRY.
///
/// # Errors
/// 24/00 at byte 2 for a page that this logical unit does not have.
pub(super) fn inquiry(
    device: Device<'_>,
    port: &TargetPort,
    page: Option<u8>,
    allocation: u32,
    data_in: &mut Vec<u8>,
) -> Result<(), SenseData> {
    match page {
        None => standard(device, data_in),
        Some(page) => vital_product_data(device, port, page, data_in)?,
    }
    truncate(data_in, allocation);
    Ok(())
}

fn standard(device: Device<'_>, data_in: &mut Vec<u8>) {
    data_in.extend_from_slice(&[
        device.peripheral(),
        0x00, // the medium is not removable
        0x06, // SPC-4
        0x12, // HISUP, response data format 2
        (STANDARD_BYTES - 5) as u8,
        0x00, // no SCCS, ACC, TPGS, 3PC, PROTECT
        0x00, // one port, no enclosure services
        0x02, // CMDQUE
    ]);
    match device {
        Device::Unit(unit) => {
            data_in.extend_from_slice(&unit.identity.vendor);
            data_in.extend_from_slice(&unit.identity.product);
            data_in.extend_from_slice(&unit.identity.revision);
        }
        Device::ReportLuns | Device::Absent => data_in.resize(36, b' '),
    }
    data_in.put_zeros(58 - 36);
    for descriptor in VERSION_DESCRIPTORS {
        data_in.put_u16(descriptor);
    }
    data_in.resize(STANDARD_BYTES, 0);
}

fn vital_product_data(
    device: Device<'_>,
    port: &TargetPort,
    page: u8,
    data_in: &mut Vec<u8>,
) -> Result<(), SenseData> {
    data_in.extend_from_slice(&[device.peripheral(), page, 0, 0]);
    match (device, page) {
        (Device::Unit(_), 0x00) => data_in.extend_from_slice(&UNIT_PAGES),
        (Device::ReportLuns, 0x00) => data_in.extend_from_slice(&WELL_KNOWN_PAGES),
        (Device::Unit(unit), 0x80) => data_in.extend_from_slice(unit.identity.serial.as_bytes()),
        (Device::Unit(unit), 0x83) => {
            unit_designators(unit, data_in);
            port_designators(port, data_in);
        }
        (Device::ReportLuns, 0x83) => port_designators(port, data_in),
        (Device::Unit(unit), 0xB0) => block_limits(unit, data_in),
        (Device::Unit(_), 0xB1) => block_device_characteristics(data_in),
        _ => {
            data_in.clear();
            return Err(SenseData::invalid_cdb_field(2));
        }
    }
    set_u16_length(data_in, 2);
    Ok(())
}

/// What a designator names (SPC-4 table 590).
#[derive(Clone, Copy)]
enum Association {
    LogicalUnit = 0x00,
    TargetPort = 0x10,
    TargetDevice = 0x20,
}

/// Code sets (SPC-4 table 25).
const BINARY: u8 = 0x1;
const ASCII: u8 = 0x2;
const UTF8: u8 = 0x3;

/// Designator types (SPC-4 table 591).
const T10_VENDOR_ID: u8 = 0x1;
const NAA: u8 = 0x3;
const RELATIVE_TARGET_PORT: u8 = 0x4;
const TARGET_PORT_GROUP: u8 = 0x5;
const SCSI_NAME_STRING: u8 = 0x8;

/// PROTOCOL IDENTIFIER of iSCSI, and PIV.
const ISCSI: u8 = 0x50;
const PIV: u8 = 0x80;

/// Starts a designation descriptor; `parts` are its designator.
fn designator(association: Association, code_set: u8, kind: u8, parts: &[&[u8]], data_in: &mut Vec<u8>) {
    // The protocol is named where the designator belongs to a port or to the device (SPC-4 §7.8.6.1).
    let (protocol, piv) = match association {
        Association::LogicalUnit => (0, 0),
        Association::TargetPort | Association::TargetDevice => (ISCSI, PIV),
    };
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let length = u8::try_from(length).expect("designators are shorter than 256 bytes");
    data_in.extend_from_slice(&[protocol | code_set, piv | association as u8 | kind, 0, length]);
    for part in parts {
        data_in.extend_from_slice(part);
    }
}

/// The names of the logical unit: the same on every path and on both nodes.
fn unit_designators(unit: &LogicalUnit, data_in: &mut Vec<u8>) {
    let identity = &unit.identity;
    designator(Association::LogicalUnit, BINARY, NAA, &[&identity.naa], data_in);
    let parts: [&[u8]; 2] = [&identity.vendor, identity.serial.as_bytes()];
    designator(Association::LogicalUnit, ASCII, T10_VENDOR_ID, &parts, data_in);
}

/// The names of the port that the command came through, and of the target device.
fn port_designators(port: &TargetPort, data_in: &mut Vec<u8>) {
    let [high, low] = port.relative_id.to_be_bytes();
    let at_port = Association::TargetPort;
    designator(at_port, BINARY, RELATIVE_TARGET_PORT, &[&[0, 0, high, low]], data_in);
    let [high, low] = port.target_port_group.to_be_bytes();
    designator(at_port, BINARY, TARGET_PORT_GROUP, &[&[0, 0, high, low]], data_in);
    // iSCSI target port name: the target's name, ",t,0x" and the portal group tag (RFC 7143 §3.4.2).
    let tag = hex4(port.portal_group_tag);
    scsi_name(at_port, &[port.target_name.as_bytes(), b",t,0x", &tag], data_in);
    scsi_name(Association::TargetDevice, &[port.target_name.as_bytes()], data_in);
}

/// A SCSI name string: UTF-8, at least one NUL, a multiple of four bytes (SPC-4 §7.8.6.11).
fn scsi_name(association: Association, parts: &[&[u8]], data_in: &mut Vec<u8>) {
    const NULS: [u8; 4] = [0; 4];
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let nuls = &NULS[..4 - length % 4];
    let [first, rest @ ..] = parts else { return };
    let second = rest.first().copied().unwrap_or_default();
    let third = rest.get(1).copied().unwrap_or_default();
    designator(association, UTF8, SCSI_NAME_STRING, &[first, second, third, nuls], data_in);
}

fn hex4(value: u16) -> [u8; 4] {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    [12, 8, 4, 0].map(|shift| DIGITS[usize::from(value >> shift & 0xF)])
}

/// Block Limits (SBC-3 §6.6.3), all zero where a limit belongs to a command that is not supported.
fn block_limits(unit: &LogicalUnit, data_in: &mut Vec<u8>) {
    data_in.put_u16(0); // WSNZ, MAXIMUM COMPARE AND WRITE LENGTH
    data_in.put_u16(1 << unit.physical_block_exponent()); // OPTIMAL TRANSFER LENGTH GRANULARITY
    data_in.put_u32(unit.max_transfer_blocks());
    data_in.put_u32(0); // OPTIMAL TRANSFER LENGTH: none is better than another
    data_in.resize(64, 0);
}

/// Block Device Characteristics (SBC-3 §6.6.2).
fn block_device_characteristics(data_in: &mut Vec<u8>) {
    data_in.put_u16(1); // MEDIUM ROTATION RATE: non-rotating
    data_in.resize(64, 0);
}
