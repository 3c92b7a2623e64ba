//! Messages between head, agents, workers and clients, and how they become frames.
//!
//! Of a question or an answer the frame's head says whose it is: the process (as the incarnation) and the number of the
//! question (as the trace), also to those who do not know its kind. So an unknown question is refused, an unknown answer is an
//! error to who asked, and everything else that is unknown is passed by.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;
use lyceum_actor::{ActorId, Cause, ControlError, ProcessAddress, ProcessDeath, SpawnRequest};
use lyceum_wire::{Frame, FrameDecoder, FrameEncoder, WireError};
use rkyv::{Archive, Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::control::offer::Offer;
use crate::control::papers::Revoked;
use crate::control::vocabulary::{Answer, Ask, Command, JobEvent, Notice, Report, Running, StoreUse};
use crate::kinds::{Kinds, kinds};

/// An agent to the head.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "messages go one by one into a frame")]
pub(crate) enum AgentToHead {
    /// The first message of a connection; an agent that says nothing of what its node has is an older one.
    Join {
        join: Join,
        offer: Option<Box<Offer>>,
    },
    Report(Report),
    /// A worker of the agent asks.
    Ask {
        process: u64,
        request: u64,
        ask: Ask,
    },
}

/// What an agent says when it joins.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct Join {
    pub(crate) address: SocketAddr,
    pub(crate) pid: u32,
    pub(crate) host: String,
    pub(crate) running: Vec<Running>,
    pub(crate) ended: Vec<ProcessDeath>,
}

/// The head to an agent.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "messages go one by one into a frame")]
pub(crate) enum HeadToAgent {
    /// The first message of a connection.
    Welcome(Welcome),
    /// Where the agent may find the head from now on, whichever of several leads.
    Heads(Vec<SocketAddr>),
    /// A command; with a launch come the credentials of the process.
    Command {
        command: Command,
        credentials: Vec<u8>,
    },
    Answer {
        process: u64,
        request: u64,
        answer: Answer,
    },
}

/// What the head says to an agent that has joined.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct Welcome {
    pub(crate) pid: u32,
    pub(crate) host: String,
}

/// A client to the head.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ClientToHead {
    Ask { request: u64, ask: Ask },
}

/// The head to a client.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum HeadToClient {
    /// With an identity come its credentials.
    Answer {
        request: u64,
        answer: Answer,
        credentials: Vec<u8>,
    },
    Notice(Notice),
}

/// An agent to another.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum AgentToAgent {
    Watch(ProcessAddress),
    Died(ProcessDeath),
}

/// An agent to its worker, over the inherited socket.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum AgentToWorker {
    /// The first message.
    Init {
        init: Box<WorkerInit>,
        credentials: Vec<u8>,
    },
    Stop {
        by: String,
    },
    Answer {
        request: u64,
        answer: Answer,
    },
    Died(ProcessDeath),
    Suspect {
        node: String,
        unreachable: bool,
    },
    /// Certificates are taken no more.
    Revoked(Vec<Revoked>),
    /// Renew the process's certificate now.
    Renew,
}

/// Who a worker is and what it is to run.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct WorkerInit {
    pub(crate) bind: SocketAddr,
    pub(crate) advertise: Option<IpAddr>,
    pub(crate) threads: u32,
    pub(crate) verdict_ms: u64,
    pub(crate) stop_ms: u64,
    pub(crate) actor: u64,
    pub(crate) process: u64,
    pub(crate) request: SpawnRequest,
    pub(crate) saved: Option<Vec<u8>>,
}

/// Bytes that are read from a worker's socket at a time.
const READ_BYTES: usize = 16 * 1024;

/// A worker to its agent.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "messages go one by one into a frame")]
pub(crate) enum WorkerToAgent {
    Ready {
        address: SocketAddr,
    },
    /// The last message: how its actor ended. The process ends after it.
    Ended {
        cause: Cause,
    },
    Ask {
        request: u64,
        ask: Ask,
    },
    Watch(ProcessAddress),
    /// An actor of the process makes no progress, in words; without them, it goes on.
    Stalled {
        actor: ActorId,
        role: String,
        stall: Option<String>,
    },
}

