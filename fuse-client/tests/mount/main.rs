//! The mount through the kernel: the real `caribou-mount` against a metadata node in this process. Needs root and /dev/fuse;
//! where there is none, it says so and checks only what bad input gets.

mod server;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const MOUNT: &str = env!("CARGO_BIN_EXE_caribou-mount");

/// A mount, taken away however the test ends.
struct Mounted {
    child: Child,
    place: PathBuf,
}

impl Mounted {
    fn new(address: &str, place: &Path) -> Self {
        let mut child = Command::new(MOUNT)
            .args(["--meta", address, "-o", "soft=20s,attr-timeout=0,entry-timeout=0"])
            .arg(place)
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let mut lines = stderr.lines();
        let up = lines.by_ref().map_while(Result::ok).any(|line| line.contains("mounted"));
        std::thread::spawn(move || lines.for_each(drop));
        assert!(up, "the mount never came up");
        Self { child, place: place.to_owned() }
    }

    fn stop(&mut self) -> Option<i32> {
        signal(self.child.id(), rustix::process::Signal::TERM);
        self.child.wait().expect("ends").code()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = rustix::mount::unmount(&self.place, rustix::mount::UnmountFlags::DETACH);
    }
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("not 0");
    rustix::process::kill_process(pid, signal).expect("signalled");
}

/// Whether to mount; `CARIBOU_TEST_WITHOUT=fuse` says that this machine cannot.
fn can_mount() -> bool {
    if std::env::var("CARIBOU_TEST_WITHOUT").is_ok_and(|without| without.split(',').any(|what| what == "fuse")) {
        return false;
    }
    let is_root = rustix::process::geteuid().is_root();
    let device = fs::File::options().read(true).write(true).open("/dev/fuse");
    assert!(
        is_root && device.is_ok(),
        "mounting needs root and /dev/fuse ({device:?}): set CARIBOU_TEST_WITHOUT=fuse to leave it out"
    );
    true
}

#[test]
fn bad_input_is_one_sentence_and_exit_code_2() {
    let dir = tempfile::tempdir().expect("a folder");
    let missing = dir.path().join("missing");
    let here = dir.path().to_str().expect("plain");
    let cases: [(&[&str], &str); 4] = [
        (&["--meta", "127.0.0.1:1", missing.to_str().expect("plain")], "does not exist"),
        (&["--meta", "127.0.0.1:1", here, "-o", "sofft=1s"], "unknown mount option"),
        (&["--meta", "nonsense", here], "host:port"),
        (&["--meta", "127.0.0.1:1", here, "-o", "soft=300ms"], "no metadata leader found within 300ms"),
    ];
    for (args, words) in cases {
        if words.starts_with("no metadata") && !can_mount() {
            continue;
        }
        let output = Command::new(MOUNT).args(args).output().expect("runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(words) && text.trim().lines().count() == 1, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_attributes_through_the_kernel() {
    if !can_mount() {
        return;
    }
    let (node, address) = server::Node::start().await;
    let dir = tempfile::tempdir().expect("a folder");
    let place = dir.path().to_owned();
    let seen = node.clone();
    let work = tokio::task::spawn_blocking(move || {
        let mut mounted = Mounted::new(&address, &place);
        let at = |name: &str| place.join(name);
        fs::create_dir(at("dir")).expect("mkdir");
        assert_eq!(fs::create_dir(at("dir")).expect_err("there").raw_os_error(), Some(libc::EEXIST));
        fs::File::create(at("dir/file")).expect("create");
        fs::set_permissions(at("dir/file"), fs::Permissions::from_mode(0o640)).expect("chmod");
        assert_eq!(fs::metadata(at("dir/file")).expect("stat").mode() & 0o7777, 0o640);
        symlink("dir/file", at("link")).expect("symlink");
        assert_eq!(fs::read_link(at("link")).expect("readlink"), Path::new("dir/file"));
        fs::rename(at("dir/file"), at("dir/other")).expect("rename");
        assert_eq!(fs::metadata(at("dir/file")).expect_err("gone").raw_os_error(), Some(libc::ENOENT));
        let mut names = BTreeSet::from([".".to_owned(), "..".to_owned()]);
        fs::create_dir(at("many")).expect("mkdir");
        for i in 0..300 {
            let name = format!("entry-with-a-longer-name-{i}");
            fs::create_dir(at("many").join(&name)).expect("mkdir");
            names.insert(name);
        }
        let listed = Command::new("ls").args(["-a", "-U"]).arg(at("many")).output().expect("ls");
        let listed: Vec<String> = String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned).collect();
        assert_eq!(listed.len(), 302, "each name once");
        assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), names);
        // Removing while scanning neither skips nor repeats.
        for entry in fs::read_dir(at("many")).expect("opendir") {
            fs::remove_dir(entry.expect("readdir").path()).expect("rmdir");
        }
        fs::remove_dir(at("many")).expect("empty");
        killed_while_it_waits(&seen, &at("hang"));
        let statfs = rustix::fs::statvfs(&place).expect("statfs");
        assert_eq!(statfs.f_blocks * statfs.f_frsize, 1 << 40);
        assert_eq!(mounted.stop(), Some(0), "SIGTERM unmounts");
        assert!(fs::read_dir(&place).expect("the folder below").next().is_none(), "nothing is mounted any more");
    });
    work.await.expect("no panic");
    until("every handle's claim is released", || node.claims() == 0);
}

