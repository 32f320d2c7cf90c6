//! The naive file system: paths to nodes, everything else counted anew each time. The one definition of what is right.
//!
//! It knows nothing of rows, cookies, indexes or sessions. Errors come in the order in which Linux checks them.

use std::collections::BTreeMap;

use caribou_meta_raft::fsm::command::{Caller, ClientOp, Create, Kind, Rename, SetAttr, SetTime};
use caribou_meta_raft::fsm::error::Errno;
use caribou_meta_raft::fsm::reply::{Attr, Body};
use caribou_proto::ids::InodeId;

/// Names from the root folder down; the root folder's is empty.
pub type Path = Vec<Vec<u8>>;
type Answer<T> = Result<T, Errno>;

/// A file or directory, with or without a path.
#[derive(Clone, Debug)]
pub struct Node {
    pub kind: Kind,
    mode: u32,
    uid: u32,
    gid: u32,
    rdev: u32,
    size: u64,
    times: [i64; 3],
    pub target: Option<Vec<u8>>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The whole file system.
#[derive(Clone, Debug)]
pub struct Tree {
    pub nodes: BTreeMap<u64, Node>,
    pub paths: BTreeMap<Path, u64>,
    next: u64,
}

const WRITE: u32 = 2;
const EXEC: u32 = 1;

fn fail_unless(truth: bool, errno: Errno) -> Answer<()> {
    if truth { Ok(()) } else { Err(errno) }
}

fn member(caller: &Caller, gid: u32) -> bool {
    caller.gid == gid || caller.groups.contains(&gid)
}

fn owner(caller: &Caller, node: &Node) -> bool {
    caller.uid == 0 || caller.uid == node.uid
}

fn new_node(kind: Kind, mode: u32, now: i64) -> Node {
    let (times, xattrs) = ([now; 3], BTreeMap::new());
    Node { kind, mode, uid: 0, gid: 0, rdev: 0, size: 0, times, target: None, xattrs }
}

fn may(caller: &Caller, node: &Node, mask: u32) -> bool {
    if caller.uid == 0 {
        return mask & EXEC == 0 || node.kind == Kind::Directory || node.mode & 0o111 != 0;
    }
    let shift = match () {
        () if caller.uid == node.uid => 6,
        () if member(caller, node.gid) => 3,
        () => 0,
    };
    (node.mode >> shift) & mask == mask
}

impl Tree {
    pub fn new(now: i64) -> Self {
        let root = new_node(Kind::Directory, 0o755, now);
        Self { nodes: BTreeMap::from([(1, root)]), paths: BTreeMap::from([(vec![], 1)]), next: 2 }
    }

    fn node(&self, id: InodeId) -> Answer<&Node> {
        self.nodes.get(&id.0).ok_or(Errno::Stale)
    }

    fn path_of(&self, id: u64) -> Option<Path> {
        self.paths.iter().find(|(_, other)| **other == id).map(|(path, _)| path.clone())
    }

    fn children(&self, path: &Path) -> Vec<u64> {
        let inside = |other: &Path| other.len() == path.len() + 1 && other.starts_with(path);
        self.paths.iter().filter(|(other, _)| inside(other)).map(|(_, id)| *id).collect()
    }

    fn is_dir(&self, id: u64) -> bool {
        self.nodes[&id].kind == Kind::Directory
    }

    pub fn nlink(&self, id: u64) -> u32 {
        if !self.is_dir(id) {
            return self.paths.values().filter(|other| **other == id).count() as u32;
        }
        let Some(path) = self.path_of(id) else { return 0 };
        2 + self.children(&path).into_iter().filter(|child| self.is_dir(*child)).count() as u32
    }

    pub fn attr(&self, id: u64) -> Attr {
        let node = &self.nodes[&id];
        let (size, blocks) = match node.kind {
            Kind::Directory => (4096, 8),
            Kind::Regular => (node.size, node.size.div_ceil(512)),
            _ => (node.size, 0),
        };
        let Node { kind, mode, uid, gid, rdev, times: [atime_ns, mtime_ns, ctime_ns], .. } = *node;
        let (inode, nlink, data_generation) = (InodeId(id), self.nlink(id), 0);
        Attr { inode, kind, mode, nlink, uid, gid, rdev, size, blocks, atime_ns, mtime_ns, ctime_ns, data_generation }
    }

