//! `caribou init`: once per cluster.

use std::process::ExitCode;

use anyhow::Result;
use caribou_proto::admin::v1::InitRequest;
use caribou_proto::cluster::v1::MetaNode;

use crate::admin;
use crate::failure::usage;

/// The nodes must be running and empty; a second `init` is refused.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// All metadata nodes as id=host:port, separated by commas: 1=10.0.0.1:9430,2=10.0.0.2:9430,3=10.0.0.3:9430
    #[arg(long, value_name = "ID=ADDR,…", value_delimiter = ',', required = true)]
    nodes: Vec<String>,
    /// Copies of every chunk (storage class "default")
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=9))]
    goal: u32,
}

impl Args {
    pub async fn run(self) -> Result<ExitCode> {
        let nodes = self.nodes.iter().map(|text| node(text)).collect::<Result<Vec<_>>>()?;
        let first = nodes[0].address.clone();
        let reply = admin::init(&first, InitRequest { nodes, default_goal: self.goal }).await?;
        let cluster = reply.cluster.unwrap_or_default();
        println!("cluster {} made, {} copies of every chunk", super::status::hex(&cluster.uuid), self.goal);
        Ok(ExitCode::SUCCESS)
    }
}

fn node(text: &str) -> Result<MetaNode> {
    let wrong = || usage(format!("\"{text}\" names no metadata node: write id=host:port, as 1=127.0.0.1:9430"));
    let (id, address) = text.split_once('=').ok_or_else(wrong)?;
    let node_id = id.parse().map_err(|_| wrong())?;
    if node_id == 0 || !address.contains(':') {
        return Err(wrong());
    }
    Ok(MetaNode { node_id, address: address.to_owned(), voter: true })
}
