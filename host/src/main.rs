//! The command line of engraft.

use std::process::ExitCode;

fn main() -> ExitCode {
    engraft::cli::main()
}
