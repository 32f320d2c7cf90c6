//! All readers at once: after every step, everything that some reader could see, checked against what was seen and promised before.
//!
//! For each block the oracle keeps the cells that are over (`past`): superseded in some reader's eyes, or unable to be newer than what an fsync
//! has acknowledged. Reading one of them breaks P2, or P1 if the cell had been sealed by an fsync or a Ready. The exception of P2 – the writer is
//! gone and every holder lost power – takes `past` back to `sealed`.

use crate::rules::Rule;
use crate::scenario::Chunk;
use crate::state::*;

/// What block `b` can read as, one bit per cell.
pub fn readable(m: &Chunk, s: &State, b: usize) -> u16 {
    if s.row.phase != Phase::Live || b as u8 >= s.row.len {
        return 0;
    }
    let cell = |server: usize| {
        let r = s.servers[server].replica.as_ref()?;
        let up = s.servers[server].up && s.servers[server].lease; // F2
        let exact = r.complete && r.version == s.ghost.located[server]; // R1
        let acked = !has(r.unacked, b) || !m.keeps(Rule::HeadRefuses); // R1
        let sure = r.doubt == Doubt::None || !m.keeps(Rule::DoubtServesNothing);
        let told = !r.copy || !m.keeps(Rule::CopyServesNothing);
        (up && exact && acked && sure && told).then_some(r.cells[b])
    };
    (0..SERVERS).filter_map(cell).fold(0, |all, c| all | 1 << c)
}

pub fn look(m: &Chunk, s: &mut State) {
    tidy(s);
    // Who asks the leader now gets these locations (W5: not while readers are held).
    if s.row.phase == Phase::Live && s.row.intent.is_none() && !s.row.hold.is_some_and(|h| h.reads) {
        for i in ids(s.row.holders).filter(|i| s.servers[*i].lease) {
            s.ghost.located[i] = s.row.version;
        }
    }
    for b in 0..m.scenario.blocks {
        let seen = readable(m, s, b);
        if seen.count_ones() > 1 {
            s.ghost.broken = Some(Violation::Differ);
        } else if seen != 0 {
            see(&mut s.ghost, b, seen.trailing_zeros() as Cell);
        }
    }
}

fn see(g: &mut Ghost, b: usize, cell: Cell) {
    if cell == TORN && !has(g.torn_ok, b) {
        g.broken = Some(Violation::Mixed);
    } else if g.sealed[b] >> cell & 1 == 1 {
        g.broken = Some(Violation::Lost);
    } else if g.past[b] >> cell & 1 == 1 {
        g.broken = Some(Violation::Backwards);
    }
    if cell != TORN {
        g.torn_ok &= !(1 << b);
    }
    if cell != g.latest[b] {
        g.past[b] |= 1 << g.latest[b] & !(1 << UNKNOWN);
        g.latest[b] = cell;
    }
}

/// Forgets what cannot matter any more, so that equal situations are equal states.
fn tidy(s: &mut State) {
    let dead = |g: &Grant| s.writers[g.writer].grant.is_none_or(|h| h.id != g.id);
    let gone = |f: &Frag| dead(&f.grant) && (f.hop == SERVERS || s.servers[f.hop].inc != f.grant.incs[f.hop]);
    if s.frags.iter().any(gone) {
        let keep: Vec<bool> = s.frags.iter().map(|f| !gone(f)).collect();
        let mut n = keep.iter();
        s.frags.retain(|_| *n.next().expect("one per fragment"));
    }
}

/// Everything issued, except for what a living client or the network still holds: that may yet be written.
fn settled(s: &State, b: usize) -> u16 {
    let issued = (1u16 << s.ghost.next) - 1;
    let buffered = s.writers.iter().filter(|w| w.session).fold(0, |all, w| all | 1u16 << w.buf[b]);
    let under_way = s.frags.iter().filter(|f| f.block == b).fold(0, |all, f| all | 1u16 << f.cell);
    issued & !((buffered | under_way) & !1)
}

/// An fsync of writer `w` is acknowledged (P1).
pub fn acknowledge(s: &mut State, w: usize) {
    let buf = std::mem::replace(&mut s.writers[w].buf, [HOLE; BLOCKS]);
    s.writers[w].fsync = None;
    for (b, x) in buf.into_iter().enumerate() {
        if x == HOLE || s.ghost.past[b] >> x & 1 == 1 {
            continue;
        }
        s.ghost.past[b] |= settled(s, b) & !(1 << x) | 1;
        s.ghost.sealed[b] |= s.ghost.past[b];
        s.ghost.latest[b] = x;
    }
}

/// Ready commits: what the members hold is synced. If every holder lost un-synced bytes, P2's exception applies as soon as the writer is gone.
pub fn ready(s: &mut State, members: u8) {
    let all_lost = s.row.holders & !s.ghost.powerless == 0;
    s.ghost.excuse |= all_lost;
    let owner_lives = s.row.owner.is_some_and(|w| s.writers[w].session);
    recovered(s, members, owner_lives);
    if s.ghost.excuse && !owner_lives {
        excuse(&mut s.ghost);
    } else if !s.ghost.excuse {
        s.ghost.sealed = s.ghost.past;
    }
    s.ghost.powerless &= !members;
    s.ghost.emptied &= !members;
}

/// What recovery has settled on. While the writer is to resend it may be older than what has been seen, but never than an fsync.
fn recovered(s: &mut State, members: u8, owner_lives: bool) {
    for b in 0..s.row.len as usize {
        for cell in ids(members).filter_map(|i| s.servers[i].replica.as_ref()).map(|r| r.cells[b]) {
            if s.ghost.sealed[b] >> cell & 1 == 1 {
                s.ghost.broken = Some(Violation::Lost);
            } else if s.ghost.past[b] >> cell & 1 == 1 && !s.ghost.excuse && !owner_lives {
                s.ghost.broken = Some(Violation::Backwards);
            }
        }
    }
}

pub fn writer_gone(s: &mut State, w: usize) {
    if s.ghost.excuse && s.row.owner == Some(w) {
        excuse(&mut s.ghost);
    }
}

fn excuse(g: &mut Ghost) {
    g.excuse = false;
    g.past = g.sealed;
    g.latest = [UNKNOWN; BLOCKS];
    g.torn_ok = (1 << BLOCKS) - 1;
}

/// The length has become shorter: nothing issued so far may be seen again beyond it.
pub fn truncated(s: &mut State) {
    let issued = (1u16 << s.ghost.next) - 1;
    for b in s.row.len as usize..BLOCKS {
        s.ghost.past[b] = issued & !1;
        s.ghost.sealed[b] = issued & !1;
        s.ghost.latest[b] = HOLE;
    }
}

/// The length grows by one block without a write: it reads as a hole, or as what the live grant's writer is putting there (W9).
pub fn extended(s: &mut State) {
    let b = s.row.len as usize;
    if s.row.grant.is_some() {
        return;
    }
    s.ghost.past[b] |= settled(s, b) & !1;
    s.ghost.sealed[b] = s.ghost.past[b];
}
