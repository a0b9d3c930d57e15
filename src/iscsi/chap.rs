//! CHAP (RFC 7143 §12.1.3, RFC 1994): the initiator shows that it knows a secret, and the target does if it is asked.
//!
//! The challenge comes in as entropy, serves one login and is never repeated. An unknown name is treated like a wrong
//! secret: the same work, the same answer. Comparisons take the same time whatever they find.
//!
//! Windows takes secrets of 12 to 16 bytes and nothing else, so [`Chap::new`] refuses what it would refuse.
//!
//! Absent on purpose: SRP and Kerberos, which no initiator of today speaks.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use data_encoding::{BASE64, BASE64_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};
use sha2::Digest;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Shortest and longest secret, bytes.
pub const SECRET_BYTES: core::ops::RangeInclusive<usize> = 12..=16;
/// Longest CHAP_N, bytes.
pub const USER_BYTES_MAX: usize = 255;
/// Longest challenge or response that is decoded, bytes (§12.1.3).
const BINARY_BYTES_MAX: usize = 1024;
/// Bytes of the target's own challenge.
const CHALLENGE_BYTES: usize = 32;

/// Random bytes for one login: CHAP_I and CHAP_C. Never used twice.
#[derive(Clone)]
pub struct Entropy(pub [u8; 1 + CHALLENGE_BYTES]);

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy")
    }
}

/// Digest of a CHAP response, by its number in IANA's registry "PPP Authentication Algorithms".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Algorithm {
    Md5 = 5,
    Sha1 = 6,
    Sha256 = 7,
    Sha3 = 8,
}

impl Algorithm {
    pub const ALL: [Self; 4] = [Self::Sha3, Self::Sha256, Self::Sha1, Self::Md5];

    fn numbered(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| *algorithm as u64 == number)
    }

    /// The response to a challenge: the digest of identifier, secret and challenge (RFC 1994 §4.1).
    pub fn response(self, id: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        fn of<D: Digest>(parts: [&[u8]; 3]) -> Vec<u8> {
            let mut digest = D::new();
            for part in parts {
                digest.update(part);
            }
            digest.finalize().to_vec()
        }
        let parts = [&[id][..], secret, challenge];
        match self {
            Self::Md5 => of::<md5::Md5>(parts),
            Self::Sha1 => of::<sha1::Sha1>(parts),
            Self::Sha256 => of::<sha2::Sha256>(parts),
            Self::Sha3 => of::<sha3::Sha3_256>(parts),
        }
    }
}

/// A name with its secret.
#[derive(Clone)]
pub struct Credential {
    pub user: String,
    pub secret: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({:?})", self.user)
    }
}

/// What an initiator must show before it is let in. Checked by [`new`](Self::new).
#[derive(Clone, Debug)]
pub struct Chap {
    initiator: Credential,
    target: Option<Credential>,
    algorithms: Vec<Algorithm>,
}

/// Why credentials cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadChap {
    /// The secret has this many bytes, not 12 to 16.
    SecretLength(usize),
    /// The name is empty, longer than 255 bytes or holds a NUL.
    User,
    /// One secret for both directions: whoever hears a response could use it as its own (§9.2.1).
    SameSecret,
    NoAlgorithm,
}

impl Chap {
    /// `target` is what the target shows to an initiator that asks (mutual CHAP).
    pub fn new(
        initiator: Credential,
        target: Option<Credential>,
        algorithms: Vec<Algorithm>,
    ) -> Result<Self, BadChap> {
        for credential in [Some(&initiator), target.as_ref()].into_iter().flatten() {
            if !SECRET_BYTES.contains(&credential.secret.len()) {
                return Err(BadChap::SecretLength(credential.secret.len()));
            }
            let user = &credential.user;
            if user.is_empty() || user.len() > USER_BYTES_MAX || user.contains('\0') {
                return Err(BadChap::User);
            }
        }
        if target.as_ref().is_some_and(|target| *target.secret == *initiator.secret) {
            return Err(BadChap::SameSecret);
        }
        if algorithms.is_empty() {
            return Err(BadChap::NoAlgorithm);
        }
        Ok(Self { initiator, target, algorithms })
    }

    /// The first algorithm of CHAP_A that is allowed.
    pub(super) fn choose(&self, offered: &str) -> Option<Algorithm> {
        offered
            .split(',')
            .filter_map(|number| Algorithm::numbered(super::keys::number(number)?))
            .find(|algorithm| self.algorithms.contains(algorithm))
    }
}

/// The CHAP keys of one request.
#[derive(Clone, Default, Debug)]
pub(super) struct ChapKeys {
    pub(super) algorithms: Option<String>,
    pub(super) name: Option<String>,
    pub(super) response: Option<String>,
    pub(super) id: Option<String>,
    pub(super) challenge: Option<String>,
}

