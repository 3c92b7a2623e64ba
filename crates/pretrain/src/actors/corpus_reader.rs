//! The CorpusReader as an actor: raw chains are pushed to the Packer, the others wait to be leased.

use std::collections::{BTreeSet, VecDeque};

use lyceum_actor::{Actor, ActorRef, Context, Handler, Incoming, Responder, Result};

use crate::reader::{Output, Reader, ReaderError};
use crate::roles::{
    Attend, CorpusReader, CorpusReaderArgs, Extend, LeaseChains, Leases, Offer, Packer, ReaderReport,
    ReaderState, Recorded, ReleaseHolder, SourceEnd,
};

/// The actor; see the module.
pub struct CorpusReaderActor {
    reader: Reader,
    packer: ActorRef<Packer>,
    asking: VecDeque<Asking>,
    /// Holders that are released: what they asked before their end may arrive after it.
    gone: BTreeSet<u64>,
    attending: Vec<Responder<()>>,
    failed: Option<String>,
}

/// A synthesizer that waits for chains.
struct Asking {
    holder: u64,
    most: usize,
    responder: Responder<Leases>,
}

impl CorpusReaderActor {
    /// Offers what may be offered and hands out what was asked for.
    async fn go_on(&mut self) {
        while self.failed.is_none() {
            match self.reader.next_output() {
                Ok(None) => break,
                Ok(Some(Output::Offer(record))) => self.push(self.packer.tell(Offer { record }).await),
                Ok(Some(Output::End { source, chains })) => {
                    self.push(self.packer.tell(SourceEnd { source, chains }).await);
                }
                Err(error) => self.fail(&error),
            }
        }
        while let Some(asking) = self.asking.front() {
            let chains = self.reader.lease(asking.holder, asking.most);
            if chains.is_empty() && self.reader.work_left() && self.failed.is_none() {
                break;
            }
            if let Some(asking) = self.asking.pop_front() {
                asking.responder.reply(Leases { chains });
            }
        }
    }

    /// A Packer that takes nothing any more is told of by its own death; here the reader only stops.
    fn push<M>(&mut self, sent: std::result::Result<(), lyceum_actor::CallError<M>>) {
        if let Err(error) = sent {
            self.failed = Some(format!("the packer takes nothing any more: {error}"));
        }
    }

    fn fail(&mut self, error: &ReaderError) {
        let reason = error.to_string();
        for responder in self.attending.drain(..) {
            responder.fail(anyhow::anyhow!("the corpus cannot be read on: {reason}"));
        }
        self.failed = Some(reason);
    }
}

impl Actor for CorpusReaderActor {
    type Role = CorpusReader;

    async fn start(args: CorpusReaderArgs, _: &mut Context<Self>) -> Result<Self> {
        let reader = Reader::open(&args.settings.run_file()?, args.recorded)?;
        Ok(Self {
            reader,
            packer: args.packer,
            asking: VecDeque::new(),
            gone: BTreeSet::new(),
            attending: Vec::new(),
            failed: None,
        })
    }
}

impl Handler<Attend> for CorpusReaderActor {
    async fn handle(&mut self, _: Incoming<Attend>, ctx: &mut Context<Self>) -> Result<()> {
        if let Some(reason) = &self.failed {
            anyhow::bail!("the corpus cannot be read on: {reason}");
        }
        let later = ctx.reply_later(|responder| self.attending.push(responder));
        self.go_on().await;
        later
    }
}

impl Handler<LeaseChains> for CorpusReaderActor {
    async fn handle(&mut self, asked: Incoming<LeaseChains>, ctx: &mut Context<Self>) -> Result<Leases> {
        let LeaseChains { holder, most } = asked.read()?;
        anyhow::ensure!(!self.gone.contains(&holder), "synthesizer {holder} was taken for lost");
        let later = ctx.reply_later(|responder| {
            self.asking.push_back(Asking { holder, most: most as usize, responder });
        });
        self.go_on().await;
        later
    }
}

impl Handler<Recorded> for CorpusReaderActor {
    async fn handle(&mut self, recorded: Incoming<Recorded>, _: &mut Context<Self>) -> Result<()> {
        self.reader.recorded(recorded.read()?.chain);
        self.go_on().await;
        Ok(())
    }
}

impl Handler<Extend> for CorpusReaderActor {
    async fn handle(&mut self, extend: Incoming<Extend>, _: &mut Context<Self>) -> Result<()> {
        for (source, horizon) in (0..).zip(extend.read()?.horizons) {
            self.reader.extend(source, horizon);
        }
        self.go_on().await;
        Ok(())
    }
}

impl Handler<ReleaseHolder> for CorpusReaderActor {
    async fn handle(&mut self, gone: Incoming<ReleaseHolder>, _: &mut Context<Self>) -> Result<()> {
        let ReleaseHolder { holder } = gone.read()?;
        self.gone.insert(holder);
        self.asking.retain(|asking| asking.holder != holder);
        let released = self.reader.release(holder);
        tracing::info!(holder, released, "a synthesizer is gone: its chains go to others");
        self.go_on().await;
        Ok(())
    }
}

impl Handler<ReaderState> for CorpusReaderActor {
    async fn handle(&mut self, _: Incoming<ReaderState>, _: &mut Context<Self>) -> Result<ReaderReport> {
        Ok(self.reader.report())
    }
}
