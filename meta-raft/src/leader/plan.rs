//! The plan of a recovery: a pure function from what the holders answered to Prepare to what each of them has to fetch (V1, V2, ADR 4).
//!
//! Afterwards all members that are not left out are equal in every block. Who may be missing, and when to wait, is decided in `recovery`.

use caribou_planted::{self as planted, Bug};
use caribou_proto::chunk::v1::Prepared;
use caribou_proto::ids::{BLOCK_BYTES, BLOCK_STATE_BYTES, BLOCKS_PER_CHUNK, ChunkVersion, ServerId};

#[cfg(test)]
mod tests;

const WRITTEN: u8 = 1;
const MATCHES: u8 = 2;

/// One block as a holder reported it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) written: bool,
    /// The data match the checksum; meaningless for a hole.
    pub(crate) matches: bool,
    pub(crate) crc: u32,
}

impl Block {
    fn holds(self) -> bool {
        self.written && self.matches
    }

    fn damaged(self) -> bool {
        self.written && !self.matches
    }

    /// Nothing has to be copied to make `self` what `source` is.
    fn same(self, source: Block) -> bool {
        match source.written {
            true => self.holds() && source.holds() && self.crc == source.crc,
            false => !self.written,
        }
    }
}

/// What a holder's bytes are worth (V2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Named by the last Ready or RepairDone at its version, and no acknowledged write can be lost here.
    Clean,
    /// Unclean start while in the dirty journal, but all in the same boot: only the process died, and the page cache has everything that it
    /// acknowledged (M16). Half of a write that it did not acknowledge may show as damage.
    SameBoot,
    /// Unclean start while in the dirty journal; a replica that vanished in a power cut counts as one without blocks.
    Dirty,
    /// No bytes of the named version: an emptied disk, an old disk image (V5), a replacement that is being joined.
    Missing,
}

/// One holder's answer.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) server: ServerId,
    pub(crate) standing: Standing,
    /// In the incarnation that the ended grant (or the row) names.
    pub(crate) stayed: bool,
    /// V5: the highest grant written to it.
    pub(crate) last_grant: u64,
    /// Empty: all holes.
    pub(crate) blocks: Vec<Block>,
}

impl Member {
    fn block(&self, index: u32) -> Block {
        self.blocks.get(index as usize).copied().unwrap_or_default()
    }
}

/// Blocks `[first, first + count)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// What one member has to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fix {
    pub(crate) fetches: Vec<(ServerId, Vec<Range>)>,
    pub(crate) resum: bool,
}

/// What has to be done to make all members equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// In the order of the members; those left out are missing.
    pub(crate) fixes: Vec<(ServerId, Fix)>,
    /// The clean replica that everybody copies from; `None`: all were dirty, or a block had to be taken from a dirty one (W5).
    pub(crate) clean_source: Option<ServerId>,
    /// Every block is taken from a replica that has all it ever acknowledged (M16): holders that are missing cannot have more (M15).
    pub(crate) trusted: bool,
    /// It sums its damaged blocks as they are; the others' fetches come after its Fix.
    pub(crate) first: Option<ServerId>,
    /// Some block is damaged on all that may have it: one that is missing may have it whole.
    pub(crate) loses: bool,
    /// Blocks that no copy holds: these members cannot be made equal (they would turn damage into zeros).
    pub(crate) left_out: Vec<ServerId>,
}

/// What becomes of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// As this member has it, written or a hole.
    As(usize),
    /// V2: no copy holds: this member's, summed as it is.
    Resum(usize),
    /// Damaged on every clean copy, and no other holds it: it stays so, readers get EIO.
    Lost,
}

