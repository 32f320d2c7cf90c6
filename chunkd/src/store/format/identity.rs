//! `caribou-disk`: whose data folder it is (F1). One sector, replaced by rename.

use caribou_proto::ids::ServerId;

use super::super::request::ClusterIdentity;
use super::{Decoded, SECTOR, array_at, put, seal, u16_at, u64_at, unsealed};

pub(crate) const FORMAT: u16 = 1;
const MAGIC: &[u8; 8] = b"CARIBDSK";
const REGISTERED: u8 = 1;

/// Who a data folder belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) server_uuid: [u8; 16],
    pub(crate) disk_uuid: [u8; 16],
    /// Known from the first registration on.
    pub(crate) registered: Option<(ClusterIdentity, ServerId)>,
}

pub(crate) fn encode(identity: &Identity) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    put(&mut sector, 0, MAGIC);
    put(&mut sector, 8, &FORMAT.to_le_bytes());
    put(&mut sector, 40, &identity.server_uuid);
    put(&mut sector, 56, &identity.disk_uuid);
    if let Some((cluster, server)) = &identity.registered {
        sector[10] = REGISTERED;
        put(&mut sector, 12, &cluster.generation.to_le_bytes());
        put(&mut sector, 16, &cluster.uuid);
        put(&mut sector, 32, &cluster.nonce.to_le_bytes());
        put(&mut sector, 72, &server.0.to_le_bytes());
    }
    seal(&mut sector);
    sector
}

pub(crate) fn decode(sector: &[u8; SECTOR]) -> Decoded<Identity> {
    if let Some(wrong) = unsealed(sector) {
        return wrong;
    }
    if &sector[..8] != MAGIC || sector[10] > REGISTERED {
        return Decoded::Damaged;
    }
    let format = u16_at(sector, 8);
    if format > FORMAT {
        return Decoded::TooNew(format);
    }
    let registered = (sector[10] == REGISTERED).then(|| {
        let cluster =
            ClusterIdentity { uuid: array_at(sector, 16), generation: u16_at(sector, 12), nonce: u64_at(sector, 32) };
        (cluster, ServerId(u64_at(sector, 72)))
    });
    Decoded::Valid(Identity { server_uuid: array_at(sector, 40), disk_uuid: array_at(sector, 56), registered })
}
