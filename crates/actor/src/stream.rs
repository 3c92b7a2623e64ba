//! Streaming replies: an answer of many items, made as fast as they are read.
//!
//! A stream is an actor beside the one that answered, which its reader asks for one item after the other, a few asks ahead:
//! order, back-pressure, deaths and large items are those of any call. A reader also keeps one ask open for as long as
//! it reads; when that is given up, or its process is gone, the producer is dropped.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    marker::PhantomData,
    ops::Deref,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context as Poller, Poll},
};

use futures_util::{
    FutureExt, Stream,
    future::{Either, select},
};
use rkyv::{Archive, Archived, Deserialize, Serialize, option::ArchivedOption, rancor};
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::{
    Accepts, Actor, ActorRef, Ask, CallError, Cause, Context, Credits, Handler, Incoming, Message, Responder,
    Result, Role, SpawnError,
    cell::Ending,
    life::{Args, panic_text},
    reply::chain_of,
};

/// Items that a reader has asked for ahead of those it has read, unless it says otherwise.
const WINDOW: usize = 16;
/// The most that it may say.
const MAX_WINDOW: usize = 1024;
/// What a second reader is told.
const TAKEN: &str = "this stream has a reader already";
/// Streams of one actor that may wait for their readers to begin.
pub(crate) const MAX_UNREAD: usize = 1024;

/// The role of a stream of `T`s: what its reader asks.
pub struct Items<T>(PhantomData<fn() -> T>);

/// A stream as it travels: the reply of a handler that answers with many items, or a part of any message. It has one
/// reader, wherever that is: [`ActorRef::items`].
pub type Streamed<T> = ActorRef<Items<T>>;

/// "I begin to read", and who; answered never, given up when the reader has gone.
#[derive(Archive, Serialize, Deserialize, Debug)]
pub struct Open(Reader);

/// "The next item", of the reader that has opened; answered with `None` at the end.
#[derive(Archive, Serialize, Deserialize, Debug)]
pub struct Next(Reader);

/// A reader's process and its number there: one that was refused must get no item of the other's.
type Reader = (u64, u64);

/// Numbers of this process's readers.
static READERS: AtomicU64 = AtomicU64::new(0);

impl<T: Message> Role for Items<T> {
    const NAME: &'static str = "items";
    type Args = ();
    type Messages = (Open, Next);
}

impl<T: Message> Accepts<Open> for Items<T> {
    type Reply = ();
}

impl<T: Message> Accepts<Next> for Items<T> {
    type Reply = Option<T>;
}

type Demand<T> = Responder<Option<T>>;
type Asking<T> = Arc<Mutex<Asked<T>>>;

/// What the reader asks, oldest first.
struct Asked<T> {
    demands: mpsc::Receiver<Demand<T>>,
    /// Taken out, and waiting for room on the way to the reader.
    next: Option<Demand<T>>,
}

impl<T: Message> Asked<T> {
    /// The next demand that is wanted still, once there is room for its answer; `None` when the stream's actor is gone.
    /// Nothing is lost when this is dropped on the way.
    async fn recv(&mut self) -> Option<Demand<T>> {
        loop {
            if self.next.is_none() {
                self.next = Some(self.demands.recv().await?);
            }
            if let Some(demand) = self.next.as_ref().filter(|demand| demand.is_wanted()) {
                demand.room().await;
                return self.next.take();
            }
            self.next = None;
        }
    }
}

/// The actor of a stream: hands what its reader asks to the producer.
struct Source<T> {
    opened: Option<oneshot::Sender<Responder<()>>>,
    reader: Option<Reader>,
    demands: mpsc::Sender<Demand<T>>,
    /// Where the producer takes them; held here too, so that those it leaves are told how this actor ended.
    _asked: Asking<T>,
}

impl<T: Message> Actor for Source<T> {
    type Role = Items<T>;
    const MAILBOX: Credits = Credits { count: MAX_WINDOW as u32 + 1, bytes: 1 << 20 };

    async fn start((): (), _: &mut Context<Self>) -> Result<Self> {
        anyhow::bail!("a stream is started by its producer")
    }
}

impl<T: Message> Handler<Open> for Source<T> {
    async fn handle(&mut self, open: Incoming<Open>, ctx: &mut Context<Self>) -> Result<()> {
        let Some(opened) = self.opened.take() else { anyhow::bail!(TAKEN) };
        self.reader = Some(open.read()?.0);
        ctx.reply_later(|reader| drop(opened.send(reader)))
    }
}

