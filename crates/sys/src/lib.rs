//! What only unsafe code can do: the steps of a child process between its birth and its program.
//!
//! **Invariant:** between `fork` and `exec` nothing allocates, locks or unwinds: the child of a process with threads may call
//! only what is safe within a signal handler. Every step below is one system call on memory that was laid out before.
//!
//! Linux only; elsewhere this crate is empty.

#[cfg(target_os = "linux")]
mod entry;

#[cfg(target_os = "linux")]
pub use entry::{Entry, Identity, Resource, Tree, prepare};
