//! One chunk's row: its fields and their encoding.

use caribou_proto::ids::{CHUNK_BYTES, ChunkVersion, GrantId, Incarnation, InodeId, ServerId, SessionId};

use crate::fsm::command::IntentKind;
use crate::fsm::error::Fatal;
use crate::fsm::tables::Table;
use crate::fsm::tables::codec::{Reader, Writer};

/// A replica's place, with the incarnation that the last Ready, RepairDone or creation named (V1: a version number alone counts for nothing).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Replica {
    pub server: ServerId,
    pub incarnation: Incarnation,
}

/// The live grant (W1, F3). Its holders are the row's replicas, which do not change while it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    pub id: GrantId,
    pub session: SessionId,
    /// W8: another client waits for its end.
    pub recalled: bool,
}

/// A grant that ended by force: what Ready needs to know whether a source stayed up since (W5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The grant's holders and the incarnations that it named.
    pub holders: Vec<Replica>,
}

/// V1: `version` is being prepared; nobody reads or writes before its Ready. Its holders are the row's replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    pub kind: IntentKind,
    pub version: ChunkVersion,
    /// Bytes of the chunk at or beyond it become a hole: every Intent cuts at the committed length, the lowest since the last Ready.
    /// `CHUNK_BYTES` cuts nothing.
    pub cut: u32,
    /// The last grant that ended by force since the last Ready.
    pub ended: Option<Ended>,
}

/// W5, ADR 5: nobody but `session` gets a grant until it has resent or ended, so that its older bytes do not overwrite newer ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    pub session: SessionId,
    /// No source stayed up: nobody else gets a location either.
    pub reads: bool,
    /// The lowest truncation since the session's last write-end under a grant of the chunk: what it told before, from here on, is not resent.
    /// `CHUNK_BYTES`: none.
    pub clip: u32,
}

/// A chunk (W, V and R rules).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub inode: InodeId,
    pub index: u32,
    /// Storage class: see `classes`.
    pub class: u32,
    /// The version of the last Ready, 1 for a chunk that never had one; it never goes back.
    pub version: ChunkVersion,
    /// Chain order, head first; never empty (R3).
    pub replicas: Vec<Replica>,
    /// W2: before its first write-end; a hole to readers. Such a chunk has a live grant and no Intent.
    pub new: bool,
    /// F3: the highest grant given for this chunk, or the number of a later cut by another session than its writer's.
    pub last_grant: GrantId,
    /// W5: the last grant that ended by force, of whose holders no source stayed up until Ready, and whose session ended before it had resent: what
    /// was written under it and not synced may be gone for good.
    pub unkept: Option<GrantId>,
    pub grant: Option<Grant>,
    pub intent: Option<Intent>,
    pub hold: Option<Hold>,
}

const NEW: u8 = 1;
const GRANT: u8 = 2;
const RECALLED: u8 = 4;
const INTENT: u8 = 8;
const ENDED: u8 = 16;
const HOLD: u8 = 32;
const HOLD_READS: u8 = 64;
const UNKEPT: u8 = 128;

impl Chunk {
    pub fn replica(&self, server: ServerId) -> Option<&Replica> {
        self.replicas.iter().find(|r| r.server == server)
    }

    /// The highest version that any server may have heard of.
    pub fn highest_version(&self) -> ChunkVersion {
        self.intent.as_ref().map_or(self.version, |i| i.version)
    }

    /// Where a file of `length` bytes ends within this chunk.
    pub fn cut_at(&self, length: u64) -> u32 {
        let start = u64::from(self.index) * CHUNK_BYTES;
        length.saturating_sub(start).min(CHUNK_BYTES) as u32
    }

    /// M12: where it was cut since the last write-end of the session that it is held for; `None` for all others.
    pub fn clip_of(&self, session: SessionId) -> Option<u32> {
        let clip = self.hold.filter(|hold| hold.session == session)?.clip;
        (u64::from(clip) < CHUNK_BYTES).then_some(clip)
    }

