//! `caribou status`: what the nodes say about themselves, and the leader about the cluster.

use std::process::ExitCode;

use anyhow::{Result, bail};
use bytesize::ByteSize;
use caribou_proto::admin::v1::{LeaderView, StatusReply};
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::admin::{self, MetaAddresses};
use crate::colour;
use crate::costs::Costs;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    meta: MetaAddresses,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The whole cluster, as far as it could be asked.
#[derive(Debug, Serialize)]
pub struct ClusterStatus {
    pub nodes: Vec<NodeStatus>,
    pub chunk_servers: Vec<ServerStatus>,
    pub clients: Vec<ClientStatus>,
    pub totals: Option<Totals>,
    pub healthy: bool,
}

#[derive(Debug, Serialize)]
pub struct NodeStatus {
    pub address: String,
    pub node_id: u64,
    pub role: String,
    pub ready: bool,
    pub term: u64,
    pub applied_index: u64,
    pub last_log_index: u64,
    pub purged_index: u64,
    pub snapshot_index: u64,
    pub state_hash: String,
    /// Entries that this node has applied less than the leader; absent without a leader.
    pub lag_entries: Option<u64>,
    /// Bytes received and expected of a snapshot that is being installed.
    pub snapshot_progress_bytes: Option<(u64, u64)>,
    pub health: String,
    pub replies_from_table: u64,
    pub commands: u64,
    #[serde(flatten)]
    pub costs: Costs,
}

#[derive(Debug, Serialize)]
pub struct ServerStatus {
    pub server_id: u64,
    pub address: String,
    pub connected: bool,
    pub chunks: u64,
    pub total_bytes: u64,
    pub free_bytes: u64,
    pub failed_disks: u32,
}

#[derive(Debug, Serialize)]
pub struct ClientStatus {
    pub session_id: u64,
    pub name: String,
    pub connected: bool,
    pub idle_ms: u64,
    pub open_files: u64,
}

#[derive(Debug, Serialize)]
pub struct Totals {
    pub inodes: u64,
    pub chunks: u64,
    pub chunks_below_goal: u64,
    pub chunks_in_recovery: u64,
    pub chunks_held: u64,
    pub garbage: u64,
    pub orphans: u64,
    pub grants: u64,
}

impl ClusterStatus {
    /// Asks every node; unreachable ones are listed as such.
    pub async fn of(addresses: &[String]) -> Self {
        let mut replies = admin::status_of_all(addresses).await;
        // Nodes that were not named but that the cluster knows.
        let known: Vec<String> = replies
            .iter()
            .filter_map(|(_, r)| r.as_ref().ok())
            .flat_map(|r| r.nodes.iter().map(|n| n.address.clone()))
            .collect();
        let mut missing: Vec<String> = known.into_iter().filter(|a| !addresses.contains(a)).collect();
        missing.sort();
        missing.dedup();
        replies.extend(admin::status_of_all(&missing).await);

        let leader =
            replies.iter().filter_map(|(_, r)| r.as_ref().ok()).filter(|r| r.leader.is_some()).max_by_key(|r| r.term);
        let (applied, view) = (leader.map(|l| l.applied_index), leader.and_then(|l| l.leader.clone()));
        let nodes: Vec<NodeStatus> =
            replies.into_iter().map(|(a, r)| NodeStatus::from(a, r, applied, view.as_ref())).collect();
        let view = view.unwrap_or_default();
        let servers: Vec<ServerStatus> = view.chunk_servers.iter().map(ServerStatus::from).collect();
        let healthy = applied.is_some()
            && nodes.iter().all(|n| n.health == "ok")
            && servers.iter().all(|s| s.connected && s.failed_disks == 0)
            && view.chunks_below_goal == 0;
        let clients = view.clients.iter().filter(|c| !c.expired).map(ClientStatus::from).collect();
        let totals = applied.map(|_| Totals::from(&view));
        Self { nodes, chunk_servers: servers, clients, totals, healthy }
    }

    /// What all nodes together have used; `None` if one does not say.
    pub fn costs(&self) -> Option<Costs> {
        self.nodes.iter().map(|n| (n.node_id != 0).then_some(n.costs)).sum()
    }

    /// The node that leads, if one does.
    pub fn leader(&self) -> Option<&NodeStatus> {
        self.nodes.iter().filter(|n| n.role == "leader" && n.ready).max_by_key(|n| n.term)
    }
}

