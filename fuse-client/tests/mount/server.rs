//! A metadata node in this process that knows names and attributes, in memory: enough to see the mount at work through the
//! kernel. A lookup of `hang` is never answered.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use caribou_client::proto::cluster::v1::ClusterId;
use caribou_client::proto::meta::v1::meta_service_server::{MetaService, MetaServiceServer};
use caribou_client::proto::meta::v1::*;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use tonic::{Request as Call, Response, Status, Streaming};

#[derive(Default)]
struct Tree {
    inodes: BTreeMap<u64, Attr>,
    targets: BTreeMap<u64, bytes::Bytes>,
    /// (folder, cookie) → name, inode.
    entries: BTreeMap<(u64, u64), (bytes::Bytes, u64)>,
    next: u64,
    claims: Vec<u64>,
    /// Lookups of `hang` that have arrived.
    hanging: usize,
}

#[derive(Clone)]
pub struct Node(Arc<Mutex<Tree>>);

type Answered = Result<ReplyBody, i32>;

impl Node {
    /// Serves on a free port of loopback; returns its address.
    pub async fn start() -> (Self, String) {
        let mut tree = Tree { next: 2, ..Tree::default() };
        let root = Attr { inode: 1, kind: FileKind::Directory.into(), mode: 0o755, nlink: 2, ..Attr::default() };
        tree.inodes.insert(1, root);
        let node = Self(Arc::new(Mutex::new(tree)));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound").to_string();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let service = MetaServiceServer::new(node.clone());
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        (node, address)
    }

    pub fn claims(&self) -> usize {
        self.0.lock().claims.len()
    }

    pub fn hanging(&self) -> usize {
        self.0.lock().hanging
    }
}

#[tonic::async_trait]
impl MetaService for Node {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<ServerMessage, Status>> + Send>>;

    async fn session(&self, call: Call<Streaming<ClientMessage>>) -> Result<Response<Self::SessionStream>, Status> {
        use server_message::Body;
        let tree = self.0.clone();
        let answers = call.into_inner().filter_map(move |message| {
            let tree = tree.clone();
            async move {
                let body = match message.ok()?.body? {
                    client_message::Body::Hello(_) => Body::Welcome(Welcome {
                        cluster: Some(ClusterId { generation: 1, ..ClusterId::default() }),
                        session_id: 1,
                        ttl_ms: 8000,
                        window: 1024,
                        term: 1,
                        leader_id: 1,
                        ..Welcome::default()
                    }),
                    client_message::Body::Renew(renew) => Body::Renewed(Renewed { stamp: renew.stamp }),
                    client_message::Body::Cancel(cancel) => {
                        Body::Reply(Reply { seq: cancel.seq, outcome: Outcome::Cancelled.into(), ..Reply::default() })
                    }
                    client_message::Body::Request(request) => {
                        let result = tree.lock().mutate(request.mutation?.op?);
                        let errno = result.as_ref().err().map_or(0, |errno| *errno as u32);
                        let outcome = Outcome::Executed.into();
                        Body::Reply(Reply { seq: request.seq, errno, outcome, body: result.ok() })
                    }
                    client_message::Body::Query(query) => {
                        let id = query.id;
                        let result = tree.lock().query(query)?;
                        let errno = result.as_ref().err().map_or(0, |errno| *errno as u32);
                        Body::Answer(Answer { id, errno, body: result.ok() })
                    }
                };
                Some(Ok(ServerMessage { body: Some(body) }))
            }
        });
        Ok(Response::new(answers.boxed()))
    }
}

impl Tree {
    fn find(&self, parent: u64, name: &[u8]) -> Option<((u64, u64), u64)> {
        let mut entries = self.entries.range((parent, 0)..(parent + 1, 0));
        entries.find(|(_, (other, _))| other == name).map(|(key, (_, inode))| (*key, *inode))
    }

    fn attr(&self, inode: u64) -> Answered {
        let attr = self.inodes.get(&inode).cloned().ok_or(libc::ESTALE)?;
        Ok(ReplyBody { attr: Some(attr), ..ReplyBody::default() })
    }

    fn add(&mut self, parent: u64, name: bytes::Bytes, kind: FileKind, mode: u32) -> Answered {
        if self.find(parent, &name).is_some() {
            return Err(libc::EEXIST);
        }
        let inode = self.next;
        self.next += 1;
        let attr =
            Attr { inode, kind: kind.into(), mode, nlink: 1, mtime_ns: 1_700_000_000_000_000_001, ..Attr::default() };
        self.inodes.insert(inode, attr);
        self.entries.insert((parent, inode), (name, inode));
        self.attr(inode)
    }