    fn body(&self, id: u64) -> Body {
        Body { attr: Some(self.attr(id)), ..Body::default() }
    }

    /// Nodes without a path.
    pub fn orphans(&self) -> Vec<u64> {
        self.nodes.keys().copied().filter(|id| self.path_of(*id).is_none()).collect()
    }

    pub fn purge(&mut self, id: u64) {
        if self.nodes.contains_key(&id) && self.path_of(id).is_none() {
            self.nodes.remove(&id);
        }
    }

    /// Walks into a directory. `None`: it has been removed.
    fn enter(&self, caller: &Caller, id: InodeId) -> Answer<Option<Path>> {
        let node = self.node(id)?;
        fail_unless(node.kind == Kind::Directory, Errno::NotDir)?;
        fail_unless(may(caller, node, EXEC), Errno::Access)?;
        Ok(self.path_of(id.0))
    }

    /// The path of a name in a directory and what is there.
    fn look(&self, directory: &Option<Path>, name: &[u8]) -> Answer<(Option<Path>, Option<u64>)> {
        fail_unless(!name.is_empty(), Errno::NoEnt)?;
        fail_unless(name.len() <= 255, Errno::NameTooLong)?;
        let odd = name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0);
        fail_unless(!odd, Errno::Inval)?;
        let Some(directory) = directory else { return Ok((None, None)) };
        let path: Path = directory.iter().cloned().chain([name.to_vec()]).collect();
        let there = self.paths.get(&path).copied();
        Ok((Some(path), there))
    }

    pub fn lookup(&self, caller: &Caller, parent: InodeId, name: &[u8]) -> Answer<Attr> {
        let directory = self.enter(caller, parent)?;
        if name == b"." {
            return Ok(self.attr(parent.0));
        }
        let (_, there) = self.look(&directory, name)?;
        Ok(self.attr(there.ok_or(Errno::NoEnt)?))
    }

    fn check_removal(&self, caller: &Caller, parent: InodeId, victim: u64) -> Answer<()> {
        let (directory, victim) = (self.node(parent)?, &self.nodes[&victim]);
        fail_unless(may(caller, directory, WRITE | EXEC), Errno::Access)?;
        let free = directory.mode & 0o1000 == 0 || owner(caller, directory) || owner(caller, victim);
        fail_unless(free, Errno::Perm)
    }

    fn check_addition(&self, caller: &Caller, parent: InodeId) -> Answer<()> {
        fail_unless(self.path_of(parent.0).is_some(), Errno::NoEnt)?;
        fail_unless(may(caller, self.node(parent)?, WRITE | EXEC), Errno::Access)
    }

    fn vacant(&self, caller: &Caller, parent: InodeId, name: &[u8]) -> Answer<Path> {
        let directory = self.enter(caller, parent)?;
        let (path, there) = self.look(&directory, name)?;
        fail_unless(there.is_none(), Errno::Exist)?;
        self.check_addition(caller, parent)?;
        path.ok_or(Errno::NoEnt)
    }

    fn touch(&mut self, id: InodeId, now: i64) {
        let node = self.nodes.get_mut(&id.0).expect("there");
        node.times = [node.times[0], now, now];
    }

    fn changed(&mut self, id: u64, now: i64) {
        self.nodes.get_mut(&id).expect("there").times[2] = now;
    }

    fn add(&mut self, caller: &Caller, parent: InodeId, path: Path, mut node: Node) -> Body {
        let directory = &self.nodes[&parent.0];
        (node.uid, node.gid) = (caller.uid, caller.gid);
        if directory.mode & 0o2000 != 0 {
            node.gid = directory.gid;
            let dir = node.kind == Kind::Directory;
            if dir {
                node.mode |= 0o2000;
            }
            if !dir && node.mode & 0o2010 == 0o2010 && caller.uid != 0 && !member(caller, node.gid) {
                node.mode &= !0o2000;
            }
        }
        let (id, now) = (self.next, node.times[0]);
        self.next += 1;
        self.nodes.insert(id, node);
        self.paths.insert(path, id);
        self.touch(parent, now);
        self.body(id)
    }

