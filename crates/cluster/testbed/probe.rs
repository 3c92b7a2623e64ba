//! The role that the tests spawn, and its implementation.

use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use lyceum_actor::{
    Accepts, Actor, ActorAddress, ActorRef, Context, Handler, Incoming, Lifetime, Registry, Responder, Role,
};
use lyceum_cluster::ClusterError;
use lyceum_cluster::launch::{self, UpOptions};
use lyceum_cluster::manifest::Manifest;
use lyceum_cluster::state::StateDir;
use rkyv::{Archive, Deserialize, Serialize};

/// Tells what its process was given; misbehaves when asked to.
pub struct Probe;

impl Role for Probe {
    const NAME: &'static str = "probe";
    type Args = String;
    type Messages = (Look, Misbehave, AskOther, SpawnAnother, Echo, Hold, Held, LetGo, WaitOn, Save);
}

/// What do you see?
#[derive(Archive, Serialize, Deserialize, Debug, Clone)]
pub struct Look {
    pub variables: Vec<String>,
}

/// What a process sees of itself.
#[derive(Archive, Serialize, Deserialize, Debug, Clone)]
pub struct Sight {
    pub pid: u32,
    pub parent: u32,
    pub group: u32,
    pub greeting: String,
    pub cores: Vec<u32>,
    pub variables: Vec<Option<String>>,
    pub store_holder: u64,
    /// What an earlier life has saved.
    pub saved: Option<String>,
}

/// Save this for your next life.
#[derive(Archive, Serialize, Deserialize, Debug, Clone)]
pub struct Save(pub String);

/// Do something bad.
#[derive(Archive, Serialize, Deserialize, Debug, Clone)]
pub enum Misbehave {
    /// Say this to stderr and end the process with this code.
    Exit(i32, String),
    /// Take this much memory, in bytes, and touch it.
    Hoard(u64),
    /// Panic in the handler.
    Panic(String),
    /// Spin for this many milliseconds.
    Spin(u64),
    /// Start a process that does nothing and never ends.
    Beget,
    /// Come to your end.
    Finish,
}

/// Ask that probe to look, and give me its answer, or its error in words.
#[derive(Archive, Serialize, Deserialize, Debug, Clone)]
pub struct AskOther {
    pub other: ActorAddress,
    pub what: Question,
}

/// What to ask the other.
#[derive(Archive, Serialize, Deserialize, Debug, Clone)]
pub enum Question {
    /// Its greeting.
    Greeting,
    /// To spin for an hour: only its end ends that.
    Spin,
    /// To send back this many bytes.
    Echo(u32),
}

/// Send this back.
#[derive(Archive, Serialize, Deserialize, Debug, Clone)]
pub struct Echo {
    pub bytes: Vec<u8>,
}

/// Give no answer before you are told to let go.
#[derive(Archive, Serialize, Deserialize, Debug, Clone)]
pub struct Hold;

/// How many wait for you to let go?
#[derive(Archive, Serialize, Deserialize, Debug, Clone)]
pub struct Held;

/// Answer all that wait.
#[derive(Archive, Serialize, Deserialize, Debug, Clone)]
pub struct LetGo;

/// Have that probe hold so many calls of yours at once, and tell how each of them ended.
#[derive(Archive, Serialize, Deserialize, Debug, Clone)]
pub struct WaitOn {
    pub other: ActorAddress,
    pub calls: u32,
}

/// How a call ended.
#[derive(Archive, Serialize, Deserialize, Debug, Clone)]
pub struct Ended {
    /// "answered", or the error.
    pub words: String,
    /// On [`clock`].
    pub at: u64,
}

/// Nanoseconds on a clock that all processes of this machine share.
pub fn clock() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Calls `probe`, which holds the call, and tells how that ended.
pub async fn hold(probe: ActorRef<Probe>) -> Ended {
    let answer = probe.ask(Hold).await;
    let at = clock();
    Ended { words: answer.map_or_else(|error| error.to_string(), |_| "answered".to_owned()), at }
}

/// Spawn a probe in a process of its own; with `bound` one that is named `child` and ends with its spawner.
#[derive(Archive, Serialize, Deserialize, Debug, Clone)]
pub struct SpawnAnother {
    pub node: String,
    pub bound: bool,
}

