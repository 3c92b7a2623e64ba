//! `lyceum cert show`, `renew` and `revoke`: what the cluster's processes show each other to prove who they are.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use clap::{Args, Subcommand};
use lyceum_cluster::{CertificateStatus, Certificates, Client};
use lyceum_wire::Fingerprint;
use serde_json::json;

use super::table::table;
use super::{block_on, moment, named_cluster};

/// How long renewed certificates are waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// Digits of a fingerprint that name a certificate.
const DIGITS: usize = 8;

#[derive(Debug, Args)]
pub struct Cert {
    #[command(subcommand)]
    command: CertCommand,
}

#[derive(Debug, Subcommand)]
enum CertCommand {
    /// Show the authority and the certificates that it has issued
    Show(Show),
    /// Renew certificates now; they are renewed in time by themselves, and nothing is started again
    Renew(Renew),
    /// Take the certificates of a node no more: it is cut off, and what runs there is given up
    Revoke(Revoke),
}

#[derive(Debug, Args)]
struct Show {
    /// Name of the cluster, or its manifest; may be left out where only one runs
    cluster: Option<String>,
    /// As JSON, with whole fingerprints
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Renew {
    /// Name of the node, whose agent's and workers' certificates are meant
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    node: Option<String>,
    /// Those of all nodes and of the head
    #[arg(long)]
    all: bool,
    /// Name of the cluster, or its manifest; may be left out where only one runs
    #[arg(long)]
    cluster: Option<String>,
}

#[derive(Debug, Args)]
struct Revoke {
    /// Name of the node, or the first digits of the fingerprint of its agent's certificate, eight or more
    node: String,
    /// Name of the cluster, or its manifest; may be left out where only one runs
    #[arg(long)]
    cluster: Option<String>,
}

impl Cert {
    pub fn run(self) -> Result<ExitCode> {
        match self.command {
            CertCommand::Show(show) => show.run(),
            CertCommand::Renew(renew) => renew.run(),
            CertCommand::Revoke(revoke) => revoke.run(),
        }
    }
}

async fn connect(cluster: Option<&str>) -> Result<Client> {
    let (_, state) = named_cluster(cluster)?;
    Ok(Client::connect(&state).await?)
}

impl Show {
    fn run(self) -> Result<ExitCode> {
        let (found, authority) = block_on(async {
            let client = connect(self.cluster.as_deref()).await?;
            Ok((client.certificates().await?, client.authority()))
        })?;
        match self.json {
            true => println!("{:#}", as_json(&found, authority)),
            false => print!("{}", as_text(&found, authority)),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn as_json(found: &Certificates, authority: Fingerprint) -> serde_json::Value {
    let issued = found.issued.iter().map(|one| {
        json!({
            "role": one.role,
            "node": one.node,
            "incarnation": one.incarnation,
            "fingerprint": Fingerprint(one.fingerprint).to_string(),
            "not_before": one.from,
            "not_after": one.until,
            "revoked": one.revoked,
        })
    });
    let revoked = found.revoked.iter().map(|one| json!({"node": one.node, "below_incarnation": one.before}));
    json!({
        "authority": {"fingerprint": authority.to_string(), "certificate": found.authority},
        "certificates": issued.collect::<Vec<_>>(),
        "omitted": found.omitted,
        "revoked": revoked.collect::<Vec<_>>(),
    })
}

fn as_text(found: &Certificates, authority: Fingerprint) -> String {
    let rows = found.issued.iter().map(|one| {
        vec![
            one.role.clone(),
            one.node.clone(),
            one.incarnation.to_string(),
            Fingerprint(one.fingerprint).to_string()[..2 * DIGITS].to_owned(),
            moment(one.from),
            moment(one.until),
            if one.revoked { "revoked" } else { "" }.to_owned(),
        ]
    });
    let head = ["ROLE", "NODE", "INCARNATION", "FINGERPRINT", "NOT BEFORE", "NOT AFTER", ""];
    let mut text = format!("authority {authority}\n\n{}", table(&head, rows));
    if found.omitted > 0 {
        text += &format!("and {} more\n", found.omitted);
    }
    text
}

impl Renew {
    fn run(self) -> Result<ExitCode> {
        let node = self.node.as_deref();
        let renewed = block_on(async {
            let client = connect(self.cluster.as_deref()).await?;
            let before = agents(&client.certificates().await?);
            let connected: Vec<String> = client
                .status()
                .await?
                .nodes
                .into_iter()
                .filter(|node| node.address.is_some() && node.state.starts_with("joined"))
                .map(|node| node.name)
                .collect();
            client.renew_certificates(node).await?;
            let wanted = || connected.iter().filter(|name| node.is_none_or(|node| node == *name));
            let began = Instant::now();
            loop {
                let now = agents(&client.certificates().await?);
                let waits: Vec<&String> =
                    wanted().filter(|name| now.get(*name) == before.get(*name)).collect();
                if waits.is_empty() {
                    return Ok(wanted().count());
                }
                ensure!(
                    began.elapsed() < PATIENCE,
                    "no new certificate within {} s: {}",
                    PATIENCE.as_secs(),
                    waits.into_iter().cloned().collect::<Vec<_>>().join(", ")
                );
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })?;
        let nodes = if renewed == 1 { "one node".to_owned() } else { format!("{renewed} nodes") };
        println!("the certificates of {nodes}{} are renewed", if self.all { " and of the head" } else { "" });
        Ok(ExitCode::SUCCESS)
    }
}

/// The fingerprints of each agent's certificates.
fn agents(found: &Certificates) -> BTreeMap<String, Vec<[u8; 32]>> {
    let mut agents: BTreeMap<String, Vec<[u8; 32]>> = BTreeMap::new();
    for one in found.issued.iter().filter(|one| one.role == "agent") {
        agents.entry(one.node.clone()).or_default().push(one.fingerprint);
    }
    agents
}

impl Revoke {
    fn run(self) -> Result<ExitCode> {
        let node = block_on(async {
            let client = connect(self.cluster.as_deref()).await?;
            let nodes = client.status().await?.nodes;
            let node = match nodes.iter().any(|known| known.name == self.node) {
                true => self.node.clone(),
                false => {
                    let found = by_fingerprint(&client.certificates().await?, &self.node)?;
                    let newest =
                        nodes.iter().find(|known| known.name == found.node).map(|known| known.incarnation);
                    ensure!(
                        newest == Some(found.incarnation),
                        "that certificate is of incarnation {} of node `{}`, which has been succeeded",
                        found.incarnation,
                        found.node
                    );
                    found.node
                }
            };
            client.revoke(&node, "`lyceum cert revoke`").await?;
            Ok(node)
        })?;
        println!(
            "node `{node}` is cut off; `lyceum token create --node {node}` lets a host in as that node again"
        );
        Ok(ExitCode::SUCCESS)
    }
}

fn by_fingerprint(found: &Certificates, digits: &str) -> Result<CertificateStatus> {
    let named = digits.len() >= DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let digits = digits.to_ascii_lowercase();
    let is_it =
        |one: &&CertificateStatus| named && Fingerprint(one.fingerprint).to_string().starts_with(&digits);
    let mut all = found.issued.iter().filter(is_it);
    match (all.next(), all.next()) {
        (Some(one), None) if one.role == "agent" => Ok(one.clone()),
        (Some(one), None) => bail!("that is the certificate of a {}: revoke that of its node", one.role),
        (Some(_), Some(_)) => bail!("several certificates begin with {digits}: give more digits"),
        (None, _) => bail!("there is no node `{digits}`, and no certificate whose fingerprint begins so"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(role: &str, first: u8) -> CertificateStatus {
        let mut fingerprint = [0xab; 32];
        fingerprint[4] = first;
        let (role, node) = (role.to_owned(), "b".to_owned());
        CertificateStatus { role, node, incarnation: 3, fingerprint, from: 0, until: 86_400, revoked: true }
    }

    fn found() -> Certificates {
        let issued = vec![certificate("agent", 1), certificate("agent", 2), certificate("worker", 3)];
        Certificates { authority: "PEM".into(), issued, omitted: 2, revoked: Vec::new() }
    }

    #[test]
    fn a_certificate_is_found_by_the_first_digits_of_its_fingerprint() {
        assert_eq!(by_fingerprint(&found(), "ABABABAB01").unwrap(), certificate("agent", 1));
        let error = |digits| by_fingerprint(&found(), digits).unwrap_err().to_string();
        assert!(error("abababab").contains("give more digits"));
        assert!(error("abababab03").contains("a worker: revoke that of its node"));
        for digits in ["abab", "node-b", "ffffffff"] {
            assert!(error(digits).contains("there is no node"), "{digits}");
        }
    }

    #[test]
    fn certificates_are_shown_as_a_table_and_as_json() {
        let text = as_text(&found(), Fingerprint([1; 32]));
        assert!(text.starts_with(&format!("authority {}\n\nROLE ", "01".repeat(32))), "{text}");
        assert!(
            text.contains("b     3            abababab01ababab  1970-01-01 00:00  1970-01-02 00:00  revoked"),
            "{text}"
        );
        assert!(text.ends_with("and 2 more\n"), "{text}");
        let json = as_json(&found(), Fingerprint([1; 32]));
        assert_eq!(json["certificates"][2]["role"], "worker");
        assert_eq!(json["certificates"][0]["fingerprint"].as_str().map(str::len), Some(64));
        assert_eq!(json["authority"]["certificate"], "PEM");
    }
}
