//! Signatures: the bytes by which file systems, partition tables and volume managers mark a device as theirs.
//!
//! A table, because the list only ever grows. Offsets are facts of the formats; what two formats share is reported
//! under the name that comes first. Detection is deliberately generous: a false alarm costs one `--force`, a miss
//! costs somebody's data.

use std::fmt;

/// What kind of owner a signature tells of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    FileSystem,
    PartitionTable,
    VolumeManager,
    Swap,
    Encryption,
    /// Another replication program.
    Replication,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FileSystem => "file system",
            Self::PartitionTable => "partition table",
            Self::VolumeManager => "volume manager",
            Self::Swap => "swap space",
            Self::Encryption => "encrypted volume",
            Self::Replication => "replicated volume",
        })
    }
}

/// Where on the device a signature stands, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    Start(u64),
    /// `count` places, `step` apart.
    Each {
        from: u64,
        step: u64,
        count: u64,
    },
    /// Before the end.
    End(u64),
    /// Before the end, the end rounded down to a multiple first.
    AlignedEnd {
        align: u64,
        before: u64,
    },
}

struct Signature {
    name: &'static str,
    owner: Owner,
    at: At,
    bytes: &'static [u8],
}

/// A signature that was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    pub name: &'static str,
    pub owner: Owner,
    /// Byte offset on the device.
    pub offset: u64,
}

/// How much of each end of the device is looked at.
pub const WINDOW: usize = 1 << 20;

const fn at(name: &'static str, owner: Owner, offset: u64, bytes: &'static [u8]) -> Signature {
    Signature { name, owner, at: At::Start(offset), bytes }
}

const fn place(name: &'static str, owner: Owner, at: At, bytes: &'static [u8]) -> Signature {
    Signature { name, owner, at, bytes }
}

const ZFS_LITTLE: &[u8] = &[0x0C, 0xB1, 0xBA, 0, 0, 0, 0, 0];
const ZFS_BIG: &[u8] = &[0, 0, 0, 0, 0, 0xBA, 0xB1, 0x0C];
const ZFS_FIRST: At = At::Each { from: 128 << 10, step: 1024, count: 128 };
const ZFS_SECOND: At = At::Each { from: 384 << 10, step: 1024, count: 128 };
const BCACHE: &[u8] =
    &[0xC6, 0x85, 0x73, 0xF6, 0x4E, 0x1A, 0x45, 0xCA, 0x82, 0x65, 0xF5, 0x7F, 0x48, 0xBA, 0x6D, 0x81];
const BCACHEFS: &[u8] =
    &[0xC6, 0x85, 0x73, 0xF6, 0x66, 0xCE, 0x90, 0xA9, 0xD9, 0x6A, 0x60, 0xCF, 0x80, 0x3D, 0xF7, 0xEF];
const MD: &[u8] = &[0xFC, 0x4E, 0x2B, 0xA9];
const MD_BIG: &[u8] = &[0xA9, 0x2B, 0x4E, 0xFC];
/// DRBD's block of metadata is the last whole 4 KiB; its magic number is 60 bytes in, big-endian.
const DRBD: At = At::AlignedEnd { align: 4096, before: 4096 - 60 };
const MD_09: At = At::AlignedEnd { align: 64 << 10, before: 64 << 10 };
const MD_10: At = At::AlignedEnd { align: 4096, before: 8192 };

