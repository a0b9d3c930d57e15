//! `twinlun`, the command line. Everything is in [`twinlun::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    twinlun::cli::main()
}
