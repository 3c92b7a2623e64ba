//! Join tokens: made by a person, shown once by a host without a key, and then of no more use to anybody else.
//!
//! What is known of a token is written down before anybody is let in by it, so that a head which ends in between, and
//! is started again, lets nobody else in. Of its secret there is only a hash.

use std::time::Duration;

use super::super::papers::{TokenState, TokenStatus, TokenUse};
use super::super::record::Key;
use super::super::vocabulary::{Answer, Origin};
use super::{Head, HeadEffect};

/// Tokens that are known at a time, at most.
const MAX_TOKENS: usize = 1024;
/// A token that was shown with so many wrong secrets lets nobody in any more.
const MAX_FAILURES: u32 = 8;
/// The longest life of a token.
pub(super) const MAX_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
/// What became of a token is remembered this long after it has expired, for whoever comes with it late.
const MEMORY_MS: u64 = 3_600_000;

/// A token as somebody shows it who wants to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The token's number.
    pub id: u64,
    /// SHA-256 of the secret that came with it.
    pub hash: [u8; 32],
    /// SHA-256 of the public key that a certificate is wanted for.
    pub key: [u8; 32],
}

impl Head {
    /// A person makes a token for `node`.
    pub(super) fn create_token(
        &mut self,
        asker: (Origin, u64),
        id: u64,
        node: String,
        hash: [u8; 32],
        ttl_ms: u64,
    ) {
        if let Err(why) = self.check_member(&node) {
            return self.refuse(asker, why);
        }
        let longest = MAX_TTL.as_millis() as u64;
        let why = if !(1..=longest).contains(&ttl_ms) {
            format!(
                "a token of {ttl_ms} ms, expected up to {longest} ms, which are {} days",
                MAX_TTL.as_secs() / 86_400
            )
        } else if self.tokens.contains_key(&id) {
            format!("there is a token {id:016x} already")
        } else if self.tokens.len() >= MAX_TOKENS {
            format!("{MAX_TOKENS} tokens are known already: revoke those that nobody needs")
        } else {
            let expires = self.date.saturating_add(ttl_ms);
            self.tokens.insert(id, TokenState { node, hash, expires, failures: 0, used: None });
            self.dirty.insert(Key::Token(id));
            return self.reply(asker, Answer::Done);
        };
        self.refuse(asker, why);
    }

    pub(super) fn revoke_token(&mut self, asker: (Origin, u64), id: u64) {
        match self.tokens.remove(&id) {
            Some(_) => {
                self.dirty.insert(Key::Token(id));
                self.reply(asker, Answer::Done);
            }
            None => self.refuse(asker, format!("there is no token {id:016x}")),
        }
    }

    /// All tokens that are known, for people.
    pub(super) fn token_status(&self) -> Vec<TokenStatus> {
        let status = self.tokens.iter().map(|(id, token)| TokenStatus {
            id: *id,
            node: token.node.clone(),
            expires: token.expires,
            state: match (&token.used, self.spent(token)) {
                (Some(used), _) => format!("used, incarnation {} of its node", used.incarnation),
                (None, Some(why)) => why,
                (None, None) => "open".to_owned(),
            },
        });
        status.collect()
    }

    /// Does anybody hold a token of which something is known?
    pub fn awaits_guests(&self) -> bool {
        !self.tokens.is_empty()
    }

    /// Somebody without a certificate shows a token: is let in, or told why not.
    pub(super) fn token_shown(&mut self, guest: u64, shown: &Shown) {
        let effect = match self.redeem(shown) {
            Ok((node, incarnation)) => HeadEffect::Admit { guest, node, incarnation },
            Err(why) => HeadEffect::TurnAway { guest, why },
        };
        self.effects.push(effect);
    }

    fn redeem(&mut self, shown: &Shown) -> Result<(String, u64), String> {
        let Shown { id, hash, key } = shown;
        let Some(token) = self.tokens.get(id) else {
            return Err(format!(
                "token {id:016x} is not known here: it was revoked, expired long ago, or is of another cluster"
            ));
        };
        if token.failures >= MAX_FAILURES {
            return Err(locked(*id));
        }
        if !same(&token.hash, hash) {
            return Err(self.note_failure_of(*id));
        }
        let node = token.node.clone();
        if let Some(used) = &token.used {
            // The same host again, which has had no answer.
            if used.key == *key
                && !self.is_barred(&node, used.incarnation)
                && self.newest(&node) <= used.incarnation
            {
                return Ok((node, used.incarnation));
            }
            let number = used.incarnation;
            return Err(format!(
                "token {id:016x} was used already, for incarnation {number} of node `{node}`"
            ));
        }
        if let Some(why) = self.spent(token) {
            return Err(format!("token {id:016x} {why}"));
        }
        if self.shutdown.is_some() {
            return Err("the cluster is ending".to_owned());
        }
        if let Some(number) =
            self.nodes.get(&node).filter(|known| known.is_heard()).map(|known| known.incarnation)
        {
            return Err(format!(
                "node `{node}` has joined already, as incarnation {number}: end that agent first, or revoke its certificate"
            ));
        }
        let incarnation = self.allot();
        if let Some(token) = self.tokens.get_mut(id) {
            token.used = Some(TokenUse { key: *key, incarnation });
        }
        self.dirty.insert(Key::Token(*id));
        Ok((node, incarnation))
    }

    fn newest(&self, node: &str) -> u64 {
        self.nodes.get(node).map_or(0, |node| node.incarnation)
    }

    fn note_failure_of(&mut self, id: u64) -> String {
        self.dirty.insert(Key::Token(id));
        let Some(token) = self.tokens.get_mut(&id) else { return locked(id) };
        token.failures += 1;
        match MAX_FAILURES - token.failures {
            0 => locked(id),
            left => {
                format!("the secret is not that of token {id:016x}; it is refused after {left} more such")
            }
        }
    }

    /// Why a token that nobody has used lets nobody in any more.
    fn spent(&self, token: &TokenState) -> Option<String> {
        if token.failures >= MAX_FAILURES {
            return Some(format!("was shown with {MAX_FAILURES} wrong secrets"));
        }
        (token.expires <= self.date).then(|| format!("expired {} s ago", (self.date - token.expires) / 1000))
    }

    /// Tokens of a node that is cut off let it in no more.
    pub(super) fn revoke_tokens_of(&mut self, node: &str) {
        let of_node = self.tokens.iter().filter(|(_, token)| token.node == node);
        let ids: Vec<u64> = of_node.map(|(id, _)| *id).collect();
        for id in ids {
            self.tokens.remove(&id);
            self.dirty.insert(Key::Token(id));
        }
    }

    pub(super) fn forget_old_tokens(&mut self) {
        let date = self.date;
        let over = |token: &TokenState| token.expires.saturating_add(MEMORY_MS) <= date;
        let old: Vec<u64> = self.tokens.iter().filter(|(_, token)| over(token)).map(|(id, _)| *id).collect();
        for id in old {
            self.tokens.remove(&id);
            self.dirty.insert(Key::Token(id));
        }
    }
}

fn locked(id: u64) -> String {
    format!("token {id:016x} was shown with {MAX_FAILURES} wrong secrets and lets nobody in any more")
}

/// In a time that does not tell where they differ.
fn same(one: &[u8; 32], other: &[u8; 32]) -> bool {
    let differ = one.iter().zip(other).fold(0, |differ, (one, other)| differ | (one ^ other));
    std::hint::black_box(differ) == 0
}
