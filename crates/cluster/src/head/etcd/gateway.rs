//! etcd's JSON gateway: requests and answers of the few calls that are needed.
//!
//! Bytes travel in base64, 64-bit numbers as strings, and what is zero or empty may be left out.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest wait for one endpoint.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Longest answer, in bytes: a page of records.
const MAX_ANSWER: u64 = 256 << 20;
/// Characters that are kept of the words of a refusal.
const MAX_REFUSAL: usize = 200;

/// A way to etcd: its endpoints, of which the one that answered last is asked first.
#[derive(Debug)]
pub(in crate::head) struct Etcd {
    endpoints: Vec<String>,
    first: AtomicUsize,
    agent: ureq::Agent,
}

/// Why etcd did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::head) enum Failure {
    /// No endpoint answered: what was asked for may have been done. In words.
    Silent(String),
    /// It said no.
    Refused(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Silent(why) => write!(f, "etcd does not answer: {why}"),
            Failure::Refused(why) => write!(f, "etcd refuses: {why}"),
        }
    }
}

impl Etcd {
    /// A way to these members, `HOST:PORT` each.
    pub(in crate::head) fn of(members: &[String]) -> Etcd {
        let endpoints = members.iter().map(|member| format!("http://{member}")).collect();
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .build();
        Etcd { endpoints, first: AtomicUsize::new(0), agent: config.into() }
    }

    /// A lease that ends this long after it was kept alive last.
    pub(super) fn grant(&self, seconds: u64) -> Result<Int, Failure> {
        #[derive(Serialize)]
        struct Grant {
            #[serde(rename = "TTL")]
            seconds: Int,
        }
        let lease: Lease = self.call("lease/grant", &Grant { seconds: Int(seconds as i64) })?;
        Ok(lease.id)
    }

    /// Keeps a lease alive; returns whether there is such a lease.
    pub(super) fn keep_alive(&self, lease: Int) -> Result<bool, Failure> {
        #[derive(Deserialize)]
        struct Kept {
            result: Lease,
        }
        let kept: Kept = self.call("lease/keepalive", &LeaseId { id: lease })?;
        Ok(kept.result.seconds.0 > 0)
    }

    /// Ends a lease, and with it the keys that have it.
    pub(super) fn revoke(&self, lease: Int) -> Result<(), Failure> {
        #[derive(Deserialize)]
        struct Revoked {}
        let _: Revoked = self.call("lease/revoke", &LeaseId { id: lease })?;
        Ok(())
    }

    /// Takes all keys away that begin so, whoever made them.
    pub(in crate::head) fn forget(&self, prefix: &str) -> Result<(), Failure> {
        let success = vec![Op::delete_all(prefix.as_bytes())];
        self.transact(&Txn { success, ..Txn::default() }).map(drop)
    }

    pub(super) fn transact(&self, transaction: &Txn) -> Result<TxnDone, Failure> {
        self.call("kv/txn", transaction)
    }

    pub(super) fn range(&self, range: &Range) -> Result<Found, Failure> {
        self.call("kv/range", range)
    }

    fn call<A: DeserializeOwned>(&self, path: &str, request: &impl Serialize) -> Result<A, Failure> {
        let body = serde_json::to_vec(request).map_err(|error| Failure::Refused(error.to_string()))?;
        let first = self.first.load(Ordering::Relaxed);
        let mut silent = Vec::new();
        for turn in 0..self.endpoints.len() {
            let at = (first + turn) % self.endpoints.len();
            let Some(endpoint) = self.endpoints.get(at) else { break };
            match self.ask(&format!("{endpoint}/v3/{path}"), &body) {
                Ok((200, answer)) => {
                    self.first.store(at, Ordering::Relaxed);
                    return serde_json::from_slice(&answer)
                        .map_err(|error| Failure::Refused(format!("{endpoint}: its answer: {error}")));
                }
                Ok((status, answer)) => {
                    let why = refusal(&answer);
                    // A member that has lost the others, or ends, or has too much to do; another may do better.
                    match status {
                        408 | 429 | 499.. => silent.push(format!("{endpoint}: {why}")),
                        _ => return Err(Failure::Refused(format!("{endpoint}: {why}"))),
                    }
                }
                Err(error) => silent.push(format!("{endpoint}: {error}")),
            }
        }
        Err(Failure::Silent(silent.join("; ")))
    }

    fn ask(&self, url: &str, body: &[u8]) -> Result<(u16, Vec<u8>), ureq::Error> {
        let mut answer = self.agent.post(url).content_type("application/json").send(body)?;
        let bytes = answer.body_mut().with_config().limit(MAX_ANSWER).read_to_vec()?;
        Ok((answer.status().as_u16(), bytes))
    }
}

/// The words of an error's body.
fn refusal(answer: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Error {
        #[serde(alias = "error")]
        message: String,
    }
    let words = match serde_json::from_slice::<Error>(answer) {
        Ok(error) => error.message,
        Err(_) => String::from_utf8_lossy(answer.get(..MAX_REFUSAL).unwrap_or(answer)).into_owned(),
    };
    words.chars().filter(|c| !c.is_control()).take(MAX_REFUSAL).collect()
}

/// A 64-bit number, which is a string in JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Int(pub(super) i64);

impl Serialize for Int {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Int {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Int, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Int).map_err(|_| D::Error::custom(format!("`{text}` is no number")))
    }
}

