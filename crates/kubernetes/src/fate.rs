//! What has become of a pod: its status in words. A pure function.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, Pod, PodStatus};

/// Most lines and characters of what a container left behind.
const MAX_LINES: usize = 12;
const MAX_TOLD: usize = 1000;

/// Waiting of these kinds does not end by itself.
const HOPELESS: [&str; 6] = [
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "ImageInspectError",
    "CreateContainerConfigError",
    "CreateContainerError",
];

/// What has become of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It waits for a host or its image; for what, as Kubernetes says it.
    Waits(String),
    /// Its agent runs.
    Runs,
    /// Its agent has ended, or will not start: the rest of a sentence that begins with the agent, and the end of its log.
    Over { how: String, log: Vec<String> },
}

impl Fate {
    pub(crate) fn of(pod: &Pod) -> Fate {
        let default = PodStatus::default();
        let status = pod.status.as_ref().unwrap_or(&default);
        let container = status.container_statuses.iter().flatten().next().and_then(|it| it.state.as_ref());
        let phase = status.phase.as_deref().unwrap_or("Pending");
        match container {
            Some(ContainerState { terminated: Some(end), .. }) => Fate::ended(status, Some(end)),
            _ if ["Succeeded", "Failed"].contains(&phase) => Fate::ended(status, None),
            _ if pod.metadata.deletion_timestamp.is_some() => Fate::over(match disruption(status) {
                Some(why) => format!("is being ended by Kubernetes: {why}"),
                None => "is being ended: its pod was deleted".to_owned(),
            }),
            Some(ContainerState { waiting: Some(waiting), .. }) => {
                let reason = waiting.reason.as_deref().unwrap_or("waiting");
                let said = with_message(reason, waiting.message.as_deref());
                match HOPELESS.contains(&reason) {
                    true => Fate::over(format!("was not started: {said}")),
                    false => Fate::Waits(said),
                }
            }
            Some(ContainerState { running: Some(_), .. }) => Fate::Runs,
            // A status without any: nothing is known of its container yet.
            _ if phase == "Running" => Fate::Runs,
            _ => Fate::Waits(unscheduled(status).unwrap_or_else(|| phase.to_owned())),
        }
    }

    /// Whose pod is there no more.
    pub(crate) fn gone() -> Fate {
        Fate::over("has ended: its pod was deleted")
    }

    fn over(how: impl Into<String>) -> Fate {
        Fate::Over { how: how.into(), log: Vec::new() }
    }

    fn ended(status: &PodStatus, end: Option<&ContainerStateTerminated>) -> Fate {
        // That of the pod (`Evicted`), or else of its container (`OOMKilled`).
        let why = status.reason.as_deref().map(|reason| with_message(reason, status.message.as_deref()));
        let why = why.or_else(|| disruption(status));
        let code = end.map(|end| match (end.reason.as_deref(), end.signal.filter(|signal| *signal != 0)) {
            (Some("OOMKilled"), _) => {
                format!("OOMKilled: it used more memory than its pod may (exit code {})", end.exit_code)
            }
            (_, Some(signal)) => format!("signal {signal}"),
            (None | Some("Error" | "Completed"), None) => format!("exit code {}", end.exit_code),
            (Some(reason), None) => format!("{reason} (exit code {})", end.exit_code),
        });
        let how = [why, code].into_iter().flatten().collect::<Vec<_>>().join("; ");
        let how = if how.is_empty() { "has ended".to_owned() } else { format!("has ended: {how}") };
        let message = end.and_then(|end| end.message.as_deref()).unwrap_or_default();
        Fate::Over { how, log: last_lines(message) }
    }
}

/// Why it was made to end by another than its user: preempted, drained, lost with its host.
fn disruption(status: &PodStatus) -> Option<String> {
    let told = status.conditions.iter().flatten();
    let target = told.into_iter().find(|it| it.type_ == "DisruptionTarget" && it.status == "True")?;
    Some(with_message(target.reason.as_deref().unwrap_or("a disruption"), target.message.as_deref()))
}

/// For what a pod without a host waits.
fn unscheduled(status: &PodStatus) -> Option<String> {
    let told = status.conditions.iter().flatten();
    let scheduled = told.into_iter().find(|it| it.type_ == "PodScheduled" && it.status == "False")?;
    Some(with_message(scheduled.reason.as_deref().unwrap_or("not scheduled"), scheduled.message.as_deref()))
}

fn with_message(reason: &str, message: Option<&str>) -> String {
    match message.map(|message| message.trim()).filter(|message| !message.is_empty()) {
        Some(message) => format!("{reason}: {}", message.chars().take(MAX_TOLD).collect::<String>()),
        None => reason.to_owned(),
    }
}

