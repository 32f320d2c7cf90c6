//! The state machine against a naive tree: random requests of several users in two sessions, with retries and cancels.
//!
//! After every entry: the same replies, the same tree, [`invariants::check`], the rows restored are the state, a retry changes nothing,
//! and a second replica that takes the entries in other batches has the same digest.

mod steps;
mod tree;

use std::collections::BTreeMap;

use caribou_meta_raft::fsm::command::{ClientCommand, ClientOp, Command, Entry, InitCluster, Kind};
use caribou_meta_raft::fsm::error::{Errno, Failure, OpResult};
use caribou_meta_raft::fsm::reply::{Attr, Body, ClientReply, Outcome, Reply};
use caribou_meta_raft::fsm::tables::memory::MemoryTables;
use caribou_meta_raft::fsm::tables::{Table, meta};
use caribou_meta_raft::fsm::{Batch, invariants, read};
use caribou_proto::ids::{Cookie, InodeId, ROOT_INODE, Seq, SessionId};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use steps::{Request, Step};
use tree::{Path, Tree};

/// Replies that a session has not acknowledged, at most: more than an entry has requests.
const UNACKNOWLEDGED: u64 = 6;

/// The state machine, its second replica, the tree, and what the clients remember.
struct Harness {
    first: MemoryTables,
    second: MemoryTables,
    /// Entries that the second replica has yet to take.
    waiting: Vec<Entry>,
    tree: Tree,
    time_ns: i64,
    next_seq: [u64; 2],
    first_replies: BTreeMap<(SessionId, Seq), ClientReply>,
    entries: Vec<Entry>,
    cookies: BTreeMap<(InodeId, Vec<u8>), Cookie>,
}

fn apply(tables: &mut MemoryTables, entries: &[Entry]) -> Vec<Reply> {
    let mut batch = Batch::new(tables);
    let replies = entries.iter().flat_map(|entry| batch.apply(entry).expect("no broken invariant").replies).collect();
    let changes = batch.finish();
    tables.commit(changes);
    replies
}

fn errno<T>(result: OpResult<T>) -> Result<T, Errno> {
    result.map_err(|failure| match failure {
        Failure::Errno(errno) => errno,
        Failure::Fatal(fatal) => panic!("{fatal}"),
    })
}

/// The tree does not count generations.
fn plain(attr: Attr) -> Attr {
    Attr { data_generation: 0, ..attr }
}

fn plain_body(body: Body) -> Body {
    Body { attr: body.attr.map(plain), ..body }
}

/// All directories, removed ones among them.
fn directories(tree: &Tree) -> BTreeMap<InodeId, Attr> {
    let directories = tree.nodes.iter().filter(|(_, node)| node.kind == Kind::Directory);
    directories.map(|(id, _)| (InodeId(*id), tree.attr(*id))).collect()
}

/// All rows but the time stamp and the hash, which every entry moves.
fn rows(tables: &MemoryTables) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
    let lasting = |table: Table, key: &[u8]| table != Table::Meta || !matches!(key, [7] | [8]);
    tables.rows().filter(|(t, k, _)| lasting(*t, k)).map(|(t, k, v)| (t, k.to_vec(), v.to_vec())).collect()
}

