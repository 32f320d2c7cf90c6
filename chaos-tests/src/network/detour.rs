//! A way of its own, slow, for a share of the packets that a host sends: what is sent behind one of them overtakes it. A rule chooses them and
//! names their class to the queue (`tc`, a tree of token buckets).

use anyhow::{Context as _, Result};

use super::{Host, OUTPUT, Rule, run};

/// The rate of the slow way: a packet takes half a millisecond, what the kernel cuts into packets afterwards (64 KiB) up to 26 ms.
const SLOW: [&str; 2] = ["rate", "20mbit"];
/// What all others take is no limit.
const WIDE: [&str; 6] = ["rate", "10gbit", "burst", "1mb", "cburst", "1mb"];
const CLASS: &str = "1:2";

/// A detour. It has to be lifted.
#[derive(Debug)]
pub struct Detour {
    host: Host,
    rule: Rule,
}

impl Detour {
    /// For so many of a hundred packets.
    pub fn begin(host: &Host, percent: u32) -> Result<Self> {
        let root = ["qdisc", "replace", "dev", "eth0", "root", "handle", "1:", "htb", "default", "1"];
        run(host.command("tc", &root)).context("packets that overtake others need a kernel with sch_htb")?;
        for (class, rate) in [("1:1", &WIDE[..]), (CLASS, &SLOW[..])] {
            let class = ["class", "add", "dev", "eth0", "parent", "1:", "classid", class, "htb"];
            run(host.command("tc", &[&class[..], rate, &["quantum", "60000"]].concat()))?;
        }
        let way = ["meta", "priority", "set", CLASS];
        let rule = host.do_to_some(OUTPUT, &["oifname", "eth0"], percent, &way)?;
        Ok(Self { host: host.clone(), rule })
    }

    /// All go the same way again. Returns how many packets had to wait while others went past.
    pub fn lift(self) -> Result<u64> {
        self.rule.lift()?;
        let waited = self.host.waited(&["class", "show", "dev", "eth0", "classid", CLASS])?;
        run(self.host.command("tc", &["qdisc", "del", "dev", "eth0", "root"]))?;
        Ok(waited)
    }
}
