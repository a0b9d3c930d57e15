//! `twinlun-agent`, the failover agent of one node. Everything is in [`twinlun::agent`].

use std::process::ExitCode;

use clap::Parser;
use twinlun::agent::run::run;
use twinlun::cli::args::AgentArgs;
use twinlun::daemon::process::Launch;

fn main() -> ExitCode {
    let AgentArgs { place, background } = AgentArgs::parse();
    let launch = Launch { config: place.config, node: place.node, background };
    match run(&launch) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("twinlun-agent: {failure}");
            failure.kind.exit_code()
        }
    }
}
