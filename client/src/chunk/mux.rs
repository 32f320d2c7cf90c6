//! Many calls on one stream. One task owns the link, gives each request its number and hands the answer with the same number
//! back. Requests leave in the order in which they were submitted (W3: fragments of a chunk are applied in that order).
//!
//! A link that breaks, falls silent or cannot be opened fails every call that waits for it, and the multiplexer is done for;
//! nothing is ever sent a second time (W4). Who wants to go on takes a new one from the pool (`servers.rs`).
//!
//! The queue has no bound of its own: writers are bounded by the window of each chunk and the write buffer, readers by the
//! reads and the read-ahead that wait for them.

use std::collections::HashMap;
use std::time::Duration;

use caribou_proto::chunk::v1::{ReadReply, ReadRequest, WriteAck, WriteFragment};
use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::{Link, LinkError};

/// With something in flight and no answer at all for this long, the stream is taken for broken although the server still
/// answers the transport's pings (those find a dead server within two seconds): its disk or its process hangs.
const SILENCE: Duration = Duration::from_secs(20);
/// Opening takes no longer than this, whatever the transport thinks.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// A stream that nobody has used for this long is closed.
const IDLE: Duration = Duration::from_secs(60);

/// A message that carries the number of its call.
pub(crate) trait Numbered: Send + 'static {
    fn number(&self) -> u64;
    fn set_number(&mut self, number: u64);
}

macro_rules! numbered {
    ($($message:ty),*) => {$(
        impl Numbered for $message {
            fn number(&self) -> u64 {
                self.id
            }
            fn set_number(&mut self, number: u64) {
                self.id = number;
            }
        }
    )*};
}
numbered!(WriteFragment, WriteAck, ReadRequest, ReadReply);

type Replier<Reply> = oneshot::Sender<Result<Reply, LinkError>>;

/// The callers' end. Dropping it ends the stream once the calls under way are answered.
pub(crate) struct Mux<Request, Reply> {
    calls: mpsc::UnboundedSender<(Request, Replier<Reply>)>,
}

impl<Request: Numbered, Reply: Numbered> Mux<Request, Reply> {
    /// Opens a stream in the background; calls may be submitted at once.
    pub(crate) fn open(opening: BoxFuture<'static, Result<Link<Request, Reply>, LinkError>>) -> Self {
        let (calls, queue) = mpsc::unbounded_channel();
        tokio::spawn(run(opening, queue));
        Self { calls }
    }

    /// Sends a request; its answer, or the end of the stream, comes out of the receiver. Never waits.
    pub(crate) fn submit(&self, request: Request) -> oneshot::Receiver<Result<Reply, LinkError>> {
        let (replier, answer) = oneshot::channel();
        if let Err(mpsc::error::SendError((_, replier))) = self.calls.send((request, replier)) {
            // The receiver is in this function: it listens.
            let _ = replier.send(Err(LinkError("the stream has ended".to_owned())));
        }
        answer
    }

    /// True once the stream is broken.
    pub(crate) fn is_closed(&self) -> bool {
        self.calls.is_closed()
    }
}

/// What an answer channel gives, in one word: a mux that is gone counts as a broken stream.
pub(crate) fn answer<Reply>(
    received: Result<Result<Reply, LinkError>, oneshot::error::RecvError>,
) -> Result<Reply, LinkError> {
    received.unwrap_or_else(|_| Err(LinkError("the stream has ended".to_owned())))
}

async fn run<Request: Numbered, Reply: Numbered>(
    opening: BoxFuture<'static, Result<Link<Request, Reply>, LinkError>>,
    mut queue: mpsc::UnboundedReceiver<(Request, Replier<Reply>)>,
) {
    let opened = tokio::time::timeout(OPEN_TIMEOUT, opening).await;
    let link = opened.unwrap_or_else(|_| Err(LinkError(format!("the stream did not open within {OPEN_TIMEOUT:?}"))));
    let mut waiting = HashMap::new();
    let error = match link {
        Ok(link) => serve(link, &mut queue, &mut waiting).await,
        Err(error) => error,
    };
    queue.close();
    while let Ok((_, replier)) = queue.try_recv() {
        let _ = replier.send(Err(error.clone()));
    }
    // A caller that no longer listens has given its call up.
    for (_, replier) in waiting {
        let _ = replier.send(Err(error.clone()));
    }
}

/// Runs until the stream is of no more use; says why.
async fn serve<Request: Numbered, Reply: Numbered>(
    link: Link<Request, Reply>,
    queue: &mut mpsc::UnboundedReceiver<(Request, Replier<Reply>)>,
    waiting: &mut HashMap<u64, Replier<Reply>>,
) -> LinkError {
    let Link { requests, mut replies } = link;
    let mut next = 1;
    let mut outgoing: Option<Request> = None;
    let mut last_sign = Instant::now();
    loop {
        let patience = if waiting.is_empty() { IDLE } else { SILENCE };
        tokio::select! {
            biased;
            reply = replies.next() => match reply {
                Some(Ok(reply)) => {
                    last_sign = Instant::now();
                    if let Some(replier) = waiting.remove(&reply.number()) {
                        let _ = replier.send(Ok(reply));
                    }
                }
                Some(Err(error)) => return error,
                None => return LinkError("the server ended the stream".to_owned()),
            },
            permit = requests.reserve(), if outgoing.is_some() => match permit {
                Ok(permit) => permit.send(outgoing.take().expect("the branch is taken only with a message")),
                Err(_) => return LinkError("the server no longer takes messages".to_owned()),
            },
            call = queue.recv(), if outgoing.is_none() => match call {
                Some((mut request, replier)) => {
                    if waiting.is_empty() {
                        last_sign = Instant::now();
                    }
                    request.set_number(next);
                    waiting.insert(next, replier);
                    outgoing = Some(request);
                    next += 1;
                }
                // Nobody can call any more. The answers under way are still wanted by those who wait for them.
                None if waiting.is_empty() => return LinkError("the stream has been closed".to_owned()),
                None => drain(&mut replies, waiting).await,
            },
            () = tokio::time::sleep_until(last_sign + patience) => {
                return LinkError(if waiting.is_empty() {
                    "the stream was idle".to_owned()
                } else {
                    format!("no answer for {SILENCE:?}")
                });
            }
        }
    }
}

/// Hands out the answers that are still on their way.
async fn drain<Reply: Numbered>(
    replies: &mut futures::stream::BoxStream<'static, Result<Reply, LinkError>>,
    waiting: &mut HashMap<u64, Replier<Reply>>,
) {
    while !waiting.is_empty() {
        match tokio::time::timeout(SILENCE, replies.next()).await {
            Ok(Some(Ok(reply))) => {
                if let Some(replier) = waiting.remove(&reply.number()) {
                    let _ = replier.send(Ok(reply));
                }
            }
            _ => waiting.clear(),
        }
    }
}
