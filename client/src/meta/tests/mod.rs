//! The session against a fake cluster in this process: the real client code over channels, on tokio's paused clock.

mod claims;
mod exactly_once;
mod expiry;
mod fake;
mod grpc;
mod leader;
