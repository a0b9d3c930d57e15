//! What can go wrong with Pacemaker, in words for the person who runs it.

use std::fmt;

use super::rules::{Pending, Refused};
use crate::arbiter::value::ValueError;

/// Why Pacemaker gave no definite answer. Nothing may be concluded from it about the record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PacemakerError {
    /// A tool could not be run, failed, or did not end in time.
    Tool {
        tool: &'static str,
        why: String,
    },
    /// The cluster is set up so that nothing would be safe.
    Unsafe(Unsafe),
    /// What the CIB holds is not this pair's record.
    Value {
        place: String,
        error: ValueError,
    },
    Pending {
        peer: String,
        why: Pending,
    },
    /// A person is to decide.
    Refused {
        peer: String,
        why: Refused,
    },
}

/// A setting with which no answer of the cluster's can be trusted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unsafe {
    /// `stonith-enabled=false`
    FencingOff,
    /// Fencing is on, and nothing does it.
    NoDevice,
    /// `startup-fencing=false`: a node that was never seen counts as off.
    NoStartupFencing,
    /// The cluster calls this machine otherwise.
    OtherName { here: String, wanted: String },
    /// The cluster has no node of that name.
    NoNode(String),
}

impl fmt::Display for Unsafe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FencingOff => write!(
                f,
                "fencing is switched off (stonith-enabled=false), and without it two nodes can serve at one time. \
                 Nothing is promoted. Set up a stonith device for each node, then pcs property set stonith-enabled=true"
            ),
            Self::NoDevice => write!(
                f,
                "there is no stonith resource and no watchdog fencing, so a lost node never counts as off. Nothing is \
                 promoted. Set up a stonith device for each node (pcs stonith create …)"
            ),
            Self::NoStartupFencing => write!(
                f,
                "startup-fencing=false takes nodes that were never seen for switched off. Nothing is promoted. Remove \
                 it: pcs property unset startup-fencing"
            ),
            Self::OtherName { here, wanted } => write!(
                f,
                "the cluster calls this machine {here}, and the configuration {wanted}. The names of [node.…] must be \
                 those of the cluster's nodes (crm_node --name)"
            ),
            Self::NoNode(name) => write!(
                f,
                "the cluster has no node {name}. The names of [node.…] must be those of the cluster's nodes (crm_node \
                 --list)"
            ),
        }
    }
}

impl fmt::Display for PacemakerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tool { tool, why } => write!(
                f,
                "Pacemaker does not answer ({tool}: {why}), so nothing is decided; it is asked until it does. Look with \
                 crm_mon -1"
            ),
            Self::Unsafe(what) => write!(f, "Pacemaker: {what}"),
            Self::Value { place, error: error @ ValueError::OtherPair(_) } => write!(
                f,
                "Pacemaker's CIB holds a record of somebody else at {place}: {error}. Nothing was changed. Give each \
                 volume of one cluster a name of its own; after a change of the secret, delete it while both nodes are \
                 stopped (cibadmin --delete --xpath)"
            ),
            Self::Value { place, error } => write!(
                f,
                "Pacemaker's CIB holds something at {place} that cannot be used: {error}. Nothing was changed. Look at \
                 it with cibadmin --query, and find out who wrote it"
            ),
            Self::Pending { peer, why } => write_pending(f, peer, why),
            Self::Refused { peer, why: Refused::NotMet } => write!(
                f,
                "this node has not met {peer} since it started, so {peer} may have gone on without it: it waits for \
                 {peer}. If {peer} will not come back: twinlun promote --force --i-have-fenced {peer}"
            ),
            Self::Refused { peer, why: Refused::NotInSync } => {
                write!(f, "this copy is not in sync: {peer} may hold writes that are missing here")
            }
        }
    }
}

fn write_pending(f: &mut fmt::Formatter<'_>, peer: &str, why: &Pending) -> fmt::Result {
    match why {
        Pending::NoQuorum => write!(
            f,
            "this node's part of the cluster has no quorum, so nothing is decided; requests are held until it has one"
        ),
        Pending::NotExcluded => write!(
            f,
            "{peer} is not heard and not known to be off: requests are held until the cluster has fenced it. If fencing \
             fails, switch {peer} off by hand and say so: stonith_admin --confirm {peer}"
        ),
        Pending::FirstNeedsPeer => write!(
            f,
            "nobody has served this volume yet, and {peer} is not there to agree. Start {peer}, or promote by force if \
             it never served: twinlun promote --force --i-have-fenced {peer}"
        ),
        Pending::TooFew => {
            write!(
                f,
                "fewer than half of the cluster's nodes are there to keep the record, so nothing is decided"
            )
        }
        Pending::Rival => write!(
            f,
            "another change of the record is being asked for, by {peer} or by an earlier start of this node"
        ),
        Pending::NotTaken => write!(f, "the CIB did not take the change yet; it is offered again"),
        Pending::NotSpread(name) => {
            write!(
                f,
                "{name} does not show the change in its copy of the CIB yet; nothing counts before it does"
            )
        }
        Pending::Discord => write!(f, "the members' copies of the CIB do not agree yet"),
    }
}

impl std::error::Error for PacemakerError {}
