//! The program itself: what a person sees who starts it wrongly, and how it stops.

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_caribou-chunkd"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// The program under limits that a shell has set before.
fn limited(ulimit: &str) -> Command {
    let mut command = Command::new("sh");
    let script = format!("ulimit {ulimit} && exec \"$0\" \"$@\"");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_caribou-chunkd")]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// A port that nobody listens on now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Runs what has to fail: exit code 2 and one sentence, which is returned.
fn refused(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    let last = text.lines().last().unwrap_or_default().to_owned();
    assert!(last.starts_with("caribou-chunkd: "), "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("caribou-chunkd: ")).count(), 1, "{text}");
    last
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[test]
fn bad_input_is_one_sentence_and_exit_code_2_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (config, data) = (folder.path().join("chunkd.toml"), folder.path().join("data"));
    std::fs::create_dir(&data).unwrap();
    std::fs::write(&config, "data = [\"x\"]\nlissten = \"127.0.0.1:1\"\n").unwrap();
    let text = refused(program().arg("--config").arg(&config));
    assert!(text.contains("lissten") && text.contains("line 2"), "{text}");

    let text = refused(program().arg("--config").arg(folder.path().join("none.toml")));
    assert!(text.contains("none.toml") && text.contains("cannot be read"), "{text}");

    let text = refused(program().args(["--listen", "0.0.0.0:9440", "--data"]).arg(&data));
    assert!(text.contains("insecure_listen"), "{text}");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let text = refused(program().args(["--listen", &address, "--data"]).arg(&data));
    assert!(text.contains("cannot listen") && text.contains(&address), "{text}");

    let address = format!("127.0.0.1:{}", free_port());
    let text = refused(program().args(["--listen", &address, "--data"]).arg(folder.path().join("missing")));
    assert!(text.contains("missing"), "{text}");
    assert_eq!(files(&data), 0);

    std::fs::write(data.join("letter.txt"), "mine").unwrap();
    let text = refused(program().args(["--listen", &address, "--data"]).arg(&data));
    assert!(text.contains("not empty"), "{text}");
    assert_eq!(files(&data), 1);
}

/// A server without any metadata node: it waits for one.
fn start(data: &Path) -> (Child, BufReader<std::process::ChildStderr>) {
    start_as(program(), data)
}

fn start_as(mut program: Command, data: &Path) -> (Child, BufReader<std::process::ChildStderr>) {
    let (listen, meta) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let mut child = program.args(["--listen", &listen, "--meta", &meta, "--data"]).arg(data).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("listening") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "it ended before it listened");
    }
    assert!(line.contains(&listen) && line.contains("INFO"), "{line}");
    (child, log)
}

#[test]
fn it_says_where_it_listens_waits_for_a_leader_and_stops_cleanly_on_sigterm() {
    let data = tempfile::tempdir().unwrap();
    let (mut child, mut log) = start(data.path());
    // Its folder is taken: a second server does not get it.
    let listen = format!("127.0.0.1:{}", free_port());
    let text = refused(program().args(["--listen", &listen, "--data"]).arg(data.path()));
    assert!(text.contains("in use"), "{text}");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("stopped") && !rest.contains("WARN") && !rest.contains("ERROR"), "{rest}");
    // The same folder again.
    let (mut child, _log) = start(data.path());
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn it_takes_the_descriptors_that_it_may_have_and_does_not_start_with_too_few() {
    let data = tempfile::tempdir().unwrap();
    let listen = format!("127.0.0.1:{}", free_port());
    let text = refused(limited("-n 600").args(["--listen", &listen, "--data"]).arg(data.path()));
    assert!(text.contains("600 file descriptors") && text.contains("ulimit"), "{text}");
    assert_eq!(files(data.path()), 0);
    let (mut child, _log) = start_as(limited("-S -n 256"), data.path());
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1], "soft and hard: {line}");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}
