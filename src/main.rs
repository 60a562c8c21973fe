//! The `ringpost` program; see `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ringpost::cli::run()
}
