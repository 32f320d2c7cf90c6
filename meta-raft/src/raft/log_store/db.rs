//! The log's RocksDB instance: column family `log` (`index` as 8 bytes, big-endian → entry) and `meta` (`vote`, `purged`).

use std::io;
use std::path::Path;

use bytes::Bytes;
use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, Direction, IteratorMode, Options,
    WriteBatch, WriteOptions,
};

use crate::raft::codec::entry;
use crate::raft::files;
use crate::raft::types::{Entry, LogId, Vote};

const LOG: &str = "log";
const META: &str = "meta";
const VOTE: &[u8] = b"vote";
const PURGED: &[u8] = b"purged";
const WRITE_BUFFER_BYTES: usize = 64 << 20;
const MAX_WAL_BYTES: u64 = 128 << 20;

/// The store; all methods block.
#[derive(Debug)]
pub(super) struct LogDb {
    db: DB,
}

pub(super) fn store_error(e: rocksdb::Error) -> io::Error {
    io::Error::other(e)
}

impl LogDb {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        files::create_dir(dir)?;
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        // A torn last record was never acknowledged; damage anywhere else must be seen, not skipped.
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        options.set_max_total_wal_size(MAX_WAL_BYTES);
        options.set_keep_log_file_num(2);
        let mut family = Options::default();
        family.set_write_buffer_size(WRITE_BUFFER_BYTES);
        family.set_compression_type(DBCompressionType::Lz4);
        let families = [LOG, META].map(|name| ColumnFamilyDescriptor::new(name, family.clone()));
        Ok(Self { db: DB::open_cf_descriptors(&options, dir, families).map_err(store_error)? })
    }

    fn family(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("opened with the store")
    }

    pub(super) fn vote(&self) -> io::Result<Option<Vote>> {
        let row = self.db.get_cf(self.family(META), VOTE).map_err(store_error)?;
        row.map(|bytes| entry::decode_vote(&bytes).map_err(Into::into)).transpose()
    }

    pub(super) fn purged(&self) -> io::Result<Option<LogId>> {
        let row = self.db.get_cf(self.family(META), PURGED).map_err(store_error)?;
        row.map(|bytes| entry::decode_log_id(&bytes).map_err(Into::into)).transpose()
    }

    /// Visits `(index, bytes)` of all entries after `purged`; the last one's log id. A hole is an error.
    pub(super) fn scan(&self, purged: Option<LogId>, mut visit: impl FnMut(u64, u64)) -> io::Result<Option<LogId>> {
        let from = purged.map_or(0, |id| id.index() + 1);
        let mut last: Option<(u64, Box<[u8]>)> = None;
        for row in self.db.iterator_cf(self.family(LOG), IteratorMode::From(&from.to_be_bytes(), Direction::Forward)) {
            let (key, value) = row.map_err(store_error)?;
            let index = index_of(&key)?;
            let follows = match (&last, purged) {
                (Some((before, _)), _) => before + 1 == index,
                (None, Some(_)) => index == from,
                (None, None) => true,
            };
            if !follows {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("the log has a hole before entry {index}"),
                ));
            }
            visit(index, value.len() as u64);
            last = Some((index, value));
        }
        last.map(|(index, value)| Ok(entry::decode_entry(index, Bytes::from(value))?.log_id)).transpose()
    }

    /// Entries of `[start, end)`, without holes: at most `max_bytes`, but at least one if there is one.
    pub(super) fn read(&self, start: u64, end: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        for row in self.db.iterator_cf(self.family(LOG), IteratorMode::From(&start.to_be_bytes(), Direction::Forward)) {
            let (key, value) = row.map_err(store_error)?;
            let index = index_of(&key)?;
            bytes += value.len();
            if index >= end || index != start + entries.len() as u64 || (bytes > max_bytes && !entries.is_empty()) {
                break;
            }
            entries.push(entry::decode_entry(index, Bytes::from(value))?);
        }
        Ok(entries)
    }

    pub(super) fn batch(&self) -> Batch<'_> {
        Batch { db: self, rows: WriteBatch::default() }
    }

    /// Gives table files that hold only purged entries back at once.
    pub(super) fn drop_files_below(&self, index: u64) -> io::Result<()> {
        self.db.delete_file_in_range_cf(self.family(LOG), 0u64.to_be_bytes(), index.to_be_bytes()).map_err(store_error)
    }
}

/// Changes that reach the disk together.
pub(super) struct Batch<'a> {
    db: &'a LogDb,
    rows: WriteBatch,
}

impl Batch<'_> {
    pub(super) fn bytes(&self) -> usize {
        self.rows.size_in_bytes()
    }

    pub(super) fn put(&mut self, e: &Entry) {
        self.rows.put_cf(self.db.family(LOG), e.log_id.index().to_be_bytes(), entry::encode_entry(e));
    }

    pub(super) fn put_vote(&mut self, vote: &Vote) {
        self.rows.put_cf(self.db.family(META), VOTE, entry::encode_vote(vote));
    }

    pub(super) fn truncate(&mut self, from: u64) {
        self.rows.delete_range_cf(self.db.family(LOG), from.to_be_bytes(), u64::MAX.to_be_bytes());
    }

    pub(super) fn purge(&mut self, upto: LogId) {
        self.rows.put_cf(self.db.family(META), PURGED, entry::encode_log_id(upto));
        self.rows.delete_range_cf(self.db.family(LOG), 0u64.to_be_bytes(), (upto.index() + 1).to_be_bytes());
    }

    /// One fsync.
    pub(super) fn commit(self) -> io::Result<()> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db.db.write_opt(self.rows, &options).map_err(store_error)
    }
}

fn index_of(key: &[u8]) -> io::Result<u64> {
    let bytes =
        key.try_into().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the log has a key that is no index"))?;
    Ok(u64::from_be_bytes(bytes))
}