/// Who has no certificate, to the head.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum GuestToHead {
    Apply(Application),
}

/// A node wants to join with a token.
#[derive(Clone, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct Application {
    /// The token's number.
    pub(crate) id: u64,
    /// The token's secret.
    pub(crate) secret: [u8; 32],
    /// The key that a certificate is wanted for.
    pub(crate) public_key: Vec<u8>,
}

impl std::fmt::Debug for Application {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Application({:016x})", self.id)
    }
}

/// The head to who has no certificate.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum HeadToGuest {
    Admitted(Admission),
}

/// A node may join.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct Admission {
    /// Its certificate and the authority's, as PEM text.
    pub(crate) chain: Vec<u8>,
    /// The order to start its agent, as JSON, without credentials.
    pub(crate) order: Vec<u8>,
}

/// What is no question, answer, command or report.
enum Word {
    Join(Join),
    JoinWith { join: Join, offer: Offer },
    Welcome(Welcome),
    Watch(ProcessAddress),
    Init(Box<WorkerInit>),
    Stop { by: String },
    Ready { address: SocketAddr },
    Ended { cause: Cause },
    Died(ProcessDeath),
    Suspect { node: String, unreachable: bool },
    Stalled { actor: ActorId, role: String, stall: Option<String> },
    Apply(Application),
    Admitted(Admission),
    Revoked(Vec<Revoked>),
    Renew,
    Heads(Vec<SocketAddr>),
}

kinds! { Word:
    0x0101 = Join(join),
    0x0102 = Welcome(welcome),
    0x0103 = Watch(process),
    0x0104 = Init(init),
    0x0105 = Stop { by },
    0x0106 = Ready { address },
    0x0107 = Ended { cause },
    0x0108 = Died(death),
    0x0109 = Suspect { node, unreachable },
    0x010a = Stalled { actor, role, stall },
    0x0120 = Apply(application),
    0x0121 = Admitted(admission),
    0x0122 = Revoked(revoked),
    0x0123 = Renew,
    0x010b = Heads(places),
    0x0110 = JoinWith { join, offer },
}

/// What can be sent: any of the messages above.
pub(crate) trait Message: Sized {
    /// The message as a frame.
    fn into_frame(self) -> Result<Frame, WireError>;
    /// The message in a frame; `None` where its kind is none that is said to this end.
    fn from_frame(frame: &Frame) -> Result<Option<Self>, WireError>;
}

impl Message for AgentToHead {
    fn into_frame(self) -> Result<Frame, WireError> {
        Ok(match self {
            AgentToHead::Join { join, offer: None } => Word::Join(join).seal()?.into_frame(),
            AgentToHead::Join { join, offer: Some(offer) } => {
                Word::JoinWith { join, offer: *offer }.seal()?.into_frame()
            }
            AgentToHead::Report(report) => report.seal()?.into_frame(),
            AgentToHead::Ask { process, request, ask } => ask.seal()?.into_frame_about(process, request),
        })
    }

    fn from_frame(frame: &Frame) -> Result<Option<Self>, WireError> {
        let (process, request) = (frame.header.incarnation, frame.header.trace);
        if let Some(report) = open(frame)? {
            return Ok(Some(AgentToHead::Report(report)));
        }
        if let Some(ask) = open(frame)? {
            return Ok(Some(AgentToHead::Ask { process, request, ask }));
        }
        Ok(match open(frame)? {
            Some(Word::Join(join)) => Some(AgentToHead::Join { join, offer: None }),
            Some(Word::JoinWith { join, offer }) => {
                Some(AgentToHead::Join { join, offer: Some(Box::new(offer)) })
            }
            _ => None,
        })
    }
}

impl Message for HeadToAgent {
    fn into_frame(self) -> Result<Frame, WireError> {
        Ok(match self {
            HeadToAgent::Welcome(welcome) => Word::Welcome(welcome).seal()?.into_frame(),
            HeadToAgent::Heads(places) => Word::Heads(places).seal()?.into_frame(),
            HeadToAgent::Command { command, credentials } => {
                Frame { extension: credentials.into(), ..command.seal()?.into_frame() }
            }
            HeadToAgent::Answer { process, request, answer } => {
                answer.seal()?.into_frame_about(process, request)
            }
        })
    }

