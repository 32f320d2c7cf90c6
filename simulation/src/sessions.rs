//! What clients are told of their sessions and of the files that they have open, read along on their lines, and what becomes of it in the rows.
//!
//! - S3: a session lives for its TTL at least, counted from when a renewal that is answered has left its client; and no leader ends a session whose
//!   client it has renewed and still answers.
//! - S7: while a session lives, every claim that was made in it can be made again.
//!
//! Whatever may end a session, the client's death or absence, lines that are cut, no leader for long, keeps answers from the client for as long:
//! so nothing is asked of the faults. A client whose session has ended has lost its claims; what it still holds open may be gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use caribou_meta_raft::fsm::error::Fatal;
use caribou_meta_raft::fsm::tables::meta::{self, Counter};
use caribou_meta_raft::fsm::tables::{Tables, Visit, sessions};
use caribou_proto::ids::SessionId;
use caribou_proto::meta::v1::{ClientMessage, Outcome, ServerMessage, client_message, server_message};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::time::Instant;

use crate::record::messages;

/// For so long the leader that has answered a client cannot end its session, whatever happens: it has heard of it some 11 s before at the latest (a
/// client renews after 7.5 s, and a line breaks 3 s after nothing passes one way), and waits for 30 s from then on.
const ANSWER_KEEPS: Duration = Duration::from_secs(10);

/// How a client logs that bytes went with their file: where a handle is told, and where there is none any more.
const LOSSES: [&str; 2] = [
    "buffered bytes of a file cannot be written and are lost",
    "bytes of a file were lost after its last handle was closed",
];

/// A stream between a client and a leader.
#[derive(Debug, Default)]
struct Line {
    client: String,
    session: u64,
    term: u64,
    ttl: Duration,
    /// Those without an answer, by their stamps, and when they left.
    renewals: BTreeMap<u64, Instant>,
    /// One was answered here.
    is_renewed: bool,
    /// Inodes whose opens have no answer yet, by the number of the question; whether a claim is made again.
    opens: BTreeMap<u64, (u64, bool)>,
}

#[derive(Debug, Default)]
struct Life {
    certain_until: Option<Instant>,
    /// A leader's term, and when its last answer came, after a renewal in that term.
    answered: Option<(u64, Instant)>,
    /// Inodes that were opened in it.
    opened: BTreeSet<u64>,
    has_ended: bool,
}

#[derive(Debug, Default)]
struct State {
    /// By call.
    lines: BTreeMap<u64, Line>,
    lives: BTreeMap<u64, Life>,
    /// How many sessions have ended.
    ended: u64,
    /// Clients, and inodes that they had open in sessions that have ended.
    lost: BTreeSet<(String, u64)>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<State>);

impl Sessions {
    /// A frame leaves a client, in this call.
    pub fn left(&self, call: u64, frame: &[u8]) {
        let mut state = self.0.lock();
        for body in messages(frame).filter_map(|message| ClientMessage::decode(message).ok()?.body) {
            let line = state.lines.entry(call).or_default();
            match body {
                client_message::Body::Hello(hello) => {
                    (line.client, line.session) = (hello.client_name, hello.session_id);
                }
                client_message::Body::Renew(renew) => drop(line.renewals.insert(renew.stamp, Instant::now())),
                client_message::Body::Query(query) => {
                    line.opens.extend(query.open.map(|open| (query.id, (open.inode, open.reassert))));
                }
                _ => {}
            }
        }
    }

    /// A frame has come to a client; what is wrong with what it says.
    pub fn arrived(&self, call: u64, frame: &[u8]) -> Vec<String> {
        let mut state = self.0.lock();
        let bodies = messages(frame).filter_map(|message| ServerMessage::decode(message).ok()?.body);
        bodies.filter_map(|body| state.heard(call, body)).collect()
    }

    /// A node has applied more than any other; `term` is the newest that somebody is ready to lead. What is wrong.
    ///
    /// # Errors
    /// When the rows cannot be read.
    pub fn applied(&self, rows: &dyn Tables, term: u64) -> Result<Vec<String>, Fatal> {
        let ended = meta::counter(rows, Counter::SessionId)? - meta::counter(rows, Counter::LiveSessions)?;
        let mut state = self.0.lock();
        let mut wrong = Vec::new();
        if std::mem::replace(&mut state.ended, ended) != ended {
            sessions::scan(rows, SessionId(0), &mut |id, session| {
                if !session.is_live() {
                    wrong.extend(state.end(id.0, &session.name, term));
                }
                Ok(Visit::Next)
            })?;
        }
        Ok(wrong)
    }

