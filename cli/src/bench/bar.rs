//! Draws progress on a terminal, from a thread of its own; nothing is drawn anywhere else.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::progress::{Progress, Stage};

/// How often it is drawn.
const DRAW: Duration = Duration::from_millis(100);

/// Drawing until it is dropped.
pub struct Drawing {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drawing {
    pub fn start(progress: Arc<Progress>) -> Self {
        let (end, ended) = channel();
        let thread = std::thread::spawn(move || draw(&progress, &ended));
        Self { end: Some(end), thread: Some(thread) }
    }
}

impl Drop for Drawing {
    fn drop(&mut self) {
        // The thread sees the channel closed, and takes the bar away before it ends.
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn draw(progress: &Progress, ended: &Receiver<()>) {
    let mut drawn: Option<(ProgressBar, Stage)> = None;
    while ended.recv_timeout(DRAW) == Err(RecvTimeoutError::Timeout) {
        let stage = progress.stage();
        let is_same = drawn.as_ref().is_some_and(|(_, d)| (&d.name, d.total) == (&stage.name, stage.total));
        if !is_same {
            if let Some((bar, _)) = drawn.take() {
                bar.finish_and_clear();
            }
            drawn = Some((bar_of(&stage), stage.clone()));
        }
        if let Some((bar, _)) = &drawn {
            bar.set_position(stage.done);
        }
    }
    if let Some((bar, _)) = drawn {
        bar.finish_and_clear();
    }
}

fn bar_of(stage: &Stage) -> ProgressBar {
    if stage.total == 0 {
        let style = ProgressStyle::with_template("{msg} {spinner} {human_pos}");
        let bar = ProgressBar::new_spinner().with_message(stage.name.clone());
        return bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    }
    let style = ProgressStyle::with_template("{msg:28} {wide_bar} {percent:>3} %");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(stage.total).with_style(style).with_message(stage.name.clone())
}
