//! What is encoded comes back; what is foreign is refused in words.

use caribou_proto::ids::*;

use super::*;
use crate::fsm::command::*;

fn client(op: ClientOp) -> Command {
    Command::Client(ClientCommand {
        session: SessionId(3),
        seq: Seq(8),
        acked_below: Seq(7),
        caller: Caller { uid: 1000, gid: 100, groups: vec![4, 5] },
        op,
    })
}

fn written() -> WrittenChunk {
    WrittenChunk {
        index: 2,
        chunk: ChunkId::new(1, 9),
        version: ChunkVersion(4),
        grant: GrantId::new(1, 6),
        resent: true,
        end: true,
        inline_bytes: 77,
    }
}

fn every_command() -> Vec<Command> {
    let name = || b"name".to_vec();
    let (parent, inode) = (InodeId(1), InodeId(7));
    let (chunk, version, server) = (ChunkId::new(1, 9), ChunkVersion(4), ServerId(2));
    let incarnation = Incarnation(77);
    vec![
        client(ClientOp::Create(Create {
            parent,
            name: name(),
            mode: 0o644,
            exclusive: true,
            truncate: true,
            access: 6,
            placement: vec![ServerId(1), ServerId(2)],
        })),
        client(ClientOp::Mkdir { parent, name: name(), mode: 0o755 }),
        client(ClientOp::Mknod { parent, name: name(), kind: Kind::Fifo, mode: 0o600, rdev: 5 }),
        client(ClientOp::Symlink { parent, name: name(), target: b"../x".to_vec() }),
        client(ClientOp::Link { inode, parent, name: name() }),
        client(ClientOp::Unlink { parent, name: name() }),
        client(ClientOp::Rmdir { parent, name: name() }),
        client(ClientOp::Rename(Rename {
            parent,
            name: name(),
            new_parent: inode,
            new_name: b"new".to_vec(),
            no_replace: true,
            exchange: true,
        })),
        client(ClientOp::SetAttr(SetAttr {
            inode,
            mode: Some(0),
            uid: Some(1),
            gid: Some(2),
            size: Some(3),
            atime: Some(SetTime::Now),
            mtime: Some(SetTime::At(-5)),
            by_handle: true,
        })),
        client(ClientOp::SetXattr { inode, name: name(), value: vec![0, 255], create: true, replace: false }),
        client(ClientOp::RemoveXattr { inode, name: name() }),
        client(ClientOp::TakeGrant(TakeGrant { inode, index: 3, placement: vec![server] })),
        client(ClientOp::WriteAndSet(WriteAndSet {
            write: WriteEnd { inode, length: 1, mtime_ns: 2, ..WriteEnd::default() },
            set: SetAttr { inode, mode: Some(0o640), ..SetAttr::default() },
        })),
        client(ClientOp::WriteEnd(WriteEnd {
            inode,
            length: 10,
            mtime_ns: 11,
            chunks: vec![written()],
            inline: vec![InlineWrite { offset: 12, data: vec![13; 14] }],
            data_generation: 15,
        })),
        client(ClientOp::EndGrants { chunks: vec![written()] }),
        client(ClientOp::ReportBroken(ReportBroken {
            inode,
            index: 3,
            chunk,
            version,
            grant: GrantId(5),
            suspects: vec![server],
        })),
        Command::Cancel { session: SessionId(3), seq: Seq(9) },
        Command::OpenSession { key: [7; 16], name: "host:/mnt".into() },
        Command::AddIdle { sessions: vec![IdleStep { session: SessionId(3), add_ms: 7500 }] },
        Command::ExpireSession { session: SessionId(3), ttl_ms: 30_000 },
        Command::ForgetSessions { before_ns: -1, limit: 10 },
        Command::PurgeOrphans { inodes: vec![inode] },
        Command::InitCluster(InitCluster { uuid: [1; 16], generation: 1, nonce: u64::MAX, default_goal: 2 }),
        Command::RegisterServer(RegisterServer {
            uuid: [2; 16],
            incarnation,
            address: "127.0.0.1:9440".into(),
            total_bytes: 10,
            free_bytes: 9,
        }),
        Command::ServerDown { server, incarnation },
        Command::StartIntent(StartIntent { chunk, version, grant: Some(GrantId(5)), kind: IntentKind::Recover }),
        Command::Ready(Ready {
            chunk,
            version,
            holders: vec![ReadyHolder { server, incarnation, clean_source: true }],
        }),
        Command::RepairDone(RepairDone {
            chunk,
            version,
            last_grant: None,
            server,
            incarnation,
            replaces: Some(ServerId(9)),
        }),
        Command::ReplicaLost { chunk, version, server },
        Command::GarbageDone { server, chunks: vec![(chunk, version)] },
        Command::StrayFound(StrayFound { server, chunk, version, row_version: Some(ChunkVersion(5)) }),
        Command::StrayFound(StrayFound { server, chunk, version, row_version: None }),
    ]
}

#[test]
fn every_command_comes_back() {
    let entry = Entry { feature_level: 1, time_ns: 12, commands: every_command() };
    assert_eq!(decode(encode(entry.clone())).unwrap(), entry);
}

#[test]
fn a_higher_feature_level_asks_for_an_upgrade() {
    let error = decode(encode(Entry { feature_level: FEATURE_LEVEL + 1, time_ns: 0, commands: vec![] })).unwrap_err();
    assert!(error.to_string().contains("upgrade this node"), "{error}");
}

#[test]
fn an_unknown_command_asks_for_an_upgrade() {
    // Field 200 of `Command`, length-delimited and empty: a command of some later release.
    let command = vec![0xc2, 0x0c, 0x00];
    let mut envelope = vec![0x08, 0x01, 0x1a, command.len() as u8];
    envelope.extend(command);
    let error = decode(envelope.into()).unwrap_err();
    assert!(error.to_string().contains("upgrade this node"), "{error}");
}

#[test]
fn impossible_values_are_refused() {
    let mut envelope = disk::Envelope { feature_level: 1, ..Default::default() };
    let command = disk::command::Command::StartIntent(disk::StartIntent { kind: 9, ..Default::default() });
    envelope.commands.push(disk::Command { command: Some(command) });
    assert!(decode(envelope.encode_to_vec().into()).is_err());
    assert!(decode(Bytes::from_static(&[0xff; 7])).is_err());
}
