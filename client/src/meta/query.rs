//! The calls that are not logged, one variant per field of `meta.v1.Query` that callers may use.
//! Open, release and claims-complete are missing on purpose: only `claims.rs` sends those (S7).

use caribou_proto::meta::v1::{
    Access, Caller, GetAttr, GetXattr, ListXattr, Locate, Lookup, Query, ReadDir, ReadLink, StatFs, WaitChunk,
};

/// A read, answered under the leader's lease; re-sent on a new leader until it is answered.
#[derive(Clone, Debug, PartialEq)]
pub enum QueryOp {
    /// Reply: attr.
    Lookup(Lookup),
    /// Reply: attr.
    GetAttr(GetAttr),
    /// Reply: bytes.
    ReadLink(ReadLink),
    /// Reply: entries, `end_of_directory`.
    ReadDir(ReadDir),
    /// Reply: bytes.
    GetXattr(GetXattr),
    /// Reply: names.
    ListXattr(ListXattr),
    /// Reply: statfs.
    StatFs(StatFs),
    /// Reply: empty, or EACCES.
    Access(Access),
    /// Reply: chunks, length.
    Locate(Locate),
    /// Reply: chunks, length; takes up to a second.
    WaitChunk(WaitChunk),
}

impl QueryOp {
    pub(crate) fn into_query(self, id: u64, caller: Caller) -> Query {
        let mut query = Query { id, caller: Some(caller), ..Query::default() };
        match self {
            Self::Lookup(op) => query.lookup = Some(op),
            Self::GetAttr(op) => query.getattr = Some(op),
            Self::ReadLink(op) => query.readlink = Some(op),
            Self::ReadDir(op) => query.readdir = Some(op),
            Self::GetXattr(op) => query.getxattr = Some(op),
            Self::ListXattr(op) => query.listxattr = Some(op),
            Self::StatFs(op) => query.statfs = Some(op),
            Self::Access(op) => query.access = Some(op),
            Self::Locate(op) => query.locate = Some(op),
            Self::WaitChunk(op) => query.wait_chunk = Some(op),
        }
        query
    }
}
