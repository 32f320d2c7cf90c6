//! What the model test does, as proptest draws it: numbers that are made into commands against the tree as it then is.

use caribou_meta_raft::fsm::command::{Caller, ClientOp, Create, Kind, Rename, SetAttr, SetTime};
use caribou_proto::ids::InodeId;
use proptest::prelude::*;

use crate::tree::Tree;

/// One step; indices are taken modulo what there is.
#[derive(Clone, Debug)]
pub enum Step {
    /// One entry with these requests.
    Entry { requests: Vec<Request>, time_step: i64 },
    /// An earlier entry once more (retry after a failover).
    Again { back: usize },
    /// S5: the next request of this session is given up, then arrives after all.
    Cancel { session: usize, request: Request },
    /// All orphans are purged.
    Purge,
}

/// A request, not yet bound to inodes.
#[derive(Clone, Debug)]
pub struct Request {
    pub session: usize,
    pub caller: usize,
    what: u8,
    places: [u8; 2],
    names: [u8; 2],
    mode: u32,
    flags: u8,
    number: u64,
}

pub fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        24 => (prop::collection::vec(request(), 1..3), -2..1000i64)
            .prop_map(|(requests, time_step)| Step::Entry { requests, time_step }),
        2 => (0..20usize).prop_map(|back| Step::Again { back }),
        1 => (0..2usize, request()).prop_map(|(session, request)| Step::Cancel { session, request }),
        1 => Just(Step::Purge),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let mode =
        prop_oneof![3 => Just(0o777u32), 2 => Just(0o755), 1 => Just(0o1777), 1 => Just(0o2775), 2 => 0..0o10000u32];
    let who = prop_oneof![3 => 0..1usize, 4 => 1..CALLERS];
    (0..2usize, who, 0..40u8, any::<[u8; 2]>(), any::<[u8; 2]>(), mode, any::<u8>(), 0..20_000u64).prop_map(
        |(session, caller, what, places, names, mode, flags, number)| Request {
            session,
            caller,
            what,
            places,
            names,
            mode,
            flags,
            number,
        },
    )
}

const CALLERS: usize = 4;

/// Root, two users with a group in common, and one with root's group only.
pub fn caller(index: usize) -> Caller {
    let user = |uid, gid, groups: &[u32]| Caller { uid, gid, groups: groups.to_vec() };
    [user(0, 0, &[]), user(1000, 1000, &[50]), user(1001, 1001, &[50, 60]), user(1002, 0, &[])][index % CALLERS].clone()
}

fn name(index: u8) -> Vec<u8> {
    match index {
        0 => vec![b'x'; 256],
        1 => vec![b'y'; 255],
        2 => vec![],
        3 => b".".to_vec(),
        4 => b"a/b".to_vec(),
        _ => vec![b'a' + index % 5],
    }
}

fn xattr_name(index: u8) -> Vec<u8> {
    let names: [&[u8]; 9] = [
        b"user.a",
        b"user.b",
        b"user.a",
        b"trusted.t",
        b"security.s",
        b"system.posix_acl_access",
        b"user.",
        b"odd",
        b"",
    ];
    names[index as usize % names.len()].to_vec()
}

impl Request {
    fn flag(&self, bit: u8) -> bool {
        self.flags & (1 << bit) != 0
    }

    /// Mostly a directory, now and then whatever has this number, or has had it.
    fn place(&self, tree: &Tree, which: usize) -> InodeId {
        let index = self.places[which] as usize;
        let highest = *tree.nodes.keys().next_back().expect("root") + 1;
        if index % 11 == 10 {
            return InodeId(1 + index as u64 % highest);
        }
        let directories: Vec<u64> =
            tree.nodes.iter().filter(|(_, node)| node.kind == Kind::Directory).map(|(id, _)| *id).collect();
        InodeId(directories[index / 2 % directories.len()])
    }

    fn any_inode(&self, tree: &Tree) -> InodeId {
        let highest = *tree.nodes.keys().next_back().expect("root") + 1;
        InodeId(1 + u64::from(self.places[1]) % highest)
    }

