//! The tree of files: made through the client library, measured by creates and stats of files all over it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use caribou_cli::bench::calls::{self, Calls, End, ROOT_INODE, caller};
use caribou_cli::bench::{Figure, Progress};
use caribou_client::Client;
use caribou_client::meta::QueryOp;
use caribou_client::proto::meta::v1::Lookup;
use futures::{StreamExt as _, TryStreamExt as _};

use super::place::{drawn, place};
use super::tenths::{Rates, Tenths};

/// Calls in flight while rates are compared.
const IN_FLIGHT: usize = 64;
/// How often the progress of loading is told.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Folders below the root with files scattered over them.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    /// Of metadata nodes, `host:port`.
    meta: Vec<String>,
    /// Inodes.
    folders: Arc<[u64]>,
    files: u64,
}

/// How loading went.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) creates: Figure,
    pub(super) tenths: Option<Rates>,
}

impl Tree {
    /// Makes it in an empty cluster.
    pub(super) async fn load(
        meta: Vec<String>,
        folders: usize,
        files: u64,
        in_flight: usize,
    ) -> Result<(Self, Loaded)> {
        calls::on_one_thread(async move || {
            let client = calls::connect(meta.clone(), "scale").await?;
            let made = (0..folders).map(|number| calls::mkdir(&client, ROOT_INODE, format!("folder{number}")));
            let folders: Vec<u64> = futures::stream::iter(made).buffered(IN_FLIGHT).try_collect().await?;
            let mut tree = Self { meta, folders: folders.into(), files: 0 };
            let tenths = Arc::new(Tenths::of(files));
            let loaded = tree.create(&client, in_flight, End::At(files), &tenths).await?;
            client.shutdown().await;
            Ok((tree, loaded))
        })
        .await
    }

    pub(super) fn files(&self) -> u64 {
        self.files
    }

    /// More files, for so long.
    pub(super) async fn measure_creates(&mut self, time: Duration) -> Result<Figure> {
        let mut tree = self.clone();
        let (tree, creates) = calls::on_one_thread(async move || {
            let client = calls::connect(tree.meta.clone(), "scale").await?;
            let loaded = tree.create(&client, IN_FLIGHT, End::After(time), &Arc::new(Tenths::of(0))).await?;
            client.shutdown().await;
            Ok((tree, loaded.creates))
        })
        .await?;
        *self = tree;
        Ok(creates)
    }

    async fn create(&mut self, client: &Client, in_flight: usize, end: End, tenths: &Arc<Tenths>) -> Result<Loaded> {
        let (tree, client, counted) = (self.clone(), client.clone(), tenths.clone());
        let create = move |number| {
            let (tree, client, tenths) = (tree.clone(), client.clone(), counted.clone());
            async move {
                let place = place(tree.files + number, tree.folders.len());
                calls::create(&client, tree.folders[place.folder], place.name).await?;
                tenths.one_more();
                Ok(())
            }
        };
        let progress = Arc::default();
        let creates = Calls { workload: "create", in_flight, end }.measure(&progress, create);
        let creates = told(&progress, creates).await?;
        self.files += creates.operations;
        Ok(Loaded { creates, tenths: tenths.rates() })
    }

    /// Stats of files anywhere in it, for so long; which ones, is drawn from `first_draw` on.
    pub(super) async fn measure_stats(&self, time: Duration, first_draw: u64) -> Result<Figure> {
        let tree = self.clone();
        calls::on_one_thread(async move || {
            let client = calls::connect(tree.meta.clone(), "scale").await?;
            let stats = Calls { workload: "stat", in_flight: IN_FLIGHT, end: End::After(time) };
            let asked = client.clone();
            let stat = move |draw| {
                let (tree, client) = (tree.clone(), asked.clone());
                async move { tree.stat(&client, drawn(first_draw + draw, tree.files)).await }
            };
            let figure = stats.measure(&Arc::default(), stat).await?;
            client.shutdown().await;
            Ok(figure)
        })
        .await
    }

    /// What `stat` asks of one file: its name and its attributes.
    pub(super) async fn stat(&self, client: &Client, number: u64) -> Result<()> {
        let place = place(number, self.folders.len());
        let name = place.name.clone().into();
        let lookup = QueryOp::Lookup(Lookup { parent: self.folders[place.folder], name });
        let found = client.meta().query(&caller(), lookup).await;
        let found = found.with_context(|| format!("file {number}, {} in folder{}", place.name, place.folder))?;
        found.attr.context("attributes of a file").map(drop)
    }
}

/// Tells on standard error how far it is while it goes on.
async fn told<T>(progress: &Progress, load: impl Future<Output = Result<T>>) -> Result<T> {
    let (mut load, mut before) = (std::pin::pin!(load), 0);
    loop {
        tokio::select! {
            done = &mut load => return done,
            () = tokio::time::sleep(TELL_EVERY) => {
                let now = progress.stage();
                let rate = (now.done - before) as f64 / TELL_EVERY.as_secs_f64();
                eprintln!("{}: {} done, {rate:.0} a second", now.name, now.done);
                before = now.done;
            }
        }
    }
}
