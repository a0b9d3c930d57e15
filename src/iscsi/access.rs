//! Who may log in, from where, with which secret, and which logical units it sees.
//!
//! Rules are tried in order and the first that fits counts; an initiator that fits none is refused. Without rules
//! everybody is let in who passes CHAP, if that is asked for. A name alone proves nothing: anyone may call itself so.

use alloc::vec::Vec;
use core::net::IpAddr;

use crate::scsi::{LUN_MAX, LunAddress, Target};

use super::chap::Chap;
use super::name::InitiatorName;

/// A pattern for initiator names: `*` stands for any number of characters, `?` for one. Case does not count.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamePattern(Vec<char>);

impl NamePattern {
    pub fn new(text: &str) -> Self {
        Self(text.to_lowercase().chars().collect())
    }

    /// Takes time proportional to the product of the lengths at most, however many stars there are.
    pub fn fits(&self, name: &InitiatorName) -> bool {
        let pattern = &self.0;
        let name: Vec<char> = name.as_str().chars().collect();
        let (mut at, mut in_name) = (0, 0);
        // Where the last star was, and how far it reaches.
        let mut star: Option<(usize, usize)> = None;
        while in_name < name.len() {
            match pattern.get(at) {
                Some('*') => {
                    star = Some((at, in_name));
                    at += 1;
                }
                Some(c) if *c == '?' || *c == name[in_name] => {
                    at += 1;
                    in_name += 1;
                }
                _ => match &mut star {
                    Some((star_at, reach)) => {
                        *reach += 1;
                        (at, in_name) = (*star_at + 1, *reach);
                    }
                    None => return false,
                },
            }
        }
        pattern[at..].iter().all(|c| *c == '*')
    }
}

/// Addresses that share their first `bits` bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// `None`: more bits than the address has, or bits set beyond them.
    pub fn new(address: IpAddr, bits: u8) -> Option<Self> {
        let network = Self { address, bits };
        let length = if address.is_ipv4() { 32 } else { 128 };
        (bits <= length && network.head(address) == whole(address)).then_some(network)
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && self.head(address) == self.head(self.address)
    }

    /// The first bits of an address, the others zero.
    fn head(&self, address: IpAddr) -> u128 {
        whole(address) & u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0)
    }
}

/// The bits of an address, left-aligned.
fn whole(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Who, and what they get.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Any of these; empty: any name.
    pub names: Vec<NamePattern>,
    /// Any of these; empty: from anywhere.
    pub networks: Vec<Network>,
    /// Instead of [`Access::chap`].
    pub chap: Option<Chap>,
    /// `None`: every logical unit under its own number.
    pub view: Option<View>,
}

/// Some logical units of a target, under numbers of their own.
#[derive(Clone, Debug)]
pub struct View {
    pub(super) scsi: Target,
}

/// Why a view cannot be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadView {
    /// A number above [`LUN_MAX`], or given twice.
    Number(u16),
    /// A unit that is to be shown twice.
    Twice(u16),
    /// The target has no logical unit of this number.
    NoUnit(u16),
}

impl View {
    /// `map` gives the number that is shown and the number of the unit in `target`, for each unit that is to be seen.
    pub fn new(target: &Target, map: &[(u16, u16)]) -> Result<Self, BadView> {
        for (at, (shown, unit)) in map.iter().enumerate() {
            if *shown > LUN_MAX || map[..at].iter().any(|(other, _)| other == shown) {
                return Err(BadView::Number(*shown));
            }
            if map[..at].iter().any(|(_, other)| other == unit) {
                return Err(BadView::Twice(*unit));
            }
            if *unit > LUN_MAX || target.find(LunAddress::encode_unit(*unit)).is_none() {
                return Err(BadView::NoUnit(*unit));
            }
        }
        let scsi = target.with_numbers(map);
        Ok(Self { scsi })
    }
}

/// The rules of a target.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Empty: everybody.
    pub rules: Vec<Rule>,
    /// What a normal session must show, unless its rule says otherwise.
    pub chap: Option<Chap>,
    /// What a discovery session must show.
    pub discovery_chap: Option<Chap>,
}

/// What an initiator has been granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grant {
    rule: Option<u16>,
}

/// No rule fits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused;

impl Access {
    pub fn judge(&self, initiator: &InitiatorName, from: IpAddr) -> Result<Grant, Refused> {
        if self.rules.is_empty() {
            return Ok(Grant { rule: None });
        }
        let fits = |rule: &Rule| {
            (rule.names.is_empty() || rule.names.iter().any(|pattern| pattern.fits(initiator)))
                && (rule.networks.is_empty() || rule.networks.iter().any(|network| network.contains(from)))
        };
        let rule = self.rules.iter().position(fits).ok_or(Refused)?;
        Ok(Grant { rule: Some(rule as u16) })
    }

