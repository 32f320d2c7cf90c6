//! Histories with an order and without.

use super::*;

fn write(value: u64, called: u64, answered: u64) -> Event {
    Event { client: 1, kind: Kind::Write, value, called, answered }
}

/// By another client than the one that writes.
fn read(value: u64, called: u64, answered: u64) -> Event {
    Event { client: 2, kind: Kind::Read, value, called, answered }
}

/// Values that may be lost, and since when their writers are gone.
fn lost(values: &[(u64, u64)]) -> Doubts {
    values.iter().map(|(value, gone)| (*value, Doubt { may_be_lost: true, gone: *gone })).collect()
}

fn why(events: &[Event]) -> String {
    contradiction(events, &Doubts::new()).expect("there is no order").why
}

#[test]
fn values_that_follow_each_other_have_an_order() {
    let events = [read(0, 1, 2), write(1, 3, 6), read(0, 4, 5), read(1, 7, 8), write(2, 9, 12), read(2, 10, 11)];
    assert_eq!(contradiction(&events, &Doubts::new()), None);
    // Two writes at one time: either may be the last.
    let events = [write(1, 1, 4), write(2, 2, 3), read(1, 5, 6)];
    assert_eq!(contradiction(&events, &Doubts::new()), None);
}

#[test]
fn a_read_that_goes_back_is_found() {
    let events = [write(1, 1, 2), write(2, 3, 4), read(2, 5, 6), read(1, 7, 8)];
    assert!(contradiction(&events, &Doubts::new()).is_some());
    assert_eq!(contradiction(&events, &lost(&[(2, NEVER)])), None, "if the second was lost");
    assert!(why(&[write(1, 1, 2), read(0, 3, 4)]).contains("value 1"), "an update that vanished");
}

#[test]
fn two_values_that_alternate_are_found() {
    let events = [write(1, 1, 9), write(2, 2, 10), read(1, 3, 4), read(2, 5, 6), read(1, 7, 8)];
    assert!(contradiction(&events, &Doubts::new()).is_some());
}

#[test]
fn a_read_within_a_write_that_goes_back_is_found() {
    let mut events = vec![write(1, 1, 2), write(2, 3, NEVER), read(2, 4, 5), read(1, 6, 7)];
    answer(&mut events, 2, 8);
    assert!(contradiction(&events, &Doubts::new()).is_some(), "2 was there before 1 was read again");
}

#[test]
fn values_from_nowhere_and_from_the_future_are_found() {
    assert!(why(&[read(7, 1, 2)]).contains("nobody has written 7"));
    assert!(why(&[read(1, 1, 2), write(1, 3, 4)]).contains("before it was"));
}

#[test]
fn a_write_that_was_never_answered_may_have_happened_or_not() {
    let never = write(1, 1, NEVER);
    assert_eq!(contradiction(&[never, read(0, 2, 3)], &Doubts::new()), None);
    assert_eq!(contradiction(&[never, read(1, 2, 3)], &Doubts::new()), None);
}

#[test]
fn a_write_that_was_never_answered_happens_once() {
    let twice = [write(1, 1, NEVER), read(1, 2, 3), write(2, 4, 5), read(2, 6, 7), read(1, 8, 9)];
    assert!(contradiction(&twice, &Doubts::new()).is_some());
    assert_eq!(unknown(&twice, |write| write.called + 2), lost(&[(1, 3)]));
    let found = contradiction(&twice, &unknown(&twice, |_| NEVER)).expect("whether it may have been lost or not");
    assert!(found.why.contains("value 1 was there again after value 2"), "{found}");
    assert_eq!(found.events, [twice[0], twice[1], twice[2], twice[4]]);
}

#[test]
fn what_contradicts_each_other_is_told_and_nothing_else() {
    let events = [
        write(1, 1, 2),
        read(1, 3, 4),
        write(2, 5, 6),
        read(2, 7, 8),
        read(2, 9, 10),
        read(1, 11, 12),
        write(3, 13, 14),
    ];
    let found = contradiction(&events, &Doubts::new()).expect("there is no order");
    assert_eq!(found.events, [events[0], events[2], events[4], events[5]]);
    assert!(found.to_string().ends_with("; 11–12 client 2: read → 1"), "{found}");
    let finding = found.finding(|at| Moment(at * 1000));
    assert_eq!(finding.when, Some((Moment(11_000), Moment(12_000))));
    assert_eq!(finding.text, "the operations have no order: value 1 and value 2 both had to be there at one moment");
    let told: Vec<(&str, &str, bool)> =
        finding.operations.iter().map(|told| (told.call.as_str(), told.answer.as_str(), told.is_wrong)).collect();
    assert_eq!(
        told,
        [("write 1", "done", false), ("write 2", "done", false), ("read", "2", false), ("read", "1", true)]
    );
}

