//! The unit state on disk: what the logical unit remembers of its initiators, in two copies.
//!
//! ```text
//!   0 magic "TWLUNIT\0" | 8 format u32  | 12 CRC32C u32 (of the rest, up to the end of the state)
//!  16 write counter u64 | 24 version u64 | 32 length u32 | 36 copy u8 (0, 1) | 37 zero [11]
//!  48 volume identifier [16] | 64 the state          (all little-endian)
//! ```
//!
//! Copy `n` holds the writes whose counter is `n` modulo 2. A change is written to both, the second when the first is
//! durable: so a copy that is torn by a loss of power leaves the state before, and a copy that goes bad later leaves the
//! same state in the other. Pages of zeroes are a volume that remembers nothing yet, which is how formatting leaves it.
//!
//! Absent on purpose: what the state means.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use crate::block::{UNIT_BYTES_MAX, UnitState, UnitVersion};
use crate::wire::{crc32c, crc32c_append};

use super::layout::{UNIT_STATE_BYTES, UNIT_STATE_PAGES};
use super::page::{AT_CRC, PAGE_BYTES, get, put, u32_at, u64_at};

const MAGIC: &[u8; 8] = b"TWLUNIT\0";
const FORMAT: u32 = 1;
const AT_FORMAT: usize = 8;
const AT_COUNTER: usize = 16;
const AT_VERSION: usize = 24;
const AT_LEN: usize = 32;
const AT_COPY: usize = 36;
const AT_VOLUME: usize = 48;
const HEADER_BYTES: usize = 64;

const _: () = assert!(HEADER_BYTES + UNIT_BYTES_MAX <= UNIT_STATE_BYTES);
const _: () = assert!(UNIT_STATE_PAGES <= u8::MAX as u64);

/// The unit state, and the count of its writes to this disk.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct UnitCopy {
    /// Rises with every write of a copy, whatever the version does: a leader's state may be older than one's own.
    pub counter: u64,
    pub state: UnitState,
}

impl UnitCopy {
    /// Nothing was ever written.
    pub fn blank() -> Self {
        Self { counter: 0, state: UnitState::empty() }
    }

    /// The copy (0 or 1) that this write is for.
    pub fn copy(&self) -> usize {
        (self.counter % 2) as usize
    }

    /// Goes on to the next write.
    pub fn advance(&mut self) {
        self.counter = self.counter.checked_add(1).expect("writes are fewer than 2^64");
    }

    /// The bytes of the copy, in whole pages, at most [`UNIT_STATE_PAGES`] of them.
    ///
    /// # Panics
    /// When the state is longer than [`UNIT_BYTES_MAX`].
    pub fn encode(&self, volume: &[u8; 16]) -> Vec<u8> {
        let UnitState { version, bytes } = &self.state;
        assert!(bytes.len() <= UNIT_BYTES_MAX, "the state was bounded where it came from");
        let used = HEADER_BYTES + bytes.len();
        let mut out = vec![0; used.next_multiple_of(PAGE_BYTES)];
        put(&mut out, 0, MAGIC);
        put(&mut out, AT_FORMAT, &FORMAT.to_le_bytes());
        put(&mut out, AT_COUNTER, &self.counter.to_le_bytes());
        put(&mut out, AT_VERSION, &version.0.to_le_bytes());
        put(&mut out, AT_LEN, &(bytes.len() as u32).to_le_bytes());
        out[AT_COPY] = self.copy() as u8;
        put(&mut out, AT_VOLUME, volume);
        put(&mut out, HEADER_BYTES, bytes);
        let crc = checksum(&out[..used]);
        put(&mut out, AT_CRC, &crc.to_le_bytes());
        out
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    crc32c_append(crc32c(&bytes[..AT_CRC]), &bytes[AT_CRC + 4..])
}

/// Why bytes are not a copy of the unit state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnitCopyError {
    /// The device could not read it.
    Unreadable,
    /// Something else is there.
    NoMagic,
    /// Torn or gone bad.
    BadCrc,
    /// Written by another release.
    UnknownFormat(u32),
    /// Intact, but of another place or another volume.
    WrongPlace,
    /// Longer than a state can be.
    TooLong(u32),
    /// Beyond what any volume reaches.
    BadVersion(u64),
}

