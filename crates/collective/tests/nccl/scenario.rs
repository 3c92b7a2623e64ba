//! What the children play: gangs of threads, each on a "device" of its own.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::{Barrier, mpsc};
use std::time::Duration;

use cudarc::driver::result;
use lyceum_collective::*;

/// Far beyond what any scenario takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// In the environment of a rank that is a process of its own; its gang comes as a line.
pub const RANK: &str = "LYCEUM_NCCL_RANK";

/// Before what such a rank says.
pub const MARK: &str = "@@ ";

/// Below what a rank waits where it is to wait in vain.
const BRIEF: Duration = Duration::from_millis(300);

/// Plays the scenario of that name.
pub fn play(name: &str) {
    match name {
        "operations-of-two" => operations(2),
        "operations-of-three" => operations(3),
        "order" => order(),
        "alone" => alone(),
        "straggler" => straggler(),
        "stuck" => stuck(),
        "network" => network(),
        "abort" => abort(),
        "mismatch" => mismatch(),
        "misplaced" => misplaced(),
        "leaving" => leaving(),
        "one-process" => one_process(),
        "unjoined" => unjoined(),
        "unloaded" => unloaded(),
        other => panic!("no scenario {other}"),
    }
}

/// A gang on the devices of one host.
pub fn gang(world: usize) -> Gang {
    let members = (0..world).map(|rank| Member {
        node: "a".into(),
        incarnation: rank as u64,
        addr: None,
        device: Some(rank as u32),
        trusted_interface: None,
    });
    Gang { epoch: 1, members: members.collect(), token: Token::random().unwrap() }
}

/// The gang as a line of text.
pub fn to_line(gang: &Gang) -> String {
    let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(gang).unwrap();
    bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(",") + "\n"
}

fn from_line(line: &str) -> Gang {
    let bytes: Vec<u8> = line.trim().split(',').map(|byte| byte.parse().unwrap()).collect();
    rkyv::from_bytes::<Gang, rkyv::rancor::Error>(&bytes).unwrap()
}

/// "Device" memory: the host's, which the doubles work in.
fn memory(ordinal: usize) -> Allocator {
    Box::new(move |bytes| {
        let host = Buffer::host(bytes);
        let start = NonNull::new(host.as_ptr()).unwrap();
        // SAFETY: the host's buffer is given away by its keeper, and the double's device addresses are the host's.
        Ok(unsafe { Buffer::from_raw(host.keeper(), start, bytes, Location::Cuda(ordinal)) })
    })
}

fn floats(buffer: &mut Buffer) -> &mut [f32] {
    assert!(matches!(buffer.location(), Location::Cuda(_)));
    // SAFETY: the double's device memory is the host's, zeroed or written as floats, and not under way.
    unsafe { std::slice::from_raw_parts_mut(buffer.as_ptr().cast(), buffer.len() / 4) }
}