/// The plan, or `None` if nobody has bytes of the named version. `cut`: bytes at or beyond it are cut by everybody.
pub(crate) fn plan(members: &[Member], cut: u32) -> Option<Plan> {
    let blocks = cut.div_ceil(BLOCK_BYTES).min(BLOCKS_PER_CHUNK);
    let clean = primary(members);
    let choices: Vec<Choice> = match clean {
        Some(p) => (0..blocks).map(|b| from_clean(members, p, b)).collect(),
        None => merge(members, blocks)?,
    };
    let of = |c: &Choice, standing: Standing| matches!(c, Choice::As(m) if members[*m].standing == standing);
    let lent = |c: &Choice| of(c, Standing::SameBoot) || of(c, Standing::Dirty);
    // W5: what a dirty copy has may be older than what its writer was told.
    let source = clean.filter(|_| !choices.iter().any(lent));
    let whole = |c: &Choice| of(c, Standing::SameBoot);
    // V5: a folder put back within the same boot shows a lower grant than its peers.
    let newest = |lead: usize| members.iter().all(|m| m.last_grant <= members[lead].last_grant);
    // A clean one has all that was acknowledged but for what has rotted, for which nobody waits without end (`loses`).
    let trusted = clean.is_some() || choices.iter().all(whole) && same_boot(members).is_some_and(newest);
    let resummed = choices.iter().find_map(|c| if let Choice::Resum(m) = c { Some(*m) } else { None });
    let mut plan = Plan {
        fixes: Vec::new(),
        clean_source: source.map(|p| members[p].server),
        trusted,
        first: resummed.map(|m| members[m].server),
        loses: choices.contains(&Choice::Lost),
        left_out: Vec::new(),
    };
    for (number, member) in members.iter().enumerate() {
        if planted::is(Bug::HoldersNotEqualised) {
            plan.fixes.push((member.server, Fix::default()));
            continue;
        }
        match fix(members, number, &choices) {
            Some(fix) => plan.fixes.push((member.server, fix)),
            None => plan.left_out.push(member.server),
        }
    }
    Some(plan)
}

/// The clean replica to copy from: one that stayed up, with the highest grant (V5: an old disk image has a lower one), first in the chain
/// (ADR 1: whatever the tail has, its predecessors have).
fn primary(members: &[Member]) -> Option<usize> {
    best(members, Standing::Clean)
}

/// M16: the one to copy from if nobody is clean, chosen in the same way.
fn same_boot(members: &[Member]) -> Option<usize> {
    best(members, Standing::SameBoot)
}

fn best(members: &[Member], standing: Standing) -> Option<usize> {
    let those = members.iter().enumerate().filter(|(_, m)| m.standing == standing);
    those.max_by_key(|(number, m)| (m.stayed, m.last_grant, std::cmp::Reverse(*number))).map(|(number, _)| number)
}

/// A clean replica's blocks and holes are the truth; where its disk has damaged a block, another copy that holds: a clean one's first, then one
/// of the same boot, then any, which has at least what was synced (P1).
fn from_clean(members: &[Member], primary: usize, block: u32) -> Choice {
    if !members[primary].block(block).damaged() {
        return Choice::As(primary);
    }
    let best_first = [Standing::Clean, Standing::SameBoot, Standing::Dirty];
    let other = best_first.into_iter().find_map(|standing| holding(members, standing, block));
    other.map_or(Choice::Lost, Choice::As)
}

/// The first of this standing whose copy of a block holds.
fn holding(members: &[Member], standing: Standing, block: u32) -> Option<usize> {
    members.iter().position(|m| m.standing == standing && m.block(block).holds())
}

/// V2: all are dirty. M16: what one that was dirtied in the same boot has, hole or written, is what was acknowledged, whatever came back on
/// those that lost power; only where its block is damaged another copy is better: of the same boot first, then any that holds, which has
/// at least what was synced (P1).
fn merge(members: &[Member], blocks: u32) -> Option<Vec<Choice>> {
    let Some(lead) = same_boot(members) else { return merge_earlier(members, blocks) };
    let choose = |b: u32| {
        if !members[lead].block(b).damaged() {
            return Choice::As(lead);
        }
        let other = holding(members, Standing::SameBoot, b).or_else(|| holding(members, Standing::Dirty, b));
        other.map_or(Choice::Resum(lead), Choice::As)
    };
    Some((0..blocks).map(choose).collect())
}

