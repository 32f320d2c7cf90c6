//! One call on its way through the session task: its reply channel, and what happens when its caller gives it up (S5).

use caribou_proto::meta::v1::{Caller, Open, ReplyBody, mutation};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::QueryOp;
use crate::Error;

/// Names a call within this process, whatever stream or session it is sent in.
pub(crate) type CallId = u64;
pub(crate) type CallResult = Result<ReplyBody, Error>;
pub(crate) type Replier = oneshot::Sender<CallResult>;

/// What the handles ask of the session task.
#[derive(Debug)]
pub(crate) enum Command {
    Mutate {
        call: CallId,
        caller: Caller,
        op: mutation::Op,
        reply: Replier,
    },
    Query {
        call: CallId,
        caller: Caller,
        op: QueryOp,
        reply: Replier,
    },
    Open {
        call: CallId,
        caller: Caller,
        open: Open,
        reply: Replier,
    },
    /// S5: nobody waits for this call any more.
    GiveUp {
        call: CallId,
    },
    /// S7: one handle less on this inode.
    ReleaseClaim {
        inode: u64,
    },
    /// Ends the task; waiting calls fail.
    Close,
}

/// The caller's half of a call. Dropping it before the answer gives the call up; an answer that nobody has seen yet gives
/// back the claim that came with it.
pub(crate) struct PendingCall {
    id: CallId,
    claims: bool,
    answer: oneshot::Receiver<CallResult>,
    seen: bool,
    commands: mpsc::UnboundedSender<Command>,
    _permit: OwnedSemaphorePermit,
}

impl PendingCall {
    pub(crate) fn new(
        id: CallId,
        claims: bool,
        answer: oneshot::Receiver<CallResult>,
        commands: mpsc::UnboundedSender<Command>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self { id, claims, answer, seen: false, commands, _permit: permit }
    }

    pub(crate) async fn wait(mut self) -> CallResult {
        let answer = (&mut self.answer).await;
        self.seen = true;
        answer.unwrap_or_else(|_| Err(shut_down()))
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        if self.seen {
            return;
        }
        self.answer.close();
        // A send fails only when the task has ended: nothing is left to be told then.
        match self.answer.try_recv() {
            Ok(Ok(body)) if self.claims => {
                if let Some(attr) = body.attr {
                    let _ = self.commands.send(Command::ReleaseClaim { inode: attr.inode });
                }
            }
            Ok(_) => {}
            Err(_) => {
                let _ = self.commands.send(Command::GiveUp { call: self.id });
            }
        }
    }
}

pub(crate) fn shut_down() -> Error {
    Error::Fatal("this client has been shut down".to_owned())
}
