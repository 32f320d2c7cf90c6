//! The `-o` options, of `caribou-mount` and of mount(8).

use std::time::Duration;

use bytesize::ByteSize;

use crate::Config;
use crate::server::Problem;

/// Options that mount(8) and fstab use among themselves.
const IGNORED: &[&str] = &[
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "async",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
];

/// What mount(8) takes from the kernel's list of mounts when it changes one.
const SHOWN: &[&str] = &["user-id", "group-id", "max-read", "blksize"];

/// Asks to change the flags of a mount that is up.
const REMOUNT: &str = "remount";

/// Options that the kernel understands.
const FLAGS: &[&str] =
    &["ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "atime", "noatime", "sync", "dirsync"];

/// What the error for an unknown option lists.
pub(crate) const KNOWN: &str = "hard, soft=TIME, attr-timeout=TIME, entry-timeout=TIME, [no]allow-other, \
    [no-]default-permissions, remount, threads=N, workers=N, write-buffer=SIZE, read-ahead=SIZE, sync-after=TIME, \
    max-background=N, name=TEXT, log=LEVEL, log-file=PATH, ro, rw, [no]suid, [no]dev, [no]exec, [no]atime, sync, dirsync";

/// Takes a comma-separated list over into `config`. `sloppy` (mount -s) ignores what it does not know.
///
/// # Errors
/// An unknown option or a malformed value, in words.
pub(crate) fn apply(config: &mut Config, list: &str, sloppy: bool) -> Result<(), Problem> {
    for option in list.split(',').map(str::trim).filter(|option| !option.is_empty()) {
        let (key, value) = option.split_once('=').map_or((option, None), |(key, value)| (key, Some(value)));
        let key = key.replace('_', "-");
        let known = apply_one(config, &key, value)?;
        let ignored = IGNORED.contains(&option) || key.starts_with("x-") || key.starts_with("X-") || key == "comment";
        if !known && !ignored && !sloppy {
            return Err(Problem::input(format!("unknown mount option {option:?}; known are: {KNOWN}")));
        }
    }
    Ok(())
}

fn apply_one(config: &mut Config, key: &str, value: Option<&str>) -> Result<bool, Problem> {
    match (key, value) {
        ("hard", None) => config.soft = None,
        ("soft", Some(value)) => config.soft = Some(time(key, value)?),
        ("soft", None) => return Err(Problem::input("the option soft needs a time, such as soft=30s")),
        ("attr-timeout", Some(value)) => config.attr_timeout = time(key, value)?,
        ("entry-timeout", Some(value)) => config.entry_timeout = time(key, value)?,
        ("sync-after", Some(value)) => config.sync_after = time(key, value)?,
        ("allow-other", None) => config.allow_other = Some(true),
        ("noallow-other" | "no-allow-other", None) => config.allow_other = Some(false),
        ("default-permissions", None) => config.default_permissions = true,
        ("no-default-permissions" | "nodefault-permissions", None) => config.default_permissions = false,
        ("threads", Some(value)) => config.threads = number(key, value)?,
        ("workers", Some(value)) => config.workers = number(key, value)?,
        ("max-background", Some(value)) => config.max_background = number(key, value)?,
        ("write-buffer", Some(value)) => config.write_buffer = size(key, value)?,
        ("read-ahead", Some(value)) => config.read_ahead = size(key, value)?,
        ("name", Some(value)) => value.clone_into(&mut config.name),
        ("log", Some(value)) => value.clone_into(&mut config.log),
        ("log-file", Some(value)) => config.log_file = Some(value.into()),
        (flag, None) if FLAGS.contains(&flag) => config.flags.push(flag.to_owned()),
        _ => return Ok(false),
    }
    Ok(true)
}

/// Takes `remount` out of a list of options; whether it was there, and the rest. What mount(8) adds of its own goes with it.
pub(crate) fn take_remount(list: &str) -> (bool, String) {
    let is_remount = list.split(',').any(|option| option.trim() == REMOUNT);
    let shown = |option: &str| {
        let key = option.split('=').next().unwrap_or_default().trim().replace('_', "-");
        key == REMOUNT || SHOWN.contains(&key.as_str())
    };
    let rest: Vec<&str> = list.split(',').filter(|option| !(is_remount && shown(option))).collect();
    (is_remount, rest.join(","))
}

/// A time with a unit, or seconds.
fn time(key: &str, value: &str) -> Result<Duration, Problem> {
    if let Some(seconds) = value.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
        return Ok(seconds);
    }
    humantime::parse_duration(value)
        .map_err(|error| Problem::input(format!("{key}={value} is no time ({error}); write for example {key}=1s")))
}

fn number<N: std::str::FromStr>(key: &str, value: &str) -> Result<N, Problem> {
    value.parse().map_err(|_| Problem::input(format!("{key}={value} is no number in range; write for example {key}=4")))
}

fn size(key: &str, value: &str) -> Result<ByteSize, Problem> {
    value.parse().map_err(|_| Problem::input(format!("{key}={value} is no size; write for example {key}=256MiB")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_as_in_fstab() {
        let mut config = Config::default();
        let list = "rw,_netdev,nofail,x-systemd.automount,soft=30s,attr_timeout=0,entry-timeout=500ms,noatime,\
                    write-buffer=1GiB,threads=2,noallow_other,comment=ours";
        apply(&mut config, list, false).expect("all known");
        assert_eq!(config.soft, Some(Duration::from_secs(30)));
        assert_eq!(config.attr_timeout, Duration::ZERO);
        assert_eq!(config.entry_timeout, Duration::from_millis(500));
        assert_eq!(config.flags, ["rw", "noatime"]);
        assert_eq!(config.write_buffer, ByteSize::gib(1));
        assert_eq!((config.threads, config.allow_other), (2, Some(false)));
        apply(&mut config, "hard", false).expect("known");
        assert_eq!(config.soft, None);
    }

    #[test]
    fn a_remount_is_told_apart() {
        let list = "ro,relatime,remount,user_id=0,group_id=0,default_permissions,allow_other";
        let (is_remount, rest) = take_remount(list);
        assert_eq!((is_remount, rest.as_str()), (true, "ro,relatime,default_permissions,allow_other"));
        assert_eq!(take_remount("rw,user_id=0"), (false, "rw,user_id=0".to_owned()));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let mut config = Config::default();
        for (list, words) in [
            ("sofft=3s", "unknown mount option \"sofft=3s\""),
            ("soft", "soft=30s"),
            ("attr-timeout=soon", "attr-timeout=soon is no time"),
            ("threads=many", "threads=many"),
            ("write-buffer=big", "write-buffer=big"),
            ("attr-timeout=-1", "attr-timeout=-1"),
        ] {
            let problem = apply(&mut config, list, false).expect_err(list).to_string();
            assert!(problem.contains(words), "{problem}");
        }
        apply(&mut config, "sofft=3s", true).expect("sloppy");
    }
}
