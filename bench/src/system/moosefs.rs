//! MooseFS through the script beside this crate's sources, which is a part of the program.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Brings it up and down.
const SCRIPT: &str = include_str!("../../moosefs.sh");

/// A MooseFS that is up.
pub struct MooseFs {
    down: bool,
}

impl MooseFs {
    pub fn up(data: &Path, mount: &Path, synced: bool) -> Result<Self> {
        // Whatever of it was started is taken down, also if the rest was not.
        let this = Self { down: false };
        script("up", &[data.as_os_str(), mount.as_os_str()], synced)?;
        Ok(this)
    }

    /// How many copies there are of what will be made in a folder.
    pub fn keep_copies(&self, folder: &Path, copies: u32) -> Result<()> {
        script("goal", &[OsStr::new(&copies.to_string()), folder.as_os_str()], false)
    }

    pub fn down(mut self) -> Result<()> {
        self.down = true;
        take_down()
    }
}

impl Drop for MooseFs {
    /// After an error.
    fn drop(&mut self) {
        if !self.down
            && let Err(error) = take_down()
        {
            eprintln!("caribou-bench: {error:#}");
        }
    }
}

/// Ends whatever of MooseFS was started for a comparison, also by a run that crashed.
pub fn take_down() -> Result<()> {
    script("down", &[], false)
}

/// The version that is installed.
pub fn version() -> Result<String> {
    let query = Command::new("dpkg-query").args(["-W", "-f", "${Version}", "moosefs-master"]).output();
    let query = query.context("dpkg-query")?;
    if !query.status.success() {
        bail!("MooseFS is not installed: run bench/setup.sh, as `make bench` does, or leave it out with --systems");
    }
    Ok(String::from_utf8_lossy(&query.stdout).into_owned())
}

fn script(verb: &str, args: &[&OsStr], synced: bool) -> Result<()> {
    let mut command = Command::new("bash");
    command.args(["-c", SCRIPT, "moosefs.sh", verb]).args(args).env("SYNCED", if synced { "1" } else { "0" });
    // A file, not a pipe: daemons inherit it, and a pipe would have no end before theirs.
    let mut told = tempfile::tempfile().context("a temporary file")?;
    let output = told.try_clone()?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    if !command.status().context("bash")?.success() {
        let mut text = String::new();
        std::io::Seek::rewind(&mut told)?;
        std::io::Read::read_to_string(&mut told, &mut text)?;
        bail!("MooseFS, {verb}: {}", text.trim());
    }
    Ok(())
}