    /// Whether a session of this client in which it had the inode open has ended.
    pub fn has_lost(&self, client: &str, inode: u64) -> bool {
        self.0.lock().lost.contains(&(client.to_owned(), inode))
    }

    /// Whether a line of a log tells of bytes of a file that some client has lost so.
    pub fn explains(&self, line: &str) -> bool {
        let state = self.0.lock();
        let is_lost = |inode: u64| state.lost.iter().any(|(_, lost)| *lost == inode);
        let mut inodes = line.split_whitespace().filter_map(|word| word.strip_prefix("inode=")?.parse::<u64>().ok());
        LOSSES.iter().any(|loss| line.contains(loss)) && inodes.any(is_lost)
    }

    #[cfg(test)]
    pub fn lose(&self, client: &str, inode: u64) {
        self.0.lock().lost.insert((client.to_owned(), inode));
    }
}

impl State {
    fn heard(&mut self, call: u64, body: server_message::Body) -> Option<String> {
        let Self { lines, lives, lost, .. } = self;
        let line = lines.get_mut(&call)?;
        if let server_message::Body::Welcome(welcome) = &body {
            (line.session, line.term) = (welcome.session_id, welcome.term);
            line.ttl = Duration::from_millis(welcome.ttl_ms);
        }
        let life = lives.entry(line.session).or_default();
        let (mut opened, mut wrong) = (None, None);
        match body {
            server_message::Body::Renewed(renewed) => {
                if let Some(left) = line.renewals.remove(&renewed.stamp) {
                    line.is_renewed = true;
                    life.certain_until = life.certain_until.max(Some(left + line.ttl));
                }
            }
            server_message::Body::Answer(answer) => {
                if let Some((inode, is_again)) = line.opens.remove(&answer.id) {
                    opened = (answer.errno == 0).then_some(inode);
                    let is_refused = is_again && answer.errno != 0;
                    if is_refused && !lost.contains(&(line.client.clone(), inode)) {
                        let Line { client, session, .. } = line;
                        let errno = answer.errno;
                        wrong = Some(format!(
                            "S7: {client} has inode {inode} open, and its session {session} lives; its claim is refused, errno {errno}"
                        ));
                    }
                }
            }
            server_message::Body::Reply(reply) if reply.outcome() == Outcome::Executed && reply.errno == 0 => {
                let body = reply.body.filter(|body| body.created);
                opened = body.and_then(|body| body.attr).map(|attr| attr.inode);
            }
            _ => {}
        }
        if line.is_renewed {
            life.answered = Some((line.term, Instant::now()));
        }
        match opened {
            Some(inode) if life.has_ended => drop(lost.insert((line.client.clone(), inode))),
            opened => life.opened.extend(opened),
        }
        wrong
    }

    /// A session has ended, if that is news; what is wrong with it.
    fn end(&mut self, session: u64, client: &str, term: u64) -> Option<String> {
        let life = self.lives.entry(session).or_default();
        if std::mem::replace(&mut life.has_ended, true) {
            return None;
        }
        self.lost.extend(std::mem::take(&mut life.opened).into_iter().map(|inode| (client.to_owned(), inode)));
        let now = Instant::now();
        if let Some(until) = life.certain_until.filter(|until| now < *until) {
            let early = until - now;
            return Some(format!("S3: session {session} of {client} has ended {early:?} before it might"));
        }
        let (_, at) = life.answered.filter(|(by, at)| *by == term && now < *at + ANSWER_KEEPS)?;
        let before = now - at;
        Some(format!(
            "S3: the leader of term {term} has ended session {session} of {client}, which it answered {before:?} before"
        ))
    }
}

#[cfg(test)]
mod tests {
    use caribou_proto::meta::v1::{Answer, Attr, Hello, Open, Query, Renew, Renewed, Reply, ReplyBody, Welcome};

    use super::*;

    const CALL: u64 = 1;
    const SESSION: u64 = 7;
    const TERM: u64 = 3;
    const FILE: u64 = 9;
    const ESTALE: u32 = libc::ESTALE as u32;