    /// The one entrance for what changes something.
    pub fn apply(&mut self, caller: &Caller, op: &ClientOp, now: i64) -> Answer<Body> {
        match op {
            ClientOp::Create(args) => self.create(caller, args, now),
            ClientOp::Mkdir { parent, name, mode } => {
                let path = self.vacant(caller, *parent, name)?;
                Ok(self.add(caller, *parent, path, new_node(Kind::Directory, mode & 0o1777, now)))
            }
            ClientOp::Mknod { parent, name, kind, mode, rdev } => {
                fail_unless(*kind != Kind::Directory, Errno::Perm)?;
                fail_unless(*kind != Kind::Symlink, Errno::Inval)?;
                let path = self.vacant(caller, *parent, name)?;
                let device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
                fail_unless(!device || caller.uid == 0, Errno::Perm)?;
                let rdev = if device { *rdev } else { 0 };
                Ok(self.add(caller, *parent, path, Node { rdev, ..new_node(*kind, mode & 0o7777, now) }))
            }
            ClientOp::Symlink { parent, name, target } => {
                fail_unless(!target.is_empty(), Errno::NoEnt)?;
                fail_unless(target.len() <= 4095, Errno::NameTooLong)?;
                let path = self.vacant(caller, *parent, name)?;
                let node = new_node(Kind::Symlink, 0o777, now);
                let size = target.len() as u64;
                Ok(self.add(caller, *parent, path, Node { target: Some(target.clone()), size, ..node }))
            }
            ClientOp::Link { inode, parent, name } => {
                self.node(*inode)?;
                let path = self.vacant(caller, *parent, name)?;
                fail_unless(!self.is_dir(inode.0), Errno::Perm)?;
                fail_unless(self.nlink(inode.0) > 0, Errno::NoEnt)?;
                self.paths.insert(path, inode.0);
                self.touch(*parent, now);
                self.changed(inode.0, now);
                Ok(self.body(inode.0))
            }
            ClientOp::Unlink { parent, name } => self.remove(caller, *parent, name, false, now),
            ClientOp::Rmdir { parent, name } => self.remove(caller, *parent, name, true, now),
            ClientOp::Rename(args) => self.rename(caller, args, now),
            ClientOp::SetAttr(args) => self.setattr(caller, args, now),
            ClientOp::SetXattr { inode, name, value, create, replace } => {
                fail_unless(value.len() <= 65_536, Errno::TooBig)?;
                self.check_xattr(caller, *inode, name)?;
                let there = self.node(*inode)?.xattrs.contains_key(name);
                fail_unless(!(there && *create), Errno::Exist)?;
                fail_unless(there || !*replace, Errno::NoData)?;
                self.nodes.get_mut(&inode.0).expect("there").xattrs.insert(name.clone(), value.clone());
                self.changed(inode.0, now);
                Ok(Body::default())
            }
            ClientOp::RemoveXattr { inode, name } => {
                self.check_xattr(caller, *inode, name)?;
                let removed = self.nodes.get_mut(&inode.0).expect("there").xattrs.remove(name);
                fail_unless(removed.is_some(), Errno::NoData)?;
                self.changed(inode.0, now);
                Ok(Body::default())
            }
            other => panic!("the tree knows nothing of chunks: {other:?}"),
        }
    }

    fn create(&mut self, caller: &Caller, args: &Create, now: i64) -> Answer<Body> {
        let directory = self.enter(caller, args.parent)?;
        let (path, there) = self.look(&directory, &args.name)?;
        let Some(id) = there else {
            self.check_addition(caller, args.parent)?;
            let path = path.ok_or(Errno::NoEnt)?;
            let body = self.add(caller, args.parent, path, new_node(Kind::Regular, args.mode & 0o7777, now));
            return Ok(Body { created: true, ..body });
        };
        fail_unless(!args.exclusive, Errno::Exist)?;
        fail_unless(!self.is_dir(id), Errno::IsDir)?;
        fail_unless(self.nodes[&id].kind == Kind::Regular, Errno::Exist)?;
        let mask = if args.truncate { args.access | WRITE } else { args.access };
        fail_unless(may(caller, &self.nodes[&id], mask), Errno::Access)?;
        if args.truncate {
            self.resize(caller, InodeId(id), 0, now);
        }
        Ok(self.body(id))
    }