impl Accepts<Look> for Probe {
    type Reply = Sight;
}
impl Accepts<Misbehave> for Probe {
    type Reply = ();
}
impl Accepts<AskOther> for Probe {
    type Reply = String;
}
impl Accepts<Echo> for Probe {
    type Reply = Vec<u8>;
}
impl Accepts<SpawnAnother> for Probe {
    type Reply = String;
}
impl Accepts<Hold> for Probe {
    type Reply = ();
}
impl Accepts<Held> for Probe {
    type Reply = u32;
}
impl Accepts<LetGo> for Probe {
    type Reply = ();
}
impl Accepts<Save> for Probe {
    type Reply = ();
}
impl Accepts<WaitOn> for Probe {
    type Reply = Vec<Ended>;
}

struct Process {
    greeting: String,
    saved: Option<String>,
    hoard: Vec<Vec<u8>>,
    held: Vec<Responder<()>>,
}

impl Actor for Process {
    type Role = Probe;
    const PROGRESS: Duration = Duration::from_secs(1);

    async fn start(greeting: String, ctx: &mut Context<Self>) -> lyceum_actor::Result<Self> {
        eprintln!("a probe starts with {greeting:?}");
        if let Some(why) = greeting.strip_prefix("fail: ") {
            return Err(std::io::Error::other(why.to_owned()).into());
        }
        Ok(Process { greeting, saved: ctx.saved()?, hoard: Vec::new(), held: Vec::new() })
    }
}

impl Handler<Look> for Process {
    async fn handle(
        &mut self,
        look: Incoming<Look>,
        _ctx: &mut Context<Self>,
    ) -> lyceum_actor::Result<Sight> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim().to_owned()
        };
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        let after = stat.rsplit_once(')').map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        let group = after.split_whitespace().nth(2).and_then(|group| group.parse().ok()).unwrap_or_default();
        Ok(Sight {
            pid: std::process::id(),
            parent: std::os::unix::process::parent_id(),
            group,
            greeting: self.greeting.clone(),
            cores: core_list(&field("Cpus_allowed_list:")),
            variables: look.variables.iter().map(|name| std::env::var(name.as_str()).ok()).collect(),
            store_holder: lyceum_cluster::worker::store().map_or(0, |store| store.holder()),
            saved: self.saved.clone(),
        })
    }
}

impl Handler<Misbehave> for Process {
    async fn handle(
        &mut self,
        how: Incoming<Misbehave>,
        ctx: &mut Context<Self>,
    ) -> lyceum_actor::Result<()> {
        let how = how.read()?;
        match how {
            Misbehave::Exit(code, words) => {
                eprintln!("{words}");
                std::process::exit(code);
            }
            Misbehave::Hoard(bytes) => {
                for _ in 0..bytes >> 20 {
                    self.hoard.push(vec![1; 1 << 20]);
                    std::thread::sleep(std::time::Duration::from_micros(500));
                }
            }
            Misbehave::Panic(words) => panic!("{words}"),
            Misbehave::Spin(milliseconds) => {
                let began = std::time::Instant::now();
                while began.elapsed().as_millis() < u128::from(milliseconds) {
                    std::hint::spin_loop();
                }
            }
            Misbehave::Beget => drop(std::process::Command::new("sleep").arg("infinity").spawn()?),
            Misbehave::Finish => ctx.stop(),
        }
        Ok(())
    }
}

impl Handler<AskOther> for Process {
    async fn handle(
        &mut self,
        ask: Incoming<AskOther>,
        ctx: &mut Context<Self>,
    ) -> lyceum_actor::Result<String> {
        let ask = ask.read()?;
        let other: ActorRef<Probe> = ctx.system().actor_ref(ask.other).map_err(std::io::Error::other)?;
        let answer = match ask.what {
            Question::Greeting => other
                .ask(Look { variables: Vec::new() })
                .await
                .map(|sight| sight.greeting.to_string())
                .map_err(|error| error.to_string()),
            Question::Spin => {
                let asked = other.ask(Misbehave::Spin(3_600_000)).await;
                asked.map(|_| "done".to_owned()).map_err(|error| error.to_string())
            }
            Question::Echo(len) => {
                let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
                let asked = other.ask(Echo { bytes: bytes.clone() }).await;
                asked.map(|back| (back[..] == bytes[..]).to_string()).map_err(|error| error.to_string())
            }
        };
        Ok(answer.unwrap_or_else(|error| error))
    }
}

