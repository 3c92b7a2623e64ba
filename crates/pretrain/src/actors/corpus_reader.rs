//! The CorpusReader as an actor: the Packer asks it for raw chains, synthesizers lease the others. It waits for nobody.

use std::collections::{BTreeSet, VecDeque};

use lyceum_actor::{Actor, Context, Handler, Incoming, Responder, Result};

use crate::reader::{Reader, ReaderError};
use crate::roles::{
    Advance, Attend, CorpusReader, CorpusReaderArgs, LeaseChains, Leases, ReaderReport, ReaderState,
    ReleaseHolder, Supplied, Supply,
};

/// The actor; see the module.
pub struct CorpusReaderActor {
    reader: Reader,
    /// The Packer, when it waits for raw chains.
    supplying: Option<Responder<Supplied>>,
    /// Synthesizers that wait for chains: each asks once at a time.
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
    /// Answers who waits, as far as there are chains. An error ends the run: everybody who waits is told.
    fn go_on(&mut self) {
        if self.failed.is_some() {
            return;
        }
        if let Err(error) = self.lease().and_then(|()| self.supply()) {
            let reason = format!("the corpus cannot be read on: {error}");
            tracing::error!(%error, "the corpus cannot be read on");
            let told = |responder: Responder<()>| responder.fail(anyhow::anyhow!("{reason}"));
            self.attending.drain(..).for_each(told);
            if let Some(responder) = self.supplying.take() {
                responder.fail(anyhow::anyhow!("{reason}"));
            }
            for asking in self.asking.drain(..) {
                asking.responder.fail(anyhow::anyhow!("{reason}"));
            }
            self.failed = Some(reason);
        }
    }

    fn lease(&mut self) -> std::result::Result<(), ReaderError> {
        while let Some(asking) = self.asking.front() {
            let chains = self.reader.lease(asking.holder, asking.most)?;
            if chains.is_empty() && self.reader.work_left() {
                break;
            }
            if let Some(asking) = self.asking.pop_front() {
                asking.responder.reply(Leases { chains });
            }
        }
        Ok(())
    }

    fn supply(&mut self) -> std::result::Result<(), ReaderError> {
        let Some(responder) = self.supplying.take() else { return Ok(()) };
        let supplied = self.reader.supply()?;
        if supplied.records.is_empty() && supplied.ends.is_empty() && !supplied.done {
            self.supplying = Some(responder);
        } else {
            responder.reply(supplied);
        }
        Ok(())
    }

    /// What everybody is told once the corpus could not be read on.
    fn check(&self) -> Result<()> {
        match &self.failed {
            Some(reason) => anyhow::bail!("{reason}"),
            None => Ok(()),
        }
    }
}

impl Actor for CorpusReaderActor {
    type Role = CorpusReader;

    async fn start(args: CorpusReaderArgs, _: &mut Context<Self>) -> Result<Self> {
        let reader = Reader::open(&args.settings.run_file()?, args.recorded)?;
        Ok(Self {
            reader,
            supplying: None,
            asking: VecDeque::new(),
            gone: BTreeSet::new(),
            attending: Vec::new(),
            failed: None,
        })
    }
}

impl Handler<Attend> for CorpusReaderActor {
    async fn handle(&mut self, _: Incoming<Attend>, ctx: &mut Context<Self>) -> Result<()> {
        self.check()?;
        ctx.reply_later(|responder| self.attending.push(responder))
    }
}

impl Handler<Supply> for CorpusReaderActor {
    async fn handle(&mut self, _: Incoming<Supply>, ctx: &mut Context<Self>) -> Result<Supplied> {
        self.check()?;
        let later = ctx.reply_later(|responder| self.supplying = Some(responder));
        self.go_on();
        later
    }
}

impl Handler<LeaseChains> for CorpusReaderActor {
    async fn handle(&mut self, asked: Incoming<LeaseChains>, ctx: &mut Context<Self>) -> Result<Leases> {
        self.check()?;
        let LeaseChains { holder, most } = asked.read()?;
        anyhow::ensure!(!self.gone.contains(&holder), "synthesizer {holder} was taken for lost");
        let later = ctx.reply_later(|responder| {
            self.asking.push_back(Asking { holder, most: most as usize, responder });
        });
        self.go_on();
        later
    }
}

impl Handler<Advance> for CorpusReaderActor {
    async fn handle(&mut self, advance: Incoming<Advance>, _: &mut Context<Self>) -> Result<()> {
        let Advance { recorded, allowances } = advance.read()?;
        for chain in recorded {
            self.reader.recorded(chain);
        }
        self.reader.allow(&allowances);
        self.go_on();
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
        self.go_on();
        Ok(())
    }
}

impl Handler<ReaderState> for CorpusReaderActor {
    async fn handle(&mut self, _: Incoming<ReaderState>, _: &mut Context<Self>) -> Result<ReaderReport> {
        Ok(self.reader.report())
    }
}