    fn resize(&mut self, caller: &Caller, id: InodeId, size: u64, now: i64) {
        self.touch(id, now);
        let node = self.nodes.get_mut(&id.0).expect("there");
        node.size = size;
        if caller.uid != 0 {
            strip(caller, node);
        }
    }

    fn remove(&mut self, caller: &Caller, parent: InodeId, name: &[u8], dir: bool, now: i64) -> Answer<Body> {
        let directory = self.enter(caller, parent)?;
        let (path, there) = self.look(&directory, name)?;
        let (Some(path), Some(id)) = (path, there) else { return Err(Errno::NoEnt) };
        self.check_removal(caller, parent, id)?;
        match (dir, self.is_dir(id)) {
            (true, false) => return Err(Errno::NotDir),
            (false, true) => return Err(Errno::IsDir),
            (true, true) => fail_unless(self.children(&path).is_empty(), Errno::NotEmpty)?,
            (false, false) => {}
        }
        self.paths.remove(&path);
        self.touch(parent, now);
        self.changed(id, now);
        Ok(Body::default())
    }

    fn rename(&mut self, caller: &Caller, args: &Rename, now: i64) -> Answer<Body> {
        fail_unless(!(args.no_replace && args.exchange), Errno::Inval)?;
        let (from, to) = (self.enter(caller, args.parent)?, self.enter(caller, args.new_parent)?);
        // Both names are looked at before anything is looked up.
        self.look(&from, &args.name)?;
        let (new_path, target) = self.look(&to, &args.new_name)?;
        let (old_path, source) = self.look(&from, &args.name)?;
        let (Some(old_path), Some(source)) = (old_path, source) else { return Err(Errno::NoEnt) };
        fail_unless(!(args.no_replace && target.is_some()), Errno::Exist)?;
        fail_unless(!args.exchange || target.is_some(), Errno::NoEnt)?;
        if let Some(new_path) = &new_path {
            let inside = new_path.len() > old_path.len() && new_path.starts_with(&old_path);
            fail_unless(!inside, Errno::Inval)?;
            let onto_ancestor = old_path.len() > new_path.len() && old_path.starts_with(new_path);
            fail_unless(!onto_ancestor, if args.exchange { Errno::Inval } else { Errno::NotEmpty })?;
        }
        if target == Some(source) {
            return Ok(Body::default());
        }
        self.check_removal(caller, args.parent, source)?;
        let moves = args.parent != args.new_parent;
        match target {
            None => self.check_addition(caller, args.new_parent)?,
            Some(target) => {
                self.check_removal(caller, args.new_parent, target)?;
                let kinds = (args.exchange, self.is_dir(source), self.is_dir(target));
                fail_unless(kinds != (false, true, false), Errno::NotDir)?;
                fail_unless(kinds != (false, false, true), Errno::IsDir)?;
            }
        }
        let turned = |id: u64| moves && self.is_dir(id) && !may(caller, &self.nodes[&id], WRITE);
        fail_unless(!turned(source), Errno::Access)?;
        fail_unless(!(args.exchange && target.is_some_and(turned)), Errno::Access)?;
        let new_path = new_path.ok_or(Errno::NoEnt)?;
        let full = target.is_some() && !self.children(&new_path).is_empty();
        fail_unless(args.exchange || !full, Errno::NotEmpty)?;
        let moved = self.take(&old_path);
        let other = self.take(&new_path);
        self.put_back(&new_path, moved);
        if args.exchange {
            self.put_back(&old_path, other);
        }
        target.into_iter().chain([source]).for_each(|id| self.changed(id, now));
        self.touch(args.parent, now);
        self.touch(args.new_parent, now);
        Ok(Body::default())
    }

    /// Takes a path and everything below it out; the rests of the paths.
    fn take(&mut self, path: &Path) -> Vec<(Path, u64)> {
        let taken: Vec<_> = self.paths.keys().filter(|other| other.starts_with(path)).cloned().collect();
        taken.into_iter().map(|p| (p[path.len()..].to_vec(), self.paths.remove(&p).expect("there"))).collect()
    }

