//! Clusters whose nodes are pods, of a [double](double) of Kubernetes.

#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod double;
mod harness;
mod kubectl;
mod launching;
mod refusals;
