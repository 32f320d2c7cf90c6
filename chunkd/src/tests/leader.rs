//! A leader that registers chunk servers, answers heartbeats and sends the commands that a test wants.

use crate::peers::PeerError;
use crate::peers::local::LocalNet;
use caribou_proto::chunk::v1::{
    Command, CommandResult, FromServer, HeartbeatReply, NotLeader, RefusedServer, Register, Registered, ToServer,
    command, from_server, to_server,
};
use caribou_proto::cluster::v1::{ClusterId, MetaNode};
use futures::StreamExt;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

pub(super) const TTL_MS: u64 = 2000;

pub(super) struct Leader {
    state: Mutex<State>,
}

struct State {
    cluster: ClusterId,
    term: u64,
    role: Role,
    answers_heartbeats: bool,
    nodes: Vec<MetaNode>,
    ids: HashMap<Vec<u8>, u64>,
    registrations: Vec<Register>,
    streams: HashMap<u64, mpsc::Sender<ToServer>>,
    waiting: HashMap<u64, oneshot::Sender<CommandResult>>,
    next_command: u64,
}

#[derive(Clone)]
pub(super) enum Role {
    Leads,
    Follows { leader: String },
    Refuses { reason: String },
    Silent,
}

impl Leader {
    pub(super) fn start(net: &Arc<LocalNet>, address: &str, cluster: ClusterId, term: u64) -> Arc<Self> {
        let leader = Arc::new(Self {
            state: Mutex::new(State {
                cluster,
                term,
                role: Role::Leads,
                answers_heartbeats: true,
                nodes: Vec::new(),
                ids: HashMap::new(),
                registrations: Vec::new(),
                streams: HashMap::new(),
                waiting: HashMap::new(),
                next_command: 1,
            }),
        });
        let handler = leader.clone();
        net.add_meta_node(
            address,
            Arc::new(move |messages| {
                let (sender, receiver) = mpsc::channel(64);
                tokio::spawn(handler.clone().serve(messages, sender));
                ReceiverStream::new(receiver).map(Ok::<_, PeerError>).boxed()
            }),
        );
        leader
    }

    pub(super) fn set_role(&self, role: Role) {
        let mut state = self.state.lock();
        state.role = role;
        state.streams.clear();
    }

    /// The ids that servers were given, to carry them over to another leader.
    pub(super) fn take_over(&self, from: &Self) {
        let ids = from.state.lock().ids.clone();
        self.state.lock().ids = ids;
    }

    pub(super) fn name_nodes(&self, addresses: &[&str]) {
        let node = |(index, address): (usize, &&str)| MetaNode {
            node_id: index as u64 + 1,
            address: (*address).to_owned(),
            voter: true,
        };
        self.state.lock().nodes = addresses.iter().enumerate().map(node).collect();
    }

    pub(super) fn answer_heartbeats(&self, answers: bool) {
        self.state.lock().answers_heartbeats = answers;
    }

    pub(super) fn registrations(&self) -> Vec<Register> {
        self.state.lock().registrations.clone()
    }

    /// Sends a command under the leader's own term and waits for its result.
    pub(super) async fn command(&self, server: u64, chunk: u64, body: command::Body) -> CommandResult {
        let term = self.state.lock().term;
        self.command_of_term(server, term, chunk, body).await
    }

    pub(super) async fn command_of_term(
        &self,
        server: u64,
        term: u64,
        chunk: u64,
        body: command::Body,
    ) -> CommandResult {
        self.send(server, term, chunk, body).await.await.expect("every command is answered")
    }

    /// Sends a command without waiting for its result.
    pub(super) async fn send(
        &self,
        server: u64,
        term: u64,
        chunk: u64,
        body: command::Body,
    ) -> oneshot::Receiver<CommandResult> {
        let (sender, receiver) = oneshot::channel();
        let (stream, command) = {
            let mut state = self.state.lock();
            let id = state.next_command;
            state.next_command += 1;
            state.waiting.insert(id, sender);
            let generation = state.cluster.generation;
            (state.streams[&server].clone(), Command { id, generation, term, log_index: id, chunk, body: Some(body) })
        };
        stream.send(ToServer { body: Some(to_server::Body::Command(command)) }).await.expect("the server is attached");
        receiver
    }

    /// Says something that needs no answer.
    pub(super) async fn tell(&self, server: u64, body: to_server::Body) {
        let stream = self.state.lock().streams[&server].clone();
        stream.send(ToServer { body: Some(body) }).await.expect("the server is attached");
    }

    async fn serve(self: Arc<Self>, mut messages: mpsc::Receiver<FromServer>, answers: mpsc::Sender<ToServer>) {
        while let Some(message) = messages.recv().await {
            let answer = match message.body.expect("a message has a body") {
                from_server::Body::Register(register) => self.register(register, &answers),
                from_server::Body::Heartbeat(beat) => {
                    let state = self.state.lock();
                    let reply = HeartbeatReply { stamp: beat.stamp, term: state.term };
                    state.answers_heartbeats.then_some(to_server::Body::Heartbeat(reply))
                }
                from_server::Body::Result(result) => {
                    if let Some(waiting) = self.state.lock().waiting.remove(&result.id) {
                        let _ = waiting.send(result);
                    }
                    None
                }
            };
            if let Some(body) = answer
                && answers.send(ToServer { body: Some(body) }).await.is_err()
            {
                return;
            }
        }
    }

    fn register(&self, register: Register, answers: &mpsc::Sender<ToServer>) -> Option<to_server::Body> {
        let mut state = self.state.lock();
        match state.role.clone() {
            Role::Leads => {}
            Role::Follows { leader } => {
                let hint = NotLeader { leader_id: 2, leader_address: leader, nodes: state.nodes.clone() };
                return Some(to_server::Body::NotLeader(hint));
            }
            Role::Refuses { reason } => return Some(to_server::Body::Refused(RefusedServer { reason })),
            Role::Silent => return None,
        }
        let next = state.ids.len() as u64 + 1;
        let server_id = *state.ids.entry(register.server_uuid.to_vec()).or_insert(next);
        state.registrations.push(register);
        state.streams.insert(server_id, answers.clone());
        Some(to_server::Body::Registered(Registered {
            cluster: Some(state.cluster.clone()),
            server_id,
            term: state.term,
            lease_ttl_ms: TTL_MS,
            nodes: state.nodes.clone(),
        }))
    }
}
