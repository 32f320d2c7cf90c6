//! Commands that leaders and operators propose: memory ↔ disk.

use caribou_proto::ids::{ChunkId, ChunkVersion, GrantId, Incarnation, InodeId, Seq, ServerId, SessionId};
use caribou_proto::log::v1 as disk;
use caribou_proto::log::v1::command::Command as DiskCommand;

use super::{CodecError, uuid};
use crate::fsm::command::{self as mem, Command, IntentKind};

impl From<Command> for DiskCommand {
    fn from(command: Command) -> Self {
        match command {
            Command::Client(c) => Self::Client(c.into()),
            Command::Cancel { session, seq } => Self::Cancel(disk::Cancel { session: session.0, seq: seq.0 }),
            Command::OpenSession { key, name } => {
                Self::OpenSession(disk::OpenSession { key: key.to_vec().into(), name })
            }
            Command::AddIdle { sessions } => Self::AddIdle(disk::AddIdle {
                sessions: sessions
                    .into_iter()
                    .map(|s| disk::IdleStep { session: s.session.0, add_ms: s.add_ms })
                    .collect(),
            }),
            Command::ExpireSession { session, ttl_ms } => {
                Self::ExpireSession(disk::ExpireSession { session: session.0, ttl_ms })
            }
            Command::ForgetSessions { before_ns, limit } => {
                Self::ForgetSessions(disk::ForgetSessions { before_ns, limit })
            }
            Command::PurgeOrphans { inodes } => {
                Self::PurgeOrphans(disk::PurgeOrphans { inodes: inodes.into_iter().map(|i| i.0).collect() })
            }
            Command::InitCluster(i) => Self::InitCluster(disk::InitCluster {
                uuid: i.uuid.to_vec().into(),
                generation: i.generation.into(),
                nonce: i.nonce,
                default_goal: i.default_goal.into(),
            }),
            Command::RegisterServer(r) => Self::RegisterServer(disk::RegisterServer {
                uuid: r.uuid.to_vec().into(),
                incarnation: r.incarnation.0,
                address: r.address,
                total_bytes: r.total_bytes,
                free_bytes: r.free_bytes,
            }),
            Command::ServerDown { server, incarnation } => {
                Self::ServerDown(disk::ServerDown { server: server.0, incarnation: incarnation.0 })
            }
            Command::StartIntent(s) => Self::StartIntent(disk::StartIntent {
                chunk: s.chunk.0,
                version: s.version.0,
                grant: s.grant.map(|g| g.0),
                kind: s.kind as u32,
            }),
            Command::Ready(r) => Self::Ready(disk::Ready {
                chunk: r.chunk.0,
                version: r.version.0,
                holders: r.holders.into_iter().map(Into::into).collect(),
            }),
            Command::RepairDone(r) => Self::RepairDone(disk::RepairDone {
                chunk: r.chunk.0,
                version: r.version.0,
                last_grant: r.last_grant.map(|g| g.0),
                server: r.server.0,
                incarnation: r.incarnation.0,
                replaces: r.replaces.map(|s| s.0),
            }),
            Command::ReplicaLost { chunk, version, server } => {
                Self::ReplicaLost(disk::ReplicaLost { chunk: chunk.0, version: version.0, server: server.0 })
            }
            Command::GarbageDone { server, chunks } => Self::GarbageDone(disk::GarbageDone {
                server: server.0,
                chunks: chunks.into_iter().map(|(c, v)| disk::ChunkAt { chunk: c.0, version: v.0 }).collect(),
            }),
            Command::StrayFound(s) => Self::StrayFound(disk::StrayFound {
                server: s.server.0,
                chunk: s.chunk.0,
                version: s.version.0,
                row_version: s.row_version.map(|v| v.0),
            }),
        }
    }
}

impl TryFrom<DiskCommand> for Command {
    type Error = CodecError;