/// Forms a gang of threads and gives what `body` gives, by rank.
fn attempt<T: Send>(
    world: usize,
    timeout: Duration,
    body: impl Fn(usize, Result<Box<dyn Communicator>, CollectiveError>) -> T + Sync,
) -> Vec<T> {
    let gang = gang(world);
    std::thread::scope(|scope| {
        let start = |rank| {
            let (gang, body) = (&gang, &body);
            scope.spawn(move || body(rank, form(gang, rank, None, Some(memory(rank)), timeout)))
        };
        let ranks: Vec<_> = (0..world).map(start).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn on_ranks<T: Send>(world: usize, body: impl Fn(Box<dyn Communicator>) -> T + Sync) -> Vec<T> {
    attempt(world, PATIENCE, |_, formed| body(formed.unwrap()))
}

/// Puts `work` on the default stream of a device, where libtorch's would be.
fn on_default_stream(ordinal: usize, work: impl FnOnce() + Send + 'static) {
    unsafe extern "C" fn call(work: *mut c_void) {
        // SAFETY: the box given away below, which comes once.
        let work = unsafe { Box::from_raw(work.cast::<Box<dyn FnOnce() + Send>>()) };
        work();
    }
    let work: Box<dyn FnOnce() + Send> = Box::new(work);
    let device = result::device::get(ordinal as i32).unwrap();
    // SAFETY: the device is the driver's, and the box is given away once.
    unsafe {
        result::ctx::set_current(result::primary_ctx::retain(device).unwrap()).unwrap();
        let argument = Box::into_raw(Box::new(work)).cast();
        result::stream::launch_host_function(result::stream::null(), call, argument).unwrap();
    }
}

fn operations(world: usize) {
    on_ranks(world, |mut ranks| {
        let rank = ranks.rank();
        assert_eq!((ranks.world_size(), ranks.epoch()), (world, 1));
        let len = world * 1000;
        let value = |rank: usize, i: usize| (rank * 10 + i % 7) as f32;
        let sum = |i: usize| (0..world).map(|rank| value(rank, i)).sum::<f32>();
        // Twice, on the same memory: as a trainer's buckets.
        let mut buffer = ranks.allocate(len * 4).unwrap();
        let address = buffer.as_ptr();
        for _ in 0..2 {
            let mut run = |operation, mut buffer: Buffer| {
                floats(&mut buffer).iter_mut().enumerate().for_each(|(i, v)| *v = value(rank, i));
                ranks.run(operation, buffer, PATIENCE).unwrap()
            };
            buffer = run(Operation::AllReduce(Element::F32), buffer);
            assert!(floats(&mut buffer).iter().enumerate().all(|(i, v)| *v == sum(i)));
            buffer = run(Operation::ReduceScatter(Element::F32), buffer);
            let own = rank * 1000..(rank + 1) * 1000;
            assert!(own.clone().zip(&floats(&mut buffer)[own]).all(|(i, v)| *v == sum(i)));
            buffer = run(Operation::AllGather, buffer);
            assert!(floats(&mut buffer).iter().enumerate().all(|(i, v)| *v == value(i / 1000, i)));
            buffer = run(Operation::Broadcast { root: world - 1 }, buffer);
            assert!(floats(&mut buffer).iter().enumerate().all(|(i, v)| *v == value(world - 1, i)));
            ranks.barrier(PATIENCE).unwrap();
        }
        assert_eq!(buffer.as_ptr(), address);
        // Several under way at once.
        let pending: Vec<_> = (0..20)
            .map(|i| {
                let mut buffer = ranks.allocate(64).unwrap();
                floats(&mut buffer).fill((rank + i) as f32);
                ranks.start(Operation::AllReduce(Element::F32), buffer).unwrap()
            })
            .collect();
        for (i, pending) in pending.into_iter().enumerate() {
            let expected: usize = (0..world).map(|rank| rank + i).sum();
            let mut buffer = ranks.wait(pending, PATIENCE).unwrap();
            assert!(floats(&mut buffer).iter().all(|v| *v == expected as f32));
        }
    });
}

/// What is on the default stream is done before the operation, and the caller does not wait for either.
fn order() {
    on_ranks(2, |mut ranks| {
        let mut buffer = ranks.allocate(64).unwrap();
        floats(&mut buffer).fill(0.0);
        let (address, rank) = (buffer.as_ptr() as usize, ranks.rank());
        let (go, gate) = mpsc::channel::<()>();
        on_default_stream(rank, move || {
            gate.recv().unwrap();
            // SAFETY: the buffer lives until the operation that waits for this is done.
            let late = unsafe { std::slice::from_raw_parts_mut(address as *mut f32, 16) };
            late.fill((rank + 1) as f32);
        });
        let pending = ranks.start(Operation::AllReduce(Element::F32), buffer).unwrap();
        // Only now may the default stream go on: time enough for an operation that did not wait for it.
        std::thread::sleep(Duration::from_millis(50));
        go.send(()).unwrap();
        let mut buffer = ranks.wait(pending, PATIENCE).unwrap();
        assert!(floats(&mut buffer).iter().all(|v| *v == 3.0));
    });
}

fn alone() {
    on_ranks(1, |mut ranks| {
        let mut buffer = ranks.allocate(64).unwrap();
        floats(&mut buffer).fill(2.0);
        let mut buffer = ranks.run(Operation::ReduceScatter(Element::F32), buffer, PATIENCE).unwrap();
        assert!(floats(&mut buffer).iter().all(|v| *v == 2.0));
        ranks.barrier(PATIENCE).unwrap();
    });
}

/// Every rank but the last starts an operation and waits; the last never comes.
fn straggler() {
    let both_have_started = Barrier::new(2);
    let seen = on_ranks(3, |mut ranks| {
        let buffer = ranks.allocate(64).unwrap();
        if ranks.rank() == 2 {
            loop {
                std::thread::sleep(Duration::from_millis(10));
                if let Err(error) = ranks.allocate(8) {
                    return error;
                }
            }
        }
        let pending = ranks.start(Operation::AllReduce(Element::F32), buffer).unwrap();
        both_have_started.wait();
        ranks.wait(pending, BRIEF).unwrap_err()
    });
    for error in seen {
        assert!(matches!(error, CollectiveError::Deadline { rank: 2, .. }), "{error}");
        assert!(error.to_string().contains("did not finish the all-reduce of f32"), "{error}");
    }
}

/// Everybody has come, and the device does not finish.
fn stuck() {
    let both_have_started = Barrier::new(2);
    let seen = on_ranks(2, |mut ranks| {
        let buffer = ranks.allocate(64).unwrap();
        let pending = ranks.start(Operation::AllGather, buffer).unwrap();
        both_have_started.wait();
        let error = ranks.wait(pending, BRIEF).unwrap_err();
        assert_eq!(ranks.barrier(PATIENCE).unwrap_err(), error, "the first failure stands");
        error
    });
    assert!(seen.iter().all(|error| matches!(error, CollectiveError::Deadline { .. })), "{seen:?}");
}

fn network() {
    let seen = on_ranks(2, |mut ranks| {
        let buffer = ranks.allocate(64).unwrap();
        let pending = ranks.start(Operation::AllGather, buffer).unwrap();
        ranks.wait(pending, PATIENCE).unwrap_err()
    });
    for error in seen {
        assert_eq!(error.rank(), 1, "{error}");
        let error = error.to_string();
        assert!(error.contains("network error (the double's cable is cut)"), "{error}");
    }
}

fn abort() {
    let all_have_started = Barrier::new(2);
    let seen = on_ranks(2, |mut ranks| {
        let buffer = ranks.allocate(64).unwrap();
        let pending = ranks.start(Operation::AllGather, buffer).unwrap();
        all_have_started.wait();
        if ranks.rank() == 0 {
            let handle = ranks.abort_handle();
            std::thread::spawn(move || handle.abort("the loss is not a number")).join().unwrap();
        }
        ranks.wait(pending, PATIENCE).unwrap_err()
    });
    for error in seen {
        assert_eq!(error.to_string(), "rank 0 aborted epoch 1: the loss is not a number");
    }
}

fn mismatch() {
    let seen = on_ranks(2, |mut ranks| {
        let buffer = ranks.allocate(64).unwrap();
        let operation = match ranks.rank() {
            0 => Operation::AllReduce(Element::F32),
            _ => Operation::AllGather,
        };
        ranks.run(operation, buffer, PATIENCE).unwrap_err().to_string()
    });
    for error in seen {
        assert!(error.contains("all-reduce of f32 on 64 bytes"), "{error}");
        assert!(error.contains("all-gather on 64 bytes"), "{error}");
    }
}

fn misplaced() {
    on_ranks(2, |mut ranks| {
        let error = ranks.start(Operation::AllGather, Buffer::host(64)).unwrap_err().to_string();
        let rank = ranks.rank();
        let expected = format!(
            "rank {rank} called all-gather on a buffer in host memory: \
             this communicator takes those on CUDA device {rank}"
        );
        assert_eq!(error, expected);
        let elsewhere = memory(5)(64).unwrap();
        let error = ranks.start(Operation::AllGather, elsewhere).unwrap_err().to_string();
        assert!(error.contains("on a buffer on CUDA device 5"), "{error}");
        ranks.barrier(PATIENCE).expect("a refusal does not end the epoch");
    });
}

/// A rank as a process of its own, in an operation that does not end of itself. Says how it ended.
fn one_process() {
    let rank: usize = std::env::var(RANK).unwrap().parse().unwrap();
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let mut ranks = form(&from_line(&line), rank, None, Some(memory(rank)), PATIENCE).unwrap();
    let buffer = ranks.allocate(64).unwrap();
    let pending = ranks.start(Operation::AllGather, buffer).unwrap();
    let error = ranks.wait(pending, PATIENCE).unwrap_err();
    println!("{MARK}{error}");
}

/// One rank goes while its operation is under way.
fn leaving() {
    let all_have_started = Barrier::new(2);
    let seen = on_ranks(2, |mut ranks| {
        let buffer = ranks.allocate(64).unwrap();
        let pending = ranks.start(Operation::AllGather, buffer).unwrap();
        all_have_started.wait();
        if ranks.rank() == 1 {
            return None;
        }
        Some(ranks.wait(pending, PATIENCE).unwrap_err())
    });
    let error = seen[0].as_ref().unwrap();
    assert_eq!(error.to_string(), "rank 1 aborted epoch 1: it left with operations under way");
}

fn unjoined() {
    let seen = attempt(2, Duration::from_secs(3), |_, formed| formed.err().unwrap());
    for error in seen {
        assert!(matches!(error, CollectiveError::Deadline { .. }), "{error}");
        assert!(error.to_string().contains("joining of NCCL"), "{error}");
    }
}

/// NCCL is not what is needed: all ranks are told at once.
fn unloaded() {
    let seen = attempt(2, PATIENCE, |_, formed| formed.err().unwrap().to_string());
    for error in seen {
        assert!(error.contains("could not load NCCL"), "{error}");
        println!("{error}");
    }
}
