//! What initiators see of the disk beyond its size, and what is taken over from another target.

use super::document::{ConfigError, Section};
use super::units::UnitError;
use crate::scsi::{Provisioning, SerialForm};

/// Keys of `[target]` that are read here.
pub(super) const KEYS: [&str; 5] = ["naa", "serial_form", "provisioning", "read_only", "physical_block_size"];

/// Physical block size, 512 or 4096; the larger one suits every disk.
pub(super) fn physical_block_size(section: &Section<'_>) -> Result<u32, ConfigError> {
    let Some(item) = section.get("physical_block_size") else { return Ok(4096) };
    match item.integer(0..1 << 20)? {
        512 => Ok(512),
        4096 => Ok(4096),
        other => Err(item.error(format!("blocks have 512 or 4096 bytes, not {other}"))),
    }
}

pub(super) fn provisioning(section: &Section<'_>) -> Result<Provisioning, ConfigError> {
    let Some(item) = section.get("provisioning") else { return Ok(Provisioning::Fixed) };
    item.parse(|text| match text {
        "fixed" => Ok(Provisioning::Fixed),
        "thin" => Ok(Provisioning::Thin),
        _ => Err(UnitError(format!("{text:?} is no provisioning; use \"fixed\" or \"thin\""))),
    })
}

/// How the serial number is written; another target's way for a disk that comes from there.
pub(super) fn serial_form(section: &Section<'_>) -> Result<SerialForm, ConfigError> {
    let Some(item) = section.get("serial_form") else { return Ok(SerialForm::Plain) };
    item.parse(|text| match text {
        "plain" => Ok(SerialForm::Plain),
        "lio" => Ok(SerialForm::Lio),
        _ => Err(UnitError(format!("{text:?} is no form of a serial number; use \"plain\" or \"lio\""))),
    })
}

/// An NAA designator of 16 bytes, as other targets and `lsblk` write it: 32 hexadecimal digits, the first a 6.
pub(super) fn naa(text: &str) -> Result<[u8; 16], UnitError> {
    let digits = text.strip_prefix("naa.").or_else(|| text.strip_prefix("0x")).unwrap_or(text);
    let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok();
    let naa = bytes.and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
    naa.filter(|naa| naa[0] >> 4 == 6).ok_or_else(|| {
        UnitError(format!("{text:?} is not an NAA designator of 32 hexadecimal digits that begin with 6"))
    })
}
