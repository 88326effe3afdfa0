//! The sandbox with the programs of this machine.
#![cfg(target_os = "linux")]
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests make directories, start programs without walls, read their own environment and say what was measured or why \
              they cannot run; a failure is a panic"
)]

mod escape;
mod runs;
mod support;
