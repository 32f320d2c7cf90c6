//! Questions that wait at the leader, and what they say of a file that is gone.

use caribou_client::meta::QueryOp;
use caribou_client::{ClientConfig, Error, MetaClient};
use caribou_proto::ids::ROOT_INODE;
use caribou_proto::meta::v1::{Caller, Create, Unlink, WaitChunk, mutation};
use rustix::io::Errno;

use super::cluster::{Cluster, PATIENCE};

const CONFIG: &str = "[storage]\nblock_cache = \"64MiB\"\nwrite_buffer = \"16MiB\"\n";

/// An empty answer is a hole: a client that was away for longer than its session would read zeros from a file that was deleted meanwhile.
#[tokio::test]
async fn a_wait_for_a_chunk_of_a_file_that_is_gone_is_an_error() {
    let cluster = Cluster::start(CONFIG).await;
    cluster.leader(0).await;
    let config = ClientConfig { meta: cluster.addresses(), name: "waits".to_owned(), ..ClientConfig::default() };
    let story = async {
        let meta = MetaClient::connect(&config).await.unwrap();
        let caller = Caller::default();
        let create = Create {
            parent: ROOT_INODE.0,
            name: "file".into(),
            mode: 0o644,
            exclusive: true,
            access: 6,
            ..Create::default()
        };
        let made = meta.mutate(&caller, mutation::Op::Create(create)).await.unwrap();
        let inode = made.attr.unwrap().inode;
        let ask = async |for_write| {
            let wait = WaitChunk { inode, index: 0, for_write };
            meta.query(&caller, QueryOp::WaitChunk(wait)).await
        };
        assert_eq!(ask(false).await.unwrap().length, 0, "a hole");
        let unlink = Unlink { parent: ROOT_INODE.0, name: "file".into() };
        meta.mutate(&caller, mutation::Op::Unlink(unlink)).await.unwrap();
        assert!(ask(false).await.is_ok(), "it is open");
        meta.release_claim(inode);
        // It goes once the leader has looked.
        while ask(false).await.is_ok() {}
        for for_write in [false, true] {
            assert_eq!(ask(for_write).await.unwrap_err(), Error::Errno(Errno::STALE.raw_os_error()));
        }
    };
    tokio::time::timeout(PATIENCE, story).await.expect("the file goes, and every question has an answer");
}
