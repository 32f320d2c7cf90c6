//! Configuration: one TOML file, flags laid over it, validated once. `docs/config/chunkd.toml` shows every key with its default.
//!
//! What is not here is a fixed limit (`limits`). Paths are used as they are; nothing on disk is looked at here.

use bytesize::ByteSize;
use clap::Parser;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The chunk server of a Caribou cluster.
#[derive(Debug, Parser)]
#[command(name = "caribou-chunkd", version, about)]
pub struct Args {
    /// Configuration file (TOML); without one the defaults hold.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address and port to listen on.
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Address and port under which clients and other chunk servers reach this one; by default the address it listens on.
    #[arg(long, value_name = "ADDR")]
    pub advertise: Option<String>,
    /// A data folder, one per disk; may be repeated. Replaces the list of the file.
    #[arg(long, value_name = "DIR")]
    pub data: Vec<PathBuf>,
    /// Metadata nodes, host:port, separated by commas. Replaces the list of the file.
    #[arg(long, value_name = "ADDR,ADDR,…", value_delimiter = ',')]
    pub meta: Vec<String>,
    /// Allow an address that other machines can reach: there is no authentication yet.
    #[arg(long)]
    pub insecure_listen: bool,
}

/// All settings.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address and port to listen on, for clients and other chunk servers.
    pub listen: String,
    /// Where others reach this server; empty: the address it listens on.
    pub advertise: String,
    /// Allow a `listen` address that other machines can reach. There is no authentication yet: whoever reaches it can read and write everything.
    pub insecure_listen: bool,
    /// Data folders, one per disk.
    pub data: Vec<PathBuf>,
    /// Metadata nodes, host:port; one that answers is enough, the others are learnt from it.
    pub meta: Vec<String>,
    /// What goes to standard error: error, warn, info, debug, or a filter such as `info,caribou_chunkd::chain=debug`.
    pub log: String,
    /// Connections of clients and chunk servers at once; more are closed at once.
    pub connections: usize,
    /// Memory for fragments that are being written, for each distance from the end of a chain (goal 2: two, goal 3: three).
    pub write_buffer: ByteSize,
    /// Forwarding to the next chunk server.
    pub chain: ChainConfig,
    /// Carrying out recovery and repair.
    pub recovery: RecoveryConfig,
    /// The replicas on disk.
    pub store: StoreConfig,
}

/// `[chain]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChainConfig {
    /// How long connecting to another server may take.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long the rest of a chain may take to acknowledge a fragment; then the chunk's stream counts as broken.
    #[serde(with = "humantime_serde")]
    pub ack_timeout: Duration,
}

/// `[recovery]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecoveryConfig {
    /// Replicas that are copied or made equal at once.
    pub parallel: usize,
    /// Bytes that one of them has under way from another server.
    pub window: ByteSize,
    /// How long a source may stay silent before the copy is given up (the leader then plans anew).
    #[serde(with = "humantime_serde")]
    pub fetch_timeout: Duration,
}

/// `[store]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// How long deleted replicas and unknown files stay in the quarantine folder.
    #[serde(with = "humantime_serde")]
    pub quarantine: Duration,
    /// How often the quarantine is looked through.
    #[serde(with = "humantime_serde")]
    pub quarantine_scan: Duration,
    /// A disk that takes longer for one operation counts as failed until the server is restarted.
    #[serde(with = "humantime_serde")]
    pub disk_deadline: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9440".to_owned(),
            advertise: String::new(),
            insecure_listen: false,
            data: vec![PathBuf::from("/var/lib/caribou/chunk")],
            meta: vec!["127.0.0.1:9430".to_owned()],
            log: "info".to_owned(),
            connections: 1024,
            write_buffer: ByteSize::mib(256),
            chain: ChainConfig::default(),
            recovery: RecoveryConfig::default(),
            store: StoreConfig::default(),
        }
    }
}

impl Default for ChainConfig {
    fn default() -> Self {
        Self { connect_timeout: Duration::from_secs(1), ack_timeout: Duration::from_secs(10) }
    }
}

impl Default for RecoveryConfig {
    fn default() -> Self {
        Self { parallel: 4, window: ByteSize::mib(8), fetch_timeout: Duration::from_secs(10) }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            quarantine: Duration::from_secs(24 * 3600),
            quarantine_scan: Duration::from_secs(600),
            disk_deadline: Duration::from_secs(10),
        }
    }
}

