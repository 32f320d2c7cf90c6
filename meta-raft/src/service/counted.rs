//! A stream whose messages are counted: those of clients' sessions, in both directions. For operators; nothing depends on it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use tokio_stream::Stream;

use super::node::Node;

pub(crate) struct Counted<S> {
    stream: S,
    node: Arc<Node>,
}

impl<S> Counted<S> {
    pub(super) fn new(stream: S, node: Arc<Node>) -> Self {
        Self { stream, node }
    }
}

impl<S: Stream + Unpin> Stream for Counted<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let next = Pin::new(&mut self.stream).poll_next(cx);
        if let Poll::Ready(Some(_)) = &next {
            self.node.counters.messages.fetch_add(1, Ordering::Relaxed);
        }
        next
    }
}
