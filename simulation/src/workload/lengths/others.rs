//! Who reads a file that another client may be changing.

use std::ops::Range;

use caribou_client::{Error, Files, OpenFile};
use rand::rngs::StdRng;

use super::draws;
use super::history::Bound;
use super::ledger::Ledger;
use crate::findings::Findings;
use crate::workload::caller;

/// Access of an open.
const READ: u32 = 4;
/// Reads of one open.
const READS: usize = 3;

async fn look(
    ledger: &Ledger,
    bound: &Bound,
    file: &OpenFile,
    range: &Range<u64>,
    findings: &Findings,
) -> Result<(), Error> {
    let read = file.read(range.start, (range.end - range.start) as u32).await?;
    ledger.judge(bound, range, &read, findings);
    Ok(())
}

/// Opens the file, looks at some of it and at its size, and closes it.
///
/// # Errors
/// When the client is gone.
pub async fn read_foreign(ledger: &Ledger, files: &Files, rng: &mut StdRng, findings: &Findings) -> Result<(), Error> {
    let bound = ledger.bound();
    let (attr, file) = files.open(&caller(), ledger.inode, READ, false).await?;
    ledger.judge_size(&bound, attr.size, findings);
    for _ in 0..READS {
        let range = draws::read(rng, attr.size);
        look(ledger, &bound, &file, &range, findings).await?;
    }
    let attr = files.getattr(&caller(), ledger.inode).await?;
    ledger.judge_size(&bound, attr.size, findings);
    file.release().await;
    findings.step();
    Ok(())
}

/// All of the file, at the end of a run.
///
/// # Errors
/// When the client is gone.
pub async fn read_all(ledger: &Ledger, files: &Files, findings: &Findings) -> Result<(), Error> {
    let bound = ledger.bound();
    let (attr, file) = files.open(&caller(), ledger.inode, READ, false).await?;
    ledger.judge_size(&bound, attr.size, findings);
    for range in &draws::WINDOWS {
        look(ledger, &bound, &file, range, findings).await?;
    }
    file.release().await;
    Ok(())
}
