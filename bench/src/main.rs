//! The benchmark: a gateway against the floor, a bare pass-through proxy, in one run on one machine.
//!
//! `bench run` starts a mock upstream, the floor and the gateway, drives each in turn with the
//! same load, and prints what they cost and the ratios between them. `bench mock` and `bench
//! floor` are the processes that it starts. `bench neighbour` measures what one tenant's load does to
//! another tenant's calls, `bench runs` what runs of agents cost.

mod attack;
mod floor;
mod gateway;
mod load;
mod mock;
mod neighbour;
mod peers;
mod process;
mod report;
mod rpc;
mod run;
mod runs;
mod scenario;

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "bench",
    about = "Measures the gateway against a bare pass-through proxy"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure everything and print the table
    Run(run::Flags),
    /// Measure a victim's latency beside an attacker in the same gateway and beside the same attacker elsewhere
    Neighbour(neighbour::Flags),
    /// Runs of agents over many tenants: their times, the gateway's memory, and that each took effect once
    Runs(runs::Flags),
    /// The attacker alone: load for some seconds, counts into a file
    Attack(attack::Flags),
    /// The mock upstream alone
    Mock {
        /// Address to listen on
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
    },
    /// The floor alone: a pass-through proxy to one upstream
    Floor {
        /// Address to listen on
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// Address of the upstream
        #[arg(long)]
        upstream: SocketAddr,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run(flags) => run::run(&flags),
        Command::Neighbour(flags) => neighbour::run(&flags),
        Command::Runs(flags) => runs::run(&flags),
        Command::Attack(flags) => on_one_thread(attack::run(flags)),
        Command::Mock { listen } => on_one_thread(mock::serve(listen)),
        Command::Floor { listen, upstream } => on_one_thread(floor::serve(listen, upstream)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell where standard error is closed.
            let _ = writeln!(io::stderr(), "bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn on_one_thread(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

/// Prints the address a child listens on, for its parent to read.
fn announce(addr: SocketAddr) -> io::Result<()> {
    writeln!(io::stdout(), "{addr}")?;
    io::stdout().flush()
}
