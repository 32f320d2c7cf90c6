//! The addresses of metadata nodes: those configured, and those that the cluster has named. One node that is known under
//! two addresses is tried under one, or its two streams would push each other out.

use std::collections::{BTreeMap, HashMap};

use caribou_proto::cluster::v1::MetaNode;

/// More nodes than a cluster ever has; what a server names beyond that is ignored.
const MAX_NODES: usize = 32;

#[derive(Debug)]
pub(crate) struct Nodes {
    configured: Vec<String>,
    learnt: BTreeMap<u64, String>,
    /// Configured addresses that turned out to belong to a node that the cluster knows under another.
    aliases: HashMap<String, u64>,
}

impl Nodes {
    pub(crate) fn new(configured: Vec<String>) -> Self {
        let mut unique: Vec<String> = Vec::with_capacity(configured.len());
        for address in configured {
            if !unique.contains(&address) {
                unique.push(address);
            }
        }
        Self { configured: unique, learnt: BTreeMap::new(), aliases: HashMap::new() }
    }

    /// Takes over the cluster's own list; an empty one changes nothing.
    pub(crate) fn learn(&mut self, nodes: &[MetaNode]) {
        if nodes.is_empty() {
            return;
        }
        self.learnt = nodes
            .iter()
            .take(MAX_NODES)
            .filter(|node| !node.address.is_empty())
            .map(|node| (node.node_id, node.address.clone()))
            .collect();
    }

    /// The node at `address` said that it is `node_id`.
    pub(crate) fn identify(&mut self, address: &str, node_id: u64) {
        if self.learnt.get(&node_id).is_some_and(|known| known != address) {
            self.aliases.insert(address.to_owned(), node_id);
        }
    }

    /// What to try, each node once.
    pub(crate) fn candidates(&self) -> Vec<String> {
        let mut all: Vec<String> = self.learnt.values().cloned().collect();
        for address in &self.configured {
            let known_otherwise = self.aliases.get(address).is_some_and(|id| self.learnt.contains_key(id));
            if !known_otherwise && !all.contains(address) {
                all.push(address.clone());
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(node_id: u64, address: &str) -> MetaNode {
        MetaNode { node_id, address: address.to_owned(), voter: true }
    }

    #[test]
    fn a_node_known_under_two_addresses_is_tried_under_one() {
        let mut nodes = Nodes::new(vec!["localhost:1".to_owned(), "localhost:2".to_owned(), "localhost:1".to_owned()]);
        assert_eq!(nodes.candidates(), ["localhost:1", "localhost:2"]);
        nodes.learn(&[node(1, "127.0.0.1:1"), node(2, "127.0.0.1:2"), node(3, "127.0.0.1:3")]);
        nodes.identify("localhost:1", 1);
        assert_eq!(nodes.candidates(), ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "localhost:2"]);
        nodes.learn(&[node(2, "127.0.0.1:2")]);
        assert_eq!(
            nodes.candidates(),
            ["127.0.0.1:2", "localhost:1", "localhost:2"],
            "a removed node's alias is tried again"
        );
    }
}
