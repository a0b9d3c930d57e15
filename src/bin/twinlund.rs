//! `twinlund`, the daemon of one node. Everything is in [`twinlun::daemon`].

use std::process::ExitCode;

use clap::Parser;
use twinlun::cli::args::DaemonArgs;
use twinlun::daemon::process::Launch;
use twinlun::daemon::run::run;

fn main() -> ExitCode {
    let DaemonArgs { place, background } = DaemonArgs::parse();
    let launch = Launch { config: place.config, node: place.node, background };
    match run(&launch) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("twinlund: {failure}");
            failure.kind.exit_code()
        }
    }
}
