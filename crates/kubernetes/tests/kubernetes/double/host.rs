//! The host of the double's pods: their containers are processes of this machine.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use base64::Engine as _;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

use super::{IMAGE, World};

pub struct Host {
    folder: PathBuf,
    /// What the image has as `lyceum`.
    program: PathBuf,
    /// By the pods' uid.
    running: Mutex<BTreeMap<String, Running>>,
}

struct Running {
    pid: u32,
    /// Why it is killed.
    reason: Option<String>,
    /// When it is killed, should it not have ended.
    kill_at: Option<Instant>,
}

impl Host {
    pub fn new(folder: PathBuf, program: PathBuf) -> Host {
        Host { folder, program, running: Mutex::default() }
    }

    pub fn process(&self, uid: &str) -> Option<u32> {
        self.running.lock().unwrap().get(uid).map(|running| running.pid)
    }

    pub fn kill(&self, uid: &str, reason: &str) {
        let mut running = self.running.lock().unwrap();
        let pod = running.get_mut(uid).expect("it runs");
        pod.reason = Some(reason.to_owned());
        signal(pod.pid, Signal::KILL);
    }

    /// Asks a pod to end, and has it killed after that many seconds.
    pub fn end(&self, uid: &str, grace: u64) {
        let mut running = self.running.lock().unwrap();
        let Some(pod) = running.get_mut(uid) else { return };
        signal(pod.pid, Signal::TERM);
        pod.kill_at.get_or_insert(Instant::now() + Duration::from_secs(grace));
    }

    pub fn end_all(&self) {
        let running = self.running.lock().unwrap();
        running.values().for_each(|running| signal(running.pid, Signal::KILL));
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(pid, signal);
    }
}

/// A pod, as far as its status is written.
#[derive(Clone)]
struct Named {
    namespace: String,
    name: String,
    uid: String,
}

impl World {
    /// Schedules a pod and starts its container, or says in its status why not.
    #[allow(clippy::zombie_processes, reason = "it is waited for by its number")]
    pub fn run(&self, pod: &Value) {
        let meta = &pod["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let named =
            Named { namespace: text(&meta["namespace"]), name: text(&meta["name"]), uid: text(&meta["uid"]) };
        let (spec, container) = (&pod["spec"], &pod["spec"]["containers"][0]);
        if let Some(why) = unschedulable(spec, container) {
            let condition = json!([{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why }]);
            self.set(&named, json!({ "phase": "Pending", "conditions": condition }));
            return;
        }
        self.change(&named.namespace, "pods", &named.name, &named.uid, |pod| {
            pod["spec"]["nodeName"] = json!("host-1")
        });
        let image = container["image"].as_str().unwrap_or_default();
        if image != IMAGE {
            for (reason, message) in [
                ("ErrImagePull", format!("failed to pull and unpack image \"{image}\": not found")),
                ("ImagePullBackOff", format!("Back-off pulling image \"{image}\"")),
            ] {
                let waiting = json!({ "waiting": { "reason": reason, "message": message } });
                self.set(&named, status("Pending", waiting));
            }
            return;
        }
        let folder = self.host.folder.join(&named.uid);
        let mounts = self.volumes(&named, spec, container, &folder);
        let child = start(&self.host.program, container, &mounts, &folder);
        let running = Running { pid: child.id(), reason: None, kill_at: None };
        self.host.running.lock().unwrap().insert(named.uid.clone(), running);
        self.set(&named, status("Running", json!({ "running": { "startedAt": "2026-01-01T00:00:00Z" } })));
    }

    fn set(&self, pod: &Named, status: Value) {
        self.change(&pod.namespace, "pods", &pod.name, &pod.uid, |pod| pod["status"] = status);
    }

    /// Makes the folders of a pod's volumes; which path each is mounted on.
    fn volumes(
        &self,
        pod: &Named,
        spec: &Value,
        container: &Value,
        folder: &Path,
    ) -> BTreeMap<String, PathBuf> {
        let mut mounts = BTreeMap::new();
        for mount in container["volumeMounts"].as_array().into_iter().flatten() {
            let volume = spec["volumes"].as_array().into_iter().flatten();
            let volume = volume.into_iter().find(|volume| volume["name"] == mount["name"]).expect("a volume");
            let at = folder.join(mount["name"].as_str().unwrap());
            fs::create_dir_all(&at).unwrap();
            if let Some(secret) = volume["secret"]["secretName"].as_str() {
                let key = ("secrets".to_owned(), pod.namespace.clone(), secret.to_owned());
                let secret = self.objects.lock().unwrap().get(&key).expect("the secret is there");
                let mode = volume["secret"]["defaultMode"].as_u64().unwrap_or(0o644) as u32;
                for (name, data) in secret["data"].as_object().into_iter().flatten() {
                    let data =
                        base64::engine::general_purpose::STANDARD.decode(data.as_str().unwrap()).unwrap();
                    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(at.join(name));
                    file.unwrap().write_all(&data).unwrap();
                }
            }
            mounts.insert(mount["mountPath"].as_str().unwrap().to_owned(), at);
        }
        mounts
    }

    /// Notes which containers have ended.
    pub fn watch_containers(&self) {
        let ended: Vec<(String, u32)> = {
            let running = self.host.running.lock().unwrap();
            let late = |running: &&Running| running.kill_at.is_some_and(|at| at < Instant::now());
            running.values().filter(late).for_each(|running| signal(running.pid, Signal::KILL));
            running.iter().map(|(uid, running)| (uid.clone(), running.pid)).collect()
        };
        for (uid, pid) in ended {
            let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { continue };
            let waited = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG);
            let Ok(Some((_, how))) = waited else { continue };
            self.container_ended(&uid, ExitStatus::from_raw(how.as_raw()));
        }
    }

