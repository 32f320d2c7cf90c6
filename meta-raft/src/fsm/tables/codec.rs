//! How rows and keys are written: a leading format byte, variable-length integers in rows, big-endian integers in keys.
//!
//! Every decode is checked to the last byte; a row that does not decode is a broken invariant and stops the node ([`Fatal`]).
//! Encodings change only with the feature level: a new layout gets a new format byte, old ones decode for ever.

use super::{Table, Tables, Visit};
use crate::fsm::error::Fatal;

/// The first byte of every row of feature level 1.
pub(crate) const ROW_FORMAT: u8 = 1;

/// Writes one row.
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Starts a row of the present format.
    pub(crate) fn row() -> Self {
        Self::row_of(16)
    }

    /// The same, with room for this many bytes.
    pub(crate) fn row_of(bytes: usize) -> Self {
        let mut bytes = Vec::with_capacity(bytes);
        bytes.push(ROW_FORMAT);
        Self { bytes }
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes.push(value);
        self
    }

    pub(crate) fn bool(&mut self, value: bool) -> &mut Self {
        self.u8(u8::from(value))
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.u64(u64::from(value))
    }

    /// Seven bits a byte, lowest first.
    pub(crate) fn u64(&mut self, mut value: u64) -> &mut Self {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
        self
    }

    /// Eight bytes; for times, which are never short.
    pub(crate) fn i64(&mut self, value: i64) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A length and the bytes.
    pub(crate) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.u64(value.len() as u64);
        self.bytes.extend_from_slice(value);
        self
    }

    /// Bytes whose length the reader knows, or the rest of the row.
    pub(crate) fn raw(&mut self, value: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(value);
        self
    }

    pub(crate) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}

/// Reads one row or key; `table` is for the error message.
pub(crate) struct Reader<'a> {
    table: Table,
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts a row; checks its format byte.
    pub(crate) fn row(table: Table, bytes: &'a [u8]) -> Result<Self, Fatal> {
        let mut reader = Self { table, bytes };
        match reader.u8()? {
            ROW_FORMAT => Ok(reader),
            other => Err(reader.corrupt(&format!("row format {other}: upgrade this node"))),
        }
    }

    /// Starts a key.
    pub(crate) fn key(table: Table, bytes: &'a [u8]) -> Self {
        Self { table, bytes }
    }

    /// The error for a row that cannot be.
    pub(crate) fn corrupt(&self, what: &str) -> Fatal {
        Fatal(format!("corrupt row in table {}: {what}", self.table.name()))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Fatal> {
        let Some((head, tail)) = self.bytes.split_at_checked(count) else {
            return Err(self.corrupt("it ends too early"));
        };
        self.bytes = tail;
        Ok(head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Fatal> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn bool(&mut self) -> Result<bool, Fatal> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.corrupt(&format!("{other} is not a truth value"))),
        }
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Fatal> {
        let value = self.u64()?;
        u32::try_from(value).map_err(|_| self.corrupt(&format!("{value} has more than 32 bits")))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Fatal> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.corrupt("a number has more than 64 bits"))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Fatal> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// A big-endian number of a key.
    pub(crate) fn be64(&mut self) -> Result<u64, Fatal> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A big-endian number of a key.
    pub(crate) fn be32(&mut self) -> Result<u32, Fatal> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fatal> {
        Ok(self.take(N)?.try_into().expect("take gives what was asked for"))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Fatal> {
        let length = self.u64()?;
        let length = usize::try_from(length).map_err(|_| self.corrupt("a length is too large"))?;
        self.take(length)
    }

    pub(crate) fn string(&mut self) -> Result<String, Fatal> {
        let bytes = self.bytes()?;
        String::from_utf8(bytes.to_vec()).map_err(|_| self.corrupt("a text is not UTF-8"))
    }

    /// All that is left; the last call.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.bytes
    }

    /// Nothing may be left; the last call.
    pub(crate) fn end(self) -> Result<(), Fatal> {
        if self.bytes.is_empty() { Ok(()) } else { Err(self.corrupt("bytes are left at its end")) }
    }
}

/// The key of one number.
pub(crate) fn key1(a: u64) -> [u8; 8] {
    a.to_be_bytes()
}

/// The key of two numbers.
pub(crate) fn key2(a: u64, b: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&a.to_be_bytes());
    key[8..].copy_from_slice(&b.to_be_bytes());
    key
}

/// The key of a number and a name.
pub(crate) fn key_name(a: u64, name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(8 + name.len());
    key.extend_from_slice(&a.to_be_bytes());
    key.extend_from_slice(name);
    key
}

/// What looks at rows.
pub(crate) type RowVisitor<'a> = dyn FnMut(&[u8], &[u8]) -> Result<Visit, Fatal> + 'a;

/// Visits the rows whose key starts with `prefix`, from `from` on, in key order; the first error ends it.
pub(crate) fn scan_prefix(
    tables: &dyn Tables,
    table: Table,
    prefix: &[u8],
    from: &[u8],
    visit: &mut RowVisitor<'_>,
) -> Result<(), Fatal> {
    let mut failed = None;
    tables.scan(table, from, &mut |key, value| {
        if !key.starts_with(prefix) {
            return Visit::Stop;
        }
        visit(key, value).unwrap_or_else(|fatal| {
            failed = Some(fatal);
            Visit::Stop
        })
    })?;
    failed.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back() {
        let mut w = Writer::row();
        w.u8(7).bool(true).u32(u32::MAX).u64(u64::MAX).u64(0).i64(-5).bytes(b"name").raw(b"tail");
        let row = w.finish();
        let mut r = Reader::row(Table::Meta, &row).unwrap();
        assert_eq!((r.u8().unwrap(), r.bool().unwrap()), (7, true));
        assert_eq!((r.u32().unwrap(), r.u64().unwrap(), r.u64().unwrap()), (u32::MAX, u64::MAX, 0));
        assert_eq!((r.i64().unwrap(), r.bytes().unwrap(), r.rest()), (-5, &b"name"[..], &b"tail"[..]));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Reader::row(Table::Meta, &[]).is_err());
        assert!(Reader::row(Table::Meta, &[9]).is_err());
        assert!(Reader::key(Table::Meta, &[0x80; 11]).u64().is_err());
        assert!(Reader::key(Table::Meta, &[0xff; 10]).u64().is_err());
        assert!(Reader::key(Table::Meta, &[5, 1]).bytes().is_err());
        assert!(Reader::key(Table::Meta, &[2]).bool().is_err());
        assert!(Reader::key(Table::Meta, &[2]).end().is_err());
    }
}