/// S5: a call that is never answered does not keep a process.
fn killed_while_it_waits(node: &server::Node, path: &Path) {
    use std::os::unix::process::ExitStatusExt;
    for (deadly, ends_by) in
        [(rustix::process::Signal::TERM, libc::SIGTERM), (rustix::process::Signal::KILL, libc::SIGKILL)]
    {
        let before = node.hanging();
        let mut stat =
            Command::new("stat").arg(path).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("stat");
        until("the call waits", || node.hanging() > before);
        let signalled = Instant::now();
        signal(stat.id(), deadly);
        let ended = stat.wait().expect("ends");
        assert!(signalled.elapsed() < Duration::from_secs(1), "{:?}", signalled.elapsed());
        assert_eq!(ended.signal(), Some(ends_by));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mount_8_comes_back_when_the_mount_is_up() {
    if !can_mount() {
        return;
    }
    let (_node, address) = server::Node::start().await;
    let dir = tempfile::tempdir().expect("a folder");
    let helper = dir.path().join("mount.caribou");
    symlink(MOUNT, &helper).expect("linked");
    let place = dir.path().join("mnt");
    fs::create_dir(&place).expect("mkdir");
    let work = tokio::task::spawn_blocking(move || {
        let unreachable =
            Command::new(&helper).arg("127.0.0.1:1").arg(&place).args(["-o", "soft=300ms"]).output().expect("runs");
        let text = String::from_utf8_lossy(&unreachable.stderr).into_owned();
        assert_eq!(unreachable.status.code(), Some(2), "{text}");
        assert!(text.contains("no metadata leader found"), "{text}");
        // No pipes: the background process would keep them open until it lets go of its terminal.
        let up = Command::new(&helper)
            .arg(&address)
            .arg(&place)
            .args(["-n", "-o", "rw,_netdev,soft=20s"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("runs");
        assert_eq!(up.code(), Some(0));
        fs::create_dir(place.join("dir")).expect("mkdir");
        assert!(fs::metadata(place.join("dir")).expect("stat").is_dir());
        rustix::mount::unmount(&place, rustix::mount::UnmountFlags::empty()).expect("unmounted");
        assert!(!place.join("dir").exists());
    });
    work.await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_is_up_can_be_made_read_only_and_back() {
    if !can_mount() {
        return;
    }
    let (_node, address) = server::Node::start().await;
    let dir = tempfile::tempdir().expect("a folder");
    let helper = dir.path().join("mount.fuse.caribou");
    symlink(MOUNT, &helper).expect("linked");
    let place = dir.path().join("mnt");
    fs::create_dir(&place).expect("mkdir");
    let work = tokio::task::spawn_blocking(move || {
        let mut mounted = Mounted::new(&address, &place);
        // As mount(8) calls its helper for `mount -o remount,FLAG PLACE`.
        let remount = |flag: &str| {
            let options = format!("{flag},relatime,remount,user_id=0,group_id=0,default_permissions,allow_other");
            let output = Command::new(&helper)
                .arg(address.replace(',', ";"))
                .arg(&place)
                .args(["-o", &options, "-t", "fuse.caribou"])
                .output()
                .expect("runs");
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let open = fs::File::create(place.join("open")).expect("created");
        let (code, text) = remount("ro");
        assert_eq!(code, Some(2), "a file is open for writing");
        assert!(text.contains("files are open for writing"), "{text}");
        drop(open);
        // The kernel lets go of a closed file a moment later.
        until("read-only", || remount("ro").0 == Some(0));
        let refused = fs::create_dir(place.join("dir")).expect_err("read-only");
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
        let flags = rustix::fs::statvfs(&place).expect("statvfs").f_flag;
        let kept = rustix::fs::StatVfsMountFlags::NOSUID | rustix::fs::StatVfsMountFlags::NODEV;
        assert!(flags.contains(kept), "what is not named stays: {flags:?}");
        assert_eq!(remount("rw"), (Some(0), String::new()));
        fs::create_dir(place.join("dir")).expect("writable");
        assert_eq!(mounted.stop(), Some(0));
    });
    work.await.expect("no panic");
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::yield_now();
    }
}
