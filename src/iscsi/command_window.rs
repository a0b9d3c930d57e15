//! The command window of a session (RFC 7143 §4.2.2.1): which CmdSN may come next, and how many.
//!
//! Invariant: MaxCmdSN never goes back. A live command keeps its credit, so MaxCmdSN stands still when it is admitted
//! and rises when it is answered; the number of task slots is therefore a hard bound on what an initiator can have in
//! flight.

use crate::wire::SerialNumber;

/// What to do with a non-immediate request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// It is the next one.
    Next,
    /// Outside the window: to be ignored without a word (§4.2.2.1).
    Outside,
    /// Inside the window, but not the next one. On the only connection of a session nothing can fill the gap.
    Gap,
}

/// ExpCmdSN, MaxCmdSN and the credits between them.
#[derive(Clone, Debug)]
pub struct CommandWindow {
    expected: SerialNumber,
    size: u16,
    live: u16,
}

impl CommandWindow {
    /// `first` is the CmdSN of the login: the first command will carry it too.
    pub fn new(first: SerialNumber, size: u16) -> Self {
        assert!(size > 0, "a window of no commands");
        Self { expected: first, size, live: 0 }
    }

    pub fn expected(&self) -> SerialNumber {
        self.expected
    }

    pub fn max(&self) -> SerialNumber {
        self.expected.plus(u32::from(self.size - self.live)).minus(1)
    }

    pub fn judge(&self, cmd_sn: SerialNumber) -> Admission {
        if cmd_sn == self.expected && self.live < self.size {
            Admission::Next
        } else if cmd_sn.before(self.expected) || self.max().before(cmd_sn) {
            Admission::Outside
        } else {
            Admission::Gap
        }
    }

    /// The next request was taken in.
    pub fn admit(&mut self) {
        self.expected = self.expected.next();
    }

    /// The admitted request is a command that stays; give its credit back with [`release`](Self::release).
    pub fn hold(&mut self) {
        assert!(self.live < self.size, "a command was admitted beyond the window");
        self.live += 1;
    }

    pub fn release(&mut self) {
        assert!(self.live > 0, "a credit was given back twice");
        self.live -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_of_the_window() {
        let mut window = CommandWindow::new(SerialNumber(u32::MAX), 2);
        assert_eq!(window.max(), SerialNumber(0));
        assert_eq!(window.judge(SerialNumber(u32::MAX)), Admission::Next);
        assert_eq!(window.judge(SerialNumber(0)), Admission::Gap);
        assert_eq!(window.judge(SerialNumber(1)), Admission::Outside);
        assert_eq!(window.judge(SerialNumber(u32::MAX - 1)), Admission::Outside);
        window.admit();
        window.hold();
        assert_eq!((window.expected(), window.max()), (SerialNumber(0), SerialNumber(0)));
        window.admit();
        window.hold();
        // Closed: MaxCmdSN = ExpCmdSN - 1.
        assert_eq!((window.expected(), window.max()), (SerialNumber(1), SerialNumber(0)));
        assert_eq!(window.judge(SerialNumber(1)), Admission::Outside);
        window.release();
        assert_eq!(window.judge(SerialNumber(1)), Admission::Next);
    }
}
