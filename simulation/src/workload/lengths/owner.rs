//! The one client that changes a file: writes at odd places, appends, cuts, growth, all by the calls that a mount makes. It sees its own calls
//! at once, whatever happens to the cluster meanwhile.

use std::ops::Range;
use std::sync::Arc;

use caribou_client::{Error, Files, OpenFile};
use caribou_proto::meta::v1::{Create, SetAttr};
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::content::Change;
use super::draws;
use super::ledger::Ledger;
use crate::findings::Findings;
use crate::workload::caller;

/// Access of an open: reads and writes.
const READ_WRITE: u32 = 6;

/// See the module.
pub struct Owner {
    ledger: Arc<Ledger>,
    file: Arc<OpenFile>,
    rng: StdRng,
}

impl Owner {
    /// Creates the file.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn create(name: &str, files: &Files, rng: StdRng) -> Result<Self, Error> {
        let name = name.as_bytes().to_vec().into();
        let create = Create { parent: 1, name, mode: 0o644, exclusive: true, access: READ_WRITE, ..Create::default() };
        let created = files.create(&caller(), create).await?;
        Ok(Self { ledger: Arc::new(Ledger::new(created.attr.inode)), file: created.file, rng })
    }

    pub fn ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.ledger)
    }

    /// One call, and what it brings compared with what it must be.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn step(&mut self, files: &Files, findings: &Findings) -> Result<(), Error> {
        let size = self.ledger.size();
        match self.rng.random_range(0..20) {
            0..8 => {
                let range = draws::write(&mut self.rng);
                self.write(&range, findings).await?;
            }
            8..10 => match draws::append(&mut self.rng, size) {
                Some(range) => self.append(&range, findings).await?,
                None => self.sync(findings).await?,
            },
            10..12 if size > 0 => {
                let shorter = draws::shorter(&mut self.rng, size);
                self.resize(shorter, files, findings).await?;
            }
            10..13 => {
                let longer = draws::longer(&mut self.rng, size);
                self.resize(longer, files, findings).await?;
            }
            13..15 => self.sync(findings).await?,
            15 => self.reopen(files, findings).await?,
            16..19 => {
                let range = draws::read(&mut self.rng, size);
                let read = self.file.read(range.start, (range.end - range.start) as u32).await?;
                self.ledger.judge_own(&range, &read, findings);
            }
            _ => {
                let attr = files.getattr(&caller(), self.ledger.inode).await?;
                self.check_size("asked for", attr.size, findings);
            }
        }
        findings.step();
        Ok(())
    }

    async fn write(&mut self, range: &Range<u64>, findings: &Findings) -> Result<(), Error> {
        let data = self.ledger.write(range, findings);
        self.file.write(range.start, data).await
    }

    /// Nobody else moves the end, so where it is is known beforehand.
    async fn append(&mut self, range: &Range<u64>, findings: &Findings) -> Result<(), Error> {
        let data = self.ledger.write(range, findings);
        let at = self.file.append(data).await?;
        findings.check(at == range.start, || {
            format!("own writes: bytes are appended to file {} at {at}, it ends at {}", self.ledger.inode, range.start)
        });
        Ok(())
    }

    /// As ftruncate comes to the mount: an open file's buffer is written back first, and cut too.
    async fn resize(&mut self, size: u64, files: &Files, findings: &Findings) -> Result<(), Error> {
        self.ledger.call(Change::Resize(size), findings);
        let inode = self.ledger.inode;
        let set = SetAttr { inode, size: Some(size), by_handle: true, ..SetAttr::default() };
        let attr = files.setattr(&caller(), set).await?;
        self.ledger.closed(findings);
        self.check_size("of the new size", attr.size, findings);
        Ok(())
    }

    /// # Errors
    /// When the client is gone.
    pub async fn sync(&mut self, findings: &Findings) -> Result<(), Error> {
        self.file.sync(false).await?;
        self.ledger.synced(findings);
        Ok(())
    }

    async fn reopen(&mut self, files: &Files, findings: &Findings) -> Result<(), Error> {
        self.file.flush().await?;
        self.ledger.closed(findings);
        self.file.release().await;
        let (attr, file) = files.open(&caller(), self.ledger.inode, READ_WRITE, false).await?;
        self.file = file;
        self.check_size("of an open", attr.size, findings);
        Ok(())
    }

    fn check_size(&self, of: &str, size: u64, findings: &Findings) {
        let (inode, right) = (self.ledger.inode, self.ledger.size());
        findings.check(size == right, || {
            format!("own writes: file {inode} has {size} bytes by the attributes {of}, it must have {right}")
        });
    }
}
