//! One RocksDB instance of the state: options, families, checkpoints.

use std::path::Path;

use caribou_failpoints::{self as failpoints, Point};
use caribou_planted::{self as planted, Bug};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DataBlockIndexType,
    FlushOptions, Options, WriteBatch, WriteBufferManager, WriteOptions,
};

use super::StateError;
use crate::fsm::tables::{Changes, Table};
use crate::raft::codec::entry::{self, AppliedState};
use crate::raft::files::OwnedDir;

/// The family for what Raft itself has to know of the state.
const RAFT: &str = "raft";
const APPLIED: &[u8] = b"applied";
/// RocksDB's own, unused.
const DEFAULT: &str = "default";
const BLOOM_BITS: f64 = 10.0;
/// The filter's share of a write buffer.
const MEMTABLE_BLOOM_RATIO: f64 = 0.02;
/// A row that is not cached costs the decompression of a block.
const BLOCK_BYTES: usize = 8 << 10;
/// Rows for each bucket of a block's hash index.
const BLOCK_HASH_RATIO: f64 = 0.75;
const BACKGROUND_JOBS: i32 = 2;
/// A family's share of the write buffer before it is switched.
const FAMILY_SHARE: usize = 4;
/// So many files that flushes have made are merged, if nobody does it beside.
pub(super) const MERGE_FILES: u64 = 8;
pub(super) const FLUSHED_FILES: &str = "rocksdb.num-files-at-level0";

/// What all instances of this node share.
pub(super) struct Settings {
    cache: Cache,
    /// Counts the write buffers against the cache, so that both together stay within it.
    buffers: WriteBufferManager,
    write_buffer_bytes: usize,
    pub(super) merges_beside: bool,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "write buffer of {} bytes", self.write_buffer_bytes)
    }
}

impl Settings {
    pub(super) fn new(block_cache_bytes: usize, write_buffer_bytes: usize) -> Self {
        let cache = Cache::new_lru_cache(block_cache_bytes);
        let buffers = WriteBufferManager::new_write_buffer_manager_with_cache(write_buffer_bytes, false, cache.clone());
        Self { cache, buffers, write_buffer_bytes, merges_beside: true }
    }

    fn database(&self) -> Options {
        // A clean stop flushes before it closes; a close by itself must not wait for that.
        let options = Options::default().get_options_from_string("avoid_flush_during_shutdown=true");
        let mut options = options.expect("RocksDB has this option");
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        // Without a write-ahead log the families agree after a crash only if they are flushed together (STACK, RocksDB).
        options.set_atomic_flush(true);
        // There is one writer: what lets several at once in makes each insertion dearer.
        options.set_allow_concurrent_memtable_write(false);
        options.set_write_buffer_manager(&self.buffers);
        options.set_max_background_jobs(BACKGROUND_JOBS);
        options.set_keep_log_file_num(2);
        options
    }

    fn family(&self, name: &str) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.cache);
        table.set_block_size(BLOCK_BYTES);
        table.set_bloom_filter(BLOOM_BITS, false);
        // Index and filter blocks count against the cache too: memory stays bounded by configuration.
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        table.set_format_version(5);
        // Single rows are what is mostly asked for.
        table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
        table.set_data_block_hash_ratio(BLOCK_HASH_RATIO);
        let mut options = Options::default();
        options.set_block_based_table_factory(&table);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_write_buffer_size((self.write_buffer_bytes / FAMILY_SHARE).max(1 << 20));
        options.set_level_compaction_dynamic_level_bytes(true);
        options.set_disable_auto_compactions(!self.merges_beside);
        // Who asks for an inode has its number from another row: it is there, and a filter of the last level would only say so.
        options.set_optimize_filters_for_hits(name == Table::Inodes.name());
        // A create looks for a name that is not there: most such searches end in this filter. Rows of other tables are there when asked for.
        if name == Table::Dentries.name() {
            options.set_memtable_whole_key_filtering(true);
            options.set_memtable_prefix_bloom_ratio(MEMTABLE_BLOOM_RATIO);
        }
        options
    }

    fn families(&self) -> Vec<ColumnFamilyDescriptor> {
        let names = Table::ALL.iter().map(|t| t.name()).chain([RAFT]);
        names.map(|name| ColumnFamilyDescriptor::new(name, self.family(name))).collect()
    }
}

/// What a write does while RocksDB's flushes and compactions are behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stall {
    Wait,
    /// Fails with `Incomplete`.
    Refuse,
}

