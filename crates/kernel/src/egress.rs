//! Toward the outside: the one way by which anything but a provider's answer leaves for an address that somebody configured.
//!
//! A host is judged by the addresses that it resolves to, and the connection goes to the address that was judged. Nothing follows
//! a redirect: its target would be somebody else's choice. The gateway's client for providers opens its connections through the
//! same [`Dialer`].

mod address;
mod allowed;
mod dial;
mod origin;
mod post;
#[cfg(feature = "simulation")]
mod staged;
mod tls;

pub use address::{Place, Reach, place};
pub use allowed::{AllowedHost, NoHost};
pub use dial::{DialError, Dialer};
pub use origin::{Origin, OriginError};
pub use post::{Destination, DestinationError, Egress, EgressError, Posted};
#[cfg(feature = "simulation")]
pub use staged::{Dialed, StagedNetwork, StagedPeer};
pub use tls::{CaBundle, CaBundleError, Stream};