    fn from_frame(frame: &Frame) -> Result<Option<Self>, WireError> {
        let (process, request) = (frame.header.incarnation, frame.header.trace);
        if let Some(command) = open(frame)? {
            return Ok(Some(HeadToAgent::Command { command, credentials: frame.extension.to_vec() }));
        }
        if let Some(answer) = open(frame)? {
            return Ok(Some(HeadToAgent::Answer { process, request, answer }));
        }
        Ok(match open(frame)? {
            Some(Word::Welcome(welcome)) => Some(HeadToAgent::Welcome(welcome)),
            Some(Word::Heads(places)) => Some(HeadToAgent::Heads(places)),
            _ => None,
        })
    }
}

impl Message for ClientToHead {
    fn into_frame(self) -> Result<Frame, WireError> {
        let ClientToHead::Ask { request, ask } = self;
        Ok(ask.seal()?.into_frame_about(0, request))
    }

    fn from_frame(frame: &Frame) -> Result<Option<Self>, WireError> {
        Ok(open(frame)?.map(|ask| ClientToHead::Ask { request: frame.header.trace, ask }))
    }
}

impl Message for HeadToClient {
    fn into_frame(self) -> Result<Frame, WireError> {
        Ok(match self {
            HeadToClient::Answer { request, answer, credentials } => {
                Frame { extension: credentials.into(), ..answer.seal()?.into_frame_about(0, request) }
            }
            HeadToClient::Notice(Notice::Job { job, event }) => {
                let mut frame = event.seal()?.into_frame();
                frame.header.job = job;
                frame
            }
            HeadToClient::Notice(Notice::Died(death)) => Word::Died(death).seal()?.into_frame(),
            HeadToClient::Notice(Notice::Revoked(revoked)) => Word::Revoked(revoked).seal()?.into_frame(),
            HeadToClient::Notice(Notice::Suspect { node, unreachable }) => {
                Word::Suspect { node, unreachable }.seal()?.into_frame()
            }
        })
    }

    fn from_frame(frame: &Frame) -> Result<Option<Self>, WireError> {
        if let Some(answer) = open(frame)? {
            let (request, credentials) = (frame.header.trace, frame.extension.to_vec());
            return Ok(Some(HeadToClient::Answer { request, answer, credentials }));
        }
        if let Some(event) = open::<JobEvent>(frame)? {
            return Ok(Some(HeadToClient::Notice(Notice::Job { job: frame.header.job, event })));
        }
        Ok(match open(frame)? {
            Some(Word::Died(death)) => Some(HeadToClient::Notice(Notice::Died(death))),
            Some(Word::Revoked(revoked)) => Some(HeadToClient::Notice(Notice::Revoked(revoked))),
            Some(Word::Suspect { node, unreachable }) => {
                Some(HeadToClient::Notice(Notice::Suspect { node, unreachable }))
            }
            _ => None,
        })
    }
}

impl Message for AgentToAgent {
    fn into_frame(self) -> Result<Frame, WireError> {
        let word = match self {
            AgentToAgent::Watch(process) => Word::Watch(process),
            AgentToAgent::Died(death) => Word::Died(death),
        };
        Ok(word.seal()?.into_frame())
    }

    fn from_frame(frame: &Frame) -> Result<Option<Self>, WireError> {
        Ok(match open(frame)? {
            Some(Word::Watch(process)) => Some(AgentToAgent::Watch(process)),
            Some(Word::Died(death)) => Some(AgentToAgent::Died(death)),
            _ => None,
        })
    }
}

impl Message for AgentToWorker {
    fn into_frame(self) -> Result<Frame, WireError> {
        let word = match self {
            AgentToWorker::Init { init, credentials } => {
                return Ok(Frame { extension: credentials.into(), ..Word::Init(init).seal()?.into_frame() });
            }
            AgentToWorker::Answer { request, answer } => {
                return Ok(answer.seal()?.into_frame_about(0, request));
            }
            AgentToWorker::Stop { by } => Word::Stop { by },
            AgentToWorker::Died(death) => Word::Died(death),
            AgentToWorker::Suspect { node, unreachable } => Word::Suspect { node, unreachable },
            AgentToWorker::Revoked(revoked) => Word::Revoked(revoked),
            AgentToWorker::Renew => Word::Renew,
        };
        Ok(word.seal()?.into_frame())
    }

