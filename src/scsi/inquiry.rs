//! INQUIRY (SPC-4 §6.6): standard data. The vital product data pages are next door.

use alloc::vec::Vec;

use super::alua::TPGS_IMPLICIT;
use super::data_in::{DataIn, truncate};
use super::logical_unit::LogicalUnit;
use super::sense::SenseData;
use super::target::TargetPort;
use super::vital_product::vital_product_data;

/// Which logical unit is asked.
#[derive(Clone, Copy)]
pub(super) enum Device<'a> {
    Unit(&'a LogicalUnit),
    /// The REPORT LUNS well-known logical unit.
    ReportLuns,
    /// No logical unit at this LUN.
    Absent,
}

/// Standard INQUIRY data up to and with the eight version descriptors.
const STANDARD_BYTES: usize = 96;
/// SAM-5, iSCSI, SPC-4, SBC-3; no version of them claimed (SPC-4 table 138).
const VERSION_DESCRIPTORS: [u16; 4] = [0x00A0, 0x0960, 0x0460, 0x04C0];

impl Device<'_> {
    /// PERIPHERAL QUALIFIER and PERIPHERAL DEVICE TYPE.
    pub(super) fn peripheral(self) -> u8 {
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
        None => standard(device, port, data_in),
        Some(page) => vital_product_data(device, port, page, data_in)?,
    }
    truncate(data_in, allocation);
    Ok(())
}

fn standard(device: Device<'_>, port: &TargetPort, data_in: &mut Vec<u8>) {
    let tpgs = if port.peer.is_some() { TPGS_IMPLICIT } else { 0 };
    data_in.extend_from_slice(&[
        device.peripheral(),
        0x00, // the medium is not removable
        0x06, // SPC-4
        0x12, // HISUP, response data format 2
        (STANDARD_BYTES - 5) as u8,
        tpgs, // no SCCS, ACC, 3PC, PROTECT
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
