//! How replies, effects and rows look in a script.

use caribou_meta_raft::fsm::command::Kind;
use caribou_meta_raft::fsm::reply::{Attr, Body, ClientReply, Effect, GrantReply, Outcome, Reply};
use caribou_meta_raft::fsm::tables::memory::MemoryTables;
use caribou_meta_raft::fsm::tables::sessions::SessionState;
use caribou_meta_raft::fsm::tables::{Table, Tables, chunks, dentries, inodes, replies, sessions, symlinks};
use caribou_proto::ids::{ChunkId, InodeId, SESSION_WINDOW, SessionId};

/// Nanoseconds as whole seconds where they are.
pub fn time(time_ns: i64) -> String {
    if time_ns % 1_000_000_000 == 0 { format!("{}s", time_ns / 1_000_000_000) } else { format!("{time_ns}ns") }
}

pub fn text(bytes: &[u8]) -> String {
    if bytes.len() > 40 {
        return format!("{}… ({} bytes)", String::from_utf8_lossy(&bytes[..8]), bytes.len());
    }
    String::from_utf8_lossy(bytes).into_owned()
}

fn kind(kind: Kind) -> String {
    format!("{kind:?}").to_lowercase()
}

pub fn attr(a: &Attr) -> String {
    let rdev = if a.rdev == 0 { String::new() } else { format!(" rdev {}", a.rdev) };
    format!(
        "#{} {} {:o} {}:{} links {} size {}{rdev} a {} m {} c {}",
        a.inode,
        kind(a.kind),
        a.mode,
        a.uid,
        a.gid,
        a.nlink,
        a.size,
        time(a.atime_ns),
        time(a.mtime_ns),
        time(a.ctime_ns)
    )
}

pub fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Client(reply) => client_reply(reply),
        Reply::SessionOpened { session } => format!("session {session}"),
        Reply::Progress { finished } => if *finished { "finished" } else { "more to do" }.into(),
        Reply::ServerRegistered { server } => format!("server {server}"),
        Reply::Done => "done".into(),
        Reply::Refused(why) => format!("refused: {why}"),
    }
}

fn client_reply(reply: &ClientReply) -> String {
    let source = if reply.from_table { " (from the table)" } else { "" };
    let what = match (&reply.outcome, &reply.result) {
        (Outcome::Executed, Ok(b)) => body(b),
        (Outcome::Executed, Err(errno)) => format!("errno {errno:?}"),
        (outcome, _) => format!("{outcome:?}"),
    };
    what + source
}

fn body(body: &Body) -> String {
    let mut text = String::from("ok");
    if body.created {
        text += " created";
    }
    if let Some(a) = &body.attr {
        text += &format!(" {}", attr(a));
    }
    if let Some(GrantReply { state, index, chunk, version, grant, create, holders, clip, before, unkept }) = &body.grant
    {
        let holders: Vec<_> = holders.iter().map(|(server, incarnation)| format!("{server}@{incarnation}")).collect();
        text += &format!(
            " grant {state:?} of [{index}] chunk {:x} v{version} grant {:x} create {create} on {}",
            chunk.0,
            grant.0,
            holders.join(",")
        );
        if let Some(clip) = clip {
            text += &format!(" clip {clip}");
        }
        if before.0 != 0 {
            text += &format!(" before {:x}", before.0);
        }
        if unkept.0 != 0 {
            text += &format!(" unkept {:x}", unkept.0);
        }
    }
    if body.length != 0 {
        text += &format!(" length {}", body.length);
    }
    if !body.lost.is_empty() {
        text += &format!(" lost {:?}", body.lost);
    }
    text
}

pub fn effect(effect: &Effect) -> String {
    format!("effect {effect:?}")
}

/// What a script does not show: the time stamp and the hash, which move with every entry.
fn is_shown(table: Table, key: &[u8]) -> bool {
    table != Table::Meta || !matches!(key, [7] | [8])
}

/// The rows that differ, one line each: `+` new, `~` changed, `-` removed.
pub fn changes(before: &MemoryTables, after: &MemoryTables) -> Vec<String> {
    let mut lines = Vec::new();
    let mut keys: Vec<_> = before.rows().chain(after.rows()).map(|(t, k, _)| (t, k.to_vec())).collect();
    keys.sort();
    keys.dedup();
    for (table, key) in keys.into_iter().filter(|(table, key)| is_shown(*table, key)) {
        let (old, new) = (before.get(table, &key), after.get(table, &key));
        let (old, new) = (old.expect("a get"), new.expect("a get"));
        let sign = match (&old, &new) {
            _ if old == new => continue,
            (None, _) => '+',
            (_, None) => '-',
            _ => '~',
        };
        let line = format!("{sign} {} {}", table.name(), row(after, table, &key, new.as_deref()));
        lines.push(line.trim_end().to_owned());
    }
    lines
}

