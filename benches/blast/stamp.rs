//! The content of the blocks that `blast verify` writes: every byte tells who wrote it, where, and in which write.
//!
//! A 512-byte sector is 16 records of 32 bytes, all little endian: magic (4), record number (4), sector address (8),
//! writer (8), sequence (8). A sector that was torn, moved, or taken from another write does not read as whole.

pub const SECTOR: usize = 512;
const RECORD: usize = 32;
const MAGIC: u32 = 0x7477_6c6e;

/// Who wrote a sector, and in which write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    pub writer: u64,
    pub sequence: u64,
}

/// What a sector turned out to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// A whole stamp, of this address.
    Stamped(Stamp),
    /// No stamp at all: zeros, or somebody else's data.
    Foreign,
    /// Stamped, but torn within the sector or written for another address.
    Broken,
}

/// Fills `bytes` (whole sectors) with the stamp; the first sector has the address `sector`.
pub fn fill(bytes: &mut [u8], sector: u64, stamp: Stamp) {
    for (index, chunk) in bytes.chunks_exact_mut(SECTOR).enumerate() {
        for (number, record) in chunk.chunks_exact_mut(RECORD).enumerate() {
            record[0..4].copy_from_slice(&MAGIC.to_le_bytes());
            record[4..8].copy_from_slice(&(number as u32).to_le_bytes());
            record[8..16].copy_from_slice(&(sector + index as u64).to_le_bytes());
            record[16..24].copy_from_slice(&stamp.writer.to_le_bytes());
            record[24..32].copy_from_slice(&stamp.sequence.to_le_bytes());
        }
    }
}

/// Reads one sector, which has the address `sector`.
pub fn read(bytes: &[u8], sector: u64) -> Content {
    assert_eq!(bytes.len(), SECTOR, "one sector is read at a time");
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    if bytes[0..4] != MAGIC.to_le_bytes() {
        // A sector whose head was overwritten is still recognised by any other record.
        let stamped = bytes.chunks_exact(RECORD).any(|record| record[0..4] == MAGIC.to_le_bytes());
        return if stamped { Content::Broken } else { Content::Foreign };
    }
    let stamp = Stamp { writer: word(16), sequence: word(24) };
    let mut expected = [0u8; SECTOR];
    fill(&mut expected, sector, stamp);
    if bytes == expected { Content::Stamped(stamp) } else { Content::Broken }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { writer: 7, sequence: 99 };

    #[test]
    fn what_was_filled_reads_back() {
        let mut bytes = vec![0; 2 * SECTOR];
        fill(&mut bytes, 1000, STAMP);
        assert_eq!(read(&bytes[..SECTOR], 1000), Content::Stamped(STAMP));
        assert_eq!(read(&bytes[SECTOR..], 1001), Content::Stamped(STAMP));
        assert_eq!(read(&[0; SECTOR], 1000), Content::Foreign);
    }

    #[test]
    fn moved_torn_and_flipped_sectors_are_broken() {
        let (mut old, mut new) = (vec![0; SECTOR], vec![0; SECTOR]);
        fill(&mut old, 5, STAMP);
        fill(&mut new, 5, Stamp { sequence: 100, ..STAMP });
        assert_eq!(read(&old, 6), Content::Broken);
        for cut in (RECORD..SECTOR).step_by(RECORD) {
            let torn = [&new[..cut], &old[cut..]].concat();
            assert_eq!(read(&torn, 5), Content::Broken, "torn at {cut}");
        }
        for at in 0..SECTOR {
            let mut flipped = old.clone();
            flipped[at] ^= 1;
            assert_ne!(read(&flipped, 5), Content::Stamped(STAMP), "flipped at {at}");
        }
    }
}