impl ChapKeys {
    /// Is this one of the keys? Then it is taken; `Some(false)` if it came twice.
    pub(super) fn take(&mut self, key: &str, value: &str) -> Option<bool> {
        let slot = match key {
            "CHAP_A" => &mut self.algorithms,
            "CHAP_N" => &mut self.name,
            "CHAP_R" => &mut self.response,
            "CHAP_I" => &mut self.id,
            "CHAP_C" => &mut self.challenge,
            _ => return None,
        };
        Some(slot.replace(value.into()).is_none())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.algorithms.is_none() && !self.has_response()
    }

    /// Is there anything of the answer to a challenge?
    pub(super) fn has_response(&self) -> bool {
        [&self.name, &self.response, &self.id, &self.challenge].into_iter().any(Option::is_some)
    }
}

/// The challenge of one login.
#[derive(Debug)]
pub(super) struct Challenge {
    pub(super) algorithm: Algorithm,
    entropy: Entropy,
}

/// The initiator did not show that it knows the secret, or tried a trick.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Failed;

impl Challenge {
    pub(super) fn new(algorithm: Algorithm, entropy: Entropy) -> Self {
        Self { algorithm, entropy }
    }

    /// CHAP_I.
    pub(super) fn id(&self) -> u8 {
        self.entropy.0[0]
    }

    /// CHAP_C.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.entropy.0[1..]
    }

    /// Checks the initiator's answer. `Ok(Some(_))`: it has asked for the target's own name and response.
    pub(super) fn verify(&self, chap: &Chap, keys: &ChapKeys) -> Result<Option<(String, Vec<u8>)>, Failed> {
        let shown = keys.response.as_deref().and_then(decode).unwrap_or_default();
        let due = self.algorithm.response(self.id(), &chap.initiator.secret, self.bytes());
        let name = keys.name.as_deref().unwrap_or_default();
        let good = name.as_bytes().ct_eq(chap.initiator.user.as_bytes()) & shown.ct_eq(&due);
        if !bool::from(good) {
            return Err(Failed);
        }
        if keys.id.is_none() && keys.challenge.is_none() {
            return Ok(None);
        }
        let own = chap.target.as_ref().ok_or(Failed)?;
        let id = keys.id.as_deref().and_then(super::keys::number).filter(|id| *id <= 255).ok_or(Failed)?;
        let challenge = keys.challenge.as_deref().and_then(decode).ok_or(Failed)?;
        // Our own challenge sent back would make us answer for the initiator (§9.2.1).
        if challenge.is_empty() || challenge == self.bytes() {
            return Err(Failed);
        }
        let response = self.algorithm.response(id as u8, &own.secret, &challenge);
        Ok(Some((own.user.clone(), response)))
    }
}

/// A binary value (§6.1): `0x` and hexadecimal or `0b` and base64, at most [`BINARY_BYTES_MAX`] bytes.
fn decode(text: &str) -> Option<Vec<u8>> {
    let (prefix, digits) = text.split_at_checked(2)?;
    // The length is bounded before a byte is decoded.
    if digits.len() > BINARY_BYTES_MAX * 2 {
        return None;
    }
    let digits = digits.as_bytes();
    let bytes = match prefix {
        "0x" | "0X" => HEXLOWER_PERMISSIVE.decode(digits).ok()?,
        "0b" | "0B" => BASE64.decode(digits).or_else(|_| BASE64_NOPAD.decode(digits)).ok()?,
        _ => return None,
    };
    (bytes.len() <= BINARY_BYTES_MAX).then_some(bytes)
}

/// A binary value as the target writes it.
pub(super) fn encode(bytes: &[u8]) -> String {
    alloc::format!("0x{}", HEXLOWER.encode(bytes))
}