impl NodeStatus {
    fn from(
        address: String,
        reply: Result<StatusReply>,
        leader_applied: Option<u64>,
        view: Option<&LeaderView>,
    ) -> Self {
        match reply {
            Ok(r) => {
                let installing = (r.installing_snapshot_total_bytes > 0)
                    .then_some((r.installing_snapshot_bytes, r.installing_snapshot_total_bytes));
                let sending =
                    view.is_some_and(|v| v.followers.iter().any(|f| f.node_id == r.node_id && f.snapshotting));
                let health = match () {
                    () if !r.initialised => "not initialised",
                    () if installing.is_some() || sending => "catching up by snapshot",
                    () if leader_applied.is_none() => "no leader",
                    () => "ok",
                };
                let counters = r.counters.unwrap_or_default();
                Self {
                    address,
                    node_id: r.node_id,
                    role: r.role,
                    ready: r.ready,
                    term: r.term,
                    applied_index: r.applied_index,
                    last_log_index: r.last_log_index,
                    purged_index: r.purged_index,
                    snapshot_index: r.snapshot_index,
                    state_hash: format!("{:016x}", r.state_hash),
                    lag_entries: leader_applied.map(|a| a.saturating_sub(r.applied_index)),
                    snapshot_progress_bytes: installing,
                    health: health.to_owned(),
                    replies_from_table: counters.replies_from_table,
                    commands: counters.commands,
                    costs: Costs::from(&counters),
                }
            }
            Err(error) => Self {
                address,
                node_id: 0,
                role: "unknown".to_owned(),
                ready: false,
                term: 0,
                applied_index: 0,
                last_log_index: 0,
                purged_index: 0,
                snapshot_index: 0,
                state_hash: String::new(),
                lag_entries: None,
                snapshot_progress_bytes: None,
                health: format!("unreachable: {}", error.root_cause()),
                replies_from_table: 0,
                commands: 0,
                costs: Costs::default(),
            },
        }
    }
}

impl From<&caribou_proto::admin::v1::ChunkServer> for ServerStatus {
    fn from(s: &caribou_proto::admin::v1::ChunkServer) -> Self {
        Self {
            server_id: s.server_id,
            address: s.address.clone(),
            connected: s.connected,
            chunks: s.chunks,
            total_bytes: s.total_bytes,
            free_bytes: s.free_bytes,
            failed_disks: s.failed_disks,
        }
    }
}

impl From<&caribou_proto::admin::v1::Client> for ClientStatus {
    fn from(c: &caribou_proto::admin::v1::Client) -> Self {
        Self {
            session_id: c.session_id,
            name: c.name.clone(),
            connected: c.connected,
            idle_ms: c.idle_ms,
            open_files: c.claims,
        }
    }
}

impl From<&LeaderView> for Totals {
    fn from(v: &LeaderView) -> Self {
        Self {
            inodes: v.inodes,
            chunks: v.chunks,
            chunks_below_goal: v.chunks_below_goal,
            chunks_in_recovery: v.chunks_in_recovery,
            chunks_held: v.chunks_held,
            garbage: v.garbage,
            orphans: v.orphans,
            grants: v.grants,
        }
    }
}

impl Args {
    pub async fn run(self) -> Result<ExitCode> {
        let status = ClusterStatus::of(&self.meta.meta).await;
        if status.nodes.iter().all(|n| n.role == "unknown") {
            let why = status.nodes.first().map_or_else(String::new, |n| n.health.clone());
            bail!(crate::failure::Usage(format!(
                "none of the metadata nodes {} can be reached ({why}): check the addresses (--meta) and that caribou-meta runs",
                self.meta.meta.join(", ")
            )));
        }
        if self.json {
            println!("{}", serde_json::to_string_pretty(&status)?);
        } else {
            print_table(&status);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The tables that a person reads.
pub fn print_table(status: &ClusterStatus) {
    let mut nodes = table(&["node", "address", "role", "term", "applied", "lag", "log from", "health"]);
    for n in &status.nodes {
        let health = match n.snapshot_progress_bytes {
            Some((got, total)) => format!("{} ({} of {})", n.health, ByteSize(got), ByteSize(total)),
            None => n.health.clone(),
        };
        let role = if n.ready { format!("{} (ready)", n.role) } else { n.role.clone() };
        nodes.add_row([
            n.node_id.to_string(),
            n.address.clone(),
            role,
            n.term.to_string(),
            n.applied_index.to_string(),
            n.lag_entries.map_or_else(|| "–".to_owned(), |l| l.to_string()),
            (n.purged_index + 1).to_string(),
            health,
        ]);
    }
    println!("{nodes}");
    if !status.chunk_servers.is_empty() {
        let mut servers = table(&["chunk server", "address", "connected", "chunks", "free", "of", "failed disks"]);
        for s in &status.chunk_servers {
            servers.add_row([
                s.server_id.to_string(),
                s.address.clone(),
                if s.connected { "yes".to_owned() } else { "no".to_owned() },
                s.chunks.to_string(),
                ByteSize(s.free_bytes).to_string(),
                ByteSize(s.total_bytes).to_string(),
                s.failed_disks.to_string(),
            ]);
        }
        println!("{servers}");
    }
    if !status.clients.is_empty() {
        let mut clients = table(&["session", "client", "connected", "idle", "open files"]);
        for c in &status.clients {
            clients.add_row([
                c.session_id.to_string(),
                c.name.clone(),
                if c.connected { "yes".to_owned() } else { "no".to_owned() },
                format!("{:.1} s", c.idle_ms as f64 / 1000.0),
                c.open_files.to_string(),
            ]);
        }
        println!("{clients}");
    }
    if let Some(t) = &status.totals {
        println!(
            "{} inodes, {} chunks ({} below goal, {} in recovery, {} held), {} grants, {} orphans, {} replicas to delete",
            t.inodes,
            t.chunks,
            t.chunks_below_goal,
            t.chunks_in_recovery,
            t.chunks_held,
            t.grants,
            t.orphans,
            t.garbage
        );
    }
    if status.healthy {
        println!("{}", colour::green("healthy"));
    } else {
        println!("{}", colour::yellow("needs attention"));
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header(header.iter().copied());
    table
}

/// Bytes as a person writes them down.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
