//! Reads of blocks, judged by what was known before.

use std::sync::Arc;

use caribou_client::{Error, Files, OpenFile};
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::{BLOCK, Before, Blocks, FileModel, offset_of, write_of};
use crate::findings::Findings;
use crate::workload::caller;

/// The bytes of a block.
pub(super) async fn read(file: &OpenFile, block: u64) -> Result<Vec<u8>, Error> {
    let mut whole = file.read(offset_of(block), BLOCK as u32).await?.to_vec();
    // Behind the end there is nothing, which is as good as zeros.
    whole.resize(BLOCK, 0);
    Ok(whole)
}

/// Which write a block is of that has just been read, unless something is wrong with it. `before`: what was known before the file was opened.
pub(super) fn judge(model: &FileModel, before: &Blocks, block: u64, whole: &[u8], findings: &Findings) -> Option<u64> {
    let known = before.get(&block).cloned().unwrap_or_default();
    let at_least = known.synced.max(model.still_there(block, &known, findings));
    let at_most = model.known(block).latest;
    let inode = model.inode;
    let Some(write) = write_of(inode, block, whole) else {
        findings.violation(format!("P2: block {block} of file {inode} is mixed or another's: {:?}…", &whole[..32]));
        return None;
    };
    findings.check(write >= at_least, || {
        let rule = if write < known.synced { "P1" } else { "P2" };
        format!(
            "{rule}: block {block} of file {inode} is of write {write}; before it was read, write {} was synced and {} read: {known:?}",
            known.synced, known.seen
        )
    });
    findings.check(write <= at_most, || {
        format!("P2: block {block} of file {inode} is of write {write}, none was later than {at_most}")
    });
    (at_least..=at_most).contains(&write).then_some(write)
}

/// A file that another client may be writing, open to read it.
pub struct Reader {
    model: Arc<FileModel>,
    before: Before,
    file: Arc<OpenFile>,
}

impl Reader {
    /// Opens it.
    ///
    /// # Errors
    /// When the client is gone, or the file.
    pub async fn open(model: &Arc<FileModel>, files: &Files, findings: &Findings) -> Result<Self, Error> {
        let before = model.before(&findings.places);
        let (_, file) = files.open(&caller(), model.inode, 4, false).await?;
        Ok(Self { model: Arc::clone(model), before, file })
    }

    pub fn inode(&self) -> u64 {
        self.model.inode
    }

    /// Looks at any of its blocks.
    ///
    /// # Errors
    /// When the client is gone, or the file.
    pub async fn look_at_any(&self, rng: &mut StdRng, findings: &Findings) -> Result<(), Error> {
        self.look(rng.random_range(0..self.model.count), findings).await
    }

    async fn look(&self, block: u64, findings: &Findings) -> Result<(), Error> {
        let key = self.model.key(block);
        let place = || findings.places.get(key);
        let asked = place();
        let bytes = read(&self.file, block).await?;
        let write = judge(&self.model, &self.before.blocks, block, &bytes, findings);
        self.model.saw(block, write, [asked, place()], self.before.on_disks.contains(&key));
        Ok(())
    }

    pub async fn close(self) {
        self.file.release().await;
    }
}

/// Opens a file that another client may be writing, looks at some of its blocks, and closes it.
///
/// # Errors
/// When the client is gone.
pub async fn read_foreign(
    model: &Arc<FileModel>,
    files: &Files,
    rng: &mut StdRng,
    findings: &Findings,
) -> Result<(), Error> {
    let reader = Reader::open(model, files, findings).await?;
    for _ in 0..3 {
        reader.look_at_any(rng, findings).await?;
    }
    reader.close().await;
    findings.step();
    Ok(())
}

/// Every block of the file, at the end of a run.
///
/// # Errors
/// When the client is gone.
pub async fn read_all(model: &Arc<FileModel>, files: &Files, findings: &Findings) -> Result<(), Error> {
    let reader = Reader::open(model, files, findings).await?;
    for block in 0..model.count {
        reader.look(block, findings).await?;
    }
    reader.close().await;
    Ok(())
}
