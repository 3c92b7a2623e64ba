//! Streaming replies, asserted within a process and between two: the sentences of `docs/semantics.md`.

#![allow(clippy::unwrap_used)]

mod common;

use std::{pin::pin, time::Duration};

use common::*;
use futures_util::{
    StreamExt as _,
    future::{Either, select},
};
use lyceum_actor::*;
use rkyv::{Archive, Deserialize, Serialize};

struct Teller;

/// Tells the numbers from 0 on, and then ends as it is told to.
#[derive(Archive, Serialize, Deserialize)]
struct Tell {
    numbers: u32,
    ending: Ending,
    /// Counts each number when the reader has been given it.
    witness: ActorRef<Desk>,
}

#[derive(Archive, Serialize, Deserialize, Clone, Copy)]
enum Ending {
    Well,
    Error,
    Panic,
}

/// Tells texts of that many bytes.
#[derive(Archive, Serialize, Deserialize)]
struct TellAtLength(Vec<u32>);

impl Role for Teller {
    const NAME: &'static str = "teller";
    type Args = ();
    type Messages = (Tell, TellAtLength);
}
impl Accepts<Tell> for Teller {
    type Reply = Streamed<u32>;
}
impl Accepts<TellAtLength> for Teller {
    type Reply = Streamed<Vec<u8>>;
}

struct Storyteller;

impl Actor for Storyteller {
    type Role = Teller;
    async fn start((): (), _: &mut Context<Self>) -> Result<Self> {
        Ok(Storyteller)
    }
}

impl Handler<Tell> for Storyteller {
    async fn handle(&mut self, tell: Incoming<Tell>, ctx: &mut Context<Self>) -> Result<Streamed<u32>> {
        let Tell { numbers, ending, witness } = tell.read()?;
        let produce = async move |sink: ItemSink<u32>| {
            for number in 0..numbers {
                sink.send(number).await;
                witness.tell(Count(number)).await?;
            }
            match ending {
                Ending::Well => Ok(()),
                Ending::Error => Err(anyhow::anyhow!("the ink is dry").context("no more")),
                Ending::Panic => panic!("the pen fell"),
            }
        };
        Ok(ctx.stream(produce).await?)
    }
}

impl Handler<TellAtLength> for Storyteller {
    async fn handle(
        &mut self,
        tell: Incoming<TellAtLength>,
        ctx: &mut Context<Self>,
    ) -> Result<Streamed<Vec<u8>>> {
        let lengths = tell.read()?.0;
        let produce = async move |sink: ItemSink<Vec<u8>>| {
            for length in lengths {
                sink.send(pattern(length as usize)).await;
            }
            Ok(())
        };
        Ok(ctx.stream(produce).await?)
    }
}

/// A teller and a witness, and the system that reads of them; the test's end is that of both systems.
fn local_and_remote(test: impl AsyncFn(&System, ActorRef<Teller>, ActorRef<Desk>)) {
    let system = alone();
    block_on(async {
        let teller = system.spawn::<Storyteller>(()).await.unwrap();
        let witness = system.spawn::<Clerk>("witness".to_owned()).await.unwrap();
        test(&system, teller, witness).await;
        system.shut_down(Duration::from_secs(1)).await;
    });
    let pair = pair();
    block_on(async {
        let teller = pair.there.spawn::<Storyteller>(()).await.unwrap();
        let teller = pair.here.actor_ref(teller.address().clone()).unwrap();
        test(&pair.there, teller, pair.desk::<Clerk>("witness").await).await;
        pair.here.shut_down(Duration::from_secs(1)).await;
        pair.there.shut_down(Duration::from_secs(1)).await;
    });
}

fn tell(numbers: u32, ending: Ending, witness: &ActorRef<Desk>) -> Tell {
    Tell { numbers, ending, witness: witness.clone() }
}

