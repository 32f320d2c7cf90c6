//! A metadata node within another program: all of it but the socket and the signals. Simulations run several of them in one process.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::service::Routes;

use crate::config::LimitsConfig;
use crate::raft::{EventSink, FatalError, RaftConfig, RaftNode, StartError, Surroundings};
use crate::server;
use crate::service::node::Node;

/// See the module.
pub struct Embedded {
    node: Arc<Node>,
    follow: JoinHandle<()>,
    told_to_stop: mpsc::UnboundedReceiver<FatalError>,
}

impl Embedded {
    /// Opens the data folder and starts. `observer` hears of everything applied, after the node itself; it must not block.
    pub async fn start(
        config: RaftConfig,
        limits: LimitsConfig,
        surroundings: Surroundings,
        observer: EventSink,
    ) -> Result<Self, StartError> {
        let (node, told_to_stop) = Node::new(limits);
        let events = node.clone();
        let sink: EventSink = Arc::new(move |event| {
            events.event(event.clone());
            observer(event);
        });
        node.set_raft(RaftNode::start_in(config, surroundings, sink).await?);
        let follow = tokio::spawn(node.clone().follow_leadership());
        Ok(Self { node, follow, told_to_stop })
    }

    /// The node's Raft.
    pub fn raft(&self) -> &RaftNode {
        self.node.raft()
    }

    /// Everything that it is asked: by clients, chunk servers, operators and the other metadata nodes.
    pub fn routes(&self) -> Routes {
        server::routes(&self.node).add_service(self.raft().raft_service())
    }

    /// Why the node must stop, if it must.
    pub fn failed(&mut self) -> Option<FatalError> {
        self.told_to_stop.try_recv().ok().or_else(|| self.raft().failed())
    }

    /// Ends everything and makes nothing durable: what a crash leaves.
    pub async fn end(self) {
        self.follow.abort();
        self.raft().stop().await;
        self.node.end();
    }
}