/// Bytes, which are base64 in JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Bytes).map_err(D::Error::custom)
    }
}

#[derive(Serialize)]
struct LeaseId {
    #[serde(rename = "ID")]
    id: Int,
}

#[derive(Deserialize)]
struct Lease {
    #[serde(rename = "ID", default)]
    id: Int,
    /// Seconds that it has left; none where there is no such lease.
    #[serde(rename = "TTL", default)]
    seconds: Int,
}

/// All of `success` at once where the comparisons hold; else all of `failure`.
#[derive(Debug, Default, Serialize)]
pub(super) struct Txn {
    pub(super) compare: Vec<Compare>,
    pub(super) success: Vec<Op>,
    pub(super) failure: Vec<Op>,
}

/// What is known of a key.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Compare {
    key: Bytes,
    target: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    create_revision: Option<Int>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mod_revision: Option<Int>,
}

impl Compare {
    /// "The key was made at this revision"; at 0: "there is no such key".
    pub(super) fn made_at(key: &[u8], revision: Int) -> Compare {
        let key = Bytes(key.to_vec());
        Compare { key, target: "CREATE", create_revision: Some(revision), mod_revision: None }
    }

    /// "The key was put last at this revision."
    pub(super) fn changed_at(key: &[u8], revision: Int) -> Compare {
        let key = Bytes(key.to_vec());
        Compare { key, target: "MOD", create_revision: None, mod_revision: Some(revision) }
    }
}

#[derive(Debug, Clone, Serialize)]
pub(super) enum Op {
    #[serde(rename = "request_put")]
    Put { key: Bytes, value: Bytes, lease: Int },
    #[serde(rename = "request_delete_range")]
    Delete { key: Bytes, range_end: Bytes },
}

impl Op {
    pub(super) fn put(key: Vec<u8>, value: Vec<u8>) -> Op {
        Op::Put { key: Bytes(key), value: Bytes(value), lease: Int(0) }
    }

    pub(super) fn delete(key: Vec<u8>) -> Op {
        Op::Delete { key: Bytes(key), range_end: Bytes::default() }
    }

    /// All keys that begin so.
    pub(super) fn delete_all(prefix: &[u8]) -> Op {
        Op::Delete { key: Bytes(prefix.to_vec()), range_end: Bytes(behind(prefix)) }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct TxnDone {
    #[serde(default)]
    pub(super) succeeded: bool,
    pub(super) header: Header,
}

#[derive(Debug, Deserialize)]
pub(super) struct Header {
    #[serde(default)]
    pub(super) revision: Int,
}

#[derive(Debug, Serialize)]
pub(super) struct Range {
    key: Bytes,
    range_end: Bytes,
    limit: Int,
    /// What was at this revision; 0: what is now.
    revision: Int,
}

impl Range {
    pub(super) fn one(key: &[u8]) -> Range {
        Range { key: Bytes(key.to_vec()), range_end: Bytes::default(), limit: Int(1), revision: Int(0) }
    }

    /// Of the keys that begin with `prefix`, a page of those from `from` on, as of `revision`.
    pub(super) fn page(from: Vec<u8>, prefix: &[u8], limit: i64, revision: Int) -> Range {
        Range { key: Bytes(from), range_end: Bytes(behind(prefix)), limit: Int(limit), revision }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Found {
    pub(super) header: Header,
    #[serde(default, rename = "kvs")]
    pub(super) pairs: Vec<Pair>,
    /// Are there more in the range?
    #[serde(default)]
    pub(super) more: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Pair {
    pub(super) key: Bytes,
    #[serde(default)]
    pub(super) value: Bytes,
    #[serde(default)]
    pub(super) create_revision: Int,
    #[serde(default)]
    pub(super) mod_revision: Int,
}

/// The first key behind all that begin with `prefix`, which is no run of the highest byte.
fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each of the answers that are asked for.
    fn answer(data: &[u8]) {
        let words = refusal(data);
        assert!(words.chars().count() <= MAX_REFUSAL && !words.contains(char::is_control), "{words:?}");
        if let Ok(found) = serde_json::from_slice::<Found>(data) {
            // What is read of them later has these bytes and no more.
            let held: usize = found.pairs.iter().map(|pair| pair.key.0.len() + pair.value.0.len()).sum();
            assert!(held <= data.len());
        }
        let _ = serde_json::from_slice::<TxnDone>(data);
        let _ = serde_json::from_slice::<Lease>(data);
    }

    #[test]
    fn whatever_etcd_answers_is_read_or_refused() {
        // As etcd 3.4 writes them.
        let seeds = [
            r#"{"header":{"cluster_id":"14841639068965178418","revision":"17","raft_term":"4"},"kvs":[{"key":"L3Rlc3Qv","create_revision":"3","mod_revision":"9","version":"2","value":"AQID","lease":"7587"}],"more":true,"count":"2"}"#,
            r#"{"header":{"revision":"18"},"succeeded":true,"responses":[{"response_put":{"header":{"revision":"18"}}}]}"#,
            r#"{"header":{"revision":"1"},"ID":"7587848943239472387","TTL":"5"}"#,
            r#"{"error":"etcdserver: mvcc: required revision has been compacted","message":"etcdserver: mvcc: required revision has been compacted","code":11}"#,
        ];
        lyceum_fuzz::Fuzz::new("etcd answer").seeds(seeds).runs(10_000).memory(1 << 20).run(answer);
    }
}
