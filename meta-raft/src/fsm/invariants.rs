//! What must be true of every reachable state. For tests and offline checks: it reads everything.
//!
//! Each function says which promise it checks; [`check`] runs them all and names the first that is broken. What must be true of chunks
//! is in `invariants_chunks.rs`.

use std::collections::BTreeMap;

use caribou_proto::ids::{Cookie, InodeId, ROOT_INODE, SESSION_WINDOW, SessionId};

use super::command::Kind;
use super::error::Fatal;
use super::tables::codec::{Reader, scan_prefix};
use super::tables::dentries::Dentry;
use super::tables::inodes::Inode;
use super::tables::links::{self, Link};
use super::tables::meta::{self, Counter};
use super::tables::sessions::{SessionState, by_key};
use super::tables::{Table, Tables, Visit};
use super::tables::{chunks, dentries, inodes, orphans, replies, servers, sessions, symlinks, xattrs};

/// Everything about names, as it is read from the tables.
struct Tree {
    inodes: BTreeMap<InodeId, Inode>,
    /// `(parent, name)`.
    dentries: BTreeMap<(InodeId, Vec<u8>), Dentry>,
}

/// Checks the whole state.
pub fn check(tables: &dyn Tables) -> Result<(), Fatal> {
    if meta::cluster(tables)?.is_none() {
        return Ok(());
    }
    let tree = read_tree(tables)?;
    names(tables, &tree)?;
    link_counts(tables, &tree)?;
    reachability(tables, &tree)?;
    contents(tables, &tree)?;
    totals(tables, &tree)?;
    session_rows(tables)?;
    super::invariants_chunks::check(tables)
}

fn ensure(truth: bool, what: impl FnOnce() -> String) -> Result<(), Fatal> {
    if truth { Ok(()) } else { Err(Fatal(format!("broken invariant: {}", what()))) }
}

fn read_tree(tables: &dyn Tables) -> Result<Tree, Fatal> {
    let mut tree = Tree { inodes: BTreeMap::new(), dentries: BTreeMap::new() };
    inodes::scan(tables, &mut |id, inode| {
        tree.inodes.insert(id, inode);
        Ok(())
    })?;
    dentries::scan(tables, &mut |parent, name, dentry| {
        tree.dentries.insert((parent, name.to_vec()), dentry);
        Ok(())
    })?;
    Ok(tree)
}

/// Dentries, cookies and links say the same; each names an inode of its kind in a living directory.
fn names(tables: &dyn Tables, tree: &Tree) -> Result<(), Fatal> {
    let mut left = tree.dentries.len();
    dentries::scan_cookies(tables, &mut |parent, name, dentry| {
        left = left.wrapping_sub(1);
        let same = tree.dentries.get(&(parent, name.to_vec())) == Some(&dentry);
        ensure(same, || format!("cookie {} of directory {parent} is no entry", dentry.cookie))
    })?;
    ensure(left == 0, || "an entry has no cookie, or a cookie no entry".into())?;
    let mut linked: BTreeMap<Link, InodeId> = BTreeMap::new();
    let mut note = |link, id| ensure(linked.insert(link, id).is_none(), || format!("{link:?} is noted twice"));
    for (id, inode) in &tree.inodes {
        inode.link.map_or(Ok(()), |link| note(link, *id))?;
    }
    links::scan(tables, &mut |id, link| {
        let first = tree.inodes.get(&id).is_some_and(|inode| inode.link.is_some());
        ensure(first, || format!("inode {id} has another name and no first one"))?;
        note(link, id)
    })?;
    let entries = tree.dentries.iter().map(|((parent, _), d)| (Link { parent: *parent, cookie: d.cookie }, d.inode));
    ensure(linked == entries.collect(), || "the names that inodes have and the entries of directories differ".into())?;
    for ((parent, _), dentry) in &tree.dentries {
        let kind = tree.inodes.get(&dentry.inode).map(|i| i.kind);
        ensure(kind == Some(dentry.kind), || format!("the entry of inode {} has another kind", dentry.inode))?;
        let alive = tree.inodes.get(parent).is_some_and(|p| p.is_dir() && p.nlink >= 2);
        ensure(alive, || format!("inode {parent} has entries and is no living directory"))?;
        let counted = tree.inodes.get(parent).is_some_and(|p| dentry.cookie <= Cookie(p.last_cookie));
        ensure(counted, || format!("directory {parent} has a cookie above its counter"))?;
    }
    Ok(())
}

