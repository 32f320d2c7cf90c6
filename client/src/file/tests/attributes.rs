//! Mode, owner and times of a file of which this client has something buffered.

use std::time::Duration;

use caribou_proto::meta::v1::{Caller, SetAttr};

use super::rig::{Rig, assert_same, pattern};

const SET_NS: i64 = 12_345;

fn set_time(inode: u64) -> SetAttr {
    SetAttr { inode, mtime_ns: Some(SET_NS), ..SetAttr::default() }
}

/// Nothing is acknowledged, so nothing can be written back: neither waits for that.
#[tokio::test(start_paused = true)]
async fn mode_and_times_do_not_wait_for_buffered_bytes() {
    let rig = Rig::new();
    let file = rig.create().await;
    rig.world.inner.lock().hold_acks = true;
    file.write(0, pattern(1, 1000)).await.expect("writes");
    let change = async {
        let attr = rig.files.setattr(&Caller::default(), set_time(file.inode())).await.expect("sets the time");
        assert_eq!((attr.mtime_ns, attr.size), (SET_NS, 1000));
        let set = SetAttr { inode: file.inode(), mode: Some(0o600), ..SetAttr::default() };
        rig.files.setattr(&Caller::default(), set).await.expect("sets the mode")
    };
    let attr = tokio::time::timeout(Duration::from_secs(1), change).await.expect("waits for no acknowledgement");
    assert_eq!((attr.mtime_ns, attr.size), (SET_NS, 1000));
    assert_eq!(rig.world.calls("write_end"), 0);
    rig.until("the bytes went to the servers meanwhile", |rig| rig.world.inner.lock().fragments > 0).await;
}

/// Whenever it comes between a write and the end of its write-back, the time that was set last stays, and so do bytes and length.
#[tokio::test(start_paused = true)]
async fn a_time_that_was_set_is_not_undone_by_a_write_end() {
    for quarters in 0..60 {
        let rig = Rig::new();
        // Calls that are on their way together have no order.
        rig.world.inner.lock().write_end_delay = Duration::from_millis(5);
        let file = rig.create().await;
        file.write(0, pattern(1, 1000)).await.expect("writes");
        let change = async {
            tokio::time::sleep(quarters * Duration::from_micros(250)).await;
            rig.files.setattr(&Caller::default(), set_time(file.inode())).await
        };
        let (flushed, set) = tokio::join!(file.flush(), change);
        flushed.expect("flushes");
        assert_eq!(set.expect("sets the time").mtime_ns, SET_NS);
        file.flush().await.expect("flushes");
        let inode = file.inode();
        assert_eq!(rig.world.inner.lock().files[&inode].mtime_ns, SET_NS, "after {quarters} quarters of a millisecond");
        assert_eq!(rig.length(inode), 1000);
        let attr = rig.files.getattr(&Caller::default(), inode).await.expect("has attributes");
        assert_eq!((attr.mtime_ns, attr.size), (SET_NS, 1000));
        file.sync(false).await.expect("syncs");
        assert_same(&rig.on_disk(inode), &pattern(1, 1000));
    }
}

/// A write after the change has its own time again.
#[tokio::test(start_paused = true)]
async fn a_later_write_has_its_own_time() {
    for quarters in 0..40 {
        let rig = Rig::new();
        let file = rig.create().await;
        file.write(0, pattern(1, 1000)).await.expect("writes");
        let root = Caller::default();
        let change = rig.files.setattr(&root, set_time(file.inode()));
        let write = async {
            tokio::time::sleep(quarters * Duration::from_micros(250)).await;
            file.write(500, pattern(2, 1000)).await.expect("writes");
        };
        let (set, ()) = tokio::join!(change, write);
        set.expect("sets the time");
        file.flush().await.expect("flushes");
        let attr = rig.files.getattr(&Caller::default(), file.inode()).await.expect("has attributes");
        let told = rig.world.inner.lock().files[&file.inode()].mtime_ns;
        assert_eq!((attr.size, rig.length(file.inode()), told), (1500, 1500, attr.mtime_ns));
        // The write came before the change or after it.
        let after = quarters * Duration::from_micros(250) > Duration::from_millis(2);
        assert!(attr.mtime_ns != SET_NS || !after, "after {quarters} quarters of a millisecond");
    }
}
