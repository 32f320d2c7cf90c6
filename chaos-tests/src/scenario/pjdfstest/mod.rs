//! The POSIX test suite pjdfstest on a mount, compared with a list of what is known to differ. `outcome.rs` reads what the suite
//! says, `expected.rs` compares.
//!
//! Twice: with the kernel's caches as they are by default, and with none, so that every answer is Caribou's. `--ext4` runs the
//! same on a local file system first, where every case has to pass: what fails there says nothing about Caribou.

mod expected;
mod outcome;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};
use caribou_cli::local::Options;

use super::blocking;
use crate::args::Setting;
use crate::lab::Lab;
use crate::program;
use crate::report::Verdict;
use expected::Expected;
use outcome::Outcomes;

const EXPECTED: &str = include_str!("../../../pjdfstest-expected.txt");

/// How long one run may take, in seconds, before it counts as hung.
const PATIENCE_S: &str = "600";

/// Cases that make the file system read-only for a moment.
const READ_ONLY_CASES: &str = "erofs";

/// Users of every Debian that the suite may play, and their groups are asked for.
const USERS: [&str; 2] = ["nobody", "daemon"];

/// What mount(8) runs for a mount that is up: Caribou's own if it is installed, else that of FUSE, which stands in its place here.
const HELPERS: [&str; 2] = ["/sbin/mount.fuse.caribou", "/sbin/mount.fuse"];

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The suite's program, as `make smoke` installs it
    #[arg(long, default_value = "pjdfstest")]
    pub program: PathBuf,
    /// Run it on ext4 first, to tell what is wrong with the suite or this machine from what is wrong with Caribou
    #[arg(long)]
    pub ext4: bool,
}

pub async fn run(setting: &Setting, args: &Args) -> Result<Verdict> {
    let mut verdict = Verdict::new("pjdfstest");
    let expected = Expected::parse(EXPECTED)?;
    check_machine()?;
    program::require_release(&args.program, &expected.version)?;
    let mut lab = Lab::up(setting, &Options::default()).await?;
    let suite = Suite::new(&args.program, &setting.binaries.path("caribou-mount"), lab.folder())?;
    if args.ext4 {
        judge(&mut verdict, "ext4", &expected.all_pass(), &suite, lab.local_volume()?).await?;
    }
    let mounts: [(&str, &[&str]); 2] =
        [("default mount", &[]), ("mount without caches", &["-o", "suid,dev,attr-timeout=0s,entry-timeout=0s"])];
    for (name, options) in mounts {
        let mount = lab.mount(options).await?;
        judge(&mut verdict, name, &expected, &suite, mount).await?;
    }
    lab.finish(!verdict.is_passed())?;
    Ok(verdict)
}

async fn judge(verdict: &mut Verdict, name: &str, expected: &Expected, suite: &Suite, place: PathBuf) -> Result<()> {
    let suite = suite.clone();
    let outcomes = blocking(move || suite.run(&place)).await?;
    verdict.figure(name, outcomes.summary());
    verdict.violations.extend(expected.compare(&outcomes).into_iter().map(|violation| format!("{name}: {violation}")));
    Ok(())
}

/// The suite, ready to run.
#[derive(Debug, Clone)]
struct Suite {
    program: PathBuf,
    helper: PathBuf,
    /// Where configuration is, and a folder on another file system than the one that is tested.
    folder: PathBuf,
}

impl Suite {
    fn new(program: &Path, helper: &Path, folder: &Path) -> Result<Self> {
        check_reachable(folder)?;
        fs::create_dir_all(folder.join("second"))?;
        for remounts in [false, true] {
            fs::write(folder.join(config_name(remounts)), config(remounts)?)?;
        }
        Ok(Self { program: program.to_owned(), helper: helper.to_owned(), folder: folder.to_owned() })
    }

