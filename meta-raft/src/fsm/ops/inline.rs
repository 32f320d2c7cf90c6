//! The first chunk of a small file, in the metadata (I1): what write-ends, cuts, purges and the move into a chunk do to its row.

use caribou_proto::ids::{InodeId, MAX_INLINE_BYTES};

use crate::fsm::command::InlineWrite;
use crate::fsm::error::Fatal;
use crate::fsm::ops::Op;
use crate::fsm::tables::{Tables, file_chunks, inline};

/// The end of the furthest byte of these writes.
pub(super) fn end(writes: &[InlineWrite]) -> u64 {
    writes.iter().map(|write| u64::from(write.offset) + write.data.len() as u64).max().unwrap_or(0)
}

/// I2: whether these writes may go into the metadata: they are short, and the file has no first chunk, not even a new one.
pub(super) fn is_open(tables: &dyn Tables, inode: InodeId, writes: &[InlineWrite]) -> Result<bool, Fatal> {
    let short = !writes.is_empty() && end(writes) <= u64::from(MAX_INLINE_BYTES);
    Ok(short && file_chunks::get(tables, inode, 0)?.is_none())
}

/// I2: lays the writes over what is there. The caller has made sure that they may, and that none ends beyond the committed length.
pub(super) fn write(op: &mut Op<'_, '_>, inode: InodeId, writes: &[InlineWrite]) -> Result<(), Fatal> {
    let mut bytes = inline::get(op.txn, inode)?.unwrap_or_default();
    for write in writes {
        let (start, end) = (write.offset as usize, write.offset as usize + write.data.len());
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(&write.data);
    }
    inline::put(op.txn, inode, &bytes);
    Ok(())
}

/// I5: nothing is left at or beyond `length`.
pub(super) fn cut(op: &mut Op<'_, '_>, inode: InodeId, length: u64) -> Result<(), Fatal> {
    if length >= u64::from(MAX_INLINE_BYTES) {
        return Ok(());
    }
    let Some(bytes) = inline::get(op.txn, inode)?.filter(|bytes| bytes.len() as u64 > length) else { return Ok(()) };
    match length {
        0 => inline::remove(op.txn, inode),
        _ => inline::put(op.txn, inode, &bytes[..length as usize]),
    }
    Ok(())
}

/// I3: whether a new first chunk that holds `count` bytes of inline data holds all that there are; else they would be lost with its write-end.
pub(super) fn has_moved(tables: &dyn Tables, inode: InodeId, count: u32) -> Result<bool, Fatal> {
    Ok(inline::get(tables, inode)?.is_none_or(|bytes| bytes.len() == count as usize))
}

/// I3: the first chunk has its first write-end with this record.
pub(super) fn leave(op: &mut Op<'_, '_>, inode: InodeId) -> Result<(), Fatal> {
    if inline::get(op.txn, inode)?.is_some() {
        inline::remove(op.txn, inode);
    }
    Ok(())
}
