//! The two command lines: `caribou-mount --meta A,B,C MOUNTPOINT [-o ...]`, and `mount.caribou A,B,C MOUNTPOINT [-sfnv] [-o ...]`
//! as mount(8) calls it (under the name `mount.fuse.caribou` for a mount that is up: `mount -o remount,ro /mnt`).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Parser;

use crate::remount::Remount;
use crate::server::Problem;
use crate::{Config, options};

/// What one invocation asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Args {
    /// All settings.
    pub config: Config,
    /// Where to mount.
    pub mount_point: PathBuf,
    /// Whether to go into the background once the mount is up.
    pub background: bool,
}

/// A command line, understood.
#[derive(Debug, PartialEq)]
pub enum Invocation {
    /// To mount.
    Mount(Box<Args>),
    /// To change the flags of a mount that is up.
    Remount(Remount),
    /// Help or version, to be printed.
    Print(String),
}

/// Mounts a Caribou file system and serves it until it is unmounted (umount, Ctrl-C or SIGTERM).
#[derive(Parser)]
#[command(name = "caribou-mount", version)]
struct Cli {
    /// Metadata nodes, host:port; one that answers is enough.
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT,...")]
    meta: Vec<String>,
    /// An existing folder.
    #[arg(value_name = "MOUNTPOINT")]
    mount_point: PathBuf,
    /// Mount options, as in fstab.
    #[arg(short = 'o', value_name = "OPTION,...", long_help = format!("Mount options, as in fstab: {}", options::KNOWN))]
    options: Vec<String>,
    /// A file of settings (docs/config/mount.toml); the command line goes before it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Stay in the foreground (the default).
    #[arg(long, conflicts_with = "background")]
    foreground: bool,
    /// Go into the background once the mount is up.
    #[arg(long)]
    background: bool,
}

/// The command line of a mount helper, mount(8).
#[derive(Parser)]
#[command(name = "mount.caribou", version)]
struct Helper {
    /// Metadata nodes, host:port,host:port.
    spec: String,
    /// An existing folder.
    mount_point: PathBuf,
    /// Mount options.
    #[arg(short = 'o')]
    options: Vec<String>,
    /// Ignore unknown options.
    #[arg(short = 's')]
    sloppy: bool,
    /// Do everything but mount.
    #[arg(short = 'f')]
    fake: bool,
    /// Do not write to mtab (nothing does).
    #[arg(short = 'n')]
    no_mtab: bool,
    /// Say more.
    #[arg(short = 'v')]
    verbose: bool,
    /// The file system type.
    #[arg(short = 't')]
    fs_type: Option<String>,
}

impl Args {
    /// Understands a command line; the name under which the program was called chooses which one.
    ///
    /// # Errors
    /// In words.
    pub fn from_command_line(args: impl Iterator<Item = OsString>) -> Result<Invocation, Problem> {
        let args: Vec<OsString> = args.collect();
        let name = args.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
        if name.to_string_lossy().starts_with("mount.") { Self::from_helper(args) } else { Self::from_cli(args) }
    }

    fn from_cli(args: Vec<OsString>) -> Result<Invocation, Problem> {
        let cli = match Cli::try_parse_from(args) {
            Ok(cli) => cli,
            Err(error) => return printed_or_bad(&error),
        };
        let mut config = match &cli.config {
            Some(path) => Config::load(path)?,
            None => Config::default(),
        };
        if apply_all(&mut config, &cli.options, false)? {
            return Ok(Invocation::Remount(Remount { mount_point: cli.mount_point, flags: config.flags }));
        }
        if !cli.meta.is_empty() {
            config.meta = cli.meta;
        }
        config.validate()?;
        let args = Self { config, mount_point: cli.mount_point, background: cli.background };
        Ok(Invocation::Mount(Box::new(args)))
    }

