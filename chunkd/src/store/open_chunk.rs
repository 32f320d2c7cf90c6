//! A chunk's file while it is open: its table in memory, and how header and table reach the disk (V4).

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use caribou_proto::ids::ChunkId;

use super::disk::DiskFile;
use super::format::header::{self, Header, Owner, StoredHeader};
use super::format::table::{self as table_format, SECTORS, TABLES, TableSector};
use super::format::{Decoded, SECTOR, sector_of};
use super::slots::{SLOTS, Slots};
use super::table::Table;

/// An open file and what is known of its header's and table's places.
pub(crate) struct OpenChunk {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) table: Table,
    header_slots: Slots,
    table_slots: [Slots; SECTORS],
    /// Some copy of a sector is damaged: all copies are to be written anew when the replica is completed.
    pub(crate) scarred: bool,
}

/// The header copies of a file.
pub(crate) struct FoundHeader {
    pub(crate) newest: Option<StoredHeader>,
    slot: usize,
    /// A copy is damaged, so the newest may be missing.
    pub(crate) damaged: bool,
    pub(crate) too_new: Option<u16>,
}

/// Reads the header copies; cheap, used for every file at start.
pub(crate) fn find_header(file: &dyn DiskFile) -> io::Result<FoundHeader> {
    let mut bytes = vec![0; header::HEADERS_BYTES];
    file.read_at(&mut bytes, 0)?;
    let mut found = FoundHeader { newest: None, slot: 0, damaged: false, too_new: None };
    for slot in 0..SLOTS {
        match header::decode(&sector_of(&bytes[header::offset(slot) as usize..])) {
            Decoded::Valid(stored) => {
                if found.newest.is_none_or(|newest| newest.stamp.sequence < stored.stamp.sequence) {
                    found.newest = Some(stored);
                    found.slot = slot;
                }
            }
            Decoded::Empty => {}
            Decoded::Damaged => found.damaged = true,
            Decoded::TooNew(format) => found.too_new = Some(format),
        }
    }
    Ok(found)
}

/// The copies of one table sector.
pub(crate) struct FoundSector {
    /// Newest first; only those that may be the last synced one or newer (V2: all are candidates after an unclean stop).
    pub(crate) candidates: Vec<TableSector>,
    newest_slot: usize,
    damaged: bool,
}

impl FoundSector {
    /// A copy is unreadable.
    pub(crate) fn damaged(&self) -> bool {
        self.damaged
    }
}

/// Reads all copies of the table.
pub(crate) fn find_table(file: &dyn DiskFile, chunk: ChunkId) -> io::Result<Vec<FoundSector>> {
    let mut bytes = vec![0; (TABLES.end - TABLES.start) as usize];
    file.read_at(&mut bytes, TABLES.start)?;
    let found = (0..SECTORS).map(|index| {
        let mut damaged = false;
        let mut copies: Vec<(usize, TableSector)> = Vec::new();
        for slot in 0..SLOTS {
            let at = (table_format::offset(slot, index) - TABLES.start) as usize;
            match table_format::decode(&sector_of(&bytes[at..at + SECTOR]), chunk, index) {
                Decoded::Valid(sector) => copies.push((slot, sector)),
                Decoded::Empty => {}
                Decoded::Damaged | Decoded::TooNew(_) => damaged = true,
            }
        }
        copies.sort_by_key(|(_, sector)| std::cmp::Reverse(sector.stamp.sequence));
        let synced = copies.first().map_or(0, |(_, newest)| newest.stamp.synced);
        copies.retain(|(_, sector)| sector.stamp.sequence >= synced);
        let newest_slot = copies.first().map_or(0, |(slot, _)| *slot);
        FoundSector { candidates: copies.into_iter().map(|(_, sector)| sector).collect(), newest_slot, damaged }
    });
    Ok(found.collect())
}

impl OpenChunk {
    /// A file just created.
    pub(crate) fn fresh(file: Arc<dyn DiskFile>) -> Self {
        let (header_slots, table_slots) = (Slots::default(), [Slots::default(); SECTORS]);
        Self { file, table: Table::new(), header_slots, table_slots, scarred: false }
    }

    /// Loads the table. All that was written to the file is durable: it is clean, or the caller has synced it.
    pub(crate) fn load(file: Arc<dyn DiskFile>, chunk: ChunkId) -> io::Result<Self> {
        let header = find_header(file.as_ref())?;
        let mut open = Self::fresh(file);
        open.header_slots = Slots::loaded(header.newest.map(|stored| (header.slot, stored.stamp.sequence)));
        open.scarred = header.damaged;
        for (index, found) in find_table(open.file.as_ref(), chunk)?.into_iter().enumerate() {
            if let Some(newest) = found.candidates.first() {
                open.table.load(newest);
                open.table_slots[index] = Slots::loaded(Some((found.newest_slot, newest.stamp.sequence)));
            }
            if found.damaged {
                // The damaged copy may be the newest: an older one must not stand in for it.
                open.table.distrust(index);
                open.scarred = true;
            }
        }
        Ok(open)
    }

    pub(crate) fn write_header(&mut self, owner: Owner, header: Header) -> io::Result<()> {
        let (slot, stamp) = self.header_slots.next();
        let sector = header::encode(&StoredHeader { owner, header, stamp });
        self.file.write_at(&sector, header::offset(slot))
    }

    /// Writes the entries of some table sectors.
    pub(crate) fn write_table(&mut self, chunk: ChunkId, sectors: RangeInclusive<usize>) -> io::Result<()> {
        for index in sectors {
            let (slot, stamp) = self.table_slots[index].next();
            let sector = table_format::encode(&self.table.store(chunk, index, stamp));
            self.file.write_at(&sector, table_format::offset(slot, index))?;
        }
        Ok(())
    }

    pub(crate) fn begin_sync(&mut self) {
        self.header_slots.begin_sync();
        self.table_slots.iter_mut().for_each(Slots::begin_sync);
    }

    pub(crate) fn end_sync(&mut self) {
        self.header_slots.end_sync();
        self.table_slots.iter_mut().for_each(Slots::end_sync);
    }
}
