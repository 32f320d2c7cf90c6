//! What excuses a block that has gone back.

use caribou_meta_raft::fsm::tables::chunks::{Chunk, Replica};
use caribou_proto::ids::{ChunkId, GrantId, Incarnation, InodeId, ServerId};

use super::*;
use crate::clock::SimClock;

const INODE: u64 = 2;
const HOLDERS: [ServerId; 2] = [ServerId(1), ServerId(2)];

fn now_at(findings: &Findings, version: u64) {
    let chunk = Chunk {
        inode: InodeId(INODE),
        index: 0,
        class: 1,
        version: ChunkVersion(version),
        replicas: HOLDERS.map(|server| Replica { server, incarnation: Incarnation(1) }).into(),
        new: false,
        last_grant: GrantId(1),
        unkept: None,
        grant: None,
        intent: None,
        hold: None,
    };
    findings.places.set(BTreeMap::from([(ChunkId(7), chunk)]));
}

/// A file with a write to block 0 that is not synced, and has been read at version 1.
fn written(findings: &Findings) -> FileModel {
    let model = FileModel::new(INODE, STRETCH);
    let known = Written { latest: 1, latest_at: Some(Instant::now()), ..Written::default() };
    model.blocks.lock().insert(0, known);
    now_at(findings, 1);
    is_read(&model, findings);
    model
}

fn is_read(model: &FileModel, findings: &Findings) {
    let (before, place) = (model.before(&findings.places), findings.places.get(model.key(0)));
    model.saw(0, Some(1), [place.clone(), place], before.on_disks.contains(&model.key(0)));
}

fn all_lose_power(findings: &Findings) {
    HOLDERS.into_iter().for_each(|server| findings.places.power_cut(server));
}

/// The write that must be read at least.
fn at_least(model: &FileModel, findings: &Findings) -> u64 {
    model.still_there(0, &model.known(0), findings)
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_writer_has_left_stays_once_it_has_survived() {
    let findings = Findings::new(SimClock::start());
    let model = written(&findings);
    model.orphan();
    model.bury(&findings.places);
    assert_eq!(at_least(&model, &findings), 1, "nobody has lost power");
    all_lose_power(&findings);
    assert_eq!(at_least(&model, &findings), 0);
    is_read(&model, &findings);
    assert_eq!(at_least(&model, &findings), 0, "nothing has become ready since");
    now_at(&findings, 2);
    assert_eq!(at_least(&model, &findings), 0, "it may be that nothing is left");
    is_read(&model, &findings);
    assert_eq!(at_least(&model, &findings), 1, "it was there when version 2 became ready");
    all_lose_power(&findings);
    assert_eq!(at_least(&model, &findings), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_writer_that_lives_sends_again_may_be_lost_again() {
    let findings = Findings::new(SimClock::start());
    let model = written(&findings);
    all_lose_power(&findings);
    now_at(&findings, 2);
    is_read(&model, &findings);
    model.orphan();
    model.bury(&findings.places);
    is_read(&model, &findings);
    assert_eq!(at_least(&model, &findings), 0, "it was sent at version 2");
}
