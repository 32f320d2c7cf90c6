//! Connections to one server that are slow, silent or torn: a proxy within its host does it (`network::proxy`), and counts.

use std::ops::Range;
use std::time::Duration;

use anyhow::Result;
use rand::RngExt as _;

use super::{Harm, Kind, Remedy, Site, Whom};
use crate::network::proxy::{Line, Proxy};

/// From a line across a country to one that no election survives.
const DELAY_MS: Range<u64> = 5..250;
/// Between two bites of a slow reader: 40 to 400 KiB/s.
const BITE_MS: Range<u64> = 5..50;
/// After how much a connection is torn.
const TORN_BYTES: Range<u64> = 1..256 << 10;

pub(super) async fn inflict(kind: Kind, site: &mut Site<'_>) -> Result<Option<Harm>> {
    let Some(victims) = site.victims(Whom::AnyServer).await else { return Ok(None) };
    let mut time = |milliseconds: Range<u64>| Duration::from_millis(site.rng.random_range(milliseconds));
    let line = match kind {
        Kind::Delay => Line::Late(time(DELAY_MS)),
        Kind::HalfOpen => Line::Silent,
        Kind::SlowReader => Line::Slow(time(BITE_MS)),
        _ => Line::Torn(TORN_BYTES),
    };
    let proxy = Proxy::begin(&site.host(victims[0])?, line, site.rng.random())?;
    Ok(Some(Harm::new(kind, victims).with([Remedy::Connect(proxy)])))
}
