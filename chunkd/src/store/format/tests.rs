//! The bytes of each format are pinned, and decoders take anything.

use caribou_proto::ids::{ChunkId, ChunkVersion, GrantId, ServerId};
use proptest::prelude::*;

use super::super::disk::Boot;
use super::super::request::ClusterIdentity;
use super::super::slots::Stamp;
use super::header::{Header, Owner, StoredHeader};
use super::identity::Identity;
use super::record::Kind;
use super::table::{ENTRIES, TableSector};
use super::*;

const DISK: [u8; 16] = [0xD1; 16];
const CLUSTER: ClusterIdentity = ClusterIdentity { uuid: [0xC1; 16], generation: 0x0102, nonce: 0x1122_3344_5566_7788 };
const CHUNK: ChunkId = ChunkId(0x0102_0000_0000_0a0b);

/// Runs of equal bytes, as `offset: bytes`, zeros left out: short enough to be read.
fn dump(bytes: &[u8]) -> String {
    let mut out = Vec::new();
    for (row, part) in bytes.chunks(8).enumerate() {
        if part.iter().any(|byte| *byte != 0) {
            let hex: String = part.iter().map(|byte| format!("{byte:02x}")).collect();
            out.push(format!("{:03}:{hex}", row * 8));
        }
    }
    out.join(" ")
}

fn header() -> StoredHeader {
    let header = Header {
        version: ChunkVersion(5),
        completed: ChunkVersion(4),
        complete: false,
        last_grant: GrantId(6),
        fenced_grant: GrantId(7),
    };
    StoredHeader {
        owner: Owner { cluster: CLUSTER, disk_uuid: DISK, chunk: CHUNK },
        header,
        stamp: Stamp { sequence: 9, synced: 8 },
    }
}

fn table() -> TableSector {
    let mut crcs = [0; ENTRIES];
    crcs[0] = 0xaabb_ccdd;
    crcs[63] = 0x0102_0304;
    TableSector { chunk: CHUNK, index: 15, stamp: Stamp { sequence: 3, synced: 0 }, written: 1 | 1 << 63, crcs }
}

fn identity() -> Identity {
    Identity { server_uuid: [0x51; 16], disk_uuid: DISK, registered: Some((CLUSTER, ServerId(3))) }
}

// Released bytes: these never change; a new format gets a new number and its own test.
#[test]
fn golden() {
    assert_eq!(
        dump(&header::encode(&header())),
        "000:434152494243484b 008:0100010002010000 016:c1c1c1c1c1c1c1c1 024:c1c1c1c1c1c1c1c1 032:8877665544332211 \
         040:0b0a000000000201 048:0500000000000000 056:0400000000000000 064:0600000000000000 072:0700000000000000 \
         080:0900000000000000 088:0800000000000000 096:d1d1d1d1d1d1d1d1 104:d1d1d1d1d1d1d1d1 504:000000006ced5d38"
    );
    assert_eq!(
        dump(&table::encode(&table())),
        "000:0b0a000000000201 008:0300000000000000 024:0f00000043425431 032:0100000000000080 048:ddccbbaa00000000 \
         296:0000000004030201 504:0000000025e0e7c8"
    );
    assert_eq!(
        dump(&identity::encode(&identity())),
        "000:434152494244534b 008:0100010002010000 016:c1c1c1c1c1c1c1c1 024:c1c1c1c1c1c1c1c1 032:8877665544332211 \
         040:5151515151515151 048:5151515151515151 056:d1d1d1d1d1d1d1d1 064:d1d1d1d1d1d1d1d1 072:0300000000000000 \
         504:00000000a2f95bc8"
    );
    let fence = record::Record { first: 2, second: 99 };
    assert_eq!(
        dump(&record::encode(Kind::Fence, DISK, fence)),
        "000:4341524942524543 008:0100020000000000 016:0200000000000000 024:6300000000000000 032:d1d1d1d1d1d1d1d1 \
         040:d1d1d1d1d1d1d1d1 504:00000000647d0044"
    );
    let open = journal::Record::Open {
        chunk: CHUNK,
        version: ChunkVersion(5),
        grant: GrantId(6),
        doubt: journal::Doubt::ThisBoot,
    };
    assert_eq!(
        dump(&journal::encode(4, DISK, &open)),
        "000:43424a3102000000 008:0400000000000000 016:0b0a000000000201 024:0500000000000000 032:0600000000000000 \
         040:d1d1d1d1d1d1d1d1 048:d1d1d1d1d1d1d1d1 056:0000000071bc146d"
    );
    let start = journal::Record::Start { format: journal::FORMAT, boot: None, folders: journal::FolderSet(0) };
    assert_eq!(
        dump(&journal::encode(0, DISK, &start)),
        "000:43424a3101000000 024:0100000000000000 040:d1d1d1d1d1d1d1d1 048:d1d1d1d1d1d1d1d1 \
         056:000000004e9d392d"
    );
    let start = journal::Record::Start {
        format: journal::FORMAT,
        boot: Some(Boot { kernel: 0x1122, mount: 3 }),
        folders: journal::FolderSet(0),
    };
    assert_eq!(
        dump(&journal::encode(0, DISK, &start)),
        "000:43424a3101000000 016:2211000000000000 024:0100000000000000 032:0300000000000000 \
         040:d1d1d1d1d1d1d1d1 048:d1d1d1d1d1d1d1d1 056:00000000c986d9a1"
    );
    let open = journal::Record::Open {
        chunk: CHUNK,
        version: ChunkVersion(5),
        grant: GrantId(6),
        doubt: journal::Doubt::EarlierBoot,
    };
    assert_eq!(
        dump(&journal::encode(4, DISK, &open)),
        "000:43424a3102010000 008:0400000000000000 016:0b0a000000000201 024:0500000000000000 \
         032:0600000000000000 040:d1d1d1d1d1d1d1d1 048:d1d1d1d1d1d1d1d1 056:00000000ad3fe7b7"
    );
}

