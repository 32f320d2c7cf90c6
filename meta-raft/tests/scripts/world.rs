//! The state machine as a script sees it: who asks, in which session, at what time; and the words of the language.

use caribou_meta_raft::fsm::command::*;
use caribou_meta_raft::fsm::error::{Failure, OpResult};
use caribou_meta_raft::fsm::tables::Table;
use caribou_meta_raft::fsm::tables::memory::MemoryTables;
use caribou_meta_raft::fsm::{Batch, invariants, read};
use caribou_proto::ids::{Cookie, Incarnation, InodeId, ROOT_INODE, Seq, ServerId, SessionId};

use crate::show;

/// Everything that lines change.
pub struct World {
    tables: MemoryTables,
    time_ns: i64,
    caller: Caller,
    session: u64,
    next_seq: [u64; 10],
    acked_below: [u64; 10],
    requests: Vec<ClientCommand>,
}

const SECOND: i64 = 1_000_000_000;

impl World {
    /// A cluster with a session, 1, and root asking.
    pub fn new() -> Self {
        let mut world = Self::empty();
        for line in ["init", "open-session k1 one"] {
            world.run(line);
        }
        world
    }

    fn empty() -> Self {
        Self {
            tables: MemoryTables::default(),
            time_ns: 0,
            caller: Caller::default(),
            session: 1,
            next_seq: [1; 10],
            acked_below: [1; 10],
            requests: vec![],
        }
    }

