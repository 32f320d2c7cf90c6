//! The process: from the configuration to a listening server, and from SIGTERM to a clean stop.
//!
//! Order matters: configuration and socket first, then the data folders, so that what is wrong with the former changes nothing
//! on disk. Every way to fail says in one sentence what, where and what to do.

use crate::attach::Refusal;
use crate::clock::{BootClock, Clock};
use crate::config::{self, Config};
use crate::limits;
use crate::listen;
use crate::peers::tonic::TonicPeers;
use crate::server::{ChunkServer, Parts, Settings};
use crate::service::status::detail_of;
use crate::store::disk::Disk;
use crate::store::file::FileDisk;
use crate::store::{ChunkStore, OpenError, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The socket.
    #[error("cannot listen on {address} ({source}): stop what uses it or choose another address with --listen")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// A data folder is not there or cannot be used.
    #[error("the data folder {path} cannot be used ({source}): create it, or correct data (--data)")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The data folders.
    #[error("{}", detail_of(.0))]
    Store(OpenError),
    /// The cluster does not take this server.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The operating system.
    #[error("cannot wait for signals ({0}): the system is out of resources")]
    Signals(std::io::Error),
    /// gRPC, or a task.
    #[error("a part of the server failed ({0}): restart it")]
    Serve(String),
}

/// Runs until SIGTERM or SIGINT, or until something makes that impossible.
pub async fn run(config: Config) -> Result<(), Error> {
    let address = config.listen_address()?;
    let mut stop = Stop::new().map_err(Error::Signals)?;
    let listener = listen::bind(address).await.map_err(|source| Error::Listen { address, source })?;
    let store = open(&config).await?;
    info!(
        server = store.server_id().map(|id| id.0),
        incarnation = store.incarnation().0,
        unclean = store.unclean(),
        dirty_chunks = store.dirty_chunks().len(),
        disks = store.disks().len(),
        "opened the data folders"
    );
    let server = ChunkServer::new(Parts {
        store,
        clock: Arc::new(BootClock),
        peers: Arc::new(TonicPeers::new(config.chain.connect_timeout)),
        settings: Settings::of(&config),
    });
    let mut serving = tokio::spawn(listen::serve(server.clone(), listener, config.connections));
    let mut following = tokio::spawn(server.clone().follow_leader(config.meta.clone()));
    tokio::spawn(server.clone().keep_house());
    info!(%address, advertised = config.advertised(), "listening");
    let outcome = tokio::select! {
        () = stop.wait() => Ok(()),
        followed = &mut following => match followed {
            Ok(outcome) => outcome.map_err(Error::Refused),
            Err(error) => Err(Error::Serve(error.to_string())),
        },
        served = &mut serving => Err(Error::Serve(match served {
            Ok(Ok(())) => "it ended by itself".to_owned(),
            Ok(Err(error)) => detail_of(&error),
            Err(error) => error.to_string(),
        })),
    };
    info!("stopping");
    server.close().await;
    if !serving.is_finished() {
        let _ = tokio::time::timeout(limits::GOODBYE_TIMEOUT, serving).await;
    }
    info!("stopped");
    outcome
}

async fn open(config: &Config) -> Result<Arc<ChunkStore>, Error> {
    let mut disks: Vec<Arc<dyn Disk>> = Vec::new();
    for path in &config.data {
        disks.push(disk(path).map_err(|source| Error::Folder { path: path.clone(), source })?);
    }
    let options = OpenOptions {
        disks,
        new_uuid: Box::new(|| uuid::Uuid::new_v4().into_bytes()),
        now_unix_ms: BootClock.unix_ms(),
        deadline: config.store.disk_deadline,
    };
    ChunkStore::open(options).await.map_err(Error::Store)
}

fn disk(path: &Path) -> std::io::Result<Arc<dyn Disk>> {
    Ok(Arc::new(FileDisk::open(path)?))
}

/// SIGTERM and SIGINT.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
