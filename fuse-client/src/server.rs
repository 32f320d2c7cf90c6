//! The life of a mount: check, connect, mount, serve, unmount. Bad input ends it before anything is changed.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use caribou_client::{Client, Error};
use fuser::{MountOption, Session, SessionACL, SessionUnmounter};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::adapter::{Adapter, KernelSettings};
use crate::daemon::{self, Parent, Side};
use crate::fs::Fs;
use crate::{Args, Config, mount_point};

/// Why there is no mount: one sentence that says what, where and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{words}")]
pub struct Problem {
    words: String,
    exit_code: u8,
}

impl Problem {
    /// Something that whoever started the mount can put right.
    pub(crate) fn input(words: impl Into<String>) -> Self {
        Self { words: words.into(), exit_code: 2 }
    }

    /// The mount was up and ended badly.
    fn end(words: impl Into<String>) -> Self {
        Self { words: words.into(), exit_code: 1 }
    }

    /// What the process exits with.
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }
}

/// Mounts and serves until it is unmounted. In the background: comes back as soon as the mount is up.
///
/// # Errors
/// In words, with an exit code.
pub fn run(args: Args) -> Result<(), Problem> {
    let place = mount_point::check(&args.mount_point)?;
    let parent = if args.background {
        match daemon::fork()? {
            Side::Child(parent) => parent,
            Side::Parent(result) => return result,
        }
    } else {
        Parent::none()
    };
    start_log(&args.config)?;
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if args.config.workers > 0 {
        builder.worker_threads(args.config.workers);
    }
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|error| Problem::input(format!("cannot start threads: {error}; raise the process limits")))?;
    match runtime.block_on(mount(&args.config, &place)) {
        Ok(mounted) => {
            parent.tell(&Ok(()));
            runtime.block_on(mounted.serve())
        }
        Err(problem) => {
            parent.tell(&Err(problem.clone()));
            Err(problem)
        }
    }
}

struct Mounted {
    client: Client,
    place: PathBuf,
    unmounter: SessionUnmounter,
    /// Ends when the file system is unmounted.
    ended: tokio::sync::oneshot::Receiver<std::io::Result<()>>,
    terminate: Signal,
    interrupt: Signal,
}