    fn frame(message: &impl prost::Message) -> Vec<u8> {
        let message = message.encode_to_vec();
        let mut frame = vec![0];
        frame.extend_from_slice(&u32::try_from(message.len()).expect("small").to_be_bytes());
        frame.extend_from_slice(&message);
        frame
    }

    fn says(sessions: &Sessions, body: client_message::Body) {
        sessions.left(CALL, &frame(&ClientMessage { body: Some(body) }));
    }

    fn hears(sessions: &Sessions, body: server_message::Body) -> Vec<String> {
        sessions.arrived(CALL, &frame(&ServerMessage { body: Some(body) }))
    }

    fn asks(sessions: &Sessions, id: u64, reassert: bool) {
        let open = Open { inode: FILE, access: 0, reassert };
        says(sessions, client_message::Body::Query(Query { id, open: Some(open), ..Query::default() }));
    }

    fn is_answered(sessions: &Sessions, id: u64, errno: u32) -> Vec<String> {
        hears(sessions, server_message::Body::Answer(Answer { id, errno, body: None }))
    }

    /// A session with a renewal that has left now.
    fn renewed() -> Sessions {
        let sessions = Sessions::default();
        says(&sessions, client_message::Body::Hello(Hello { client_name: "client1".to_owned(), ..Hello::default() }));
        let welcome = Welcome { session_id: SESSION, ttl_ms: 30_000, term: TERM, ..Welcome::default() };
        assert!(hears(&sessions, server_message::Body::Welcome(welcome)).is_empty());
        says(&sessions, client_message::Body::Renew(Renew { stamp: 5 }));
        assert!(hears(&sessions, server_message::Body::Renewed(Renewed { stamp: 5 })).is_empty());
        sessions
    }

    fn ends(sessions: &Sessions, term: u64) -> Option<String> {
        sessions.0.lock().end(SESSION, "client1", term)
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_ends_before_its_time_is_told() {
        let [early, late, other] = [renewed(), renewed(), renewed()];
        tokio::time::advance(Duration::from_secs(29)).await;
        let told = ends(&early, TERM + 1).expect("too early, whoever leads");
        assert!(told.starts_with("S3: session 7 of client1 has ended 1s before"), "{told}");
        assert_eq!(ends(&early, TERM + 1), None, "told once");
        [&late, &other].into_iter().for_each(|sessions| assert!(is_answered(sessions, 4, 0).is_empty()));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(ends(&late, TERM).is_some_and(|told| told.contains("answered 2s before")));
        assert_eq!(ends(&other, TERM + 1), None, "another leader may not have heard of it");
        let silent = renewed();
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(ends(&silent, TERM), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_may_be_refused_only_after_its_session() {
        let sessions = renewed();
        asks(&sessions, 1, false);
        assert!(is_answered(&sessions, 1, 0).is_empty());
        asks(&sessions, 2, true);
        let told = is_answered(&sessions, 2, ESTALE);
        assert!(told.len() == 1 && told[0].starts_with("S7: client1 has inode 9 open"), "{told:?}");
        asks(&sessions, 3, false);
        assert!(is_answered(&sessions, 3, ESTALE).is_empty(), "it had none");
        let loss = format!("caribou_client::file::driver: {} inode={FILE} index=0", LOSSES[0]);
        assert!(!sessions.has_lost("client1", FILE) && !sessions.explains(&loss));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(ends(&sessions, TERM), None);
        assert!(sessions.has_lost("client1", FILE) && sessions.explains(&loss));
        assert!(!sessions.has_lost("client2", FILE) && !sessions.explains(&loss.replace("inode=9", "inode=90")));
        asks(&sessions, 4, true);
        assert!(is_answered(&sessions, 4, ESTALE).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_was_made_when_its_session_had_ended_may_be_gone() {
        let sessions = renewed();
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(ends(&sessions, TERM), None);
        let body =
            ReplyBody { attr: Some(Attr { inode: FILE, ..Attr::default() }), created: true, ..ReplyBody::default() };
        let reply = Reply { seq: 1, errno: 0, outcome: Outcome::Executed as i32, body: Some(body) };
        assert!(hears(&sessions, server_message::Body::Reply(reply)).is_empty());
        assert!(sessions.has_lost("client1", FILE));
    }
}