impl fmt::Display for UnitCopyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable => write!(f, "the device cannot read it"),
            Self::NoMagic => write!(f, "something else is there"),
            Self::BadCrc => write!(f, "its checksum is wrong"),
            Self::UnknownFormat(format) => {
                write!(f, "its format is {format}; this release knows format {FORMAT}")
            }
            Self::WrongPlace => write!(f, "it belongs to another place"),
            Self::TooLong(len) => write!(f, "its {len} bytes are too many"),
            Self::BadVersion(version) => write!(f, "its version {version} cannot be"),
        }
    }
}

impl core::error::Error for UnitCopyError {}

/// Neither copy can be used: persistent reservations, and whatever else the logical unit remembered, are lost on this
/// disk. The data is not concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnitStateLost {
    pub first: UnitCopyError,
    pub second: UnitCopyError,
}

impl fmt::Display for UnitStateLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the persistent reservations kept on this disk are lost, its data is not: copy 0: {}; copy 1: {}",
            self.first, self.second
        )
    }
}

impl core::error::Error for UnitStateLost {}

/// Both copies as read, each of [`UNIT_STATE_BYTES`]; `None` is one that the device could not read.
#[derive(Clone, Copy, Debug)]
pub struct UnitCopies<'a> {
    pub first: Option<&'a [u8]>,
    pub second: Option<&'a [u8]>,
}

impl UnitCopies<'_> {
    /// The newer valid copy of the unit state of `volume`. Before the first change has reached both copies, copy 0 is
    /// blank and copy 1 may be torn: that is the empty state.
    pub fn choose(self, volume: &[u8; 16]) -> Result<UnitCopy, UnitStateLost> {
        match (verify(self.first, 0, volume), verify(self.second, 1, volume)) {
            (Ok(first), Ok(second)) => Ok(if first.counter > second.counter { first } else { second }),
            (Ok(first), Err(_)) => Ok(first),
            // Copy 1 is written first: where it is blank, copy 0 never held anything that counts.
            (Err(first), Ok(second)) if second.counter == 0 => {
                Err(UnitStateLost { first, second: UnitCopyError::NoMagic })
            }
            (Err(_), Ok(second)) => Ok(second),
            (Err(first), Err(second)) => Err(UnitStateLost { first, second }),
        }
    }
}