impl<T: Message> Handler<Next> for Source<T> {
    async fn handle(&mut self, next: Incoming<Next>, ctx: &mut Context<Self>) -> Result<Option<T>> {
        anyhow::ensure!(self.reader == Some(next.read()?.0), TAKEN);
        let mut refused = None;
        let later = ctx.reply_later(|demand| refused = self.demands.try_send(demand).err());
        if let Some(error) = refused {
            let (mpsc::error::TrySendError::Full(demand) | mpsc::error::TrySendError::Closed(demand)) = error;
            demand.fail(anyhow::anyhow!("more than {MAX_WINDOW} items of a stream are asked for at a time"));
        }
        later
    }
}

/// Where a producer puts its items.
pub struct ItemSink<T> {
    demands: Asking<T>,
}

impl<T: Message> ItemSink<T> {
    /// Gives the reader its next item, once it has asked for it: what nobody is ready to read is not made. When the
    /// reader is gone the producer is dropped here, at the latest.
    pub async fn send(&self, item: T) {
        let demand = self.demands.lock().await.recv().await;
        match demand {
            Some(demand) => demand.reply(Some(item)),
            // The stream's actor is gone, and its end is about to be noticed.
            None => std::future::pending().await,
        }
    }
}

impl<T> fmt::Debug for ItemSink<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ItemSink").finish_non_exhaustive()
    }
}

impl<A: Actor> Context<A> {
    /// Answers with many items: what this returns is what the handler returns. `produce` runs beside the actor once the
    /// reader has begun, and waits at each item until the reader is ready for it; its error comes to the reader after
    /// its items. It ends with its reader, with this actor, and when nobody begins to read it
    /// within [`stream_grace`](crate::SystemOptions::stream_grace). At most 1,024 streams of an actor wait so.
    ///
    /// ```
    /// # use lyceum_actor::*;
    /// # async fn words<A: Actor>(ctx: &mut Context<A>) -> Result<Streamed<String>> {
    /// Ok(ctx.stream(async |words: ItemSink<String>| {
    ///     for word in ["one", "after", "the", "other"] {
    ///         words.send(word.to_owned()).await;
    ///     }
    ///     Ok(())
    /// }).await?)
    /// # }
    /// ```
    pub async fn stream<T, P, F>(&mut self, produce: P) -> Result<Streamed<T>, SpawnError>
    where
        T: Message,
        P: FnOnce(ItemSink<T>) -> F,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let unread =
            self.unread_streams().try_acquire_owned().map_err(|_| SpawnError::UnreadStreams(MAX_UNREAD))?;
        let (opened, opening) = oneshot::channel();
        let (demands, asked) = mpsc::channel(MAX_WINDOW);
        let asked = Arc::new(Mutex::new(Asked { demands: asked, next: None }));
        let source = Source { opened: Some(opened), reader: None, demands, _asked: asked.clone() };
        let stream = self.spawn_child(Args::Made(source)).await?;
        let producing = produce(ItemSink { demands: asked.clone() });
        let source = stream.cell();
        let grace = self.system().inner().stream_grace;
        self.spawn_task(async move {
            let opened = tokio::time::timeout(grace, opening).await;
            drop(unread);
            if let Ok(Ok(reader)) = opened {
                serve(reader, asked, producing).await;
            }
            if let Some(source) = source {
                source.end(Ending::Drain(Cause::Finished));
            }
        });
        Ok(stream)
    }
}

/// Produces for `reader`, and then tells it how that ended, for as long as it reads.
async fn serve<T: Message>(
    reader: Responder<()>,
    asked: Asking<T>,
    producing: impl Future<Output = Result<()>>,
) {
    let mut gone = reader.cancelled();
    let producing = pin!(AssertUnwindSafe(producing).catch_unwind());
    let ended = match select(producing, &mut gone).await {
        Either::Left((Ok(Ok(())), _)) => Ok(()),
        Either::Left((Ok(Err(error)), _)) => Err(chain_of(&error)),
        Either::Left((Err(panic), _)) => Err(vec![format!("its producer panicked: {}", panic_text(&*panic))]),
        Either::Right(_) => return,
    };
    let tell = async {
        while let Some(demand) = asked.lock().await.recv().await {
            match &ended {
                Ok(()) => demand.reply(None),
                Err(chain) => demand.fail_with(chain.clone()),
            }
        }
    };
    select(pin!(tell), gone).await;
}

impl<T: Message> Streamed<T> {
    /// Reads the stream. It has one reader: a second one is refused with its first item.
    pub fn items(&self) -> ItemStream<T> {
        let number = READERS.fetch_add(1, Ordering::Relaxed);
        ItemStream {
            source: self.clone(),
            reader: (self.system().address().process, number),
            reading: None,
            asks: VecDeque::new(),
            window: WINDOW,
            ended: false,
        }
    }
}

