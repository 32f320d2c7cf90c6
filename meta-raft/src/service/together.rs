//! Replies that are ready together leave together.
//!
//! An entry answers many calls, each in a task of its own. The stream is woken by the first of them, runs right behind it, and would send each
//! reply in a frame and a system call of its own. While several calls are under way it lets those who are ready to run go first, once.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use caribou_proto::meta::v1::ServerMessage;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::Stream;
use tonic::Status;

/// With no more calls than this under way a reply leaves at once.
const FEW: usize = 2;

pub(crate) struct Together {
    replies: mpsc::Receiver<Result<ServerMessage, Status>>,
    /// Whose permits the calls under way hold, and how many there are.
    room: Arc<Semaphore>,
    calls: usize,
    has_waited: bool,
}

impl Together {
    pub(super) fn new(
        replies: mpsc::Receiver<Result<ServerMessage, Status>>,
        room: Arc<Semaphore>,
        calls: usize,
    ) -> Self {
        Self { replies, room, calls, has_waited: false }
    }

    fn is_busy(&self) -> bool {
        self.calls.saturating_sub(self.room.available_permits()) > FEW
    }
}

impl Stream for Together {
    type Item = Result<ServerMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if !self.has_waited && !self.replies.is_empty() && self.is_busy() {
            self.has_waited = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let next = self.replies.poll_recv(cx);
        if next.is_pending() {
            self.has_waited = false;
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use caribou_proto::meta::v1::{Renewed, server_message};
    use futures::{FutureExt as _, StreamExt as _};

    use super::*;

    fn message(stamp: u64) -> Result<ServerMessage, Status> {
        Ok(ServerMessage { body: Some(server_message::Body::Renewed(Renewed { stamp })) })
    }

    #[tokio::test]
    async fn a_reply_lets_others_go_first_while_calls_are_under_way() {
        let (outbox, replies) = mpsc::channel(8);
        let room = Arc::new(Semaphore::new(8));
        let mut stream = Together::new(replies, room.clone(), 8);
        outbox.send(message(1)).await.unwrap();
        assert!(stream.next().now_or_never().is_some(), "nobody else is to be expected");
        let _calls = room.acquire_many(3).await.unwrap();
        outbox.send(message(2)).await.unwrap();
        assert!(stream.next().now_or_never().is_none());
        outbox.send(message(3)).await.unwrap();
        for stamp in [2, 3] {
            let next = stream.next().now_or_never().expect("once is enough").expect("open").unwrap();
            assert_eq!(next.body, Some(server_message::Body::Renewed(Renewed { stamp })));
        }
        assert!(stream.next().now_or_never().is_none(), "empty");
        outbox.send(message(4)).await.unwrap();
        assert!(stream.next().await.is_some(), "it waits anew, and wakes itself");
        drop(outbox);
        assert!(stream.next().await.is_none());
    }
}
