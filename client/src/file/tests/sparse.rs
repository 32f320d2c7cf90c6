//! A replica's bytes: blocks that were written, zeros elsewhere.

use std::collections::BTreeMap;

const BLOCK: usize = 4096;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sparse {
    blocks: BTreeMap<usize, Vec<u8>>,
}

impl Sparse {
    pub(super) fn write(&mut self, offset: usize, data: &[u8]) {
        let mut at = 0;
        while at < data.len() {
            let (number, within) = ((offset + at) / BLOCK, (offset + at) % BLOCK);
            let len = (BLOCK - within).min(data.len() - at);
            let block = self.blocks.entry(number).or_insert_with(|| vec![0; BLOCK]);
            block[within..within + len].copy_from_slice(&data[at..at + len]);
            at += len;
        }
    }

    pub(super) fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        for (number, block) in self.blocks.range(offset / BLOCK..) {
            let start = (number * BLOCK).max(offset);
            let end = ((number + 1) * BLOCK).min(offset + len);
            if start >= end {
                break;
            }
            data[start - offset..end - offset].copy_from_slice(&block[start - number * BLOCK..end - number * BLOCK]);
        }
        data
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.blocks.split_off(&len.div_ceil(BLOCK));
        if let Some(block) = self.blocks.get_mut(&(len / BLOCK)) {
            block[len % BLOCK..].fill(0);
        }
    }
}
