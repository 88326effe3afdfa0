//! The one binary: reads flags, asks the gateway or opens the data directory, prints.

use std::process::ExitCode;

use clap::Parser;

mod backend;
mod call;
mod chat;
mod clean;
mod client;
mod demo;
mod export;
mod files;
mod flags;
mod limit_flags;
mod pages;
mod print;
mod run;
mod show;
mod table;
mod view;
mod wire;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Whatever this process creates is for its own user only.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let cli = flags::Cli::parse();
    match run::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            print::error(&fault.message);
            ExitCode::from(fault.exit_code())
        }
    }
}
