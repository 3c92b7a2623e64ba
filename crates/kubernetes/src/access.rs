//! The way to a Kubernetes API server, and its errors in words.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use lyceum_cluster::ClusterError;
use lyceum_cluster::manifest::KubernetesSection;

/// Longest wait for a connection, and for an answer.
const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(30);
/// Most of an error that is told, in characters.
const MAX_TOLD: usize = 1000;

/// A namespace of a Kubernetes cluster.
#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) maps: Api<ConfigMap>,
    pub(crate) secrets: Api<Secret>,
    pub(crate) pods: Api<Pod>,
    pub(crate) namespace: String,
    server: String,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("server", &self.server).field("namespace", &self.namespace).finish()
    }
}

impl Access {
    /// Reads who and where; nobody is asked yet.
    pub(crate) async fn of(section: &KubernetesSection) -> Result<Access, ClusterError> {
        let refused =
            |why: String| ClusterError::Refused(format!("the way to Kubernetes is not known: {why}"));
        let options = KubeConfigOptions { context: section.context.clone(), ..KubeConfigOptions::default() };
        let config = match (&section.kubeconfig, &section.context) {
            (Some(path), _) => {
                let file = Kubeconfig::read_from(path).map_err(|error| refused(chain(&error)))?;
                Config::from_custom_kubeconfig(file, &options).await.map_err(|error| chain(&error))
            }
            (None, Some(_)) => Config::from_kubeconfig(&options).await.map_err(|error| chain(&error)),
            (None, None) => Config::infer().await.map_err(|error| chain(&error)),
        };
        let mut config = config.map_err(refused)?;
        config.connect_timeout = Some(CONNECT);
        let namespace = section.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let client = Client::try_from(config).map_err(|error| refused(chain(&error)))?;
        Ok(Access {
            maps: Api::namespaced(client.clone(), &namespace),
            secrets: Api::namespaced(client.clone(), &namespace),
            pods: Api::namespaced(client, &namespace),
            namespace,
            server,
        })
    }

    /// The answer to a request, or why there is none.
    pub(crate) async fn answer<T>(
        &self,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Refusal> {
        match tokio::time::timeout(ANSWER, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(status))) => {
                let mut said = cut(if status.message.is_empty() { &status.reason } else { &status.message });
                if status.code == 403 {
                    said += " (docs/security.md has what must be allowed)";
                }
                Err(Refusal { code: status.code, said })
            }
            Ok(Err(error)) => Err(Refusal { code: 0, said: format!("{} at {}", chain(&error), self.server) }),
            Err(_) => {
                let said = format!("no answer from {} within {} s", self.server, ANSWER.as_secs());
                Err(Refusal { code: 0, said })
            }
        }
    }
}

/// What was not done, and why.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    /// The status of the answer; 0 where there was none.
    code: u16,
    pub(crate) said: String,
}

impl Refusal {
    pub(crate) fn of(said: String) -> Refusal {
        Refusal { code: 0, said }
    }

    pub(crate) fn is_not_found(&self) -> bool {
        self.code == 404
    }

    /// There is one of that name already, or it has changed meanwhile.
    pub(crate) fn is_conflict(&self) -> bool {
        self.code == 409
    }

    pub(crate) fn while_doing(self, doing: &str) -> ClusterError {
        ClusterError::Refused(format!("Kubernetes does not {doing}: {}", self.said))
    }
}

/// An error with its causes, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !said.contains(&words) {
            said = format!("{said}: {words}");
        }
        source = cause.source();
    }
    cut(&said)
}

fn cut(text: &str) -> String {
    text.trim().chars().take(MAX_TOLD).collect()
}
