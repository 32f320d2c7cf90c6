//! Waiting for what nobody tells of: it is looked at again and again, as long as there is patience.

use std::time::{Duration, Instant};

/// Whether something comes true in time. It is looked at once at least, and for the last time when the patience is over.
pub async fn until(patience: Duration, look: Duration, mut is_true: impl AsyncFnMut() -> bool) -> bool {
    let end = Instant::now() + patience;
    loop {
        if is_true().await {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        tokio::time::sleep(look).await;
    }
}

/// The same on a thread that may stand still meanwhile.
pub fn until_blocking(patience: Duration, look: Duration, mut is_true: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + patience;
    loop {
        if is_true() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(look);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(600);
    const LOOK: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn what_comes_true_ends_the_wait_and_so_does_patience() {
        let mut looks = 0;
        let third = async || {
            looks += 1;
            looks == 3
        };
        assert!(until(LONG, LOOK, third).await);
        assert_eq!(looks, 3);
        assert!(!until(3 * LOOK, LOOK, async || false).await);
        assert!(until(Duration::ZERO, LOOK, async || true).await, "looked at once at least");
    }

    #[test]
    fn the_same_without_a_runtime() {
        let mut looks = 0;
        let third = || {
            looks += 1;
            looks == 3
        };
        assert!(until_blocking(LONG, LOOK, third));
        assert_eq!(looks, 3);
        assert!(!until_blocking(3 * LOOK, LOOK, || false));
        assert!(until_blocking(Duration::ZERO, LOOK, || true), "looked at once at least");
    }
}
