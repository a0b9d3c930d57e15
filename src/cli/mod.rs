//! The `twinlun` command: arguments as typed, turned into what is meant, and the verbs.
//!
//! A verb either talks to the daemon through its control socket or, before there is a daemon, prepares a device.
//! Every failure ends in one or two lines and an exit code of [`FailureKind`](crate::daemon::failure::FailureKind).

pub mod args;
