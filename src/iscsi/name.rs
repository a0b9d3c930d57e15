//! iSCSI names (RFC 7143 §4.2.7): `iqn.`, `eui.` and `naa.`, at most 223 bytes, compared without regard to ASCII case.

use alloc::string::String;
use core::fmt;

/// Longest name in bytes.
pub const NAME_BYTES_MAX: usize = 223;

/// An initiator's name, in lower case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InitiatorName(String);

/// The text is not an iSCSI name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadName;

impl InitiatorName {
    pub fn new(text: &str) -> Result<Self, BadName> {
        if is_iscsi_name(text) { Ok(Self(text.to_ascii_lowercase())) } else { Err(BadName) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Is this the form of an iSCSI name? Control characters and blanks are refused, other UTF-8 passes.
pub fn is_iscsi_name(text: &str) -> bool {
    let known = ["iqn.", "eui.", "naa."]
        .iter()
        .any(|prefix| text.get(..4).is_some_and(|head| head.eq_ignore_ascii_case(prefix)));
    known
        && text.len() > 4
        && text.len() <= NAME_BYTES_MAX
        && !text.chars().any(|c| c.is_control() || c.is_whitespace())
}

impl fmt::Debug for InitiatorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for InitiatorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_known_form() {
        assert!(is_iscsi_name("iqn.1991-05.com.microsoft:host"));
        assert!(is_iscsi_name("eui.02004567A425678D"));
        assert_eq!(InitiatorName::new("IQN.2001-04.X").map(|n| n.0), Ok("iqn.2001-04.x".into()));
        for bad in ["", "iqn.", "host", "iqn.a b", "iqn.a\n", "é"] {
            assert_eq!(InitiatorName::new(bad), Err(BadName), "{bad:?}");
        }
        let long = alloc::format!("iqn.{}", "a".repeat(220));
        assert!(InitiatorName::new(&long).is_err());
    }
}
