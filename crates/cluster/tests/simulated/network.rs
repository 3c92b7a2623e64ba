//! Messages on their way: delayed, some of them twice, dropped with their connection.

use super::*;

impl World {
    pub(super) fn send(&mut self, message: Message) {
        self.send_within(300, message);
    }

    pub(super) fn send_within(&mut self, longest: u64, message: Message) {
        let mut at = self.now + self.random.below(longest);
        if let Message::Report { node, .. } | Message::Joined { node, .. } = &message
            && let Some(agent) = self.agents.get_mut(node)
        {
            at = at.max(agent.lane);
            agent.lane = at;
        }
        self.sent += 1;
        self.network.push((at, self.sent, message));
    }

    pub(super) fn deliver_due(&mut self) {
        loop {
            let due = self.network.iter().enumerate().filter(|(_, (at, _, _))| *at <= self.now);
            let Some(first) = due.min_by_key(|(_, (at, number, _))| (*at, *number)).map(|(index, _)| index)
            else {
                return;
            };
            let (_, _, message) = self.network.swap_remove(first);
            self.deliver(message);
        }
    }

    pub(super) fn connected(&self, node: &str, connection: u64) -> Option<u64> {
        let agent = &self.agents[node];
        (agent.link == Link::Up && agent.connection == connection).then_some(agent.incarnation)
    }

    pub(super) fn reachable(&self, node: &str) -> bool {
        self.agents[node].link == Link::Up
    }

    pub(super) fn deliver(&mut self, message: Message) {
        match message {
            Message::Command { node, connection, command } => {
                if self.connected(&node, connection).is_some() {
                    self.agent_event(&node, AgentEvent::Commanded(command));
                }
            }
            Message::Report { node, connection, report } => {
                if let Some(incarnation) = self.connected(&node, connection) {
                    self.head_event(HeadEvent::Reported { node, incarnation, report });
                }
            }
            Message::Joined { node, connection, running, ended } => {
                if let Some(incarnation) = self.connected(&node, connection) {
                    if let Some(agent) = self.agents.get_mut(&node) {
                        agent.joined = connection;
                    }
                    let (address, pid) = (endpoint(), 1);
                    self.head_event(HeadEvent::Joined { node, incarnation, address, pid, running, ended });
                }
            }
            Message::Heartbeat { node, connection } => {
                if let Some(incarnation) = self.connected(&node, connection) {
                    let store = Default::default();
                    self.head_event(HeadEvent::Heartbeat { node, incarnation, store });
                }
            }
            Message::Probed { node, incarnation, term } if term == self.term => {
                let answered = self.reachable(&node) && self.agents[&node].incarnation == incarnation;
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