    /// S4: the session that it was held for has ended: nobody is waited for.
    pub(crate) fn forsake(&mut self) {
        if self.hold.take().is_some_and(|hold| hold.reads) {
            self.unkept = Some(self.last_grant);
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let flag = |bit: u8, set: bool| if set { bit } else { 0 };
        let ended = self.intent.as_ref().and_then(|i| i.ended.as_ref());
        let flags = flag(NEW, self.new)
            | flag(GRANT, self.grant.is_some())
            | flag(RECALLED, self.grant.is_some_and(|g| g.recalled))
            | flag(INTENT, self.intent.is_some())
            | flag(ENDED, ended.is_some())
            | flag(HOLD, self.hold.is_some())
            | flag(HOLD_READS, self.hold.is_some_and(|h| h.reads))
            | flag(UNKEPT, self.unkept.is_some());
        let mut w = Writer::row();
        w.u8(flags).u64(self.inode.0).u32(self.index).u32(self.class).u64(self.version.0).u64(self.last_grant.0);
        write_replicas(&mut w, &self.replicas);
        if let Some(unkept) = self.unkept {
            w.u64(unkept.0);
        }
        if let Some(grant) = &self.grant {
            w.u64(grant.id.0).u64(grant.session.0);
        }
        if let Some(intent) = &self.intent {
            w.u8(intent.kind as u8).u64(intent.version.0).u32(intent.cut);
        }
        if let Some(ended) = ended {
            write_replicas(&mut w, &ended.holders);
        }
        if let Some(hold) = &self.hold {
            w.u64(hold.session.0).u32(hold.clip);
        }
        w.finish()
    }

    pub(crate) fn decode(row: &[u8]) -> Result<Self, Fatal> {
        let mut r = Reader::row(Table::Chunks, row)?;
        let flags = r.u8()?;
        let has = |bit: u8| flags & bit != 0;
        let (inode, index, class) = (InodeId(r.u64()?), r.u32()?, r.u32()?);
        let (version, last_grant) = (ChunkVersion(r.u64()?), GrantId(r.u64()?));
        let replicas = read_replicas(&mut r)?;
        let unkept = if has(UNKEPT) { Some(GrantId(r.u64()?)) } else { None };
        let grant = match has(GRANT) {
            true => Some(Grant { id: GrantId(r.u64()?), session: SessionId(r.u64()?), recalled: has(RECALLED) }),
            false => None,
        };
        let mut intent = match has(INTENT) {
            true => {
                let kind = r.u8()?;
                let kind = kind_from(kind).ok_or_else(|| r.corrupt(&format!("Intent of kind {kind}")))?;
                Some(Intent { kind, version: ChunkVersion(r.u64()?), cut: r.u32()?, ended: None })
            }
            false => None,
        };
        if has(ENDED) {
            let ended = Ended { holders: read_replicas(&mut r)? };
            match intent.as_mut() {
                Some(intent) => intent.ended = Some(ended),
                None => return Err(r.corrupt("an ended grant without an Intent")),
            }
        }
        let hold = match has(HOLD) {
            true => Some(Hold { session: SessionId(r.u64()?), reads: has(HOLD_READS), clip: r.u32()? }),
            false => None,
        };
        r.end()?;
        Ok(Self { inode, index, class, version, replicas, new: has(NEW), last_grant, unkept, grant, intent, hold })
    }
}

fn kind_from(number: u8) -> Option<IntentKind> {
    [IntentKind::Bump, IntentKind::Recover, IntentKind::Cut].into_iter().find(|k| *k as u8 == number)
}

fn write_replicas(w: &mut Writer, replicas: &[Replica]) {
    w.u64(replicas.len() as u64);
    for replica in replicas {
        w.u64(replica.server.0).u64(replica.incarnation.0);
    }
}

fn read_replicas(r: &mut Reader<'_>) -> Result<Vec<Replica>, Fatal> {
    (0..r.u64()?).map(|_| Ok(Replica { server: ServerId(r.u64()?), incarnation: Incarnation(r.u64()?) })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn replicas() -> impl Strategy<Value = Vec<Replica>> {
        prop::collection::vec(
            (any::<u64>(), any::<u64>())
                .prop_map(|(s, i)| Replica { server: ServerId(s), incarnation: Incarnation(i) }),
            0..4,
        )
    }

    fn chunk() -> impl Strategy<Value = Chunk> {
        let grant = (any::<u64>(), any::<u64>(), any::<bool>()).prop_map(|(id, session, recalled)| Grant {
            id: GrantId(id),
            session: SessionId(session),
            recalled,
        });
        let ended = replicas().prop_map(|holders| Ended { holders });
        let intent = (1u8..4, any::<u64>(), any::<u32>(), prop::option::of(ended)).prop_map(|(k, v, cut, ended)| {
            Intent { kind: kind_from(k).unwrap(), version: ChunkVersion(v), cut, ended }
        });
        let hold = (any::<u64>(), any::<bool>(), any::<u32>()).prop_map(|(s, reads, clip)| Hold {
            session: SessionId(s),
            reads,
            clip,
        });
        let rest =
            (prop::option::of(grant), prop::option::of(intent), prop::option::of(hold), replicas(), any::<bool>());
        let grants = (any::<u64>(), prop::option::of(any::<u64>()));
        (any::<u64>(), any::<u32>(), any::<u32>(), any::<u64>(), grants, rest).prop_map(
            |(inode, index, class, version, (last, unkept), (grant, intent, hold, replicas, new))| Chunk {
                inode: InodeId(inode),
                index,
                class,
                version: ChunkVersion(version),
                replicas,
                new,
                last_grant: GrantId(last),
                unkept: unkept.map(GrantId),
                grant,
                intent,
                hold,
            },
        )
    }

    proptest! {
        #[test]
        fn a_row_comes_back(chunk in chunk()) {
            prop_assert_eq!(Chunk::decode(&chunk.encode()).unwrap(), chunk);
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Chunk::decode(&bytes);
        }
    }
}
