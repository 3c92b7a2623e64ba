//! Launchers: how a cluster's processes come to be.

mod ends;
pub mod local;
mod machine;
mod record;

pub(crate) use self::record::remove_keys;
pub use crate::host::ProcessMark;