    fn put_back(&mut self, path: &Path, taken: Vec<(Path, u64)>) {
        self.paths.extend(taken.into_iter().map(|(rest, id)| (path.iter().cloned().chain(rest).collect(), id)));
    }

    fn setattr(&mut self, caller: &Caller, args: &SetAttr, now: i64) -> Answer<Body> {
        let node = self.node(args.inode)?.clone();
        let (root, owns, writes) = (caller.uid == 0, owner(caller, &node), may(caller, &node, WRITE));
        fail_unless(args.uid.is_none_or(|uid| root || (owns && uid == node.uid)), Errno::Perm)?;
        let group = |gid| root || (owns && (gid == node.gid || member(caller, gid)));
        fail_unless(args.gid.is_none_or(group), Errno::Perm)?;
        if let Some(mode) = args.mode.map(|mode| mode & 0o7777) {
            fail_unless(node.kind != Kind::Symlink, Errno::NotSup)?;
            let taken = node.mode & !mode;
            let harmless = writes && taken != 0 && taken & !0o6000 == 0 && mode & !node.mode == 0;
            fail_unless(owns || harmless, Errno::Perm)?;
        }
        match (args.atime, args.mtime) {
            _ if owns => {}
            (None, None) => {}
            (Some(SetTime::Now), Some(SetTime::Now)) => fail_unless(writes, Errno::Access)?,
            (None, Some(SetTime::Now)) if args.size.is_some() => {}
            _ => return Err(Errno::Perm),
        }
        if let Some(size) = args.size {
            fail_unless(node.kind != Kind::Directory, Errno::IsDir)?;
            fail_unless(node.kind == Kind::Regular, Errno::Inval)?;
            fail_unless(writes || args.by_handle, Errno::Access)?;
            fail_unless(size <= 4 << 40, Errno::FileTooBig)?;
            self.resize(caller, args.inode, size, now);
        }
        let node = self.nodes.get_mut(&args.inode.0).expect("there");
        if args.uid.is_some() || args.gid.is_some() {
            if node.kind != Kind::Directory {
                strip(caller, node);
            }
            (node.uid, node.gid) = (args.uid.unwrap_or(node.uid), args.gid.unwrap_or(node.gid));
        }
        if let Some(mode) = args.mode {
            let outsider = !root && !member(caller, node.gid);
            node.mode = mode & if outsider { 0o5777 } else { 0o7777 };
        }
        for (slot, time) in [(0, args.atime), (1, args.mtime)] {
            match time {
                Some(SetTime::Now) => node.times[slot] = now,
                Some(SetTime::At(time)) => node.times[slot] = time,
                None => {}
            }
        }
        let SetAttr { mode, uid, gid, size, atime, mtime, .. } = args;
        if mode.or(*uid).or(*gid).is_some() || size.is_some() || atime.or(*mtime).is_some() {
            node.times[2] = now;
        }
        Ok(self.body(args.inode.0))
    }

    fn check_xattr(&self, caller: &Caller, id: InodeId, name: &[u8]) -> Answer<()> {
        let node = self.node(id)?;
        fail_unless((1..=255).contains(&name.len()), Errno::Range)?;
        let privileged = name.starts_with(b"trusted.") || name.starts_with(b"security.");
        fail_unless(privileged || name.starts_with(b"user."), Errno::NotSup)?;
        fail_unless(name.last() != Some(&b'.'), Errno::Inval)?;
        if privileged {
            return fail_unless(caller.uid == 0, Errno::Perm);
        }
        let dir = node.kind == Kind::Directory;
        fail_unless(dir || node.kind == Kind::Regular, Errno::Perm)?;
        fail_unless(!(dir && node.mode & 0o1000 != 0) || owner(caller, node), Errno::Perm)?;
        fail_unless(may(caller, node, WRITE), Errno::Access)
    }
}

/// A write or a change of owner takes privileges away.
fn strip(caller: &Caller, node: &mut Node) {
    node.mode &= !0o4000;
    if node.mode & 0o010 != 0 || (caller.uid != 0 && !member(caller, node.gid)) {
        node.mode &= !0o2000;
    }
}
