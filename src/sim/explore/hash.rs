//! Fingerprints of 128 bits. A collision would hide a state; with 2^27 states its odds are one in 2^75.

use std::hash::{Hash, Hasher};

/// Two multiply-and-fold lanes with odd constants of their own.
#[derive(Clone, Copy)]
struct Twin {
    first: u64,
    second: u64,
}

fn fold(word: u64, by: u64) -> u64 {
    let wide = u128::from(word) * u128::from(by);
    (wide as u64) ^ (wide >> 64) as u64
}

impl Hasher for Twin {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.first =
            fold(self.first ^ word ^ 0xA076_1D64_78BD_642F, 0xE703_7ED1_A0B4_28DB).wrapping_add(word);
        self.second =
            fold(self.second ^ word ^ 0x8EBC_6AF0_9C88_C6E3, 0x5899_65CC_7537_4CC3).wrapping_add(word);
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(u64::from(word));
    }

    fn write_u16(&mut self, word: u16) {
        self.write_u64(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        self.first
    }
}

/// The fingerprint of a value.
pub fn fingerprint(value: &impl Hash) -> u128 {
    let mut twin = Twin { first: 0x243F_6A88_85A3_08D3, second: 0x1319_8A2E_0370_7344 };
    value.hash(&mut twin);
    // Words of a last round, so that the last one written is mixed like the others.
    twin.write_u64(0x9E37_79B9_7F4A_7C15);
    u128::from(twin.first) << 64 | u128::from(twin.second)
}
