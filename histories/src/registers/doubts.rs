//! Values that nothing has synced, as far as anybody knows. They may be lost, but what is gone does not come back (P2), and whoever is gone writes
//! nothing any more (P3).
//!
//! A value is *settled* once one of these is true. Whatever a later call writes comes after it.
//!
//! - It has been shown: its write has been answered, or somebody else than its writer, who sees what is still on its way, has read it. It takes
//!   effect once, and a client that was away sends again what others may have seen only if nobody has written there since (docs/semantics.md).
//! - Its writer is gone for good. What is still on its way is of a grant that was given before; whoever writes later has a newer one, or changes the
//!   data generation that it names, and then nobody takes it any more (W5, F3, docs/adr/0005).
//!
//! So when such a write has been shown, and is not lost itself, no read gives the value. A read alone settles nothing more: what was shown and is
//! lost may come back with its writer, and even of a writer that has died just then it may be on its way a second time.

use std::collections::BTreeMap;

use super::{Contradiction, Event, Kind, NEVER, Values, by_value, write_of};

/// What is doubtful of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// It need not be there.
    pub may_be_lost: bool,
    /// Since when its writer is gone for good; [`NEVER`]: it is there, or may come back.
    pub gone: u64,
}

/// By value.
pub type Doubts = BTreeMap<u64, Doubt>;

/// Writes that nobody knows the end of: each of them may be lost. `gone` says since when whoever has called it is gone.
pub fn unknown(events: &[Event], gone: impl Fn(&Event) -> u64) -> Doubts {
    let writes = events.iter().filter(|event| event.kind == Kind::Write && event.answered == NEVER);
    writes.map(|write| (write.value, Doubt { may_be_lost: true, gone: gone(write) })).collect()
}

/// Whether no read that is called at this time may give the value any more.
pub fn is_over(events: &[Event], doubts: &Doubts, value: u64, at: u64) -> bool {
    end_of(&by_value(events), doubts, value, at).is_some()
}

/// A read of this value that came when it was over.
pub(super) fn returned(values: &Values<'_>, doubts: &Doubts, value: u64) -> Option<Contradiction> {
    let of_it = values.get(&value)?;
    let last = of_it.iter().copied().filter(|event| event.kind == Kind::Read).max_by_key(|event| event.called)?;
    let end = end_of(values, doubts, value, last.called)?;
    let why = format!("value {value} was there again after value {}", end.other);
    let told = [write_of(of_it), Some(last)].into_iter().flatten().chain(end.events);
    Some(Contradiction::new(why, told.copied().collect()))
}

/// Why a value cannot be there any more.
struct End<'a> {
    /// What was there instead.
    other: u64,
    /// What has shown the value, and then the other one.
    events: Vec<&'a Event>,
}

fn end_of<'a>(values: &Values<'a>, doubts: &Doubts, value: u64, at: u64) -> Option<End<'a>> {
    let of_it = shown(values.get(&value)?)?;
    let settled = doubts.get(&value).map_or(NEVER, |doubt| doubt.gone).min(of_it.answered);
    let lasts = |other: u64| doubts.get(&other).is_none_or(|doubt| !doubt.may_be_lost);
    values.iter().filter(|(other, _)| lasts(**other)).find_map(|(other, events)| {
        let (write, of_other) = (write_of(events)?, shown(events)?);
        let is_later = settled < write.called && of_other.answered < at;
        is_later.then(|| End { other: *other, events: vec![of_it, write, of_other] })
    })
}

/// The operation that was the first to show a value to others than its writer; one without an answer has not yet.
fn shown<'a>(events: &[&'a Event]) -> Option<&'a Event> {
    let writer = write_of(events)?.client;
    let shows = events.iter().copied().filter(|event| event.kind == Kind::Write || event.client != writer);
    shows.min_by_key(|event| event.answered)
}
