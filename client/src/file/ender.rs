//! Ends grants in batches (W7): one record for the grants of many files. Knows nothing of the files; who hands a grant in has
//! made sure that it is clean.

use std::sync::Arc;
use std::time::Duration;

use caribou_proto::meta::v1::{EndGrants, ReplyBody, WrittenChunk, mutation::Op};
use tokio::sync::{mpsc, oneshot};

use super::ports::{Metadata, own_caller};
use crate::Error;

/// Grants of one record.
const MAX_BATCH: usize = 256;
/// The first grant of a batch waits this long for others.
const GATHER: Duration = Duration::from_millis(10);
/// Grants that wait for their turn; more wait outside.
const MAX_QUEUE: usize = 4096;

type Item = (WrittenChunk, oneshot::Sender<Result<bool, Error>>);

/// See the head of this file.
pub(crate) struct Ender {
    queue: mpsc::Sender<Item>,
}

impl Ender {
    pub(crate) fn new(meta: Arc<dyn Metadata>) -> Self {
        let (queue, items) = mpsc::channel(MAX_QUEUE);
        tokio::spawn(run(meta, items));
        Self { queue }
    }

    /// Ends a grant; true if it was no longer current (W9).
    pub(crate) async fn end(&self, chunk: WrittenChunk) -> Result<bool, Error> {
        let gone = || Error::Fatal("the files have been shut down".to_owned());
        let (reply, answer) = oneshot::channel();
        self.queue.send((chunk, reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// A leader that names no chunks names only their indices within files: among many files an ended grant may then be taken for a lost one,
/// which costs one more grant, and nothing else.
fn is_lost(body: &ReplyBody, chunk: &WrittenChunk) -> bool {
    match body.lost_chunks.is_empty() {
        true => body.lost.contains(&chunk.index),
        false => body.lost_chunks.contains(&chunk.chunk),
    }
}

async fn run(meta: Arc<dyn Metadata>, mut items: mpsc::Receiver<Item>) {
    let mut batch: Vec<Item> = Vec::new();
    while items.recv_many(&mut batch, MAX_BATCH).await > 0 {
        if batch.len() < MAX_BATCH {
            tokio::time::sleep(GATHER).await;
            while batch.len() < MAX_BATCH
                && let Ok(item) = items.try_recv()
            {
                batch.push(item);
            }
        }
        let chunks = batch.iter().map(|(chunk, _)| *chunk).collect();
        let result = meta.mutate(own_caller(), Op::EndGrants(EndGrants { chunks })).await;
        for (chunk, reply) in batch.drain(..) {
            let lost = result.as_ref().map(|body| is_lost(body, &chunk)).map_err(Clone::clone);
            // A file that no longer listens has been given up.
            let _ = reply.send(lost);
        }
    }
}
