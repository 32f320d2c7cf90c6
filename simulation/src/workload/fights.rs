//! Names that all clients change: five names of a directory at a time, which the next one follows after some operations. There must be an
//! order of all operations, each at some moment between its call and its answer, in which every answer is right (linearizability); it
//! includes that nothing is done twice, and that a leader that is none any more answers nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use caribou_client::meta::QueryOp;
use caribou_client::{Error, MetaClient};
use caribou_histories::finding::{Finding, Moment};
use caribou_histories::names::{self, Answer, Event, Op};
use caribou_histories::player;
use caribou_proto::meta::v1::{Lookup, Mkdir, mutation};
use parking_lot::Mutex;
use rand::rngs::StdRng;

use super::caller;
use crate::clock::SimClock;
use crate::findings::Findings;

/// Operations in one directory: more make the check long.
const OPS: usize = 200;
const EEXIST: i32 = 17;

#[derive(Debug)]
struct Round {
    directory: u64,
    events: Vec<Event>,
    /// Inodes that anybody has seen.
    seen: Vec<u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Fights {
    /// Calls and answers are numbered in the order in which they happen.
    order: AtomicU64,
    rounds: Mutex<Vec<Round>>,
}

impl Fights {
    /// One operation of a client; a question, if it `only_reads`, once there is a directory.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn step(
        &self,
        (client, only_reads): (usize, bool),
        meta: &MetaClient,
        rng: &mut StdRng,
        findings: &Findings,
    ) -> Result<(), Error> {
        let last = self.rounds.lock().len().checked_sub(1);
        let (round, op) = match (only_reads, last) {
            (true, None) => return Ok(()),
            (true, Some(last)) => (last, player::question(rng)),
            (false, _) => {
                let round = self.round(meta).await?;
                (round, player::next(rng, &self.rounds.lock()[round].seen))
            }
        };
        self.carry_out(round, client, meta, op, findings).await?;
        findings.step();
        Ok(())
    }

    /// What there is in the end belongs to the histories too. Then all are judged.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn audit(&self, client: usize, meta: &MetaClient, findings: &Findings) -> Result<(), Error> {
        let rounds = self.rounds.lock().len();
        for round in 0..rounds {
            self.carry_out(round, client, meta, Op::List, findings).await?;
        }
        for (number, round) in self.rounds.lock().iter().enumerate() {
            if let Some(found) = names::check(&round.events) {
                findings.violation(format!("linearizability: directory {number}: {}", in_words(&found)));
            }
        }
        Ok(())
    }

    /// The directory that is fought over now. Whoever finds the last one used up makes the next.
    async fn round(&self, meta: &MetaClient) -> Result<usize, Error> {
        let number = {
            let rounds = self.rounds.lock();
            match rounds.last() {
                Some(last) if last.events.len() < OPS => return Ok(rounds.len() - 1),
                _ => rounds.len(),
            }
        };
        let name: bytes::Bytes = format!("fight{number}").into();
        let mkdir = mutation::Op::Mkdir(Mkdir { parent: 1, name: name.clone(), mode: 0o755 });
        let made = match meta.mutate(&caller(), mkdir).await {
            // Somebody else was faster, who may be gone.
            Err(Error::Errno(EEXIST)) => meta.query(&caller(), QueryOp::Lookup(Lookup { parent: 1, name })).await?,
            other => other?,
        };
        let mut rounds = self.rounds.lock();
        if rounds.len() == number {
            let directory = made.attr.map_or(0, |attr| attr.inode);
            rounds.push(Round { directory, events: Vec::new(), seen: Vec::new() });
        }
        Ok(number)
    }

    async fn carry_out(
        &self,
        round: usize,
        client: usize,
        meta: &MetaClient,
        op: Op,
        findings: &Findings,
    ) -> Result<(), Error> {
        let (called, called_at) = self.now(findings.clock());
        let (directory, at) = {
            let Round { directory, events, .. } = &mut self.rounds.lock()[round];
            // Until it is answered; for ever, if its client is killed.
            let (answer, answered, answered_at) = (Answer::Unknown { inode: None }, u64::MAX, called_at);
            events.push(Event { client, op, answer, called, answered, called_at, answered_at });
            (*directory, events.len() - 1)
        };
        let answer = player::carry_out(meta, directory, op).await?;
        let (answered, answered_at) = self.now(findings.clock());
        let Round { events, seen, .. } = &mut self.rounds.lock()[round];
        if let Answer::File { inode, .. } = answer {
            seen.push(inode);
        }
        events[at] = Event { answer, answered, answered_at, ..events[at].clone() };
        Ok(())
    }

    /// The next number in the order of all calls and answers, and the time.
    fn now(&self, clock: &SimClock) -> (u64, Moment) {
        let time = u64::try_from(clock.now_ns() / 1000).expect("after 1970");
        (self.order.fetch_add(1, Ordering::Relaxed), Moment(time))
    }
}

/// What contradicts what, with times since the first of these operations.
fn in_words(found: &Finding) -> String {
    let origin = found.operations.iter().map(|operation| operation.called_at).min().unwrap_or_default();
    let mut text = found.text.clone();
    for operation in &found.operations {
        let ms = |moment: Moment| moment.since(origin) / 1000;
        let (from, to) = (ms(operation.called_at), ms(operation.answered_at));
        text += &format!("; {from}–{to} ms client {}: {} → {}", operation.client, operation.call, operation.answer);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_name_that_went_away_by_itself_is_told() {
        let clock = SimClock::start();
        let fights = Fights::default();
        let event = |client, op, answer| {
            let ((called, called_at), (answered, answered_at)) = (fights.now(&clock), fights.now(&clock));
            Event { client, op, answer, called, answered, called_at, answered_at }
        };
        let made = event(1, Op::Create(3), Answer::File { inode: 9, links: 1 });
        let lost = event(2, Op::Lookup(3), Answer::Errno(2));
        assert!(names::check(std::slice::from_ref(&made)).is_none());
        let found = names::check(&[made, lost]).expect("there is no order");
        let told = in_words(&found);
        assert!(told.contains("client 1: create n3 → inode 9, 1 link"), "{told}");
    }
}
