//! `lyceum token create`, `list` and `revoke`, and `lyceum join TOKEN`: hosts that become nodes without a copied key.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use lyceum_cluster::launch::{self, JoinOptions};
use lyceum_cluster::state::StateDir;
use lyceum_cluster::{Client, JoinToken};

use super::table::table;
use super::{block_on, moment, named_cluster, say};

#[derive(Debug, Args)]
pub struct Token {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token that lets one host in as a node, once; it is printed, and shown nowhere again
    Create(Create),
    /// Show the tokens that are known, without their secrets
    List(List),
    /// Let nobody in with a token any more
    Revoke(Revoke),
}

#[derive(Debug, Args)]
struct Create {
    /// Name of the node
    #[arg(long)]
    node: String,
    /// How long it may be used, as in 90s, 15m, 2h or 7d; 30d at most
    #[arg(long, default_value = "15m", value_parser = duration)]
    ttl: Duration,
    /// Name of the cluster, or its manifest; may be left out where only one runs
    #[arg(long)]
    cluster: Option<String>,
}

#[derive(Debug, Args)]
struct List {
    /// Name of the cluster, or its manifest; may be left out where only one runs
    cluster: Option<String>,
}

#[derive(Debug, Args)]
struct Revoke {
    /// Its number, as `lyceum token list` shows it
    id: String,
    /// Name of the cluster, or its manifest; may be left out where only one runs
    #[arg(long)]
    cluster: Option<String>,
}

impl Token {
    pub fn run(self) -> Result<ExitCode> {
        match self.command {
            TokenCommand::Create(create) => create.run(),
            TokenCommand::List(list) => list.run(),
            TokenCommand::Revoke(revoke) => revoke.run(),
        }
    }
}

impl Create {
    fn run(self) -> Result<ExitCode> {
        let token = block_on(async {
            let (_, state) = named_cluster(self.cluster.as_deref())?;
            Ok(Client::connect(&state).await?.create_token(&self.node, self.ttl).await?)
        })?;
        let end = SystemTime::now() + self.ttl;
        let end = end.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        say(&format!(
            "token {:016x} lets one host in as node `{}` until {} UTC:",
            token.id,
            self.node,
            moment(end)
        ));
        if token.heads.iter().all(|head| head.ip().is_loopback()) {
            say(
                "the head listens for this machine alone: others reach it where `head.bind` or `head.interface` says",
            );
        }
        println!("{token}");
        say("on that host: lyceum join TOKEN");
        Ok(ExitCode::SUCCESS)
    }
}

impl List {
    fn run(self) -> Result<ExitCode> {
        let tokens = block_on(async {
            let (_, state) = named_cluster(self.cluster.as_deref())?;
            Ok(Client::connect(&state).await?.tokens().await?)
        })?;
        let rows = tokens.into_iter().map(|token| {
            vec![format!("{:016x}", token.id), token.node, moment(token.expires / 1000), token.state]
        });
        print!("{}", table(&["TOKEN", "NODE", "EXPIRES", "STATE"], rows));
        Ok(ExitCode::SUCCESS)
    }
}

impl Revoke {
    fn run(self) -> Result<ExitCode> {
        let id = number(&self.id)?;
        block_on(async {
            let (_, state) = named_cluster(self.cluster.as_deref())?;
            Ok(Client::connect(&state).await?.revoke_token(id).await?)
        })?;
        println!("token {id:016x} lets nobody in any more");
        Ok(ExitCode::SUCCESS)
    }
}

/// The number of a token; whoever gives the token itself means that.
fn number(text: &str) -> Result<u64> {
    if let Ok(token) = text.parse::<JoinToken>() {
        return Ok(token.id);
    }
    match text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Ok(u64::from_str_radix(text, 16)?),
        false => bail!("`{text}`: expected the 16 hexadecimal digits of a token's number"),
    }
}

/// A length of time as a person writes it: a whole number and a unit.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let seconds = match &text[split..] {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        "d" => Some(86_400),
        _ => None,
    };
    let number = text[..split].parse::<u64>().ok();
    let whole = number.zip(seconds).and_then(|(number, seconds)| number.checked_mul(seconds));
    let whole = whole.filter(|seconds| (1..=30 * 86_400).contains(seconds));
    whole
        .map(Duration::from_secs)
        .ok_or_else(|| "expected a time up to 30d, as in 90s, 15m, 2h or 7d".to_owned())
}

#[derive(Debug, Args)]
pub struct Join {
    /// The token that `lyceum token create` printed; `-` reads it from the standard input
    token: String,
    /// Address to listen on; without it and --interface, what the manifest says, or the one from which the head is reached
    #[arg(long, conflicts_with = "interface")]
    bind: Option<IpAddr>,
    /// Network interface whose address to listen on
    #[arg(long)]
    interface: Option<String>,
    /// Address that others reach this host by, where that is not the one it listens on
    #[arg(long)]
    advertise: Option<IpAddr>,
    /// Folder for this host's key and logs [default: that of the cluster's name, of this user]
    #[arg(long)]
    state: Option<PathBuf>,
}

impl Join {
    pub fn run(self) -> Result<ExitCode> {
        let text = match self.token.as_str() {
            "-" => std::io::read_to_string(std::io::stdin()).context("the token cannot be read")?,
            _ => self.token,
        };
        let token: JoinToken = text.parse().map_err(anyhow::Error::msg)?;
        let standing = JoinOptions::standing(&token)?;
        let state = self.state.map_or(standing.state.clone(), StateDir::at);
        let options = JoinOptions {
            state,
            bind: self.bind,
            interface: self.interface,
            advertise: self.advertise,
            ..standing
        };
        let joined = block_on(async { Ok(launch::join(&token, options).await?) })?;
        println!(
            "this host is node `{}` of cluster `{}`, incarnation {}: process {}, whose log is {}",
            joined.node,
            token.cluster,
            joined.incarnation,
            joined.pid,
            joined.log.display()
        );
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_and_a_unit_within_bounds() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("2h", 7200), ("30d", 2_592_000)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in
            ["", "15", "m", "0s", "31d", "1.5h", "-1s", "15 m", "99999999999999999999d", "9999999999999999d"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_tokens_number_is_read_as_it_is_shown() {
        assert_eq!(number("00000000000012ab").unwrap(), 0x12ab);
        for text in ["12ab", "", "zz000000000012ab", "+0000000000012ab"] {
            assert!(number(text).is_err(), "{text}");
        }
    }
}
