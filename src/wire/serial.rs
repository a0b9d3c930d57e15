//! Serial-number arithmetic (RFC 1982 with 32 bits), as RFC 7143 §4.2.2.1 asks of CmdSN, StatSN and DataSN.

use core::fmt;

/// A number that wraps at 2³². Compare with [`before`](Self::before), never with `<`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SerialNumber(pub u32);

impl SerialNumber {
    pub fn next(self) -> Self {
        self.plus(1)
    }

    pub fn plus(self, count: u32) -> Self {
        Self(self.0.wrapping_add(count))
    }

    pub fn minus(self, count: u32) -> Self {
        Self(self.0.wrapping_sub(count))
    }

    /// Steps forward from `earlier` to `self`, modulo 2³².
    pub fn distance_from(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// Is `self` strictly before `other`? Numbers exactly 2³¹ apart are before neither way.
    pub fn before(self, other: Self) -> bool {
        let ahead = other.distance_from(self);
        ahead != 0 && ahead < 1 << 31
    }
}

impl fmt::Debug for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::SerialNumber;

    #[test]
    fn order_survives_the_wrap() {
        let last = SerialNumber(u32::MAX);
        assert!(last.before(last.next()));
        assert!(!last.next().before(last));
        assert!(!last.before(last));
        assert_eq!(last.next().distance_from(last), 1);
    }
}