    fn from_frame(frame: &Frame) -> Result<Option<Self>, WireError> {
        if let Some(answer) = open(frame)? {
            return Ok(Some(AgentToWorker::Answer { request: frame.header.trace, answer }));
        }
        Ok(match open(frame)? {
            Some(Word::Init(init)) => {
                Some(AgentToWorker::Init { init, credentials: frame.extension.to_vec() })
            }
            Some(Word::Stop { by }) => Some(AgentToWorker::Stop { by }),
            Some(Word::Died(death)) => Some(AgentToWorker::Died(death)),
            Some(Word::Suspect { node, unreachable }) => Some(AgentToWorker::Suspect { node, unreachable }),
            Some(Word::Revoked(revoked)) => Some(AgentToWorker::Revoked(revoked)),
            Some(Word::Renew) => Some(AgentToWorker::Renew),
            _ => None,
        })
    }
}

impl Message for WorkerToAgent {
    fn into_frame(self) -> Result<Frame, WireError> {
        let word = match self {
            WorkerToAgent::Ask { request, ask } => return Ok(ask.seal()?.into_frame_about(0, request)),
            WorkerToAgent::Ready { address } => Word::Ready { address },
            WorkerToAgent::Ended { cause } => Word::Ended { cause },
            WorkerToAgent::Watch(process) => Word::Watch(process),
            WorkerToAgent::Stalled { actor, role, stall } => Word::Stalled { actor, role, stall },
        };
        Ok(word.seal()?.into_frame())
    }

    fn from_frame(frame: &Frame) -> Result<Option<Self>, WireError> {
        if let Some(ask) = open(frame)? {
            return Ok(Some(WorkerToAgent::Ask { request: frame.header.trace, ask }));
        }
        Ok(match open(frame)? {
            Some(Word::Ready { address }) => Some(WorkerToAgent::Ready { address }),
            Some(Word::Ended { cause }) => Some(WorkerToAgent::Ended { cause }),
            Some(Word::Watch(process)) => Some(WorkerToAgent::Watch(process)),
            Some(Word::Stalled { actor, role, stall }) => Some(WorkerToAgent::Stalled { actor, role, stall }),
            _ => None,
        })
    }
}

impl Message for GuestToHead {
    fn into_frame(self) -> Result<Frame, WireError> {
        let GuestToHead::Apply(application) = self;
        Ok(Word::Apply(application).seal()?.into_frame())
    }

    fn from_frame(frame: &Frame) -> Result<Option<Self>, WireError> {
        Ok(match open(frame)? {
            Some(Word::Apply(application)) => Some(GuestToHead::Apply(application)),
            _ => None,
        })
    }
}

impl Message for HeadToGuest {
    fn into_frame(self) -> Result<Frame, WireError> {
        let HeadToGuest::Admitted(admission) = self;
        Ok(Word::Admitted(admission).seal()?.into_frame())
    }

    fn from_frame(frame: &Frame) -> Result<Option<Self>, WireError> {
        Ok(match open(frame)? {
            Some(Word::Admitted(admission)) => Some(HeadToGuest::Admitted(admission)),
            _ => None,
        })
    }
}

/// A message that is alone on its way, as bytes: its frame.
pub(crate) fn to_bytes(message: impl Message) -> Result<Vec<u8>, WireError> {
    let mut encoder = FrameEncoder::default();
    encoder.push(&message.into_frame()?)?;
    Ok(encoder.take().concat())
}

/// The message in bytes that hold no more than one frame.
pub(crate) fn from_bytes<M: Message>(bytes: &[u8]) -> Result<M, WireError> {
    let mut decoder = FrameDecoder::default();
    decoder.push(bytes::Bytes::copy_from_slice(bytes));
    let none = || WireError::Archive("no message that is known here".into());
    let frame = decoder.next_frame()?.ok_or_else(none)?;
    M::from_frame(&frame)?.ok_or_else(none)
}

