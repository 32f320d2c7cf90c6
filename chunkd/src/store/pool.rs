//! The threads of one disk: a bounded queue with lanes.
//!
//! Jobs of one lane run one after the other in the order of submission; jobs of different lanes, and those without one, run beside
//! each other. A job that does not finish in time, or a failure of the disk, closes the pool: what waits is dropped and its callers are told.
//! A disk in memory has no threads: its jobs run on the caller's task, or as tasks if they are to take time.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use super::disk::{JobTime, Pace};

/// Threads of one disk. A few hang in fdatasync while others serve from the page cache.
const THREADS: usize = 8;
/// Jobs that wait or run per disk; further callers wait their turn.
pub(crate) const QUEUE: usize = 1024;

type Job = Box<dyn FnOnce() + Send>;

/// What must not run at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// Anything beside it.
    Free,
    /// Changes of one chunk.
    Chunk(u64),
    /// Syncs of one chunk.
    Sync(u64),
}

/// Why a job has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The pool is closed, or was before the job's end.
    Closed,
    /// A thread of this disk has been stuck for longer than allowed.
    Hung,
}

pub(crate) struct Pool {
    shared: Arc<Shared>,
    room: Arc<Semaphore>,
    closed: CancellationToken,
    at_once: bool,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    /// As `work`, for workers that are tasks.
    arrived: Notify,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Item>,
    /// Lanes with a job that waits or runs.
    lanes: HashMap<Lane, VecDeque<Task>>,
    /// When each thread's present job should be done.
    due: Vec<Option<Instant>>,
    closed: bool,
}

/// A job and how long it may run.
struct Task {
    job: Job,
    allowance: Duration,
}

enum Item {
    Task(Task),
    Lane(Lane),
}

impl Pool {
    pub(crate) fn new(name: &str, pace: Pace) -> std::io::Result<Self> {
        let threads = if matches!(pace, Pace::Threads) { THREADS } else { 0 };
        let state = State { due: vec![None; threads], ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), work: Condvar::new(), arrived: Notify::new() });
        for thread in 0..threads {
            let shared = shared.clone();
            std::thread::Builder::new().name(format!("{name}-{thread}")).spawn(move || work(&shared, thread))?;
        }
        if let Pace::Tasks(job_time) = &pace {
            for _ in 0..THREADS {
                tokio::spawn(work_as_task(shared.clone(), job_time.clone()));
            }
        }
        let at_once = matches!(pace, Pace::AtOnce);
        Ok(Self { shared, room: Arc::new(Semaphore::new(QUEUE)), closed: CancellationToken::new(), at_once })
    }

    /// Runs a job and waits for it. Dropping the future does not stop a job that has been queued.
    pub(crate) async fn run<T, F>(&self, lane: Lane, allowance: Duration, job: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let permit = tokio::select! {
            permit = self.room.clone().acquire_owned() => permit.map_err(|_| Refusal::Closed)?,
            () = self.closed.cancelled() => return Err(Refusal::Closed),
            refusal = self.watch(allowance) => return Err(refusal),
        };
        let (sender, receiver) = oneshot::channel();
        self.submit(lane, allowance, move || {
            let result = job();
            drop(permit);
            let _ = sender.send(result);
        });
        self.wait(receiver, allowance).await
    }

    /// Queues a job at once, beyond the queue's limit: for callers that bound themselves.
    pub(crate) fn submit(&self, lane: Lane, allowance: Duration, job: impl FnOnce() + Send + 'static) {
        if self.at_once {
            if !self.closed.is_cancelled() {
                job();
            }
            return;
        }
        let mut state = self.shared.state.lock();
        if state.closed {
            return;
        }
        let task = Task { job: Box::new(job), allowance };
        if lane == Lane::Free {
            state.ready.push_back(Item::Task(task));
        } else if let Some(queue) = state.lanes.get_mut(&lane) {
            queue.push_back(task);
            return;
        } else {
            state.lanes.insert(lane, VecDeque::from([task]));
            state.ready.push_back(Item::Lane(lane));
        }
        self.shared.work.notify_one();
        self.shared.arrived.notify_one();
    }

    /// Waits for a submitted job's answer; a dropped sender means that the pool closed.
    pub(crate) async fn wait<T>(&self, receiver: oneshot::Receiver<T>, allowance: Duration) -> Result<T, Refusal> {
        tokio::select! {
            biased;
            result = receiver => result.map_err(|_| Refusal::Closed),
            () = self.closed.cancelled() => Err(Refusal::Closed),
            refusal = self.watch(allowance) => Err(refusal),
        }
    }

    /// Drops what waits; running jobs end by themselves, if they end.
    pub(crate) fn close(&self) {
        let mut state = self.shared.state.lock();
        state.closed = true;
        let dropped = (std::mem::take(&mut state.ready), std::mem::take(&mut state.lanes));
        drop(state);
        drop(dropped);
        self.shared.work.notify_all();
        self.shared.arrived.notify_waiters();
        self.closed.cancel();
    }

    /// Resolves only when a thread is stuck: a long queue is not a hang.
    async fn watch(&self, allowance: Duration) -> Refusal {
        loop {
            tokio::time::sleep(allowance).await;
            let stuck = |due: &Option<Instant>| due.is_some_and(|due| Instant::now() >= due);
            if self.shared.state.lock().due.iter().any(stuck) {
                return Refusal::Hung;
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close();
    }
}

impl State {
    /// What to do next, and in which lane.
    fn take(&mut self) -> Option<(Task, Option<Lane>)> {
        match self.ready.pop_front()? {
            Item::Task(task) => Some((task, None)),
            Item::Lane(lane) => {
                let task = self.lanes.get_mut(&lane).and_then(VecDeque::pop_front);
                Some((task.expect("a ready lane has a job"), Some(lane)))
            }
        }
    }

    /// The lane's next job may run.
    fn done(&mut self, lane: Lane) {
        match self.lanes.get(&lane).map(VecDeque::is_empty) {
            Some(true) => drop(self.lanes.remove(&lane)),
            Some(false) => self.ready.push_back(Item::Lane(lane)),
            None => {}
        }
    }
}

fn work(shared: &Shared, thread: usize) {
    let mut state = shared.state.lock();
    loop {
        let (task, lane) = match state.take() {
            Some(next) => next,
            None if state.closed => return,
            None => {
                shared.work.wait(&mut state);
                continue;
            }
        };
        state.due[thread] = Some(Instant::now() + task.allowance);
        drop(state);
        run_job(task.job);
        state = shared.state.lock();
        state.due[thread] = None;
        lane.into_iter().for_each(|lane| state.done(lane));
    }
}

/// The same as a task, for a disk in memory: what a job does, it does at the end of its time.
async fn work_as_task(shared: Arc<Shared>, job_time: Arc<JobTime>) {
    loop {
        let arrived = shared.arrived.notified();
        let next = {
            let mut state = shared.state.lock();
            if state.closed {
                return;
            }
            state.take()
        };
        let Some((task, lane)) = next else {
            arrived.await;
            continue;
        };
        tokio::time::sleep(job_time()).await;
        if shared.state.lock().closed {
            return;
        }
        run_job(task.job);
        lane.into_iter().for_each(|lane| shared.state.lock().done(lane));
    }
}

fn run_job(job: Job) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(job)) {
        report(panic.as_ref());
    }
}

/// The job's caller is told that the disk's threads are gone, which fails the disk.
fn report(panic: &(dyn Any + Send)) {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(reason = text.unwrap_or("unknown"), "a job on a disk's thread broke an invariant");
}