async fn mount(config: &Config, place: &Path) -> Result<Mounted, Problem> {
    let no_signals = |error: std::io::Error| Problem::input(format!("cannot listen for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let client = tokio::select! {
        client = Client::connect(config.client(place)) => client.map_err(|error| not_connected(&error))?,
        _ = terminate.recv() => return Err(Problem::end("stopped before a metadata leader was found")),
        _ = interrupt.recv() => return Err(Problem::end("stopped before a metadata leader was found")),
    };
    let settings = KernelSettings {
        attr_timeout: config.attr_timeout,
        entry_timeout: config.entry_timeout,
        max_background: config.max_background,
    };
    let fs = Arc::new(Fs::new(client.clone(), config.attr_timeout));
    let adapter = Adapter::new(fs, tokio::runtime::Handle::current(), settings);
    let session = match Session::new(adapter, place, &fuse_config(config)) {
        Ok(session) => session,
        Err(error) => {
            client.shutdown().await;
            return Err(mount_point::mount_failed(place, &error));
        }
    };
    let mut session = session;
    let unmounter = session.unmount_callable();
    let (end, ended) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("fuse-session".to_owned())
        .spawn(move || end.send(session.run()))
        .map_err(|error| Problem::input(format!("cannot start a thread: {error}; raise the process limits")))?;
    mount_point::raise_read_ahead(place, config.read_ahead.as_u64());
    tracing::info!(
        mount_point = %place.display(),
        leader = client.meta().status().leader_address,
        session = %client.meta().session_id(),
        "mounted"
    );
    Ok(Mounted { client, place: place.to_owned(), unmounter, ended, terminate, interrupt })
}

impl Mounted {
    /// Until it is unmounted from outside or a signal asks for it; then everything is synced.
    async fn serve(self) -> Result<(), Problem> {
        let Self { client, place, mut unmounter, mut ended, mut terminate, mut interrupt } = self;
        let signalled = tokio::select! {
            end = &mut ended => {
                tracing::info!(mount_point = %place.display(), "unmounted");
                client.shutdown().await;
                return match end {
                    Ok(Err(error)) => Err(Problem::end(format!("the mount on {} ended: {error}", place.display()))),
                    _ => Ok(()),
                };
            }
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = signalled, mount_point = %place.display(), "unmounting");
        let settle = async {
            // First out of the tree, so that nothing new comes in; a busy mount stays with those who have it open.
            let unmounted = tokio::task::spawn_blocking(move || unmounter.unmount()).await;
            if !matches!(unmounted, Ok(Ok(()))) {
                tracing::warn!(mount_point = %place.display(), "busy: programs that still use it will see errors");
                mount_point::detach(&place);
            }
            client.shutdown().await;
        };
        tokio::select! {
            () = settle => Ok(()),
            _ = terminate.recv() => Err(abandoned()),
            _ = interrupt.recv() => Err(abandoned()),
        }
    }
}

fn abandoned() -> Problem {
    Problem::end("stopped by a second signal before everything was synced; bytes that no fsync covered may be lost")
}

fn not_connected(error: &Error) -> Problem {
    match error {
        Error::Refused(words) => Problem::input(format!("{words}; name the nodes of the right cluster with --meta")),
        Error::Unavailable(words) => Problem::input(format!(
            "{words}; check that the metadata nodes run (caribou status) and that --meta names them"
        )),
        other => Problem::input(format!("cannot connect: {other}")),
    }
}

fn fuse_config(config: &Config) -> fuser::Config {
    // The source names the metadata nodes, so that tools find the cluster of a mount. Mount options are separated by commas.
    let source = MountOption::FSName(config.meta.join(";"));
    let mut options = vec![source, MountOption::CUSTOM("subtype=caribou".to_owned())];
    if config.default_permissions {
        options.push(MountOption::DefaultPermissions);
    }
    // A later flag goes before an earlier one that contradicts it.
    let mut flags: Vec<&str> = Vec::new();
    for flag in &config.flags {
        let opposite = match flag.as_str() {
            "ro" => "rw".to_owned(),
            "rw" => "ro".to_owned(),
            flag => flag.strip_prefix("no").map_or_else(|| format!("no{flag}"), str::to_owned),
        };
        flags.retain(|other| *other != opposite && other != flag);
        flags.push(flag);
    }
    options.extend(flags.into_iter().filter_map(|flag| {
        Some(match flag {
            "ro" => MountOption::RO,
            "rw" => MountOption::RW,
            "suid" => MountOption::Suid,
            "nosuid" => MountOption::NoSuid,
            "dev" => MountOption::Dev,
            "nodev" => MountOption::NoDev,
            "exec" => MountOption::Exec,
            "noexec" => MountOption::NoExec,
            "atime" => MountOption::Atime,
            "noatime" => MountOption::NoAtime,
            "sync" => MountOption::Sync,
            "dirsync" => MountOption::DirSync,
            _ => return None,
        })
    }));
    let others = config.allow_other.unwrap_or_else(|| rustix::process::geteuid().is_root());
    let mut fuse = fuser::Config::default();
    fuse.mount_options = options;
    fuse.acl = if others { SessionACL::All } else { SessionACL::Owner };
    fuse.n_threads = Some(config.threads);
    fuse.clone_fd = config.threads > 1;
    fuse
}

fn start_log(config: &Config) -> Result<(), Problem> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) if !filter.is_empty() => filter,
        _ => config.log.clone(),
    };
    let filter = EnvFilter::try_new(&filter).map_err(|error| {
        Problem::input(format!("log={filter} is no log level: {error}; write for example log=info"))
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    // Refused only if a log was started before, in tests.
    let _ = match &config.log_file {
        None => builder.with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr).try_init(),
        Some(path) => {
            let file = std::fs::File::options().create(true).append(true).open(path).map_err(|error| {
                Problem::input(format!("cannot write the log {}: {error}; choose another log-file", path.display()))
            })?;
            builder.with_ansi(false).with_writer(file).try_init()
        }
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_flags_go_before_earlier_ones() {
        let flags = ["ro", "noatime", "rw", "atime", "suid"].map(str::to_owned).to_vec();
        let fuse = fuse_config(&Config { flags, allow_other: Some(false), ..Config::default() });
        let options = &fuse.mount_options;
        assert!(options.contains(&MountOption::RW) && !options.contains(&MountOption::RO));
        assert!(options.contains(&MountOption::Atime) && !options.contains(&MountOption::NoAtime));
        assert!(options.contains(&MountOption::Suid) && options.contains(&MountOption::DefaultPermissions));
        assert_eq!(fuse.acl, SessionACL::Owner);
    }

    #[test]
    fn problems_are_one_sentence_with_a_code() {
        let problem =
            not_connected(&Error::Refused("a:1 refuses this client: it belongs to another cluster".to_owned()));
        assert_eq!(problem.exit_code(), 2);
        assert!(problem.to_string().contains("--meta") && !problem.to_string().contains('\n'));
    }
}