/// The last lines of a log, oldest first.
pub(crate) fn last_lines(log: &str) -> Vec<String> {
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let from = lines.len().saturating_sub(MAX_LINES);
    lines[from..].iter().map(|line| line.chars().take(MAX_TOLD).collect()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

    use serde_json::{Value, json};

    use super::*;

    fn fate(status: Value) -> Fate {
        Fate::of(&serde_json::from_value(json!({ "metadata": {}, "status": status })).unwrap())
    }

    fn over(how: &str, log: &[&str]) -> Fate {
        Fate::Over { how: how.to_owned(), log: log.iter().map(|line| (*line).to_owned()).collect() }
    }

    fn container(state: Value) -> Value {
        json!([{ "name": "agent", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state }])
    }

    #[test]
    fn a_pod_that_waits_says_for_what() {
        assert_eq!(fate(json!({})), Fate::Waits("Pending".into()));
        let few = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.";
        let condition =
            json!([{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": few }]);
        assert_eq!(
            fate(json!({ "phase": "Pending", "conditions": condition })),
            Fate::Waits(format!("Unschedulable: {few}"))
        );
        let creating = container(json!({ "waiting": { "reason": "ContainerCreating" } }));
        assert_eq!(
            fate(json!({ "phase": "Pending", "containerStatuses": creating })),
            Fate::Waits("ContainerCreating".into())
        );
        // The first failure to pull may be the registry's; the next is called otherwise.
        let pulling = container(json!({ "waiting": { "reason": "ErrImagePull", "message": "timeout" } }));
        assert_eq!(
            fate(json!({ "phase": "Pending", "containerStatuses": pulling })),
            Fate::Waits("ErrImagePull: timeout".into())
        );
    }

    #[test]
    fn a_pod_whose_waiting_has_no_end_is_over() {
        let waiting =
            json!({ "waiting": { "reason": "ImagePullBackOff", "message": "Back-off pulling image" } });
        assert_eq!(
            fate(json!({ "phase": "Pending", "containerStatuses": container(waiting) })),
            over("was not started: ImagePullBackOff: Back-off pulling image", &[])
        );
    }

    #[test]
    fn a_pod_that_has_ended_says_how() {
        let ended = |end: Value| {
            fate(json!({ "phase": "Failed", "containerStatuses": container(json!({ "terminated": end })) }))
        };
        assert_eq!(
            ended(json!({ "exitCode": 1, "reason": "Error", "message": "one\n\nerror: two\n" })),
            over("has ended: exit code 1", &["one", "error: two"])
        );
        assert_eq!(
            ended(json!({ "exitCode": 137, "reason": "OOMKilled" })),
            over("has ended: OOMKilled: it used more memory than its pod may (exit code 137)", &[])
        );
        assert_eq!(
            ended(json!({ "exitCode": 128, "reason": "StartError", "message": "no such file" })),
            over("has ended: StartError (exit code 128)", &["no such file"])
        );
        assert_eq!(ended(json!({ "exitCode": 137, "signal": 9 })), over("has ended: signal 9", &[]));
        assert_eq!(fate(json!({ "phase": "Succeeded" })), over("has ended", &[]));
        assert_eq!(
            fate(
                json!({ "phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory. " })
            ),
            over("has ended: Evicted: The node was low on resource: memory.", &[])
        );
        let preempted =
            json!([{ "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler" }]);
        assert_eq!(
            fate(json!({ "phase": "Failed", "conditions": preempted })),
            over("has ended: PreemptionByScheduler", &[])
        );
    }

    #[test]
    fn a_pod_that_is_being_deleted_is_over_though_it_runs_yet() {
        let pod = |conditions: Value| {
            let metadata = json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" });
            let running = container(json!({ "running": {} }));
            let status =
                json!({ "phase": "Running", "containerStatuses": running, "conditions": conditions });
            Fate::of(&serde_json::from_value(json!({ "metadata": metadata, "status": status })).unwrap())
        };
        assert_eq!(pod(json!([])), over("is being ended: its pod was deleted", &[]));
        let drained = json!([{ "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
                               "message": "Eviction API: evicting" }]);
        assert_eq!(
            pod(drained),
            over("is being ended by Kubernetes: EvictionByEvictionAPI: Eviction API: evicting", &[])
        );
    }

    #[test]
    fn only_the_end_of_a_log_is_kept() {
        let log: String = (0..40).map(|line| format!("line {line}\n")).collect();
        let kept = last_lines(&log);
        assert_eq!((kept.len(), &*kept[11]), (MAX_LINES, "line 39"));
    }
}
