//! Committed operations per second through the client library, without a mount: creates, then unlinks of what was created, with so many
//! calls in flight in one client process.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use caribou_client::Client;
use caribou_proto::meta::v1::{Rmdir, Unlink, mutation::Op};
use serde::Serialize;

use super::calls::{self, Calls, End, ROOT_INODE, caller};
use super::figure::Figure;
use super::progress::Progress;
use crate::cmd::status::ClusterStatus;
use crate::costs::{Costs, EachCosts};

/// How much of it, and where.
#[derive(Debug, Clone)]
pub struct Load {
    /// `host:port` of metadata nodes.
    pub meta: Vec<String>,
    /// One measurement for each.
    pub in_flight: Vec<usize>,
    /// How long creates are measured; unlinks take as long as they take.
    pub time: Duration,
    /// Without: the files stay, for a cluster that is thrown away.
    pub remove: bool,
}

/// What was seen with so many calls in flight.
#[derive(Debug, Clone, Serialize)]
pub struct Commits {
    pub in_flight: usize,
    pub creates: Figure,
    /// What each has cost the metadata nodes; absent if one of them did not say.
    pub create_costs: Option<EachCosts>,
    /// Absent if the files stay.
    pub unlinks: Option<Figure>,
    /// As for creates; purges that follow later are not in it.
    pub unlink_costs: Option<EachCosts>,
}

/// Measures. All of the load is on one thread, so that the nodes get what is left of a small machine.
pub async fn run(load: Load, progress: Arc<Progress>) -> Result<Vec<Commits>> {
    calls::on_one_thread(async move || measure(&load, &progress).await).await
}

async fn measure(load: &Load, progress: &Arc<Progress>) -> Result<Vec<Commits>> {
    let client = calls::connect(load.meta.clone(), "bench").await?;
    let mut all = Vec::new();
    for &in_flight in &load.in_flight {
        if progress.is_stopped() {
            bail!("stopped");
        }
        let name = format!("caribou-bench-{}", uuid::Uuid::new_v4());
        let inode = calls::mkdir(&client, ROOT_INODE, name.clone()).await?;
        let folder = Folder { client: client.clone(), inode };
        let commits = folder.measure(in_flight, load, progress).await;
        all.push(commits.with_context(|| format!("the folder {name} of the root was left behind"))?);
        if load.remove {
            client.meta().mutate(&caller(), Op::Rmdir(Rmdir { parent: ROOT_INODE, name: name.into() })).await?;
        }
    }
    client.shutdown().await;
    Ok(all)
}

/// The folder of one measurement.
#[derive(Clone)]
struct Folder {
    client: Client,
    inode: u64,
}

impl Folder {
    async fn measure(&self, in_flight: usize, load: &Load, progress: &Arc<Progress>) -> Result<Commits> {
        let creates = Calls { workload: "create", in_flight, end: End::After(load.time) };
        let this = self.clone();
        let create = move |number| {
            let this = this.clone();
            async move { calls::create(&this.client, this.inode, file(number)).await }
        };
        let before = costs(load).await;
        let creates = creates.measure(progress, create).await?;
        let created = costs(load).await;
        let create_costs = each(before, created, &creates);
        if !load.remove {
            return Ok(Commits { in_flight, creates, create_costs, unlinks: None, unlink_costs: None });
        }
        let unlinks = self.unlink(in_flight, creates.operations, progress).await?;
        let unlink_costs = each(created, costs(load).await, &unlinks);
        Ok(Commits { in_flight, creates, create_costs, unlinks: Some(unlinks), unlink_costs })
    }

    async fn unlink(&self, in_flight: usize, files: u64, progress: &Arc<Progress>) -> Result<Figure> {
        let unlinks = Calls { workload: "unlink", in_flight, end: End::At(files) };
        let this = self.clone();
        let unlink = move |number| {
            let this = this.clone();
            async move {
                let unlink = Unlink { parent: this.inode, name: file(number).into() };
                this.client.meta().mutate(&caller(), Op::Unlink(unlink)).await?;
                Ok(())
            }
        };
        unlinks.measure(progress, unlink).await
    }
}

/// What the metadata nodes have used so far.
async fn costs(load: &Load) -> Option<Costs> {
    ClusterStatus::of(&load.meta).await.costs()
}

fn each(before: Option<Costs>, after: Option<Costs>, done: &Figure) -> Option<EachCosts> {
    after?.since(before?).each(done.operations)
}

fn file(number: u64) -> String {
    format!("file{number}")
}
