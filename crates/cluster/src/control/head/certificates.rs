//! Certificates: which were issued to agents, and whose are taken no more.

use super::super::papers::{CertificateState, CertificateStatus, Certificates, Revoked};
use super::super::record::Key;
use super::super::vocabulary::{Answer, CLIENT_NODE, Command, Notice, Origin};
use super::nodes::Presence;
use super::{Head, HeadEffect};

/// No certificate of an agent, a worker or a client is valid for longer, in seconds.
pub(crate) const MAX_LIFETIME: u64 = 366 * 86_400;
/// Certificates of one node that are remembered.
const MAX_OF_NODE: usize = 16;
/// Certificates that fit in an answer.
pub(crate) const MAX_SHOWN: usize = 4096;
/// Revocations in one message.
pub(crate) const REVOKED_AT_A_TIME: usize = 4096;

impl Head {
    /// A person orders that the certificates of a node are taken no more: it is given up at once.
    pub(super) fn revoke(&mut self, asker: (Origin, u64), name: &str, by: &str) {
        let Some(node) = self.nodes.get(name) else { return self.refuse_node(asker, name) };
        let (incarnation, known) = (node.incarnation, node.incarnation > 0 && node.presence_is_open());
        let until = self.date / 1000 + MAX_LIFETIME;
        let revoked = Revoked { node: name.to_owned(), before: self.next, until };
        self.revoked.insert(name.to_owned(), revoked.clone());
        self.dirty.insert(Key::Revoked(name.to_owned()));
        self.revoke_tokens_of(name);
        if known {
            self.agent_lost(name, incarnation, format!("its certificate was revoked by {by}"), Vec::new());
        }
        self.command_all(name, &Command::Revoked(vec![revoked.clone()]));
        for client in self.clients.keys() {
            let notice = Notice::Revoked(vec![revoked.clone()]);
            self.effects.push(HeadEffect::Notify { client: *client, notice });
        }
        // Behind the verdict: whoever waits is told that, and not how the node takes it.
        self.effects.push(HeadEffect::Revoke(revoked));
        self.reply(asker, Answer::Done);
    }

    /// The revocations in force, in portions of one message.
    pub fn revocations(&self) -> Vec<Vec<Revoked>> {
        let all: Vec<Revoked> = self.revoked.values().cloned().collect();
        all.chunks(REVOKED_AT_A_TIME).map(<[Revoked]>::to_vec).collect()
    }

    /// Is the certificate of `incarnation` of a node revoked?
    pub fn is_barred(&self, node: &str, incarnation: u64) -> bool {
        self.revoked.get(node).is_some_and(|revoked| incarnation < revoked.before)
    }

    /// A node that is cut off, and has not come again with a token since.
    pub(super) fn is_cut_off(&self, name: &str) -> bool {
        let newest = self.nodes.get(name).map_or(0, |node| node.incarnation);
        self.is_barred(name, newest)
    }

    /// A certificate was signed for an agent; it is handed out when this is written down.
    pub(super) fn certified(&mut self, state: CertificateState) {
        let of_node = self.certificates.iter().filter(|(_, known)| known.node == state.node);
        let numbers: Vec<u64> = of_node.map(|(number, _)| *number).collect();
        for number in numbers.iter().take((numbers.len() + 1).saturating_sub(MAX_OF_NODE)) {
            self.certificates.remove(number);
            self.dirty.insert(Key::Certificate(*number));
        }
        let number = self.allot();
        self.certificates.insert(number, state);
        self.dirty.insert(Key::Certificate(number));
    }

    pub(super) fn certificate_status(&self) -> Certificates {
        let issued = self.certificates.values().map(|state| CertificateStatus {
            role: "agent".to_owned(),
            node: state.node.clone(),
            incarnation: state.incarnation,
            fingerprint: state.fingerprint,
            from: state.from,
            until: state.until,
            revoked: self.is_barred(&state.node, state.incarnation),
        });
        let mut issued: Vec<CertificateStatus> = issued.collect();
        let omitted = issued.len().saturating_sub(MAX_SHOWN) as u64;
        issued.truncate(MAX_SHOWN);
        let revoked = self.revoked.values().take(REVOKED_AT_A_TIME).cloned().collect();
        Certificates { authority: String::new(), issued, omitted, revoked }
    }

    /// The certificates of `node`, or of all, are to be renewed now.
    pub(super) fn renew_nodes(&mut self, asker: (Origin, u64), node: Option<String>) {
        match node {
            None => self.command_all("", &Command::Renew),
            Some(name) => match self.nodes.get(&name) {
                None => return self.refuse_node(asker, &name),
                Some(node) if node.is_heard() => self.command(&name, Command::Renew),
                Some(_) => return self.refuse(asker, format!("node `{name}` is not connected")),
            },
        }
        self.reply(asker, Answer::Done);
    }

    /// Whoever asks wants a certificate for a new key of its own.
    pub(super) fn renew(&mut self, asker: (Origin, u64), public_key: Vec<u8>) {
        let (origin, request) = asker;
        let holder = match origin {
            Origin::Worker(process) => self.node_of(process).map(|node| (node, process)),
            Origin::Client(client) => {
                let process = self.clients.get(&client).and_then(|client| client.process);
                process.map(|process| (CLIENT_NODE.to_owned(), process))
            }
        };
        match holder {
            Some((node, number)) => {
                self.effects.push(HeadEffect::Certify { origin, request, node, number, public_key });
            }
            None => self.refuse(asker, "whoever asks has no certificate of its own to renew"),
        }
    }

    pub(super) fn forget_old_certificates(&mut self) {
        let date = self.date / 1000;
        let old: Vec<u64> = self
            .certificates
            .iter()
            .filter(|(_, state)| state.until < date)
            .map(|(number, _)| *number)
            .collect();
        for number in old {
            self.certificates.remove(&number);
            self.dirty.insert(Key::Certificate(number));
        }
        let over: Vec<String> = self
            .revoked
            .values()
            .filter(|revoked| revoked.until < date)
            .map(|revoked| revoked.node.clone())
            .collect();
        for node in over {
            self.revoked.remove(&node);
            self.dirty.insert(Key::Revoked(node));
        }
    }
}

impl super::nodes::Node {
    /// Is it connected, and heard of?
    pub(super) fn is_heard(&self) -> bool {
        self.presence == Presence::Joined
    }

    /// Is there no verdict on it?
    fn presence_is_open(&self) -> bool {
        matches!(self.presence, Presence::Joined | Presence::Unreachable | Presence::Absent)
    }
}
