//! Malformed requests are named; well-formed ones keep every field.

use caribou_proto::ids::{InodeId, ServerId};
use caribou_proto::meta::v1 as wire;
use caribou_proto::meta::v1::mutation::Op;

use super::request::{self, CHUNKS_PER_REQUEST, Malformed};
use crate::fsm::command::{ClientOp, SetTime};

fn op(op: Op) -> Option<wire::Mutation> {
    Some(wire::Mutation { op: Some(op) })
}

#[test]
fn what_is_missing_or_out_of_range_is_named() {
    assert_eq!(request::mutation(None, vec![]), Err(Malformed::Missing("operation")));
    assert_eq!(request::caller(None), Err(Malformed::Missing("caller")));
    let mknod = wire::Mknod { parent: 1, name: "x".into(), ..Default::default() };
    assert_eq!(request::mutation(op(Op::Mknod(mknod)), vec![]), Err(Malformed::OutOfRange("kind")));
    let end = wire::EndGrants { chunks: vec![wire::WrittenChunk::default(); CHUNKS_PER_REQUEST + 1] };
    assert_eq!(request::mutation(op(Op::EndGrants(end)), vec![]), Err(Malformed::OutOfRange("chunks")));
}

#[test]
fn placement_goes_into_creates_that_want_a_grant() {
    let create = wire::Create { parent: 1, name: "x".into(), want_grant: true, ..Default::default() };
    let create = Op::Create(create);
    assert!(request::wants_placement(&create));
    let Ok(ClientOp::Create(create)) = request::mutation(op(create), vec![ServerId(4)]) else {
        panic!("not a create");
    };
    assert_eq!(create.placement, [ServerId(4)]);
    assert!(!request::wants_placement(&Op::Create(wire::Create::default())));
}

#[test]
fn now_wins_over_a_given_time() {
    let set = wire::SetAttr { inode: 9, atime_ns: Some(5), mtime_ns: Some(6), mtime_now: true, ..Default::default() };
    let Ok(ClientOp::SetAttr(set)) = request::mutation(op(Op::Setattr(set)), vec![]) else { panic!("not a setattr") };
    assert_eq!((set.inode, set.atime, set.mtime), (InodeId(9), Some(SetTime::At(5)), Some(SetTime::Now)));
}