fn verify(bytes: Option<&[u8]>, copy: u8, volume: &[u8; 16]) -> Result<UnitCopy, UnitCopyError> {
    let bytes = bytes.ok_or(UnitCopyError::Unreadable)?;
    assert_eq!(bytes.len(), UNIT_STATE_BYTES, "a copy is read whole");
    if bytes[..PAGE_BYTES].iter().all(|byte| *byte == 0) {
        return Ok(UnitCopy::blank());
    }
    if !bytes.starts_with(MAGIC) {
        return Err(UnitCopyError::NoMagic);
    }
    let len = u32_at(bytes, AT_LEN);
    if len as usize > UNIT_BYTES_MAX {
        return Err(UnitCopyError::TooLong(len));
    }
    let used = HEADER_BYTES + len as usize;
    if u32_at(bytes, AT_CRC) != checksum(&bytes[..used]) {
        return Err(UnitCopyError::BadCrc);
    }
    let format = u32_at(bytes, AT_FORMAT);
    if format != FORMAT {
        return Err(UnitCopyError::UnknownFormat(format));
    }
    let counter = u64_at(bytes, AT_COUNTER);
    let here = bytes[AT_COPY] == copy && counter % 2 == u64::from(copy);
    if !here || counter == 0 || get::<16>(bytes, AT_VOLUME) != *volume {
        return Err(UnitCopyError::WrongPlace);
    }
    let version = UnitVersion(u64_at(bytes, AT_VERSION));
    if version > UnitVersion::MAX {
        return Err(UnitCopyError::BadVersion(version.0));
    }
    Ok(UnitCopy { counter, state: UnitState { version, bytes: Arc::from(&bytes[HEADER_BYTES..used]) } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VOLUME: [u8; 16] = [7; 16];
    static BLANK: [u8; UNIT_STATE_BYTES] = [0; UNIT_STATE_BYTES];

    fn state(version: u64, len: usize) -> UnitState {
        let bytes = (0..len).map(|at| (at as u64 + version) as u8).collect();
        UnitState { version: UnitVersion(version), bytes }
    }

    /// The area of a copy after a write over what was there.
    fn written(copy: &UnitCopy, before: &[u8]) -> Vec<u8> {
        let mut area = before.to_vec();
        let bytes = copy.encode(&VOLUME);
        area[..bytes.len()].copy_from_slice(&bytes);
        area
    }

    fn choose(first: &[u8], second: &[u8]) -> Result<UnitCopy, UnitStateLost> {
        UnitCopies { first: Some(first), second: Some(second) }.choose(&VOLUME)
    }

    #[test]
    fn a_formatted_disk_remembers_nothing() {
        assert_eq!(choose(&BLANK, &BLANK), Ok(UnitCopy::blank()));
    }

    #[test]
    fn the_newer_copy_counts_whatever_its_version() {
        let first = UnitCopy { counter: 8, state: state(3, 100) };
        let second = UnitCopy { counter: 7, state: state(9, UNIT_BYTES_MAX) };
        let (a, b) = (written(&first, &BLANK), written(&second, &BLANK));
        assert_eq!(choose(&a, &b), Ok(first.clone()));
        let second = UnitCopy { counter: 9, ..second };
        assert_eq!(choose(&a, &written(&second, &BLANK)), Ok(second));
    }

    #[test]
    fn a_torn_write_leaves_the_state_before() {
        let old = UnitCopy { counter: 4, state: state(2, 6000) };
        let older = written(&UnitCopy { counter: 3, ..old.clone() }, &BLANK);
        let new = UnitCopy { counter: 5, state: state(3, 9000) };
        let whole = written(&new, &older);
        for torn in (512..9216).step_by(512) {
            let mut area = older.clone();
            area[..torn].copy_from_slice(&whole[..torn]);
            let expected = if area == whole { &new } else { &old };
            assert_eq!(choose(&written(&old, &BLANK), &area).as_ref(), Ok(expected), "torn at {torn}");
        }
    }

    #[test]
    fn the_first_write_torn_is_the_empty_state_and_no_other_damage_is() {
        let first = UnitCopy { counter: 1, state: state(1, 5000) };
        let mut torn = written(&first, &BLANK);
        torn[4096..].fill(0);
        assert_eq!(choose(&BLANK, &torn), Ok(UnitCopy::blank()));
        assert!(choose(&torn, &BLANK).is_err(), "copy 0 is never the first to be written");
    }

    #[test]
    fn two_bad_copies_are_said_to_be_lost() {
        let good = written(&UnitCopy { counter: 2, state: state(1, 10) }, &BLANK);
        let mut flipped = good.clone();
        flipped[70] ^= 1;
        let lost = UnitStateLost { first: UnitCopyError::BadCrc, second: UnitCopyError::Unreadable };
        assert_eq!(UnitCopies { first: Some(&flipped), second: None }.choose(&VOLUME), Err(lost));
        assert!(
            alloc::format!("{lost}").contains("reservations kept on this disk are lost, its data is not")
        );
        assert_eq!(
            UnitCopies { first: Some(&good), second: Some(&good) }.choose(&[8; 16]),
            Err(UnitStateLost { first: UnitCopyError::WrongPlace, second: UnitCopyError::WrongPlace })
        );
    }

    proptest! {
        #[test]
        fn noise_is_never_believed(noise in proptest::collection::vec(1u8.., 600), magic: bool) {
            let mut area = BLANK.to_vec();
            area[..noise.len()].copy_from_slice(&noise);
            if magic {
                area[..8].copy_from_slice(MAGIC);
            }
            prop_assert!(verify(Some(&area), 0, &VOLUME).is_err());
        }
    }
}