    /// All cases on the file system at `place`.
    ///
    /// Those that make it read-only get a process of their own: others leave files open for writing behind, and then the kernel
    /// refuses to remount, on any file system.
    fn run(&self, place: &Path) -> Result<Outcomes> {
        fs::set_permissions(place, fs::Permissions::from_mode(0o755)).with_context(|| place.display().to_string())?;
        let mut outcomes = self.part(place, false)?;
        outcomes.replace(self.part(place, true)?);
        Ok(outcomes)
    }

    fn part(&self, place: &Path, remounts: bool) -> Result<Outcomes> {
        let helper = HELPERS.into_iter().find(|path| Path::new(path).exists()).unwrap_or(HELPERS[1]);
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", PATIENCE_S, "unshare", "--mount", "--propagation", "private", "sh", "-c"]);
        // In a mount namespace of its own: this machine's helper stays what it is.
        command.arg("mount --bind \"$0\" \"$1\" && shift && exec \"$@\"").arg(&self.helper).arg(helper);
        command.arg(&self.program).arg("-c").arg(self.folder.join(config_name(remounts)));
        command.arg("-s").arg(self.folder.join("second")).arg("-p").arg(place);
        if remounts {
            command.arg(READ_ONLY_CASES);
        }
        let output = command.env("NO_COLOR", "1").env("RUST_BACKTRACE", "0").output().context("timeout, unshare")?;
        let text = String::from_utf8_lossy(&output.stdout);
        Outcomes::parse(&text).with_context(|| format!("pjdfstest on {}: {}", place.display(), ended(&output)))
    }
}

fn ended(output: &Output) -> String {
    match output.status.code() {
        Some(124 | 137) => format!("it took longer than {PATIENCE_S} s and was ended"),
        _ => format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()),
    }
}

fn config_name(remounts: bool) -> &'static str {
    if remounts { "remounts.toml" } else { "pjdfstest.toml" }
}

fn config(remounts: bool) -> Result<String> {
    let mut entries = Vec::new();
    for user in USERS {
        entries.push(format!("[{user:?}, {:?}]", group_of(user)?));
    }
    Ok(format!(
        "[features]\nposix_fallocate = {{}}\nrename_ctime = {{}}\nstat_st_birthtime = {{}}\nutime_now = {{}}\nutimensat = {{}}\n\
         [settings]\nnaptime = 0.01\nallow_remount = {remounts}\n[dummy_auth]\nentries = [{}]\n",
        entries.join(", ")
    ))
}

fn group_of(user: &str) -> Result<String> {
    let output = Command::new("id").args(["-gn", user]).output().context("id")?;
    if !output.status.success() {
        bail!("pjdfstest plays the user {user}, whom this machine lacks: add it (useradd --system {user})");
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What the suite needs of the machine; without it cases would be left out without a word.
fn check_machine() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("pjdfstest plays several users, makes device nodes and remounts: run it as root");
    }
    if !Path::new("/dev/fuse").exists() {
        bail!("/dev/fuse is missing, so nothing can be mounted: load the fuse module");
    }
    if !HELPERS.iter().any(|path| Path::new(path).exists()) {
        bail!("{} is missing, without which mount(8) cannot remount: install fuse3", HELPERS[1]);
    }
    let output = Command::new("unshare").args(["--mount", "true"]).output().context("unshare: install util-linux")?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!(
            "no mount namespace can be made ({words}): run with CAP_SYS_ADMIN (in a container: --privileged), and in a chroot with a mount as its root"
        );
    }
    Ok(())
}

/// The suite's users have to get as far as the mount.
fn check_reachable(folder: &Path) -> Result<()> {
    for above in folder.ancestors() {
        let mode = fs::metadata(above).with_context(|| above.display().to_string())?.permissions().mode();
        if mode & 0o001 == 0 {
            bail!(
                "other users cannot enter {}, below which the mount would be: choose another folder with --dir",
                above.display()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_known_differences_is_well_formed() {
        let expected = Expected::parse(EXPECTED).expect("parses");
        assert!(!expected.version.is_empty());
    }
}