#[test]
fn what_was_there_in_the_beginning_is_not_told_as_a_write() {
    let found = contradiction(&[write(1, 1, 2), read(0, 3, 4)], &Doubts::new()).expect("there is no order");
    assert_eq!(found.events, [write(1, 1, 2), read(0, 3, 4)]);
}

#[test]
fn a_long_history_is_checked_in_one_pass() {
    let mut events: Vec<Event> = (1..100_000)
        .flat_map(|value| [write(value, value * 10, value * 10 + 5), read(value, value * 10 + 2, value * 10 + 8)])
        .collect();
    assert_eq!(contradiction(&events, &Doubts::new()), None);
    events.push(read(500, 2_000_000, 2_000_001));
    assert!(why(&events).contains("value 500"));
}

#[test]
fn what_is_lost_does_not_come_back_over_a_later_write() {
    // Shown to others before the write was called, whatever becomes of the writer.
    let shown = [write(1, 1, NEVER), read(1, 2, 3), write(2, 4, 7), read(1, 8, 9)];
    assert!(contradiction(&shown, &lost(&[(1, NEVER)])).is_some());
    let closed = [write(1, 1, 3), write(2, 4, 7), read(1, 8, 9)];
    assert!(contradiction(&closed, &lost(&[(1, NEVER)])).is_some());
    assert_eq!(contradiction(&shown, &lost(&[(1, NEVER), (2, NEVER)])), None, "the later write may be lost as well");
    assert_eq!(contradiction(&shown[..3], &lost(&[(1, NEVER)])), None, "it does not come back");
    let vanished = [write(1, 1, NEVER), read(1, 2, 3), read(0, 4, 5)];
    assert_eq!(contradiction(&vanished, &lost(&[(1, NEVER)])), None, "it is gone, as it may");
    let within = [write(1, 1, NEVER), read(1, 2, 3), write(2, 4, 7), read(1, 6, 9)];
    assert_eq!(contradiction(&within, &lost(&[(1, NEVER)])), None, "the later write had not ended yet");
    // The write had not ended, but others had seen it.
    let seen = [write(1, 1, NEVER), read(1, 2, 3), write(2, 4, NEVER), read(2, 5, 6), read(1, 7, 8)];
    assert!(contradiction(&seen, &lost(&[(1, NEVER)])).is_some());
}

#[test]
fn what_nobody_else_has_seen_may_be_sent_at_any_time() {
    let own = Event { client: 1, ..read(1, 2, 3) };
    let by_other = Event { client: 3, ..write(2, 4, 7) };
    assert_eq!(contradiction(&[write(1, 1, NEVER), own, by_other, read(1, 8, 9)], &lost(&[(1, NEVER)])), None);
    assert_eq!(contradiction(&[write(1, 1, NEVER), by_other, read(1, 8, 9)], &lost(&[(1, NEVER)])), None);
}

#[test]
fn who_is_gone_writes_nothing_over_what_comes_after() {
    let late = [write(1, 1, NEVER), write(2, 4, 7), read(1, 8, 9)];
    let found = contradiction(&late, &lost(&[(1, 3)])).expect("its grant is over");
    assert_eq!(found.events, late);
    let kept = Doubts::from([(1, Doubt { may_be_lost: false, gone: 3 })]);
    assert!(contradiction(&late, &kept).is_some(), "whether it may be lost or not");
    assert_eq!(contradiction(&late, &lost(&[(1, 5)])), None, "both wrote at one time");
    assert_eq!(contradiction(&late, &Doubts::from([(1, Doubt { may_be_lost: false, gone: NEVER })])), None);
    let within = [write(1, 1, NEVER), write(2, 4, 7), read(1, 6, 9)];
    assert_eq!(contradiction(&within, &lost(&[(1, 3)])), None);
}

#[test]
fn what_was_there_and_is_not_may_be_sent_again_if_nobody_has_written_since() {
    let (one, two) = ([write(1, 1, NEVER), write(2, 2, 5)], [read(1, 3, 4), read(2, 6, 7), read(1, 8, 9)]);
    let history = [&one[..], &two].concat();
    assert_eq!(contradiction(&history, &lost(&[(1, NEVER)])), None);
    assert_eq!(contradiction(&history, &lost(&[(1, 5)])), None, "it was on its way when its writer died");
}

#[test]
fn a_value_is_over_for_reads_that_are_called_later() {
    let events = [write(1, 1, 2), write(2, 3, 6)];
    let is_over = |value, at| is_over(&events, &Doubts::new(), value, at);
    assert_eq!([is_over(1, 6), is_over(1, 7), is_over(START, 2), is_over(START, 3)], [false, true, false, true]);
    assert!(!is_over(2, 9) && !is_over(7, 9));
}
