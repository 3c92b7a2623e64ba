//! The Packer as an actor: chains come in, sealed batches go out, and nobody gets ahead of the log.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use lyceum_actor::{Actor, ActorRef, CallError, Context, Credits, Handler, Incoming, Responder, Result};
use lyceum_corpus::assembly::Next;
use lyceum_corpus::batch;
use lyceum_corpus::chain::{Accounts, ChainId};
use lyceum_corpus::pack::BatchPlan;
use lyceum_store::{Object, ObjectWriter, StoreClient, StoreError};
use tokio::sync::oneshot::{self, error::TryRecvError};

use crate::limits::SEALED_AHEAD;
use crate::packing::{Packing, PackingError};
use crate::roles::{
    AccountsBelow, Advance, Allowance, Attach, Attend, Close, CorpusReader, Grant, NextBatch, Offer, Opened,
    OpenedReport, Packer, PackerArgs, PackerReport, PackerState, RoomFound, Stock, Supplied, Supply,
};
use crate::run_directory::RunDirectory;

/// Batches between two lines of the log.
const TOLD_EVERY: u64 = 100;

/// The actor; see the module.
pub struct PackerActor {
    packing: Packing,
    store: StoreClient,
    reader: Option<ActorRef<CorpusReader>>,
    /// The next batch, while the store has no room for it.
    unsealed: Option<Unsealed>,
    /// Sealed batches that some rank may still ask for.
    sealed: BTreeMap<u64, Object>,
    asking: Vec<Asking>,
    attending: Vec<Responder<()>>,
    /// For each rank, the batch it asked for last.
    ranks: Vec<Option<u64>>,
    /// First batch that no rank was granted.
    ungranted: u64,
    /// First batch that does not exist.
    end: Option<u64>,
    /// What the reader was told last.
    told: Vec<Allowance>,
    /// Recorded since.
    settled: Vec<ChainId>,
    /// Chains of synthesizers, recorded since the start.
    converted: u64,
}

/// A batch that waits for room. The Packer goes on meanwhile: it may be its own older batches that fill the store.
struct Unsealed {
    position: u64,
    plan: BatchPlan,
    room: oneshot::Receiver<std::result::Result<ObjectWriter, StoreError>>,
}

/// A rank that waits for a batch.
struct Asking {
    position: u64,
    rank: usize,
    responder: Responder<Grant>,
}

impl PackerActor {
    /// Seals what may be sealed, answers who waits, tells the reader how far it may go. An error ends the run: everybody who
    /// attends is told.
    async fn go_on(&mut self, ctx: &mut Context<Self>) -> Result<()> {
        match self.try_go_on(ctx).await {
            Ok(()) => Ok(()),
            Err(error) => self.give_up(error),
        }
    }

    fn give_up(&mut self, error: anyhow::Error) -> Result<()> {
        tracing::error!(error = format!("{error:#}"), "no batch can be made");
        for responder in self.attending.drain(..) {
            responder.fail(anyhow::anyhow!("no batch can be made: {error:#}"));
        }
        Err(error)
    }

    async fn try_go_on(&mut self, ctx: &mut Context<Self>) -> Result<()> {
        self.seal_unsealed(ctx).await?;
        while self.end.is_none() && self.unsealed.is_none() && self.ahead() < SEALED_AHEAD {
            match self.packing.next_batch()? {
                Next::Batch(position, plan) => self.seal(position, plan, ctx).await?,
                Next::Waits(_) => break,
                Next::Ended => {
                    let end = self.sealed.last_key_value().map_or(self.ungranted, |(last, _)| last + 1);
                    tracing::info!(batches = end, "all data is packed");
                    self.end = Some(end);
                }
            }
        }
        self.grant().await?;
        self.tell_reader().await
    }

    /// Tells the reader what is recorded and how far it may go. It never waits for the Packer: this wait ends.
    async fn tell_reader(&mut self) -> Result<()> {
        let Some(reader) = &self.reader else { return Ok(()) };
        let allowances = self.packing.allowances();
        if self.told != allowances || !self.settled.is_empty() {
            let recorded = std::mem::take(&mut self.settled);
            reader
                .tell(Advance { recorded, allowances: allowances.clone() })
                .await
                .map_err(CallError::erase)?;
            self.told = allowances;
        }
        Ok(())
    }