#[rustfmt::skip]
const SIGNATURES: &[Signature] = &[
    at("ext2/ext3/ext4", Owner::FileSystem, 1080, &[0x53, 0xEF]),
    at("XFS", Owner::FileSystem, 0, b"XFSB"),
    at("Btrfs", Owner::FileSystem, 65_600, b"_BHRfS_M"),
    at("NTFS", Owner::FileSystem, 3, b"NTFS    "),
    at("exFAT", Owner::FileSystem, 3, b"EXFAT   "),
    at("ReFS", Owner::FileSystem, 3, b"ReFS\0\0\0\0"),
    at("BitLocker", Owner::Encryption, 3, b"-FVE-FS-"),
    at("FAT", Owner::FileSystem, 54, b"FAT12   "),
    at("FAT", Owner::FileSystem, 54, b"FAT16   "),
    at("FAT", Owner::FileSystem, 54, b"FAT     "),
    at("FAT", Owner::FileSystem, 82, b"FAT32   "),
    at("ISO 9660", Owner::FileSystem, 32_769, b"CD001"),
    at("UDF", Owner::FileSystem, 32_769, b"BEA01"),
    at("F2FS", Owner::FileSystem, 1024, &[0x10, 0x20, 0xF5, 0xF2]),
    at("bcache", Owner::VolumeManager, 4120, BCACHE),
    at("bcachefs", Owner::FileSystem, 4120, BCACHEFS),
    place("ZFS", Owner::FileSystem, ZFS_FIRST, ZFS_LITTLE),
    place("ZFS", Owner::FileSystem, ZFS_FIRST, ZFS_BIG),
    place("ZFS", Owner::FileSystem, ZFS_SECOND, ZFS_LITTLE),
    place("ZFS", Owner::FileSystem, ZFS_SECOND, ZFS_BIG),
    at("ReiserFS", Owner::FileSystem, 65_588, b"ReIsEr"),
    at("JFS", Owner::FileSystem, 32_768, b"JFS1"),
    at("GFS2", Owner::FileSystem, 65_536, &[0x01, 0x16, 0x19, 0x70, 0, 0, 0, 1]),
    place("OCFS2", Owner::FileSystem, At::Each { from: 1024, step: 1024, count: 8 }, b"OCFSV2"),
    at("EROFS", Owner::FileSystem, 1024, &[0xE2, 0xE1, 0xF5, 0xE0]),
    at("SquashFS", Owner::FileSystem, 0, b"hsqs"),
    at("APFS", Owner::FileSystem, 32, b"NXSB"),
    at("HFS+", Owner::FileSystem, 1024, &[b'H', b'+', 0, 4]),
    at("Ceph BlueStore", Owner::VolumeManager, 0, b"bluestore block device"),
    at("swap", Owner::Swap, 4086, b"SWAPSPACE2"),
    at("swap", Owner::Swap, 4086, b"SWAP-SPACE"),
    at("swap", Owner::Swap, 65_526, b"SWAPSPACE2"),
    place("LVM physical volume", Owner::VolumeManager, At::Each { from: 0, step: 512, count: 4 }, b"LABELONE"),
    at("Linux MD RAID 1.1", Owner::VolumeManager, 0, MD),
    at("Linux MD RAID 1.2", Owner::VolumeManager, 4096, MD),
    place("Linux MD RAID 1.0", Owner::VolumeManager, MD_10, MD),
    place("Linux MD RAID 0.9", Owner::VolumeManager, MD_09, MD),
    place("Linux MD RAID 0.9", Owner::VolumeManager, MD_09, MD_BIG),
    place("Intel RAID", Owner::VolumeManager, At::End(1024), b"Intel Raid ISM Cfg Sig. "),
    place("DDF RAID", Owner::VolumeManager, At::End(512), &[0xDE, 0x11, 0xDE, 0x11]),
    at("VDO", Owner::VolumeManager, 0, b"dmvdo001"),
    at("LUKS", Owner::Encryption, 0, &[b'L', b'U', b'K', b'S', 0xBA, 0xBE]),
    at("LUKS", Owner::Encryption, 16_384, &[b'S', b'K', b'U', b'L', 0xBA, 0xBE]),
    place("DRBD 8", Owner::Replication, DRBD, &[0x83, 0x74, 0x02, 0x6B]),
    place("DRBD 8.4", Owner::Replication, DRBD, &[0x83, 0x74, 0x02, 0x6C]),
    place("DRBD 9", Owner::Replication, DRBD, &[0x83, 0x74, 0x02, 0x6D]),
    at("GPT", Owner::PartitionTable, 512, b"EFI PART"),
    at("GPT", Owner::PartitionTable, 4096, b"EFI PART"),
    place("GPT (backup)", Owner::PartitionTable, At::End(512), b"EFI PART"),
    place("GPT (backup)", Owner::PartitionTable, At::End(4096), b"EFI PART"),
    at("MBR", Owner::PartitionTable, 510, &[0x55, 0xAA]),
];

/// The two ends of a device, as far as signatures reach. For a small device they overlap.
pub struct Ends<'a> {
    pub size: u64,
    /// From offset 0.
    pub head: &'a [u8],
    /// Up to the end.
    pub tail: &'a [u8],
}

impl Ends<'_> {
    /// The bytes at an offset, if they are in one of the windows.
    pub fn get(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let end = offset.checked_add(len as u64)?;
        if end <= self.head.len() as u64 {
            return Some(&self.head[offset as usize..end as usize]);
        }
        let tail_start = self.size - self.tail.len() as u64;
        if offset < tail_start || end > self.size {
            return None;
        }
        let from = (offset - tail_start) as usize;
        Some(&self.tail[from..from + len])
    }

    /// The first signature of the table that the device carries.
    pub fn find(&self) -> Option<Found> {
        SIGNATURES.iter().find_map(|signature| {
            let matches = |offset: &u64| self.get(*offset, signature.bytes.len()) == Some(signature.bytes);
            let offset = places(signature.at, self.size).find(matches)?;
            Some(Found { name: signature.name, owner: signature.owner, offset })
        })
    }
}

fn places(at: At, size: u64) -> impl Iterator<Item = u64> {
    let (from, step, count) = match at {
        At::Start(offset) => (Some(offset), 0, 1),
        At::Each { from, step, count } => (Some(from), step, count),
        At::End(before) => (size.checked_sub(before), 0, 1),
        At::AlignedEnd { align, before } => ((size - size % align).checked_sub(before), 0, 1),
    };
    from.into_iter().flat_map(move |from| (0..count).map(move |number| from + number * step))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(size: usize, offset: usize, bytes: &[u8]) -> Option<Found> {
        let mut device = vec![0; size];
        device[offset..offset + bytes.len()].copy_from_slice(bytes);
        let window = WINDOW.min(size);
        let ends = Ends { size: size as u64, head: &device[..window], tail: &device[size - window..] };
        ends.find()
    }

    #[test]
    fn every_signature_of_the_table_is_found_where_it_stands() {
        for size in [4 << 20, (4 << 20) + 3 * 512, 600 << 10] {
            for signature in SIGNATURES {
                for offset in places(signature.at, size as u64) {
                    if offset as usize + signature.bytes.len() > size {
                        continue;
                    }
                    let found = found(size, offset as usize, signature.bytes)
                        .unwrap_or_else(|| panic!("{} at {offset} of {size}", signature.name));
                    // Two formats may share a place and its bytes; the kind of owner is what the refusal rests on.
                    assert_eq!(found.owner, signature.owner, "{} at {offset} of {size}", signature.name);
                }
            }
        }
    }

    #[test]
    fn an_empty_device_has_none() {
        assert_eq!(found(4 << 20, 0, &[]), None);
        assert_eq!(found(512, 0, &[]), None);
        assert_eq!(found(4 << 20, 2 << 20, b"XFSB"), None);
    }
}
