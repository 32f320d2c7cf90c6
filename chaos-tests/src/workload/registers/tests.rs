//! Histories of one machine's folder, and what is made up of them.

use rustix::io::Errno;

use super::*;

/// Two workers that take turns in one folder.
fn fought(dir: &Path, steps: usize) -> Vec<History> {
    make_files(dir).expect("made");
    let mut workers = [0, 1].map(|number| (History::new(number, 2), choices(1, ID + number)));
    for step in 0..steps {
        let (history, random) = &mut workers[step % 2];
        history.step(dir, random).expect("steps");
    }
    workers.map(|(history, _)| history).into()
}

#[test]
fn the_files_reach_over_all_registers() {
    for (name, block) in PLACES {
        assert!(FILES.iter().any(|(file, blocks)| *file == name && block < *blocks), "{name} {block}");
    }
    let (_, blocks) = FILES.into_iter().find(|(name, _)| *name == SMALL).expect("it is there");
    assert!(blocks * BLOCK as u64 <= 16 << 10, "it is kept with the metadata");
}

#[test]
fn what_a_folder_of_one_machine_gives_has_an_order_and_a_stale_read_has_none() {
    let dir = tempfile::tempdir().expect("a folder");
    let histories = fought(dir.path(), 200);
    let all = Fought::new(&histories);
    assert_eq!((all.operations(), all.registers(), all.unknown()), (200, PLACES.len(), 0));
    assert!(all.check().is_empty(), "{:?}", all.check());
    assert!(histories.iter().all(|history| history.errors.is_empty() && history.violations.is_empty()));
    let found = all.with_a_stale_read().expect("it is found");
    assert!(found.text.starts_with("register "), "{found:?}");
    let wrong = found.operations.last().expect("operations are told");
    assert!(wrong.is_wrong && wrong.call == "read", "{found:?}");
}

#[test]
fn a_write_that_came_back_is_found() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut histories = fought(dir.path(), 0);
    let path = path_of(dir.path(), 2);
    histories[0].write(&path, 2).expect("written");
    histories[1].write(&path, 2).expect("written");
    histories[0].read(&path, 2).expect("read");
    assert!(Fought::new(&histories).check().is_empty());
    store(&path, 2, 1).expect("written");
    histories[1].read(&path, 2).expect("read");
    let found = Fought::new(&histories).check();
    assert_eq!(found.len(), 1, "{found:?}");
    let told: Vec<(usize, &str, &str)> =
        found[0].operations.iter().map(|told| (told.client, told.call.as_str(), told.answer.as_str())).collect();
    assert_eq!(told, [(0, "write 1", "done"), (1, "write 2", "done"), (0, "read", "2"), (1, "read", "1")]);
}

#[test]
fn what_is_mixed_or_gone_is_found_at_once_and_an_error_is_one() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut history = fought(dir.path(), 0).remove(0);
    let path = path_of(dir.path(), 1);
    history.write(&path, 1).expect("written");
    let file = OpenOptions::new().write(true).open(&path).expect("opened");
    file.write_all_at(b"mixed up", offset_of(1) + 512).expect("written");
    history.read(&path, 1).expect("read");
    // The block of another register.
    file.write_all_at(&block::make(ID, 0, 9), offset_of(1)).expect("written");
    history.read(&path, 1).expect("read");
    file.set_len(offset_of(1)).expect("cut");
    history.read(&path, 1).expect("read");
    let texts = ["begins with [2000000, 1, 1]", "begins with [2000000, 0, 9]", "shorter"];
    assert_eq!(history.violations.len(), texts.len());
    for (found, text) in history.violations.iter().zip(texts) {
        assert!(found.text.contains(text), "{text}: {found:?}");
    }
    fs::remove_file(&path).expect("removed");
    assert!(history.read(&path, 1).is_err() && history.write(&path, 1).is_err());
    // Whether what failed has been written nobody knows.
    assert_eq!((history.events[1].len(), Fought::new(&[history]).unknown()), (2, 1));
}

#[test]
fn a_write_that_comes_back_after_its_mounts_death_is_found() {
    let write = |client, value, called, answered| Event { client, kind: Kind::Write, value, called, answered };
    let read = Event { kind: Kind::Read, ..write(1, 1, 30, 31) };
    let mut histories = [0, 1].map(|number| History::new(number, 2));
    histories[0].events[3] = vec![write(0, 1, 10, NEVER)];
    histories[1].events[3] = vec![write(1, 2, 20, 21), read];
    assert!(Fought::new(&histories).check().is_empty(), "its mount may have written it late");
    histories[1].deaths = vec![12];
    histories[0].deaths = vec![9, 25];
    assert!(Fought::new(&histories).check().is_empty(), "another's mount, another write, and too late");
    histories[0].deaths = vec![9, 15, 25];
    let found = Fought::new(&histories).check();
    assert!(found.len() == 1 && found[0].text.contains("value 1 was there again after value 2"), "{found:?}");
}

#[test]
fn a_mounts_death_is_told_by_the_kernel() {
    assert!([Errno::NOTCONN, Errno::CONNABORTED].map(io::Error::from).iter().all(is_of_death));
    assert!(![Errno::NOENT, Errno::IO, Errno::INTR].map(io::Error::from).iter().any(is_of_death));
}