/// `nlink` is the number of names (directories: 2 and one for each subdirectory); without a link means orphan, and only then.
fn link_counts(tables: &dyn Tables, tree: &Tree) -> Result<(), Fatal> {
    let mut names: BTreeMap<InodeId, u32> = BTreeMap::new();
    let mut subdirectories: BTreeMap<InodeId, u32> = BTreeMap::new();
    let mut entries: BTreeMap<InodeId, u64> = BTreeMap::new();
    for ((parent, _), dentry) in &tree.dentries {
        *names.entry(dentry.inode).or_default() += 1;
        *entries.entry(*parent).or_default() += 1;
        if dentry.kind == Kind::Directory {
            *subdirectories.entry(*parent).or_default() += 1;
        }
    }
    for (id, inode) in &tree.inodes {
        let named = names.get(id).copied().unwrap_or(0);
        let expected = match inode.kind {
            Kind::Directory if *id == ROOT_INODE || named == 1 => 2 + subdirectories.get(id).copied().unwrap_or(0),
            Kind::Directory => named,
            _ => named,
        };
        let counted = entries.get(id).copied().unwrap_or(0) == inode.entries;
        ensure(counted, || format!("the entries of directory {id} are counted wrongly"))?;
        let (id, is) = (*id, inode.nlink);
        ensure(is == expected, || format!("inode {id} has {is} links and should have {expected}"))?;
        ensure(orphans::contains(tables, id)? == (is == 0), || {
            format!("inode {id} with {is} links and the orphans disagree")
        })?;
    }
    let all = orphans::page(tables, InodeId(0), usize::MAX)?;
    ensure(all.iter().all(|id| tree.inodes.contains_key(id)), || "an orphan has no inode".into())?;
    let counted = meta::counter(tables, Counter::Orphans)?;
    ensure(all.len() as u64 == counted, || format!("{} orphans, counted {counted}", all.len()))
}

/// From every directory with a name the way up ends at the root folder.
fn reachability(tables: &dyn Tables, tree: &Tree) -> Result<(), Fatal> {
    ensure(tree.inodes.get(&ROOT_INODE).is_some_and(Inode::is_dir), || "there is no root folder".into())?;
    for (id, inode) in tree.inodes.iter().filter(|(_, inode)| inode.is_dir() && inode.nlink > 0) {
        let mut at = *id;
        let mut steps = 0;
        while at != ROOT_INODE {
            let parent = links::parent(tables, at)?;
            steps += 1;
            ensure(parent.is_some() && steps <= tree.inodes.len(), || {
                format!("directory {id} ({} links) is not under the root folder", inode.nlink)
            })?;
            at = parent.unwrap_or(ROOT_INODE);
        }
    }
    Ok(())
}

/// Symlinks have targets of their size; attributes are counted; nothing belongs to an inode that is not there.
fn contents(tables: &dyn Tables, tree: &Tree) -> Result<(), Fatal> {
    for (id, inode) in &tree.inodes {
        let target = symlinks::get(tables, *id)?.map(|target| target.len() as u64);
        let expected = (inode.kind == Kind::Symlink).then_some(inode.size);
        ensure(target == expected, || format!("inode {id} of kind {:?} has a target of {target:?} bytes", inode.kind))?;
        let listed = xattrs::names(tables, *id)?;
        let bytes: usize = listed.iter().map(|(name, value)| name.len() + value).sum();
        let counted = (inode.xattrs as usize, inode.xattr_bytes as usize);
        ensure(counted == (listed.len(), bytes), || format!("the attributes of inode {id} are counted wrongly"))?;
    }
    for table in [Table::Symlinks, Table::Xattrs] {
        scan_prefix(tables, table, &[], &[], &mut |key, _| {
            let id = InodeId(Reader::key(table, key).be64()?);
            ensure(tree.inodes.contains_key(&id), || format!("table {} has a row of inode {id}", table.name()))?;
            Ok(Visit::Next)
        })?;
    }
    Ok(())
}

