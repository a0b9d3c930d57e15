//! Vital product data (SPC-4 §7.8, SBC-3 §6.6): who the disk is, and what it can take.
//!
//! Absent, each for a reason: 8Fh, for there is no third-party copy; B3h, B5h and B6h, for the disk has no referrals, no
//! zones and no extension of page B1h to tell.

use alloc::vec::Vec;

use super::data_in::{DataIn, set_u16_length};
use super::identity::SerialForm;
use super::inquiry::Device;
use super::logical_unit::LogicalUnit;
use super::media::{
    COMPARE_AND_WRITE_BLOCKS_MAX, UNMAP_BLOCKS_MAX, UNMAP_DESCRIPTORS_MAX, UNMAP_GRANULARITY_BYTES,
};
use super::sense::SenseData;
use super::target::TargetPort;

/// VPD pages of a disk, ascending.
const UNIT_PAGES: [u8; 8] = [0x00, 0x80, 0x83, 0x86, 0x87, 0x88, 0xB0, 0xB1];
/// And with thin provisioning.
const THIN_PAGES: [u8; 1] = [0xB2];
/// VPD pages of the well-known logical unit.
const WELL_KNOWN_PAGES: [u8; 2] = [0x00, 0x83];

/// Appends a page with its header.
///
/// # Errors
/// 24/00 at byte 2 for a page that this logical unit does not have.
pub(super) fn vital_product_data(
    device: Device<'_>,
    port: &TargetPort,
    page: u8,
    data_in: &mut Vec<u8>,
) -> Result<(), SenseData> {
    data_in.extend_from_slice(&[device.peripheral(), page, 0, 0]);
    match (device, page) {
        (Device::Unit(unit), 0x00) => {
            data_in.extend_from_slice(&UNIT_PAGES);
            if unit.is_thin() {
                data_in.extend_from_slice(&THIN_PAGES);
            }
        }
        (Device::ReportLuns, 0x00) => data_in.extend_from_slice(&WELL_KNOWN_PAGES),
        (Device::Unit(unit), 0x80) => {
            data_in.extend_from_slice(unit.identity.serial.as_bytes());
            if unit.serial_form == SerialForm::Lio {
                data_in.push(0);
            }
        }
        (Device::Unit(unit), 0x83) => {
            unit_designators(unit, data_in);
            port_designators(port, data_in);
        }
        (Device::ReportLuns, 0x83) => port_designators(port, data_in),
        (Device::Unit(unit), 0x86) => extended_inquiry(unit, data_in),
        (Device::Unit(_), 0x87) => mode_page_policy(data_in),
        (Device::Unit(_), 0x88) => scsi_ports(port, data_in),
        (Device::Unit(unit), 0xB0) => block_limits(unit, data_in),
        (Device::Unit(_), 0xB1) => block_device_characteristics(data_in),
        (Device::Unit(unit), 0xB2) if unit.is_thin() => logical_block_provisioning(data_in),
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
    let serial = identity.serial.as_bytes();
    let product = identity.product.trim_ascii_end();
    let lio: [&[u8]; 5] = [&identity.vendor, product, b":", serial, b"\0"];
    let parts: &[&[u8]] = match unit.serial_form {
        SerialForm::Plain => &[&identity.vendor, serial],
        SerialForm::Lio => &lio,
    };
    designator(Association::LogicalUnit, ASCII, T10_VENDOR_ID, parts, data_in);
}

/// The names of the port that the command came through, and of the target device.
fn port_designators(port: &TargetPort, data_in: &mut Vec<u8>) {
    let [high, low] = port.relative_id.to_be_bytes();
    let at_port = Association::TargetPort;
    designator(at_port, BINARY, RELATIVE_TARGET_PORT, &[&[0, 0, high, low]], data_in);
    let [high, low] = port.target_port_group.to_be_bytes();
    designator(at_port, BINARY, TARGET_PORT_GROUP, &[&[0, 0, high, low]], data_in);
    port_name(port, data_in);
    scsi_name(Association::TargetDevice, &[port.target_name.as_bytes()], data_in);
}

/// The iSCSI target port name: the target's name, ",t,0x" and the portal group tag (RFC 7143 §3.4.2).
fn port_name(port: &TargetPort, data_in: &mut Vec<u8>) {
    let tag = hex4(port.portal_group_tag);
    scsi_name(Association::TargetPort, &[port.target_name.as_bytes(), b",t,0x", &tag], data_in);
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

/// Extended INQUIRY Data (SPC-4 §7.8.7), 60 bytes behind the header.
fn extended_inquiry(unit: &LogicalUnit, data_in: &mut Vec<u8>) {
    const SIMPSUP: u8 = 0x01;
    const ORDSUP: u8 = 0x02;
    const HEADSUP: u8 = 0x04;
    const V_SUP: u8 = 0x01;
    data_in.push(0); // no protection information
    data_in.push(HEADSUP | ORDSUP | SIMPSUP);
    data_in.push(if unit.volatile_cache { V_SUP } else { 0 });
    data_in.resize(64, 0);
}

/// Mode Page Policy (SPC-4 §7.8.9): one set of values for all ports and initiators.
fn mode_page_policy(data_in: &mut Vec<u8>) {
    const ALL_PAGES: u8 = 0x3F;
    const ALL_SUBPAGES: u8 = 0xFF;
    const SHARED: u8 = 0x00;
    data_in.extend_from_slice(&[ALL_PAGES, ALL_SUBPAGES, SHARED, 0]);
}

/// SCSI Ports (SPC-4 §7.8.13): the one target port. Initiator ports have no descriptors.
fn scsi_ports(port: &TargetPort, data_in: &mut Vec<u8>) {
    data_in.put_u16(0);
    data_in.put_u16(port.relative_id);
    data_in.put_zeros(2);
    data_in.put_u16(0); // the port is no initiator
    data_in.put_zeros(2);
    let at = data_in.len();
    data_in.put_u16(0);
    port_name(port, data_in);
    set_u16_length(data_in, at);
}

/// Block Limits (SBC-3 §6.6.3), zero where a limit belongs to a command that is not supported.
fn block_limits(unit: &LogicalUnit, data_in: &mut Vec<u8>) {
    const WSNZ: u8 = 0x01;
    const UGAVALID: u32 = 0x8000_0000;
    data_in.extend_from_slice(&[WSNZ, COMPARE_AND_WRITE_BLOCKS_MAX as u8]);
    data_in.put_u16(1 << unit.physical_block_exponent()); // OPTIMAL TRANSFER LENGTH GRANULARITY
    data_in.put_u32(unit.max_transfer_blocks());
    data_in.put_u32(0); // OPTIMAL TRANSFER LENGTH: none is better than another
    data_in.put_u32(0); // PRE-FETCH has no effect, so no length of it is too long
    if unit.is_thin() {
        data_in.put_u32(UNMAP_BLOCKS_MAX);
        data_in.put_u32(UNMAP_DESCRIPTORS_MAX as u32);
        data_in.put_u32((UNMAP_GRANULARITY_BYTES >> unit.geometry.block_shift).max(1));
        data_in.put_u32(UGAVALID); // granules are counted from block 0
    } else {
        data_in.put_zeros(16);
    }
    data_in.put_u64(u64::from(unit.max_fill_blocks()));
    data_in.put_u32(1); // MAXIMUM ATOMIC TRANSFER LENGTH
    data_in.resize(64, 0);
}

/// Block Device Characteristics (SBC-3 §6.6.2).
fn block_device_characteristics(data_in: &mut Vec<u8>) {
    data_in.put_u16(1); // MEDIUM ROTATION RATE: non-rotating
    data_in.resize(64, 0);
}

/// Logical Block Provisioning (SBC-3 §6.6.4) of a thin disk.
fn logical_block_provisioning(data_in: &mut Vec<u8>) {
    const LBPU: u8 = 0x80;
    const LBPWS: u8 = 0x40;
    const LBPWS10: u8 = 0x20;
    /// An unmapped block reads as zeroes.
    const LBPRZ: u8 = 0x04;
    const THIN: u8 = 0x02;
    data_in.push(0); // no thresholds
    data_in.push(LBPU | LBPWS | LBPWS10 | LBPRZ);
    data_in.extend_from_slice(&[THIN, 0]);
}
