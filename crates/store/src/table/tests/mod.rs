//! The table against random histories, with a model of the agent around it, and by example where a rule has a name.

mod histories;
mod rules;
mod world;

use std::time::Duration;

use crate::node::TransitRules;

const PAGE: u64 = 4096;
const RULES: TransitRules =
    TransitRules { unclaimed: Duration::from_secs(600), orphaned: Duration::from_secs(10) };