impl fmt::Display for BadChap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SecretLength(length) => {
                write!(f, "the secret has {length} bytes; Windows takes 12 to 16 and no other")
            }
            Self::User => write!(f, "a CHAP user name has 1 to {USER_BYTES_MAX} bytes"),
            Self::SameSecret => f.write_str(
                "the secrets of the two directions are the same; an eavesdropper could use one for the other",
            ),
            Self::NoAlgorithm => f.write_str("no CHAP algorithm is allowed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(user: &str, secret: &str) -> Credential {
        Credential { user: user.into(), secret: Zeroizing::new(secret.as_bytes().to_vec()) }
    }

    fn chap() -> Chap {
        let own = credential("target", "target-secret-1");
        let algorithms = Algorithm::ALL.to_vec();
        Chap::new(credential("host", "0123456789ab"), Some(own), algorithms).expect("good credentials")
    }

    #[test]
    fn digests_are_the_known_ones() {
        // id 01h, secret "0123456789ab", challenge 00h 01h .. 0Fh; checked with other implementations.
        let challenge: Vec<u8> = (0..16).collect();
        let hex = |algorithm: Algorithm| HEXLOWER.encode(&algorithm.response(1, b"0123456789ab", &challenge));
        assert_eq!(hex(Algorithm::Md5), MD5);
        assert_eq!(hex(Algorithm::Sha1), SHA1);
        assert_eq!(hex(Algorithm::Sha256), SHA256);
        assert_eq!(hex(Algorithm::Sha3), SHA3);
    }

    #[test]
    fn secrets_that_windows_would_refuse_are_refused() {
        let make = |initiator: &str, target: Option<&str>| {
            let target = target.map(|secret| credential("t", secret));
            Chap::new(credential("i", initiator), target, vec![Algorithm::Md5]).err()
        };
        assert_eq!(make("123456789012", None), None);
        assert_eq!(make("1234567890123456", Some("abcdefghijkl")), None);
        assert_eq!(make("12345678901", None), Some(BadChap::SecretLength(11)));
        assert_eq!(make("12345678901234567", None), Some(BadChap::SecretLength(17)));
        assert_eq!(make("123456789012", Some("short")), Some(BadChap::SecretLength(5)));
        assert_eq!(make("123456789012", Some("123456789012")), Some(BadChap::SameSecret));
        let nameless = Chap::new(credential("", "123456789012"), None, vec![Algorithm::Md5]);
        assert_eq!(nameless.err(), Some(BadChap::User));
        assert_eq!(
            Chap::new(credential("i", "123456789012"), None, vec![]).err(),
            Some(BadChap::NoAlgorithm)
        );
    }

    #[test]
    fn both_encodings_and_their_bounds() {
        assert_eq!(decode("0x0aFf"), Some(vec![0x0A, 0xFF]));
        assert_eq!(decode("0bCv8="), Some(vec![0x0A, 0xFF]));
        assert_eq!(decode("0BCv8"), Some(vec![0x0A, 0xFF]));
        for bad in ["", "0", "0x0", "0xgg", "0b*", "0b=", "12", "é", "0xé", "x0"] {
            assert_eq!(decode(bad), None, "{bad:?}");
        }
        assert_eq!(decode(&encode(&[7; 1024])).map(|bytes| bytes.len()), Some(1024));
        assert_eq!(decode(&encode(&[7; 1025])), None);
        let long = alloc::format!("0b{}", BASE64.encode(&[7; 1025]));
        assert_eq!(decode(&long), None);
    }

    #[test]
    fn answers_are_judged() {
        let chap = chap();
        for algorithm in Algorithm::ALL {
            let challenge = Challenge::new(algorithm, Entropy([0x5A; 33]));
            let right = algorithm.response(0x5A, b"0123456789ab", &[0x5A; 32]);
            let keys = |name: &str, response: &[u8]| ChapKeys {
                name: Some(name.into()),
                response: Some(encode(response)),
                ..ChapKeys::default()
            };
            let mut good = keys("host", &right);
            assert_eq!(challenge.verify(&chap, &good), Ok(None));
            let mut wrong = right.clone();
            wrong[0] ^= 1;
            for (name, response) in
                [("hosT", &right[..]), ("", &right), ("host", &wrong), ("host", &right[1..]), ("host", &[])]
            {
                assert_eq!(challenge.verify(&chap, &keys(name, response)), Err(Failed));
            }
            // The target shows that it knows its own secret.
            good.id = Some("9".into());
            good.challenge = Some("0x0102".into());
            let answer = algorithm.response(9, b"target-secret-1", &[1, 2]);
            assert_eq!(challenge.verify(&chap, &good), Ok(Some(("target".into(), answer))));
            for (id, text) in [
                ("9", encode(&[0x5A; 32])),
                ("256", "0x01".into()),
                ("9", "0x".into()),
                ("x", "0x01".into()),
                ("9", "junk".into()),
            ] {
                (good.id, good.challenge) = (Some(id.into()), Some(text));
                assert_eq!(challenge.verify(&chap, &good), Err(Failed));
            }
            good.id = None;
            assert_eq!(challenge.verify(&chap, &good), Err(Failed));
        }
    }

    #[test]
    fn the_first_algorithm_that_both_know() {
        let mut chap = chap();
        assert_eq!(chap.choose("5"), Some(Algorithm::Md5));
        assert_eq!(chap.choose("99,0x7,5"), Some(Algorithm::Sha256));
        assert_eq!(chap.choose(""), None);
        chap.algorithms = vec![Algorithm::Sha256];
        assert_eq!(chap.choose("5,6"), None);
        assert_eq!(chap.choose("5,6,7"), Some(Algorithm::Sha256));
    }

    #[test]
    fn secrets_are_not_shown() {
        assert!(!alloc::format!("{:?}", chap()).contains("0123456789ab"));
    }

    const MD5: &str = "b99cbedde163eebaf7454f1f2755446d";
    const SHA1: &str = "267bfa6ff23cf30fb2ef41b0c2ba1bdec517399d";
    const SHA256: &str = "96bbaf95fb65c257fa29dad8e1020fc4aa9080a8b9c9ca29d84827720e579670";
    const SHA3: &str = "5acef7e0e26a14d052afb672d6cf49ee6a748d1940780e51e5c292d52093dbaa";
}
