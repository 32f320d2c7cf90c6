//! Hosts for a cluster under test: each a network namespace with an address of its own, all on one bridge. Lines between them can be cut,
//! one way too, made lossy and narrow, carry packets twice or in another order (`detour`), or led through a proxy (`proxy`). The harness itself
//! is one host more, at the bridge. Needs root, iproute2 and nftables.
//!
//! Everything is named after this process, so that the next run can remove what a crashed one has left.

pub mod detour;
mod namespace;
pub mod proxy;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::program;

/// Networks of /24 are taken from the range for benchmarks (RFC 2544): no machine has an address in it.
const RANGE: &str = "198.18";
/// Prefix of namespaces, bridges and lines, before the process id.
const PREFIX: &str = "cb";
const PORT: u16 = 9430;

/// Networks that this process has made.
static MADE: AtomicU32 = AtomicU32::new(0);
/// Rules that this process has made: each is found again by its number.
static RULES: AtomicU32 = AtomicU32::new(0);

/// A bridge with hosts. Removed when it is dropped.
#[derive(Debug)]
pub struct Network {
    name: String,
    subnet: u32,
    hosts: u32,
}

/// One host: a namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host {
    name: String,
    ip: String,
}

/// A rule at a host for what arrives there or leaves it, which counts.
#[derive(Debug)]
pub struct Rule {
    host: Host,
    chain: Chain,
    comment: String,
}

/// What makes hosts and breaks their network.
const PROGRAMS: &[(&str, &str)] =
    &[("ip", "iproute2"), ("tc", "iproute2"), ("nsenter", "util-linux"), ("nft", "nftables")];
