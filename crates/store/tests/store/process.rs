//! A process that performs a script, and its parent's hold on it.

use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ChildStdout, Command, Stdio};

use lyceum_store::{
    NodeStore, Object, ObjectRef, ObjectWriter, RegionBytes, RegionRef, RegionWriter, StoreClient,
    socket_pair,
};

use crate::{MIB, fill, here, is_whole, node, read_reference, read_region, write_reference, write_region};

const SCRIPT: &str = "LYCEUM_STORE_TEST_SCRIPT";
const AGENT: &str = "LYCEUM_STORE_TEST_AGENT";
const MARK: &str = "@@ ";

/// A running script. Killed when dropped.
pub struct Process {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Process {
    /// A process attached to `store` as `holder`.
    pub fn attached(store: &NodeStore, holder: u64, script: &[&str]) -> Process {
        let (agents_end, processes_end) = socket_pair().unwrap();
        store.attach(holder, agents_end).unwrap();
        Process::start(processes_end, script, None)
    }

    /// A process that is an agent itself (`agent` describes it to `node::perform`); its client in the script is within
    /// it, `socket` is attached as process 99.
    pub fn agent(socket: OwnedFd, script: &[&str], agent: &str) -> Process {
        Process::start(socket, script, Some(agent))
    }

    fn start(socket: OwnedFd, script: &[&str], agent: Option<&str>) -> Process {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "process::perform_a_script", "--nocapture", "--test-threads=1"]);
        command.env(SCRIPT, script.join("\n")).stdin(Stdio::from(socket)).stdout(Stdio::piped());
        match agent {
            Some(agent) => command.env(AGENT, agent),
            None => command.env_remove(AGENT),
        };
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Process { child, lines }
    }

    /// What the next step of the script says.
    pub fn says(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "the process ended");
            // The test harness may have begun the line.
            if let Some((_, said)) = line.split_once(MARK) {
                return said.trim_end().to_owned();
            }
        }
    }

    /// What the script says after `steps` steps.
    pub fn after(&mut self, steps: usize) -> String {
        (0..steps).map(|_| self.says()).last().unwrap_or_default()
    }

    /// The reference that the script shares next.
    pub fn shares(&mut self) -> ObjectRef {
        let said = self.says();
        read_reference(said.strip_prefix("shared ").unwrap_or_else(|| panic!("{said}")))
    }

    /// The message in a region that the script sends next.
    pub fn mails(&mut self) -> RegionRef {
        let said = self.says();
        read_region(said.strip_prefix("mailed ").unwrap_or_else(|| panic!("{said}")))
    }

    /// SIGKILL, and the end of it.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn say(what: &str) {
    println!("{MARK}{what}");
}

/// Does nothing unless this program was started by [`Process::start`].
#[test]
fn perform_a_script() {
    let Ok(script) = std::env::var(SCRIPT) else { return };
    let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, _agent) = match std::env::var(AGENT) {
            Ok(agent) => {
                let (client, agent) = node::perform(&agent, socket);
                (client, Some(agent))
            }
            Err(_) => (StoreClient::attach(socket).unwrap(), None),
        };
        let mut performer =
            Performer { client, writer: None, objects: Vec::new(), region: None, messages: Vec::new() };
        for step in script.lines() {
            let said = performer.perform(step).await;
            say(&said);
        }
        std::future::pending::<()>().await;
    });
}

struct Performer {
    client: StoreClient,
    writer: Option<ObjectWriter>,
    objects: Vec<Object>,
    region: Option<RegionWriter>,
    messages: Vec<RegionBytes>,
}

impl Performer {
    async fn perform(&mut self, step: &str) -> String {
        let (verb, argument) = step.split_once(' ').unwrap_or((step, ""));
        match verb {
            "create" => {
                let mut writer = self.client.create(argument.parse().unwrap()).await.unwrap();
                fill(&mut writer);
                self.writer = Some(writer);
                "created".into()
            }
            "seal" => {
                self.objects.push(self.writer.take().unwrap().seal().await.unwrap());
                "sealed".into()
            }
            "share" => {
                let object = self.objects.last().unwrap();
                let reference = match argument {
                    "" => object.share().await,
                    receiver => object.share_with(here(receiver.parse().unwrap())).await,
                };
                format!("shared {}", write_reference(&reference.unwrap()))
            }
            "open" => match self.client.open(&read_reference(argument)).await {
                Ok(object) if is_whole(&object) => {
                    self.objects.push(object);
                    "opened".into()
                }
                Ok(_) => "opened something else".into(),
                Err(error) => format!("failed: {error}"),
            },
            "keep" => {
                let mut region = self.client.keep_region(argument.parse().unwrap()).await.unwrap();
                let len = argument.parse().unwrap();
                fill(&mut region[..len]);
                self.region = Some(region);
                "kept".into()
            }
            "mail" => {
                let region = self.region.take().unwrap();
                let message = region.send_to(argument.parse().unwrap(), MIB);
                format!("mailed {}", write_region(&message))
            }
            "read" => {
                let message = self.client.open_region(&read_region(argument)).await.unwrap();
                assert!(is_whole(&message));
                self.messages.push(message);
                "read".into()
            }
            "drop" => {
                self.objects.clear();
                "dropped".into()
            }
            "announce" => argument.into(),
            other => panic!("no step {other}"),
        }
    }
}