/// V2: all lost power, or may have. Per block a written copy whose checksum holds wins over absent; none holds: re-summed; absent on all: a hole.
///
/// One member at most re-sums, so that nobody waits for each other. Where it has a hole and another has only damage, the hole wins: a block
/// that was ever synced is written on every holder, so this one never was.
fn merge_earlier(members: &[Member], blocks: u32) -> Option<Vec<Choice>> {
    let voters: Vec<usize> = (0..members.len()).filter(|m| members[*m].standing == Standing::Dirty).collect();
    let holding = |b: u32| voters.iter().copied().find(|m| members[*m].block(b).holds());
    let damaged = |m: usize| (0..blocks).filter(|b| holding(*b).is_none() && members[m].block(*b).damaged()).count();
    let resummer = *voters.iter().max_by_key(|m| (damaged(**m), std::cmp::Reverse(**m)))?;
    let choose = |b: u32| match holding(b) {
        Some(m) => Choice::As(m),
        None if members[resummer].block(b).damaged() => Choice::Resum(resummer),
        None => Choice::As(resummer),
    };
    Some((0..blocks).map(choose).collect())
}

/// What a member has to do; `None` if it cannot be made equal.
fn fix(members: &[Member], number: usize, choices: &[Choice]) -> Option<Fix> {
    let member = &members[number];
    let mut fix = Fix::default();
    for (block, choice) in (0u32..).zip(choices) {
        let own = member.block(block);
        let source = match *choice {
            Choice::As(m) | Choice::Resum(m) if m == number => {
                fix.resum |= matches!(choice, Choice::Resum(_));
                continue;
            }
            Choice::As(m) if own.same(members[m].block(block)) => continue,
            Choice::As(m) | Choice::Resum(m) => m,
            Choice::Lost if own.damaged() => continue,
            Choice::Lost => return None,
        };
        add(&mut fix.fetches, members[source].server, block);
    }
    Some(fix)
}

fn add(fetches: &mut Vec<(ServerId, Vec<Range>)>, source: ServerId, block: u32) {
    let at = fetches.iter().position(|(s, _)| *s == source).unwrap_or_else(|| {
        fetches.push((source, Vec::new()));
        fetches.len() - 1
    });
    let ranges = &mut fetches[at].1;
    match ranges.last_mut() {
        Some(last) if last.first + last.count == block => last.count += 1,
        _ => ranges.push(Range { first: block, count: 1 }),
    }
}

/// V2, V5: what an answer to Prepare is worth for a chunk whose last Ready has `named`.
pub(crate) fn standing(prepared: &Prepared, named: ChunkVersion) -> Standing {
    match (prepared.found, prepared.clean) {
        (false, true) => Standing::Missing,
        (false, false) => Standing::Dirty,
        // M17: an empty one in the place of one that vanished, which an earlier round has made.
        (true, false) if prepared.had_version == 0 => Standing::Dirty,
        (true, _) if prepared.had_version < named.0 => Standing::Missing,
        (true, true) => Standing::Clean,
        (true, false) if prepared.same_boot => Standing::SameBoot,
        (true, false) => Standing::Dirty,
    }
}

/// The block table of an answer; `None` if its length is wrong.
pub(crate) fn blocks(prepared: &Prepared) -> Option<Vec<Block>> {
    let whole = prepared.blocks.is_empty() || prepared.blocks.len() == BLOCKS_PER_CHUNK as usize * BLOCK_STATE_BYTES;
    whole.then(|| prepared.blocks.chunks_exact(BLOCK_STATE_BYTES).map(block).collect())
}

fn block(state: &[u8]) -> Block {
    let crc = u32::from_le_bytes(state[1..5].try_into().expect("a block's state has five bytes"));
    Block { written: state[0] & WRITTEN != 0, matches: state[0] & MATCHES != 0, crc }
}

/// Whether two members have the same blocks up to the cut, all of them whole.
pub(crate) fn equal(a: &Member, b: &Member, cut: u32) -> bool {
    (0..cut.div_ceil(BLOCK_BYTES).min(BLOCKS_PER_CHUNK)).all(|i| a.block(i).same(b.block(i)))
}