/// A setting that cannot be used; one sentence: what, where, what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("the configuration file {path} cannot be read ({source}): check the path and its permissions")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{path}, line {line}: {message}: correct it (docs/config/chunkd.toml lists every key)")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// A value makes no sense.
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
        config.overlay(args);
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

    fn overlay(&mut self, args: &Args) {
        if let Some(listen) = &args.listen {
            self.listen.clone_from(listen);
        }
        if let Some(advertise) = &args.advertise {
            self.advertise.clone_from(advertise);
        }
        if !args.data.is_empty() {
            self.data.clone_from(&args.data);
        }
        if !args.meta.is_empty() {
            self.meta.clone_from(&args.meta);
        }
        self.insecure_listen |= args.insecure_listen;
    }

    /// The address to listen on.
    pub fn listen_address(&self) -> Result<SocketAddr, Error> {
        self.listen.parse().map_err(|_| {
            Error::Value(format!(
                "listen = \"{}\" is no address: give an IP address and a port, as 127.0.0.1:9440",
                self.listen
            ))
        })
    }

    /// Where others reach this server.
    pub fn advertised(&self) -> &str {
        if self.advertise.is_empty() { &self.listen } else { &self.advertise }
    }

    fn validate(&self) -> Result<(), Error> {
        let wrong = |text: String| Err(Error::Value(text));
        let listen = self.listen_address()?;
        if listen.port() == 0 {
            return wrong(format!(
                "listen = \"{}\" has port 0: choose a fixed port, others have to find it",
                self.listen
            ));
        }
        if !listen.ip().is_loopback() && !self.insecure_listen {
            return wrong(format!(
                "listen = \"{}\" can be reached by other machines, and there is no authentication yet: \
                 use a loopback address, or set insecure_listen = true (--insecure-listen) in a network that you trust",
                self.listen
            ));
        }
        if listen.ip().is_unspecified() && self.advertise.is_empty() {
            return wrong(format!(
                "listen = \"{}\" names no host: set advertise to what others shall dial",
                self.listen
            ));
        }
        if !is_host_and_port(self.advertised()) {
            return wrong(format!("advertise = \"{}\" is no address: give host:port", self.advertise));
        }
        if self.data.is_empty() || self.data.iter().any(|path| path.as_os_str().is_empty()) {
            return wrong("data names no folder: give one per disk (--data DIR)".to_owned());
        }
        for (index, path) in self.data.iter().enumerate() {
            if self.data[..index].contains(path) {
                return wrong(format!("data names {} twice: give each folder once", path.display()));
            }
        }
        if self.meta.is_empty() {
            return wrong("meta names no metadata node: give at least one (--meta HOST:PORT)".to_owned());
        }
        for address in &self.meta {
            if !is_host_and_port(address) {
                return wrong(format!("meta = \"{address}\" is no address: give host:port, as 127.0.0.1:9430"));
            }
        }
        if self.connections == 0 || self.recovery.parallel == 0 {
            return wrong("connections and recovery.parallel must be above 0: correct or remove them".to_owned());
        }
        let smallest = ByteSize::mib(4);
        if self.write_buffer < smallest || self.recovery.window < ByteSize::mib(1) {
            return wrong("write_buffer must be at least 4 MiB and recovery.window 1 MiB: raise them".to_owned());
        }
        if self.write_buffer > ByteSize::gib(2) || self.recovery.window > ByteSize::gib(1) {
            return wrong("write_buffer must be at most 2 GiB and recovery.window 1 GiB: lower them".to_owned());
        }
        if self.chain.connect_timeout.is_zero()
            || self.chain.ack_timeout.is_zero()
            || self.recovery.fetch_timeout.is_zero()
        {
            return wrong("timeouts must be above 0: correct or remove them".to_owned());
        }
        if self.store.quarantine_scan.is_zero() || self.store.disk_deadline.is_zero() {
            return wrong(
                "store.quarantine_scan and store.disk_deadline must be above 0: correct or remove them".to_owned(),
            );
        }
        Ok(())
    }
}

fn is_host_and_port(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| {
        let host_ok = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c == '/' || c == '@');
        host_ok && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(args: &[&str]) -> Result<Config, Error> {
        Config::load(&Args::parse_from([&["caribou-chunkd"], args].concat()))
    }

    fn with_file(text: &str, args: &[&str]) -> Result<Config, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chunkd.toml");
        std::fs::write(&path, text).unwrap();
        load(&[&["--config", path.to_str().unwrap()], args].concat())
    }

    #[test]
    fn the_documented_file_is_the_default() {
        let path = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests"))
            .join("../docs/config/chunkd.toml");
        let documented = Config::parse(&std::fs::read_to_string(&path).unwrap(), &path).unwrap();
        assert_eq!(documented, Config::default());
        documented.validate().unwrap();
    }

    #[test]
    fn flags_win_over_the_file() {
        let config = with_file(
            "listen = \"127.0.0.1:1\"\nmeta = [\"a:1\"]\ndata = [\"/x\"]\nwrite_buffer = \"8 MiB\"\nrecovery.window = \"2MiB\"\nchain.ack_timeout = \"3s\"",
            &["--listen", "127.0.0.1:2", "--data", "/y", "--data", "/z", "--meta", "b:1,c:2"],
        )
        .unwrap();
        assert_eq!(config.listen, "127.0.0.1:2");
        assert_eq!(config.advertised(), "127.0.0.1:2");
        assert_eq!(config.data, [PathBuf::from("/y"), PathBuf::from("/z")]);
        assert_eq!(config.meta, ["b:1", "c:2"]);
        assert_eq!(config.write_buffer, ByteSize::mib(8));
        assert_eq!(config.recovery.window, ByteSize::mib(2));
        assert_eq!(config.chain.ack_timeout, Duration::from_secs(3));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = with_file("log = \"info\"\n\nlissten = \"x\"", &[]).unwrap_err().to_string();
        assert!(error.contains("line 3") && error.contains("lissten") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn wrong_values_are_refused_in_words() {
        for (args, word) in [
            (vec!["--listen", "0.0.0.0:9440"], "insecure_listen"),
            (vec!["--listen", "0.0.0.0:9440", "--insecure-listen"], "advertise"),
            (vec!["--listen", "127.0.0.1:0"], "port 0"),
            (vec!["--listen", "localhost"], "no address"),
            (vec!["--advertise", "host"], "advertise"),
            (vec!["--meta", "host"], "meta"),
            (vec!["--data", "/x", "--data", "/x"], "twice"),
            (vec!["--config", "/nowhere/chunkd.toml"], "cannot be read"),
        ] {
            let error = load(&args).unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains('\n'), "{args:?}: {error}");
        }
        assert!(load(&["--listen", "0.0.0.0:9440", "--insecure-listen", "--advertise", "me:9440"]).is_ok());
    }
}