/// Counters of ids are above all ids; totals are sums.
fn totals(tables: &dyn Tables, tree: &Tree) -> Result<(), Fatal> {
    let last_of = |id: u64| id & ((1 << 48) - 1);
    let chunks = chunks::page(tables, None, usize::MAX)?;
    let highest_of = [
        (Counter::InodeId, tree.inodes.keys().next_back().map_or(0, |id| id.0)),
        (Counter::ChunkId, chunks.iter().map(|(id, _)| last_of(id.0)).max().unwrap_or(0)),
        (Counter::GrantId, chunks.iter().map(|(_, chunk)| last_of(chunk.last_grant.0)).max().unwrap_or(0)),
        (Counter::ServerId, servers::all(tables)?.last().map_or(0, |(id, _)| id.0)),
    ];
    for (counter, highest) in highest_of {
        let counted = meta::counter(tables, counter)?;
        ensure(highest <= counted, || format!("id {highest} is above the counter {counter:?}, {counted}"))?;
    }
    for (id, server) in servers::all(tables)? {
        let found = servers::by_uuid(tables, &server.uuid)?;
        ensure(found == Some(id), || format!("the uuid of server {id} does not find it"))?;
    }
    let (count, counted) = (tree.inodes.len() as u64, meta::counter(tables, Counter::Inodes)?);
    ensure(count == counted, || format!("{count} inodes, counted {counted}"))?;
    let lengths = tree.inodes.values().filter(|inode| inode.kind == Kind::Regular).map(|inode| u128::from(inode.size));
    let (bytes, counted): (u128, _) = (lengths.sum(), u128::from(meta::counter(tables, Counter::Bytes)?));
    ensure(bytes == counted, || format!("{bytes} bytes in files, counted {counted}"))
}

/// Sessions, keys, ended sessions and replies belong together (S2, S4).
fn session_rows(tables: &dyn Tables) -> Result<(), Fatal> {
    let mut live = 0;
    let mut ended = Vec::new();
    let mut count = 0u64;
    let counter = meta::counter(tables, Counter::SessionId)?;
    sessions::scan(tables, SessionId(0), &mut |id, session| {
        count += 1;
        ensure(id.0 <= counter, || format!("session {id} is above the counter {counter}"))?;
        ensure(by_key(tables, &session.open_key)? == Some(id), || format!("the key of session {id} does not find it"))?;
        match session.state {
            SessionState::Live => live += 1,
            SessionState::Ending { .. } => {}
            SessionState::Ended { since_ns } => ended.push((since_ns, id)),
        }
        let end = session.acked_below.0.saturating_add(SESSION_WINDOW);
        for seq in replies::seqs(tables, id)? {
            let kept = seq <= session.max_seq && seq.0 < end && replies::get(tables, id, seq)?.is_some();
            ensure(kept, || format!("session {id} has a reply {seq} outside of what it keeps, or in another's slot"))?;
            let acknowledged = seq < session.acked_below;
            let ended = matches!(session.state, SessionState::Ended { .. });
            ensure(!(ended && acknowledged), || format!("ended session {id} keeps the acknowledged reply {seq}"))?;
        }
        Ok(Visit::Next)
    })?;
    ended.sort_unstable();
    let mut listed = Vec::new();
    sessions::scan_ended(tables, &mut |since_ns, id| {
        listed.push((since_ns, id));
        Visit::Next
    })?;
    ensure(listed == ended, || "the list of ended sessions is wrong".into())?;
    let counted = meta::counter(tables, Counter::LiveSessions)?;
    ensure(live == counted, || format!("{live} live sessions, counted {counted}"))?;
    let mut keys = 0;
    scan_prefix(tables, Table::SessionKeys, &[], &[], &mut |_, _| {
        keys += 1;
        Ok(Visit::Next)
    })?;
    ensure(keys == count, || format!("{count} sessions and {keys} keys"))?;
    scan_prefix(tables, Table::Replies, &[], &[], &mut |key, _| {
        let id = SessionId(Reader::key(Table::Replies, key).be64()?);
        ensure(sessions::get(tables, id)?.is_some(), || format!("a reply belongs to no session ({id})"))?;
        Ok(Visit::Next)
    })
}
