//! Files that stay open while their names go: unlinked, or replaced by a rename. Whoever has one open, its maker or another client, goes on working
//! with it, whatever happens to the cluster meanwhile (S7). Once nobody has, it goes with its chunks (R4): `rest.rs` looks for what stays.

use std::sync::Arc;

use caribou_client::Error;
use caribou_proto::meta::v1::{Rename, Unlink, mutation::Op};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::blocks::{FileModel, Reader, Size, Writer};
use super::caller;
use crate::client_host::ClientHost;
use crate::findings::Findings;

/// Files of its own that a client has at a time, and others' that it has open.
const MOST: usize = 3;
/// Where their names are.
const PARENT: u64 = 1;
/// One file of so many stays in the metadata.
const SMALL_ONE_IN: u32 = 4;
/// How a client is told that there is no such file any more, or that bytes went with it.
const GONE: [i32; 2] = [libc::ESTALE, libc::EIO];

#[derive(Debug)]
struct Known {
    maker: String,
    model: Arc<FileModel>,
    /// Its name is not about to go.
    is_named: bool,
}

/// What all clients know of such files.
#[derive(Debug, Default)]
pub struct Orphans(Mutex<Vec<Known>>);

impl Orphans {
    fn add(&self, maker: &str, model: Arc<FileModel>) {
        self.0.lock().push(Known { maker: maker.to_owned(), model, is_named: true });
    }

    /// From now on its name may be gone.
    fn unname(&self, inode: u64) {
        let mut all = self.0.lock();
        all.iter_mut().filter(|known| known.model.inode == inode).for_each(|known| known.is_named = false);
    }

    fn is_named(&self, inode: u64) -> bool {
        self.0.lock().iter().any(|known| known.is_named && known.model.inode == inode)
    }

    /// Any file of another client that has a name.
    fn choose(&self, client: &str, rng: &mut StdRng) -> Option<Arc<FileModel>> {
        let all = self.0.lock();
        let others: Vec<_> = all.iter().filter(|known| known.is_named && known.maker != client).collect();
        others.choose(rng).map(|known| Arc::clone(&known.model))
    }

    /// The client is gone, or may be taken for gone: what it has not synced may be lost with its holders.
    pub fn may_be_given_up(&self, client: &str) {
        let all = self.0.lock();
        all.iter().filter(|known| known.maker == client).for_each(|known| known.model.orphan());
    }

    /// S4: without a name, a file is there for those only whose sessions claim it, and the one that did so for this client has ended.
    fn may_be_gone(&self, client: &str, inode: u64, findings: &Findings) -> bool {
        !self.is_named(inode) && findings.sessions.has_lost(client, inode)
    }

    /// Whether a call may fail so.
    fn explains(&self, error: &Error, client: &str, inode: u64, findings: &Findings) -> bool {
        let is_told = matches!(error, Error::Errno(errno) if GONE.contains(errno));
        is_told && self.may_be_gone(client, inode, findings)
    }
}

/// A file of a client's own: open, named, or both.
struct Own {
    inode: u64,
    writer: Option<Writer>,
    name: Option<String>,
}

/// What one client has open or named.
pub struct Keeper {
    orphans: Arc<Orphans>,
    own: Vec<Own>,
    /// Others' files.
    held: Vec<Reader>,
    made: u32,
    rng: StdRng,
}

impl Keeper {
    pub fn new(orphans: Arc<Orphans>, rng: StdRng) -> Self {
        Self { orphans, own: Vec::new(), held: Vec::new(), made: 0, rng }
    }

    /// One operation, if there is something to do it with. One that `only_reads` has no files of its own.
    ///
    /// # Errors
    /// When the client is gone, or a file that must be there.
    pub async fn step(&mut self, host: &ClientHost, only_reads: bool, findings: &Findings) -> Result<(), Error> {
        match self.rng.random_range(if only_reads { 10..16 } else { 0..16 }) {
            0 => self.make(host, findings).await,
            1 => self.remove(host, findings).await,
            2 => self.close(host, findings).await,
            3..10 => self.work(host, findings).await,
            10 => self.visit(host, findings).await,
            11 => self.leave(findings).await,
            _ => self.look(host, findings).await,
        }
    }

    /// Lets go of everything.
    ///
    /// # Errors
    /// When the client is gone, or a file that must be there.
    pub async fn finish(&mut self, host: &ClientHost, findings: &Findings) -> Result<(), Error> {
        while !self.held.is_empty() {
            self.look(host, findings).await?;
            self.leave(findings).await?;
        }
        while !self.own.is_empty() {
            self.work(host, findings).await?;
            self.remove(host, findings).await?;
            self.close(host, findings).await?;
        }
        Ok(())
    }

    async fn make(&mut self, host: &ClientHost, findings: &Findings) -> Result<(), Error> {
        if self.own.len() == MOST {
            return Ok(());
        }
        self.made += 1;
        let name = format!("{}-open{}", host.name, self.made);
        let size = if self.rng.random_ratio(1, SMALL_ONE_IN) { Size::Small } else { Size::Chunked };
        let rng = StdRng::seed_from_u64(self.rng.random());
        let writer = Writer::create(&name, size, &host.files, rng).await?;
        let model = writer.model();
        self.own.push(Own { inode: model.inode, writer: Some(writer), name: Some(name) });
        self.orphans.add(&host.name, model);
        findings.step();
        Ok(())
    }