impl Harness {
    fn new() -> Self {
        let time_ns = 1_000;
        let mut first = MemoryTables::default();
        let init = InitCluster { uuid: [1; 16], generation: 1, nonce: 2, default_goal: 2 };
        let open = |key| Command::OpenSession { key: [key; 16], name: "model".into() };
        let commands = vec![Command::InitCluster(init), open(1), open(2)];
        apply(&mut first, &[Entry { feature_level: 1, time_ns, commands }]);
        Self {
            second: first.clone(),
            first,
            waiting: vec![],
            tree: Tree::new(time_ns),
            time_ns,
            next_seq: [1; 2],
            first_replies: BTreeMap::new(),
            entries: vec![],
            cookies: BTreeMap::new(),
        }
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Entry { requests, time_step } => {
                self.requests(requests, *time_step);
                let request = &requests[0];
                let (parent, name) = request.lookup(&self.tree);
                let caller = steps::caller(request.caller);
                let found = errno(read::lookup(&self.first, &caller, parent, &name)).map(plain);
                assert_eq!(found, self.tree.lookup(&caller, parent, &name), "lookup of {name:?} in {parent}");
            }
            Step::Again { back } if !self.entries.is_empty() => {
                let index = self.entries.len() - 1 - back % self.entries.len();
                let commands = self.entries[index].commands.clone();
                let entry = self.entry(commands, 1);
                let replies = self.commit(&entry);
                for (command, reply) in entry.commands.iter().zip(replies) {
                    self.check_known(command, reply);
                }
            }
            Step::Again { .. } => {}
            Step::Cancel { session, request } => self.cancel(*session, request),
            Step::Purge => {
                let orphans = self.tree.orphans();
                let inodes = orphans.iter().copied().map(InodeId).collect();
                let entry = self.entry(vec![Command::PurgeOrphans { inodes }], 1);
                assert_eq!(self.commit(&entry), [Reply::Progress { finished: true }]);
                orphans.into_iter().for_each(|id| self.tree.purge(id));
            }
        }
        self.check();
    }

    fn entry(&mut self, commands: Vec<Command>, time_step: i64) -> Entry {
        let time_ns = self.time_ns + time_step;
        self.time_ns = time_ns.max(self.time_ns + 1);
        Entry { feature_level: 1, time_ns, commands }
    }

    fn commit(&mut self, entry: &Entry) -> Vec<Reply> {
        self.waiting.push(entry.clone());
        apply(&mut self.first, std::slice::from_ref(entry))
    }

    fn command(&mut self, session: usize, request: &Request) -> ClientCommand {
        let seq = self.next_seq[session];
        self.next_seq[session] += 1;
        ClientCommand {
            session: SessionId(session as u64 + 1),
            seq: Seq(seq),
            acked_below: Seq(seq.saturating_sub(UNACKNOWLEDGED).max(1)),
            caller: steps::caller(request.caller),
            op: request.bind(&self.tree),
        }
    }

    fn requests(&mut self, requests: &[Request], time_step: i64) {
        let commands: Vec<_> = requests.iter().map(|r| Command::Client(self.command(r.session, r))).collect();
        let entry = self.entry(commands, time_step);
        let replies = self.commit(&entry);
        for (command, reply) in entry.commands.iter().zip(replies) {
            let (Command::Client(request), Reply::Client(mut reply)) = (command, reply) else {
                panic!("not a request")
            };
            let before = directories(&self.tree);
            let expected = self.tree.apply(&request.caller, &request.op, self.time_ns);
            assert_eq!(reply.outcome, Outcome::Executed);
            assert!(!reply.from_table);
            // No part of what is stored, nor of what the tree says.
            if let Ok(body) = &mut reply.result {
                self.check_others(&request.op, &before, body.others.take());
            }
            assert_eq!(reply.result.clone().map(plain_body), expected, "{request:?}");
            self.first_replies.insert((request.session, request.seq), reply);
        }
        if let [_] = requests {
            self.check_cookies();
        } else {
            self.cookies.clear();
        }
        self.entries.push(entry.clone());
        self.check_retry(entry);
    }

    /// A rename and an rmdir tell of all directories that they change and do not name.
    fn check_others(&self, op: &ClientOp, before: &BTreeMap<InodeId, Attr>, others: Option<Vec<InodeId>>) {
        let named = match op {
            ClientOp::Rename(rename) => [rename.parent, rename.new_parent],
            ClientOp::Rmdir { parent, .. } => [*parent; 2],
            _ => {
                assert_eq!(others, None, "{op:?}");
                return;
            }
        };
        let told: Vec<InodeId> = others.expect("told").into_iter().chain(named).collect();
        let after = directories(&self.tree);
        for (id, _) in before.iter().filter(|(id, attr)| after.get(*id) != Some(*attr)) {
            assert!(told.contains(id), "{op:?} changed {id} and told of {told:?}");
        }
    }

    /// S2: a retry gets the first answer and changes nothing.
    fn check_retry(&self, mut entry: Entry) {
        let mut copy = self.first.clone();
        entry.time_ns += 5;
        let replies = apply(&mut copy, std::slice::from_ref(&entry));
        for (command, reply) in entry.commands.iter().zip(replies) {
            self.check_known(command, reply);
        }
        assert!(rows(&copy) == rows(&self.first), "a retry changed something: {entry:?}");
    }

    fn check_known(&self, command: &Command, reply: Reply) {
        let (Command::Client(request), Reply::Client(reply)) = (command, reply) else { panic!("not a request") };
        let acked = self.next_seq[request.session.0 as usize - 1] - 1;
        let known = &self.first_replies[&(request.session, request.seq)];
        if reply.outcome == Outcome::Acknowledged {
            assert!(request.seq.0 + UNACKNOWLEDGED < acked + 1, "{request:?} was not acknowledged");
        } else {
            assert_eq!(reply, ClientReply { from_table: true, ..known.clone() });
        }
    }

    /// S5.
    fn cancel(&mut self, session: usize, request: &Request) {
        let request = self.command(session, request);
        let (session, seq) = (request.session, request.seq);
        let commands = vec![Command::Cancel { session, seq }, Command::Client(request)];
        let entry = self.entry(commands, 1);
        let [Reply::Client(cancel), Reply::Client(late)] = &self.commit(&entry)[..] else { panic!("two replies") };
        assert_eq!((cancel.outcome, cancel.from_table), (Outcome::Cancelled, false));
        assert_eq!((late.outcome, late.from_table), (Outcome::Cancelled, true));
        self.first_replies.insert((session, seq), cancel.clone());
    }

    fn check(&mut self) {
        self.check_tree();
        invariants::check(&self.first).expect("invariants");
        let copied = self.first.rows().map(|(table, key, row)| (table, key.to_vec(), row.to_vec()));
        assert!(MemoryTables::from_iter(copied) == self.first, "the rows are not the state");
        // Groups of one to five entries, as the time has it.
        if self.time_ns % 5 == 0 || self.waiting.len() == 5 {
            let waiting = std::mem::take(&mut self.waiting);
            apply(&mut self.second, &waiting);
            assert_eq!(meta::state_hash(&self.first), meta::state_hash(&self.second), "digests");
            assert!(self.first == self.second, "the replicas differ");
        }
    }

    fn check_tree(&self) {
        let mut found = BTreeMap::new();
        self.walk(ROOT_INODE, &mut vec![], &mut found);
        let root = errno(read::getattr(&self.first, ROOT_INODE)).map(plain).expect("root");
        found.insert(vec![], root);
        let expected: BTreeMap<Path, Attr> =
            self.tree.paths.iter().map(|(path, id)| (path.clone(), self.tree.attr(*id))).collect();
        assert_eq!(found, expected);
        let root = steps::caller(0);
        for (id, node) in &self.tree.nodes {
            let inode = InodeId(*id);
            assert_eq!(errno(read::getattr(&self.first, inode)).map(plain), Ok(self.tree.attr(*id)));
            assert_eq!(errno(read::readlink(&self.first, inode)), node.target.clone().ok_or(Errno::Inval));
            let names = errno(read::listxattr(&self.first, &root, inode)).expect("names");
            let values = names.into_iter().map(|name| {
                let value = errno(read::getxattr(&self.first, &root, inode, &name)).expect("value");
                (name, value)
            });
            assert_eq!(values.collect::<BTreeMap<_, _>>(), node.xattrs);
        }
        for id in self.tree.orphans() {
            assert_eq!(errno(read::is_orphan(&self.first, InodeId(id))), Ok(true));
        }
    }

    fn walk(&self, directory: InodeId, path: &mut Path, found: &mut BTreeMap<Path, Attr>) {
        let mut cookie = Cookie(0);
        loop {
            let page = errno(read::readdir(&self.first, directory, cookie, 2, true)).expect("a directory");
            for entry in page.entries {
                assert!(entry.cookie > cookie, "cookies rise");
                cookie = entry.cookie;
                path.push(entry.name);
                let attr = plain(entry.attr.expect("asked for"));
                assert_eq!((attr.inode, attr.kind), (entry.inode, entry.kind));
                let kind = attr.kind;
                assert_eq!(found.insert(path.clone(), attr), None, "listed twice: {path:?}");
                if kind == Kind::Directory {
                    self.walk(entry.inode, path, found);
                }
                path.pop();
            }
            if page.end {
                return;
            }
        }
    }

    /// A name that was there before and is there now has kept its cookie.
    fn check_cookies(&mut self) {
        let mut now = BTreeMap::new();
        for id in self.tree.nodes.keys().map(|id| InodeId(*id)) {
            let Ok(page) = errno(read::readdir(&self.first, id, Cookie(0), 1000, false)) else { continue };
            now.extend(page.entries.into_iter().map(|entry| ((id, entry.name), entry.cookie)));
        }
        for (place, cookie) in &now {
            let before = self.cookies.get(place).unwrap_or(cookie);
            assert_eq!(before, cookie, "the cookie of {place:?} moved");
        }
        self.cookies = now;
    }
}

