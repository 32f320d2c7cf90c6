//! Honest waiting (DESIGN 1.7): without quorum a hard mount's process waits, can be killed, and the mount heals itself.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use caribou_cli::local::{Options, Part};
use rustix::process::Signal;

use super::blocking;
use crate::args::Setting;
use crate::lab::Lab;
use crate::report::Verdict;

const LIMIT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How long the process waits before it is killed
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    pub wait: Duration,
}

pub async fn run(setting: &Setting, args: &Args) -> Result<Verdict> {
    let mut verdict = Verdict::new("no-quorum");
    let mut lab = Lab::up(setting, &Options::default()).await?;
    let (hard, soft) = (lab.mount(&[]).await?, lab.mount(&["-o", "soft=2s"]).await?);
    for number in [1, 2] {
        lab.cluster.signal(Part::Meta, number, Signal::KILL)?;
    }
    let mut waiting = Command::new("mkdir").arg(hard.join("waits")).stderr(Stdio::null()).spawn().context("mkdir")?;
    let refused = blocking(move || Ok(std::fs::create_dir(soft.join("refused")))).await?;
    let errno = refused.as_ref().err().and_then(std::io::Error::raw_os_error);
    verdict.check(errno == Some(libc::ETIMEDOUT), || {
        format!("a soft mount answered {refused:?} where ETIMEDOUT is expected")
    });
    tokio::time::sleep(args.wait).await;
    verdict.check(waiting.try_wait()?.is_none(), || "a process on a hard mount did not wait for the quorum".to_owned());
    let killed = Instant::now();
    waiting.kill()?;
    let status = blocking(move || Ok(waiting.wait()?)).await?;
    verdict.figure("kill -9 to the end of the waiting process, ms", killed.elapsed().as_millis());
    verdict.check(killed.elapsed() <= LIMIT, || {
        format!("kill -9 took {:?} to end the waiting process ({status})", killed.elapsed())
    });
    // The mount heals itself.
    for number in [1, 2] {
        lab.cluster.start(Part::Meta, number).await?;
    }
    let path = hard.join("healed");
    let healed = tokio::time::timeout(Duration::from_secs(20), blocking(move || Ok(std::fs::create_dir(path)?))).await;
    verdict.check(matches!(healed, Ok(Ok(()))), || format!("after the quorum came back: {healed:?}"));
    lab.finish(!verdict.is_passed())?;
    Ok(verdict)
}
