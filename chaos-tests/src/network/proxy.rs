//! A proxy in front of a host's server that does what lines of packets cannot: it takes a connection and says nothing, delays each byte, reads
//! slowly, or tears a connection in the middle of a message. It runs within the host's network, so that nobody has to know it: a rule of the
//! host leads whoever connects to it. The server then sees its own host's address as that of all its callers.
//!
//! It delays whole connections and keeps the order of bytes, as TCP does; packets are the business of the rules of `network`.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::namespace;
use super::{Host, Rule};

/// Where it listens.
const PROXY_PORT: u16 = 9431;
/// What is read at once.
const PIECE: usize = 64 << 10;
/// Pieces of one direction that are on their way while they are delayed.
const PIECES: usize = 256;
/// What a slow reader takes at once, and what the kernel keeps for it.
const BITE: usize = 2 << 10;
const BITES_KEPT: u32 = 8 << 10;

/// What it does to connections.
#[derive(Debug, Clone)]
pub enum Line {
    /// Each byte arrives so much later, in both directions.
    Late(Duration),
    /// Connections are taken, and nothing is ever said or read.
    Silent,
    /// A bite of two KiB each time, in both directions.
    Slow(Duration),
    /// After so many bytes of one direction, in the middle of whatever it is, the connection is reset at both ends.
    Torn(Range<u64>),
}

/// A proxy at work. It ends with all its connections when it is dropped; its rules have to be lifted.
#[derive(Debug)]
pub struct Proxy {
    host: Host,
    what: &'static str,
    /// What leads here whoever connects. Nothing once it is lifted.
    rules: Option<[Rule; 2]>,
    hits: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    pub fn begin(host: &Host, line: Line, seed: u64) -> Result<Self> {
        let what = match line {
            Line::Late(_) => "pieces delayed",
            Line::Silent => "connections without an answer",
            Line::Slow(_) => "bites taken",
            Line::Torn(_) => "connections torn",
        };
        let server: SocketAddr = host.address().parse().context("a host's address")?;
        let hits = Arc::new(AtomicU64::new(0));
        let work = Work { server, line, hits: hits.clone() };
        let (stop, told) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let namespace = host.namespace();
        let run = move || run(&namespace, work, seed, &ready, told);
        let thread = std::thread::Builder::new().name("proxy".to_owned()).spawn(run)?;
        is_ready.recv().context("the proxy's thread has ended")?.context("the proxy's network")?;
        let rules = Some(host.divert(PROXY_PORT)?);
        Ok(Self { host: host.clone(), what, rules, hits, stop: Some(stop), thread: Some(thread) })
    }

    /// Whoever connects is no longer led here, and what was led here ends. Returns how much of what was done.
    pub fn lift(mut self) -> Result<(u64, &'static str)> {
        self.host.end_diversion(self.rules.take().context("it is lifted once")?)?;
        Ok((self.hits.load(Ordering::Relaxed), self.what))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop = None;
        // A panic in there has been told already.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What each connection needs to know.
#[derive(Clone)]
struct Work {
    server: SocketAddr,
    line: Line,
    hits: Arc<AtomicU64>,
}

/// The proxy's thread.
fn run(network: &Path, work: Work, seed: u64, ready: &mpsc::Sender<io::Result<()>>, told: oneshot::Receiver<()>) {
    let begun = namespace::enter(network)
        .and_then(|()| tokio::runtime::Builder::new_current_thread().enable_all().build())
        .and_then(|runtime| Ok((runtime.block_on(async { listen(&work.line) })?, runtime)));
    let (listener, runtime) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            // Whoever began it waits for this.
            let _ = ready.send(Err(error));
            return;
        }
    };
    if ready.send(Ok(())).is_ok() {
        runtime.block_on(async {
            tokio::select! {
                () = accept(listener, work, StdRng::seed_from_u64(seed)) => {}
                _ = told => {}
            }
        });
    }
}

fn listen(line: &Line) -> io::Result<TcpListener> {
    let socket = socket(line)?;
    socket.set_reuseaddr(true)?;
    socket.bind(([0, 0, 0, 0], PROXY_PORT).into())?;
    socket.listen(1024)
}

fn socket(line: &Line) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    if matches!(line, Line::Slow(_)) {
        socket.set_recv_buffer_size(BITES_KEPT)?;
        socket.set_send_buffer_size(BITES_KEPT)?;
    }
    Ok(socket)
}

/// Connections are tasks, which end with the runtime.
async fn accept(listener: TcpListener, work: Work, mut rng: StdRng) {
    loop {
        let Ok((inbound, _)) = listener.accept().await else { continue };
        tokio::spawn(work.clone().carry(inbound, StdRng::seed_from_u64(rng.random())));
    }
}

