//! Messages on their way: delayed, some of them twice, dropped with their connection.

use super::*;

impl World {
    pub(super) fn send(&mut self, message: Message) {
        self.send_within(300, message);
    }

    pub(super) fn send_within(&mut self, longest: u64, message: Message) {
        let mut at = self.now + self.random.below(longest);
        if let Message::Report { from, .. } | Message::Joined { from, .. } = &message
            && let Some(agent) = self.agents.get_mut(&from.node)
        {
            at = at.max(agent.lane);
            agent.lane = at;
        }
        if let Message::Command { node, command, .. } = &message
            && matches!(command, Command::Suspect { .. } | Command::NodeLost { .. })
            && let Some(agent) = self.agents.get_mut(node)
        {
            at = at.max(agent.heads_lane);
            agent.heads_lane = at;
        }
        self.post(at, message);
    }

    fn post(&mut self, at: u64, message: Message) {
        self.network.entry(at).or_default().push_back(message);
    }

    pub(super) fn deliver_due(&mut self) {
        while let Some(mut entry) = self.network.first_entry().filter(|entry| *entry.key() <= self.now) {
            match entry.get_mut().pop_front() {
                Some(message) => self.deliver(message),
                None => drop(entry.remove()),
            }
        }
    }

    /// Is nothing on its way but heartbeats?
    pub(super) fn network_is_idle(&self) -> bool {
        self.network.values().flatten().all(|message| matches!(message, Message::Heartbeat { .. }))
    }

    fn connected(&self, node: &str, connection: u64) -> bool {
        let agent = &self.agents[node];
        agent.link == Link::Up && agent.connection == connection
    }

    /// As which incarnation a message is taken, if at all: what comes on a connection that is gone is lost, but for what an
    /// agent said before it died.
    fn heard(&self, from: &Speaker) -> Option<u64> {
        if self.connected(&from.node, from.connection) {
            return Some(from.incarnation);
        }
        let newest = self.agents[&from.node].incarnation;
        (from.incarnation < newest).then_some(match self.planted {
            Some(Planted::FencingOff) => newest,
            _ => from.incarnation,
        })
    }

    pub(super) fn reachable(&self, node: &str) -> bool {
        self.agents[node].link == Link::Up
    }

    /// Do words go both ways between it and the head?
    fn converses(&self, node: &str) -> bool {
        let agent = &self.agents[node];
        agent.link == Link::Up && agent.deaf.is_none() && self.now >= agent.mute_until
    }

    /// Some of what an agent said before it died comes when it has been started again.
    fn comes_late(&mut self, message: &Message) -> Option<u64> {
        let (Message::Report { from, .. } | Message::Joined { from, .. } | Message::Heartbeat { from }) =
            message
        else {
            return None;
        };
        match self.agents[&from.node].link {
            _ if self.gone.contains(&from.node) => None,
            Link::Dead { until } if self.random.below(4) == 0 => Some(until + self.random.below(2000)),
            _ => None,
        }
    }

    pub(super) fn deliver(&mut self, message: Message) {
        if let Some(at) = self.comes_late(&message) {
            return self.post(at, message);
        }
        match message {
            Message::Command { node, connection, command } => {
                let deaf = self.agents[&node].deaf.is_some_and(|(deaf, _)| deaf == connection);
                if self.connected(&node, connection) && !deaf {
                    self.launch_again(&node, &command);
                    self.agent_event(&node, AgentEvent::Commanded(command));
                }
            }
            Message::Report { from, report } => {
                if let Some(incarnation) = self.heard(&from) {
                    self.head_event(HeadEvent::Reported { node: from.node, incarnation, report });
                }
            }
            Message::Joined { from, running, ended } => {
                if let Some(incarnation) = self.heard(&from) {
                    let newest = |agent: &&mut SimAgent| agent.connection == from.connection;
                    if let Some(agent) = self.agents.get_mut(&from.node).filter(newest) {
                        agent.joined = from.connection;
                        // What it says next may not arrive.
                        agent.silent_since = (self.now < agent.mute_until).then_some(self.now);
                    }
                    let (node, address, pid) = (from.node, endpoint(), 1);
                    // Of the others the head knows what they have.
                    let offer = Offer { capacity: capacity(), ..Offer::default() };
                    let offer = (!self.manifest.contains(&node)).then_some(offer);
                    let joined = HeadEvent::Joined { node, incarnation, address, pid, running, ended, offer };
                    self.joining = true;
                    self.head_event(joined);
                    self.joining = false;
                }
            }
            Message::Heartbeat { from } if self.now < self.agents[&from.node].mute_until => {}
            Message::Heartbeat { from } => {
                let newest = |agent: &&mut SimAgent| {
                    agent.connection == from.connection && agent.joined == from.connection
                };
                if let Some(agent) = self.agents.get_mut(&from.node).filter(newest) {
                    agent.silent_since = None;
                }
                if let Some(incarnation) = self.heard(&from) {
                    let store = Default::default();
                    self.head_event(HeadEvent::Heartbeat { node: from.node, incarnation, store });
                }
            }
            Message::Probed { node, incarnation, term } if term == self.term => {
                let answered = self.converses(&node) && self.agents[&node].incarnation == incarnation;
                self.head_event(HeadEvent::Probed { node, incarnation, answered });
            }
            Message::Evidence { node, incarnation, term } if term == self.term => {
                let evidence = "seen to end".to_owned();
                self.head_event(HeadEvent::AgentEnded { node, incarnation, evidence, log_tail: Vec::new() });
            }
            Message::Probed { .. } | Message::Evidence { .. } => {}
            Message::WatchAt { from, target } => {
                if self.reachable(&from) && self.reachable(&target.node) {
                    let node = target.node.clone();
                    self.agent_event(&node, AgentEvent::Watch { watcher: Watcher::Agent(from), target });
                }
            }
            Message::PeerDeath { from, to, death } => {
                if self.reachable(&from) && self.reachable(&to) {
                    self.agent_event(&to, AgentEvent::PeerReported(death));
                }
            }
            Message::Ready { process, node } => {
                if self.agents[&node].processes.contains_key(&process) {
                    self.agent_event(&node, AgentEvent::Ready { process, address: endpoint(), pid: 1 });
                }
            }
            Message::Ends { process, node } => self.process_ends(&node, process, Cause::Exited(1)),
        }
    }
}
