//! `caribou leader transfer`: a planned hand-over.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::admin::{self, MetaAddresses};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    meta: MetaAddresses,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Hand leadership over
    Transfer {
        /// The node that shall lead; any up-to-date follower without it
        #[arg(long, default_value_t = 0)]
        to: u64,
    },
}

impl Args {
    pub async fn run(self) -> Result<ExitCode> {
        let Action::Transfer { to } = self.action;
        for (address, status) in admin::status_of_all(&self.meta.meta).await {
            if status.is_ok_and(|s| s.leader.is_some()) {
                let leader = admin::transfer_leader(&address, to).await?;
                println!("metadata node {leader} leads now");
                return Ok(ExitCode::SUCCESS);
            }
        }
        bail!("no leader was found among {}: check `caribou status`", self.meta.meta.join(", "))
    }
}
