//! What can go wrong with etcd, in words for the person who runs it: what happened, where, what it means, what next.

use std::fmt;

use crate::arbiter::value::ValueError;

/// Why etcd gave no definite answer. Nothing may be concluded from it about the record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EtcdError {
    /// The endpoint as the configuration writes it.
    pub endpoint: String,
    pub trouble: Trouble,
}

/// The kinds of trouble, from the one that says least to the one that must be heard first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// Every worker was still busy with an earlier question.
    Busy,
    /// The time for this try was over.
    NoAnswer,
    /// No connection, or it broke.
    Connection(String),
    /// It answers, but its cluster has no leader now.
    NoLeader(String),
    /// Certificate or key do not fit.
    Tls(String),
    /// Whoever answers does not speak etcd's JSON gateway.
    NotEtcd(String),
    /// etcd said no, for a reason that is not one of the others.
    Refused { code: u64, message: String },
    /// User or password are wrong.
    LoginRefused,
    /// It has users, and the configuration names none.
    LoginWanted,
    /// It has users, and this node's certificate has a common name, which the gateway takes for an attempt to be one.
    NamedCertificate,
    /// The user may not read and write the key.
    Denied { key: String },
    /// The database's quota is used up (alarm NOSPACE).
    NoSpace,
    /// The members disagree (alarm CORRUPT).
    Corrupt,
    /// What the key holds is not this pair's record.
    Value { key: String, error: ValueError },
    /// Two endpoints belong to different etcd clusters.
    OtherCluster { found: u64, known: u64, known_at: String },
}

impl Trouble {
    /// Which of two troubles to tell: the greater one.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Busy => 0,
            Self::NoAnswer => 1,
            Self::Connection(_) => 2,
            Self::NoLeader(_) => 3,
            Self::NotEtcd(_) => 4,
            Self::Tls(_) => 5,
            Self::Refused { .. } => 6,
            Self::LoginRefused | Self::LoginWanted | Self::NamedCertificate | Self::Denied { .. } => 7,
            Self::NoSpace => 8,
            Self::Corrupt => 9,
            Self::Value { .. } => 10,
            Self::OtherCluster { .. } => 11,
        }
    }
}

impl fmt::Display for EtcdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "etcd at {} {}", self.endpoint, self.trouble)
    }
}

impl std::error::Error for EtcdError {}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy | Self::NoAnswer => write!(
                f,
                "does not answer in time, so nothing is decided; it is asked until it answers. Check that it runs and \
                 that this node can reach it"
            ),
            Self::Connection(why) => write!(
                f,
                "cannot be reached ({why}), so nothing is decided; it is asked until it answers. Check that it runs and \
                 that this node can reach it"
            ),
            Self::NoLeader(why) => write!(
                f,
                "cannot decide ({why}): most of its members must run and reach each other. Look with etcdctl endpoint \
                 status"
            ),
            Self::NotEtcd(what) => write!(
                f,
                "does not answer like etcd ({what}). endpoints takes client addresses of etcd 3.4 or later, with its \
                 JSON gateway on"
            ),
            Self::Refused { code, message } => {
                write!(f, "refuses the change: {message} (code {code}). Look at its log")
            }
            Self::NoSpace => write!(
                f,
                "takes no change: its database is full (alarm NOSPACE). Until it has room a node that loses its peer \
                 holds all requests. Run etcdctl compact, etcdctl defrag and etcdctl alarm disarm, or raise \
                 --quota-backend-bytes"
            ),
            Self::Corrupt => write!(
                f,
                "takes no change: its members disagree about their data (alarm CORRUPT). Replace the damaged member"
            ),
            Self::Value { key, error: error @ ValueError::OtherPair(_) } => write!(
                f,
                "holds a record of somebody else at {key}: {error}. Nothing was changed. Give each pair a cluster of its \
                 own in [arbiter]; after a change of the secret, delete the key while both nodes are stopped"
            ),
            Self::Value { key, error } => write!(
                f,
                "holds something at {key} that cannot be used: {error}. Nothing was changed. Look at it with etcdctl \
                 get, and find out who wrote it"
            ),
            Self::OtherCluster { found, known, known_at } => write!(
                f,
                "belongs to the etcd cluster {found:x}, and {known_at} to {known:x}. Two clusters could make two \
                 primaries, so neither is asked. endpoints must name members of one cluster"
            ),
            Self::Tls(_)
            | Self::LoginRefused
            | Self::LoginWanted
            | Self::NamedCertificate
            | Self::Denied { .. } => self.fmt_access(f),
        }
    }
}

impl Trouble {
    /// Who is who, and who may do what.
    fn fmt_access(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(why) => write!(
                f,
                "is not trusted, or does not trust this node ({why}). Correct ca, cert and key in [arbiter], or the \
                 server's certificate"
            ),
            Self::LoginRefused => {
                write!(
                    f,
                    "does not accept the user or the password. Correct user and password_file in [arbiter]"
                )
            }
            Self::LoginWanted => {
                write!(
                    f,
                    "wants a user, and the configuration names none. Set user and password_file in [arbiter]"
                )
            }
            Self::NamedCertificate => write!(
                f,
                "has users, and then takes no client certificate that has a common name. Make the one in [arbiter] \
                 without CN (openssl req -subj /O=twinlun)"
            ),
            Self::Denied { key } => write!(
                f,
                "does not let the user change {key}. Run etcdctl role grant-permission ROLE readwrite {key}"
            ),
            _ => unreachable!("the other kinds have their words above"),
        }
    }
}