/// An open instance and its folder, which goes after it if it has become obsolete.
pub(super) struct StateDb {
    db: DB,
    dir: OwnedDir,
}

impl std::fmt::Debug for StateDb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "state in {}", self.dir.path().display())
    }
}

impl StateDb {
    pub(super) fn open(dir: OwnedDir, settings: &Settings) -> Result<Self, StateError> {
        let options = settings.database();
        if dir.path().join("CURRENT").exists() {
            let known = |name: &str| name == DEFAULT || name == RAFT || Table::ALL.iter().any(|t| t.name() == name);
            let unknown = DB::list_cf(&options, dir.path())?.into_iter().find(|name| !known(name));
            unknown.map_or(Ok(()), |name| Err(StateError::UnknownTable(name)))?;
        }
        let db = DB::open_cf_descriptors(&options, dir.path(), settings.families())?;
        Ok(Self { db, dir })
    }

    pub(super) fn mark_obsolete(&self) {
        self.dir.mark_obsolete();
    }

    pub(super) fn db(&self) -> &DB {
        &self.db
    }

    pub(super) fn family(&self, table: Table) -> &ColumnFamily {
        self.db.cf_handle(table.name()).expect("every table was opened with the store")
    }

    fn raft(&self) -> &ColumnFamily {
        self.db.cf_handle(RAFT).expect("opened with the store")
    }

    pub(super) fn applied(&self) -> Result<AppliedState, StateError> {
        match self.db.get_cf(self.raft(), APPLIED)? {
            Some(bytes) => Ok(entry::decode_applied(&bytes)?),
            None => Ok(AppliedState::default()),
        }
    }

    /// One atomic write: the changes and how far they bring the state.
    pub(super) fn commit(&self, changes: Changes, applied: &AppliedState, stall: Stall) -> Result<(), StateError> {
        let mut batch = WriteBatch::default();
        for ((table, key), value) in changes.into_rows() {
            match value {
                Some(value) => batch.put_cf(self.family(table), key, value),
                None => batch.delete_cf(self.family(table), key),
            }
        }
        let is_second = applied.log_id.is_some_and(|id| id.index() % 2 == 0);
        if !(planted::is(Bug::AppliedTwice) && is_second) {
            batch.put_cf(self.raft(), APPLIED, entry::encode_applied(applied));
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        options.set_no_slowdown(stall == Stall::Refuse);
        failpoints::pass(Point::ApplyUnwritten);
        self.db.write_opt(batch, &options)?;
        failpoints::pass(Point::ApplyWritten);
        Ok(())
    }

    /// What a planted bug does.
    pub(super) fn forget_inline_data(&self) -> Result<(), StateError> {
        Ok(self.db.delete_range_cf(self.family(Table::Inline), &[0; 1][..], &[u8::MAX; 9][..])?)
    }

    fn all(&self) -> Vec<&ColumnFamily> {
        Table::ALL.iter().map(|t| self.family(*t)).chain([self.raft()]).collect()
    }

    pub(super) fn flush(&self) -> Result<(), rocksdb::Error> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        failpoints::pass(Point::FlushBegun);
        self.db.flush_cfs_opt(&self.all(), &options)?;
        failpoints::pass(Point::Flushed);
        Ok(())
    }

    /// Merges the files of tables that have many, and waits for it. What is not flushed would be flushed by it.
    pub(super) fn merge(&self) -> Result<(), rocksdb::Error> {
        for family in self.all() {
            let files = self.db.property_int_value_cf(family, FLUSHED_FILES)?;
            if files.is_some_and(|files| files >= MERGE_FILES) {
                self.db.compact_range_cf(family, None::<&[u8]>, None::<&[u8]>);
            }
        }
        Ok(())
    }

    /// Hard links and a flush; what is applied meanwhile may or may not be in it.
    pub(super) fn checkpoint(&self, path: &Path) -> Result<(), StateError> {
        Ok(Checkpoint::new(&self.db)?.create_checkpoint(path)?)
    }
}

/// How far the state in a closed folder has come.
pub(super) fn applied_in(path: &Path, settings: &Settings) -> Result<AppliedState, StateError> {
    let db = DB::open_cf_for_read_only(&settings.database(), path, [DEFAULT, RAFT], false)?;
    let family = db.cf_handle(RAFT).expect("opened with the store");
    match db.get_cf(family, APPLIED)? {
        Some(bytes) => Ok(entry::decode_applied(&bytes)?),
        None => Ok(AppliedState::default()),
    }
}