/// The numbers that come, and the error behind them.
async fn read(mut items: ItemStream<u32>) -> (Vec<u32>, Option<CallError<()>>) {
    let mut numbers = Vec::new();
    while let Some(item) = items.next().await {
        match item {
            Ok(number) => numbers.push(number.to_native()),
            Err(error) => {
                assert!(items.next().await.is_none(), "an error is the end");
                return (numbers, Some(error));
            }
        }
    }
    (numbers, None)
}

#[test]
fn a_streams_items_come_in_order_and_then_its_end() {
    local_and_remote(async |_, teller, witness| {
        for (numbers, window) in [(0, 16), (1, 16), (1000, 16), (100, 1), (100, 5000)] {
            let items = teller.ask(tell(numbers, Ending::Well, &witness)).items().await.unwrap();
            let source = items.source().clone();
            let (read, error) = read(items.window(window)).await;
            assert_eq!(read, (0..numbers).collect::<Vec<_>>());
            assert!(error.is_none(), "{error:?}");
            assert_eq!(source.died().await.cause, Cause::Finished, "nothing is left of a stream");
        }
    });
}

#[test]
fn a_producers_error_or_panic_comes_behind_its_items_and_its_actor_lives() {
    local_and_remote(async |_, teller, witness| {
        for (ending, expected) in [
            (Ending::Error, &["no more", "the ink is dry"][..]),
            (Ending::Panic, &["its producer panicked: the pen fell"]),
        ] {
            let items = teller.ask(tell(40, ending, &witness)).items().await.unwrap();
            let (numbers, error) = read(items).await;
            assert_eq!(numbers.len(), 40);
            assert!(matches!(&error, Some(CallError::Failed(chain)) if chain == expected), "{error:?}");
        }
    });
}

#[test]
fn l2_a_producer_is_never_further_ahead_than_its_readers_window() {
    local_and_remote(async |_, teller, witness| {
        let items = teller.ask(tell(1000, Ending::Well, &witness)).items().await.unwrap();
        let mut items = items.window(4);
        for number in 0..3 {
            assert_eq!(items.next().await.unwrap().unwrap().to_native(), number);
        }
        assert_eq!(counted(&witness, 7).await.len(), 7, "three were read, and four are on their way");
        // Were the producer to go on, it would do so within this.
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(counted(&witness, 7).await.len(), 7);
    });
}

#[test]
fn a_stream_ends_with_its_reader() {
    local_and_remote(async |_, teller, witness| {
        let mut items = teller.ask(tell(1000, Ending::Well, &witness)).items().await.unwrap();
        let source = items.source().clone();
        items.next().await.unwrap().unwrap();
        drop(items);
        assert_eq!(source.died().await.cause, Cause::Finished);
    });
    let pair = pair();
    block_on(async {
        let theirs = pair.there.spawn::<Storyteller>(()).await.unwrap();
        let ours = pair.here.actor_ref::<Teller>(theirs.address().clone()).unwrap();
        let witness = pair.there.spawn::<Clerk>("witness".to_owned()).await.unwrap();
        let mut items = ours.ask(tell(1000, Ending::Well, &witness)).items().await.unwrap();
        items.next().await.unwrap().unwrap();
        let source = pair.there.actor_ref::<Items<u32>>(items.source().address().clone()).unwrap();
        // The stream is kept, but nobody can read it any more.
        pair.here.shut_down(Duration::ZERO).await;
        assert_eq!(source.died().await.cause, Cause::Finished);
        pair.there.shut_down(Duration::ZERO).await;
    });
}

