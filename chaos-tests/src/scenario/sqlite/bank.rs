//! A bank in SQL: accounts, transfers between them, and what must be true of the database at every moment.

use anyhow::{Context, Result, bail};

/// Accounts, and what is on each at first.
const ACCOUNTS: u64 = 64;
const OPENING_BALANCE: u64 = 1000;
/// Bytes that each transfer carries along, so that a transaction touches several pages.
const NOTE_BYTES: u64 = 3000;

/// What all accounts hold together, always.
pub(super) const TOTAL: u64 = ACCOUNTS * OPENING_BALANCE;

/// A way to use the database.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mode {
    pub(super) name: &'static str,
    journal: &'static str,
    /// Bytes of the database that are read through a mapping instead of pread(2).
    mapped: u64,
}

/// The journals that SQLite has for files, and both ways of reading.
pub(super) const MODES: [Mode; 6] = [
    Mode { name: "delete", journal: "delete", mapped: 0 },
    Mode { name: "truncate", journal: "truncate", mapped: 0 },
    Mode { name: "persist", journal: "persist", mapped: 0 },
    Mode { name: "delete-mapped", journal: "delete", mapped: 1 << 30 },
    Mode { name: "wal", journal: "wal", mapped: 0 },
    Mode { name: "wal-mapped", journal: "wal", mapped: 1 << 30 },
];

/// Lines that [`Mode::setup`] is answered with.
pub(super) const SETUP_ANSWERS: usize = 3;

impl Mode {
    /// The first lines of each process, which are answered with [`SETUP_ANSWERS`] lines, the journal's name in front.
    pub(super) fn setup(&self) -> String {
        format!(".timeout 60000\n{}", self.pragmas())
    }

    pub(super) fn pragmas(&self) -> String {
        let (journal, mapped) = (self.journal, self.mapped);
        format!(
            "pragma journal_mode={journal};\npragma wal_autocheckpoint=40;\npragma mmap_size={mapped};\n\
             pragma synchronous=full;\n"
        )
    }

    /// Whether a process has got the journal that it asked for; otherwise SQLite goes on with another one.
    pub(super) fn is_taken(&self, answers: &[String]) -> bool {
        answers.first().is_some_and(|answer| answer == self.journal)
    }
}

/// Makes the tables.
pub(super) fn found() -> String {
    format!(
        "create table accounts (id integer primary key, balance integer not null);\n\
         create table transfers (number integer primary key, source integer, target integer, amount integer, note blob);\n\
         with recursive ids(id) as (select 0 union all select id + 1 from ids where id + 1 < {ACCOUNTS})\n\
         insert into accounts select id, {OPENING_BALANCE} from ids;\n"
    )
}

/// One transaction, which is answered with `committed NUMBER`.
pub(super) fn transfer(number: u64) -> String {
    let (source, target) = (number.wrapping_mul(7) % ACCOUNTS, number.wrapping_mul(13).wrapping_add(5) % ACCOUNTS);
    let amount = number % 19 + 1;
    format!(
        "begin immediate;\n\
         update accounts set balance = balance - {amount} where id = {source};\n\
         update accounts set balance = balance + {amount} where id = {target};\n\
         insert into transfers values ({number}, {source}, {target}, {amount}, randomblob({NOTE_BYTES}));\n\
         commit;\nselect 'committed {number}';\n"
    )
}

/// The number of a transaction that was acknowledged.
pub(super) fn committed(answer: &str) -> Option<u64> {
    answer.strip_prefix("committed ")?.parse().ok()
}

/// What a reader asks again and again; the answer is [`TOTAL`].
pub(super) fn sum() -> String {
    "select sum(balance) from accounts;\n".to_owned()
}

/// What is asked of a database at rest.
pub(super) fn audit() -> String {
    format!(
        "pragma integrity_check;\n\
         select count(*), coalesce(max(number), 0), coalesce(min(length(note)), {NOTE_BYTES}) from transfers;\n\
         select sum(balance) from accounts;\n\
         select count(*) from accounts a where balance <> {OPENING_BALANCE}\n\
         + (select coalesce(sum(amount), 0) from transfers where target = a.id)\n\
         - (select coalesce(sum(amount), 0) from transfers where source = a.id);\n"
    )
}

/// What is wrong with an audit's answers, given the last transaction that was acknowledged and the last that was sent; else the last that is
/// there.
pub(super) fn judge(answers: &str, acknowledged: u64, sent: u64) -> Result<std::result::Result<u64, String>> {
    let lines: Vec<&str> = answers.lines().collect();
    if lines.first() != Some(&"ok") {
        return Ok(Err(format!("integrity_check says {}", lines.join("; "))));
    }
    let [_, transfers, total, wrong_accounts] = lines[..] else { bail!("an audit has four lines, not {lines:?}") };
    let figures = transfers.split('|').map(str::parse).collect::<std::result::Result<Vec<u64>, _>>()?;
    let [count, last, shortest_note] = figures[..] else { bail!("three figures are expected, not {transfers:?}") };
    let total: u64 = total.parse().context("the sum of all accounts")?;
    Ok(if last < acknowledged {
        Err(format!("transaction {acknowledged} was acknowledged, and {last} is the last that is there"))
    } else if last > sent {
        Err(format!("transaction {last} is there, and {sent} was the last that was sent"))
    } else if count != last || shortest_note != NOTE_BYTES {
        Err(format!("{count} transfers up to number {last}, the shortest note has {shortest_note} bytes"))
    } else if total != TOTAL || wrong_accounts != "0" {
        Err(format!("all accounts hold {total} instead of {TOTAL}, {wrong_accounts} do not match their transfers"))
    } else {
        Ok(last)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_finds_what_is_wrong() {
        let judge = |answers: &str| judge(answers, 5, 8).expect("four lines");
        assert_eq!(judge("ok\n6|6|3000\n64000\n0\n"), Ok(6));
        for (bad, word) in [
            ("*** in database main ***\nTree 3 page 4: btreeInitPage() returns error code 11\n", "integrity_check"),
            ("ok\n4|4|3000\n64000\n0\n", "5 was acknowledged"),
            ("ok\n9|9|3000\n64000\n0\n", "was the last that was sent"),
            ("ok\n5|6|3000\n64000\n0\n", "5 transfers up to number 6"),
            ("ok\n6|6|2999\n64000\n0\n", "2999 bytes"),
            ("ok\n6|6|3000\n63999\n0\n", "63999 instead"),
            ("ok\n6|6|3000\n64000\n2\n", "2 do not match"),
        ] {
            assert!(judge(bad).is_err_and(|said| said.contains(word)), "{bad}");
        }
        assert!(super::judge("ok\n", 1, 1).is_err());
    }
}
