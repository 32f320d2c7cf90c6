//! Writers that live while all chunk servers lose power: each later fsync succeeds only if every byte is there, else EIO; readers on
//! other mounts never see a block go back or mixed (W5, P1, P2).

use std::time::Duration;

use anyhow::Result;
use caribou_cli::local::{Options, Part};

use super::{blocking, healed};
use crate::args::Setting;
use crate::lab::Lab;
use crate::report::Verdict;
use crate::workload::blocks::{ReaderResult, Written, writer};
use crate::workload::worker::{Work, Worker, drop_caches};

const WRITERS: u64 = 4;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How often the power of all chunk servers is cut
    #[arg(long, default_value_t = 20)]
    pub cuts: usize,
    /// Time between two cuts
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub every: Duration,
}

pub async fn run(setting: &Setting, args: &Args) -> Result<Verdict> {
    let mut verdict = Verdict::new("live-power-cut");
    let options = Options::default();
    let mut lab = Lab::up_on_volumes(setting, &options).await?;
    let mut mounts = Vec::new();
    for _ in 0..WRITERS {
        mounts.push(lab.mount(&[]).await?);
    }
    // Readers take every page from the servers, whatever this kernel has cached.
    let readers_at = [
        lab.mount(&["-o", "attr-timeout=0s,entry-timeout=0s"]).await?,
        lab.mount(&["-o", "attr-timeout=0s,entry-timeout=0s"]).await?,
    ];
    let writers = mounts.iter().zip(0..).map(|(m, n)| writer(m, n)).collect::<Result<Vec<_>>>()?;
    let read = |(m, seed): (&std::path::PathBuf, u64)| {
        Worker::start(&Work::Read { dir: m.clone(), writers: WRITERS, sharing: 0, seed })
    };
    let readers = readers_at.iter().zip(0..).map(read).collect::<Result<Vec<_>>>()?;
    tokio::time::sleep(args.every).await;
    let mut progressed = 0;
    for cut in 0..args.cuts {
        let before: u64 = writers.iter().map(Worker::progress).sum();
        lab.cut_all_power(&[(Part::Chunk, options.chunk)])?;
        lab.cluster.start_all().await?;
        lab.cluster.wait_ready(Duration::from_secs(60)).await?;
        tokio::time::sleep(args.every).await;
        let after: u64 = writers.iter().map(Worker::progress).sum();
        progressed += usize::from(after > before);
        println!("cut {:>2}: {} fsyncs since", cut + 1, after - before);
    }
    let mut reads = 0;
    for reader in readers {
        let result: ReaderResult = blocking(move || reader.finish()).await?;
        reads += result.reads;
        verdict.found(result.violations);
    }
    let mut synced = 0;
    let mut written: Vec<Written> = Vec::new();
    for writer in writers {
        written.push(blocking(move || writer.finish()).await?);
    }
    healed(&lab).await?;
    drop_caches()?;
    for file in written {
        synced += file.ledger.synced_blocks();
        verdict.figure(&format!("writer {}: errors reported", file.id), file.errors.len());
        let unexpected = file.errors.iter().filter(|error| !error.text.contains("Input/output error"));
        verdict.found(unexpected.cloned());
        let path = readers_at[0].join(file.path.file_name().unwrap_or_default());
        verdict.found(blocking(move || Ok(file.ledger.verify(file.id, &path))).await?);
    }
    verdict.violations.extend(super::replicas::replicas_differ(&lab).await?);
    verdict.figure("cuts of all chunk servers", args.cuts);
    verdict.figure("cuts after which fsyncs went on", progressed);
    verdict.figure("blocks fsynced", synced);
    verdict.figure("blocks read meanwhile", reads);
    verdict
        .check(progressed == args.cuts, || format!("writers stood still after {} cuts (P5)", args.cuts - progressed));
    verdict.check(reads > 100, || format!("only {reads} blocks were read: the run says nothing"));
    lab.finish(!verdict.is_passed())?;
    Ok(verdict)
}
