//! The rolling state hash: one number that two replicas share exactly if they applied the same writes in the same order.
//!
//! XXH64, each row seeded with the hash before it. It is fed with every kept write of every command and stored with the entry, so
//! how entries are grouped into batches shows nowhere. It finds divergence; it is no defence against an attacker.

use super::tables::Table;

const P1: u64 = 0x9E37_79B1_85EB_CA87;
const P2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const P3: u64 = 0x1656_67B1_9E37_79F9;
const P4: u64 = 0x85EB_CA77_C2B2_AE63;
const P5: u64 = 0x27D4_EB2F_1656_67C5;

/// The hash so far.
#[derive(Debug, Default)]
pub(crate) struct Digest {
    state: u64,
    row: Vec<u8>,
}

impl Digest {
    /// Goes on from a stored hash.
    pub(crate) fn resume(state: u64) -> Self {
        Self { state, row: Vec::with_capacity(256) }
    }

    /// Takes one write in: a row put, or deleted (`None`).
    pub(crate) fn feed(&mut self, table: Table, key: &[u8], value: Option<&[u8]>) {
        self.row.clear();
        self.row.push(table as u8);
        self.row.push(u8::from(value.is_some()));
        self.row.extend_from_slice(&(key.len() as u32).to_be_bytes());
        self.row.extend_from_slice(key);
        self.row.extend_from_slice(value.unwrap_or_default());
        self.state = xxh64(&self.row, self.state);
    }

    pub(crate) fn state(&self) -> u64 {
        self.state
    }
}

fn round(lane: u64, input: u64) -> u64 {
    lane.wrapping_add(input.wrapping_mul(P2)).rotate_left(31).wrapping_mul(P1)
}

fn merge(hash: u64, lane: u64) -> u64 {
    (hash ^ round(0, lane)).wrapping_mul(P1).wrapping_add(P4)
}

fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))
}

/// XXH64 as its author specifies it.
fn xxh64(bytes: &[u8], seed: u64) -> u64 {
    let mut stripes = bytes.chunks_exact(32);
    let mut hash = if bytes.len() >= 32 {
        let mut lanes = [seed.wrapping_add(P1).wrapping_add(P2), seed.wrapping_add(P2), seed, seed.wrapping_sub(P1)];
        for stripe in &mut stripes {
            for (i, lane) in lanes.iter_mut().enumerate() {
                *lane = round(*lane, word(&stripe[i * 8..]));
            }
        }
        let [a, b, c, d] = lanes;
        let sum = a.rotate_left(1).wrapping_add(b.rotate_left(7)).wrapping_add(c.rotate_left(12));
        lanes.into_iter().fold(sum.wrapping_add(d.rotate_left(18)), merge)
    } else {
        seed.wrapping_add(P5)
    };
    hash = hash.wrapping_add(bytes.len() as u64);
    let mut words = stripes.remainder().chunks_exact(8);
    for w in &mut words {
        hash = (hash ^ round(0, word(w))).rotate_left(27).wrapping_mul(P1).wrapping_add(P4);
    }
    let mut rest = words.remainder();
    if rest.len() >= 4 {
        let half = u64::from(u32::from_le_bytes(rest[..4].try_into().expect("four bytes")));
        hash = (hash ^ half.wrapping_mul(P1)).rotate_left(23).wrapping_mul(P2).wrapping_add(P3);
        rest = &rest[4..];
    }
    for byte in rest {
        hash = (hash ^ u64::from(*byte).wrapping_mul(P5)).rotate_left(11).wrapping_mul(P1);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(P2);
    hash = (hash ^ (hash >> 29)).wrapping_mul(P3);
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of the specification's sanity check: bytes from its generator, seeds 0 and PRIME32.
    #[test]
    fn specified_vectors() {
        let mut generator = 2_654_435_761u64;
        let bytes: Vec<u8> = (0..222)
            .map(|_| {
                let byte = (generator >> 56) as u8;
                generator = generator.wrapping_mul(11_400_714_785_074_694_797);
                byte
            })
            .collect();
        let seed = 2_654_435_761;
        let vectors = [
            (0, 0, 0xEF46_DB37_51D8_E999),
            (0, seed, 0xAC75_FDA2_929B_17EF),
            (1, 0, 0xE934_A84A_DB05_2768),
            (1, seed, 0x5014_6076_43A9_B4C3),
            (4, 0, 0x9136_A0DC_A574_57EE),
            (14, 0, 0x8282_DCC4_994E_35C8),
            (14, seed, 0xC3BD_6BF6_3DEB_6DF0),
            (222, 0, 0xB641_AE8C_B691_C174),
            (222, seed, 0x20CB_8AB7_AE10_C14A),
        ];
        for (length, seed, expected) in vectors {
            assert_eq!(xxh64(&bytes[..length], seed), expected, "{length} bytes, seed {seed}");
        }
    }

    #[test]
    fn known_text() {
        assert_eq!(xxh64(b"abc", 0), 0x44BC_2CF5_AD77_0999);
        assert_eq!(xxh64(b"Nobody inspects the spammish repetition", 0), 0xFBCE_A83C_8A37_8BF1);
    }

    type Write<'a> = (Table, &'a [u8], Option<&'a [u8]>);

    #[test]
    fn deletion_and_order_show() {
        let feed = |rows: &[Write<'_>]| {
            let mut digest = Digest::resume(0);
            rows.iter().for_each(|(t, k, v)| digest.feed(*t, k, *v));
            digest.state()
        };
        let (a, b) = ((Table::Meta, &b"a"[..], Some(&b""[..])), (Table::Meta, &b"b"[..], Some(&b""[..])));
        assert_ne!(feed(&[a, b]), feed(&[b, a]));
        assert_ne!(feed(&[a]), feed(&[(Table::Meta, b"a", None)]));
        assert_ne!(feed(&[(Table::Meta, b"ab", Some(b"c"))]), feed(&[(Table::Meta, b"a", Some(b"bc"))]));
    }
}
