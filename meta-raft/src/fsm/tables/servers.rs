//! `Servers` and `ServerUuids`: the chunk servers that have ever registered (F3).
//!
//! Key: server id; index `uuid → server`. Free and total bytes are those of the last registration; the leader has newer ones in memory.

use caribou_proto::ids::{Incarnation, ServerId};

use super::codec::{Reader, Writer, key1, scan_prefix};
use super::{Table, Tables, Txn, Visit};
use crate::fsm::error::Fatal;

/// A chunk server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub uuid: [u8; 16],
    /// `host:port` of its data service.
    pub address: String,
    /// The highest that it has registered with.
    pub incarnation: Incarnation,
    /// The leader has a control stream of this incarnation, or has not yet noticed its end.
    pub up: bool,
    pub total_bytes: u64,
    pub free_bytes: u64,
}

impl Server {
    fn decode(row: &[u8]) -> Result<Self, Fatal> {
        let mut r = Reader::row(Table::Servers, row)?;
        let server = Self {
            uuid: r.array()?,
            incarnation: Incarnation(r.u64()?),
            up: r.bool()?,
            total_bytes: r.u64()?,
            free_bytes: r.u64()?,
            address: r.string()?,
        };
        r.end()?;
        Ok(server)
    }
}

pub fn get(tables: &dyn Tables, id: ServerId) -> Result<Option<Server>, Fatal> {
    tables.get(Table::Servers, &key1(id.0))?.map(|row| Server::decode(&row)).transpose()
}

/// Whether the server is up in exactly this incarnation.
pub fn is_up_as(tables: &dyn Tables, id: ServerId, incarnation: Incarnation) -> Result<bool, Fatal> {
    Ok(get(tables, id)?.is_some_and(|s| s.up && s.incarnation == incarnation))
}

/// All servers, in the order of their ids (DESIGN 7: about a thousand).
pub fn all(tables: &dyn Tables) -> Result<Vec<(ServerId, Server)>, Fatal> {
    let mut found = Vec::new();
    scan_prefix(tables, Table::Servers, &[], &[], &mut |key, row| {
        let mut reader = Reader::key(Table::Servers, key);
        let id = ServerId(reader.be64()?);
        reader.end()?;
        found.push((id, Server::decode(row)?));
        Ok(Visit::Next)
    })?;
    Ok(found)
}

pub fn by_uuid(tables: &dyn Tables, uuid: &[u8; 16]) -> Result<Option<ServerId>, Fatal> {
    let Some(row) = tables.get(Table::ServerUuids, uuid)? else { return Ok(None) };
    let mut reader = Reader::row(Table::ServerUuids, &row)?;
    let id = ServerId(reader.u64()?);
    reader.end()?;
    Ok(Some(id))
}

pub(crate) fn put(txn: &mut Txn<'_>, id: ServerId, server: &Server) {
    let mut w = Writer::row();
    w.raw(&server.uuid).u64(server.incarnation.0).bool(server.up).u64(server.total_bytes).u64(server.free_bytes);
    w.bytes(server.address.as_bytes());
    txn.put(Table::Servers, key1(id.0), w.finish());
    txn.put(Table::ServerUuids, server.uuid, Writer::row().u64(id.0).finish());
}
