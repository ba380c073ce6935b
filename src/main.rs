//! Parses the command line and owns the exit code.

use clap::Parser;
use sovereign::cli::Cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            // `{:#}` prints the whole chain of causes on one line.
            eprintln!("sovereign: {error:#}");
            ExitCode::FAILURE
        }
    }
}