    fn rule(&self, grant: Grant) -> Option<&Rule> {
        grant.rule.map(|rule| &self.rules[usize::from(rule)])
    }

    /// What a session must show.
    pub(super) fn chap(&self, grant: Grant, discovery: bool) -> Option<&Chap> {
        if discovery {
            return self.discovery_chap.as_ref();
        }
        self.rule(grant).and_then(|rule| rule.chap.as_ref()).or(self.chap.as_ref())
    }

    /// What a session sees, if that is not everything.
    pub(super) fn view(&self, grant: Grant) -> Option<&View> {
        self.rule(grant)?.view.as_ref()
    }
}

impl core::fmt::Display for BadView {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Number(number) => {
                write!(f, "logical unit number {number} is given twice or above {LUN_MAX}")
            }
            Self::Twice(number) => write!(f, "logical unit {number} is shown twice"),
            Self::NoUnit(number) => write!(f, "the target has no logical unit {number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> InitiatorName {
        InitiatorName::new(text).expect("a good name")
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn patterns_of_names() {
        let fits = |pattern: &str, text: &str| NamePattern::new(pattern).fits(&name(text));
        assert!(fits("iqn.1991-05.com.microsoft:*", "iqn.1991-05.com.microsoft:HOST"));
        assert!(fits("IQN.a", "iqn.A"));
        assert!(fits("*", "iqn.a"));
        assert!(fits("iqn.*:host?", "iqn.2026-11.example:vm:host7"));
        assert!(fits("iqn.*a*b*c", "iqn.xaxbbxcxc"));
        for (pattern, text) in [
            ("iqn.a", "iqn.ab"),
            ("iqn.ab", "iqn.a"),
            ("iqn.*:host?", "iqn.x:host"),
            ("iqn.*a*b*c", "iqn.xbxcxa"),
            ("", "iqn.a"),
            ("?", "iqn.a"),
        ] {
            assert!(!fits(pattern, text), "{pattern} {text}");
        }
        // Many stars cost no more than few.
        let long = alloc::format!("iqn.{}", "a".repeat(200));
        assert!(!fits(&"*a".repeat(100).replace("*a*a*a", "*a*b*a"), &long));
    }

    #[test]
    fn networks() {
        let network = |text: &str, bits| Network::new(address(text), bits);
        let lan = network("192.0.2.0", 24).expect("a network");
        assert!(lan.contains(address("192.0.2.255")) && !lan.contains(address("192.0.3.0")));
        assert!(lan.contains(address("::ffff:192.0.2.7")) && !lan.contains(address("::1")));
        let all = network("0.0.0.0", 0).expect("a network");
        assert!(all.contains(address("255.1.2.3")) && !all.contains(address("fd00::1")));
        let six = network("fd00:0:0:1::", 64).expect("a network");
        assert!(six.contains(address("fd00:0:0:1:ffff::")) && !six.contains(address("fd00:0:0:2::")));
        assert!(network("192.0.2.1", 32).is_some_and(|one| one.contains(address("192.0.2.1"))));
        assert_eq!(network("192.0.2.1", 24), None);
        assert_eq!(network("192.0.2.0", 33), None);
        assert_eq!(network("::", 129), None);
    }

    #[test]
    fn the_first_rule_that_fits_counts() {
        let rule = |pattern: &str, from: &str, bits| Rule {
            names: [NamePattern::new(pattern)].into(),
            networks: Network::new(address(from), bits).into_iter().collect(),
            chap: None,
            view: None,
        };
        let mut access = Access::default();
        assert_eq!(access.judge(&name("iqn.a"), address("10.0.0.1")), Ok(Grant { rule: None }));
        access.rules =
            [rule("iqn.a", "10.0.0.0", 8), rule("iqn.*", "10.0.0.0", 24), rule("iqn.a", "::", 0)].into();
        let judge = |who: &str, from: &str| access.judge(&name(who), address(from)).map(|grant| grant.rule);
        assert_eq!(judge("iqn.a", "10.9.9.9"), Ok(Some(0)));
        assert_eq!(judge("iqn.b", "10.0.0.9"), Ok(Some(1)));
        assert_eq!(judge("iqn.b", "10.9.9.9"), Err(Refused));
        assert_eq!(judge("iqn.a", "fd00::1"), Ok(Some(2)));
        assert_eq!(judge("iqn.a", "192.0.2.1"), Err(Refused));
    }
}
