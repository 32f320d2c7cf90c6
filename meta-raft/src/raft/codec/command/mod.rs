//! Commands between memory (`fsm::command`) and disk (`proto/log/v1/command.proto`): every field checked, nothing skipped.
//!
//! An envelope above this build's feature level, or a command that it does not know, is an error: the node stops with
//! "upgrade this node" (STYLE 12).

mod client;
mod cluster;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use caribou_proto::log::v1 as disk;
use prost::Message;

use crate::fsm::{FEATURE_LEVEL, command as mem};

/// Why bytes of the log are not a batch of commands.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error("the log entry is not an envelope: {0}")]
    Malformed(#[from] prost::DecodeError),
    #[error(
        "the log entry has feature level {found}, this build knows levels up to {FEATURE_LEVEL}: upgrade this node"
    )]
    FeatureLevel { found: u32 },
    #[error("the log entry has a command that this build does not know: upgrade this node")]
    UnknownCommand,
    #[error("the log entry's field {field} has the impossible value {value}")]
    Field { field: &'static str, value: u64 },
}

/// The disk form of an entry.
pub fn encode(entry: mem::Entry) -> Bytes {
    let envelope = disk::Envelope {
        feature_level: entry.feature_level,
        time_ns: entry.time_ns,
        commands: entry.commands.into_iter().map(|c| disk::Command { command: Some(c.into()) }).collect(),
    };
    envelope.encode_to_vec().into()
}

/// The entry in `bytes`.
pub fn decode(bytes: Bytes) -> Result<mem::Entry, CodecError> {
    let envelope = disk::Envelope::decode(bytes)?;
    if envelope.feature_level > FEATURE_LEVEL {
        return Err(CodecError::FeatureLevel { found: envelope.feature_level });
    }
    let commands = envelope
        .commands
        .into_iter()
        .map(|c| c.command.ok_or(CodecError::UnknownCommand)?.try_into())
        .collect::<Result<_, _>>()?;
    Ok(mem::Entry { feature_level: envelope.feature_level, time_ns: envelope.time_ns, commands })
}

/// 16 bytes, or an error that names the field.
fn uuid(field: &'static str, bytes: &[u8]) -> Result<[u8; 16], CodecError> {
    bytes.try_into().map_err(|_| CodecError::Field { field, value: bytes.len() as u64 })
}
