//! A double of Kubernetes: no API server can be had where these tests run.
//!
//! It is as much of one as the launcher touches, and no more: an API server for config maps, secrets and pods (HTTPS with a
//! bearer token, strict about fields, with lists by label, watches, owners and graceful deletion), and one host whose pods'
//! containers are **processes of this machine**. They see no other root folder: where a command names a path on which a
//! volume is mounted, it is given the volume's folder instead. Users, capabilities, limits and image are looked at and not
//! enforced. What a real API server would refuse beyond unknown fields is not refused here.

mod api;
mod host;
mod objects;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::Value;
use tokio::sync::watch;

use self::host::Host;
use self::objects::Objects;

/// The image that there is.
pub const IMAGE: &str = "registry.example/lyceum:1";
/// The user's token.
const TOKEN: &str = "the-users-token";

/// A running double. Its pods' processes end with it.
pub struct Kubernetes {
    pub folder: tempfile::TempDir,
    world: Arc<World>,
    server: Option<(tokio::sync::oneshot::Sender<()>, std::thread::JoinHandle<()>)>,
}

/// What the parts of the double share.
struct World {
    objects: Mutex<Objects>,
    /// Counts changes, for those who wait for one.
    changes: watch::Sender<u64>,
    host: Host,
}

impl Kubernetes {
    /// Starts it on a port of its own; `program` is what the image has as `lyceum`.
    pub fn start(program: &str) -> Kubernetes {
        let folder = tempfile::tempdir().unwrap();
        let host = Host::new(folder.path().join("pods"), PathBuf::from(program));
        let world = Arc::new(World { objects: Mutex::default(), changes: watch::Sender::new(0), host });
        let server = api::serve(world.clone(), folder.path());
        Kubernetes { folder, world, server: Some(server) }
    }

    /// A kubeconfig file for its user.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// What is there of a kind (`pods`), by name.
    pub fn all(&self, plural: &str) -> Vec<Value> {
        self.objects().of(plural)
    }

    /// The object of that kind and name.
    pub fn get(&self, plural: &str, name: &str) -> Option<Value> {
        self.all(plural).into_iter().find(|object| object["metadata"]["name"] == name)
    }

    /// Makes the user one who may not do this.
    pub fn forbid(&self, verb: &str, plural: &str) {
        self.objects().forbidden = Some((verb.to_owned(), plural.to_owned()));
    }

    /// The opposite.
    pub fn allow_all(&self) {
        self.objects().forbidden = None;
    }

    /// The process of a pod's container, while it runs.
    pub fn process(&self, pod: &str) -> Option<u32> {
        self.world.host.process(self.get("pods", pod)?["metadata"]["uid"].as_str()?)
    }

    /// The folder with a pod's volumes and log.
    pub fn pod_folder(&self, pod: &str) -> PathBuf {
        let uid = self.get("pods", pod).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
        self.folder.path().join("pods").join(uid)
    }

    /// Kills a pod's container, for that reason of Kubernetes's (`OOMKilled`).
    pub fn kill(&self, pod: &str, reason: &str) {
        let uid = self.get("pods", pod).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
        self.world.host.kill(&uid, reason);
    }

    /// Deletes an object, as somebody else would.
    pub fn delete(&self, plural: &str, name: &str) {
        self.world.delete("default", plural, name).unwrap();
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.world.objects.lock().unwrap()
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        self.world.host.end_all();
        if let Some((stop, thread)) = self.server.take() {
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

impl World {
    /// Tells those who wait that something has changed.
    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

/// Writes a kubeconfig file for the server at `address` with the CA certificate `ca`.
fn write_kubeconfig(path: &Path, address: std::net::SocketAddr, ca: &str) {
    use base64::Engine as _;
    let ca = base64::engine::general_purpose::STANDARD.encode(ca);
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
         clusters:\n- name: double\n  cluster:\n    server: https://{address}\n    certificate-authority-data: {ca}\n\
         users:\n- name: tester\n  user:\n    token: {TOKEN}\n- name: stranger\n  user:\n    token: nobodys\n\
         contexts:\n- name: test\n  context: {{ cluster: double, user: tester }}\n\
         - name: strange\n  context: {{ cluster: double, user: stranger }}\n"
    );
    std::fs::write(path, text).unwrap();
}