impl Work {
    /// One connection. What goes wrong with it, its ends will see.
    async fn carry(self, mut inbound: TcpStream, mut rng: StdRng) {
        if matches!(self.line, Line::Silent) {
            self.hit();
            return std::future::pending().await;
        }
        let Ok(socket) = socket(&self.line) else { return };
        let Ok(mut outbound) = socket.connect(self.server).await else { return };
        let _ = inbound.set_nodelay(true);
        let _ = outbound.set_nodelay(true);
        {
            let (from_caller, to_caller) = inbound.split();
            let (from_server, to_server) = outbound.split();
            let (there, back) = (rng.random(), rng.random());
            // Where one direction ends, both do.
            tokio::select! {
                _ = self.pass(from_caller, to_server, there) => {}
                _ = self.pass(from_server, to_caller, back) => {}
            }
        }
        if matches!(self.line, Line::Torn(_)) {
            for end in [&inbound, &outbound] {
                // Closing with a time of nothing is a reset.
                let _ = rustix::net::sockopt::set_socket_linger(end, Some(Duration::ZERO));
            }
        }
    }

    fn hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    async fn pass(&self, from: impl AsyncRead + Unpin, to: impl AsyncWrite + Unpin, seed: u64) -> io::Result<()> {
        match &self.line {
            Line::Late(delay) => self.delay(from, to, *delay).await,
            Line::Silent => Ok(()),
            Line::Slow(pause) => self.nibble(from, to, *pause).await,
            Line::Torn(after) => self.tear(from, to, StdRng::seed_from_u64(seed).random_range(after.clone())).await,
        }
    }

    async fn delay(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        delay: Duration,
    ) -> io::Result<()> {
        let (sender, mut pieces) = tokio::sync::mpsc::channel::<(Instant, Vec<u8>)>(PIECES);
        let read = async move {
            let mut piece = vec![0; PIECE];
            loop {
                let length = from.read(&mut piece).await?;
                // The other half has ended, and says why.
                if length == 0 || sender.send((Instant::now() + delay, piece[..length].to_vec())).await.is_err() {
                    return Ok::<_, io::Error>(());
                }
            }
        };
        let write = async {
            while let Some((due, piece)) = pieces.recv().await {
                tokio::time::sleep_until(due).await;
                to.write_all(&piece).await?;
                self.hit();
            }
            Ok::<_, io::Error>(())
        };
        tokio::try_join!(read, write).map(|((), ())| ())
    }

    async fn nibble(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        pause: Duration,
    ) -> io::Result<()> {
        let mut bite = vec![0; BITE];
        loop {
            let length = from.read(&mut bite).await?;
            if length == 0 {
                return Ok(());
            }
            to.write_all(&bite[..length]).await?;
            self.hit();
            tokio::time::sleep(pause).await;
        }
    }

    async fn tear(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        after: u64,
    ) -> io::Result<()> {
        let mut left = after;
        let mut piece = vec![0; PIECE];
        while left > 0 {
            let length = from.read(&mut piece).await?;
            if length == 0 {
                return Ok(());
            }
            let passed = length.min(usize::try_from(left).unwrap_or(length));
            to.write_all(&piece[..passed]).await?;
            left -= passed as u64;
        }
        self.hit();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection through a proxy to a server that sends back what it gets.
    async fn through(line: Line) -> (TcpStream, Arc<AtomicU64>) {
        let server = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let work = Work { server: server.local_addr().expect("bound"), line, hits: Arc::default() };
        let hits = work.hits.clone();
        tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.expect("a connection");
            let (mut from, mut to) = stream.split();
            tokio::io::copy(&mut from, &mut to).await
        });
        let proxy = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = proxy.local_addr().expect("bound");
        tokio::spawn(accept(proxy, work, StdRng::seed_from_u64(1)));
        (TcpStream::connect(address).await.expect("connected"), hits)
    }

    async fn sent_back(stream: &mut TcpStream, sent: &[u8]) -> Vec<u8> {
        stream.write_all(sent).await.expect("written");
        let mut back = vec![0; sent.len()];
        stream.read_exact(&mut back).await.expect("read");
        back
    }

    #[tokio::test]
    async fn bytes_arrive_late_and_whole() {
        let delay = Duration::from_millis(20);
        let (mut stream, hits) = through(Line::Late(delay)).await;
        let (begun, sent) = (Instant::now(), vec![7; 3 * PIECE]);
        assert_eq!(sent_back(&mut stream, &sent).await, sent);
        assert!(begun.elapsed() >= delay * 2);
        assert!(hits.load(Ordering::Relaxed) >= 6);
    }

    #[tokio::test]
    async fn a_slow_reader_takes_everything_in_the_end() {
        let (mut stream, hits) = through(Line::Slow(Duration::from_millis(1))).await;
        let sent = vec![7; 10 * BITE];
        assert_eq!(sent_back(&mut stream, &sent).await, sent);
        assert!(hits.load(Ordering::Relaxed) >= 20);
    }

    #[tokio::test]
    async fn a_connection_is_torn_in_the_middle() {
        let (mut stream, hits) = through(Line::Torn(1000..1001)).await;
        stream.write_all(&[7; 4000]).await.expect("taken");
        let mut back = Vec::new();
        assert!(stream.read_to_end(&mut back).await.is_err(), "reset, not ended");
        assert!(back.len() <= 1000);
        assert_eq!(hits.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_silent_one_takes_the_connection() {
        let (mut stream, hits) = through(Line::Silent).await;
        stream.write_all(b"hello").await.expect("taken");
        let answer = tokio::time::timeout(Duration::from_millis(50), stream.read(&mut [0; 1])).await;
        assert!(answer.is_err(), "{answer:?}");
        assert_eq!(hits.load(Ordering::Relaxed), 1);
    }
}
