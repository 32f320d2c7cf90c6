//! How a call of the kernel is answered: on the runtime, after a try on the thread that took it where it is likely to be done by that (a
//! buffered write, a cached read); a caller that is signalled meanwhile is let go. The calls themselves are in `fuse.rs`.

use std::ffi::OsStr;
use std::future::Future;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use caribou_client::Error;
use caribou_client::proto::meta::v1::{Attr, Caller};
use fuser::*;

use crate::convert::file_attr;
use crate::fs::Fs;
use crate::identity::Identities;
use crate::interrupt::interrupted;

/// Inode numbers are never used twice, so one generation is enough.
pub(crate) const GENERATION: Generation = Generation(0);

/// What the kernel may assume for how long, and how many requests it may have on their way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KernelSettings {
    pub(crate) attr_timeout: Duration,
    pub(crate) entry_timeout: Duration,
    pub(crate) max_background: u16,
}

/// The file system as fuser wants it.
pub(crate) struct Adapter {
    pub(crate) fs: Arc<Fs>,
    pub(crate) runtime: tokio::runtime::Handle,
    identities: Identities,
    pub(crate) settings: KernelSettings,
    /// The kernel maps files that it does not cache (Linux 6.6).
    pub(crate) maps_uncached: bool,
}

/// A reply that can be an error.
pub(crate) trait Refuse: Send + 'static {
    fn refuse(self, errno: Errno);
}

macro_rules! refuse {
    ($($reply:ty),*) => { $(impl Refuse for $reply {
        fn refuse(self, errno: Errno) {
            self.error(errno);
        }
    })* };
}

refuse!(ReplyEntry, ReplyAttr, ReplyData, ReplyEmpty, ReplyOpen, ReplyWrite, ReplyStatfs, ReplyXattr, ReplyCreate);
refuse!(ReplyDirectory, ReplyDirectoryPlus);

impl Adapter {
    pub(crate) fn new(fs: Arc<Fs>, runtime: tokio::runtime::Handle, settings: KernelSettings) -> Self {
        Self { fs, runtime, identities: Identities::default(), settings, maps_uncached: false }
    }

    pub(crate) fn caller(&self, request: &Request) -> Caller {
        self.identities.caller(request.pid(), request.uid(), request.gid())
    }

    /// As [`Self::answer`], tried here first: for what mostly needs nobody else. What has to ask would only wake two threads instead of one.
    pub(crate) fn answer_here<R: Refuse, T: Send + 'static>(
        &self,
        request: &Request,
        reply: R,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
        grant: impl FnOnce(R, T) + Send + 'static,
    ) {
        let _runtime = self.runtime.enter();
        let mut work = Box::pin(work);
        match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => settle(reply, result, grant),
            Poll::Pending => self.answer(request, reply, work, grant),
        }
    }

    /// Runs `work` and replies; a caller that is signalled meanwhile is let go, and the call given up (S5).
    pub(crate) fn answer<R: Refuse, T: Send + 'static>(
        &self,
        request: &Request,
        reply: R,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
        grant: impl FnOnce(R, T) + Send + 'static,
    ) {
        let pid = request.pid();
        self.runtime.spawn(async move {
            let result = tokio::select! {
                biased;
                result = work => result,
                () = interrupted(pid) => Err(Error::Interrupted),
            };
            settle(reply, result, grant);
        });
    }

    pub(crate) fn entry(
        &self,
        request: &Request,
        reply: ReplyEntry,
        work: impl Future<Output = Result<Attr, Error>> + Send + 'static,
    ) {
        let KernelSettings { attr_timeout, entry_timeout, .. } = self.settings;
        self.answer(request, reply, work, move |reply, attr| {
            reply.entry_with_ttls(&attr_timeout, &entry_timeout, &file_attr(&attr), GENERATION);
        });
    }

    pub(crate) fn empty(
        &self,
        request: &Request,
        reply: ReplyEmpty,
        work: impl Future<Output = Result<(), Error>> + Send + 'static,
    ) {
        self.answer(request, reply, work, |reply, ()| reply.ok());
    }

    /// Where one time-out stands for both, the shorter one.
    pub(crate) fn shorter_timeout(&self) -> Duration {
        self.settings.attr_timeout.min(self.settings.entry_timeout)
    }
}

fn settle<R: Refuse, T>(reply: R, result: Result<T, Error>, grant: impl FnOnce(R, T)) {
    match result {
        Ok(value) => grant(reply, value),
        Err(error) => {
            match &error {
                Error::Errno(_) | Error::Interrupted => tracing::debug!(%error, "call failed"),
                Error::Unavailable(_) => tracing::warn!(%error, "call timed out"),
                Error::Refused(_) | Error::Fatal(_) => tracing::error!(%error, "call failed"),
            }
            reply.refuse(Errno::from_i32(error.errno()));
        }
    }
}

pub(crate) fn bytes(name: &OsStr) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

/// What getxattr(2) and listxattr(2) want: the length if `size` is 0, else the value if it fits.
pub(crate) fn xattr(reply: ReplyXattr, value: &[u8], size: u32) {
    let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
    if size == 0 {
        reply.size(len);
    } else if len > size {
        reply.error(Errno::ERANGE);
    } else {
        reply.data(value);
    }
}
