//! Caribou's metadata node: a pure state machine (`fsm`), replicated by Raft (`raft`), offered over gRPC (`service`), with the
//! loops that only the leader runs (`leader`).

pub mod fsm;