    /// A name goes. Where another file is renamed over it, that one goes on under it.
    async fn remove(&mut self, host: &ClientHost, findings: &Findings) -> Result<(), Error> {
        let Some(at) = self.choose(|own| own.name.is_some()) else { return Ok(()) };
        let Some(name) = self.own[at].name.take() else { return Ok(()) };
        self.orphans.unname(self.own[at].inode);
        let other = if self.rng.random() { self.choose(|own| own.name.is_some()) } else { None };
        let op = match other.and_then(|other| self.own[other].name.replace(name.clone())) {
            Some(old) => Op::Rename(Rename {
                parent: PARENT,
                name: old.into(),
                new_parent: PARENT,
                new_name: name.into(),
                no_replace: false,
                exchange: false,
            }),
            None => Op::Unlink(Unlink { parent: PARENT, name: name.into() }),
        };
        host.meta.mutate(&caller(), op).await?;
        self.forget_what_is_over();
        findings.step();
        Ok(())
    }

    async fn close(&mut self, host: &ClientHost, findings: &Findings) -> Result<(), Error> {
        let Some(at) = self.choose(|own| own.writer.is_some()) else { return Ok(()) };
        let Own { inode, writer, name } = &mut self.own[at];
        let (inode, Some(writer)) = (*inode, writer.take()) else { return Ok(()) };
        // A program that ends by itself does not wait for what it has written.
        let flushes = name.is_some() || self.rng.random();
        match writer.close(flushes).await {
            Err(error) if self.orphans.explains(&error, &host.name, inode, findings) => {}
            closed => closed?,
        }
        self.forget_what_is_over();
        findings.step();
        Ok(())
    }

    /// A write, a sync, or a read.
    async fn work(&mut self, host: &ClientHost, findings: &Findings) -> Result<(), Error> {
        let Some(at) = self.choose(|own| own.writer.is_some()) else { return Ok(()) };
        let Own { inode, writer: Some(writer), .. } = &mut self.own[at] else { return Ok(()) };
        let (inode, orphans) = (*inode, &self.orphans);
        match writer.step(findings, || orphans.may_be_gone(&host.name, inode, findings)).await {
            Err(error) if orphans.explains(&error, &host.name, inode, findings) => {
                self.own.remove(at);
                findings.step();
                Ok(())
            }
            result => result,
        }
    }

    /// Opens another's file.
    async fn visit(&mut self, host: &ClientHost, findings: &Findings) -> Result<(), Error> {
        if self.held.len() == MOST {
            return Ok(());
        }
        let Some(model) = self.orphans.choose(&host.name, &mut self.rng) else { return Ok(()) };
        match Reader::open(&model, &host.files, findings).await {
            // Its name went on the way.
            Err(Error::Errno(libc::ESTALE)) if !self.orphans.is_named(model.inode) => {}
            opened => self.held.push(opened?),
        }
        findings.step();
        Ok(())
    }

    async fn leave(&mut self, findings: &Findings) -> Result<(), Error> {
        if let Some(at) = self.any_held() {
            self.held.swap_remove(at).close().await;
            findings.step();
        }
        Ok(())
    }

    async fn look(&mut self, host: &ClientHost, findings: &Findings) -> Result<(), Error> {
        let Some(at) = self.any_held() else { return Ok(()) };
        let reader = &self.held[at];
        match reader.look_at_any(&mut self.rng, findings).await {
            Err(error) if self.orphans.explains(&error, &host.name, reader.inode(), findings) => {
                self.held.swap_remove(at).close().await;
            }
            result => result?,
        }
        findings.step();
        Ok(())
    }

    fn any_held(&mut self) -> Option<usize> {
        (!self.held.is_empty()).then(|| self.rng.random_range(0..self.held.len()))
    }

    /// Any file of its own that is like that.
    fn choose(&mut self, is_meant: impl Fn(&Own) -> bool) -> Option<usize> {
        let meant: Vec<usize> = (0..self.own.len()).filter(|at| is_meant(&self.own[*at])).collect();
        meant.choose(&mut self.rng).copied()
    }

    fn forget_what_is_over(&mut self) {
        self.own.retain(|own| own.writer.is_some() || own.name.is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SimClock;

    const FILE: u64 = 9;

    fn one_file() -> Orphans {
        let orphans = Orphans::default();
        orphans.add("client1", Arc::new(FileModel::new(FILE, 1)));
        orphans
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_may_be_gone_without_a_name_after_the_end_of_the_session_alone() {
        let (orphans, findings) = (one_file(), Findings::new(SimClock::start()));
        let explains = |client: &str, errno: i32| orphans.explains(&Error::Errno(errno), client, FILE, &findings);
        findings.sessions.lose("client2", FILE);
        assert!(!explains("client2", libc::ESTALE), "it has a name");
        orphans.unname(FILE);
        assert!(explains("client2", libc::ESTALE) && explains("client2", libc::EIO));
        assert!(!explains("client2", libc::ENOSPC), "another error");
        assert!(!explains("client1", libc::ESTALE), "its session lives");
    }

    #[test]
    fn only_files_of_others_that_have_a_name_are_opened() {
        let (orphans, mut rng) = (one_file(), StdRng::seed_from_u64(1));
        assert!(orphans.choose("client1", &mut rng).is_none(), "its own");
        assert!(orphans.choose("client2", &mut rng).is_some_and(|model| model.inode == FILE));
        orphans.unname(FILE);
        assert!(orphans.choose("client2", &mut rng).is_none());
    }
}
