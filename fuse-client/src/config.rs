//! Every setting of a mount. `docs/config/mount.toml` is tested equal to the defaults.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use caribou_client::ClientConfig;
use serde::Deserialize;

use crate::server::Problem;

/// More event threads than this only cost memory: each keeps a 16 MiB request buffer.
const MAX_THREADS: usize = 32;

/// The settings of one mount: from a file, then the command line.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `host:port` of metadata nodes; one that answers is enough, the others are learnt.
    pub meta: Vec<String>,
    /// Shown in `caribou status`. Empty: host name and mount point.
    pub name: String,
    /// Absent (hard): calls wait for as long as it takes. Set: they fail with ETIMEDOUT after this time, outcome unknown.
    #[serde(with = "humantime_serde")]
    pub soft: Option<Duration>,
    /// How long the kernel may use attributes without asking. 0: it always asks.
    #[serde(with = "humantime_serde")]
    pub attr_timeout: Duration,
    /// How long the kernel may use a name without asking. 0: it always asks.
    #[serde(with = "humantime_serde")]
    pub entry_timeout: Duration,
    /// Whether other users than the one who mounts may use it. Absent: yes if that is root.
    pub allow_other: Option<bool>,
    /// Whether the kernel checks modes as well, which it has to for names and attributes that it answers from its cache.
    pub default_permissions: bool,
    /// Threads that take requests from the kernel.
    pub threads: usize,
    /// Threads that carry the requests out. 0: one per processor.
    pub workers: usize,
    /// Bound of the bytes of all files that no fsync covers yet.
    pub write_buffer: ByteSize,
    /// Read-ahead of a file that is read in sequence.
    pub read_ahead: ByteSize,
    /// Written data that nobody touched for this long is synced in the background.
    #[serde(with = "humantime_serde")]
    pub sync_after: Duration,
    /// Background requests (read-ahead, asynchronous direct I/O) that the kernel may have on their way.
    pub max_background: u16,
    /// Kernel mount flags: `ro`, `nosuid`, `nodev`, `noexec`, `noatime` and their opposites, `sync`, `dirsync`.
    pub flags: Vec<String>,
    /// What is logged: error, warn, info, debug, trace, or a filter as for RUST_LOG.
    pub log: String,
    /// Where the log goes. Absent: stderr (in the background: nowhere).
    pub log_file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        let client = ClientConfig::default();
        Self {
            meta: client.meta,
            name: String::new(),
            soft: None,
            attr_timeout: Duration::from_secs(1),
            entry_timeout: Duration::from_secs(1),
            allow_other: None,
            default_permissions: true,
            threads: 4,
            workers: 0,
            write_buffer: ByteSize::b(client.write_buffer_bytes),
            read_ahead: ByteSize::b(u64::from(client.read_ahead_bytes)),
            sync_after: client.sync_after,
            max_background: 64,
            flags: Vec::new(),
            log: "info".to_owned(),
            log_file: None,
        }
    }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// The file cannot be read, or has an unknown or malformed key: in words, with the file's name.
    pub fn load(path: &Path) -> Result<Self, Problem> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Problem::input(format!("cannot read {}: {error}; name a file that exists", path.display()))
        })?;
        toml::from_str(&text).map_err(|error| {
            let what = error.message().trim().replace('\n', " ");
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            Problem::input(format!("{} line {line}: {what}; see docs/config/mount.toml for all keys", path.display()))
        })
    }

    /// Looks at values that parse but make no sense.
    ///
    /// # Errors
    /// In words.
    pub fn validate(&self) -> Result<(), Problem> {
        if self.meta.is_empty() {
            return Err(Problem::input("no metadata node is given; use --meta host:port,host:port"));
        }
        for address in &self.meta {
            let port =
                address.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then(|| port.parse::<u16>().ok()));
            if port.flatten().is_none_or(|port| port == 0) {
                return Err(Problem::input(format!("{address:?} is no metadata node; write host:port")));
            }
        }
        if !(1..=MAX_THREADS).contains(&self.threads) {
            return Err(Problem::input(format!("threads is {}; choose 1 to {MAX_THREADS}", self.threads)));
        }
        if self.soft.is_some_and(|soft| soft.is_zero()) {
            return Err(Problem::input(
                "soft is 0, so that every call would fail; choose a time such as 30s, or leave it out",
            ));
        }
        if self.write_buffer.as_u64() < 64 << 20 {
            return Err(Problem::input(format!("write-buffer is {}; choose 64 MiB or more", self.write_buffer)));
        }
        if self.read_ahead.as_u64() > 1 << 30 {
            return Err(Problem::input(format!("read-ahead is {}; choose 1 GiB or less", self.read_ahead)));
        }
        Ok(())
    }

    pub(crate) fn client(&self, mount_point: &Path) -> ClientConfig {
        let name = if self.name.is_empty() {
            let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
            format!("{host}:{}", mount_point.display())
        } else {
            self.name.clone()
        };
        ClientConfig {
            want_directories: !self.attr_timeout.is_zero(),
            meta: self.meta.clone(),
            name,
            soft: self.soft,
            write_buffer_bytes: self.write_buffer.as_u64(),
            read_ahead_bytes: u32::try_from(self.read_ahead.as_u64()).unwrap_or(u32::MAX),
            sync_after: self.sync_after,
            ..ClientConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_file_is_the_default() {
        let path = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests"))
            .join("../docs/config/mount.toml");
        assert_eq!(Config::load(&path).expect("parses"), Config::default());
        Config::default().validate().expect("is valid");
    }

    #[test]
    fn every_key_is_documented() {
        let text = include_str!("../../docs/config/mount.toml");
        let source = include_str!("config.rs");
        let fields =
            source.split("pub struct Config {").nth(1).and_then(|rest| rest.split("\n}").next()).expect("there");
        for field in fields.lines().filter_map(|line| line.trim().strip_prefix("pub ")) {
            let key = field.split(':').next().expect("a name");
            assert!(text.lines().any(|line| line.trim_start_matches("# ").starts_with(&format!("{key} ="))), "{key}");
        }
    }

    #[test]
    fn bad_values_are_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("mount.toml");
        for (text, words) in [
            ("meta = [\"a:1\"]\nsofft = \"3s\"\n", "line 2: unknown field `sofft`"),
            ("attr_timeout = \"soon\"\n", "line 1"),
        ] {
            std::fs::write(&path, text).expect("written");
            let problem = Config::load(&path).expect_err("bad").to_string();
            assert!(problem.contains(words) && !problem.contains('\n'), "{problem}");
        }
        for meta in ["host", "host:", ":1", "host:99999", "host:0"] {
            let config = Config { meta: vec![meta.to_owned()], ..Config::default() };
            assert!(config.validate().expect_err("bad").to_string().contains(meta));
        }
        assert!(Config { threads: 0, ..Config::default() }.validate().is_err());
    }
}
