//! The wire form of requests and replies, converted to and from the state machine's own types; every field checked (STYLE 11).
//!
//! A request that cannot be converted is answered with an errno where POSIX has one for it, else it breaks the protocol.

pub(crate) mod reply;
pub(crate) mod request;

#[cfg(test)]
mod tests;
