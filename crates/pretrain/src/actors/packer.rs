//! The Packer as an actor: chains come in, sealed batches go out, and nobody gets ahead of the log.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use anyhow::Context as _;
use lyceum_actor::{Actor, ActorRef, Context, Handler, Incoming, Responder, Result};
use lyceum_corpus::assembly::Next;
use lyceum_corpus::batch;
use lyceum_corpus::chain::{Accounts, ChainRecord};
use lyceum_corpus::pack::BatchPlan;
use lyceum_store::{Object, StoreClient};

use crate::packing::{Packing, PackingError};
use crate::roles::{
    AccountsBelow, Attach, Attend, Close, CorpusReader, Extend, Grant, NextBatch, Offer, Opened,
    OpenedReport, Packer, PackerArgs, PackerReport, PackerState, Recorded, SourceEnd,
};
use crate::run_directory::RunDirectory;

/// Batches that are sealed before anybody asks for them (L2).
const SEALED_AHEAD: u64 = 2;

/// The actor; see the module.
pub struct PackerActor {
    packing: Packing,
    store: StoreClient,
    reader: Option<ActorRef<CorpusReader>>,
    /// Sealed batches that some rank may still ask for.
    sealed: BTreeMap<u64, Object>,
    /// Chains for which there was no room yet: at most what the horizons allow (L2).
    offered: VecDeque<(ChainRecord, Responder<()>)>,
    asking: Vec<Asking>,
    attending: Vec<Responder<()>>,
    /// For each rank, the batch it asked for last.
    ranks: Vec<Option<u64>>,
    /// First batch that no rank was granted.
    ungranted: u64,
    /// First batch that does not exist.
    end: Option<u64>,
    told: Vec<u64>,
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
    async fn go_on(&mut self) -> Result<()> {
        let result = self.try_go_on().await;
        if let Err(error) = &result {
            for responder in self.attending.drain(..) {
                responder.fail(anyhow::anyhow!("no batch can be made: {error:#}"));
            }
        }
        result
    }

    async fn try_go_on(&mut self) -> Result<()> {
        self.take_in().await?;
        while self.end.is_none() && self.ahead() < SEALED_AHEAD {
            match self.packing.next_batch()? {
                Next::Batch(position, plan) => {
                    let object = self.seal(position, &plan).await?;
                    self.sealed.insert(position, object);
                    self.take_in().await?;
                }
                Next::Waits(_) => break,
                Next::Ended => {
                    self.end = Some(self.sealed.last_key_value().map_or(self.ungranted, |(last, _)| last + 1))
                }
            }
        }
        self.grant().await?;
        let horizons: Vec<u64> =
            (0..self.packing.sources()).map(|source| self.packing.horizon(source)).collect();
        if let Some(reader) = &self.reader
            && self.told != horizons
        {
            reader.tell(Extend { horizons: horizons.clone() }).await?;
            self.told = horizons;
        }
        Ok(())
    }

    /// Records what was offered, as far as there is room.
    async fn take_in(&mut self) -> Result<()> {
        for (record, responder) in std::mem::take(&mut self.offered) {
            let chain = record.chain;
            match self.packing.offer(record) {
                Ok(None) => {
                    if let Some(reader) = &self.reader {
                        reader.tell(Recorded { chain }).await?;
                    }
                    responder.reply(());
                }
                Ok(Some(record)) => self.offered.push_back((record, responder)),
                Err(error @ PackingError::BeyondHorizon { .. }) => responder.fail(error),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Sealed batches that no rank was granted yet.
    fn ahead(&self) -> u64 {
        self.sealed.range(self.ungranted..).count() as u64
    }

    /// Writes the batch straight into the store (L4).
    async fn seal(&self, position: u64, plan: &BatchPlan) -> Result<Object> {
        let mut memory = self.store.create(batch::encoded_len(plan)?).await?;
        batch::write(plan, position, &mut memory)?;
        Ok(memory.seal().await?)
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

    async fn start(args: PackerArgs, _: &mut Context<Self>) -> Result<Self> {
        let run = args.settings.run_file()?;
        let records = RunDirectory::at(Path::new(&args.settings.directory)).records();
        let packing = Packing::open(&run, &records, args.settings.epoch, args.from_position)
            .with_context(|| format!("cannot open {}", records.display()))?;
        let store = lyceum_cluster::worker::store()
            .context("the packer needs a node's store: it runs in a worker only")?
            .clone();
        Ok(Self {
            packing,
            store,
            reader: None,
            sealed: BTreeMap::new(),
            offered: VecDeque::new(),
            asking: Vec::new(),
            attending: Vec::new(),
            ranks: vec![None; run.trainer.world_size as usize],
            ungranted: args.from_position,
            end: None,
            told: Vec::new(),
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
    async fn handle(&mut self, attach: Incoming<Attach>, _: &mut Context<Self>) -> Result<()> {
        self.reader = Some(attach.read()?.reader);
        self.go_on().await
    }
}

impl Handler<Offer> for PackerActor {
    async fn handle(&mut self, offer: Incoming<Offer>, ctx: &mut Context<Self>) -> Result<()> {
        let Offer { record } = offer.read()?;
        let later = ctx.reply_later(|responder| self.offered.push_back((record, responder)));
        self.go_on().await?;
        later
    }
}

impl Handler<SourceEnd> for PackerActor {
    async fn handle(&mut self, end: Incoming<SourceEnd>, _: &mut Context<Self>) -> Result<()> {
        let SourceEnd { source, chains } = end.read()?;
        self.packing.end_source(source, chains);
        self.go_on().await
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
        self.go_on().await?;
        later
    }
}

impl Handler<Close> for PackerActor {
    async fn handle(&mut self, _: Incoming<Close>, _: &mut Context<Self>) -> Result<u64> {
        let end = self.end.map_or(self.ungranted, |end| end.min(self.ungranted));
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
        Ok(PackerReport { ready: self.ahead() as u32, ..self.packing.report() })
    }
}
