//! How far the data on a device reaches, as far as its own marks tell: what `init --keep-data` must not cut off.
//!
//! Absent on purpose: formats that do not say their size within the first and the last bytes of the device. For those
//! nothing is claimed, and the person who sets `volume.size` decides.

use super::signature::Ends;

/// Data that says where it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claimed {
    pub name: &'static str,
    /// From the start of the device.
    pub bytes: u64,
}

impl Ends<'_> {
    /// The outermost format that says its size.
    pub fn claimed(&self) -> Option<Claimed> {
        let formats = [
            ("DRBD", self.drbd()),
            ("GPT", self.gpt(512).or_else(|| self.gpt(4096))),
            ("NTFS", self.ntfs()),
            ("ext2/ext3/ext4", self.ext()),
            ("XFS", self.xfs()),
            ("MBR", self.mbr()),
        ];
        formats.into_iter().find_map(|(name, bytes)| Some(Claimed { name, bytes: bytes? }))
    }

    fn has(&self, offset: u64, bytes: &[u8]) -> bool {
        self.get(offset, bytes.len()) == Some(bytes)
    }

    fn bytes<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        self.get(offset, N).and_then(|bytes| bytes.try_into().ok())
    }

    fn u16_le(&self, offset: u64) -> Option<u64> {
        self.bytes(offset).map(|bytes| u64::from(u16::from_le_bytes(bytes)))
    }

    fn u32_le(&self, offset: u64) -> Option<u64> {
        self.bytes(offset).map(|bytes| u64::from(u32::from_le_bytes(bytes)))
    }

    fn u64_le(&self, offset: u64) -> Option<u64> {
        self.bytes(offset).map(u64::from_le_bytes)
    }

    /// Internal metadata, in the last whole 4 KiB: sectors of the volume, big-endian; 83 74 02 6x 60 bytes in.
    fn drbd(&self) -> Option<u64> {
        let at = (self.size - self.size % 4096).checked_sub(4096)?;
        self.has(at + 60, &[0x83, 0x74, 0x02]).then_some(())?;
        u64::from_be_bytes(self.bytes(at)?).checked_mul(512)
    }

    /// The header's AlternateLBA is the disk's last sector.
    fn gpt(&self, sector: u64) -> Option<u64> {
        self.has(sector, b"EFI PART").then_some(())?;
        self.u64_le(sector + 32)?.checked_add(1)?.checked_mul(sector)
    }

    /// Sectors of the file system, and the copy of the boot sector behind them.
    fn ntfs(&self) -> Option<u64> {
        self.has(3, b"NTFS    ").then_some(())?;
        self.u64_le(40)?.checked_add(1)?.checked_mul(self.u16_le(11)?)
    }

    fn ext(&self) -> Option<u64> {
        const SIXTY_FOUR_BIT: u64 = 0x80;
        self.has(1080, &[0x53, 0xEF]).then_some(())?;
        let high =
            if self.u32_le(1024 + 0x60)? & SIXTY_FOUR_BIT != 0 { self.u32_le(1024 + 0x150)? } else { 0 };
        let shift = self.u32_le(1024 + 0x18).filter(|shift| *shift <= 6)?;
        (high << 32 | self.u32_le(1024 + 4)?).checked_mul(1024 << shift)
    }

    fn xfs(&self) -> Option<u64> {
        self.has(0, b"XFSB").then_some(())?;
        u64::from_be_bytes(self.bytes(8)?).checked_mul(u64::from(u32::from_be_bytes(self.bytes(4)?)))
    }

    /// The end of the last partition.
    fn mbr(&self) -> Option<u64> {
        const PROTECTIVE: u8 = 0xEE;
        self.has(510, &[0x55, 0xAA]).then_some(())?;
        let end = |entry: u64| {
            let [kind] = self.bytes(entry + 4)?;
            let sectors = self.u32_le(entry + 8)? + self.u32_le(entry + 12)?;
            (kind != 0 && kind != PROTECTIVE).then_some(sectors * 512)
        };
        (0..4).filter_map(|number| end(446 + 16 * number)).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 4 << 20;

    fn claimed(pieces: &[(usize, &[u8])]) -> Option<Claimed> {
        let mut device = vec![0; SIZE];
        for (at, bytes) in pieces {
            device[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
        let (head, tail) = (&device[..1 << 20], &device[SIZE - (1 << 20)..]);
        Ends { size: SIZE as u64, head, tail }.claimed()
    }

    #[test]
    fn every_format_says_how_far_it_reaches() {
        let is = |pieces: &[(usize, &[u8])], name, bytes| {
            assert_eq!(claimed(pieces), Some(Claimed { name, bytes }), "{name}");
        };
        let drbd: [(usize, &[u8]); 2] =
            [(SIZE - 4096, &[0, 0, 0, 0, 0, 0, 0x1F, 0x80]), (SIZE - 4036, &[0x83, 0x74, 0x02, 0x6D])];
        is(&drbd, "DRBD", 0x1F80 * 512);
        let gpt: [(usize, &[u8]); 2] = [(512, b"EFI PART"), (544, &[0xFF, 0x1F])];
        is(&gpt, "GPT", 0x2000 * 512);
        is(&[drbd[0], drbd[1], gpt[0], gpt[1]], "DRBD", 0x1F80 * 512);
        is(&[(4096, b"EFI PART"), (4128, &[0xFF, 3])], "GPT", 0x400 * 4096);
        let boot: [(usize, &[u8]); 2] = [(0, b"\xEB\x52\x90NTFS    \x00\x02"), (40, &[0xFF, 0x07])];
        is(&[boot[0], boot[1], (510, &[0x55, 0xAA])], "NTFS", 0x800 * 512);
        let ext: [(usize, &[u8]); 3] = [(1080, &[0x53, 0xEF]), (1028, &[0, 4]), (1048, &[2])];
        is(&ext, "ext2/ext3/ext4", 1024 * 4096);
        is(
            &[ext[0], ext[1], ext[2], (1120, &[0x80]), (1360, &[1])],
            "ext2/ext3/ext4",
            ((1 << 32) + 1024) * 4096,
        );
        is(&[(0, b"XFSB\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\x03\x00")], "XFS", 0x300 * 4096);
        let partition = [0, 0, 0, 0, 7, 0, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0];
        is(&[(446, &partition), (510, &[0x55, 0xAA])], "MBR", 0x1800 * 512);
    }

    #[test]
    fn nonsense_claims_nothing() {
        assert_eq!(claimed(&[]), None);
        assert_eq!(claimed(&[(512, b"EFI PART"), (544, &[0xFF; 8])]), None);
        assert_eq!(claimed(&[(0, b"XFSB\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF")]), None);
        assert_eq!(claimed(&[(1080, &[0x53, 0xEF]), (1048, &[0xFF; 4])]), None);
        assert_eq!(claimed(&[(446, &[0, 0, 0, 0, 0xEE]), (510, &[0x55, 0xAA])]), None);
        assert_eq!(Ends { size: 100, head: &[0; 100], tail: &[0; 100] }.claimed(), None);
    }
}