#[test]
fn l3_a_reader_is_told_when_the_actor_of_its_stream_ends() {
    local_and_remote(async |system, teller, witness| {
        let items = teller.ask(tell(1000, Ending::Well, &witness)).items().await.unwrap();
        let mut items = items.window(4);
        items.next().await.unwrap().unwrap();
        system.kill_actor(teller.address().actor, Cause::OrderedBy("the test".into()));
        let error = loop {
            match items.next().await.unwrap() {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        let cause = &error.death().unwrap().cause;
        assert!(matches!(cause, Cause::OrderedBy(by) if by.contains("the end of its parent")), "{cause:?}");
    });
}

#[test]
fn a_stream_has_one_reader_and_travels_to_it_in_a_message() {
    local_and_remote(async |_, teller, witness| {
        let stream = teller.ask(tell(3, Ending::Well, &witness)).await.unwrap().read().unwrap();
        let (mut first, mut second) = (stream.items(), stream.items());
        assert_eq!(first.next().await.unwrap().unwrap().to_native(), 0);
        let refused = second.next().await.unwrap().unwrap_err();
        assert!(refused.to_string().contains("this stream has a reader already"), "{refused}");
        assert_eq!(read(first).await.0, [1, 2]);
    });
}

#[test]
fn a_second_reader_takes_nothing_from_one_that_is_slow() {
    local_and_remote(async |_, teller, witness| {
        let stream = teller.ask(tell(50, Ending::Well, &witness)).await.unwrap().read().unwrap();
        let (mut slow, mut second) = (stream.items().window(2), stream.items());
        assert_eq!(slow.next().await.unwrap().unwrap().to_native(), 0);
        assert_eq!(counted(&witness, 3).await.len(), 3, "the producer waits for a demand");
        assert!(second.next().await.unwrap().is_err());
        assert_eq!(read(slow).await.0, (1..50).collect::<Vec<_>>());
    });
}

#[test]
fn a_stream_that_nobody_begins_to_read_ends_after_its_grace() {
    let options = SystemOptions { stream_grace: Duration::from_millis(20), ..SystemOptions::default() };
    let system = System::start(options).unwrap();
    block_on(async {
        let teller = system.spawn::<Storyteller>(()).await.unwrap();
        let witness = system.spawn::<Clerk>("witness".to_owned()).await.unwrap();
        let stream = teller.ask(tell(3, Ending::Well, &witness)).await.unwrap().read().unwrap();
        assert_eq!(stream.died().await.cause, Cause::Finished);
        let late = stream.items().next().await.unwrap().unwrap_err();
        assert!(late.death().is_some(), "{late}");
        system.shut_down(Duration::from_secs(1)).await;
    });
}

#[test]
fn l2_streams_that_nobody_reads_are_bounded_in_number() {
    let system = alone();
    block_on(async {
        let teller = system.spawn::<Storyteller>(()).await.unwrap();
        let witness = system.spawn::<Clerk>("witness".to_owned()).await.unwrap();
        let ask = || teller.ask(tell(3, Ending::Well, &witness));
        let mut unread = Vec::new();
        let refused = loop {
            match ask().await {
                Ok(stream) => unread.push(stream.read().unwrap()),
                Err(error) => break error,
            }
        };
        assert!(refused.to_string().contains("1024 streams of this actor wait"), "{refused}");
        assert_eq!(unread.len(), 1024);
        assert_eq!(read(unread.remove(0).items()).await.0, [0, 1, 2]);
        ask().await.unwrap();
        system.shut_down(Duration::from_secs(1)).await;
    });
}

#[test]
fn items_of_any_size_keep_their_order() {
    local_and_remote(async |_, teller, _| {
        let lengths = vec![10, 300_000, 0, 70_000, 1_000_000, 5];
        let items = teller.ask(TellAtLength(lengths.clone())).items().await.unwrap();
        let texts: Vec<_> = items.map(|item| item.unwrap().read().unwrap()).collect().await;
        assert_eq!(texts, lengths.into_iter().map(|length| pattern(length as usize)).collect::<Vec<_>>());
    });
}

#[test]
fn a_wait_for_an_item_that_is_given_up_loses_none() {
    local_and_remote(async |_, teller, witness| {
        let mut items = teller.ask(tell(300, Ending::Well, &witness)).items().await.unwrap();
        let mut numbers = Vec::new();
        loop {
            let next = pin!(items.next());
            match select(next, std::future::ready(())).await {
                Either::Left((Some(item), _)) => numbers.push(item.unwrap().to_native()),
                Either::Left((None, _)) => break,
                Either::Right(_) => std::thread::yield_now(),
            }
        }
        assert_eq!(numbers, (0..300).collect::<Vec<_>>());
    });
}
