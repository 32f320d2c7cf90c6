//! Files that are made through the client library, each under a name of its own and once. A call waits for as long as it takes, so what has
//! been made is known at any time.

use std::collections::BTreeSet;

use bytes::Bytes;
use caribou_client::meta::QueryOp;
use caribou_client::{ClientConfig, MetaClient};
use caribou_proto::ids::ROOT_INODE;
use caribou_proto::meta::v1::{Caller, Create, Mkdir, ReadDir, ReplyBody, SetXattr, mutation};

use super::cluster::PATIENCE;

/// Files of a round.
const FILES: u64 = 8;
/// Bytes of a round, so that the log grows quickly and the state does not: each takes the place of the last one's.
const BALLAST_BYTES: usize = 32 << 10;
/// Names that are asked for at once.
const PAGE: u32 = 1000;

pub(crate) struct Load {
    meta: MetaClient,
    directory: u64,
    made: u64,
}

impl Load {
    pub(crate) async fn begin(addresses: Vec<String>) -> Self {
        let config = ClientConfig { meta: addresses, name: "load".to_owned(), ..ClientConfig::default() };
        let meta = in_time(MetaClient::connect(&config)).await.unwrap();
        let mkdir = Mkdir { parent: ROOT_INODE.0, name: "load".into(), mode: 0o755 };
        let body = in_time(meta.mutate(&Caller::default(), mutation::Op::Mkdir(mkdir))).await.unwrap();
        Self { directory: inode_of(&body), meta, made: 0 }
    }

    /// Makes some files.
    pub(crate) async fn round(&mut self) {
        let creates = (self.made..self.made + FILES).map(|number| self.create(number));
        let creates = futures::future::join_all(creates);
        in_time(async { tokio::join!(creates, self.add_ballast()) }).await;
        self.made += FILES;
    }

    async fn create(&self, number: u64) {
        let create = Create {
            parent: self.directory,
            name: name_of(number),
            mode: 0o644,
            // One that were carried out twice would be told that the name is there.
            exclusive: true,
            access: 6,
            ..Create::default()
        };
        let body = self.meta.mutate(&Caller::default(), mutation::Op::Create(create)).await;
        self.meta.release_claim(inode_of(&body.unwrap_or_else(|error| panic!("file {number}: {error}"))));
    }

    async fn add_ballast(&self) {
        let set = SetXattr {
            inode: self.directory,
            name: "user.ballast".into(),
            value: vec![self.made as u8; BALLAST_BYTES].into(),
            ..SetXattr::default()
        };
        self.meta.mutate(&Caller::default(), mutation::Op::Setxattr(set)).await.unwrap();
    }

    /// All that was made is there, and nothing else.
    pub(crate) async fn check(&self) {
        let (mut found, mut cookie) = (BTreeSet::new(), 0);
        loop {
            let list = ReadDir { inode: self.directory, cookie, limit: PAGE, plus: false };
            let page = in_time(self.meta.query(&Caller::default(), QueryOp::ReadDir(list))).await.unwrap();
            cookie = page.entries.last().map_or(cookie, |entry| entry.cookie);
            found.extend(page.entries.into_iter().map(|entry| entry.name));
            if page.end_of_directory {
                break;
            }
        }
        let made: BTreeSet<Bytes> = (0..self.made).map(name_of).collect();
        let (lost, foreign): (Vec<_>, Vec<_>) = (made.difference(&found).collect(), found.difference(&made).collect());
        assert!(lost.is_empty() && foreign.is_empty(), "lost: {lost:?}, and nobody made: {foreign:?}");
    }
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("a client got no answer within {PATIENCE:?}"))
}

fn name_of(number: u64) -> Bytes {
    format!("file-{number:08}").into()
}

fn inode_of(body: &ReplyBody) -> u64 {
    body.attr.expect("the reply has attributes").inode
}
