//! Taking over from another target: what its saved configuration says the disk is called, as sections of ours.
//!
//! An initiator knows a disk by what INQUIRY says (vendor, product, VPD pages 80h and 83h) and by the target's name. A
//! volume that says the same is the same disk to it: Windows keeps its drive letter, Linux its `/dev/disk/by-id`.
//!
//! What LIO says follows from its saved configuration by a rule of its kernel module: vendor `LIO-ORG`, the backstore's
//! name as product, revision `4.0`; page 80h is the serial number and a NUL; page 83h begins with NAA 6h, company
//! 001405h and the first 25 hexadecimal digits of the serial number, then `LIO-ORG `, `product:serial` and a NUL.
//!
//! Absent on purpose: changing the other target, and copying data. Nothing is written but what the caller prints.

mod lio;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

pub use lio::import as import_lio;

use super::failure::Failure;

/// Longest saved configuration that is read.
const FILE_MAX: u64 = 16 << 20;

/// Which disk of a saved configuration is meant.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Needed when there are several.
    pub target: Option<String>,
    /// Portal group; needed when the target has several.
    pub portal_group: Option<u64>,
    /// Number of the logical unit in the portal group; needed when there are several.
    pub lun: Option<u64>,
    /// Where the files with CHAP secrets go, as the sections name them.
    pub secrets: Option<PathBuf>,
}

/// What was understood.
#[derive(Debug)]
pub struct Import {
    /// Sections `[volume]` and `[target]` of a configuration, with remarks.
    pub document: String,
    /// Files with secrets that the sections name: path and bytes.
    pub secrets: Vec<(PathBuf, Zeroizing<String>)>,
    /// What a person must look at.
    pub remarks: Vec<String>,
}

/// Reads a saved configuration.
///
/// # Errors
/// The file cannot be read, is longer than any such file, or is not JSON.
pub fn read(file: &Path) -> Result<serde_json::Value, Failure> {
    let show = file.display();
    let next = "write it on the node that serves, with: targetcli saveconfig FILE";
    let cannot = |error: std::io::Error| Failure::usage(format!("cannot read {show}: {error}"), next);
    let size = std::fs::metadata(file).map_err(cannot)?.len();
    if size > FILE_MAX {
        let what = format!("{show} has {size} bytes; a saved configuration has at most {FILE_MAX}");
        return Err(Failure::usage(what, next));
    }
    let text = std::fs::read_to_string(file).map_err(cannot)?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::usage(format!("{show} is not a saved configuration: {error}"), next))
}
