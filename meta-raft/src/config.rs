//! Configuration: one TOML file, flags laid over it, validated once. `docs/config/meta.toml` shows every key with its default.
//!
//! Paths are used as they are; nothing on disk is looked at here.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use caribou_proto::ids::MAX_INLINE_BYTES;
use clap::Parser;
use serde::Deserialize;

/// A metadata node of a Caribou cluster.
#[derive(Debug, Parser)]
#[command(name = "caribou-meta", version, about)]
pub struct Args {
    /// Configuration file (TOML); without one the defaults hold.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// This node's number in the cluster, from 1.
    #[arg(long, value_name = "N")]
    pub node_id: Option<u64>,
    /// Address and port to listen on.
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Address and port under which others reach this node; by default the address it listens on.
    #[arg(long, value_name = "ADDR")]
    pub advertise: Option<String>,
    /// The data folder.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Allow an address that other machines can reach: there is no authentication yet.
    #[arg(long)]
    pub insecure_listen: bool,
}

/// All settings.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// This node's number in the cluster, from 1; never reused for another data folder.
    pub node_id: u64,
    /// Address and port to listen on, for clients, chunk servers, operators and the other metadata nodes.
    pub listen: String,
    /// Where others reach this node; empty: the address it listens on.
    pub advertise: String,
    /// Allow a `listen` address that other machines can reach. There is no authentication yet: whoever reaches it can read and change everything.
    pub insecure_listen: bool,
    /// The data folder: Raft log, state and snapshots.
    pub data: PathBuf,
    /// What goes to standard error: error, warn, info, debug, or a filter such as `info,caribou_meta_raft::raft=debug`.
    pub log: String,
    /// Replication.
    pub raft: RaftSection,
    /// The state's store.
    pub storage: StorageConfig,
    /// What one node takes on at most.
    pub limits: LimitsConfig,
}

/// `[raft]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RaftSection {
    /// How often the leader shows that it lives.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// Shortest time without a leader before a node stands for election.
    #[serde(with = "humantime_serde")]
    pub election_timeout_min: Duration,
    /// Longest such time.
    #[serde(with = "humantime_serde")]
    pub election_timeout_max: Duration,
    /// A snapshot is made when this much log has come since the last one.
    pub snapshot_after: ByteSize,
    /// Log kept for followers that were away, so that a short absence needs no snapshot.
    pub log_keep: ByteSize,
}

/// `[storage]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageConfig {
    /// Memory for the state: blocks that were read, and changes that are not in a table file yet.
    pub block_cache: ByteSize,
    /// The part of it that such changes may take.
    pub write_buffer: ByteSize,
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Session streams of clients at once; one more is refused in words.
    pub sessions: usize,
    /// Connections of all kinds at once; more are closed at once.
    pub connections: usize,
    /// Requests and queries of one client that are being worked on at once; more wait in its stream.
    pub calls_per_session: usize,
    /// Files up to this size are kept with their attributes on the metadata nodes, not on chunk servers; 0: none. At most 64 KiB.
    pub inline_data: ByteSize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_id: 1,
            listen: "127.0.0.1:9430".to_owned(),
            advertise: String::new(),
            insecure_listen: false,
            data: PathBuf::from("/var/lib/caribou/meta"),
            log: "info,openraft=error".to_owned(),
            raft: RaftSection::default(),
            storage: StorageConfig::default(),
            limits: LimitsConfig::default(),
        }
    }
}

impl Default for RaftSection {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(25),
            election_timeout_min: Duration::from_millis(75),
            election_timeout_max: Duration::from_millis(150),
            snapshot_after: ByteSize::mib(256),
            log_keep: ByteSize::mib(256),
        }
    }
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self { block_cache: ByteSize::mib(768), write_buffer: ByteSize::mib(256) }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { sessions: 10_000, connections: 16_384, calls_per_session: 2048, inline_data: ByteSize::kib(16) }
    }
}

/// A setting that cannot be used; one sentence: what, where, what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the configuration file {path} cannot be read ({source}): check the path and its permissions")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path}, line {line}: {message}: correct it (docs/config/meta.toml lists every key)")]
    Syntax { path: PathBuf, line: usize, message: String },
    #[error("{0}")]
    Value(String),
}

