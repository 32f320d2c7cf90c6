//! Random operations and faults against a naive model. After every read the bytes are those of the model; after every fsync
//! that returned, the disks of all holders have them; in the end everything settles.

use std::time::Duration;

use caribou_proto::ids::CHUNK_BYTES;
use caribou_proto::meta::v1::{Caller, SetAttr};
use proptest::prelude::*;

use super::rig::{Rig, pattern};
use crate::ClientConfig;

const SPAN: usize = 80_000;

/// Where in a file it all happens, and how much of a file the metadata take.
#[derive(Clone, Copy, Debug)]
struct Place {
    origin: u64,
    inline_limit: u32,
}

/// Across the border of two chunks.
const BORDER: Place = Place { origin: CHUNK_BYTES - 40_000, inline_limit: 0 };
/// At the start, now in the metadata and now in a chunk.
const START: Place = Place { origin: 0, inline_limit: 40_000 };

#[derive(Clone, Debug)]
enum Op {
    Write { at: usize, len: usize, seed: u8 },
    Read { at: usize, len: usize },
    Flush,
    Sync,
    Resize { to: usize },
    Wait { ms: u64 },
    Break { server: u64 },
    Kill { server: u64 },
    PowerCut { server: u64 },
    PowerCutAll,
    Expire,
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let server = || 1..=3_u64;
    prop_oneof![
        12 => (0..SPAN, 1..9000_usize, any::<u8>()).prop_map(|(at, len, seed)| Op::Write { at, len, seed }),
        6 => (0..SPAN, 1..20_000_usize).prop_map(|(at, len)| Op::Read { at, len }),
        4 => Just(Op::Flush),
        4 => Just(Op::Sync),
        2 => (0..SPAN).prop_map(|to| Op::Resize { to }),
        4 => (0..4000_u64).prop_map(|ms| Op::Wait { ms }),
        2 => server().prop_map(|server| Op::Break { server }),
        1 => server().prop_map(|server| Op::Kill { server }),
        2 => server().prop_map(|server| Op::PowerCut { server }),
        1 => Just(Op::PowerCutAll),
        1 => Just(Op::Expire),
        1 => Just(Op::Reopen),
    ]
}

async fn run(ops: Vec<Op>, place: Place) {
    let origin = place.origin;
    let config = ClientConfig { write_buffer_bytes: 60_000, ..ClientConfig::default() };
    let rig = Rig::with_inline(config, place.inline_limit);
    let mut file = rig.create().await;
    let inode = file.inode();
    let mut model: Vec<u8> = Vec::new();
    for op in ops {
        match op {
            Op::Write { at, len, seed } => {
                file.write(origin + at as u64, pattern(seed, len)).await.expect("writes");
                model.resize(model.len().max(at + len), 0);
                model[at..at + len].copy_from_slice(&pattern(seed, len));
            }
            Op::Read { at, len } => {
                let read = file.read(origin + at as u64, len as u32).await.expect("reads");
                assert_eq!(read, model[at.min(model.len())..(at + len).min(model.len())], "at {at}");
            }
            Op::Flush => {
                file.flush().await.expect("flushes");
                assert_length(&rig, inode, origin, &model);
            }
            Op::Sync => {
                file.sync(false).await.expect("syncs");
                assert_on_disk(&rig, inode, origin, &model);
            }
            Op::Resize { to } => {
                let set = SetAttr { inode, size: Some(origin + to as u64), ..SetAttr::default() };
                rig.files.setattr(&Caller::default(), set).await.expect("sets the size");
                model.resize(to, 0);
            }
            Op::Wait { ms } => tokio::time::sleep(Duration::from_millis(ms)).await,
            Op::Break { server } => rig.world.break_streams(server),
            Op::Kill { server } => rig.world.kill(server),
            Op::PowerCut { server } => rig.world.power_cut(server),
            Op::PowerCutAll => (1..=3).for_each(|server| rig.world.power_cut(server)),
            Op::Expire => rig.world.expire_session(),
            Op::Reopen => {
                file.flush().await.expect("flushes");
                file = rig.open(inode).await;
            }
        }
    }
    file.sync(false).await.expect("syncs");
    assert_on_disk(&rig, inode, origin, &model);
    file.release().await;
    drop(file);
    rig.until("everything is settled", |rig| rig.live_grants() == 0 && rig.buffered() == 0).await;
    assert_on_disk(&rig, inode, origin, &model);
    rig.until("nothing is remembered of a file that nobody uses", |rig| rig.files.context.find(inode).is_none()).await;
}

fn assert_length(rig: &Rig, inode: u64, origin: u64, model: &[u8]) {
    let length = rig.length(inode);
    assert!(length == origin + model.len() as u64 || (model.is_empty() && length <= origin));
}

/// P1.
fn assert_on_disk(rig: &Rig, inode: u64, origin: u64, model: &[u8]) {
    assert_length(rig, inode, origin, model);
    let inner = rig.world.inner.lock();
    let file = &inner.files[&inode];
    let expected = |start: u64, end: u64| &model[(start - origin) as usize..(end - origin) as usize];
    // I1: there is a first chunk, or what the metadata have of it, or nothing.
    if origin == 0 && file.chunks.get(&0).is_none_or(|row| row.is_new) {
        let (inline, rest) = model.split_at(file.inline.len());
        assert_eq!(file.inline.iter().zip(inline).position(|(a, b)| a != b), None, "inline data");
        assert_eq!(rest.iter().position(|byte| *byte != 0), None, "a hole behind {} bytes", file.inline.len());
    }
    for (index, row) in file.chunks.iter().filter(|(_, row)| !row.is_new) {
        let base = u64::from(*index) * CHUNK_BYTES;
        let (start, end) = (base.max(origin), (base + CHUNK_BYTES).min(origin + model.len() as u64));
        if start >= end {
            continue;
        }
        for (id, _) in &row.holders {
            let disk =
                inner.servers[id].replicas[&row.chunk].disk.read((start - base) as usize, (end - start) as usize);
            let differs = disk.iter().zip(expected(start, end)).position(|(a, b)| a != b);
            assert_eq!(differs, None, "chunk {index} on server {id}");
        }
    }
}

fn check(ops: Vec<Op>, place: Place) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        tokio::time::timeout(Duration::from_secs(3600), run(ops, place)).await.expect("P5: an hour is enough");
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, max_shrink_iters: 300, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_the_bytes_are_right(ops in prop::collection::vec(op(), 1..40)) {
        check(ops, BORDER);
    }

    #[test]
    fn whatever_happens_inline_data_are_right(ops in prop::collection::vec(op(), 1..40)) {
        check(ops, START);
    }
}
