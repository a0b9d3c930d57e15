//! Why a conversation with a target failed.

use std::fmt;
use std::io::{self, ErrorKind};

use nix::errno::Errno;

/// Why a session, or a login to one, failed.
#[derive(Debug)]
pub enum Error {
    Io(io::Error),
    /// The target closed the connection.
    Closed,
    /// The target answered nothing for as long as the caller was ready to wait.
    TimedOut,
    /// The target refused the login with this status (RFC 7143 §11.13.5).
    Refused {
        class: u8,
        detail: u8,
    },
    /// The target broke a rule of the protocol.
    Protocol(String),
    /// A command that must succeed did not.
    Status(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io(error) => write!(f, "{error}"),
            Error::Closed => write!(f, "the target closed the connection"),
            Error::TimedOut => write!(f, "the target does not answer"),
            Error::Refused { class, detail } => {
                write!(f, "the target refused the login with status {class:02x}{detail:02x}")
            }
            Error::Protocol(text) => write!(f, "protocol violation: {text}"),
            Error::Status(text) => write!(f, "{text}"),
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        match error.kind() {
            ErrorKind::UnexpectedEof => Error::Closed,
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Error::TimedOut,
            _ => Error::Io(error),
        }
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Error {
        Error::from(io::Error::from(errno))
    }
}