    fn remove(&mut self, parent: u64, name: &[u8]) -> Answered {
        let (key, _) = self.find(parent, name).ok_or(libc::ENOENT)?;
        self.entries.remove(&key);
        Ok(ReplyBody::default())
    }

    fn mutate(&mut self, op: mutation::Op) -> Answered {
        use mutation::Op;
        match op {
            Op::Create(op) => {
                if let Some((_, inode)) = self.find(op.parent, &op.name).filter(|_| !op.exclusive) {
                    self.claims.push(inode);
                    return self.attr(inode);
                }
                let mut body = self.add(op.parent, op.name, FileKind::Regular, op.mode)?;
                body.created = true;
                self.claims.push(self.next - 1);
                Ok(body)
            }
            Op::Mkdir(op) => self.add(op.parent, op.name, FileKind::Directory, op.mode),
            Op::Mknod(op) => self.add(op.parent, op.name.clone(), op.kind(), op.mode),
            Op::Symlink(op) => {
                self.targets.insert(self.next, op.target);
                self.add(op.parent, op.name, FileKind::Symlink, 0o777)
            }
            Op::Unlink(op) => self.remove(op.parent, &op.name),
            Op::Rmdir(op) => self.remove(op.parent, &op.name),
            Op::Rename(op) => {
                let (key, inode) = self.find(op.parent, &op.name).ok_or(libc::ENOENT)?;
                let target = self.find(op.new_parent, &op.new_name);
                if target.is_some() && op.no_replace {
                    return Err(libc::EEXIST);
                }
                self.entries.remove(&key);
                if let Some((key, _)) = target {
                    self.entries.remove(&key);
                }
                self.next += 1;
                self.entries.insert((op.new_parent, self.next - 1), (op.new_name, inode));
                Ok(ReplyBody::default())
            }
            Op::Setattr(op) => {
                let attr = self.inodes.get_mut(&op.inode).ok_or(libc::ESTALE)?;
                attr.mode = op.mode.unwrap_or(attr.mode);
                attr.uid = op.uid.unwrap_or(attr.uid);
                attr.gid = op.gid.unwrap_or(attr.gid);
                attr.size = op.size.unwrap_or(attr.size);
                attr.mtime_ns = op.mtime_ns.unwrap_or(attr.mtime_ns);
                self.attr(op.inode)
            }
            _ => Err(libc::EOPNOTSUPP),
        }
    }

    /// `None`: never answered.
    fn query(&mut self, query: Query) -> Option<Answered> {
        if query.lookup.as_ref().is_some_and(|lookup| &*lookup.name == b"hang") {
            self.hanging += 1;
            return None;
        }
        Some(if let Some(op) = query.lookup {
            self.find(op.parent, &op.name).ok_or(libc::ENOENT).and_then(|(_, inode)| self.attr(inode))
        } else if let Some(op) = query.getattr {
            self.attr(op.inode)
        } else if let Some(op) = query.open {
            self.claims.push(op.inode);
            self.attr(op.inode)
        } else if let Some(op) = query.release {
            self.claims.retain(|inode| !op.inodes.contains(inode));
            Ok(ReplyBody::default())
        } else if let Some(op) = query.readlink {
            Ok(ReplyBody { bytes: self.targets[&op.inode].clone(), ..ReplyBody::default() })
        } else if let Some(op) = query.readdir {
            Ok(self.list(&op))
        } else {
            let statfs = StatFsReply { total_bytes: 1 << 40, free_bytes: 1 << 39, inodes: 7, chunk_bytes: 64 << 20 };
            Ok(ReplyBody { statfs: Some(statfs), ..ReplyBody::default() })
        })
    }

    fn list(&self, op: &ReadDir) -> ReplyBody {
        let after = (op.inode, op.cookie + 1);
        let mut found = self.entries.range(after..(op.inode + 1, 0)).peekable();
        let entries = found.by_ref().take(op.limit as usize).map(|((_, cookie), (name, inode))| {
            let attr = self.inodes[inode];
            DirEntry {
                name: name.clone(),
                cookie: *cookie,
                inode: *inode,
                kind: attr.kind,
                attr: op.plus.then_some(attr),
            }
        });
        let entries: Vec<DirEntry> = entries.collect();
        let end_of_directory = (entries.len() as u32) < op.limit;
        ReplyBody { entries, end_of_directory, ..ReplyBody::default() }
    }
}
