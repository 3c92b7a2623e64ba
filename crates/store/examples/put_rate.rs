//! Prints how fast objects are put, opened, read on this machine: `cargo run -p lyceum-store --example put_rate`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use lyceum_store::{NodeStore, Result, StoreClient, StoreOptions, socket_pair};

const OBJECT: usize = 100 << 20;
const ROUNDS: usize = 12;

fn client(store: &NodeStore, holder: u64) -> Result<StoreClient> {
    let (agents_end, processes_end) = socket_pair()?;
    store.attach(holder, agents_end)?;
    StoreClient::attach(processes_end)
}

fn rate(what: &str, bytes: usize, mut times: Vec<Duration>) {
    let first = times.remove(0);
    times.sort_unstable();
    let median = times[times.len() / 2];
    let of = |time: Duration| bytes as f64 / time.as_secs_f64() / 1e9;
    println!("{what}: first {:.2} GB/s, then median {:.2}, best {:.2}", of(first), of(median), of(times[0]));
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    for prefault in [false, true] {
        let mut options = StoreOptions::new("here", 1, 3 * OBJECT as u64);
        options.prefault = prefault;
        let store = NodeStore::new(options)?;
        if prefault {
            std::thread::sleep(Duration::from_secs(2));
        }
        let (writer, reader) = (client(&store, 1)?, client(&store, 2)?);
        let source = vec![42u8; OBJECT];
        let (mut puts, mut reads) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            let object = writer.put(&source).await?;
            puts.push(begun.elapsed());
            let reference = object.share().await?;
            let begun = Instant::now();
            let opened = reader.open(&reference).await?;
            let words =
                opened.chunks_exact(8).map(|word| word.iter().fold(0u64, |sum, &b| sum << 8 | u64::from(b)));
            black_box(words.fold(0u64, u64::wrapping_add));
            reads.push(begun.elapsed());
        }
        rate(&format!("put 100 MiB (prefault {prefault})"), OBJECT, puts);
        rate(&format!("open and read 100 MiB (prefault {prefault})"), OBJECT, reads);

        let begun = Instant::now();
        const SMALL: u32 = 2000;
        for _ in 0..SMALL {
            drop(writer.create(70_000).await?.seal().await?);
        }
        println!("create, seal and drop 70 kB: {:?}", begun.elapsed() / SMALL);
        let object = writer.put(&source[..70_000]).await?;
        let begun = Instant::now();
        for _ in 0..SMALL {
            drop(reader.open(&object.share().await?).await?);
        }
        println!("share, open and drop: {:?}", begun.elapsed() / SMALL);
    }
    Ok(())
}