    /// Asks the reader for raw chains; they come as a message to this actor, which goes on meanwhile.
    fn ask_for_supply(&self, ctx: &mut Context<Self>) {
        let Some(reader) = self.reader.clone() else { return };
        let me = ctx.me();
        ctx.spawn_task(async move {
            let stocked = async {
                let supplied =
                    reader.ask(Supply).through_silence().await.map_err(CallError::erase)?.read()?;
                anyhow::Ok(me.tell(Stock { supplied }).await.map_err(CallError::erase)?)
            };
            // A reader that has failed is told of to those who attend it.
            if let Err(error) = stocked.await {
                tracing::warn!(error = format!("{error:#}"), "no more raw chains come");
            }
        });
    }

    /// Sealed batches that no rank was granted yet.
    fn ahead(&self) -> u64 {
        self.sealed.range(self.ungranted..).count() as u64
    }

    /// Writes the batch straight into the store (L4), or has room looked for.
    async fn seal(&mut self, position: u64, plan: BatchPlan, ctx: &mut Context<Self>) -> Result<()> {
        match self.store.create_within(batch::encoded_len(&plan)?, Duration::ZERO).await {
            Ok(memory) => self.write(position, &plan, memory).await,
            Err(StoreError::Full { .. }) => self.search_room(position, plan, ctx),
            Err(error) => Err(error.into()),
        }
    }

    fn search_room(&mut self, position: u64, plan: BatchPlan, ctx: &mut Context<Self>) -> Result<()> {
        let len = batch::encoded_len(&plan)?;
        let (found, room) = oneshot::channel();
        let (store, me) = (self.store.clone(), ctx.me());
        ctx.spawn_task(async move {
            // Whichever way the search ended: the Packer reads it, unless it has ended itself.
            let _ = found.send(store.create(len).await);
            let _ = me.tell(RoomFound).await;
        });
        self.unsealed = Some(Unsealed { position, plan, room });
        Ok(())
    }

    /// Seals the batch that waited for room, if that was found.
    async fn seal_unsealed(&mut self, ctx: &mut Context<Self>) -> Result<()> {
        let Some(Unsealed { position, plan, mut room }) = self.unsealed.take() else { return Ok(()) };
        match room.try_recv() {
            Ok(Ok(memory)) => self.write(position, &plan, memory).await,
            Ok(Err(full @ StoreError::Full { .. })) => {
                // Ranks that take long over a step are no fault: who is dead is told of otherwise.
                tracing::warn!(position, %full, "a batch still waits for room in the node's store");
                self.search_room(position, plan, ctx)
            }
            Ok(Err(error)) => Err(error.into()),
            Err(TryRecvError::Empty) => {
                self.unsealed = Some(Unsealed { position, plan, room });
                Ok(())
            }
            Err(TryRecvError::Closed) => anyhow::bail!("the search for room for batch {position} broke off"),
        }
    }

    async fn write(&mut self, position: u64, plan: &BatchPlan, mut memory: ObjectWriter) -> Result<()> {
        batch::write(plan, position, &mut memory)?;
        self.sealed.insert(position, memory.seal().await?);
        if position.is_multiple_of(TOLD_EVERY) {
            let report = self.packing.report();
            let documents = report.accounts.read();
            tracing::info!(position, documents, waiting_bytes = report.bytes, "sealed");
        }
        Ok(())
    }

    /// Answers every rank whose batch is there, or will never be.
    async fn grant(&mut self) -> Result<()> {
        for asking in std::mem::take(&mut self.asking) {
            let Asking { position, rank, responder } = asking;
            if self.end.is_some_and(|end| position >= end) {
                responder.reply(Grant::End);
            } else if let Some(object) = self.sealed.get(&position) {
                responder.reply(Grant::Batch(object.share().await?));
                self.ungranted = self.ungranted.max(position + 1);
            } else if position < self.ungranted {
                responder.fail(anyhow::anyhow!(
                    "batch {position} was dropped: all ranks had asked for later ones"
                ));
            } else {
                self.asking.push(Asking { position, rank, responder });
            }
        }
        // Who asks for a batch has mapped those before it.
        if let Some(slowest) =
            self.ranks.iter().copied().collect::<Option<Vec<u64>>>().and_then(|all| all.into_iter().min())
        {
            self.sealed = self.sealed.split_off(&slowest);
        }
        Ok(())
    }
}

impl Actor for PackerActor {
    type Role = Packer;
    /// What synthesizers are sending at a time. One record alone may be this large.
    const MAILBOX: Credits = Credits { count: 4096, bytes: 256 << 20 };