fn number(key: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(key[at..at + 8].try_into().expect("eight bytes"))
}

/// One row: its key, and what is in it if it is there.
pub fn row(tables: &MemoryTables, table: Table, key: &[u8], value: Option<&[u8]>) -> String {
    let there = value.is_some();
    match table {
        Table::Inodes => inode(tables, InodeId(number(key, 0))),
        Table::Dentries => {
            let (parent, name) = (InodeId(number(key, 0)), &key[8..]);
            let entry = dentries::get(tables, parent, name).expect("a dentry");
            let entry = entry.map(|d| format!(" = #{} {} at {}", d.inode, kind(d.kind), d.cookie));
            format!("#{parent}/{}{}", text(name), entry.unwrap_or_default())
        }
        Table::Cookies => format!("#{} at {}{}", number(key, 0), number(key, 8), named(there, value)),
        Table::Links => format!("#{} in #{} at {}", number(key, 0), number(key, 8), number(key, 16)),
        Table::Xattrs => {
            let length = value.map(|v| format!(" {} bytes", v.len() - 1));
            format!("#{} {}{}", number(key, 0), text(&key[8..]), length.unwrap_or_default())
        }
        Table::Symlinks => {
            let target = symlinks::get(tables, InodeId(number(key, 0))).expect("a symlink");
            format!("#{} {}", number(key, 0), target.map(|t| text(&t)).unwrap_or_default())
        }
        Table::Sessions => session(tables, SessionId(number(key, 0))),
        Table::Replies => {
            let session = SessionId(number(key, 0));
            let slot = u16::from_be_bytes(key[8..10].try_into().expect("two bytes"));
            let seqs = replies::seqs(tables, session).expect("seqs");
            let Some(seq) = seqs.into_iter().find(|seq| seq.0 % SESSION_WINDOW == u64::from(slot)) else {
                return format!("{session} slot {slot}");
            };
            let stored = replies::get(tables, session, seq).expect("a reply").expect("the seq's row");
            format!("{session}:{seq} {}", client_reply(&ClientReply { from_table: false, ..stored }))
        }
        Table::Meta => format!("{}{}", meta(key[0]), value.map(|v| format!(" {:?}", &v[1..])).unwrap_or_default()),
        Table::Chunks => match chunks::get(tables, ChunkId(number(key, 0))).expect("a chunk") {
            Some(chunk) => format!("{:x} {chunk:?}", number(key, 0)),
            None => format!("{:x}", number(key, 0)),
        },
        _ => {
            let numbers: Vec<_> = key.chunks(8).map(hex).collect();
            format!("{}{}", numbers.join(" "), value.map(|v| format!(" {:?}", &v[1..])).unwrap_or_default())
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let short = digits.trim_start_matches('0');
    if short.is_empty() { "0".into() } else { short.into() }
}

fn named(there: bool, value: Option<&[u8]>) -> String {
    // Inode and kind stand before the name; scripts have small inode numbers.
    if there { format!(" = {}", text(&value.unwrap_or_default()[3..])) } else { String::new() }
}

fn meta(key: u8) -> &'static str {
    match key {
        1 => "cluster",
        2 => "inode ids",
        3 => "chunk ids",
        4 => "grant ids",
        5 => "session ids",
        6 => "server ids",
        9 => "inodes",
        10 => "bytes",
        11 => "live sessions",
        12 => "orphans",
        13 => "chunks",
        14 => "intents",
        15 => "garbage",
        _ => "?",
    }
}

fn inode(tables: &MemoryTables, id: InodeId) -> String {
    let Some(inode) = inodes::get(tables, id).expect("an inode") else { return format!("#{id}") };
    let mut text = attr(&inode.attr(id)) + &format!(" generation {}", inode.data_generation);
    if inode.last_cookie != 0 {
        text += &format!(" entries {} cookies {}", inode.entries, inode.last_cookie);
    }
    if let Some(link) = inode.link {
        text += &format!(" in #{} at {}", link.parent, link.cookie);
    }
    if inode.xattrs != 0 {
        text += &format!(" xattrs {} of {} bytes", inode.xattrs, inode.xattr_bytes);
    }
    text
}

fn session(tables: &MemoryTables, id: SessionId) -> String {
    let Some(s) = sessions::get(tables, id).expect("a session") else { return id.to_string() };
    let state = match s.state {
        SessionState::Live => "live".into(),
        SessionState::Ending { since_ns } => format!("ending since {}", time(since_ns)),
        SessionState::Ended { since_ns } => format!("ended at {}", time(since_ns)),
    };
    format!("{id} {} {state} idle {} ms acked below {} last {}", s.name, s.idle_ms, s.acked_below, s.max_seq)
}