impl<R, M, T> Ask<R, M>
where
    R: Accepts<M, Reply = Streamed<T>>,
    M: Message,
    T: Message,
{
    /// Sends the call and reads the stream that answers it.
    pub async fn items(self) -> Result<ItemStream<T>, CallError<M>> {
        let stream = self.await?;
        let stream = stream.read().map_err(|error| CallError::Unknown(error.to_string()))?;
        Ok(stream.items())
    }
}

/// A stream being read. Dropping it ends the stream.
pub struct ItemStream<T: Message> {
    source: Streamed<T>,
    reader: Reader,
    /// Held open for as long as this reads.
    reading: Option<Ask<Items<T>, Open>>,
    /// Oldest first: all have been sent.
    asks: VecDeque<ItemAsk<T>>,
    window: usize,
    ended: bool,
}

enum ItemAsk<T: Message> {
    Waiting(Ask<Items<T>, Next>),
    Answered(Answer<T>),
}

type Answer<T> = Result<Incoming<Option<T>>, CallError<Next>>;

impl<T: Message> ItemStream<T> {
    /// How many items may be under way to this reader at a time, 1 to 1,024: more bridge a longer way, fewer hold less.
    pub fn window(mut self, items: usize) -> Self {
        self.window = items.clamp(1, MAX_WINDOW);
        self
    }

    /// The next item; `None` after the last one, and after an error.
    pub async fn next(&mut self) -> Option<Result<Item<T>, CallError<()>>> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// The stream itself.
    pub fn source(&self) -> &Streamed<T> {
        &self.source
    }

    fn poll(&mut self, cx: &mut Poller<'_>) -> Poll<Option<Result<Item<T>, CallError<()>>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let open = || self.source.ask(Open(self.reader)).through_silence();
        let reading = self.reading.get_or_insert_with(open);
        if let Poll::Ready(Err(error @ (CallError::Failed(_) | CallError::Refused(_)))) =
            reading.poll_unpin(cx)
        {
            return self.end(Some(error.erase()));
        }
        self.ask_ahead(cx);
        let answer = match self.asks.pop_front() {
            Some(ItemAsk::Answered(answer)) => answer,
            Some(ItemAsk::Waiting(mut ask)) => match ask.poll_unpin(cx) {
                Poll::Ready(answer) => answer,
                Poll::Pending => {
                    self.asks.push_front(ItemAsk::Waiting(ask));
                    return Poll::Pending;
                }
            },
            None => return self.end(None),
        };
        match answer {
            Ok(item) if item.is_some() => {
                self.ask_ahead(cx);
                Poll::Ready(Some(Ok(Item(item))))
            }
            Ok(_) => self.end(None),
            Err(error) => self.end(Some(error.erase())),
        }
    }

    /// Asks for as many items as may be under way.
    fn ask_ahead(&mut self, cx: &mut Poller<'_>) {
        while self.asks.len() < self.window {
            let mut ask = self.source.ask(Next(self.reader));
            // Polled, and so sent.
            self.asks.push_back(match ask.poll_unpin(cx) {
                Poll::Ready(answer) => ItemAsk::Answered(answer),
                Poll::Pending => ItemAsk::Waiting(ask),
            });
        }
    }

    fn end(&mut self, error: Option<CallError<()>>) -> Poll<Option<Result<Item<T>, CallError<()>>>> {
        self.ended = true;
        self.asks.clear();
        self.reading = None;
        Poll::Ready(error.map(Err))
    }
}

impl<T: Message> Stream for ItemStream<T> {
    type Item = Result<Item<T>, CallError<()>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<Option<Self::Item>> {
        self.poll(cx)
    }
}

impl<T: Message> fmt::Debug for ItemStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ItemStream").field("source", self.source.address()).finish_non_exhaustive()
    }
}

/// An item of a stream, over the bytes it came in. Derefs to the archived form.
pub struct Item<T>(Incoming<Option<T>>);

impl<T: Message> Item<T> {
    /// The item as an owned value.
    pub fn read(&self) -> Result<T, rancor::Error> {
        // As `Incoming::read`, which also says where actors' references of it are usable.
        self.0.read().map(|item| match item {
            Some(item) => item,
            None => unreachable!("an item is made of what is there"),
        })
    }
}

impl<T: Message> Deref for Item<T> {
    type Target = Archived<T>;

    fn deref(&self) -> &Archived<T> {
        match &*self.0 {
            ArchivedOption::Some(item) => item,
            ArchivedOption::None => unreachable!("an item is made of what is there"),
        }
    }
}

impl<T: Message<Archived: fmt::Debug>> fmt::Debug for Item<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
