//! What happens in tasks that nobody waits for: panics, and errors that the programs log. In a run both are findings. What else Caribou logs is
//! recorded.

use std::cell::RefCell;
use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Once};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::{EnvFilter, Registry};

use crate::findings::Findings;

/// Errors that come with machines that go down, or are being cut off; each is a part of the text.
const EXPECTED: [&str; 5] = [
    // What still runs of a chunk server that is off.
    "the power is off",
    // A chunk server's disk was made to fail.
    "Input/output error (os error 5)",
    // The library's own words for calls that were under way when a node ended.
    "raft stopped",
    "failed to receive from RaftCore: None",
    "failed to send HeartbeatProgress",
];

struct Listener {
    findings: Arc<Findings>,
    /// How to run the same again.
    again: String,
}

thread_local! {
    static LISTENER: RefCell<Option<Listener>> = const { RefCell::new(None) };
}

/// Until it is dropped, this thread's panics and logged errors are findings.
pub struct Hearing {
    _subscriber: tracing::subscriber::DefaultGuard,
}

impl Hearing {
    pub fn of(findings: Arc<Findings>, again: String) -> Self {
        hear_panics();
        LISTENER.set(Some(Listener { findings, again }));
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("off"));
        let printed = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_filter(filter);
        let heard = Targets::new().with_default(LevelFilter::ERROR).with_target("caribou", LevelFilter::DEBUG);
        let subscriber = Registry::default().with(printed).with(Ear.with_filter(heard));
        Self { _subscriber: tracing::subscriber::set_default(subscriber) }
    }
}

impl Drop for Hearing {
    fn drop(&mut self) {
        LISTENER.set(None);
    }
}

/// A finding of a task that has nobody to tell.
pub fn violation(what: String) {
    LISTENER.with_borrow(|listener| {
        if let Some(listener) = listener {
            listener.findings.violation(what);
        }
    });
}

fn note(what: String) {
    LISTENER.with_borrow(|listener| {
        if let Some(listener) = listener {
            listener.findings.heard(what);
        }
    });
}

/// A block is damaged because this run has damaged it, or a replica out of reach because its disk fails; or the caller is told too, and judges
/// it; or the file is gone, as it may be.
fn is_explained(line: &str) -> bool {
    let explains = |findings: &Findings| {
        let Findings { rotten, failing, contested, sessions, .. } = findings;
        rotten.explains(line) || failing.explains(line) || contested.explains(line) || sessions.explains(line)
    };
    LISTENER.with_borrow(|listener| listener.as_ref().is_some_and(|listener| explains(&listener.findings)))
}

/// A task's panic ends the task, which nobody may notice; in a release build it ends the program, and then the way to see it again is all that is left.
fn hear_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            before(panic);
            LISTENER.with_borrow(|listener| {
                if let Some(listener) = listener {
                    eprintln!("again: {}", listener.again);
                }
            });
            violation(format!("a panic: {panic}"));
        }));
    });
}

struct Ear;

impl<S: Subscriber> Layer<S> for Ear {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // What is logged here is said already.
        if event.metadata().target().starts_with("caribou_simulation") {
            return;
        }
        let mut text = Text(event.metadata().target().to_owned());
        event.record(&mut text);
        if *event.metadata().level() != Level::ERROR || is_explained(&text.0) {
            note(text.0);
        } else if !EXPECTED.iter().any(|expected| text.0.contains(expected)) {
            violation(format!("logged as an error: {}", text.0));
        }
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, ": {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}
