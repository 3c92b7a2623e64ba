//! Messages between head, agents, workers and clients, and how they become bytes.

use std::io;
use std::net::{IpAddr, SocketAddr};

use lyceum_actor::{ActorId, Cause, ProcessAddress, ProcessDeath, SpawnRequest};
use lyceum_wire::{AlignedBytes, ArchiveValidator, Frame, FrameHeader, WireError, access_checked};
use rkyv::api::high::{HighDeserializer, HighSerializer};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Error;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Portable, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::control::vocabulary::{Answer, Ask, Command, Notice, Report, Running, StoreUse};

/// An agent to the head.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "messages go one by one into a frame")]
pub(crate) enum AgentToHead {
    /// The first message of a connection.
    Join {
        address: SocketAddr,
        pid: u32,
        host: String,
        running: Vec<Running>,
        ended: Vec<ProcessDeath>,
    },
    Report(Report),
    /// A worker of the agent asks.
    Ask {
        process: u64,
        request: u64,
        ask: Ask,
    },
}

/// The head to an agent.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "messages go one by one into a frame")]
pub(crate) enum HeadToAgent {
    /// The first message of a connection.
    Welcome {
        pid: u32,
        host: String,
    },
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

/// A client to the head.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub(crate) enum ClientToHead {
    Ask { request: u64, ask: Ask },
}

/// The head to a client.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub(crate) enum AgentToAgent {
    Watch(ProcessAddress),
    Died(ProcessDeath),
}

/// An agent to its worker, over the inherited socket.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub(crate) enum AgentToWorker {
    /// The first message.
    Init(Box<WorkerInit>),
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
}

/// Who a worker is and what it is to run.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
pub(crate) struct WorkerInit {
    pub(crate) credentials: Vec<u8>,
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

/// A worker to its agent.
#[derive(Debug, Clone, Archive, Serialize, Deserialize)]
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

/// Kind of frames that carry these messages; each lane carries one type in each direction.
const KIND: u16 = 0x4c43;
/// Longest message over a worker's socket, in bytes.
const MAX_LOCAL: u32 = 2 << 20;

/// What can be sent: any of the types above.
pub(crate) trait Message:
    for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Error>> + Archive + Sized
{
}
impl<T> Message for T where T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Error>> + Archive {}

/// The archived bytes of `message`.
pub(crate) fn encode<T: Message>(message: &T) -> Result<AlignedVec, WireError> {
    rkyv::to_bytes::<Error>(message).map_err(|error| WireError::Archive(error.to_string()))
}

/// The message that `bytes`, 16-byte aligned, hold.
pub(crate) fn decode<T>(bytes: &[u8]) -> Result<T, WireError>
where
    T: Archive,
    T::Archived:
        Portable + for<'a> CheckBytes<ArchiveValidator<'a>> + Deserialize<T, HighDeserializer<Error>>,
{
    let archived = access_checked::<T::Archived>(bytes)?;
    rkyv::deserialize::<T, Error>(archived).map_err(|error| WireError::Archive(error.to_string()))
}

/// `message` as a frame of a lane.
pub(crate) fn to_frame<T: Message>(message: &T) -> Result<Frame, WireError> {
    let header = FrameHeader { kind: KIND, ..FrameHeader::default() };
    Ok(Frame::new(header, AlignedBytes::from(encode(message)?)))
}

/// The message in a frame of a lane.
pub(crate) fn from_frame<T>(frame: &Frame) -> Result<T, WireError>
where
    T: Archive,
    T::Archived:
        Portable + for<'a> CheckBytes<ArchiveValidator<'a>> + Deserialize<T, HighDeserializer<Error>>,
{
    match frame.header.kind {
        KIND => decode(&frame.payload),
        other => {
            Err(WireError::Archive(format!("a frame of kind {other} on a control lane, expected {KIND}")))
        }
    }
}

/// Writes a message to a worker's socket.
pub(crate) async fn write_local<T: Message>(
    socket: &mut (impl AsyncWriteExt + Unpin),
    message: &T,
) -> io::Result<()> {
    let bytes = encode(message).map_err(io::Error::other)?;
    let len = u32::try_from(bytes.len()).ok().filter(|len| *len <= MAX_LOCAL);
    let len =
        len.ok_or_else(|| io::Error::other(format!("a message of {} bytes is too long", bytes.len())))?;
    socket.write_all(&len.to_le_bytes()).await?;
    socket.write_all(&bytes).await
}

/// Reads a message from a worker's socket; `None` at its end.
pub(crate) async fn read_local<T>(socket: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Option<T>>
where
    T: Archive,
    T::Archived:
        Portable + for<'a> CheckBytes<ArchiveValidator<'a>> + Deserialize<T, HighDeserializer<Error>>,
{
    let mut len = [0; 4];
    match socket.read_exact(&mut len).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let len = u32::from_le_bytes(len);
    if len > MAX_LOCAL {
        return Err(io::Error::other(format!("a message of {len} bytes is too long")));
    }
    let mut bytes: AlignedVec = AlignedVec::with_capacity(len as usize);
    bytes.resize(len as usize, 0);
    socket.read_exact(&mut bytes).await?;
    decode(&bytes).map(Some).map_err(io::Error::other)
}

/// A heartbeat of an agent, as a datagram: a tag and three numbers.
const BEAT: &[u8; 4] = b"LYHB";

/// The datagram that says: I live, and this is in my store.
pub(crate) fn encode_beat(store: StoreUse) -> bytes::Bytes {
    let numbers = [store.capacity_bytes, store.used_bytes, store.objects];
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
    let [capacity_bytes, used_bytes, objects] = numbers else { return None };
    rest.is_empty().then(|| StoreUse {
        capacity_bytes: u64::from_le_bytes(*capacity_bytes),
        used_bytes: u64::from_le_bytes(*used_bytes),
        objects: u64::from_le_bytes(*objects),
    })
}