    fn from_helper(args: Vec<OsString>) -> Result<Invocation, Problem> {
        let helper = match Helper::try_parse_from(args) {
            Ok(helper) => helper,
            Err(error) => return printed_or_bad(&error),
        };
        let mut config = Config::default();
        if apply_all(&mut config, &helper.options, helper.sloppy)? {
            return Ok(match helper.fake {
                true => Invocation::Print(String::new()),
                false => Invocation::Remount(Remount { mount_point: helper.mount_point, flags: config.flags }),
            });
        }
        config.meta = helper.spec.split(',').map(str::to_owned).collect();
        if helper.verbose {
            "debug".clone_into(&mut config.log);
        }
        config.validate()?;
        if helper.fake {
            return Ok(Invocation::Print(String::new()));
        }
        let args = Self { config, mount_point: helper.mount_point, background: true };
        Ok(Invocation::Mount(Box::new(args)))
    }
}

/// Takes lists of options over into `config`; whether one of them asks for a remount.
fn apply_all(config: &mut Config, lists: &[String], sloppy: bool) -> Result<bool, Problem> {
    let mut remounts = false;
    for list in lists {
        let (remount, rest) = options::take_remount(list);
        remounts |= remount;
        options::apply(config, &rest, sloppy)?;
    }
    Ok(remounts)
}

fn printed_or_bad(error: &clap::Error) -> Result<Invocation, Problem> {
    if error.exit_code() == 0 {
        return Ok(Invocation::Print(error.render().to_string()));
    }
    // One sentence: clap's first line, without its own prefix, and where to look.
    let text = error.render().to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut first = lines.next().unwrap_or("bad arguments").trim_start_matches("error: ").to_owned();
    if first.ends_with(':') {
        let missing: Vec<&str> = lines.take_while(|line| !line.starts_with("Usage")).collect();
        first = format!("{first} {}", missing.join(", "));
    }
    Err(Problem::input(format!("{first}; see caribou-mount --help")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Invocation, Problem> {
        Args::from_command_line(line.split_whitespace().map(OsString::from))
    }

    fn mount(line: &str) -> Args {
        match parse(line).expect("parses") {
            Invocation::Mount(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn both_command_lines() {
        let args = mount("caribou-mount --meta a:1,b:2 /mnt --foreground -o soft=5s,attr-timeout=0");
        assert_eq!(args.config.meta, ["a:1", "b:2"]);
        assert_eq!((args.mount_point.as_path(), args.background), (Path::new("/mnt"), false));
        assert_eq!(args.config.soft, Some(std::time::Duration::from_secs(5)));
        let args = mount("/sbin/mount.caribou a:1,b:2 /mnt -n -o rw,noatime,_netdev -t caribou");
        assert_eq!(args.config.meta, ["a:1", "b:2"]);
        assert!(args.background);
        assert_eq!(parse("mount.caribou a:1 /mnt -f").expect("parses"), Invocation::Print(String::new()));
        assert!(matches!(parse("caribou-mount --help"), Ok(Invocation::Print(_))));
    }

    #[test]
    fn a_remount_as_mount_asks_for_it() {
        let remount = |flags: &[&str]| {
            let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
            Invocation::Remount(Remount { mount_point: PathBuf::from("/mnt"), flags })
        };
        let line = "/sbin/mount.fuse.caribou a:1;b:2 /mnt -o ro,relatime,remount,user_id=0,group_id=0,allow_other \
                    -t fuse.caribou";
        assert_eq!(parse(line).expect("parses"), remount(&["ro"]));
        assert_eq!(parse("caribou-mount /mnt -o remount,rw,suid").expect("parses"), remount(&["rw", "suid"]));
        assert_eq!(
            parse("mount.fuse.caribou a:1 /mnt -f -o remount,ro").expect("parses"),
            Invocation::Print(String::new())
        );
        assert!(parse("caribou-mount /mnt -o remount,fast").is_err());
    }

    #[test]
    fn bad_input_is_one_line() {
        for line in [
            "caribou-mount",
            "caribou-mount /mnt --metta a:1",
            "caribou-mount --meta nonsense /mnt",
            "caribou-mount --meta a:1 /mnt -o fast",
            "caribou-mount --config /no/such/file /mnt",
            "mount.caribou a:1",
        ] {
            let problem = parse(line).expect_err(line);
            assert!(!problem.to_string().contains('\n'), "{problem}");
            assert_eq!(problem.exit_code(), 2);
        }
    }
}
