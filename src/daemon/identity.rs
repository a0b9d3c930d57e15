//! What both nodes derive alike from the configuration: who the volume is, and who the disk says it is (S4).
//!
//! The two nodes are formatted without hearing of each other, so what must be the same on both follows from what is
//! the same on both: the volume's name and the target's name.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::config::{Config, Secret};
use crate::arbiter::value::PairId;
use crate::storage::ScsiIdentity;

/// The company identifier in the NAA designator. The project has none of its own, so it is one from the locally
/// administered range (the second-lowest bit of the first byte is set), which is never assigned to anybody.
const LOCAL_COMPANY: u32 = 0x02_54_4C;

/// The volume's identifier: the first 16 bytes of a SHA-256.
pub fn volume_identifier(config: &Config) -> [u8; 16] {
    let digest = digest(config, "twinlun volume");
    digest[..16].try_into().expect("a SHA-256 has 32 bytes")
}

/// Whose record the arbiter keeps. The secret is in it, because names are copied from one pair's configuration to the
/// next more easily than secrets are.
pub fn pair_identifier(config: &Config, secret: &Secret) -> PairId {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.bytes()).expect("HMAC takes keys of any length");
    mac.update(b"twinlun arbiter");
    mac.update(&volume_identifier(config));
    let digest = mac.finalize().into_bytes();
    PairId(digest[..16].try_into().expect("a SHA-256 has 32 bytes"))
}

/// The identity that initiators see.
pub fn scsi_identity(config: &Config) -> ScsiIdentity {
    ScsiIdentity {
        naa: config.target.naa.unwrap_or_else(|| naa(&digest(config, "twinlun naa"))),
        serial: config.target.serial.clone(),
        iqn: config.target.iqn.clone(),
    }
}

/// NAA IEEE Registered Extended (SPC-4 §7.8.6.6.5): 6h, 24 bits of company, 100 bits of our own.
fn naa(digest: &[u8]) -> [u8; 16] {
    let mut naa: [u8; 16] = digest[..16].try_into().expect("a SHA-256 has 32 bytes");
    let [_, first, second, third] = LOCAL_COMPANY.to_be_bytes();
    naa[0] = 0x60 | first >> 4;
    naa[1] = first << 4 | second >> 4;
    naa[2] = second << 4 | third >> 4;
    naa[3] = third << 4 | naa[3] & 0x0F;
    naa
}

fn digest(config: &Config, what: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in [what, &config.volume.name, &config.target.iqn] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(name: &str, iqn: &str) -> Config {
        let text = format!(
            "[volume]\nname = {name:?}\n[target]\niqn = {iqn:?}\nportals = [\"127.0.0.1\"]\n[node.a]\nid = 0\ndisk = \"/d\"\n"
        );
        Config::parse(Path::new("t.toml"), &text).expect("a valid file")
    }

    #[test]
    fn the_identity_follows_the_names_and_never_changes() {
        let one = config("vol1", "iqn.2026-11.example:vol1");
        assert_eq!(volume_identifier(&one), volume_identifier(&one.clone()));
        assert_ne!(volume_identifier(&one), volume_identifier(&config("vol2", "iqn.2026-11.example:vol1")));
        assert_ne!(scsi_identity(&one).naa, scsi_identity(&config("vol1", "iqn.2026-11.example:vol2")).naa);
        // Initiators remember these; a release that derives others would show them another disk.
        let identity = scsi_identity(&one);
        let hexadecimal = data_encoding::HEXLOWER.encode(&identity.naa);
        assert_eq!(hexadecimal, "602544c31e0ee3f5b8eb35255996bdb7");
        assert_eq!(identity.serial, "7827ee9f52d0c7a5");
        assert_eq!(identity.naa[0] >> 4, 6);
    }

    #[test]
    fn an_identity_can_be_taken_over_from_another_target() {
        let mut config = config("vol1", "iqn.2003-01.org.linux-iscsi.old:disk");
        config.target.naa = Some([0x60, 1, 0x40, 0x5C, 0x2A, 0x8E, 0x3B, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        config.target.serial = "c2a8e3b4-0506-0708-090a-0b0c0d0e0f10".into();
        let identity = scsi_identity(&config);
        assert_eq!(Some(identity.naa), config.target.naa);
        assert_eq!(identity.serial, config.target.serial);
    }
}