impl Config {
    /// The file that the flags name, with the flags laid over it, validated.
    pub fn load(args: &Args) -> Result<Self, Error> {
        let mut config = match &args.config {
            None => Self::default(),
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).map_err(|source| Error::Unreadable { path: path.clone(), source })?;
                Self::parse(&text, path)?
            }
        };
        config.node_id = args.node_id.unwrap_or(config.node_id);
        if let Some(listen) = &args.listen {
            config.listen.clone_from(listen);
        }
        if let Some(advertise) = &args.advertise {
            config.advertise.clone_from(advertise);
        }
        if let Some(data) = &args.data {
            config.data.clone_from(data);
        }
        config.insecure_listen |= args.insecure_listen;
        config.validate()?;
        Ok(config)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start).min(text.len());
            let line = text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1;
            Error::Syntax { path: path.to_owned(), line, message: error.message().replace('\n', ", ") }
        })
    }

    /// The address to listen on.
    pub fn listen_address(&self) -> Result<SocketAddr, Error> {
        self.listen.parse().map_err(|_| {
            Error::Value(format!(
                "listen = \"{}\" is no address: give an IP address and a port, as 127.0.0.1:9430",
                self.listen
            ))
        })
    }

    /// Where others reach this node.
    pub fn advertised(&self) -> &str {
        if self.advertise.is_empty() { &self.listen } else { &self.advertise }
    }

    fn validate(&self) -> Result<(), Error> {
        let wrong = |text: String| Err(Error::Value(text));
        let listen = self.listen_address()?;
        if self.node_id == 0 {
            return wrong("node_id = 0: metadata nodes are numbered from 1".to_owned());
        }
        if listen.port() == 0 {
            return wrong(format!(
                "listen = \"{}\" has port 0: choose a fixed port, others have to find it",
                self.listen
            ));
        }
        if !listen.ip().is_loopback() && !self.insecure_listen {
            return wrong(format!(
                "listen = \"{}\" can be reached from other machines, and there is no authentication yet: use a loopback address, or set insecure_listen = true if you accept that",
                self.listen
            ));
        }
        if self.advertised().parse::<SocketAddr>().is_ok_and(|a| a.ip().is_unspecified()) {
            return wrong(format!(
                "advertise = \"{}\" is no address that others can reach: set advertise to this node's own address",
                self.advertised()
            ));
        }
        let raft = &self.raft;
        if raft.heartbeat * 2 > raft.election_timeout_min || raft.election_timeout_min >= raft.election_timeout_max {
            return wrong(format!(
                "[raft] heartbeat {:?}, election_timeout_min {:?}, election_timeout_max {:?}: each must be clearly longer than the one before (the first at least twice)",
                raft.heartbeat, raft.election_timeout_min, raft.election_timeout_max
            ));
        }
        if self.limits.sessions == 0 || self.limits.connections == 0 || self.limits.calls_per_session == 0 {
            return wrong("[limits] values must be above zero".to_owned());
        }
        if self.limits.inline_data.as_u64() > u64::from(MAX_INLINE_BYTES) {
            return wrong(format!(
                "[limits] inline_data = \"{}\" is more than the 64KiB that the metadata can hold of a file: choose less",
                self.limits.inline_data
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Config, Error> {
        let config = Config::parse(text, Path::new("meta.toml"))?;
        config.validate().map(|()| config)
    }

    #[test]
    fn the_documented_file_is_the_default() {
        assert_eq!(parsed(include_str!("../../docs/config/meta.toml")).unwrap(), Config::default());
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = parsed("node_id = 2\nlisen = \"x\"\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("lisen"), "{error}");
    }

    #[test]
    fn addresses_that_others_reach_must_be_asked_for() {
        assert!(parsed("listen = \"0.0.0.0:9430\"").is_err());
        assert!(parsed("listen = \"10.0.0.1:9430\"\ninsecure_listen = true").is_ok());
        assert!(parsed("listen = \"0.0.0.0:9430\"\ninsecure_listen = true").is_err());
        assert!(parsed("listen = \"127.0.0.1:0\"").is_err());
    }

    #[test]
    fn inline_data_has_a_bound() {
        assert!(parsed("[limits]\ninline_data = \"0\"").is_ok());
        assert!(parsed("[limits]\ninline_data = \"64KiB\"").is_ok());
        assert!(parsed("[limits]\ninline_data = \"65KiB\"").is_err());
    }

    #[test]
    fn times_must_fit_together() {
        assert!(parsed("[raft]\nheartbeat = \"100ms\"").is_err());
    }
}