/// Family, table and name.
type Chain = [&'static str; 3];
/// Packets that go on to be received.
const INPUT: Chain = ["inet", "chaos", "input"];
/// Packets that its programs send.
const OUTPUT: Chain = ["inet", "chaos", "output"];
/// Packets that come in, before it is decided where they go.
const ENTRY: Chain = ["inet", "chaos", "entry"];
/// The first two once more: the family of both protocols knows no copies of packets.
const INPUT_TWICE: Chain = ["ip", "twice", "input"];
const OUTPUT_TWICE: Chain = ["ip", "twice", "output"];

impl Network {
    pub fn new() -> Result<Self> {
        program::require(PROGRAMS).context("hosts are network namespaces; `--plain` does without")?;
        clean_leftovers();
        let used = output(Command::new("ip").args(["-o", "-4", "addr"]))?;
        let subnet = (0..256).find(|n| !used.contains(&format!(" {RANGE}.{n}.")));
        let subnet = subnet.with_context(|| format!("no free network in {RANGE}.0.0/16"))?;
        let name = format!("{PREFIX}{}x{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let network = Self { name, subnet, hosts: 0 };
        run(ip(&["link", "add", &network.name, "type", "bridge"]))?;
        run(ip(&["addr", "add", &format!("{}/24", network.harness()), "dev", &network.name]))?;
        run(ip(&["link", "set", &network.name, "up"]))?;
        Ok(network)
    }

    /// The harness's own address.
    pub fn harness(&self) -> String {
        format!("{RANGE}.{}.1", self.subnet)
    }

    /// One host more.
    pub fn add(&mut self) -> Result<Host> {
        self.hosts += 1;
        let (number, bridge) = (self.hosts, &self.name);
        let name = format!("{bridge}-{number}");
        let host = Host { ip: format!("{RANGE}.{}.{}", self.subnet, number + 1), name: name.clone() };
        run(ip(&["netns", "add", &name]))?;
        run(ip(&["link", "add", &name, "type", "veth", "peer", "name", "eth0", "netns", &name]))?;
        run(ip(&["link", "set", &name, "master", bridge, "up"]))?;
        run(ip(&["-n", &name, "addr", "add", &format!("{}/24", host.ip), "dev", "eth0"]))?;
        run(ip(&["-n", &name, "link", "set", "eth0", "up"]))?;
        run(ip(&["-n", &name, "link", "set", "lo", "up"]))?;
        run(host.command("nft", &["add", "table", "inet", "chaos"]))?;
        host.add_chain(INPUT, "{ type filter hook input priority 0; }")?;
        host.add_chain(OUTPUT, "{ type filter hook output priority 0; }")?;
        Ok(host)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

impl Host {
    pub fn ip(&self) -> &str {
        &self.ip
    }

    /// Where a server of this host listens.
    pub fn address(&self) -> String {
        format!("{}:{PORT}", self.ip)
    }

    /// Words that run a program there; only its network is another one.
    pub fn through(&self) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net={}", self.namespace().display())]
    }

    fn namespace(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let through = self.through();
        let mut command = Command::new(&through[0]);
        command.args(&through[1..]).arg(program).args(args);
        command
    }

    /// Drops a share of what arrives from an address (in percent).
    pub fn drop_from(&self, ip: &str, percent: u32) -> Result<Rule> {
        self.drop_some(INPUT, &["ip", "saddr", ip], percent)
    }

    /// Drops a share of what is sent to some addresses.
    pub fn drop_to(&self, ips: &[String], percent: u32) -> Result<Rule> {
        let all = format!("{{ {} }}", ips.join(", "));
        self.drop_some(OUTPUT, &["ip", "daddr", &all], percent)
    }

    fn drop_some(&self, chain: Chain, which: &[&str], percent: u32) -> Result<Rule> {
        self.do_to_some(chain, which, percent, &["drop"])
    }

    /// A share of what it sends, and of what arrives, comes twice (in percent).
    pub fn twice(&self, percent: u32) -> Result<[Rule; 2]> {
        run(self.command("nft", &["add", "table", "ip", "twice"]))?;
        // Behind the chains that drop.
        self.add_chain(INPUT_TWICE, "{ type filter hook input priority 10; }")?;
        self.add_chain(OUTPUT_TWICE, "{ type filter hook output priority 10; }")?;
        let sent = self.do_to_some(OUTPUT_TWICE, &["oifname", "eth0"], percent, &["dup", "to", "ip", "daddr"]);
        let sent = sent.context("packets that come twice need a kernel with nft_dup_ipv4")?;
        // The copies come from the host itself, and have none.
        let arrived = self.do_to_some(INPUT_TWICE, &["iifname", "eth0"], percent, &["dup", "to", &self.ip])?;
        Ok([sent, arrived])
    }

    fn do_to_some(&self, chain: Chain, which: &[&str], percent: u32, what: &[&str]) -> Result<Rule> {
        let percent = percent.to_string();
        let some = ["numgen", "random", "mod", "100", "<", &percent];
        let some: &[&str] = if percent == "100" { &[] } else { &some };
        self.add_rule(chain, &[which, some, &["counter"], what].concat())
    }

    /// Whoever connects to the server from now on comes to another port of this host, and connections that there are end.
    fn divert(&self, port: u16) -> Result<[Rule; 2]> {
        self.add_chain(ENTRY, "{ type nat hook prerouting priority -100; }")?;
        let (from, to) = (PORT.to_string(), format!(":{port}"));
        let server = ["iifname", "eth0", "tcp", "dport", &from, "counter"];
        let diverted = self.add_rule(ENTRY, &[&server[..], &["redirect", "to", &to]].concat())?;
        let ended = self.add_rule(INPUT, &[&server[..], &["reject", "with", "tcp", "reset"]].concat())?;
        Ok([diverted, ended])
    }

    fn end_diversion(&self, rules: [Rule; 2]) -> Result<()> {
        for rule in rules {
            rule.lift()?;
        }
        // As long as it is there, the kernel keeps track of every connection.
        run(self.command("nft", &[&["delete", "chain"][..], &ENTRY].concat()))
    }

    fn add_chain(&self, chain: Chain, hook: &str) -> Result<()> {
        run(self.command("nft", &[&["add", "chain"][..], &chain, &[hook]].concat()))
    }

    fn add_rule(&self, chain: Chain, words: &[&str]) -> Result<Rule> {
        let comment = format!("fault{}", RULES.fetch_add(1, Ordering::Relaxed));
        let quoted = format!("\"{comment}\"");
        let rule = [&["add", "rule"][..], &chain, words, &["comment", &quoted]].concat();
        run(self.command("nft", &rule))?;
        Ok(Rule { host: self.clone(), chain, comment })
    }

    /// What this host sends goes through a line of so many kbit/s, which queues what does not fit for up to `latency_ms`.
    pub fn narrow(&self, kbit: u32, latency_ms: u32) -> Result<()> {
        let (rate, latency) = (format!("{kbit}kbit"), format!("{latency_ms}ms"));
        let words = ["qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", &rate, "burst", "32kb"];
        run(self.command("tc", &[&words[..], &["latency", &latency]].concat()))
    }

    /// The line is as wide as before. Returns how many packets had to wait.
    pub fn widen(&self) -> Result<u64> {
        let waited = self.waited(&["qdisc", "show", "dev", "eth0"])?;
        run(self.command("tc", &["qdisc", "del", "dev", "eth0", "root"]))?;
        Ok(waited)
    }

    /// How many packets had to wait in what `tc` shows.
    fn waited(&self, what: &[&str]) -> Result<u64> {
        let text = output(&mut self.command("tc", &[&["-s"][..], what].concat()))?;
        let waited = text.split("overlimits ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        waited.with_context(|| format!("tc counts nothing: {text}"))
    }
}

impl Rule {
    /// Removes the rule. Returns how many packets it has met.
    pub fn lift(self) -> Result<u64> {
        let chain = &self.chain;
        let text = output(&mut self.host.command("nft", &[&["-j", "-a", "list", "chain"][..], chain].concat()))?;
        let listed: Value = serde_json::from_str(&text)?;
        let rules = listed["nftables"].as_array().into_iter().flatten().filter_map(|item| item.get("rule"));
        let mut mine = rules.filter(|rule| rule["comment"] == self.comment.as_str());
        let rule = mine.next().with_context(|| format!("{} has no rule {}", self.host.name, self.comment))?;
        let met = rule["expr"].as_array().into_iter().flatten().find_map(|e| e["counter"]["packets"].as_u64());
        let handle = rule["handle"].to_string();
        run(self.host.command("nft", &[&["delete", "rule"][..], chain, &["handle", &handle]].concat()))?;
        met.context("the rule has no counter")
    }
}

fn ip(words: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(words);
    command
}

fn run(mut command: Command) -> Result<()> {
    output(&mut command).map(drop)
}

fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("{command:?} cannot be started: hosts need iproute2, nftables and util-linux"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Takes a network away; its namespaces take their ends of the lines with them.
fn remove(network: &str) {
    for name in namespaces().iter().filter(|name| name.rsplit_once('-').is_some_and(|(of, _)| of == network)) {
        if let Err(error) = run(ip(&["netns", "del", name])) {
            tracing::warn!(%error, "a namespace could not be removed");
        }
    }
    if Path::new("/sys/class/net").join(network).exists()
        && let Err(error) = run(ip(&["link", "del", network]))
    {
        tracing::warn!(%error, "a bridge could not be removed");
    }
}

fn namespaces() -> Vec<String> {
    names_in("/run/netns")
}

fn names_in(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Networks of runs whose process is gone.
fn clean_leftovers() {
    let all = namespaces().into_iter().chain(names_in("/sys/class/net"));
    let mut networks: Vec<String> =
        all.map(|name| name.rsplit_once('-').map_or(name.clone(), |(of, _)| of.to_owned())).collect();
    networks.sort();
    networks.dedup();
    for network in networks {
        let owner = network.strip_prefix(PREFIX).and_then(|rest| rest.split_once('x'));
        let Some(pid) = owner.and_then(|(pid, _)| pid.parse::<u32>().ok()) else { continue };
        if !Path::new("/proc").join(pid.to_string()).exists() {
            remove(&network);
        }
    }
}
