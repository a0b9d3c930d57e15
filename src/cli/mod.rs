//! The `twinlun` command: arguments as typed, turned into what is meant, and the verbs.
//!
//! A verb either talks to the daemon through its control socket or, before there is a daemon, prepares a device.
//! Every failure ends in one or two lines and an exit code of [`FailureKind`].

pub mod args;
mod client;
mod import;
mod render;
mod verbs;

use std::io::{self, BufRead, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::daemon::api::SCHEMA;
use crate::daemon::failure::{Failure, FailureKind};
use args::Cli;

/// The whole program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.json;
    match verbs::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if json {
                print_json(&serde_json::json!({ "schema": SCHEMA, "failure": failure }));
            }
            eprintln!("twinlun: {failure}");
            failure.kind.exit_code()
        }
    }
}

/// Prints a line. A reader that has gone away is not an error of ours.
fn print(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

fn print_json(value: &impl serde::Serialize) {
    print(&serde_json::to_string(value).expect("it has only string keys"));
}

/// Says that something is done.
fn print_done(json: bool, text: &str) {
    if json {
        print_json(&serde_json::json!({ "schema": SCHEMA, "done": text }));
    } else {
        print(text);
    }
}

/// Asks a person to type the volume's name. Nothing else counts as a yes.
fn confirm(question: &str, volume: &str) -> Result<(), Failure> {
    eprint!("{question}\nType the volume's name ({volume}) to go on: ");
    let _ = io::stderr().flush();
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    if read.is_ok() && line.trim() == volume {
        return Ok(());
    }
    let what = "not confirmed, nothing was changed";
    Err(Failure::new(
        FailureKind::Refused,
        what,
        format!("type {volume} when asked, or give --yes in a script"),
    ))
}
