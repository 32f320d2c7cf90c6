//! P3: nothing written under an old grant takes effect; and no replica that is counted on goes (R3). Both are seen from outside, on the lines and
//! in the disks' files, and compared with the newest rows that any metadata node has applied; the code that carries the rules is not asked.
//!
//! | seen | must be | what breaks it |
//! |---|---|---|
//! | bytes come into the file of a chunk that is complete, or fewer of them than a block (`fragments.rs`) | the file's header calls it complete, and they arrived at this server as a fragment of the header's version, under a grant that is neither fenced nor lower than that of the last writer (V1, F3) | a server that takes what a Prepare has fenced, or what a newer writer has come before; a Fix of a round that was given up (M5) |
//! | the same | if the chunk is at rest at this version and names this server, its live grant is that of the fragment (W7, W8) | a client that goes on under a grant that it has ended, a grant that ends without a new version |
//! | a header is written over another (`fragments.rs`) | neither version nor fence goes back (V1) | a recovery of an earlier round that is carried out late |
//! | a chunk's file is moved into the quarantine, or unlinked (`removals.rs`) | its replica is not complete at the version at which the chunk rests and this server is named (R3, R4) | a deletion that is carried out late, or of a newer version than was decided |
//! | a client sends a write-end, or the end of a grant, for the first time (`write_ends.rs`) | if its grant is over in the newest rows, its answer says so (W9): grants and versions do not come back | a metadata node that counts it all the same |
//!
//! What a row says of its grant is believed: two live grants of one chunk would not show here.

pub mod disk;
mod fragments;
mod header;
mod removals;
#[cfg(test)]
mod tests;
mod write_ends;

use std::collections::BTreeMap;

use caribou_proto::chunk::v1::{ToServer, WriteFragment};
use caribou_proto::ids::ServerId;
use caribou_proto::meta::v1::{ClientMessage, ServerMessage};
use parking_lot::Mutex;
use prost::Message as _;

use crate::findings::Findings;
use crate::record::{Stream, Way, messages};
use fragments::Fragments;
use write_ends::WriteEnds;

/// What has been seen.
#[derive(Debug, Default)]
pub struct Fencing {
    fragments: Mutex<Fragments>,
    write_ends: Mutex<WriteEnds>,
    /// Of chunk servers, as leaders have told them.
    numbers: Mutex<BTreeMap<String, ServerId>>,
}

/// A frame leaves its sender, in this call.
pub fn left(findings: &Findings, call: u64, (stream, way): (Stream, Way), frame: &[u8]) {
    if (stream, way) == (Stream::Session, Way::Request) {
        let decoded = messages(frame).filter_map(|message| ClientMessage::decode(message).ok());
        decoded.for_each(|message| write_ends::sent(findings, call, &message));
    }
}

/// A frame has come to where it goes, and nobody has looked at it yet.
pub fn arrived(findings: &Findings, call: u64, to: &str, (stream, way): (Stream, Way), frame: &[u8]) {
    match (stream, way) {
        (Stream::Session, Way::Reply) => {
            let decoded = messages(frame).filter_map(|message| ServerMessage::decode(message).ok());
            decoded.for_each(|message| write_ends::answered(findings, call, &message));
        }
        (Stream::Write, Way::Request) => {
            let decoded = messages(frame).filter_map(|message| WriteFragment::decode(message).ok());
            let mut fragments = findings.fencing.fragments.lock();
            decoded.for_each(|fragment| fragments.arrived(to, &fragment));
        }
        (Stream::Attach, Way::Reply) => {
            let decoded = messages(frame).filter_map(|message| ToServer::decode(message).ok());
            decoded.for_each(|message| removals::told(findings, to, &message));
        }
        _ => {}
    }
}
