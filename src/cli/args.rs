//! Arguments as clap reads them. Meaning is given to them by the verbs.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::daemon::config::{self, units};

/// One disk on two servers: a replicated iSCSI target with safe failover.
#[derive(Parser, Debug)]
#[command(name = "twinlun", version, about, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    pub place: Place,
    /// Print one JSON object (schema 1) instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub verb: Verb,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 the daemon does not answer, \
    4 refused for the data's safety, 5 timed out";

/// Which file, which node.
#[derive(Args, Clone, Debug)]
pub struct Place {
    /// The configuration file, the same on both nodes.
    #[arg(long, global = true, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    pub config: PathBuf,
    /// Which node of the file this is [default: the one called like this host].
    #[arg(long, global = true, value_name = "NAME")]
    pub node: Option<String>,
}

/// How long to wait for something to be done.
#[derive(Args, Clone, Debug)]
pub struct Wait {
    /// Give up after this long (exit code 5); what was begun goes on.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub timeout: Duration,
}

#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Write twinlun's metadata to this node's disk. Refuses a disk that holds anything.
    Init(InitArgs),
    /// Start the daemon, and the failover agent if the configuration has a section for it, in the background, unless they run.
    Up(UpArgs),
    /// Stop agent and daemon: hand over if the other node can take it, drain, make everything stable, leave.
    Down(DownArgs),
    /// Show the volume: verdict, both nodes, resync, sessions, what to do next.
    Status(StatusArgs),
    /// Make this node primary: it serves the volume.
    Promote(PromoteArgs),
    /// Stop serving on this node.
    Demote(Wait),
    /// Hand the primary role to the other node.
    Switchover(Wait),
    /// Let this node take no part in failover: it hands over what it serves, and takes nothing. Until the agent's end.
    Standby,
    /// Let this node take part in failover again.
    Unstandby,
    /// Allow the replication link again.
    Connect(ConnectArgs),
    /// Drop the replication link and keep it down.
    Disconnect(Wait),
    /// List what happened.
    Events(EventsArgs),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigVerb),
}

#[derive(Args, Debug)]
pub struct InitArgs {
    /// The peer's copy is to be taken for equal (both disks are new or known to be identical): no first resync.
    #[arg(long)]
    pub assume_clean: bool,
    /// What the disk holds is the volume's data, and stays: for a disk that another target served. Needs volume.size.
    #[arg(long)]
    pub keep_data: bool,
    /// Overwrite what DEVICE holds. Give the path exactly as the configuration has it.
    #[arg(long, value_name = "DEVICE")]
    pub force: Vec<PathBuf>,
    /// Do not ask for the volume's name.
    #[arg(long)]
    pub yes: bool,
}

#[derive(Args, Debug)]
pub struct UpArgs {
    /// Run the daemon here instead of in the background.
    #[arg(long)]
    pub foreground: bool,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Args, Debug)]
pub struct DownArgs {
    /// Kill the daemon if it does not end in time. The other node sees a crash: nothing that was answered is lost.
    #[arg(long)]
    pub or_kill: bool,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Args, Debug)]
pub struct StatusArgs {
    /// One line of WORD=VALUE, for scripts.
    #[arg(long, conflicts_with = "json")]
    pub terse: bool,
}

#[derive(Args, Debug)]
pub struct PromoteArgs {
    /// This node's data is the volume's data: for a pair that has never been in sync.
    #[arg(long)]
    pub seed: bool,
    /// Promote without the arbiter's grant.
    #[arg(long, requires = "i_have_fenced")]
    pub force: bool,
    /// The other node is powered off or cut from network and clients, and stays so. Two serving nodes destroy data.
    #[arg(long, value_name = "NODE", requires = "force")]
    pub i_have_fenced: Option<String>,
    /// A cluster manager asks, for this reason (a word): also while the peer may still be taken for the primary. The
    /// arbiter decides as always.
    #[arg(long, value_name = "WHY", hide = true, conflicts_with_all = ["seed", "force", "yes"])]
    pub automatic: Option<String>,
    /// Also while the two nodes have not met since they were formatted. The other one then gets a copy of everything.
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Args, Debug)]
pub struct ConnectArgs {
    /// After a split brain: give up this node's own writes and take the peer's copy.
    #[arg(long)]
    pub discard_my_data: bool,
    /// Do not ask before giving up data.
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Args, Debug)]
pub struct EventsArgs {
    /// Go on showing events as they happen.
    #[arg(long, short)]
    pub follow: bool,
    /// Only events after this sequence number.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub after: u64,
}

#[derive(Subcommand, Debug)]
pub enum ConfigVerb {
    /// Check the file and what it names on this machine.
    Check,
    /// Print sections of a configuration that make the volume the disk that another target serves.
    Import(ImportArgs),
}

#[derive(Args, Debug)]
pub struct ImportArgs {
    /// Whose saved configuration it is.
    pub from: ImportFrom,
    /// The saved configuration: what `targetcli saveconfig` writes.
    pub file: PathBuf,
    /// The target, if there are several.
    #[arg(long, value_name = "IQN")]
    pub target: Option<String>,
    /// The portal group, if the target has several.
    #[arg(long, value_name = "TAG")]
    pub portal_group: Option<u64>,
    /// The logical unit, if the portal group has several.
    #[arg(long, value_name = "NUMBER")]
    pub lun: Option<u64>,
    /// Write the CHAP secrets to files of this directory (mode 0600). Files that are there are kept.
    #[arg(long, value_name = "DIRECTORY")]
    pub secrets: Option<PathBuf>,
}

/// Other targets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum ImportFrom {
    /// The target of the Linux kernel, kept by targetcli (/etc/target/saveconfig.json).
    Lio,
}

/// Arguments of `twinlund`.
#[derive(Parser, Debug)]
#[command(name = "twinlund", version, about = "The daemon of twinlun: serves one node of a volume")]
pub struct DaemonArgs {
    #[command(flatten)]
    pub place: Place,
    /// Leave the terminal's session (set by `twinlun up`).
    #[arg(long, hide = true)]
    pub background: bool,
}

/// Arguments of `twinlun-agent`.
#[derive(Parser, Debug)]
#[command(
    name = "twinlun-agent",
    version,
    about = "The failover agent of twinlun: watches one node of a pair"
)]
pub struct AgentArgs {
    #[command(flatten)]
    pub place: Place,
    /// Leave the terminal's session (set by `twinlun up`).
    #[arg(long, hide = true)]
    pub background: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    units::duration(text).map_err(|error| error.0)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
        DaemonArgs::command().debug_assert();
        AgentArgs::command().debug_assert();
    }

    #[test]
    fn force_and_fencing_come_together() {
        let parse = |words: &str| Cli::try_parse_from(format!("twinlun {words}").split(' '));
        assert!(parse("promote --force").is_err());
        assert!(parse("promote --i-have-fenced stor-b").is_err());
        let cli = parse("promote --force --i-have-fenced stor-b --node stor-a --json").expect("complete");
        assert_eq!(cli.place.node.as_deref(), Some("stor-a"));
        assert!(cli.json);
        assert!(parse("down --timeout 2").is_err());
    }
}
