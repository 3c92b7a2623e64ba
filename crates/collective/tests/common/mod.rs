//! What the collective's tests share: gangs of threads on one or several pretended hosts.

#![allow(dead_code, reason = "each test program uses its part")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::LazyLock;
use std::time::Duration;

use half::bf16;
use lyceum_collective::*;
use lyceum_wire::{Authority, PeerIdentity, PeerRole};

/// A host that says nothing for this long is lost.
pub const SILENCE: Duration = Duration::from_secs(4);

/// Far beyond what any test takes.
pub const PATIENCE: Duration = Duration::from_secs(30);

static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| Authority::create("school").unwrap());

pub fn seat(node: &str, incarnation: u64) -> Seat {
    let identity = PeerIdentity::new("school", PeerRole::Worker, node, incarnation).unwrap();
    let credentials = AUTHORITY.issue(&identity, Duration::from_secs(3600)).unwrap();
    Seat::open(credentials, "127.0.0.1:0".parse().unwrap(), 0..0, SILENCE).unwrap()
}

/// A seat for each rank where there are several hosts.
pub fn seats(nodes: &[&str]) -> Vec<Option<Seat>> {
    let spans = nodes.iter().any(|node| *node != nodes[0]);
    nodes.iter().enumerate().map(|(rank, node)| spans.then(|| seat(node, rank as u64))).collect()
}

pub fn gang(epoch: u64, nodes: &[&str], seats: &[Option<Seat>]) -> Gang {
    let members = nodes.iter().zip(seats).enumerate().map(|(rank, (node, seat))| Member {
        node: (*node).into(),
        incarnation: rank as u64,
        addr: seat.as_ref().map(Seat::addr),
        device: None,
        trusted_interface: None,
    });
    Gang { epoch, members: members.collect(), token: Token::random().unwrap() }
}

/// Runs `body` on every rank of a new gang, each on a thread of its own, and gives what they return by rank.
pub fn on_ranks<T: Send>(nodes: &[&str], body: impl Fn(Box<dyn Communicator>) -> T + Sync) -> Vec<T> {
    let seats = seats(nodes);
    on_seats(&gang(1, nodes, &seats), &seats, body)
}

pub fn on_seats<T: Send>(
    gang: &Gang,
    seats: &[Option<Seat>],
    body: impl Fn(Box<dyn Communicator>) -> T + Sync,
) -> Vec<T> {
    attempt(gang, seats, |formed| body(formed.unwrap()))
}

/// As [`on_seats`], for ranks that may find the epoch over before they have formed it.
pub fn attempt<T: Send>(
    gang: &Gang,
    seats: &[Option<Seat>],
    body: impl Fn(Result<Box<dyn Communicator>, CollectiveError>) -> T + Sync,
) -> Vec<T> {
    std::thread::scope(|scope| {
        let body = &body;
        let start = |(rank, seat): (usize, &Option<Seat>)| {
            let seat = seat.clone();
            scope.spawn(move || body(form(gang, rank, seat.as_ref(), None, PATIENCE)))
        };
        let ranks: Vec<_> = seats.iter().enumerate().map(start).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Values whose sum depends on the order in which it is formed.
pub fn values(rank: usize, len: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9u32.wrapping_mul(rank as u32 + 1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    (0..len).map(|_| (next() as f32 / 2f32.powi(31) - 1.0) * 10f32.powi((next() % 9) as i32 - 4)).collect()
}

/// `((r0 + r1) + r2) + ..`, element by element.
pub fn sequential_sum(ranks: usize, len: usize) -> Vec<f32> {
    let mut sum = values(0, len);
    for rank in 1..ranks {
        sum.iter_mut().zip(values(rank, len)).for_each(|(sum, value)| *sum += value);
    }
    sum
}

/// The same of values rounded to bf16, formed in f32 and rounded once.
pub fn sequential_bf16_sum(ranks: usize, len: usize) -> Vec<bf16> {
    let wide = |rank| values(rank, len).into_iter().map(|v| bf16::from_f32(v).to_f32());
    let mut sum: Vec<f32> = wide(0).collect();
    for rank in 1..ranks {
        sum.iter_mut().zip(wide(rank)).for_each(|(sum, value)| *sum += value);
    }
    sum.into_iter().map(bf16::from_f32).collect()
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}