    /// One line of a script; what it prints.
    pub fn run(&mut self, line: &str) -> Vec<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let Some(output) = self.setting(&words) {
            return output;
        }
        if let Some(output) = self.question(&words) {
            return vec![output];
        }
        let command = match self.leader_command(&words) {
            Some(command) => command,
            None => self.client_command(&words),
        };
        self.apply(command)
    }

    fn apply(&mut self, command: Command) -> Vec<String> {
        self.time_ns += SECOND;
        let before = self.tables.clone();
        let mut batch = Batch::new(&before);
        let entry = Entry { feature_level: 1, time_ns: self.time_ns, commands: vec![command] };
        let applied = batch.apply(&entry).expect("no broken invariant");
        self.tables.commit(batch.finish());
        invariants::check(&self.tables).expect("invariants");
        let mut lines: Vec<_> = applied.replies.iter().map(show::reply).collect();
        lines.extend(applied.effects.iter().map(show::effect));
        lines.extend(show::changes(&before, &self.tables));
        lines
    }

    /// Lines that only change who asks, and when.
    fn setting(&mut self, words: &[&str]) -> Option<Vec<String>> {
        match words {
            ["empty"] => *self = Self::empty(),
            ["as", who] => {
                let user = |uid, gid, groups: &[u32]| Caller { uid, gid, groups: groups.to_vec() };
                self.caller = match *who {
                    "root" => user(0, 0, &[]),
                    "alice" => user(1000, 1000, &[50]),
                    "bob" => user(1001, 1001, &[50]),
                    "carol" => user(1002, 1002, &[]),
                    other => panic!("who is {other}?"),
                };
            }
            ["session", number] => self.session = number.parse().expect("a session"),
            ["tick", seconds] => self.time_ns += seconds.parse::<i64>().expect("seconds") * SECOND,
            ["seq", number] => self.next_seq[self.session as usize] = number.parse().expect("a seq"),
            ["ack", number] => self.acked_below[self.session as usize] = number.parse().expect("a seq"),
            _ => return None,
        }
        Some(vec![])
    }

    fn question(&self, words: &[&str]) -> Option<String> {
        let tables = &self.tables;
        let answer = match words {
            ["lookup", path] => {
                let (parent, name) = self.place(path);
                said(read::lookup(tables, &self.caller, parent, &name).map(|a| show::attr(&a)))
            }
            ["getattr", path] => said(read::getattr(tables, self.inode(path)).map(|a| show::attr(&a))),
            ["access", path, mask] => {
                let mask = mask.parse().expect("a mask");
                said(read::access(tables, &self.caller, self.inode(path), mask).map(|_| "yes".into()))
            }
            ["readlink", path] => said(read::readlink(tables, self.inode(path)).map(|t| show::text(&t))),
            ["getxattr", path, name] => {
                let value = read::getxattr(tables, &self.caller, self.inode(path), name.as_bytes());
                said(value.map(|v| show::text(&v)))
            }
            ["listxattr", path] => {
                let names = read::listxattr(tables, &self.caller, self.inode(path));
                said(names.map(|n| n.iter().map(|n| show::text(n)).collect::<Vec<_>>().join(" ")))
            }
            ["statfs"] => said(read::statfs(tables).map(|s| format!("{s:?}"))),
            ["path", path] => {
                let path = read::path(tables, self.inode(path));
                said(path.map(|p| p.map_or("none".into(), |p| show::text(&p))))
            }
            ["ls", path] => self.list(path, 0, 1000),
            ["ls", path, cookie, limit] => self.list(path, number(cookie), number(limit) as u32),
            ["dump", name] => {
                let table = Table::ALL.into_iter().find(|t| t.name() == *name).expect("a table");
                let rows = tables.rows().filter(|(t, _, _)| *t == table);
                rows.map(|(t, k, v)| show::row(tables, t, k, Some(v))).collect::<Vec<_>>().join("\n")
            }
            _ => return None,
        };
        Some(answer)
    }

    fn list(&self, path: &str, cookie: u64, limit: u32) -> String {
        let page = read::readdir(&self.tables, self.inode(path), Cookie(cookie), limit, true);
        said(page.map(|page| {
            let entries = page.entries.iter().map(|e| format!("{}={}", e.cookie, show::text(&e.name)));
            let end = if page.end { "end" } else { "more" };
            entries.chain([end.to_owned()]).collect::<Vec<_>>().join(" ")
        }))
    }

    fn leader_command(&self, words: &[&str]) -> Option<Command> {
        let key = |word: &str| {
            let mut key = [0; 16];
            key[..word.len()].copy_from_slice(word.as_bytes());
            key
        };
        Some(match words {
            ["init"] => Command::InitCluster(InitCluster { uuid: [7; 16], generation: 1, nonce: 9, default_goal: 2 }),
            ["open-session", k, name] => Command::OpenSession { key: key(k), name: (*name).into() },
            ["idle", session, add] => {
                let step = IdleStep { session: SessionId(number(session)), add_ms: number(add) };
                Command::AddIdle { sessions: vec![step] }
            }
            ["expire", session, ttl] => {
                Command::ExpireSession { session: SessionId(number(session)), ttl_ms: number(ttl) }
            }
            ["forget", before, limit] => {
                let before_ns = number(before) as i64 * SECOND;
                Command::ForgetSessions { before_ns, limit: number(limit) as u32 }
            }
            ["cancel", seq] => Command::Cancel { session: SessionId(self.session), seq: Seq(number(seq)) },
            ["purge", inodes @ ..] => {
                Command::PurgeOrphans { inodes: inodes.iter().map(|inode| self.inode(inode)).collect() }
            }
            ["server", uuid, incarnation] => Command::RegisterServer(RegisterServer {
                uuid: key(uuid),
                incarnation: Incarnation(number(incarnation)),
                address: format!("{uuid}:1"),
                total_bytes: 1000,
                free_bytes: 900,
            }),
            ["dup"] => Command::Client(self.requests.last().expect("a request").clone()),
            ["dup", seq] => {
                let same = |r: &&ClientCommand| r.session.0 == self.session && r.seq.0 == number(seq);
                Command::Client(self.requests.iter().find(same).expect("a request").clone())
            }
            _ => return None,
        })
    }

    fn client_command(&mut self, words: &[&str]) -> Command {
        let session = self.session as usize;
        let (seq, acked_below) = (Seq(self.next_seq[session]), Seq(self.acked_below[session]));
        self.next_seq[session] += 1;
        let op = self.operation(words);
        let caller = self.caller.clone();
        let request = ClientCommand { session: SessionId(self.session), seq, acked_below, caller, op };
        self.requests.push(request.clone());
        Command::Client(request)
    }

    fn operation(&self, words: &[&str]) -> ClientOp {
        let flag = |word: &str| words.contains(&word);
        match words {
            ["create", path, mode, ..] => {
                let (parent, name) = self.place(path);
                let placement = words.iter().find_map(|w| w.strip_prefix("on="));
                let servers = placement.map(|list| list.split(',').map(|id| ServerId(number(id))).collect());
                ClientOp::Create(Create {
                    parent,
                    name,
                    mode: octal(mode),
                    exclusive: flag("excl"),
                    truncate: flag("trunc"),
                    access: if flag("rw") { 6 } else { 4 },
                    placement: servers.unwrap_or_default(),
                })
            }
            ["mkdir", path, mode] => {
                let (parent, name) = self.place(path);
                ClientOp::Mkdir { parent, name, mode: octal(mode) }
            }
            ["mknod", path, kind, mode, rdev] => {
                let (parent, name) = self.place(path);
                let kind = match *kind {
                    "fifo" => Kind::Fifo,
                    "socket" => Kind::Socket,
                    "char" => Kind::CharDevice,
                    "block" => Kind::BlockDevice,
                    _ => Kind::Regular,
                };
                ClientOp::Mknod { parent, name, kind, mode: octal(mode), rdev: number(rdev) as u32 }
            }
            ["symlink", path, target] => {
                let (parent, name) = self.place(path);
                ClientOp::Symlink { parent, name, target: target.as_bytes().to_vec() }
            }
            ["link", from, to] => {
                let (parent, name) = self.place(to);
                ClientOp::Link { inode: self.inode(from), parent, name }
            }
            ["unlink", path] => {
                let (parent, name) = self.place(path);
                ClientOp::Unlink { parent, name }
            }
            ["rmdir", path] => {
                let (parent, name) = self.place(path);
                ClientOp::Rmdir { parent, name }
            }
            ["rename", from, to, ..] => {
                let ((parent, name), (new_parent, new_name)) = (self.place(from), self.place(to));
                let (no_replace, exchange) = (flag("noreplace"), flag("exchange"));
                ClientOp::Rename(Rename { parent, name, new_parent, new_name, no_replace, exchange })
            }
            ["setxattr", path, name, value, ..] => ClientOp::SetXattr {
                inode: self.inode(path),
                name: name.as_bytes().to_vec(),
                value: value.as_bytes().to_vec(),
                create: flag("create"),
                replace: flag("replace"),
            },
            ["removexattr", path, name] => {
                ClientOp::RemoveXattr { inode: self.inode(path), name: name.as_bytes().to_vec() }
            }
            ["setattr", path, settings @ ..] => ClientOp::SetAttr(self.settings(path, settings)),
            ["take", path, index, servers @ ..] => ClientOp::TakeGrant(TakeGrant {
                inode: self.inode(path),
                index: number(index) as u32,
                placement: servers.iter().map(|id| ServerId(number(id))).collect(),
            }),
            other => panic!("no such line: {other:?}"),
        }
    }

    fn settings(&self, path: &str, settings: &[&str]) -> SetAttr {
        let mut args = SetAttr { inode: self.inode(path), ..SetAttr::default() };
        let time = |word: &str| if word == "now" { SetTime::Now } else { SetTime::At(number(word) as i64 * SECOND) };
        for setting in settings {
            match setting.split_once('=') {
                Some(("mode", value)) => args.mode = Some(octal(value)),
                Some(("uid", value)) => args.uid = Some(number(value) as u32),
                Some(("gid", value)) => args.gid = Some(number(value) as u32),
                Some(("size", value)) => args.size = Some(number(value)),
                Some(("atime", value)) => args.atime = Some(time(value)),
                Some(("mtime", value)) => args.mtime = Some(time(value)),
                None if *setting == "handle" => args.by_handle = true,
                other => panic!("no such setting: {other:?}"),
            }
        }
        args
    }

    /// A path's inode; `#7` is inode 7.
    fn inode(&self, path: &str) -> InodeId {
        if let Some(id) = path.strip_prefix('#') {
            return InodeId(number(id));
        }
        let mut at = ROOT_INODE;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let found = read::lookup(&self.tables, &Caller::default(), at, &expand(name));
            at = found.unwrap_or_else(|_| panic!("{path} does not exist")).inode;
        }
        at
    }

    /// The directory and the last name of a path.
    fn place(&self, path: &str) -> (InodeId, Vec<u8>) {
        let (directory, name) = path.rsplit_once('/').expect("a path");
        (self.inode(directory), expand(name))
    }
}

/// `x*300` is 300 times x.
fn expand(name: &str) -> Vec<u8> {
    match name.split_once('*') {
        Some((what, times)) => what.repeat(number(times) as usize).into_bytes(),
        None => name.as_bytes().to_vec(),
    }
}

fn said(answer: OpResult<String>) -> String {
    match answer {
        Ok(answer) => answer,
        Err(Failure::Errno(errno)) => format!("errno {errno:?}"),
        Err(Failure::Fatal(fatal)) => panic!("{fatal}"),
    }
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("{word} is no number"))
}

fn octal(word: &str) -> u32 {
    u32::from_str_radix(word, 8).unwrap_or_else(|_| panic!("{word} is no mode"))
}