impl Handler<Echo> for Process {
    async fn handle(
        &mut self,
        echo: Incoming<Echo>,
        _ctx: &mut Context<Self>,
    ) -> lyceum_actor::Result<Vec<u8>> {
        Ok(echo.bytes.to_vec())
    }
}

impl Handler<SpawnAnother> for Process {
    async fn handle(
        &mut self,
        ask: Incoming<SpawnAnother>,
        ctx: &mut Context<Self>,
    ) -> lyceum_actor::Result<String> {
        let cluster = ctx.cluster();
        let mut spawn = cluster.spawn::<Probe>("a child".to_owned()).node(&ask.node);
        if ask.bound {
            spawn = spawn.named("child").lifetime(Lifetime::Spawner);
        }
        let spawned = spawn.await;
        Ok(match spawned {
            Ok(child) => match child.ask(Look { variables: Vec::new() }).await {
                Ok(sight) => sight.greeting.to_string(),
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        })
    }
}

impl Handler<Hold> for Process {
    async fn handle(&mut self, _: Incoming<Hold>, ctx: &mut Context<Self>) -> lyceum_actor::Result<()> {
        ctx.reply_later(|responder| self.held.push(responder))
    }
}

impl Handler<Held> for Process {
    async fn handle(&mut self, _: Incoming<Held>, _: &mut Context<Self>) -> lyceum_actor::Result<u32> {
        Ok(self.held.len() as u32)
    }
}

impl Handler<LetGo> for Process {
    async fn handle(&mut self, _: Incoming<LetGo>, _: &mut Context<Self>) -> lyceum_actor::Result<()> {
        self.held.drain(..).for_each(|responder| responder.reply(()));
        Ok(())
    }
}

impl Handler<Save> for Process {
    async fn handle(&mut self, save: Incoming<Save>, ctx: &mut Context<Self>) -> lyceum_actor::Result<()> {
        ctx.save(&save.read()?.0).await
    }
}

impl Handler<WaitOn> for Process {
    async fn handle(
        &mut self,
        wait: Incoming<WaitOn>,
        ctx: &mut Context<Self>,
    ) -> lyceum_actor::Result<Vec<Ended>> {
        let wait = wait.read()?;
        let other: ActorRef<Probe> = ctx.system().actor_ref(wait.other).map_err(std::io::Error::other)?;
        Ok(join_all((0..wait.calls).map(|_| hold(other.clone()))).await)
    }
}

/// What the testbed's workers can host.
pub fn registry() -> Registry {
    Registry::new().register::<Process>()
}

/// `0-2,5` as 0, 1, 2, 5.
fn core_list(text: &str) -> Vec<u32> {
    text.split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.trim().parse::<u32>().ok()?..=last.trim().parse::<u32>().ok()?)
        })
        .flatten()
        .collect()
}

/// Starts a standing cluster, and says whether anything of it was started.
pub fn bring_up(state: &StateDir, manifest: &str) -> Result<(), ClusterError> {
    on_this_thread(async {
        let manifest = Manifest::load(Path::new(manifest))?;
        let program = std::env::current_exe().map_err(|error| ClusterError::Refused(error.to_string()))?;
        let up = launch::up(&manifest, UpOptions::at(state.clone(), program)).await?;
        println!("started: {}", up.started);
        Ok(())
    })
}

/// Ends a cluster, and says whether there was one.
pub fn bring_down(state: &StateDir) -> Result<(), ClusterError> {
    on_this_thread(async {
        println!("was up: {}", launch::down(state).await?);
        Ok(())
    })
}

fn on_this_thread(work: impl Future<Output = Result<(), ClusterError>>) -> Result<(), ClusterError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| ClusterError::Refused(error.to_string()))?.block_on(work)
}

/// Starts an owned cluster, says so on stdout, and waits to be killed.
pub fn run_owned(state: &StateDir, manifest: &str) -> Result<(), ClusterError> {
    on_this_thread(async {
        let manifest = Manifest::load(Path::new(manifest))?;
        let program = std::env::current_exe().map_err(|error| ClusterError::Refused(error.to_string()))?;
        let options = UpOptions { owned: true, ..UpOptions::at(state.clone(), program) };
        let up = launch::up(&manifest, options).await?;
        let job = up.client.begin_job("owned", true).await?;
        let system = up.client.start_system(Registry::new()).await?;
        let probe = job.cluster(&system).spawn::<Probe>("owned".to_owned()).await?;
        println!("up {}", probe.address().process.process);
        std::future::pending::<()>().await;
        Ok(())
    })
}
