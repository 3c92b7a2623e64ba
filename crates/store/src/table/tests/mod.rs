//! The table against random histories, with a model of the agent around it, and by example where a rule has a name.

mod disk;
mod histories;
mod rules;
mod spread;
mod world;

use std::time::Duration;

use super::{Table, TableOptions};
use crate::moment::Moment;
use crate::node::TransitRules;
use crate::pool::Pool;

/// Large, so that an object of a few pages is one that is not sent to all who ask.
const PAGE: u64 = 512 << 10;
const BEGAN: Moment = Moment(1_000_000);
const RULES: TransitRules =
    TransitRules { unclaimed: Duration::from_secs(600), orphaned: Duration::from_secs(10) };

fn table(node: &str, segments: &[u64], spill_bytes: u64) -> Table {
    table_of(node, 5, segments, spill_bytes)
}

/// That of an agent's incarnation: no two in a cluster are alike.
fn table_of(node: &str, incarnation: u64, segments: &[u64], spill_bytes: u64) -> Table {
    let node = node.to_owned();
    let options = TableOptions { node, incarnation, began: BEGAN, rules: RULES, spill_bytes };
    Table::new(options, Pool::new(segments, PAGE))
}