#[test]
fn everything_decodes_to_itself() {
    assert_eq!(header::decode(&header::encode(&header())), Decoded::Valid(header()));
    assert_eq!(table::decode(&table::encode(&table()), CHUNK, 15), Decoded::Valid(table()));
    assert_eq!(identity::decode(&identity::encode(&identity())), Decoded::Valid(identity()));
    let unregistered = Identity { registered: None, ..identity() };
    assert_eq!(identity::decode(&identity::encode(&unregistered)), Decoded::Valid(unregistered));
    for kind in [Kind::Incarnation, Kind::Fence, Kind::Clean] {
        let value = record::Record { first: 1, second: 2 };
        assert_eq!(record::decode(&record::encode(kind, DISK, value), kind, DISK), Decoded::Valid(value));
    }
    for value in [
        journal::Record::Start { format: journal::FORMAT, boot: None, folders: journal::FolderSet(0) },
        journal::Record::Start {
            format: journal::FORMAT,
            boot: Some(Boot { kernel: 0, mount: 9 }),
            folders: journal::FolderSet(5),
        },
        journal::Record::Open {
            chunk: CHUNK,
            version: ChunkVersion(1),
            grant: GrantId(2),
            doubt: journal::Doubt::ThisBoot,
        },
        journal::Record::Open {
            chunk: CHUNK,
            version: ChunkVersion(1),
            grant: GrantId(2),
            doubt: journal::Doubt::EarlierBoot,
        },
        journal::Record::Open {
            chunk: CHUNK,
            version: ChunkVersion(1),
            grant: GrantId(2),
            doubt: journal::Doubt::Vanished,
        },
        journal::Record::Close { chunk: CHUNK },
        journal::Record::Watermark { chunk: CHUNK, grant: GrantId(2), vanishing: None },
        journal::Record::Watermark { chunk: CHUNK, grant: GrantId(2), vanishing: Some(ChunkId(7)) },
    ] {
        assert_eq!(journal::decode(&journal::encode(7, DISK, &value), 7, DISK), Some(value));
    }
}

#[test]
fn what_is_in_the_wrong_place_is_damage() {
    let sector = table::encode(&table());
    assert_eq!(table::decode(&sector, CHUNK, 14), Decoded::Damaged);
    assert_eq!(table::decode(&sector, ChunkId(1), 15), Decoded::Damaged);
    let value = record::Record { first: 1, second: 2 };
    assert_eq!(record::decode(&record::encode(Kind::Fence, DISK, value), Kind::Clean, DISK), Decoded::Damaged);
    assert_eq!(record::decode(&record::encode(Kind::Fence, [1; 16], value), Kind::Fence, DISK), Decoded::Damaged);
    assert_eq!(journal::decode(&journal::encode(7, DISK, &journal::Record::Close { chunk: CHUNK }), 8, DISK), None);
}

#[test]
fn a_later_format_is_named() {
    let mut sector = header::encode(&header());
    sector[8] = 2;
    seal(&mut sector);
    assert_eq!(header::decode(&sector), Decoded::TooNew(2));
    let mut sector = identity::encode(&identity());
    sector[8] = 3;
    seal(&mut sector);
    assert_eq!(identity::decode(&sector), Decoded::TooNew(3));
}

fn flip(mut sector: [u8; SECTOR], bit: usize) -> [u8; SECTOR] {
    sector[bit / 8] ^= 1 << (bit % 8);
    sector
}

proptest! {
    #[test]
    fn any_flipped_bit_is_seen(bit in 0usize..SECTOR * 8) {
        prop_assert_eq!(header::decode(&flip(header::encode(&header()), bit)), Decoded::Damaged);
        prop_assert_eq!(table::decode(&flip(table::encode(&table()), bit), CHUNK, 15), Decoded::Damaged);
        prop_assert_eq!(identity::decode(&flip(identity::encode(&identity()), bit)), Decoded::Damaged);
    }

    // With a right checksum, so that the fields are reached.
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), SECTOR), magic in 0usize..4, sealed in any::<bool>()) {
        let mut sector = sector_of(&bytes);
        let known: [(usize, &[u8]); 4] = [(0, b"CARIBCHK"), (28, b"CBT1"), (0, b"CARIBDSK"), (0, b"CARIBREC")];
        put(&mut sector, known[magic].0, known[magic].1);
        if sealed {
            seal(&mut sector);
        }
        let _ = header::decode(&sector);
        let _ = table::decode(&sector, CHUNK, 3);
        let _ = identity::decode(&sector);
        let _ = record::decode(&sector, Kind::Fence, DISK);
        let _ = journal::decode(&sector[..journal::RECORD], 1, DISK);
        let _ = journal::decode(&bytes[..7], 1, DISK);
    }
}