    async fn start(args: PackerArgs, _: &mut Context<Self>) -> Result<Self> {
        let run = args.settings.run_file()?;
        let records = RunDirectory::at(Path::new(&args.settings.directory)).records();
        let packing = Packing::open(&run, &records, args.settings.epoch, args.from_position)
            .with_context(|| format!("cannot open {}", records.display()))?;
        let report = packing.report();
        let (from, logged) = (args.from_position, report.logged);
        tracing::info!(
            epoch = args.settings.epoch,
            from,
            logged,
            sources = packing.sources(),
            "records and log are open"
        );
        let store = lyceum_cluster::worker::store()
            .context("the packer needs a node's store: it runs in a worker only")?
            .clone();
        Ok(Self {
            packing,
            store,
            reader: None,
            unsealed: None,
            sealed: BTreeMap::new(),
            asking: Vec::new(),
            attending: Vec::new(),
            ranks: vec![None; run.trainer.world_size as usize],
            ungranted: args.from_position,
            end: None,
            told: Vec::new(),
            settled: Vec::new(),
            converted: 0,
        })
    }
}

impl Handler<Attend> for PackerActor {
    async fn handle(&mut self, _: Incoming<Attend>, ctx: &mut Context<Self>) -> Result<()> {
        ctx.reply_later(|responder| self.attending.push(responder))
    }
}

impl Handler<Opened> for PackerActor {
    async fn handle(&mut self, _: Incoming<Opened>, _: &mut Context<Self>) -> Result<OpenedReport> {
        Ok(OpenedReport { sources: self.packing.recorded() })
    }
}

impl Handler<Attach> for PackerActor {
    async fn handle(&mut self, attach: Incoming<Attach>, ctx: &mut Context<Self>) -> Result<()> {
        self.reader = Some(attach.read()?.reader);
        self.ask_for_supply(ctx);
        self.go_on(ctx).await
    }
}

impl Handler<Stock> for PackerActor {
    async fn handle(&mut self, stock: Incoming<Stock>, ctx: &mut Context<Self>) -> Result<()> {
        let Supplied { records, ends, done } = stock.read()?.supplied;
        for record in records {
            if let Err(error) = self.packing.record(record) {
                return self.give_up(error.into());
            }
        }
        for (source, chains) in ends {
            tracing::info!(source, chains, "a source has ended");
            self.packing.end_source(source, chains);
        }
        self.go_on(ctx).await?;
        if !done {
            self.ask_for_supply(ctx);
        }
        Ok(())
    }
}

impl Handler<RoomFound> for PackerActor {
    async fn handle(&mut self, _: Incoming<RoomFound>, ctx: &mut Context<Self>) -> Result<()> {
        self.go_on(ctx).await
    }
}

impl Handler<Offer> for PackerActor {
    async fn handle(&mut self, offer: Incoming<Offer>, ctx: &mut Context<Self>) -> Result<()> {
        let Offer { record } = offer.read()?;
        let chain = record.chain;
        match self.packing.record(record) {
            Ok(new) => {
                self.converted += u64::from(new);
                self.settled.push(chain);
            }
            Err(error @ PackingError::BeyondHorizon { .. }) => return Err(error.into()),
            Err(error) => return self.give_up(error.into()),
        }
        self.go_on(ctx).await
    }
}

impl Handler<NextBatch> for PackerActor {
    async fn handle(&mut self, asked: Incoming<NextBatch>, ctx: &mut Context<Self>) -> Result<Grant> {
        let NextBatch { position, rank } = asked.read()?;
        let rank = rank as usize;
        let world_size = self.ranks.len();
        let place =
            self.ranks.get_mut(rank).with_context(|| format!("rank {rank} of {world_size}: no such rank"))?;
        *place = Some(position);
        let later = ctx.reply_later(|responder| self.asking.push(Asking { position, rank, responder }));
        self.go_on(ctx).await?;
        later
    }
}

impl Handler<Close> for PackerActor {
    async fn handle(&mut self, _: Incoming<Close>, _: &mut Context<Self>) -> Result<u64> {
        let end = self.end.map_or(self.ungranted, |end| end.min(self.ungranted));
        tracing::info!(end, "closed: no rank gets this batch or a later one");
        self.end = Some(end);
        self.grant().await?;
        Ok(end)
    }
}

impl Handler<AccountsBelow> for PackerActor {
    async fn handle(&mut self, asked: Incoming<AccountsBelow>, _: &mut Context<Self>) -> Result<Accounts> {
        Ok(self.packing.accounts_below(asked.read()?.position)?)
    }
}

impl Handler<PackerState> for PackerActor {
    async fn handle(&mut self, _: Incoming<PackerState>, _: &mut Context<Self>) -> Result<PackerReport> {
        let report = self.packing.report();
        Ok(PackerReport { ready: self.ahead() as u32, converted: self.converted, ..report })
    }
}