fn open<K: Kinds>(frame: &Frame) -> Result<Option<K>, WireError> {
    K::open(frame.header.kind, &frame.payload)
}

/// The frames of one connection that were passed by.
#[derive(Debug, Default)]
pub(crate) struct Unknown {
    told: BTreeSet<u16>,
}

/// A question or an answer that was passed by.
#[derive(Debug, PartialEq)]
pub(crate) struct Unread {
    pub(crate) process: u64,
    pub(crate) request: u64,
    /// What whoever waits for an answer is told.
    pub(crate) answer: Answer,
}

impl Unknown {
    /// Passes `frame` by, which `who` sent. Each kind is logged once.
    pub(crate) fn pass_by(&mut self, frame: &Frame, who: &dyn std::fmt::Display) -> Option<Unread> {
        let kind = frame.header.kind;
        let version = env!("CARGO_PKG_VERSION");
        let why =
            format!("messages of kind {kind:#06x} are not known to lyceum {version}: one of both is newer");
        if self.told.insert(kind) {
            tracing::warn!(from = %who, "passed by: {why}");
        }
        let (process, request) = (frame.header.incarnation, frame.header.trace);
        let answer = Answer::Error(ControlError::Refused(why));
        (request != 0).then_some(Unread { process, request, answer })
    }
}

/// Writes a message to a worker's socket.
pub(crate) async fn write_local<T: Message>(
    socket: &mut (impl AsyncWriteExt + Unpin),
    message: T,
) -> io::Result<()> {
    write_local_frame(socket, &message.into_frame().map_err(io::Error::other)?).await
}

pub(crate) async fn write_local_frame(
    socket: &mut (impl AsyncWriteExt + Unpin),
    frame: &Frame,
) -> io::Result<()> {
    let mut encoder = FrameEncoder::default();
    encoder.push(frame).map_err(io::Error::other)?;
    for piece in encoder.take() {
        socket.write_all(&piece).await?;
    }
    Ok(())
}

/// The frames of a worker's socket.
#[derive(Debug)]
pub(crate) struct LocalFrames<S> {
    socket: S,
    decoder: FrameDecoder,
}

impl<S: AsyncReadExt + Unpin> LocalFrames<S> {
    pub(crate) fn new(socket: S) -> LocalFrames<S> {
        LocalFrames { socket, decoder: FrameDecoder::default() }
    }

    /// The next frame; `None` at the socket's end.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(io::Error::other)? {
                return Ok(Some(frame));
            }
            let mut piece = BytesMut::with_capacity(READ_BYTES);
            if self.socket.read_buf(&mut piece).await? == 0 {
                return self.decoder.end().map(|()| None).map_err(io::Error::other);
            }
            self.decoder.push(piece.freeze());
        }
    }
}

/// A heartbeat of an agent, as a datagram: a tag and four numbers.
const BEAT: &[u8; 4] = b"LYHB";

/// The datagram that says: I live, and this is in my store.
pub(crate) fn encode_beat(store: StoreUse) -> bytes::Bytes {
    let numbers = [store.capacity_bytes, store.used_bytes, store.objects, store.spilled_bytes];
    let mut datagram = BEAT.to_vec();
    for number in numbers {
        datagram.extend_from_slice(&number.to_le_bytes());
    }
    datagram.into()
}

/// Reads a heartbeat; `None` for anything else.
pub(crate) fn decode_beat(datagram: &[u8]) -> Option<StoreUse> {
    let rest = datagram.strip_prefix(BEAT)?;
    let (numbers, rest) = rest.as_chunks::<8>();
    let [capacity_bytes, used_bytes, objects, spilled_bytes] = numbers else { return None };
    rest.is_empty().then(|| StoreUse {
        capacity_bytes: u64::from_le_bytes(*capacity_bytes),
        used_bytes: u64::from_le_bytes(*used_bytes),
        objects: u64::from_le_bytes(*objects),
        spilled_bytes: u64::from_le_bytes(*spilled_bytes),
    })
}
