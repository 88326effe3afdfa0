//! Listeners, routes with their access, commands, configuration: the process around the pipeline.
//!
//! **Invariant:** only this crate listens. A request reaches a handler only through a line of the route table, which says who
//! may call it.

pub mod config;
pub mod routes;

mod admin;
mod assemble;
mod body;
mod cards;
mod connection;
mod control;
mod dispatch;
mod fault;
mod feed;
mod files;
mod init;
mod jsonrpc;
mod listen;
mod operate;
mod process;
mod query;
mod report_body;
mod serve;
mod settings_view;
mod tenant_views;
mod usage;

#[cfg(test)]
mod tests;

pub use assemble::{Place, offline};
pub use init::{InitOptions, Initialised, init};
pub use serve::{Listening, ServeOptions, serve};

/// The route table.
#[must_use]
pub fn routes() -> Vec<rpc::RouteView> {
    routes::views()
}

/// The JSON Schema of `partywall.yaml`.
#[must_use]
pub fn config_schema() -> String {
    config::schema()
}
