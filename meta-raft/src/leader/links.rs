//! The control streams of chunk servers: one per server, the newest counts; commands under way and whom their answers concern.

use std::collections::HashMap;

use caribou_proto::chunk::v1::command::Body;
use caribou_proto::chunk::v1::{Command, CommandResult, ToServer, to_server};
use caribou_proto::ids::{ChunkId, ChunkVersion, Incarnation, ServerId};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::limits;

/// What a server says of its room, all disks together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) total_bytes: u64,
    pub(crate) free_bytes: u64,
    pub(crate) chunks: u64,
    pub(crate) disks: u32,
    pub(crate) failed_disks: u32,
}

/// One control stream.
pub(crate) struct Link {
    pub(crate) stream: u64,
    pub(crate) incarnation: Incarnation,
    pub(crate) outbox: mpsc::Sender<ToServer>,
    /// Cancelled: the stream has to end.
    pub(crate) ended: CancellationToken,
    pub(crate) room: Room,
    /// The last heartbeat, or the beginning.
    pub(crate) heard: Instant,
    pub(crate) pending: HashMap<u64, Pending>,
}

/// A command without its answer.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) purpose: Purpose,
    pub(crate) due: Instant,
}

/// Whom the answer to a command concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Recovery { chunk: ChunkId, round: u64 },
    Repair { chunk: ChunkId, round: u64 },
    Delete { chunk: ChunkId, version: ChunkVersion },
}

/// All control streams.
pub(crate) struct Links {
    generation: u16,
    term: u64,
    next_command: u64,
    links: HashMap<ServerId, Link>,
    /// Where replicas have been joined since [`Links::take_joined`].
    joined: Vec<(ServerId, ChunkId)>,
}

impl Links {
    pub(crate) fn new(generation: u16, term: u64) -> Self {
        Self { generation, term, next_command: 1, links: HashMap::new(), joined: Vec::new() }
    }

    /// F1.
    pub(crate) fn generation(&self) -> u16 {
        self.generation
    }

    /// Takes a new stream; what the older one of the server had under way is returned, its answers will not come.
    pub(crate) fn attach(&mut self, server: ServerId, link: Link) -> Vec<Purpose> {
        let older = self.links.insert(server, link);
        older.map(give_up).unwrap_or_default()
    }

    /// Ends a server's stream from this side; what it had under way is given up when the end is noticed.
    pub(crate) fn end(&mut self, server: ServerId) {
        if let Some(link) = self.links.get(&server) {
            link.ended.cancel();
        }
    }

    /// Streams that have ended, from either side.
    pub(crate) fn take_ended(&mut self) -> Vec<(ServerId, Vec<Purpose>)> {
        let ended: Vec<ServerId> = self.iter().filter(|(_, l)| l.ended.is_cancelled()).map(|(s, _)| s).collect();
        ended.into_iter().filter_map(|s| self.links.remove(&s).map(|l| (s, give_up(l)))).collect()
    }

    pub(crate) fn get(&self, server: ServerId) -> Option<&Link> {
        self.links.get(&server)
    }

    pub(crate) fn get_mut(&mut self, server: ServerId) -> Option<&mut Link> {
        self.links.get_mut(&server)
    }

    /// Whether the server is attached in this incarnation.
    pub(crate) fn is_attached(&self, server: ServerId, incarnation: Incarnation) -> bool {
        self.get(server).is_some_and(|l| l.incarnation == incarnation && !l.ended.is_cancelled())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ServerId, &Link)> {
        let mut all: Vec<_> = self.links.iter().map(|(server, link)| (*server, link)).collect();
        all.sort_by_key(|(server, _)| *server);
        all.into_iter()
    }

    /// F2: fenced by generation and term; false if there is no stream, or no room.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        applied: u64,
        server: ServerId,
        chunk: ChunkId,
        body: Body,
        purpose: Purpose,
    ) -> bool {
        if self.links.get(&server).is_none_or(|link| link.pending.len() >= limits::COMMANDS_PER_SERVER) {
            return false;
        }
        let id = self.next_command;
        let joins = matches!(&body, Body::Prepare(prepare) if prepare.join);
        let command = Command {
            id,
            generation: u32::from(self.generation),
            term: self.term,
            log_index: applied,
            chunk: chunk.0,
            body: Some(body),
        };
        if !self.tell(server, to_server::Body::Command(command)) {
            return false;
        }
        self.next_command += 1;
        if joins {
            self.joined.push((server, chunk));
        }
        if let Some(link) = self.links.get_mut(&server) {
            link.pending.insert(id, Pending { purpose, due: now + limits::COMMAND_TIMEOUT });
        }
        true
    }

    /// Servers that were told to make a replica, whatever has come of it: at most as many as commands fit on the streams between two calls.
    pub(crate) fn take_joined(&mut self) -> Vec<(ServerId, ChunkId)> {
        std::mem::take(&mut self.joined)
    }

    /// Says something that needs no answer; false if there is no stream, or no room.
    pub(crate) fn tell(&mut self, server: ServerId, body: to_server::Body) -> bool {
        let link = self.links.get(&server).filter(|l| !l.ended.is_cancelled());
        link.is_some_and(|l| l.outbox.try_send(ToServer { body: Some(body) }).is_ok())
    }

    /// Whom an answer concerns; `None` for one of an older stream, or one that was not asked for.
    pub(crate) fn answered(&mut self, server: ServerId, stream: u64, result: &CommandResult) -> Option<Purpose> {
        let link = self.links.get_mut(&server).filter(|l| l.stream == stream)?;
        link.pending.remove(&result.id).map(|p| p.purpose)
    }

    /// Servers that owe an answer for too long, or have been silent for too long.
    pub(crate) fn overdue(&self, now: Instant) -> Vec<ServerId> {
        let late = |l: &Link| now >= l.heard + limits::STREAM_SILENCE || l.pending.values().any(|p| now >= p.due);
        self.iter().filter(|(_, l)| late(l)).map(|(server, _)| server).collect()
    }
}

fn give_up(link: Link) -> Vec<Purpose> {
    link.ended.cancel();
    let mut pending: Vec<_> = link.pending.into_iter().collect();
    pending.sort_by_key(|(id, _)| *id);
    pending.into_iter().map(|(_, p)| p.purpose).collect()
}