    fn try_from(command: DiskCommand) -> Result<Self, CodecError> {
        Ok(match command {
            DiskCommand::Client(c) => Self::Client(c.try_into()?),
            DiskCommand::Cancel(c) => Self::Cancel { session: SessionId(c.session), seq: Seq(c.seq) },
            DiskCommand::OpenSession(o) => Self::OpenSession { key: uuid("open_session.key", &o.key)?, name: o.name },
            DiskCommand::AddIdle(a) => Self::AddIdle {
                sessions: a
                    .sessions
                    .into_iter()
                    .map(|s| mem::IdleStep { session: SessionId(s.session), add_ms: s.add_ms })
                    .collect(),
            },
            DiskCommand::ExpireSession(e) => Self::ExpireSession { session: SessionId(e.session), ttl_ms: e.ttl_ms },
            DiskCommand::ForgetSessions(f) => Self::ForgetSessions { before_ns: f.before_ns, limit: f.limit },
            DiskCommand::PurgeOrphans(p) => Self::PurgeOrphans { inodes: p.inodes.into_iter().map(InodeId).collect() },
            DiskCommand::InitCluster(i) => Self::InitCluster(init(i)?),
            DiskCommand::RegisterServer(r) => Self::RegisterServer(mem::RegisterServer {
                uuid: uuid("register_server.uuid", &r.uuid)?,
                incarnation: Incarnation(r.incarnation),
                address: r.address,
                total_bytes: r.total_bytes,
                free_bytes: r.free_bytes,
            }),
            DiskCommand::ServerDown(s) => {
                Self::ServerDown { server: ServerId(s.server), incarnation: Incarnation(s.incarnation) }
            }
            DiskCommand::StartIntent(s) => Self::StartIntent(mem::StartIntent {
                chunk: ChunkId(s.chunk),
                version: ChunkVersion(s.version),
                grant: s.grant.map(GrantId),
                kind: intent_kind(s.kind)?,
            }),
            DiskCommand::Ready(r) => Self::Ready(mem::Ready {
                chunk: ChunkId(r.chunk),
                version: ChunkVersion(r.version),
                holders: r.holders.into_iter().map(Into::into).collect(),
            }),
            DiskCommand::RepairDone(r) => Self::RepairDone(mem::RepairDone {
                chunk: ChunkId(r.chunk),
                version: ChunkVersion(r.version),
                last_grant: r.last_grant.map(GrantId),
                server: ServerId(r.server),
                incarnation: Incarnation(r.incarnation),
                replaces: r.replaces.map(ServerId),
            }),
            DiskCommand::ReplicaLost(r) => Self::ReplicaLost {
                chunk: ChunkId(r.chunk),
                version: ChunkVersion(r.version),
                server: ServerId(r.server),
            },
            DiskCommand::GarbageDone(g) => Self::GarbageDone {
                server: ServerId(g.server),
                chunks: g.chunks.into_iter().map(|c| (ChunkId(c.chunk), ChunkVersion(c.version))).collect(),
            },
            DiskCommand::StrayFound(s) => Self::StrayFound(mem::StrayFound {
                server: ServerId(s.server),
                chunk: ChunkId(s.chunk),
                version: ChunkVersion(s.version),
                row_version: s.row_version.map(ChunkVersion),
            }),
        })
    }
}

impl From<mem::ReadyHolder> for disk::ReadyHolder {
    fn from(h: mem::ReadyHolder) -> Self {
        Self { server: h.server.0, incarnation: h.incarnation.0, clean_source: h.clean_source }
    }
}

impl From<disk::ReadyHolder> for mem::ReadyHolder {
    fn from(h: disk::ReadyHolder) -> Self {
        Self { server: ServerId(h.server), incarnation: Incarnation(h.incarnation), clean_source: h.clean_source }
    }
}

fn init(i: disk::InitCluster) -> Result<mem::InitCluster, CodecError> {
    let impossible = |field, value: u32| CodecError::Field { field, value: value.into() };
    Ok(mem::InitCluster {
        uuid: uuid("init_cluster.uuid", &i.uuid)?,
        generation: i.generation.try_into().map_err(|_| impossible("init_cluster.generation", i.generation))?,
        nonce: i.nonce,
        default_goal: i.default_goal.try_into().map_err(|_| impossible("init_cluster.default_goal", i.default_goal))?,
    })
}

fn intent_kind(number: u32) -> Result<IntentKind, CodecError> {
    Ok(match number {
        1 => IntentKind::Bump,
        2 => IntentKind::Recover,
        3 => IntentKind::Cut,
        _ => return Err(CodecError::Field { field: "start_intent.kind", value: number.into() }),
    })
}
