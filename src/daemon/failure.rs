//! The one shape of an error that reaches a person: what happened, and what to do next. Its kind is the exit code.

use std::fmt;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

/// Sorts failures by what the caller can do about them. The numbers are the exit codes of every `twinlun` command.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// It was tried and did not work.
    Failed = 1,
    /// The command line or the configuration file is wrong; nothing was tried.
    Usage = 2,
    /// The daemon does not answer; nothing was tried.
    Unreachable = 3,
    /// It could have been done and was not, because data could be lost.
    Refused = 4,
    /// It did not finish in the time allowed; it may still finish.
    TimedOut = 5,
}

/// A failure with its next step. Both are one line of text without a trailing full stop.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    pub kind: FailureKind,
    /// What happened, on which node or device, and what it means for the data.
    pub what: String,
    /// What to do next; may be empty when `what` says it already.
    pub next: String,
}

impl FailureKind {
    pub fn exit_code(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

impl Failure {
    pub fn new(kind: FailureKind, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { kind, what: what.into(), next: next.into() }
    }

    pub fn failed(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(FailureKind::Failed, what, next)
    }

    pub fn usage(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(FailureKind::Usage, what, next)
    }

    pub fn refused(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(FailureKind::Refused, what, next)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if !self.next.is_empty() {
            write!(f, "\n  next: {}", self.next)?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}
