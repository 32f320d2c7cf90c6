//! Messages that only say what has been committed wait for company, and so do their answers.
//!
//! After each commit the library tells the followers at once, also where the next entries would tell them a moment later. Those messages
//! (two, and their answers) stand between a commit and its reply: they are made before the entry is applied here, and wake followers that
//! then compete with the reply for the processors. Held back for a moment they leave together with the next entries, in one write. Only
//! the time at which they leave changes: none is left out, and the order stays.

use std::time::Duration;

use futures::{Stream, StreamExt as _};

/// How long such a message waits at most.
const PATIENCE: Duration = Duration::from_millis(2);

/// `messages`, those that `can_wait` held back until the next one is there, [`PATIENCE`] at most. The first one never waits.
pub(super) fn in_company<T>(
    messages: impl Stream<Item = T> + Unpin,
    can_wait: impl Fn(&T) -> bool,
) -> impl Stream<Item = T> {
    // Looked at again after its end, while a message is held.
    let messages = messages.fuse();
    let state = State { messages, can_wait, held: None, next: None, begun: false };
    futures::stream::unfold(state, |mut state| async move { state.step().await.map(|message| (message, state)) })
}

struct State<S, T, F> {
    messages: S,
    can_wait: F,
    held: Option<T>,
    /// Came while another was held.
    next: Option<T>,
    begun: bool,
}

impl<T, S: Stream<Item = T> + Unpin, F: Fn(&T) -> bool> State<S, T, F> {
    async fn step(&mut self) -> Option<T> {
        if self.held.is_none() {
            let message = match self.next.take() {
                Some(message) => message,
                None => self.messages.next().await?,
            };
            let waits = self.begun && (self.can_wait)(&message);
            self.begun = true;
            if !waits {
                return Some(message);
            }
            self.held = Some(message);
        }
        if let Ok(next) = tokio::time::timeout(PATIENCE, self.messages.next()).await {
            self.next = next;
        }
        self.held.take()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio::time::Instant;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::*;

    /// Negative numbers can wait.
    fn company(messages: mpsc::UnboundedReceiver<i32>) -> impl Stream<Item = i32> {
        in_company(UnboundedReceiverStream::new(messages), |message| *message < 0)
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_the_next_one_and_goes_before_it() {
        let (send, messages) = mpsc::unbounded_channel();
        let mut stream = std::pin::pin!(company(messages));
        let started = Instant::now();
        send.send(-1).unwrap();
        assert_eq!(stream.next().await, Some(-1), "the first one does not wait");
        assert_eq!(started.elapsed(), Duration::ZERO);
        send.send(-2).unwrap();
        tokio::spawn(async move {
            tokio::time::sleep(PATIENCE / 2).await;
            send.send(3).unwrap();
            send.send(4).unwrap();
        });
        assert_eq!(stream.next().await, Some(-2));
        assert_eq!(started.elapsed(), PATIENCE / 2);
        assert_eq!(stream.next().await, Some(3));
        assert_eq!(stream.next().await, Some(4));
        assert_eq!(started.elapsed(), PATIENCE / 2);
        assert_eq!(stream.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn does_not_wait_longer_than_its_patience() {
        let (send, messages) = mpsc::unbounded_channel();
        let mut stream = std::pin::pin!(company(messages));
        send.send(1).unwrap();
        assert_eq!(stream.next().await, Some(1));
        let started = Instant::now();
        for message in [-2, -3] {
            send.send(message).unwrap();
        }
        // One that can wait is company too, and waits then for the next.
        assert_eq!(stream.next().await, Some(-2));
        assert_eq!(started.elapsed(), Duration::ZERO);
        assert_eq!(stream.next().await, Some(-3));
        assert!(started.elapsed() >= PATIENCE);
        drop(send);
        assert_eq!(stream.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_lets_it_go() {
        // The library's stream is of this kind: it must not be polled after its end.
        let messages =
            futures::stream::unfold([1, -2].into_iter(), |mut left| async { left.next().map(|m| (m, left)) });
        let mut stream = std::pin::pin!(in_company(Box::pin(messages), |message| *message < 0));
        let started = Instant::now();
        assert_eq!(stream.next().await, Some(1));
        assert_eq!(stream.next().await, Some(-2));
        assert_eq!(stream.next().await, None);
        assert_eq!(started.elapsed(), Duration::ZERO);
    }
}