    /// A name that is there, three times out of four.
    fn there(&self, tree: &Tree, which: usize) -> (InodeId, Vec<u8>) {
        let places: Vec<_> = tree.paths.keys().filter_map(|path| path.split_last()).collect();
        if places.is_empty() || self.names[which].is_multiple_of(4) {
            return (self.place(tree, which), name(self.names[which]));
        }
        let (last, directory) = places[self.places[which] as usize % places.len()];
        (InodeId(tree.paths[&directory.to_vec()]), last.clone())
    }

    /// The directory and name that a lookup beside the request asks for.
    pub fn lookup(&self, tree: &Tree) -> (InodeId, Vec<u8>) {
        (self.place(tree, 1), name(self.names[1]))
    }

    pub fn bind(&self, tree: &Tree) -> ClientOp {
        let (parent, name1) = (self.place(tree, 0), name(self.names[0]));
        let (mode, inode) = (self.mode, self.any_inode(tree));
        let (old_parent, old_name) = self.there(tree, 0);
        match self.what {
            0..=5 => ClientOp::Create(Create {
                parent,
                name: name1,
                mode,
                exclusive: self.flag(0),
                truncate: self.flag(1),
                access: u32::from(self.flags >> 2 & 6),
                placement: vec![],
            }),
            6..=11 => ClientOp::Mkdir { parent, name: name1, mode },
            12..=13 => {
                let kinds = [Kind::Fifo, Kind::Socket, Kind::CharDevice, Kind::Regular, Kind::Directory, Kind::Symlink];
                let kind = kinds[self.places[1] as usize % kinds.len()];
                ClientOp::Mknod { parent, name: name1, kind, mode, rdev: 7 }
            }
            14..=15 => {
                let target = vec![b't'; if self.flag(7) { self.number as usize % 5000 } else { 3 }];
                ClientOp::Symlink { parent, name: name1, target }
            }
            16..=18 => ClientOp::Link { inode, parent, name: name1 },
            19..=22 => ClientOp::Unlink { parent: old_parent, name: old_name },
            23..=24 => ClientOp::Rmdir { parent: old_parent, name: old_name },
            25..=31 => {
                let (new_parent, new_name) = match self.flag(3) {
                    true => (self.place(tree, 1), name(self.names[1])),
                    false => self.there(tree, 1),
                };
                let (no_replace, exchange) = (self.flag(0) && self.flag(1), self.flag(2));
                let (parent, name) = (old_parent, old_name);
                ClientOp::Rename(Rename { parent, name, new_parent, new_name, no_replace, exchange })
            }
            32..=36 => ClientOp::SetAttr(self.setattr(inode)),
            37..=38 => {
                let value = vec![7; if self.number.is_multiple_of(50) { 65_537 } else { self.number as usize % 100 }];
                let (create, replace) = (self.flag(0) && self.flag(1), self.flag(2) && self.flag(3));
                ClientOp::SetXattr { inode, name: xattr_name(self.names[0]), value, create, replace }
            }
            _ => ClientOp::RemoveXattr { inode, name: xattr_name(self.names[0]) },
        }
    }

    fn setattr(&self, inode: InodeId) -> SetAttr {
        let time = |bit: u8| if self.flag(bit) { SetTime::Now } else { SetTime::At(self.number as i64) };
        let id = [0, 1000, 1001, 50, 60][self.places[0] as usize % 5];
        SetAttr {
            inode,
            mode: (self.names[0].is_multiple_of(3)).then_some(self.mode),
            uid: (self.names[1].is_multiple_of(5)).then_some(id),
            gid: (self.names[1].is_multiple_of(3)).then_some(id),
            size: (self.names[0] % 4 == 1).then_some(if self.number % 50 == 1 { u64::MAX } else { self.number }),
            atime: self.flag(4).then(|| time(5)),
            mtime: self.flag(6).then(|| time(5)),
            by_handle: self.flag(7),
        }
    }
}