/// Cases of one run; `PROPTEST_CASES` says otherwise.
const CASES: u32 = 256;

fn sequences() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(steps::step(), 1..90)
}

#[test]
fn the_state_machine_is_the_tree() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    let config =
        ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() };
    let result = TestRunner::new(config).run(&sequences(), |steps| {
        let mut harness = Harness::new();
        steps.iter().for_each(|step| harness.run(step));
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

/// The sequences above are worth something: every operation succeeds and fails in all the ways that matter.
#[test]
fn the_sequences_reach_every_outcome() {
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeMap::new();
    for _ in 0..300 {
        let steps = sequences().new_tree(&mut runner).expect("a sequence").current();
        let mut harness = Harness::new();
        steps.iter().for_each(|step| harness.run(step));
        let requests = harness.entries.iter().flat_map(|entry| &entry.commands);
        for request in requests.filter_map(|c| if let Command::Client(request) = c { Some(request) } else { None }) {
            let operation = format!("{:?}", request.op).split(['(', ' ']).next().expect("a name").to_owned();
            let result = &harness.first_replies[&(request.session, request.seq)].result;
            *seen.entry((operation, result.as_ref().err().copied())).or_insert(0) += 1;
        }
    }
    use Errno::*;
    let path = [NoEnt, NotDir, Stale, Access, NameTooLong, Inval];
    let expected: [(&str, &[Errno]); 11] = [
        ("Create", &[Exist, IsDir]),
        ("Mkdir", &[Exist]),
        ("Mknod", &[Exist, Perm]),
        ("Symlink", &[Exist]),
        ("Link", &[Exist, Perm]),
        ("Unlink", &[IsDir, Perm]),
        ("Rmdir", &[NotEmpty, Perm]),
        ("Rename", &[Exist, IsDir, NotEmpty, Perm]),
        ("SetAttr", &[Perm, Access, NotSup, IsDir, Inval, Stale, FileTooBig]),
        ("SetXattr", &[Perm, Access, NotSup, Inval, Stale, Range, Exist, NoData, TooBig]),
        ("RemoveXattr", &[Perm, Access, NotSup, Inval, Stale, Range, NoData]),
    ];
    let mut missing = Vec::new();
    for (operation, own) in expected {
        let with_path = if own.contains(&NotSup) { &[][..] } else { &path };
        let errors = own.iter().chain(with_path).map(|errno| Some(*errno));
        missing.extend(errors.chain([None]).map(|e| (operation.to_owned(), e)).filter(|key| !seen.contains_key(key)));
    }
    assert!(missing.is_empty(), "never seen: {missing:?}\nseen: {seen:?}");
}
