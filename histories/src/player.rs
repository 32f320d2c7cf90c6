//! One client's part in a history: which operation comes next, and what the cluster answers.

use std::collections::BTreeMap;

use caribou_client::meta::QueryOp;
use caribou_client::proto::meta::v1::{Caller, Create, Link, Lookup, ReadDir, Rename, ReplyBody, Unlink, mutation};
use caribou_client::{Error, MetaClient};
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::names::{Answer, Name, Op};

/// Names that clients fight over.
const NAMES: Name = 5;

/// Any operation. `seen`: inodes that somebody has seen in this directory; a link needs one.
pub fn next(rng: &mut StdRng, seen: &[u64]) -> Op {
    let name = rng.random_range(0..NAMES);
    let other = (name + rng.random_range(1..NAMES)) % NAMES;
    match rng.random_range(0..10) {
        3 | 4 => Op::Unlink(name),
        5 => Op::Rename { from: name, to: other, replace: rng.random() },
        6 if !seen.is_empty() => Op::Link { inode: seen[rng.random_range(0..seen.len())], to: name },
        7 | 8 => Op::Lookup(name),
        9 => Op::List,
        _ => Op::Create(name),
    }
}

/// Any operation that changes nothing.
pub fn question(rng: &mut StdRng) -> Op {
    if rng.random_ratio(1, 3) { Op::List } else { Op::Lookup(rng.random_range(0..NAMES)) }
}

/// Carries an operation out in a directory, as root. Every errno of the file system is an answer.
///
/// # Errors
/// What no client should see.
pub async fn carry_out(meta: &MetaClient, directory: u64, op: Op) -> Result<Answer, Error> {
    match ask(meta, directory, op).await {
        Err(Error::Errno(errno)) => Ok(Answer::Errno(errno)),
        other => other,
    }
}

async fn ask(meta: &MetaClient, parent: u64, op: Op) -> Result<Answer, Error> {
    let mutation = match op {
        Op::Create(name) => mutation::Op::Create(Create {
            parent,
            name: text(name),
            mode: 0o644,
            exclusive: true,
            access: 6,
            ..Create::default()
        }),
        Op::Unlink(name) => mutation::Op::Unlink(Unlink { parent, name: text(name) }),
        Op::Rename { from, to, replace } => mutation::Op::Rename(Rename {
            parent,
            name: text(from),
            new_parent: parent,
            new_name: text(to),
            no_replace: !replace,
            exchange: false,
        }),
        Op::Link { inode, to } => mutation::Op::Link(Link { inode, parent, name: text(to) }),
        Op::Lookup(name) => {
            let query = QueryOp::Lookup(Lookup { parent, name: text(name) });
            return Ok(file(&meta.query(&root(), query).await?));
        }
        Op::List => {
            let query = QueryOp::ReadDir(ReadDir { inode: parent, cookie: 0, limit: 1000, plus: false });
            let body = meta.query(&root(), query).await?;
            let listed: Vec<(Name, u64)> =
                body.entries.iter().map(|entry| (number(&entry.name), entry.inode)).collect();
            return Ok(Answer::Names(each_once(&listed)?));
        }
    };
    let body = meta.mutate(&root(), mutation).await?;
    Ok(match op {
        Op::Create(_) => {
            let answer = file(&body);
            if let Answer::File { inode, .. } = answer {
                meta.release_claim(inode);
            }
            answer
        }
        Op::Link { .. } => file(&body),
        _ => Answer::Done,
    })
}

/// No name is listed twice.
fn each_once(listed: &[(Name, u64)]) -> Result<BTreeMap<Name, u64>, Error> {
    let names: BTreeMap<Name, u64> = listed.iter().copied().collect();
    if names.len() == listed.len() {
        Ok(names)
    } else {
        Err(Error::Fatal(format!("a listing has a name twice; numbers of names and their inodes: {listed:?}")))
    }
}

fn file(body: &ReplyBody) -> Answer {
    let attr = body.attr.unwrap_or_default();
    Answer::File { inode: attr.inode, links: attr.nlink }
}

fn text(name: Name) -> bytes::Bytes {
    format!("n{name}").into()
}

/// A name that is none of ours shows as one that is never used.
fn number(name: &[u8]) -> Name {
    let digits = std::str::from_utf8(name).ok().and_then(|text| text.strip_prefix('n'));
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(Name::MAX)
}

fn root() -> Caller {
    Caller::default()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn all_kinds_of_operations_come_and_a_link_only_of_what_was_seen() {
        let mut rng = StdRng::seed_from_u64(1);
        let ops: Vec<Op> = (0..400).map(|_| next(&mut rng, &[7])).collect();
        let kinds = ops.iter().map(std::mem::discriminant).collect::<std::collections::HashSet<_>>();
        assert_eq!(kinds.len(), 6);
        assert!(ops.iter().all(|op| !matches!(op, Op::Link { inode, .. } if *inode != 7)));
        assert!(!(0..400).any(|_| matches!(next(&mut rng, &[]), Op::Link { .. })));
        assert!(ops.iter().all(|op| !matches!(op, Op::Rename { from, to, .. } if from == to)));
    }

    #[test]
    fn a_listing_that_has_a_name_twice_is_no_answer() {
        assert_eq!(each_once(&[(1, 10), (2, 10)]), Ok([(1, 10), (2, 10)].into()));
        // Whether it has the same inode or another one.
        for again in [10, 11] {
            let error = each_once(&[(1, 10), (2, 10), (1, again)]).expect_err("n1 is there twice");
            assert!(error.to_string().contains("a name twice"), "{error}");
        }
    }

    #[test]
    fn a_foreign_name_is_none_of_ours() {
        assert_eq!((number(&text(3)), number(b"other"), number(b"n300")), (3, Name::MAX, Name::MAX));
    }
}