    fn container_ended(&self, uid: &str, how: ExitStatus) {
        let Some(running) = self.host.running.lock().unwrap().remove(uid) else { return };
        let folder = self.host.folder.join(uid);
        let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
        let code = how.code().or_else(|| how.signal().map(|signal| 128 + signal)).unwrap_or(255);
        let reason = running.reason.as_deref().unwrap_or(if code == 0 { "Completed" } else { "Error" });
        let mut end = json!({ "exitCode": code, "reason": reason });
        if code != 0 && !log.is_empty() {
            end["message"] = json!(log);
        }
        let pods = self.objects.lock().unwrap().of("pods");
        let Some(pod) = pods.into_iter().find(|pod| pod["metadata"]["uid"] == uid) else { return };
        let text = |name: &str| pod["metadata"][name].as_str().unwrap().to_owned();
        let named = Named { namespace: text("namespace"), name: text("name"), uid: uid.to_owned() };
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        self.set(&named, status(phase, json!({ "terminated": end })));
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            self.remove(&named.namespace, "pods", &named.name, uid);
        }
    }

    /// What a pod's container has written.
    pub fn log(&self, pod: &Value) -> String {
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
        fs::read_to_string(self.host.folder.join(uid).join("log")).unwrap_or_default()
    }
}

/// Why no host takes it. There is one, without GPUs and with no label but its system's.
fn unschedulable(spec: &Value, container: &Value) -> Option<String> {
    let selector = spec["nodeSelector"].as_object().into_iter().flatten();
    if selector.into_iter().any(|(name, value)| name != "kubernetes.io/os" || value != "linux") {
        return Some(
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.".to_owned(),
        );
    }
    let requests = container["resources"]["requests"].as_object().into_iter().flatten();
    let lacking = requests.into_iter().find(|(name, _)| !["cpu", "memory"].contains(&name.as_str()));
    lacking.map(|(name, _)| format!("0/1 nodes are available: 1 Insufficient {name}."))
}

fn status(phase: &str, state: Value) -> Value {
    let ready = phase == "Running";
    let container = json!({ "name": "agent", "image": "", "imageID": "", "ready": ready, "restartCount": 0, "state": state });
    json!({ "phase": phase, "podIP": "127.0.0.1", "containerStatuses": [container] })
}

fn start(program: &Path, container: &Value, mounts: &BTreeMap<String, PathBuf>, folder: &Path) -> Child {
    let words = container["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap());
    let within = |word: &str| {
        let mount = mounts.iter().find(|(path, _)| word == *path || word.starts_with(&format!("{path}/")));
        mount.map_or(word.to_owned(), |(path, at)| format!("{}{}", at.display(), &word[path.len()..]))
    };
    let words: Vec<String> = words.map(within).collect();
    assert_eq!(words[0], "lyceum", "what the image has");
    let log = File::create(folder.join("log")).unwrap();
    let mut command = Command::new(program);
    command.args(&words[1..]).env_clear().process_group(0);
    for variable in container["env"].as_array().into_iter().flatten() {
        command.env(variable["name"].as_str().unwrap(), variable["value"].as_str().unwrap());
    }
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    command.spawn().unwrap()
}
